"""Training one stack: epochs, evaluation, and taking it apart into each run's result.

Validation selects; the test set is read once per run, after its last epoch, with the weights of the last epoch and
with those of the best validation epoch.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from fmnist.config import RunConfig
from fmnist.data import Data, epoch_order, scaling, split
from fmnist.model import PARAMETER_DTYPE, dropout_keys
from fmnist.optim import Optimizer
from fmnist.stack import Groups, Stack, cross_entropy, cross_entropy_gradient

TEST_BATCH = 256  # the published reports' "±" is the spread of accuracy over test batches of this size
EVALUATION_ROWS = 2_000  # images that evaluation sends through a stack at a time


@dataclass(frozen=True)
class Result:
    """One finished run. Accuracies in [0, 1], losses in nats; what a diverged run lacks (last epoch, or all) is NaN."""

    config: RunConfig
    history: dict[str, np.ndarray]  # epoch 0 (before training) to the last, see HISTORY
    metrics: dict[str, float | int | bool]
    predictions: np.ndarray  # uint8 [2, test images]: with the last weights, with the best validation epoch's
    weights: dict[str, np.ndarray]  # MLP's state_dict after the last epoch
    best_weights: dict[str, np.ndarray]  # at the best validation epoch
    device: str
    data_checksum: str


Measured = tuple[Tensor, Tensor, Tensor]  # what `evaluate` gives
HISTORY = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds")


def device_name(device: torch.device) -> str:
    """The device in words, as stored with a run: "cpu", "cuda (NVIDIA H200)"."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


@dataclass
class Feed:
    """What neighbouring runs of one seed and scaling share: their images, scaled batch by batch, and their labels."""

    runs: slice
    data: Data
    train: Tensor  # indices of the train split, int64, on the device
    val: Tensor
    scale: float
    shift: float
    dtype: torch.dtype  # of the weights
    compute_dtype: torch.dtype  # of the products

    def inputs(self, images: Tensor, rows: Tensor | slice) -> Tensor:
        """[rows, 784] scaled."""
        x = images[rows] if isinstance(rows, slice) else images.index_select(0, rows)
        return x.to(self.dtype).mul_(self.scale).add_(self.shift).to(self.compute_dtype)


def feeds(stack: Stack, data: Data) -> list[Feed]:
    found, start = [], 0
    for (seed, kind), members in groupby(stack.configs, key=lambda c: (c.seed, c.input_scaling)):
        config, *others = members
        train, val = split(len(data.train_labels), config.val_size, seed)
        scale, shift = scaling(data.train_images, train, kind)
        runs, device = slice(start, start + 1 + len(others)), data.train_images.device
        dtype = PARAMETER_DTYPE[config.precision]
        found.append(Feed(runs, data, train.to(device), val.to(device), scale, shift, dtype, stack.compute_dtype))
        start = runs.stop
    return found


def train_epoch(
    stack: Stack, optimizer: Optimizer, feeds: Sequence[Feed], epoch: int, stop: threading.Event
) -> tuple[Tensor, Tensor]:
    """One epoch of every run: mean loss and accuracy [runs] over its batches, in training mode, as they are seen."""
    config, device = stack.configs[0], stack.parameters[0].device
    n = len(feeds[0].train)
    orders = [feed.train[epoch_order(n, stack.configs[feed.runs.start].seed, epoch).to(device)] for feed in feeds]
    labels = torch.cat(
        [f.data.train_labels[o].expand(f.runs.stop - f.runs.start, n) for f, o in zip(feeds, orders, strict=True)]
    )
    steps = math.ceil(n / config.batch_size)
    seeds = [c.seed for c in stack.configs]
    keys = (
        [dropout_keys(seeds, layer, (epoch - 1) * steps, steps).to(device) for layer in range(stack.depth)]
        if stack.dropout is not None
        else []
    )
    scale = torch.tensor([c.loss_scale for c in stack.configs], dtype=stack.parameters[0].dtype, device=device)
    total_loss, total_correct = torch.zeros_like(scale), torch.zeros_like(scale)
    for step in range(steps):
        if stop.is_set():
            raise KeyboardInterrupt
        rows = slice(step * config.batch_size, min(n, (step + 1) * config.batch_size))
        groups = [(f.runs, f.inputs(f.data.train_images, order[rows])) for f, order in zip(feeds, orders, strict=True)]
        logits = stack.forward(groups, [key[step] for key in keys], training=True)
        loss, predicted, log_p = cross_entropy(logits, labels[:, rows])
        dlogits = cross_entropy_gradient(log_p, labels[:, rows])
        dlogits *= (scale / (rows.stop - rows.start))[:, None, None]
        optimizer.step(stack.backward(groups, dlogits))
        total_loss += loss
        total_correct += (predicted == labels[:, rows]).sum(1)
    return total_loss / n, total_correct / n


