"""The command `fmnist`: what the Makefile calls, and what a user may call by hand.

Modules come as attributes of `fmnist`, which imports one when it is first used, so that `fmnist --help` is quick.
"""

import os
import signal
import sys
from functools import partial
from pathlib import Path

import click
from pydantic import ByteSize, TypeAdapter, ValidationError

import fmnist as fm
from fmnist.config import FASHION, UserError, located, nearest, project_root

say = partial(click.echo, err=True)


def main(arguments: list[str] | None = None) -> int:
    """0: it worked; 1: a paper has gaps, a number fails or a run is damaged; 2: a mistake; 130: interrupted."""
    try:
        return commands.main(arguments, "fmnist", standalone_mode=False) or 0
    except (UserError, OSError) as error:  # such as a full disk
        say(f"fmnist: {located(str(error))}")
        return 2
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        say("fmnist: interrupted; finished runs are kept, the same command goes on from there")
        return 130


def _bytes(_context: click.Context, _option: click.Parameter, text: str | None) -> int | None:
    try:
        return text and TypeAdapter(ByteSize).validate_python(text)
    except ValidationError:
        raise UserError(f"--memory {text}: not a size; write it as 4GB or 800MB") from None


def _agreed(_context: click.Context, _option: click.Parameter, yes: bool) -> None:
    if yes:
        os.environ["FMNIST_YES"] = "1"  # asked for where training begins


device = click.option("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps")
memory = click.option("--memory", callback=_bytes, metavar="SIZE", help="most that training may take: 4GB or 800MB")
yes = click.option("--yes", is_flag=True, expose_value=False, callback=_agreed, help="train even what takes days")
cluster = click.option("--cluster", default="", metavar="WHERE", help="tcp://… of a Dask scheduler, or a YAML of jobs")
path = click.argument("path", type=Path)


@click.group()
def commands() -> None:
    """Hyperparameter studies of small networks, to a paper."""


@commands.command()
@click.argument("names", nargs=-1)
@device
@memory
@yes
@cluster
@click.option("--keep-going", is_flag=True, help="where a notebook fails, leave a marked gap")
def report(names: tuple[str, ...], device: str, memory: int | None, cluster: str, keep_going: bool) -> int:
    """Train, execute the notebooks and write report/NAME.html, .pdf and .json for folders of params/ (homework)."""
    return int(fm.reports.build(names or ("homework",), device, memory, keep_going, say, cluster))


@commands.command()
@click.argument("name")
@click.option("--title", prompt=True, help="of the paper (asked for where left out)")
@click.option("--author", prompt=True, help="your name (asked for where left out)")
def new(name: str, title: str, author: str) -> None:
    """Make params/NAME, a report of your own to edit, which make report REPORT=NAME takes."""
    fm.reports.new(name, title, author)
    say(f"wrote the YAML files of params/{name}; edit them, then: make report REPORT={name}")


@commands.command()
@path
@click.option("--sample", default=5, type=click.IntRange(1), show_default=True, help="how many runs")
@click.option("--seed", default=0, type=click.IntRange(0), show_default=True, help="another one draws another sample")
@device
def verify(path: Path, sample: int, seed: int, device: str) -> int:
    """Train a sample of the runs behind report/NAME.json again and say whether its numbers hold."""
    return int(not fm.verify.verify(path, sample, seed, device, print))


@commands.command()
@path
@device
@memory
@yes
@cluster
def train(path: Path, device: str, memory: int | None, cluster: str) -> None:
    """Train what is missing of params/NAME or params/NAME/NOTEBOOK.yaml and print the summary table."""
    file = (path if path.suffix == ".yaml" else path / "report.yaml").resolve()
    if file.parents[1] != project_root() / "params":
        raise UserError(f"{path}: not a report of this project; they are in {project_root() / 'params'}")
    report, only = fm.reports.Report(file.parent.name, device, cluster), file.stem if file.name != "report.yaml" else ""
    if only and only not in report.trained:
        raise UserError(f"{path}: no study of this report{nearest(only, list(report.trained))}")
    report.train(memory, say, only)
    for name, study in {name: report.later.get(name, study) for name, study in report.trained.items()}.items():
        if only in ("", name):
            print(f"\n{name}\n{fm.tables.summary_table(study.runs()).printed.to_string(index=False)}")


@commands.command()
@click.argument("image", type=Path)
@click.option("--run", default="", metavar="ID", help="of the network; left out: the best on validation in the store")
def predict(image: Path, run: str) -> None:
    """Print what a trained network sees in a picture of any size, dark on light or light on dark."""
    print("\n".join(fm.use.predict(image, run)))


@commands.command()
@click.argument("run")
def card(run: str) -> None:
    """Print the model card of the run with this id, in Markdown."""
    print(fm.use.card(run))


@commands.command()
def results() -> None:
    """Print one row per finished run; `export csv` has all that is known of them."""
    columns = ["run_id", "hidden_sizes", "optimizer", "lr", "seed", "epochs", "val_accuracy", "test_accuracy"]
    text = fm.store.results()[columns].round(4).astype(str)
    parts = [[name, *text[name].to_list()] for name in text]
    wide = [[cell.rjust(width) for cell in part] for part in parts for width in [max(map(len, part))]]
    print("\n".join(map(" ".join, zip(*wide, strict=True))))  # to_string takes seconds for many runs


@commands.group()
def store() -> None:
    """Look after the finished runs."""


@store.command()
def check() -> int:
    """Compare every file with its checksum, and set damaged runs aside."""
    whole, damaged = fm.store.check()
    print(f"{whole:,} runs are whole, {damaged:,} are damaged")
    return int(damaged > 0)


@store.command()
def gc() -> None:
    """Remove what killed processes left half-written, and damaged runs that were set aside."""
    print(f"removed {fm.store.clean(everything=True):,} leftovers")


@commands.command()
@click.argument("form", type=click.Choice(["csv", "tensorboard"]))
@click.argument("folder", metavar="DIR", type=Path)
def export(form: str, folder: Path) -> None:
    """Write the finished runs for other tools into DIR, a new folder."""
    fm.store.export(form, folder)


@commands.command()
@click.argument("dataset", default=FASHION)
def data(dataset: str) -> None:
    """Find or fetch FashionMNIST, MNIST or KMNIST and say where it is."""
    print(fm.data.find(dataset)[0])


def run() -> None:
    """The command as a process, which Ctrl-C does not interrupt once its work is done."""
    code = main()
    exec("")  # clears what CPython, run by -m, keeps of an interrupt in an `exec`, such as a dataclass's: it dies by it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)


if __name__ == "__main__":
    run()
