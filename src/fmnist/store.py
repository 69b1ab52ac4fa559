"""Finished runs on disk: a folder per run, named by the hash of its config, written aside and renamed.

Any number of processes and machines may share a store. `runs/<run_id>/` holds run.json (config, metrics, versions,
code, device, when, checksums), history.parquet (a row per epoch), and of the last epoch and of the best on validation
predictions.npy (uint8 [2, 10000]), weights.safetensors and best.safetensors. A file is compared with its checksum when
it is read; a run that is not as it was stored is named and set aside under a hidden name, so that it is trained anew.
Other hidden names: what is being written, claims of runs in training (links to host and process), and the index.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, cached_property, partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import psutil
import safetensors.numpy

from fmnist.config import METRICS, RESULTS_VERSION, RunConfig, UserError, aside, beside, owner, runs_folder, validate

if TYPE_CHECKING:
    from fmnist.model import MLP, Result

REMEDY = "Set FMNIST_RUNS to a folder that can be written"
FILES = ("history.parquet", "predictions.npy", "weights.safetensors", "best.safetensors")
ABSENT = {"run_id": "", **RunConfig().row(), **dict.fromkeys(METRICS, np.nan), "best_epoch": 0, "diverged": False}
ABSENT |= {"device": "", "finished": ""}  # in the index, for a folder that is no run of this version
ID = "[0-9a-f]{16}"  # of a run, and the name of its folder
DAY = 86_400.0  # seconds; what a process of another machine has left for so long counts as a dead one's


class Damaged(Exception):
    """What is wrong with a stored run."""


@dataclass(frozen=True)
class Run:
    """A finished run in the store; its parts are read when they are asked for."""

    folder: Path
    record: dict[str, Any] = field(repr=False)  # run.json

    @property
    def run_id(self) -> str:
        return self.folder.name

    @cached_property
    def config(self) -> RunConfig:
        return validate(RunConfig, self.record["config"], str(self.folder / "run.json"))

    @property
    def metrics(self) -> dict[str, Any]:
        """See METRICS; accuracies in [0, 1], losses in nats, seconds; None where a diverged run has none."""
        return self.record["metrics"]

    def history(self) -> pd.DataFrame:
        """A row per epoch, 0 being before training: train_loss, train_accuracy, val_loss, val_accuracy, seconds (the
        run's share of its stack's), weight_norm (biases left out; runs of earlier versions lack it).
        """
        return pd.read_parquet(self._part("history.parquet"))

    def predictions(self, best: bool = False) -> np.ndarray:
        """Predicted classes of the test images, uint8 [10000]; `best`: with the best validation epoch's weights."""
        return np.load(self._part("predictions.npy"), allow_pickle=False)[int(best)]

    def model(self, best: bool = False) -> "MLP":
        """The trained network, or the `best` validation epoch's: float [n, 784], as `input_scaling` says → logits."""
        import safetensors.torch

        from fmnist.model import MLP

        weights = self._part("best.safetensors" if best else "weights.safetensors")
        weights, model = safetensors.torch.load(weights.read()), MLP(self.config)
        counters = {name: part for name, part in model.state_dict().items() if name.endswith("num_batches_tracked")}
        model.load_state_dict(counters | weights)
        return model.eval()

    def row(self) -> dict[str, Any]:
        """The run as one row of a table: run_id, every config field, METRICS, device, finished."""
        metrics = {name: np.nan if self.metrics[name] is None else self.metrics[name] for name in METRICS}
        told = {name: self.record[name] for name in ("device", "finished")}
        return {"run_id": self.run_id, **self.config.row(), **metrics, **told}

    def _part(self, name: str) -> io.BytesIO:
        """A file's content. `UserError` if it is damaged; then the run has been set aside."""
        try:
            return io.BytesIO(self.content(name))
        except Damaged as problem:
            load(self.run_id, whole=True)
            raise UserError(f"run {self.run_id}: {problem}; train it anew") from None

    def content(self, name: str) -> bytes:
        """A file's bytes. `Damaged` if they are not those that were stored, or none."""
        try:
            content = (self.folder / name).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise Damaged(f"{name} is missing") from None
        if name in FILES and hashlib.sha256(content).hexdigest() != self.record["files"].get(name):
            raise Damaged(f"{name} is not as it was stored")
        return content