def evaluate(stack: Stack, feeds: Sequence[Feed], part: str) -> Measured:
    """Mean loss [runs], accuracy [runs] and predictions uint8 [runs, images] on `part`: "train", "val" or "test"."""
    losses, predictions, labels = [], [], []
    for groups, target in chunks(feeds, part):
        loss, predicted, _ = cross_entropy(stack.forward(groups), target)
        losses.append(loss)
        predictions.append(predicted.to(torch.uint8))
        labels.append(target)
    predicted = torch.cat(predictions, 1)
    return sum(losses) / predicted.shape[1], (predicted == torch.cat(labels, 1)).to(losses[0].dtype).mean(1), predicted


def chunks(feeds: Sequence[Feed], part: str) -> Iterator[tuple[Groups, Tensor]]:
    """The images of `part` in order, a chunk at a time: (groups, labels [runs, chunk])."""
    data = feeds[0].data
    images, labels = (data.test_images, data.test_labels) if part == "test" else (data.train_images, data.train_labels)
    count = len(labels) if part == "test" else len(getattr(feeds[0], part))
    for start in range(0, count, EVALUATION_ROWS):
        window = slice(start, start + EVALUATION_ROWS)
        rows = [window if part == "test" else getattr(feed, part)[window] for feed in feeds]
        yield (
            [(feed.runs, feed.inputs(images, row)) for feed, row in zip(feeds, rows, strict=True)],
            torch.cat([labels[row].expand(f.runs.stop - f.runs.start, -1) for f, row in zip(feeds, rows, strict=True)]),
        )


class Record:
    """Curves of a stack's runs, their best validation weights, and which have diverged."""

    def __init__(self, stack: Stack):
        self.stack, self.rows = stack, []
        self.alive = torch.ones(len(stack.configs), dtype=torch.bool, device=stack.parameters[0].device)
        self.best_accuracy = torch.full_like(self.alive, -1, dtype=stack.parameters[0].dtype)
        self.best_epoch = torch.zeros_like(self.alive, dtype=torch.int64)
        self.best_state = {name: tensor.clone() for name, tensor in stack.state.items()}
        self.epochs_seen = torch.zeros_like(self.best_epoch)

    def add(self, epoch: int, train: tuple[Tensor, Tensor] | None, val: tuple[Tensor, Tensor], seconds: float) -> None:
        loss, accuracy = val
        train_loss, train_accuracy = train if train else (torch.full_like(loss, math.nan),) * 2
        self.alive &= loss.isfinite() & (train_loss.isfinite() if train else True)
        self.epochs_seen[self.alive] = epoch
        better = self.alive & (accuracy > self.best_accuracy)
        self.best_accuracy[better] = accuracy[better]
        self.best_epoch[better] = epoch
        for name, tensor in self.stack.state.items():
            self.best_state[name][better] = tensor[better]
        columns = (
            torch.full_like(loss, epoch),
            train_loss,
            train_accuracy,
            loss,
            accuracy,
            torch.full_like(loss, seconds),
        )
        self.rows.append(torch.stack(columns, 1))

    def table(self) -> np.ndarray:
        """Every curve, float64 [epochs + 1, runs, len(HISTORY)]."""
        return torch.stack(self.rows).cpu().double().numpy()


Watch = Callable[[int, float], None]  # (epoch, mean validation accuracy of the stack)


