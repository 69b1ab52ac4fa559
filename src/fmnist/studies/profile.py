"""Where the time of training goes: data, forward, backward, update, evaluation, storing."""

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from tqdm.auto import tqdm

from fmnist.config import FASHION, RunConfig, sizes_text
from fmnist.engine.data import load
from fmnist.engine.packing import alike, plan
from fmnist.engine.pool import resolve_device, settings
from fmnist.engine.train import train_stack
from fmnist.studies import store

PHASES = ("data", "forward", "backward", "update", "evaluation", "storing")
EPOCHS = 2  # of each kind of stack that are timed; the times of training are scaled to all its epochs


def profile(configs: Sequence[RunConfig], device: str = "auto", memory: int | None = None) -> pd.DataFrame:
    """Seconds that training all of `configs` takes, by kind of stack (`network`, `epochs`, `runs`) and phase.

    The largest stack of each kind is trained for two epochs as one worker does it, after a few steps to warm up, and
    scaled to its epochs and its kind's runs; on a CPU `workers` stacks go on at once. Nothing enters the store. On CUDA
    every phase waits for the device and steps are not graphs: shares are right there, sums an upper bound.
    """
    on = resolve_device(device)
    stacks, workers = plan(configs, on, memory)
    kinds: dict[tuple, list[list[RunConfig]]] = defaultdict(list)
    for stack in stacks:
        kinds[alike(stack[0])].append(stack)
    rows = []
    with settings(on, workers):
        _timed(_shortened(stacks[-1], 0), on)  # what only the first stack pays: libraries, the data set
        for same in tqdm(kinds.values(), "kinds of stack", leave=False, disable=not sys.stderr.isatty()):
            measured, first = max(same, key=len), same[0][0]
            short, none = _timed(_shortened(measured, EPOCHS), on), _timed(_shortened(measured, 0), on)
            runs = sum(map(len, same))
            spent = {}
            for phase in PHASES:  # what an epoch takes, times the epochs, and what is taken once
                each = max(short[phase] - none[phase], 0.0) / EPOCHS
                spent[phase] = (each * first.epochs + none[phase]) * runs / len(measured)
            rows.append({"network": _kind(first), "epochs": first.epochs, "runs": runs} | spent)
    table = pd.DataFrame(rows)
    table["total"] = table[list(PHASES)].sum(axis=1)
    table.attrs["workers"] = workers
    return table.sort_values("total", ascending=False, ignore_index=True)


def _kind(config: RunConfig) -> str:
    extras = (
        [config.dataset] * (config.dataset != FASHION)
        + ["batch norm"] * config.batch_norm
        + ["dropout"] * (config.dropout > 0)
    )
    return ", ".join([sizes_text(config.hidden_sizes), *extras, f"batch {config.batch_size}", config.precision])


def _shortened(stack: list[RunConfig], epochs: int) -> list[RunConfig]:
    return [config.model_copy(update={"epochs": epochs}) for config in stack]


def _timed(stack: list[RunConfig], device: torch.device) -> dict[str, float]:
    """Seconds by phase of training one stack and storing its results, in a folder that is removed again."""
    spent, last = dict.fromkeys(PHASES, 0.0), time.perf_counter()

    def mark(phase: str) -> None:
        nonlocal last
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        now = time.perf_counter()
        spent[phase] += now - last
        last = now

    results = train_stack(stack, load(device, stack[0].dataset), mark=mark)
    with tempfile.TemporaryDirectory() as folder:
        last = time.perf_counter()
        for i, result in enumerate(results):
            store.write(result, Path(folder, str(i)))
        mark("storing")
    return spent
