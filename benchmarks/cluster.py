"""What a cluster costs: the same runs here and by 1, 2 and 4 workers of a Dask scheduler; prints a table in Markdown.

All on one machine, so workers beyond its cores gain nothing. A stack's overhead is what the wall clock shows beside its
own training where one worker trains one stack after the other: scheduling, reports, and the way there and back.
"""

import argparse
import pickle
import statistics
import tempfile
import time
from functools import partial
from itertools import product
from pathlib import Path

from fmnist import store
from fmnist.config import RunConfig
from fmnist.data import load
from fmnist.engine import cluster, workers
from fmnist.engine.train import Result

PRELOAD = "from fmnist.data import load; load()"


def trained(configs: list[RunConfig], team) -> tuple[list[Result], float]:
    results, start = [], time.perf_counter()
    workers.train(configs, results.append, "cpu", team=team)
    return results, time.perf_counter() - start


def main() -> None:
    from distributed import LocalCluster

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    load()
    rates, widths = (0.3, 0.1, 0.03, 0.01), (32, 128)
    asked = [{"hidden_sizes": (n,), "lr": lr, "seed": seed} for n, lr, seed in product(widths, rates, (0, 1))]
    configs = [RunConfig(epochs=given.epochs, **each) for each in asked]
    print(f"{len(configs)} runs of {given.epochs} epochs, median of {given.repeats}\n")
    print("| where | stacks | seconds | of these training | overhead a stack (s) |\n|---|---|---|---|---|")
    for count in (0, 1, 2, 4):
        there = (
            LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=None, preload=PRELOAD)
            if count
            else None
        )
        team = partial(cluster.team, there.scheduler_address) if there else workers.here
        found = [trained(configs, team) for _ in range(1 + given.repeats)][1:]  # the first starts and loads
        walls = [wall for _, wall in found]
        spent = [sum(result.metrics["seconds"] for result in results) for results, _ in found]
        with team(configs, "cpu", None) as (slots, _):
            stacks = len(workers.plan(configs, slots))
        over = [(wall - own) / stacks for wall, own in zip(walls, spent, strict=True)]
        shown = f"{statistics.median(over):.3f}" if count == 1 else "–"
        name = f"{count} workers" if count else "this process and its own"
        print(f"| {name} | {stacks} | {statistics.median(walls):.1f} | {statistics.median(spent):.1f} | {shown} |")
    sizes = [len(pickle.dumps(result, protocol=5)) for result in found[0][0] if result.config.hidden_sizes == (128,)]
    with tempfile.TemporaryDirectory() as folder:
        store.runs_folder = lambda: Path(folder)
        start = time.perf_counter()
        runs = [store.save(result) for result in found[0][0]]
        saving = (time.perf_counter() - start) / len(runs)
        own = [run for run in runs if run.config.hidden_sizes == (128,)]
        kept = statistics.mean(sum(file.stat().st_size for file in run.folder.iterdir()) for run in own)
    print(f"\n784-128-10: {statistics.mean(sizes):,.0f} bytes a run on the wire, {kept:,.0f} in the store")
    print(f"saving takes {1000 * saving:.1f} ms a run")


if __name__ == "__main__":
    main()
