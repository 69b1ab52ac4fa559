"""How long does one run's epoch take? fmnist, five other ways to do the same, and this machine's limit.

`make bench` writes results/<machine>.json and .png and prints the table. Every measurement has a process of its own, so
that no library's threads disturb another's; one alone: `bench.py --only jax 784-128-10`.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tqdm import tqdm

import figure
import report
from fmnist.engine.workers import resolve_device
from limit import machine, versions
from measure import NETWORKS, PRECISIONS, Measurement, measured
from peers import PEERS

RESULTS = Path(__file__).parent / "results"
SCALING, SCALING_RUNS = "784-128-10", (1, 64, 512)  # besides the eight
ACCURACY = ("784-128-10", "784-400-400-10")
PACKAGES = {"jax": "jax", "sklearn": "sklearn", "dataloader": "torchvision"}
METHOD = """
Eight runs of one study: plain SGD, learning rates geomspace(0.001, 0.1, 8), ReLU, one seed, so one split (54,000 train
and 6,000 validation images) and one order of batches; the last, smaller batch is trained on too. Every epoch gives
training loss and accuracy, as batches are seen, and validates. Wall time of an epoch divided by its runs: median of
five after one of warm-up, which takes compilation. dataloader, tensor_loop and sklearn train one run after another: a
sample is the epoch of one run, the runs taken in turn. fmnist is called as a user does, through
fmnist.engine.workers.train: the e-th epoch ends when e times as many epochs of single runs are done as there are runs,
whichever stack did them. For 1, 64 and 512 runs: a training of three epochs less one of a
single epoch, halved, so that setting up and the last evaluations drop out. sklearn measures no training accuracy. Each
(implementation, network) runs in a process of its own, with all cores. The limit is the time of the matrix products of
a stack of eight alone, each at the best rate found for its exact shape. On CUDA all products of float32 are in
TensorFloat-32. after_one_epoch: losses of the run with learning rate 0.0268, the same for all but for rounding where
weights and order of batches are the same (fmnist, jax, torch_func, tensor_loop).
"""


def measurements(device: str) -> list[Measurement]:
    wanted = [Measurement("limit", network, precision) for network in NETWORKS for precision in PRECISIONS]
    wanted += [Measurement("fmnist", network, precision) for network in NETWORKS for precision in PRECISIONS]
    wanted += [Measurement(name, network) for network in NETWORKS for name in PEERS]
    wanted += [Measurement("more", SCALING, runs=runs) for runs in SCALING_RUNS]
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
    figure.draw(results, path)
    print(report.text(results))


if __name__ == "__main__":
    main()
