"""How long does one run's epoch take? fmnist, five other ways to do the same, and this machine's limit.

`make bench` writes results/<machine>.json and .png and prints the table. Every measurement has a process of its own, so
that no library's threads disturb another's; one alone: `bench.py --only jax 784-128-10`.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

import figure
import report
from fmnist.analysis import interval
from fmnist.config import RunConfig
from fmnist.pool import resolve_device, train
from fmnist.train import Result
from limit import limit, machine, versions
from peers import PEERS
from task import Task

RESULTS = Path(__file__).parent / "results"
NETWORKS = {  # and their batch sizes
    "784-128-10": 512,
    "784-400-400-10": 512,
    "784-200-200-200-10": 512,
    "784-42-42-42-10": 512,
    "784-50-50-10": 128,
}
PRECISIONS = ("float32", "bfloat16")
SCALING, SCALING_RUNS = "784-128-10", (1, 64, 512)  # besides the eight
ACCURACY, SEEDS, ACCURACY_EPOCHS = ("784-128-10", "784-400-400-10"), 6, 10
MANY_RUNS, MANY_EPOCHS = 1_000, 50
TIMED, TIMED_MANY = 5, 2  # after one unit of warm-up; of other numbers of runs than eight
PACKAGES = {"jax": "jax", "sklearn": "sklearn", "dataloader": "torchvision"}
METHOD = """
Eight runs of one study: plain SGD, learning rates geomspace(0.001, 0.1, 8), ReLU, one seed, so one split (54,000 train
and 6,000 validation images) and one order of batches; the last, smaller batch is trained on too. Every epoch gives
training loss and accuracy, as batches are seen, and validates. Wall time of an epoch divided by its runs: median of
five (of two for other numbers of runs than eight) after one of warm-up, which takes compilation. dataloader,
tensor_loop and sklearn train one run after another: a sample is the epoch of one run, the runs taken in turn. fmnist is
called as a user does, through fmnist.pool.train: the e-th epoch ends when e times as many epochs of single runs are
done as there are runs, whichever stack did them. With more runs than are trained at once, that takes in each stack's
setting up and its last evaluation on the training and test sets. sklearn measures no training accuracy. Each
(implementation, network) runs in a process of its own, with all cores. The limit is the time of the matrix products of
a stack of eight alone, each at the best rate found for its exact shape. On CUDA all products of float32 are in
TensorFloat-32. after_one_epoch: losses of the run with learning rate 0.0268, the same for all but for rounding where
weights and order of batches are the same (fmnist, jax, torch_func, tensor_loop).
"""


class Measurement(NamedTuple):
    name: str  # of a peer, or fmnist, limit, accuracy, many
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
    moments, done, lock = [time.perf_counter()], 0, threading.Lock()

    def progress(epochs: int, work: float, accuracy: float) -> None:
        nonlocal done
        with lock:
            done += epochs
            while done >= m.runs * len(moments):
                moments.append(time.perf_counter())

    results = trained(configs(m, task, 1 + (TIMED if m.runs == 8 else TIMED_MANY)), task.device, progress)
    seconds = [(after - before) / m.runs for before, after in zip(moments[:-1], moments[1:], strict=True)]
    return row(m, seconds[1:], after_one_epoch(results, task) if m.runs == 8 else None, task)


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
    special = {"fmnist": time_fmnist, "accuracy": compare_accuracy, "many": time_many}
    return special.get(m.name, time_peer)(m, task)


def measurements(device: str) -> list[Measurement]:
    wanted = [Measurement("limit", network, precision) for network in NETWORKS for precision in PRECISIONS]
    wanted += [Measurement("fmnist", network, precision) for network in NETWORKS for precision in PRECISIONS]
    wanted += [Measurement(name, network) for network in NETWORKS for name in PEERS]
    wanted += [Measurement("fmnist", SCALING, runs=runs) for runs in SCALING_RUNS]
    wanted += [Measurement("accuracy", network) for network in ACCURACY]
    if device.startswith("cuda"):
        wanted += [Measurement("many", SCALING, precision) for precision in PRECISIONS]
    return wanted


def apart(m: Measurement, device: str) -> dict[str, Any]:
    """`measured` in a new process; {"left_out": why} if that cannot be."""
    if (package := PACKAGES.get(m.name)) and not find_spec(package):
        return {"left_out": f"{package} is not installed"}
    options = ["--precision", m.precision, "--runs", str(m.runs), "--device", device]
    command = [sys.executable, __file__, "--only", m.name, m.network, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"left_out": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def bench(device: str, network: str | None = None) -> dict[str, Any]:
    """All measurements, or those of eight runs of one network."""
    found, busy = {}, os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if busy > 0.5:
        print(f"Something else is running here (load {busy:.1f}); these times will not be this machine's.")
    eight = ("limit", "fmnist", *PEERS)
    wanted = [m for m in measurements(device) if not network or m[1] == network and m.name in eight and m.runs == 8]
    with tqdm(wanted, unit="measurement") as bar:
        for m in bar:
            bar.set_description(f"{m.name} {m.network} {m.precision}")
            found[m] = apart(m, device)
            if why := found[m].get("left_out"):
                bar.write(f"left out: {m.name} {m.network} {m.precision}: {why}")
    return assemble(found, device) | {"load_before": busy}


def assemble(found: dict[Measurement, dict[str, Any]], device: str) -> dict[str, Any]:
    """The results file, from what each process measured."""
    good = {m: value for m, value in found.items() if "left_out" not in value}
    of = {name: {m: value for m, value in good.items() if m.name == name} for name in ("limit", "accuracy", "many")}
    limits = {p: {m.network: v for m, v in of["limit"].items() if m.precision == p} for p in PRECISIONS}
    rows = [value for m, value in good.items() if m.name not in of]
    for each in rows:
        if least := limits[each["precision"]].get(each["network"]):
            each["fraction_of_limit"] = least["seconds_per_run_epoch"] / each["seconds_per_run_epoch"]
    return {
        "machine": machine(device),
        "versions": versions(),
        "date": date.today().isoformat(),
        "method": " ".join(METHOD.split()),
        "limit": limits,
        "bfloat16_accuracy": {m.network: value for m, value in of["accuracy"].items()},
        "many_runs": {m.precision: {"network": m.network, **value} for m, value in of["many"].items()},
        "targets": report.targets(rows),
        "left_out": {" ".join(map(str, m)): v["left_out"] for m, v in found.items() if "left_out" in v},
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only", nargs=2, metavar=("IMPLEMENTATION", "NETWORK"), help="measure one, print its row")
    parser.add_argument("--network", choices=NETWORKS, help="measure this one again and replace it in the results")
    parser.add_argument("--precision", default="float32", choices=PRECISIONS)
    parser.add_argument("--runs", type=int, default=8)
    args = parser.parse_args()
    device = str(resolve_device(args.device))
    if args.only:
        print(json.dumps(measured(Measurement(*args.only, args.precision, args.runs), device)))
        return
    results = bench(device, args.network)
    name = re.sub(r"[^a-z0-9]+", "-", results["machine"]["name"].lower()).strip("-")
    path = RESULTS / f"{name}.json"
    if args.network:
        results = report.replaced(json.loads(path.read_text(encoding="utf-8")), results, args.network)
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    figure.draw(results).savefig(path.with_suffix(".png"), dpi=figure.DPI)
    print(report.text(results))


if __name__ == "__main__":
    main()
