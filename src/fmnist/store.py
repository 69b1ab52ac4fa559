"""Finished runs on disk: a folder per run, named by the hash of its config, written aside and renamed.

`runs/<run_id>/` is finished or absent, never half, so any number of processes and machines may share a store. It holds
run.json (config, metrics, versions, code, device, data checksum, when), history.parquet (a row per epoch), and of the
last epoch and of the best on validation predictions.npy (uint8 [2, 10000]), weights.safetensors and best.safetensors.
"""

import io
import json
import math
import platform
import shutil
import subprocess
import uuid
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
import safetensors.numpy

from fmnist.config import RunConfig, UserError, aside, runs_folder, validate

if TYPE_CHECKING:
    from fmnist.engine.train import Result
    from fmnist.model import MLP

FILES = ("run.json", "history.parquet", "predictions.npy", "weights.safetensors", "best.safetensors")
REMEDY = "Set FMNIST_RUNS to a folder that can be written"
METRICS = (
    *("val_accuracy", "val_loss", "test_accuracy", "test_loss", "test_accuracy_std", "train_accuracy", "train_loss"),
    *("best_epoch", "best_val_accuracy", "best_val_test_accuracy", "best_val_test_loss"),
    *("best_val_test_accuracy_std", "diverged", "seconds"),
)


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
        return pd.read_parquet(io.BytesIO((self.folder / "history.parquet").read_bytes()))

    def predictions(self, best: bool = False) -> np.ndarray:
        """Predicted classes of the test images, uint8 [10000]; `best`: with the best validation epoch's weights."""
        return np.load(self.folder / "predictions.npy")[int(best)]

    def model(self, best: bool = False) -> "MLP":
        """The trained network, or the `best` validation epoch's: float [n, 784], as `input_scaling` says → logits."""
        import torch

        from fmnist.model import MLP

        weights = safetensors.numpy.load_file(self.folder / ("best.safetensors" if best else "weights.safetensors"))
        model = MLP(self.config)
        found = model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()}, strict=False)
        if found.unexpected_keys or any(not key.endswith("num_batches_tracked") for key in found.missing_keys):
            raise UserError(f"{self.folder}: its weights are not those of its config; remove it to train it anew")
        return model.eval()

    def row(self) -> dict[str, Any]:
        """The run as one row of a table: run_id, every config field, METRICS, device."""
        metrics = {name: np.nan if self.metrics[name] is None else self.metrics[name] for name in METRICS}
        return {"run_id": self.run_id, **self.config.row(), **metrics, "device": self.record["device"]}


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
    folder = runs_folder() / result.config.run_id
    try:
        if folder.exists() and load(folder.name) is None:
            _discard(folder)
        with aside(folder) as part:
            part.mkdir(parents=True)
            (part / "history.parquet").write_bytes(pd.DataFrame(result.history).to_parquet(index=False))
            (part / "predictions.npy").write_bytes(predictions.getvalue())
            (part / "weights.safetensors").write_bytes(safetensors.numpy.save(result.weights))
            (part / "best.safetensors").write_bytes(safetensors.numpy.save(result.best_weights))
            (part / "run.json").write_bytes(json.dumps(record, indent=1).encode() + b"\n")
    except OSError as error:
        if load(folder.name) is None:
            raise UserError(f"{runs_folder()}: a run cannot be stored: {error.strerror or error}. {REMEDY}") from None
    return load_run(folder.name)


def _discard(folder: Path) -> None:
    """Renamed first: it is there or gone, never half."""
    gone = folder.rename(folder.with_name(f".{folder.name}.{uuid.uuid4().hex}"))
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()


@cache
def _code() -> dict[str, Any]:
    return committed(Path(__file__).parent, Path(__file__).parent)


def check_writable() -> None:
    """Raises `UserError` at once, before any training, if runs could not be stored."""
    folder = runs_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"{folder}: runs cannot be stored here: {error.strerror or error}. {REMEDY}") from None


def load(run_id: str) -> Run | None:
    """The finished run, or None if it is absent, damaged or another version's (then it is trained anew)."""
    folder = runs_folder() / run_id
    try:
        run = Run(folder, json.loads((folder / "run.json").read_text(encoding="utf-8")))
        whole = run.config.run_id == run_id and all((folder / name).stat().st_size for name in FILES)
        return run if whole and run.row() and run.record["finished"] else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, UserError):
        return None


def load_run(run_id: str) -> Run:
    """The finished run with this id, or the only one whose id begins with it; raises `UserError` if there is none."""
    found = [run] if (run := load(run_id)) else all_runs(run_id) if run_id else []
    if len(found) != 1:
        ids = ", ".join(run.run_id for run in found)
        problem = f"begins {len(found)} runs: {ids}" if found else "no such finished run"
        raise UserError(f"run {run_id!r}: {problem} in {runs_folder()}; `fmnist results` lists them")
    return found[0]


def all_runs(prefix: str = "") -> list[Run]:
    """Every finished run whose id begins so, by id."""
    folders = sorted(runs_folder().glob("[!.]*"))
    return [run for folder in folders if folder.name.startswith(prefix) and (run := load(folder.name))]


def remove(run_id: str) -> None:
    """Take the run with this id, found as by `load_run`, out of the store, for good."""
    _discard(load_run(run_id).folder)


def results() -> pd.DataFrame:
    """One row per finished run, see `Run.row`."""
    columns = ["run_id", *RunConfig.model_fields, *METRICS, "device"]
    return pd.DataFrame([run.row() for run in all_runs()], columns=columns)


def committed(folder: Path, *files: Path) -> dict[str, Any]:
    """The last commit of `files`, and whether they are as in it; "" and None where git, from `folder`, knows none."""
    git = partial(subprocess.run, cwd=folder, capture_output=True, text=True, check=True)
    try:
        commit = git(["git", "log", "-1", "--format=%H", "--", *files]).stdout.strip()
        clean = not git(["git", "status", "--porcelain", "--", *files]).stdout
        return {"commit": commit, "clean": clean if commit else None}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "", "clean": None}


def export(form: str, folder: Path) -> None:
    """All runs in a new `folder`, as runs.csv and history.csv (a row an epoch), or as TensorBoard's events."""
    if form == "tensorboard" and find_spec("tensorboard") is None:
        raise UserError("export: tensorboard is not installed; pip install 'fmnist[tensorboard]'")
    if not (runs := all_runs()):
        raise UserError(f"export: no finished runs in {runs_folder()}")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"export: {folder} should be a new folder: {error.strerror or error}") from None
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
