"""What a cluster costs: the same runs here and by 1, 2 and 4 workers of a Dask scheduler; prints a table in Markdown.

All on one machine, so workers beyond its cores gain nothing. Processor time is that of all processes, scheduler and
workers included, and bears a busy machine better than the wall clock does.
"""

import argparse
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import psutil

from fmnist import store
from fmnist.config import RunConfig
from fmnist.engine import cluster, workers
from fmnist.engine.train import Result

PRELOAD = "from fmnist.data import load; load()"


def processor_time() -> float:
    """Seconds so far, of this process and all that it has started and that still run."""
    times = [process.cpu_times() for process in [psutil.Process(), *psutil.Process().children(recursive=True)]]
    return sum(each.user + each.system for each in times)


def trained(configs: list[RunConfig], team: Callable) -> tuple[list[Result], float, float]:
    """Results, seconds by the wall clock, seconds of processors."""
    results, start, before = [], time.perf_counter(), processor_time()
    workers.train(configs, results.append, "cpu", team=team)
    return results, time.perf_counter() - start, processor_time() - before


def bytes_of(results: list[Result]) -> None:
    """What 784-128-10 takes, and storing."""
    sizes = [len(pickle.dumps(result, protocol=5)) for result in results if result.config.hidden_sizes == (128,)]
    with tempfile.TemporaryDirectory() as folder:
        store.runs_folder = lambda: Path(folder)
        start = time.perf_counter()
        runs = [store.save(result) for result in results]
        saving = (time.perf_counter() - start) / len(runs)
        own = [run.folder.iterdir() for run in runs if run.config.hidden_sizes == (128,)]
        kept = statistics.mean(sum(file.stat().st_size for file in files) for files in own)
    print(f"\n784-128-10: {statistics.mean(sizes):,.0f} bytes a run on the wire, {kept:,.0f} in the store")
    print(f"storing takes {1000 * saving:.0f} ms a run")


def main() -> None:
    from distributed import LocalCluster

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    asked = [{"hidden_sizes": (n,), "lr": lr, "seed": s} for n, lr, s in product((32, 128), (0.3, 0.1, 0.03), (0, 1))]
    configs = [RunConfig(epochs=given.epochs, **each) for each in asked]
    print(f"{len(configs)} runs, epochs: {given.epochs}, median of {given.repeats}\n")
    print("| trained by | stacks | seconds | processor seconds |\n|---|---|---|---|")
    for count in (0, 1, 2, 4):
        options = {"threads_per_worker": 1, "dashboard_address": None, "preload": PRELOAD}
        there = LocalCluster(n_workers=count, **options) if count else None
        team = partial(cluster.team, there.scheduler_address) if there else workers.here
        found = [trained(configs, team) for _ in range(1 + given.repeats)][1:]  # the first starts and loads
        with team(configs, "cpu", None) as (slots, _):
            stacks = len(workers.plan(configs, slots))
        wall, spent = (statistics.median(each[i] for each in found) for i in (1, 2))
        name = f"{count} workers" if count else "this process"
        print(f"| {name} | {stacks} | {wall:.1f} | {spent:.1f} |", flush=True)
        if there:
            there.close()
    bytes_of(found[0][0])


if __name__ == "__main__":
    main()
