"""Training many runs: keep the device, or every core, busy with stacks until all are done."""

import ctypes
import gc
import os
import queue
import threading
import timeit
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from itertools import groupby
from multiprocessing import get_context
from typing import Any

import psutil
import torch

from fmnist.config import AUGMENTATIONS, TRAIN_IMAGES, RunConfig, UserError, apart, follow_parent
from fmnist.data import load
from fmnist.engine.optim import scheduled
from fmnist.engine.train import CHUNK, Result, train_stack

STACK_RUNS = {"cpu": 16, "accelerator": 1024}  # most runs of a stack; measured on the CPU: beyond 16 nothing is gained
OVERHEAD = 450_000_000  # bytes of each worker on a CPU beside its stack: code, the data set, kernels, fragments
STEP_CALLS = 4e6  # multiply-adds that a run's share of a step's calls is worth; with batches of one image it is all
START = 3e11  # multiply-adds that take as long as to start a process: less is trained where it is asked for
LITTLE = 3e14  # multiply-adds that no machine needs a day for
SMALL_STEP = 1 << 27  # multiply-adds below which a step on the CPU costs its calls, so that seeds share it, too
ALIKE = ("dataset", "hidden_sizes", "activation", "batch_norm", "layer_norm", "residual", "batch_size", "epochs")
ALIKE += ("val_size", "precision", "ema_decay", "mixup", *AUGMENTATIONS)  # the same in all runs of a stack


def products(config: RunConfig) -> int:
    """Multiply-adds of an image's forward and backward pass."""
    first, *others = (a * b for a, b in config.layer_sizes)
    return 2 * first + 3 * sum(others)


def work(config: RunConfig) -> float:
    """What a run's training costs for each image of its train split, in multiply-adds; progress is measured in it."""
    return float((products(config) + STEP_CALLS / config.batch_size) * max(config.epochs, 1))


def estimate(configs: Sequence[RunConfig], device: torch.device) -> float:
    """Seconds that training takes, roughly: its work at the pace of a product measured now; 0 if it is little."""
    total = sum(map(work, configs)) * TRAIN_IMAGES  # multiply-adds
    if total < LITTLE:
        return 0.0
    a, b = torch.rand(2048, 1024, device=device), torch.rand(1024, 1024, device=device)
    fastest = min(timeit.repeat(lambda: (a @ b).sum().item(), number=1, repeat=4))
    return total * fastest / (a.numel() * b.shape[1])


def footprint(config: RunConfig) -> tuple[int, int]:
    """Bytes that a run takes in training, an upper bound: for itself, and for what it shares with its group."""
    size = 8 if config.precision == "float64" else 4
    copies = 14 + 2 * (config.ema_decay > 0)  # also best, both on the host, gradient, state, …
    rows, units = max(config.batch_size, CHUNK), (1 + config.layer_norm) * sum(config.hidden_sizes) + 10
    own = copies * config.parameters * size + rows * (10 * units * size + 16) + 4 * TRAIN_IMAGES
    augmented, mixed, taught = 6 * config.augments, 3 * (config.mixup > 0), 5 * bool(config.teachers)
    images = 4 * (8 + 3 * augmented + mixed + taught) * TRAIN_IMAGES
    return own, (3 + augmented + mixed) * rows * 784 * size + images


def alike(config: RunConfig) -> tuple:
    """What the runs of a stack have in common, the seed aside."""
    used = config.dropout > 0, config.label_smoothing > 0, scheduled(config)
    taught = tuple(teacher.trial_id for teacher in config.teacher_configs)
    return *used, taught, *(getattr(config, name) for name in ALIKE)


def pack(configs: Iterable[RunConfig], device: torch.device, workers: int = 1, memory: int = 1 << 62) -> list:
    """Stacks, largest first, each a list of runs that can be trained as one, within `memory` bytes for each worker, and
    with equally many runs of each of its seeds; on the CPU one seed, unless its steps are small.
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


Slots = list[tuple[torch.device, int]]  # for each stack that is trained at a time: where, and the bytes it may take


def plan(configs: Sequence[RunConfig], slots: Slots) -> list:
    """Stacks for a team: where some train on a CPU, such as a CPU takes. UserError if a run does not fit."""
    kinds = {device.type: device for device, _ in slots}
    if "mps" in kinds and any(config.precision == "float64" for config in configs):
        raise UserError("precision: float64 does not exist on mps; use device cpu, or precision float32")
    needed, room = max(sum(footprint(config)) for config in configs), min(memory for _, memory in slots)
    if room < needed:
        said = f"memory: {max(room, 0) / 1e6:,.0f} MB are free for training: too little for one of these runs"
        raise UserError(f"{said}, which takes up to {needed / 1e6:,.0f} MB")
    return pack(configs, kinds.get("cpu", slots[0][0]), len(slots), room)


def slots_here(configs: Sequence[RunConfig], device: torch.device, memory: int | None) -> Slots:
    """As many as there are cores, stacks and memory for; one on an accelerator."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = cores if sum(map(work, configs)) * TRAIN_IMAGES > START else 1
    needed = max(sum(footprint(config)) for config in configs)
    most = min(cores, len(configs)) if device.type == "cpu" else 1
    workers = max((n for n in range(2, most + 1) if budget(device, memory, n) >= needed), default=1)
    return [(device, budget(device, memory, workers))] * workers


def devices() -> list[str]:
    """What `device` may be on this machine: auto, cpu, and cuda, cuda:0, … or mps where there is one."""
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return ["auto", "cpu", *(["cuda"] if cuda else []), *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]


