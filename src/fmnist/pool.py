"""Training many runs: pack them into stacks and keep the device, or every core, busy with stacks until all are done.

Packing follows from the runs, the device and the memory alone, never from a timing, so that a repeated job trains the
same stacks and gives the same bits.
"""

import ctypes
import gc
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from itertools import groupby

import psutil
import torch

from fmnist.config import RunConfig, UserError, layer_sizes, parameter_count
from fmnist.data import Data, load
from fmnist.feed import EVALUATION_ROWS
from fmnist.train import Result, train_stack

STACK_RUNS = {"cpu": 16, "accelerator": 1024}  # most runs of a stack; measured on the CPU: beyond 16 nothing is gained
OVERHEAD = 400_000_000  # bytes on the CPU beside the stacks: code that the libraries load, kernels, fragments
SMALL_STEP = 1 << 25  # multiply-adds below which a step on the CPU costs its calls, so that seeds share it, too
IMAGES = 60_000


def resolve_device(name: str = "auto") -> torch.device:
    """`auto` (the accelerator if there is one), `cpu`, `cuda`, `cuda:1` or `mps`; UserError if it is not there."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = ["mps"] if torch.backends.mps.is_available() else []
    there = ["auto", "cpu", *(["cuda"] if count else []), *(f"cuda:{i}" for i in range(count)), *mps]
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


def footprint(config: RunConfig) -> tuple[int, int]:
    """Bytes that a run takes in training, an upper bound: for itself, and for what it shares with its group."""
    size = 8 if config.precision == "float64" else 4
    weights = parameter_count(config.hidden_sizes, config.batch_norm)  # also best, both on the host, gradient, state, …
    rows, units = max(config.batch_size, EVALUATION_ROWS), sum(config.hidden_sizes) + 10
    own = 14 * weights * size + rows * (10 * units * size + 16) + 4 * IMAGES
    return own, 3 * rows * 784 * size + 4 * 8 * IMAGES


def alike(config: RunConfig) -> tuple:
    """What the runs of a stack have in common, the seed aside."""
    shape = (config.hidden_sizes, config.activation, config.batch_norm, config.dropout > 0)
    return (*shape, config.batch_size, config.epochs, config.val_size, config.precision)


def pack(configs: Iterable[RunConfig], device: torch.device, workers: int = 1, memory: int = 1 << 62) -> list:
    """Stacks, largest first, each a list of runs that can be trained as one, within `memory` bytes for each worker.

    A stack holds equally many runs of each of its seeds; on the CPU one seed, unless its steps are small.
    """
    ordered = sorted(configs, key=lambda c: (alike(c), c.seed, c.input_scaling, c.optimizer, c.run_id))
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
            step = config.batch_size * work(config) / max(config.epochs, 1)
            together = min(2 * limit, int(SMALL_STEP / step))
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
        return int((memory or taken + 0.8 * free) - taken - OVERHEAD) // workers
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return min(memory or free, int(0.8 * free)) // workers
    return (memory or int(0.5 * psutil.virtual_memory().available)) // workers


def plan(configs: Sequence[RunConfig], device: torch.device, memory: int | None) -> tuple[list, int]:
    """(stacks, workers): as many workers as there are cores, stacks and memory for. UserError if a run does not fit."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    needed = max(sum(footprint(config)) for config in configs)
    room = budget(device, memory, 1)
    if room < needed:
        base = f", of which {(memory - room) / 1e6:,.0f} MB are taken" if memory and device.type == "cpu" else ""
        said = f"memory: {memory / 1e6:,.0f} MB{base}" if memory else f"memory: {room / 1e6:,.0f} MB are free"
        raise UserError(f"{said}: too little for one of these runs, which takes up to {needed / 1e6:,.0f} MB more")
    workers = max(1, min(cores, len(configs), room // needed)) if device.type == "cpu" else 1
    return pack(configs, device, workers, room // workers), workers


Progress = Callable[[int, float, float], None]  # (epochs of single runs, their work, mean validation accuracy)


def train(
    configs: Sequence[RunConfig],
    finished: Callable[[Result], None],
    device: str = "auto",
    progress: Progress = lambda *_: None,
    memory: int | None = None,
) -> None:
    """Train all runs; `finished` takes each as its stack ends, `progress` is called after every epoch of a stack.

    On the CPU each core trains a stack of its own while there are several, and calls both from a thread of its own.
    Ctrl-C ends all; what has finished by then has been given to `finished`. `memory` bounds the bytes that are taken:
    of the process on the CPU, of the device elsewhere; left out, most of what is free. UserError if a run needs more.
    """
    on = resolve_device(device)
    if on.type == "mps" and any(config.precision == "float64" for config in configs):
        raise UserError("precision: float64 does not exist on mps; use device cpu, or precision float32")
    job = Job(load(on), on, finished, progress)
    stacks, workers = plan(configs, on, memory)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="stack")
    with settings(on, workers):
        try:
            pending = {pool.submit(job.run, stack) for stack in stacks}
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
        finally:
            job.stop.set()
            pool.shutdown(cancel_futures=True)


class Job:
    """What the workers of one `train` share."""

    def __init__(self, data: Data, device: torch.device, finished: Callable[[Result], None], progress: Progress):
        self.data, self.device, self.finished, self.progress = data, device, finished, progress
        self.stop = threading.Event()

    def run(self, stack: list[RunConfig]) -> None:
        """Train one stack; where the device's memory does not suffice after all, its halves."""
        each, done, seen = sum(map(work, stack)) / max(stack[0].epochs, 1), 0, 0.0

        def report(epoch: int, accuracy: float) -> None:
            nonlocal done, seen
            if epoch != done:
                self.progress((epoch - done) * len(stack), (epoch - done) * each, accuracy)
            done, seen = epoch, accuracy

        try:
            results = train_stack(stack, self.data, report, self.stop)
        except torch.OutOfMemoryError:
            results = None  # outside of the handler no traceback holds a tensor any more
        if results is not None:
            for result in results:
                self.finished(result)
            del results
            release(self.device)
            report(stack[0].epochs, seen)  # all of them, if every run has diverged before
            return
        release(self.device)
        if len(stack) == 1:
            raise UserError(f"device: {self.device} has too little free memory for a single run; use another device")
        report(0, 0.0)
        for half in evenly(stack, -(-len(stack) // 2)):
            self.run(half)


def release(device: torch.device) -> None:
    """Give back what the last stack took: freed memory that the allocator keeps counts against the bound, too."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform == "linux":
        with suppress(AttributeError, OSError):  # not every Linux has glibc
            ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def settings(device: torch.device, workers: int):
    """Each worker its share of the cores; on CUDA, products of float32 in TensorFloat-32. Both are the process's."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")  # of 1,024 kernels, each of a few MB
    try:
        if device.type == "cpu":
            torch.set_num_threads(max(1, threads // workers))
        elif device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
