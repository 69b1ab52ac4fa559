"""The command `fmnist`: what the Makefile calls, and what a user may call by hand."""

import argparse
import sys
import time
from pathlib import Path

from pydantic import ByteSize, TypeAdapter, ValidationError

from fmnist.config import FASHION, UserError, nearest, project_root, validate_field


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; 0 if it worked, 1 if a paper has gaps or a number does not hold, 2 for a mistake of the
    user's, said in one line, 130 when interrupted.
    """
    options = _parser().parse_args(arguments)
    try:
        return options.call(options) or 0
    except UserError as error:
        print(f"fmnist: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fmnist: interrupted; finished runs are kept, the same command goes on from there", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fmnist", description="Hyperparameter studies of small networks, to a paper.")
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, call, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(call=call)
        return sub

    report = command("report", _report, "train, execute the notebooks and write report/NAME.html, .pdf and .json")
    report.add_argument("names", nargs="*", default=["homework"], help="folders of params/ (default: homework)")
    report.add_argument("--keep-going", action="store_true", help="where a notebook fails, leave a marked gap")
    fresh = command("new", _new, "make a folder of parameters for a report of your own")
    fresh.add_argument("name", help="params/NAME is made, and NAME is what make report REPORT=NAME takes")
    fresh.add_argument("--title", help="of the paper (asked for where left out)")
    fresh.add_argument("--author", help="your name (asked for where left out)")
    verify = command("verify", _verify, "train a sample of a report's runs again and say whether its numbers hold")
    verify.add_argument("path", type=Path, help="report/NAME.json")
    verify.add_argument("--sample", type=int, default=5, help="how many runs (default: 5)")
    verify.add_argument("--seed", type=int, default=0, help="of the sample, which is the same each time (default: 0)")
    verify.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: auto)")
    train = command("train", _train, "train what is missing and print the summary table")
    train.add_argument("path", help="params/NAME or params/NAME/NOTEBOOK.yaml")
    for sub in (report, train):
        sub.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: auto)")
        sub.add_argument(
            "--memory", help="the most that training may take, as 4GB or 800MB (default: most of what is free)"
        )
    results = command("results", _results, "one row per finished run")
    results.add_argument("--format", choices=["table", "csv", "json"], default="table")
    export = command("export", _export, "write the finished runs for other tools")
    export.add_argument("form", choices=["csv", "tensorboard", "mlflow"])
    export.add_argument("folder", type=Path, metavar="DIR", help="a folder that is new or empty")
    data = command("data", _data, "find or fetch a data set and say where it is")
    data.add_argument("dataset", nargs="?", default=FASHION, help="FashionMNIST, MNIST or KMNIST (default: the first)")
    return parser


def _report(options: argparse.Namespace) -> int:
    from fmnist.paper.failure import gaps
    from fmnist.paper.report import Report

    device, memory, incomplete = _device(options.device), _bytes(options.memory), False
    reports = [Report(name, device) for name in options.names]  # a mistake in any shows before training
    for report in reports:
        report.check_prose()
    for number, report in enumerate(reports, 1):
        start = time.perf_counter()
        if len(reports) > 1:
            _say(f"report {number} of {len(reports)}: {report.name}")
        _check_writable(report.built)
        _train_all(report.configs, device, memory)
        _say(f"executing {len(report.chapters)} notebooks")
        executed = report.execute(lambda done, total, name: _say(f"  {done} of {total}: {name}"), options.keep_going)
        for name, why in gaps(executed).items():
            incomplete = True
            page = (report.built / name).with_suffix(".html")
            _say(f"notebook {name} failed, and the paper has a gap: {why}{f'; see {page}' * page.exists()}")
        for path in report.render(report.merge(executed)):
            _say(f"wrote {path.relative_to(project_root())} ({path.stat().st_size / 1e6:.1f} MB)")
        _say(f"{report.name}: {time.perf_counter() - start:.0f} s")
    return int(incomplete)


def _new(options: argparse.Namespace) -> None:
    from fmnist.paper.new import new

    folder = new(options.name, options.title, options.author)
    for path in sorted(folder.iterdir()):
        _say(f"wrote params/{folder.name}/{path.name}")
    _say(f"edit them, then: make report REPORT={folder.name}")


def _verify(options: argparse.Namespace) -> int:
    from fmnist.paper.verify import read, verify

    about = read(options.path)
    return int(not verify(about, options.sample, options.seed, _device(options.device), print))


def _train(options: argparse.Namespace) -> None:
    from fmnist.tables import summary_table

    device, memory = _device(options.device), _bytes(options.memory)
    studies = _studies(options.path, device)
    _train_all(_configs(studies), device, memory)
    for name, study in studies.items():
        print(f"\n{name}\n{summary_table(study.runs()).to_string(index=False)}")


def _studies(given: str, device: str) -> dict:
    """The studies of a report's folder, or the one of a file in it, by name."""
    from fmnist.paper.report import Report

    path = Path(given)
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


def _configs(studies: dict) -> list:
    return list({config.run_id: config for study in studies.values() for config in study.configs}.values())


def _bytes(text: str | None) -> int | None:
    """ "4GB", "800 MB", "1.5GiB" → bytes; None stays None."""
    try:
        return None if text is None else int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise UserError(f"--memory {text}: not a size; write it as 4GB or 800MB") from None


def _results(options: argparse.Namespace) -> None:
    from fmnist.store import results

    table = results()
    if options.format == "csv":
        table.to_csv(sys.stdout, index=False)
    elif options.format == "json":
        print(table.to_json(orient="records", indent=1))
    else:
        shown = [
            "run_id",
            "hidden_sizes",
            "optimizer",
            "lr",
            "seed",
            "epochs",
            "val_accuracy",
            "test_accuracy",
            "diverged",
        ]
        print(table[shown].to_string(index=False) if len(table) else "no finished runs yet")


def _export(options: argparse.Namespace) -> None:
    from fmnist.lab.export import export

    paths = export(options.form, options.folder)
    _say(f"wrote {paths[0].name if len(paths) == 1 else f'{len(paths)} files or folders'} into {options.folder}")


def _data(options: argparse.Namespace) -> None:
    from fmnist.data import locate

    validate_field("dataset", options.dataset, "fmnist data")
    print(locate(dataset=options.dataset))


def _device(name: str) -> str:
    from fmnist.engine.workers import resolve_device

    return str(resolve_device(name))


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".probe").touch()
        (folder / ".probe").unlink()
    except OSError as error:
        raise UserError(f"{folder}: the report cannot be written here: {error.strerror or error}") from None


def _train_all(configs: list, device: str, memory: int | None) -> None:
    from fmnist import store
    from fmnist.study import train

    missing = sum(store.load(config.run_id) is None for config in configs)
    _say(f"{len(configs)} runs: {len(configs) - missing} in the store, {missing} to train on {device}")
    train(configs, device, memory)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
