"""The command `fmnist`: what the Makefile calls, and what a user may call by hand.

A command imports what it needs when it runs, so that `fmnist --help` is quick.
"""

import sys
from pathlib import Path

import click

from fmnist.config import FASHION, UserError, nearest, project_root


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; 0 if it worked, 1 if a paper has gaps or a number does not hold, 2 for a mistake of the
    user's, said in one line, 130 when interrupted.
    """
    try:
        return commands.main(arguments, "fmnist", standalone_mode=False) or 0
    except UserError as error:
        _say(f"fmnist: {error}")
        return 2
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _say("fmnist: interrupted; finished runs are kept, the same command goes on from there")
        return 130


@click.group()
def commands() -> None:
    """Hyperparameter studies of small networks, to a paper."""


device = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps")
memory = click.option(
    "--memory", help="the most that training may take, as 4GB or 800MB  [default: most of what is free]"
)


@commands.command()
@click.argument("names", nargs=-1)
@device
@memory
@click.option("--keep-going", is_flag=True, help="where a notebook fails, leave a marked gap")
def report(names: tuple[str, ...], device: str, memory: str | None, keep_going: bool) -> int:
    """Train, execute the notebooks and write report/NAME.html, .pdf and .json for folders of params/ (homework)."""
    from fmnist.paper.report import build

    return int(build(names or ("homework",), _device(device), _bytes(memory), keep_going, _say))


@commands.command()
@click.argument("name")
@click.option("--title", help="of the paper (asked for where left out)")
@click.option("--author", help="your name (asked for where left out)")
def new(name: str, title: str | None, author: str | None) -> None:
    """Make params/NAME, a report of your own to edit, which make report REPORT=NAME takes."""
    from fmnist.paper.report import new

    folder = new(name, _asked("title", title), _asked("author", author))
    for path in sorted(folder.iterdir()):
        _say(f"wrote params/{folder.name}/{path.name}")
    _say(f"edit them, then: make report REPORT={folder.name}")


@commands.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--sample", default=5, type=click.IntRange(1), show_default=True, help="how many runs")
@click.option("--seed", default=0, type=click.IntRange(0), show_default=True, help="of the sample")
@device
def verify(path: Path, sample: int, seed: int, device: str) -> int:
    """Train a sample of the runs behind report/NAME.json again and say whether its numbers hold."""
    from fmnist.paper.verify import verify

    return int(not verify(path, sample, seed, _device(device), print))


@commands.command()
@click.argument("path", type=click.Path(path_type=Path))
@device
@memory
def train(path: Path, device: str, memory: str | None) -> None:
    """Train what is missing of params/NAME or params/NAME/NOTEBOOK.yaml and print the summary table."""
    from fmnist.study import train
    from fmnist.tables import summary_table

    device, limit = _device(device), _bytes(memory)
    studies = _studies(path, device)
    train([config for study in studies.values() for config in study.configs], device, limit)
    for name, study in studies.items():
        print(f"\n{name}\n{summary_table(study.run(device, limit).runs()).printed.to_string(index=False)}")


@commands.command()
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
def results(form: str) -> None:
    """Print one row per finished run."""
    from fmnist.store import results

    table = results()
    if form == "csv":
        print(table.to_csv(index=False), end="")
    elif form == "json":
        print(table.to_json(orient="records", indent=1))
    else:
        config = ["run_id", "hidden_sizes", "optimizer", "lr", "seed", "epochs"]
        shown = table[[*config, "val_accuracy", "test_accuracy", "diverged"]]
        print(shown.to_string(index=False) if len(shown) else "no finished runs yet")


@commands.command()
@click.argument("form", type=click.Choice(["csv", "tensorboard"]))
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def export(form: str, folder: Path) -> None:
    """Write the finished runs for other tools into DIR, a new folder."""
    from fmnist.store import export

    export(form, folder)
    _say(f"wrote all finished runs into {folder}")


@commands.command()
@click.argument("dataset", default=FASHION)
def data(dataset: str) -> None:
    """Find or fetch FashionMNIST, MNIST or KMNIST and say where it is."""
    from fmnist.data import locate

    print(locate(dataset))


def _studies(path: Path, device: str) -> dict:
    """The studies of a report's folder, or the one of a file in it, by notebook."""
    from fmnist.paper.report import Report

    single = path.suffix == ".yaml"
    folder = path.parent if single else path
    if folder.is_dir() and folder.resolve().parent != project_root() / "params":
        raise UserError(f"{path}: not a report of this project; they are in {project_root() / 'params'}")
    report = Report(folder.resolve().name if folder.is_dir() else str(folder).removeprefix("params/"), device)
    if not single or path.stem == "report":
        return report.trained
    if path.stem not in report.trained:
        raise UserError(f"{path}: no study of this report{nearest(path.stem, list(report.trained))}")
    return {path.stem: report.trained[path.stem]}


def _device(name: str) -> str:
    from fmnist.engine.workers import resolve_device

    return str(resolve_device(name))


def _bytes(text: str | None) -> int | None:
    """ "4GB", "800 MB", "1.5GiB" → bytes; None stays None."""
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return None if text is None else int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise UserError(f"--memory {text}: not a size; write it as 4GB or 800MB") from None


def _asked(what: str, given: str | None) -> str:
    if given is None and sys.stdin.isatty():
        given = click.prompt(what.capitalize())
    if not (given or "").strip():
        raise UserError(f'--{what} is missing: fmnist new mine --title "Homework 1" --author "Your Name"')
    return " ".join(given.split())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
