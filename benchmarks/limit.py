"""What this machine is, and the least time its matrix products could take: the measure of every implementation.

`limit` times each product of a stack's training step, in its exact shape, alone and repeated, in every way that is
available: torch.mm or bmm and oneDNN's linear, operands stored by rows or by columns, all threads on one product or one
product on each core. The best of each, added up, is what nobody gets below with these libraries: no loss, no
activation, no update, no gathering of batches. A step's traffic, at the speed of a large copy, is reported beside it;
most of it stays in the caches, so it is not part of the limit.
"""

import os
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from itertools import product as combinations
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fmnist.config import RunConfig
from task import TRAIN, VAL, Task, cores

INSTRUCTIONS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
PACKAGES = ("torch", "torchvision", "jax", "jaxlib", "scikit-learn", "numpy", "pillow")
SLICE, REPEATS = 0.02, 3  # seconds a way is repeated for, and how often: the quickest counts


class Product(NamedTuple):
    """`count` products [m, k] · [k, n] of one training step, and how many images of an epoch pass through them."""

    name: str
    count: int
    m: int
    k: int
    n: int
    images: int

    @property
    def flop(self) -> int:
        return 2 * self.count * self.m * self.k * self.n


def products(task: Task) -> Iterator[Product]:
    """All of a stack's step. The runs share their images, so the first layers of all of them are one product."""
    b, (first, *others) = task.batch_size, RunConfig(hidden_sizes=task.hidden_sizes).layer_sizes
    inputs, width = first[0], task.runs * first[1]
    yield Product("layer 1 forward", 1, b, inputs, width, TRAIN + VAL)
    yield Product("layer 1 weight gradient", 1, inputs, b, width, TRAIN)
    for layer, (n_in, n_out) in enumerate(others, start=2):
        yield Product(f"layer {layer} forward", task.runs, b, n_in, n_out, TRAIN + VAL)
        yield Product(f"layer {layer} weight gradient", task.runs, n_in, b, n_out, TRAIN)
        yield Product(f"layer {layer} input gradient", task.runs, b, n_out, n_in, TRAIN)


def ways(p: Product, dtype: torch.dtype, device: str) -> dict[str, Callable[[], object]]:
    """Every way to compute `p`, with operands of its own."""

    def operand(rows: int, columns: int, transposed: bool) -> Tensor:
        shape = (p.count, columns, rows) if transposed else (p.count, rows, columns)
        values = torch.rand(shape, device=device).sub_(0.5).to(dtype)
        return values.mT if transposed else values

    found = {}
    for a_by, b_by in combinations((False, True), repeat=2):
        a, b = operand(p.m, p.k, a_by), operand(p.k, p.n, b_by)
        layout = f"{'by columns' if a_by else 'by rows'} · {'by columns' if b_by else 'by rows'}"
        out = torch.empty(p.count, p.m, p.n, dtype=dtype, device=device)
        if p.count == 1:
            found[f"mm, {layout}"] = lambda a=a[0], b=b[0], out=out[0]: torch.mm(a, b, out=out)
        else:
            found[f"bmm, {layout}"] = lambda a=a, b=b, out=out: torch.bmm(a, b, out=out)
        if device == "cpu" and torch.backends.mkldnn.is_available():
            found[f"oneDNN, {layout}"] = lambda a=a, w=b.mT: each_linear(a, w)
            found[f"oneDNN, {layout}, transposed"] = lambda x=b.mT, w=a: each_linear(x, w)
    return found


def each_linear(x: Tensor, w: Tensor) -> None:
    """x · wᵀ of [count, batch, in] and [count, out, in] by the operator that torch.compile uses."""
    for one_x, one_w in zip(x, w, strict=True):
        torch.ops.mkldnn._linear_pointwise(one_x, one_w, None, "none", [], "")


def repeat(call: Callable[[], object], times: int, device: str) -> None:
    with torch.inference_mode():
        for _ in range(times):
            call()
        if device != "cpu":
            torch.accelerator.synchronize()


def seconds_of(calls: list[Callable[[], object]], device: str, pool: ThreadPoolExecutor | None) -> float:
    """Least seconds of a call when all `calls` are repeated side by side, each in a thread of the pool."""

    def wall(times: int) -> float:
        start = time.perf_counter()
        if pool is None:
            repeat(calls[0], times, device)
        else:
            list(pool.map(lambda call: repeat(call, times, device), calls))
        return time.perf_counter() - start

    wall(1)
    times = 1 + int(SLICE / max(wall(1), 1e-6))
    return min(wall(times) for _ in range(REPEATS)) / times / len(calls)


def best(p: Product, dtype: torch.dtype, device: str) -> tuple[float, str]:
    """Seconds of the whole product, and which way it was."""
    found = {name: seconds_of([call], device, None) for name, call in ways(p, dtype, device).items()}
    if device == "cpu" and cores() > 1:
        before = torch.get_num_threads()
        torch.set_num_threads(1)  # of every thread that starts from here on
        with ThreadPoolExecutor(cores()) as pool:
            lanes = [ways(p, dtype, device) for _ in range(cores())]
            for name in lanes[0]:
                found[f"{name}, one a core"] = seconds_of([lane[name] for lane in lanes], device, pool)
        torch.set_num_threads(before)
    way = min(found, key=found.get)
    return found[way], way


def step_bytes(task: Task, precision: str) -> int:
    """Bytes that a stack's step must move: weights read and written, gradients written and read, all in float32;
    images read forward and backward; activations and logits written and read, and their gradients."""
    sizes = RunConfig(hidden_sizes=task.hidden_sizes).layer_sizes
    weights = task.runs * sum(n_in * n_out + n_out for n_in, n_out in sizes)
    activations = task.batch_size * task.runs * sum(n_out for _, n_out in sizes)
    item = getattr(torch, precision).itemsize
    return 4 * 4 * weights + item * (2 * task.batch_size * sizes[0][0] + 4 * activations)


def copy_speed(device: str) -> float:
    """Bytes read plus bytes written per second of a copy of 256 MiB."""
    source = torch.zeros(1 << 26, device=device)
    target = torch.zeros_like(source)
    return 2 * source.nbytes / seconds_of([lambda: target.copy_(source)], device, None)


def limit(task: Task, precision: str) -> dict[str, Any]:
    """Seconds per run and epoch that the products need, product by product, and those of the traffic."""
    total, listed = 0.0, []
    for p in products(task):
        seconds, way = best(p, getattr(torch, precision), task.device)
        total += seconds * p.images / task.batch_size / task.runs
        shape = [p.count, p.m, p.k, p.n]
        listed.append({"product": p.name, "shape": shape, "gflop_per_second": p.flop / seconds / 1e9, "way": way})
    moved = step_bytes(task, precision) * TRAIN / task.batch_size / task.runs
    speed = copy_speed(task.device)
    return {
        "seconds_per_run_epoch": total,
        "bytes_per_run_epoch": moved,
        "copy_bytes_per_second": speed,
        "seconds_of_bytes": moved / speed,
        "products": listed,
    }


def machine(device: str) -> dict[str, Any]:
    """Name, cores, instruction sets that matter to a product, memory."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    name = fields.get("model name") or platform.processor() or platform.machine()
    found = {"cpu": name, "cores": cores(), "instructions": [flag for flag in INSTRUCTIONS if flag in flags]}
    if hasattr(os, "sysconf"):
        found["memory_gb"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9)
    if device != "cpu":
        found["gpu"] = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    return {"name": found.get("gpu") or f"{name}, {cores()} cores", **found}


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