def resolve_device(name: str = "auto") -> torch.device:
    """One of `devices()`, `auto` being the accelerator if there is one; UserError if it is not there."""
    there = devices()
    if name not in there:
        raise UserError(f"device: {name}: this machine has no such device. Allowed here: {', '.join(there)}")
    return torch.device(next(best for best in ("cuda", "mps", "cpu") if best in there) if name == "auto" else name)


POLL = 0.02  # seconds between two looks at what the workers report
Progress = Callable[[int, float, float], None]  # (epochs of single runs, their work, mean validation accuracy)
Crew = tuple[Executor, Callable, Any, Any]  # what does which task with a stack, its reports, what stops it
Team = tuple[Slots, Crew]


@contextmanager
def here(configs: Sequence[RunConfig], device: str, memory: int | None) -> Iterator[Team]:
    """This machine as a team: its slots and their crew."""
    on = resolve_device(device)
    for name in dict.fromkeys(config.dataset for config in configs):
        load(on, name)  # or say that it cannot be had
    slots, reports, stop = slots_here(configs, on, memory), queue.SimpleQueue(), threading.Event()
    thread = ThreadPoolExecutor(1, "stack"), partial(train_here, on, reports, stop), reports, stop
    with settings(on, len(slots)):
        yield slots, processes(on, len(slots)) if len(slots) > 1 else thread


def train(
    configs: Sequence[RunConfig],
    finished: Callable[[Result], None],
    device: str = "auto",
    progress: Progress = lambda *_: None,
    memory: int | None = None,
    team: Callable = here,
) -> None:
    """Train all runs; `finished` takes each as its stack ends, `progress` is called after every epoch of a stack.

    Ctrl-C ends all; what has been trained by then has been `finished`. `memory` bounds the bytes taken: by the process
    and its workers on the CPU, of the device elsewhere; left out, most of what is free. UserError if a run needs more.
    """
    with team(configs, device, memory) as (slots, (executor, task, reports, stop)):
        stacks, waiting, heard = plan(configs, slots), [], {}
        try:
            with apart():
                waiting += [executor.submit(task, stack) for stack in stacks]
            while waiting or not reports.empty():
                if reports.empty():
                    wait(waiting, timeout=POLL)
                else:
                    key, epochs, done, accuracy = reports.get()  # of a stack, so far
                    before, heard[key] = heard.get(key, (0, 0.0)), (epochs, done)
                    progress(epochs - before[0], done - before[1], accuracy)  # back, where it is trained anew
                deliver(waiting, finished)
        except BaseException as error:
            for future in waiting:
                future.cancel()
            stop.set()
            executor.shutdown()  # what is in training has ended then
            processes.cache_clear()
            deliver([each for each in waiting if not each.cancelled() and not each.exception()], finished)
            if isinstance(error, BrokenProcessPool):
                said = "a worker was killed, perhaps for want of memory; try a smaller --memory"
                raise UserError(f"training: {said}") from None
            raise


def deliver(waiting: list[Future], finished: Callable[[Result], None]) -> None:
    """Hand on what has been trained; what `finished` did not take to its end comes again the next time."""
    for future in [future for future in waiting if future.done()]:
        results = future.result()  # each time the same list
        while results:
            finished(results[0])
            results.pop(0)
        waiting.remove(future)


def train_here(device: torch.device, reports: Any, stop: Any, stack: list[RunConfig]) -> list[Result]:
    """Train one stack and report every epoch; where the device's memory does not suffice after all, its halves."""
    each, key = sum(map(work, stack)) / max(stack[0].epochs, 1), stack[0].run_id

    def report(epoch: int, accuracy: float, *_: Any) -> None:
        reports.put([key, epoch * len(stack), epoch * each, float(accuracy)])

    if stop.is_set():
        raise KeyboardInterrupt
    release(device)
    with suppress(torch.OutOfMemoryError):
        results = train_stack(stack, load(device, stack[0].dataset), report, stop)
        report(stack[0].epochs, results[0].history["val_accuracy"][-1])  # all, if every run has diverged before
        return results
    if len(stack) == 1:
        raise UserError(f"device: {device} has too little free memory for a single run; use another device")
    report(0, 0.0)
    halves = evenly(stack, -(-len(stack) // 2))
    return [result for half in halves for result in train_here(device, reports, stop, half)]


@lru_cache(maxsize=1)  # kept for what is trained next: they take seconds to start
def processes(device: torch.device, workers: int) -> Crew:
    """Spawned, as the fork of a process in which OpenMP has run may hang."""
    context = get_context("spawn")
    reports, stop = context.SimpleQueue(), context.Event()
    given = partial(train_here, device, reports, stop), torch.get_num_threads()
    return ProcessPoolExecutor(workers, context, _join, given), _work, reports, stop


def _join(task: Callable, threads: int) -> None:
    """In a process, at its start: it is to end with its parent."""
    global _work_here
    _work_here = task
    torch.set_num_threads(threads)
    keep_memory()
    follow_parent(interrupted=False)


def _work(stack: list[RunConfig]) -> list[Result]:
    return _work_here(stack)


def glibc(name: str, *numbers: int) -> None:
    """Call a function of the C library, where it has it."""
    with suppress(AttributeError, OSError, TypeError):
        getattr(ctypes.CDLL(None), name)(*numbers)


def keep_memory() -> None:
    """What a step has freed is kept for the next one: of one stack, 480,000 page faults, 6.5 s, became 100, 2.9 s."""
    glibc("mallopt", -1, 1 << 30)  # malloc.h's M_TRIM_THRESHOLD
    glibc("mallopt", -3, 1 << 25)  # M_MMAP_THRESHOLD


def release(device: torch.device) -> None:
    """Give back what the last stack took: freed memory that the allocator keeps counts against the bound, too."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        glibc("malloc_trim", 0)


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
