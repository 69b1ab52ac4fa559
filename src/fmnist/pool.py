"""Training many runs: pack them into stacks and keep the device, or every core, busy with stacks until all are done."""

import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from itertools import groupby

import torch

from fmnist.config import RunConfig, UserError, layer_sizes
from fmnist.data import load
from fmnist.train import Result, train_stack

STACK_RUNS = {"cpu": 8, "accelerator": 512}  # most runs of a stack


def resolve_device(name: str = "auto") -> torch.device:
    """`auto` (the accelerator if there is one), `cpu`, `cuda`, `cuda:1` or `mps`; UserError if it is not there."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = torch.backends.mps.is_available()
    there = [
        "auto",
        "cpu",
        *(["cuda"] if count else []),
        *(f"cuda:{i}" for i in range(count)),
        *(["mps"] if mps else []),
    ]
    if name not in there:
        known = name == "mps" or name == "cuda" or name.startswith("cuda:") and name[5:].isdigit()
        problem = "this machine has no such device" if known else "unknown device"
        raise UserError(f"device: {name}: {problem}. Allowed here: {', '.join(there)}")
    if name == "auto":
        name = "cuda" if count else "mps" if mps else "cpu"
    return torch.device(name)


def work(config: RunConfig) -> float:
    """Multiply-adds of a run's training for each image of its train split; progress and ETA are measured in it."""
    sizes = layer_sizes(config.hidden_sizes)
    per_image = 3 * sum(a * b for a, b in sizes) - sizes[0][0] * sizes[0][1]
    return float(per_image * max(config.epochs, 1))


def pack(configs: Iterable[RunConfig], device: torch.device) -> list[list[RunConfig]]:
    """Runs that can be trained as one, largest stacks first. On the CPU a stack shares its batches: one seed."""
    cpu = device.type == "cpu"

    def alike(c: RunConfig) -> tuple:
        shape = (
            c.hidden_sizes,
            c.activation,
            c.batch_norm,
            c.batch_size,
            c.epochs,
            c.val_size,
            c.precision,
            c.dropout > 0,
        )
        return (*shape, c.seed, c.input_scaling) if cpu else shape

    ordered = sorted(configs, key=lambda c: (alike(c), c.seed, c.input_scaling, c.optimizer))
    limit, stacks = STACK_RUNS["cpu" if cpu else "accelerator"], []
    for _, group in groupby(ordered, key=alike):
        members = list(group)
        size = math.ceil(len(members) / math.ceil(len(members) / limit))
        stacks += [members[start : start + size] for start in range(0, len(members), size)]
    return sorted(stacks, key=lambda stack: -sum(map(work, stack)))


Progress = Callable[[int, float, float], None]  # (epochs of single runs, their work, mean validation accuracy)


def train(configs: Sequence[RunConfig], device: str = "auto", progress: Progress = lambda *_: None) -> Iterator[Result]:
    """Train all runs, yielding each as its stack ends; `progress` is called after every epoch of a stack.

    On the CPU each core trains a stack of its own while there are several. Stopping the iteration or Ctrl-C ends all.
    """
    on = resolve_device(device)
    if on.type == "mps" and any(config.precision == "float64" for config in configs):
        raise UserError("precision: float64 does not exist on mps; use device cpu, or precision float32")
    data, stacks, stop = load(on), pack(configs, on), threading.Event()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(cores, len(stacks)) if on.type == "cpu" else 1
    before = torch.get_num_threads()

    def one(stack: list[RunConfig]) -> list[Result]:
        per_epoch = sum(map(work, stack)) / max(stack[0].epochs, 1)
        return train_stack(stack, data, lambda _, accuracy: progress(len(stack), per_epoch, accuracy), stop)

    pool = ThreadPoolExecutor(max(workers, 1), thread_name_prefix="stack")
    try:
        torch.set_num_threads(max(1, cores // max(workers, 1)))  # of each worker: the setting is the process's
        pending = {pool.submit(one, stack) for stack in stacks}
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield from future.result()
    except torch.OutOfMemoryError:
        raise UserError(
            f"device: {on} has too little free memory for a stack of {len(stacks[0])} runs; use another device"
        ) from None
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