def _seal(record: dict[str, Any]) -> str:
    """The checksum of a record: of all that it says beside it, whatever its layout."""
    said = {key: part for key, part in record.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def save(result: "Result") -> Run:
    """Write a finished run; one that another process stored meanwhile stands. `UserError` if it cannot be written."""
    versions = {"python": platform.python_version()} | {name: version(name) for name in ("fmnist", "torch", "numpy")}
    record = {
        "config": result.config.model_dump(mode="json"),
        "metrics": {name: value if math.isfinite(value) else None for name, value in result.metrics.items()},
        "device": result.device,
        "data_checksum": result.data_checksum,
        "versions": versions | {"system": f"{platform.system()} {platform.machine()}"},
        "code": _code(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    np.save(predictions := io.BytesIO(), result.predictions)  # to a file it says nothing of a full disk
    contents = {
        "history.parquet": pd.DataFrame(result.history).to_parquet(index=False),
        "predictions.npy": predictions.getvalue(),
        "weights.safetensors": safetensors.numpy.save(result.weights),
        "best.safetensors": safetensors.numpy.save(result.best_weights),
    }
    record["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    contents["run.json"] = json.dumps(record | {"checksum": _seal(record)}, indent=1).encode() + b"\n"
    folder = runs_folder() / result.config.run_id
    try:
        if load(folder.name, whole=True) is None and os.path.lexists(folder):
            _set_aside(folder, "no run of this version")
        with aside(folder) as part:
            part.mkdir(parents=True)
            for name, content in contents.items():
                (part / name).write_bytes(content)
    except OSError as error:
        if load(folder.name) is None:
            raise UserError(f"{runs_folder()}: a run cannot be stored: {error.strerror or error}. {REMEDY}") from None
    return load(folder.name) or load_run(folder.name)


def _set_aside(folder: Path, problem: object) -> None:
    """Under a hidden name, for `fmnist store gc`; where it cannot be, it stays and counts as absent all the same."""
    hidden = beside(folder, "damaged")
    try:
        folder.rename(hidden)
        done = f"set aside as {hidden}"
    except FileNotFoundError:  # by another process, which says so
        return
    except OSError as error:
        done = f"it cannot be set aside: {error.strerror}"
    print(f"run {folder.name}: {problem}; {done}; it is trained anew when it is wanted", file=sys.stderr)


@cache
def _code() -> dict[str, Any]:
    return committed(Path(__file__).parent, Path(__file__).parent)


def check_writable() -> None:
    """Raises `UserError` if runs could not be stored."""
    folder = runs_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
        clean()
    except OSError as error:
        raise UserError(f"{folder}: runs cannot be stored here: {error.strerror or error}. {REMEDY}") from None


def load(run_id: str, whole: bool = False) -> Run | None:
    """The finished run, or None if it is absent or another version's (then it is trained anew). One that is damaged is
    absent, too: it is named and set aside. All files are compared if it is to be `whole`.
    """
    folder = runs_folder() / run_id
    try:
        if not re.fullmatch(ID, run_id) or not folder.is_dir():
            return None
        run = Run(folder, _record(folder))
        with contextlib.suppress(LookupError, TypeError, ValueError, AttributeError, UserError):
            if run.config.run_id == run_id and run.row():
                for name in FILES:
                    if not (folder / name).is_file() or not (folder / name).stat().st_size:
                        raise Damaged(f"{name} is missing")
                    if whole:
                        run.content(name)
                return run
    except Damaged as problem:
        _set_aside(folder, problem)
    except OSError:  # not readable now: nobody knows how it is
        pass
    return None


def _record(folder: Path) -> dict[str, Any]:
    """A run's run.json. `Damaged` if that is not as it was stored."""
    try:
        record = json.loads(Run(folder, {}).content("run.json"))
        if record.get("checksum") != _seal(record):
            raise Damaged("run.json is not as it was stored")
        return record
    except (ValueError, AttributeError, RecursionError):
        raise Damaged("run.json is not readable") from None


def load_run(run_id: str) -> Run:
    """The finished run with this id, or the only one whose id begins with it; raises `UserError` if there is none."""
    found = [run] if (run := load(run_id, whole=True)) else all_runs(run_id) if run_id else []
    if len(found) != 1:
        ids = ", ".join(run.run_id for run in found)
        problem = f"begins {len(found)} runs: {ids}" if found else "no such finished run"
        raise UserError(f"run {run_id!r}: {problem} in {runs_folder()}; `fmnist results` lists them")
    return found[0]


def all_runs(prefix: str = "") -> list[Run]:
    """Every finished run whose id begins so, by id."""
    return [run for run_id in sorted(_changed()) if run_id.startswith(prefix) and (run := load(run_id))]


def remove(run_id: str) -> None:
    """Take the run with this id, found as by `load_run`, out of the store, for good."""
    folder = load_run(run_id).folder
    shutil.rmtree(folder.rename(beside(folder)))  # it is there or gone, never half


def results() -> pd.DataFrame:
    """One row per finished run, by id, see `Run.row`; from .index-….parquet where its folder has not changed since.
    A folder that is no run of this version has a row in that file, too, so that it is not read again.
    """
    path, columns = runs_folder() / f".index-{RESULTS_VERSION}.parquet", [*ABSENT, "changed"]
    changed = pd.Series(_changed(), dtype="int64")
    try:
        known = pd.read_parquet(path, page_checksum_verification=True)
        if [*known.columns] != columns or not known["run_id"].is_unique:
            raise ValueError("another version's")
    except Exception:  # it is absent or damaged: pyarrow's errors have no one class
        known = pd.DataFrame([ABSENT | {"changed": 0}])[:0]
    table = kept = known[(known["changed"] == changed.reindex(known["run_id"]).to_numpy()).to_numpy()]
    if len(new := changed.index.difference(kept["run_id"])):
        read = ((run_id, load(run_id)) for run_id in new)  # of each a tuple: dicts take more memory
        rows = [(*(run.row() if run else ABSENT | {"run_id": key}).values(), changed[key]) for key, run in read]
        table = pd.concat([kept, pd.DataFrame(rows, columns=columns)]).sort_values("run_id")
    if len(new) or len(kept) < len(known):
        with contextlib.suppress(OSError), aside(path) as part:  # a store that cannot be written is read all the same
            table.to_parquet(part, index=False, write_page_checksum=True)
    return table.loc[table["finished"] != "", columns[:-1]].reset_index(drop=True)


def _changed() -> dict[str, int]:
    """When each folder that may be a run has last got or lost a file, in nanoseconds, by its name."""
    found, named = {}, re.compile(ID).fullmatch
    with contextlib.suppress(OSError), os.scandir(runs_folder()) as entries:  # else there is none
        for entry in (entry for entry in entries if named(entry.name)):
            try:  # which is faster than `suppress`, a hundred thousand times
                found[entry.name] = entry.stat().st_mtime_ns
            except FileNotFoundError:
                continue
    return found


def claim(configs: Sequence[RunConfig]) -> tuple[list[RunConfig], str]:
    """Those of the runs that nobody else trains, now claimed by this process, and who has another, as "machine.123".
    A claim is a link, made in one step or not at all, to a name that says whose it is; `clean` removes the dead's.
    """
    own, other = [], ""
    for config in configs:
        link = runs_folder() / f".{config.run_id}.claim"
        try:
            link.symlink_to(owner())
        except FileExistsError:
            other = os.readlink(link) if os.path.islink(link) else other
            continue
        except OSError:  # no links here: then runs are trained by whoever wants them
            pass
        own.append(config)
    return own, other


def release(configs: Iterable[RunConfig]) -> None:
    for config in configs:
        (runs_folder() / f".{config.run_id}.claim").unlink(missing_ok=True)


def _alive(path: Path, trusted: float) -> bool:
    """Whether the process that a hidden name or a claim names may be at work; another machine's is for so long."""
    machine, _, process = (os.readlink(path) if path.is_symlink() else path.stem).rpartition(".")
    if process.isdecimal() and machine.endswith(owner().rpartition(".")[0]):
        return psutil.pid_exists(int(process))
    return abs(time.time() - path.lstat().st_mtime) < trusted


def clean(everything: bool = False) -> int:
    """Remove what dead processes left, written in part or claimed, with `everything` damaged runs, too; how many.
    A process of another machine is trusted to live for a day, and with `everything` not at all.
    """
    gone = 0
    for path in runs_folder().glob(".*.*"):
        if name := re.match(rf"\.({ID}|index-\d+\.parquet)\.(damaged\.)?", path.name):
            with contextlib.suppress(FileNotFoundError):  # finished meanwhile
                if everything if name[2] else not _alive(path, 0 if everything else DAY):
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
                    gone += 1
    return gone


def check() -> tuple[int, int]:
    """Compare every file of every run with its checksum: how many are whole, and damaged."""
    ids = sorted(_changed())
    whole = sum(load(run_id, whole=True) is not None for run_id in ids)
    return whole, sum(not os.path.lexists(runs_folder() / run_id) for run_id in ids)


def committed(folder: Path, *files: Path) -> dict[str, Any]:
    """The last commit of `files`, and whether they are as in it; "" and None where git, from `folder`, knows none."""
    git = partial(subprocess.run, cwd=folder, capture_output=True, text=True, check=True)
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        if commit := git(["git", "log", "-1", "--format=%H", "--", *files]).stdout.strip():
            return {"commit": commit, "clean": not git(["git", "status", "--porcelain", "--", *files]).stdout}
    return {"commit": "", "clean": None}


def export(form: str, folder: Path) -> None:
    """All runs in a new `folder`, as runs.csv and history.csv (a row an epoch), or as TensorBoard's events."""
    if form == "tensorboard" and find_spec("tensorboard") is None:
        raise UserError("export: tensorboard is not installed; pip install 'fmnist[tensorboard]'")
    if not (runs := all_runs()):
        raise UserError(f"export: no finished runs in {runs_folder()}")
    folder.mkdir(parents=True)
    if form == "csv":
        results().to_csv(folder / "runs.csv", index=False)
        histories = pd.concat([run.history().assign(run_id=run.run_id) for run in runs])
        histories.set_index("run_id").to_csv(folder / "history.csv")
        return
    from torch.utils.tensorboard import SummaryWriter

    for run in runs:  # curves, and configs with the final metrics in the HPARAMS tab
        metrics = {f"final/{name}": value for name, value in run.metrics.items() if value is not None}
        with SummaryWriter(str(folder / run.run_id)) as writer:
            writer.add_hparams(run.config.row(), metrics, run_name=".", global_step=run.config.epochs)
            for row in run.history().to_dict("records"):
                for name in row.keys() - {"epoch", "seconds"}:
                    writer.add_scalar(name, row[name], row["epoch"])
