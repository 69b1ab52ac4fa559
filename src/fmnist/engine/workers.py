"""Training many runs: keep the device, or every core, busy with stacks until all are done."""

import ctypes
import gc
import os
import queue
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from multiprocessing import parent_process
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType
from typing import Any, ClassVar

import psutil
import torch

from fmnist.config import TRAIN_IMAGES, RunConfig, UserError, layer_sizes, parameter_count
from fmnist.data import load
from fmnist.engine.stack import SLOPES
from fmnist.engine.train import CHUNK, Result, train_stack

STACK_RUNS = {"cpu": 16, "accelerator": 1024}  # most runs of a stack; measured on the CPU: beyond 16 nothing is gained
OVERHEAD = 450_000_000  # bytes of each worker on a CPU beside its stack: code, the data set, kernels, fragments
STEP_CALLS = 4e6  # multiply-adds that a run's share of a step's calls is worth; with batches of one image it is all
START = 3e11  # multiply-adds that take as long as to start a process: less is trained where it is asked for
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
    ordered = sorted(
        configs, key=lambda c: (alike(c), c.seed, c.input_scaling, c.optimizer, c.momentum, c.weight_decay, c.run_id)
    )
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
    cores = cores if sum(map(work, configs)) * TRAIN_IMAGES > START else 1
    needed, cpu = max(sum(footprint(config)) for config in configs), device.type == "cpu"
    room = budget(device, memory, 1)
    if room < needed:
        base = f", of which {(memory - room) / 1e6:,.0f} MB are taken" if memory and cpu else ""
        said = f"memory: {memory / 1e6:,.0f} MB{base}" if memory else f"memory: {room / 1e6:,.0f} MB are free"
        raise UserError(f"{said}: too little for one of these runs, which takes up to {needed / 1e6:,.0f} MB more")
    fitting = [n for n in range(1, min(cores, len(configs)) + 1) if cpu and budget(device, memory, n) >= needed]
    workers = max(fitting, default=1)
    return pack(configs, device, workers, budget(device, memory, workers)), workers