@torch.inference_mode()
def train_stack(
    configs: Sequence[RunConfig], data: Data, watch: Watch = lambda *_: None, stop: threading.Event | None = None
) -> list[Result]:
    """Train runs of one architecture; `data` is on the device that trains. KeyboardInterrupt once `stop` is set."""
    stop, begin = stop or threading.Event(), time.perf_counter()
    stack = Stack(configs, data.train_images.device)
    optimizer, record, sources = Optimizer(stack.parameters, configs), Record(stack), feeds(stack, data)
    record.add(0, None, evaluate(stack, sources, "val")[:2], 0.0)
    for epoch in range(1, configs[0].epochs + 1):
        start = time.perf_counter()
        train = train_epoch(stack, optimizer, sources, epoch, stop)
        val = evaluate(stack, sources, "val")[:2]
        accuracy = float(val[1].mean())  # waits for the device, so that the time is the epoch's
        record.add(epoch, train, val, (time.perf_counter() - start) / len(configs))
        watch(epoch, accuracy)
        if not record.alive.any():
            break
    return finish(stack, sources, record, begin)


def finish(stack: Stack, sources: Sequence[Feed], record: Record, begin: float) -> list[Result]:
    """Read the test set, with the last weights and with the best ones, and take the stack apart into results."""
    data, last = sources[0].data, on_host(stack.state)
    train, test = evaluate(stack, sources, "train"), evaluate(stack, sources, "test")
    for name, tensor in stack.state.items():
        tensor.copy_(record.best_state[name])
    best, weights = evaluate(stack, sources, "test"), on_host(stack.state)
    predictions = torch.stack([test[2], best[2]], 1).cpu().numpy()  # [runs, 2, test images]
    table, end, metrics = record.table(), record.epochs_seen.cpu().numpy(), measure(record, train, test, best, data)
    seconds, device = (time.perf_counter() - begin) / len(stack.configs), device_name(data.train_images.device)
    results = []
    for run, config in enumerate(stack.configs):
        history = dict(zip(HISTORY, table[: end[run] + 1, run].T.copy(), strict=True))
        history["epoch"] = history["epoch"].astype(np.int64)
        measured = {name: values[run].item() for name, values in metrics.items()} | {"seconds": seconds}
        states = ({name: array[run].copy() for name, array in state.items()} for state in (last, weights))
        results.append(Result(config, history, measured, predictions[run], *states, device, data.checksum))
    return results


def measure(record: Record, train: Measured, test: Measured, best: Measured, data: Data) -> dict[str, np.ndarray]:
    """Every metric but the time, [runs] each; NaN where a diverged run has none."""
    table, alive, labels = record.table(), record.alive.cpu().numpy(), data.test_labels
    end, best_accuracy = record.epochs_seen.cpu().numpy(), record.best_accuracy.cpu().double().numpy()
    val_loss, val_accuracy = table[end, np.arange(len(end)), 3:5].T
    spread, best_spread = batch_spread(test[2] == labels), batch_spread(best[2] == labels)
    at_end = {"train_loss": train[0], "train_accuracy": train[1], "val_loss": val_loss, "val_accuracy": val_accuracy}
    at_end |= {"test_loss": test[0], "test_accuracy": test[1], "test_accuracy_std": spread}
    at_best = {"best_val_accuracy": best_accuracy, "best_val_test_loss": best[0]}
    at_best |= {"best_val_test_accuracy": best[1], "best_val_test_accuracy_std": best_spread}
    kept = [(name, values, alive) for name, values in at_end.items()]
    kept += [(name, values, best_accuracy >= 0) for name, values in at_best.items()]
    metrics = {name: np.where(there, torch.as_tensor(v).cpu().double().numpy(), np.nan) for name, v, there in kept}
    return metrics | {"best_epoch": record.best_epoch.cpu().numpy(), "diverged": ~alive}


def on_host(state: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """A copy of the stack's tensors in the host's memory."""
    return {name: tensor.cpu().numpy().copy() for name, tensor in state.items()}


def batch_spread(correct: Tensor) -> Tensor:
    """Standard deviation (n - 1) of accuracy over batches of TEST_BATCH, the last one smaller: [runs, images] → [runs].

    NaN for one batch.
    """
    return torch.stack([batch.double().mean(1) for batch in correct.cpu().split(TEST_BATCH, 1)], 1).std(1)
