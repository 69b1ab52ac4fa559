"""One measurement: fmnist, one of the five others, the machine's limit, or bfloat16's accuracy against float32's."""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from fmnist.config import RunConfig
from fmnist.engine.train import Result
from fmnist.engine.workers import train
from fmnist.statistics import interval
from limit import limit
from peers import PEERS
from task import Task

NETWORKS = {  # and their batch sizes
    "784-128-10": 512,
    "784-400-400-10": 512,
    "784-200-200-200-10": 512,
    "784-42-42-42-10": 512,
    "784-50-50-10": 128,
}
PRECISIONS = ("float32", "bfloat16")
SEEDS, ACCURACY_EPOCHS = 6, 10
MANY_RUNS, MANY_EPOCHS = 1_000, 50
TIMED = 5  # after one unit of warm-up


class Measurement(NamedTuple):
    name: str  # of a peer, or fmnist, more, limit, accuracy, many
    network: str
    precision: str = "float32"
    runs: int = 8


def row(m: Measurement, seconds: list[float], losses: tuple[float, float] | None, task: Task) -> dict[str, Any]:
    checked = {"val_loss": losses[0], "val_accuracy": losses[1]} if losses else None
    return {
        "network": m.network,
        "batch_size": task.batch_size,
        "runs": m.runs,
        "precision": m.precision,
        "implementation": m.name,
        "device": "cpu" if m.name == "sklearn" else task.device,
        "seconds_per_run_epoch": statistics.median(seconds),
        "samples": seconds,
        "choices": task.choices,
        "after_one_epoch": checked,
    }


def time_peer(m: Measurement, task: Task) -> dict[str, Any]:
    """Seconds per run and epoch of units, the first left out. Run number TIMED is compared between all."""
    units, seconds, peer = [], [], PEERS[m.name](task)
    for _ in range(1 + TIMED):
        start = time.perf_counter()
        units.append(next(peer))
        seconds.append((time.perf_counter() - start) / len(units[-1].val_loss))
    together = len(units[0].val_loss) > 1
    unit, run = (units[0], TIMED) if together else (units[TIMED], 0)
    return row(m, seconds[1:], (unit.val_loss[run], unit.val_accuracy[run]), task)


def configs(m: Measurement, task: Task, epochs: int) -> list[RunConfig]:
    base = RunConfig(hidden_sizes=task.hidden_sizes, batch_size=task.batch_size, epochs=epochs, precision=m.precision)
    return [base.model_copy(update={"lr": lr}) for lr in task.lrs]


def trained(configs: list[RunConfig], device: str, progress: Callable = lambda *_: None) -> list[Result]:
    results: list[Result] = []
    train(configs, results.append, device, progress)
    return results


def time_fmnist(m: Measurement, task: Task) -> dict[str, Any]:
    moments, done = [time.perf_counter()], 0

    def progress(epochs: int, work: float, accuracy: float) -> None:
        nonlocal done
        done += epochs
        while done >= m.runs * len(moments):
            moments.append(time.perf_counter())

    results = trained(configs(m, task, 1 + TIMED), task.device, progress)
    seconds = [(after - before) / m.runs for before, after in zip(moments[:-1], moments[1:], strict=True)]
    return row(m, seconds[1:], after_one_epoch(results, task), task)


def time_more(m: Measurement, task: Task) -> dict[str, Any]:
    """Three epochs less one, so that setting up and the last evaluations, which every run has once, drop out."""
    walls = {}
    trained(configs(m, task, 1), task.device)  # loads data and libraries, starts the workers
    for epochs in (1, 3):
        start = time.perf_counter()
        trained(configs(m, task, epochs), task.device)
        walls[epochs] = time.perf_counter() - start
    return row(m._replace(name="fmnist"), [(walls[3] - walls[1]) / 2 / m.runs], None, task)


def after_one_epoch(results: list[Result], task: Task) -> tuple[float, float]:
    history = next(result.history for result in results if result.config.lr == task.lrs[TIMED])
    return float(history["val_loss"][1]), float(history["val_accuracy"][1])


def compare_accuracy(m: Measurement, task: Task) -> dict[str, Any]:
    """Test accuracy in percent after ten epochs, learning rate 0.1: bfloat16 − float32, paired by seed."""
    base = configs(m, replace(task, runs=1), ACCURACY_EPOCHS)[0].model_copy(update={"lr": 0.1})
    wanted = [(precision, seed) for precision in PRECISIONS for seed in range(SEEDS)]
    runs = [base.model_copy(update={"precision": precision, "seed": seed}) for precision, seed in wanted]
    found = {(r.config.precision, r.config.seed): 100 * r.metrics["test_accuracy"] for r in trained(runs, task.device)}
    values = {precision: [found[precision, seed] for seed in range(SEEDS)] for precision in PRECISIONS}
    pairs = zip(values["float32"], values["bfloat16"], strict=True)
    mean, low, high = interval([after - before for before, after in pairs])
    about = {"epochs": ACCURACY_EPOCHS, "lr": 0.1, "optimizer": "SGD", **values}
    return {**about, "difference_points": float(mean), "interval_95": [float(low), float(high)]}


def time_many(m: Measurement, task: Task) -> dict[str, Any]:
    """A thousand runs from beginning to end."""
    start = time.perf_counter()
    results = trained(configs(m, replace(task, runs=MANY_RUNS), MANY_EPOCHS), task.device)
    return {"runs": len(results), "epochs": MANY_EPOCHS, "seconds": time.perf_counter() - start}


def measured(m: Measurement, device: str) -> dict[str, Any]:
    task = Task(m.network, NETWORKS[m.network], m.runs, device)
    if device != "cpu":
        torch.set_float32_matmul_precision("high")  # as fmnist does, and jax
    if m.name == "limit":
        return limit(task, m.precision)
    special = {"fmnist": time_fmnist, "more": time_more, "accuracy": compare_accuracy, "many": time_many}
    return special.get(m.name, time_peer)(m, task)
