"""The store in other tools' forms: CSV files, TensorBoard's event files, or MLflow's SQLite file.

The store stays as it is. Two are extras: `pip install 'fmnist[tensorboard]'`, `pip install 'fmnist[mlflow]'`. To look:
`tensorboard --logdir DIR`, or, with the whole of MLflow, `mlflow ui --backend-store-uri sqlite:///DIR/mlflow.db`.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fmnist import store
from fmnist.config import UserError
from fmnist.lab.beside import described

SERIES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "weight_norm")


def export(form: str, folder: Path) -> list[Path]:
    """Write all runs of the store into `folder` as "csv", "tensorboard" or "mlflow"; the paths that were written.

    Raises `UserError` for another form, an empty store, a package that is not installed, a folder that holds something
    already, or one that cannot be written.
    """
    if form not in FORMS:
        raise UserError(f"export: {form!r} is not known; allowed are {', '.join(FORMS)}")
    module, write = FORMS[form]
    if module and find_spec(module) is None:
        raise UserError(f"export: {form} is not installed; pip install 'fmnist[{form}]'")
    runs = store.all_runs()
    if not runs:
        raise UserError(f"export: no finished runs in {store.runs_folder()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UserError(f"export: {folder} is not empty; name a new folder")
        return write(runs, folder.resolve())
    except OSError as error:
        raise UserError(f"export: {folder} cannot be written: {error.strerror or error}") from None


def _csv(runs: Sequence[store.Run], folder: Path) -> list[Path]:
    """runs.csv, a row a run, and history.csv, a row a run and epoch, joined by run_id."""
    pd.DataFrame([run.row() for run in runs]).to_csv(folder / "runs.csv", index=False)
    histories = [run.history().assign(run_id=run.run_id) for run in runs]
    frame = pd.concat(histories, ignore_index=True)
    frame[["run_id", *frame.columns.drop("run_id")]].to_csv(folder / "history.csv", index=False)
    return [folder / "runs.csv", folder / "history.csv"]


def _finite(values: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if value is not None and np.isfinite(value)}


def _curves(run: store.Run) -> list[tuple[str, int, float]]:
    """(series, epoch, value) of every finite point."""
    history = run.history()
    points = [(name, history["epoch"], history[name]) for name in SERIES if name in history]
    return [
        (name, int(e), float(v))
        for name, epochs, values in points
        for e, v in zip(epochs, values, strict=True)
        if np.isfinite(v)
    ]


def _ended(run: store.Run) -> float:
    """When the run was finished, in seconds since 1970."""
    return datetime.fromisoformat(run.record["finished"]).timestamp()


def _tensorboard(runs: Sequence[store.Run], folder: Path) -> list[Path]:
    """A folder of event files for each run: its curves, and its config with the final metrics in the HPARAMS tab."""
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    for run in runs:
        fields = {name: value for name, value in run.config.row().items() if value is not None}
        metrics = {f"final/{name}": value for name, value in _finite(run.metrics).items()}
        with SummaryWriter(str(folder / run.run_id)) as writer:
            for summary in hparams(fields, metrics):
                writer.file_writer.add_summary(summary)
            writer.add_text("config", described(run.config))
            for name, epoch, value in _curves(run):
                writer.add_scalar(name, value, epoch, walltime=_ended(run))
            for name, value in metrics.items():
                writer.add_scalar(name, value, run.config.epochs, walltime=_ended(run))
    return [folder / run.run_id for run in runs]


def _mlflow(runs: Sequence[store.Run], folder: Path) -> list[Path]:
    """One experiment in an SQLite file, for `mlflow ui`: configs as parameters, curves and final metrics."""
    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of every table that it makes
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.tracking import MlflowClient

    path = folder / "mlflow.db"
    client = MlflowClient(f"sqlite:///{path}")
    experiment = client.create_experiment("fmnist", artifact_location=(folder / "artifacts").as_uri())
    for run in runs:
        ended = round(1_000 * _ended(run))
        began = ended - round(1_000 * float(run.metrics["seconds"] or 0))
        there = client.create_run(experiment, start_time=began, run_name=described(run.config))
        final = [Metric(f"final_{name}", value, ended, 0) for name, value in _finite(run.metrics).items()]
        curves = [Metric(name, value, ended, epoch) for name, epoch, value in _curves(run)]
        fields = [Param(name, str(value)) for name, value in run.config.row().items()]
        for start in range(0, len(metrics := final + curves), 1_000):  # as many as it takes at once
            client.log_batch(there.info.run_id, metrics=metrics[start : start + 1_000])
        client.log_batch(there.info.run_id, params=fields, tags=[RunTag("run_id", run.run_id)])
        client.set_terminated(there.info.run_id, "FINISHED", ended)
    return [path]


FORMS: dict[str, tuple[str, Callable[[Sequence[store.Run], Path], list[Path]]]] = {  # form: (package, writer)
    "csv": ("", _csv),
    "tensorboard": ("tensorboard", _tensorboard),
    "mlflow": ("mlflow", _mlflow),
}
