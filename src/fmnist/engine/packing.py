"""Which runs are trained as one stack, and how many stacks at a time, within the memory there is.

Packing follows from the runs, the device and the memory alone, never from a timing, so that a repeated job trains the
same stacks and gives the same bits.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby

import psutil
import torch

from fmnist.config import TRAIN_IMAGES, RunConfig, UserError, layer_sizes, parameter_count
from fmnist.engine.feed import CHUNK
from fmnist.engine.optim import constants
from fmnist.engine.stack import SLOPES

STACK_RUNS = {"cpu": 16, "accelerator": 1024}  # most runs of a stack; measured on the CPU: beyond 16 nothing is gained
OVERHEAD = 250_000_000  # bytes of each worker on a CPU beside its stack: code that is loaded, kernels, fragments
STEP_CALLS = 4e6  # multiply-adds that a run's share of a step's calls is worth; with batches of one image it is all
SMALL_STEP = 1 << 27  # multiply-adds below which a step on the CPU costs its calls, so that seeds share it, too


def products(config: RunConfig) -> int:
    """Multiply-adds of an image's forward and backward pass."""
    sizes = layer_sizes(config.hidden_sizes)
    return 3 * sum(a * b for a, b in sizes) - sizes[0][0] * sizes[0][1]


def work(config: RunConfig) -> float:
    """What a run's training costs for each image of its train split, in multiply-adds; progress is measured in it."""
    return float((products(config) + STEP_CALLS / config.batch_size) * max(config.epochs, 1))


def footprint(config: RunConfig) -> tuple[int, int]:
    """Bytes that a run takes in training, an upper bound: for itself, and for what it shares with its group."""
    size = 8 if config.precision == "float64" else 4
    weights = parameter_count(config.hidden_sizes, config.batch_norm)  # also best, both on the host, gradient, state, …
    rows, units = max(config.batch_size, CHUNK), sum(config.hidden_sizes) + 10
    own = 14 * weights * size + rows * (10 * units * size + 16) + 4 * TRAIN_IMAGES
    return own, 3 * rows * 784 * size + 4 * 8 * TRAIN_IMAGES


def alike(config: RunConfig) -> tuple:
    """What the runs of a stack have in common, the seed aside."""
    activation = "rectified" if config.activation in SLOPES else config.activation
    shape = (config.dataset, config.hidden_sizes, activation, config.batch_norm, config.dropout > 0)
    return (*shape, config.batch_size, config.epochs, config.val_size, config.precision)


def pack(configs: Iterable[RunConfig], device: torch.device, workers: int = 1, memory: int = 1 << 62) -> list:
    """Stacks, largest first, each a list of runs that can be trained as one, within `memory` bytes for each worker.

    A stack holds equally many runs of each of its seeds; on the CPU one seed, unless its steps are small.
    """
    ordered = sorted(configs, key=lambda c: (alike(c), c.seed, c.input_scaling, c.optimizer, constants(c), c.run_id))
    share, stacks = sum(map(work, ordered)) / workers, []
    for _, members in groupby(ordered, key=alike):
        groups = [list(group) for _, group in groupby(members, key=lambda c: (c.seed, c.input_scaling))]
        config = groups[0][0]
        own, shared = footprint(config)
        limit = min(STACK_RUNS["cpu" if device.type == "cpu" else "accelerator"], int(memory / (own + shared)))
        limit = max(1, min(limit, round(share / work(config))))
        pieces = [piece for group in groups for piece in evenly(group, limit)]
        together = limit
        if device.type == "cpu":
            together = min(2 * limit, int(SMALL_STEP / (config.batch_size * products(config))))
        for size in Counter(map(len, pieces)):
            same = [piece for piece in pieces if len(piece) == size]
            stacks += [sum(some, []) for some in evenly(same, max(1, together // size))]
    return sorted(stacks, key=lambda stack: -sum(map(work, stack)))


def evenly(items: list, limit: int) -> list[list]:
    """`items` cut into as few pieces as `limit` allows, their lengths differing by one at most."""
    count = -(-len(items) // limit)
    cuts = [round(i * len(items) / count) for i in range(count + 1)]
    return [items[a:b] for a, b in zip(cuts[:-1], cuts[1:], strict=True)]


def budget(device: torch.device, memory: int | None, workers: int) -> int:
    """Bytes for each worker's stack: of the whole process's `memory` on the CPU, of the device's elsewhere."""
    if device.type == "cpu":
        taken, free = psutil.Process().memory_info().rss, psutil.virtual_memory().available
        return int((memory or taken + 0.8 * free) - taken) // workers - OVERHEAD
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return min(memory or free, int(0.8 * free)) // workers
    return (memory or int(0.5 * psutil.virtual_memory().available)) // workers


def plan(configs: Sequence[RunConfig], device: torch.device, memory: int | None) -> tuple[list, int]:
    """(stacks, workers): as many workers as there are cores, stacks and memory for. UserError if a run does not fit."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    needed, cpu = max(sum(footprint(config)) for config in configs), device.type == "cpu"
    room = budget(device, memory, 1)
    if room < needed:
        base = f", of which {(memory - room) / 1e6:,.0f} MB are taken" if memory and cpu else ""
        said = f"memory: {memory / 1e6:,.0f} MB{base}" if memory else f"memory: {room / 1e6:,.0f} MB are free"
        raise UserError(f"{said}: too little for one of these runs, which takes up to {needed / 1e6:,.0f} MB more")
    fitting = [n for n in range(1, min(cores, len(configs)) + 1) if cpu and budget(device, memory, n) >= needed]
    workers = max(fitting, default=1)
    return pack(configs, device, workers, budget(device, memory, workers)), workers