def devices() -> list[str]:
    """What `device` may be on this machine: auto, cpu, and cuda, cuda:0, … or mps where there is one."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return ["auto", "cpu", *(["cuda"] if count else []), *(f"cuda:{i}" for i in range(count)), *mps]


def resolve_device(name: str = "auto") -> torch.device:
    """`auto` (the accelerator if there is one), `cpu`, `cuda`, `cuda:1` or `mps`; UserError if it is not there."""
    there = devices()
    if name not in there:
        known = name == "mps" or name == "cuda" or name.startswith("cuda:") and name[5:].isdigit()
        problem = "this machine has no such device" if known else "unknown device"
        raise UserError(f"device: {name}: {problem}. Allowed here: {', '.join(there)}")
    if name == "auto":
        name = next((best for best in ("cuda", "mps") if best in there), "cpu")
    return torch.device(name)


ENVIRONMENT = {  # of the processes
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",  # of 1,024 kernels, each of a few MB
    "MALLOC_MMAP_THRESHOLD_": str(1 << 25),  # the C library keeps what a step has freed for the next one,
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),  # instead of fetching it page by page again
}
POLL = 0.02  # seconds between two looks at what the workers report
Progress = Callable[[int, float, float], None]  # (epochs of single runs, their work, mean validation accuracy)


def train(
    configs: Sequence[RunConfig],
    finished: Callable[[Result], None],
    device: str = "auto",
    progress: Progress = lambda *_: None,
    memory: int | None = None,
) -> None:
    """Train all runs; `finished` takes each as its stack ends, `progress` is called after every epoch of a stack.

    On the CPU each core trains a stack of its own while there are several. Ctrl-C ends all; what has been trained by
    then has been given to `finished`. `memory` bounds the bytes that are taken: of the process and its workers on the
    CPU, of the device elsewhere; left out, most of what is free. UserError if a run needs more.
    """
    on = resolve_device(device)
    if on.type == "mps" and any(config.precision == "float64" for config in configs):
        raise UserError("precision: float64 does not exist on mps; use device cpu, or precision float32")
    for name in dict.fromkeys(config.dataset for config in configs):
        load(on, name)  # or say that it cannot be had
    stacks, workers = plan(configs, on, memory)
    with settings(on, workers):
        crew = Crew.hire(on, workers)
        waiting, trained, whole = [], deque(), False

        def deliver() -> None:
            for future in [future for future in waiting if future.done()]:
                waiting.remove(future)
                trained.extend(future.result())
            while trained:
                finished(trained[0])
                trained.popleft()

        try:
            waiting += [crew.executor.submit(crew.task, stack) for stack in stacks]
            while waiting or not crew.reports.empty():
                if crew.reports.empty():
                    wait(waiting, timeout=POLL)
                else:
                    progress(*crew.reports.get())
                deliver()
            whole = True
        except BrokenProcessPool:
            said = "training: a worker was killed, perhaps for want of memory; try a smaller --memory"
            raise UserError(said) from None
        finally:
            crew.release(whole)
            waiting = [future for future in waiting if not future.cancelled() and not future.exception()]
            deliver()


@dataclass
class Worker:
    """Trains a stack at a time on its device and reports every epoch."""

    device: torch.device
    reports: Any  # a queue of what `Progress` takes
    stop: Any  # an event: end at once

    def __call__(self, stack: list[RunConfig]) -> list[Result]:
        """Train one stack; where the device's memory does not suffice after all, its halves."""
        each, done, seen = sum(map(work, stack)) / max(stack[0].epochs, 1), 0, 0.0

        def report(epoch: int, accuracy: float) -> None:
            nonlocal done, seen
            if epoch != done:
                self.reports.put(((epoch - done) * len(stack), (epoch - done) * each, accuracy))
            done, seen = epoch, accuracy

        if self.stop.is_set():
            raise KeyboardInterrupt
        release(self.device)
        with suppress(torch.OutOfMemoryError):
            results = train_stack(stack, load(self.device, stack[0].dataset), report, self.stop)
            report(stack[0].epochs, seen)  # all of them, if every run has diverged before
            return results
        if len(stack) == 1:
            raise UserError(f"device: {self.device} has too little free memory for a single run; use another device")
        report(0, 0.0)
        return [result for half in evenly(stack, -(-len(stack) // 2)) for result in self(half)]


class Crew:
    """A `concurrent.futures.Executor` and the `task` it does: here in a thread, or in a process for each core.

    Processes are spawned, as the fork of a process in which OpenMP has run may hang; each finds the data set itself.
    They take seconds to start, so that the last ones are `kept` for what is trained next.
    """

    kept: "ClassVar[list[Crew]]" = []

    def __init__(self, device: torch.device, workers: int):
        self.workers, context = workers, SpawnedApart()
        if workers == 1:
            self.reports, self.stop = queue.SimpleQueue(), threading.Event()
            self.task, self.executor = Worker(device, self.reports, self.stop), ThreadPoolExecutor(1, "stack")
        else:
            self.reports, self.stop = context.SimpleQueue(), context.Event()
            given = (Worker(device, self.reports, self.stop), torch.get_num_threads())
            self.task, self.executor = _work, ProcessPoolExecutor(workers, context, _join, given)

    @classmethod
    def hire(cls, device: torch.device, workers: int) -> "Crew":
        while workers > 1 and cls.kept:
            crew = cls.kept.pop()
            if crew.workers == workers:
                return crew
            crew.dismiss()
        return cls(device, workers)

    def release(self, whole: bool) -> None:
        """Keep the processes if they are sound and none are kept yet."""
        if whole and self.workers > 1 and not self.kept:
            self.kept.append(self)
        else:
            self.dismiss()

    def dismiss(self) -> None:
        """Stop what is in training and wait for it."""
        self.stop.set()
        self.executor.shutdown(cancel_futures=True)


class ApartProcess(SpawnProcess):
    """A process that does not run the caller's script again, which need not say `if __name__ == "__main__"`.

    Nor does Ctrl-C reach it: that is the parent's, which says when to stop.
    """

    def start(self) -> None:
        main, signals = sys.modules["__main__"], getattr(signal, "pthread_sigmask", lambda *_: set())
        before = signals(signal.SIG_BLOCK, {signal.SIGINT})  # inherited
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            super().start()
        finally:
            sys.modules["__main__"] = main
            signals(signal.SIG_SETMASK, before)


class SpawnedApart(SpawnContext):
    Process = ApartProcess


def _join(worker: Worker, threads: int) -> None:
    """In a process, at its start: it is to end with its parent."""
    global _worker
    _worker = worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    threading.Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()


def _work(stack: list[RunConfig]) -> list[Result]:
    return _worker(stack)


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
    os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})
    try:
        if device.type == "cpu":
            torch.set_num_threads(max(1, threads // workers))
        elif device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
