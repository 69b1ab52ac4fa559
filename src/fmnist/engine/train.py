"""Training one stack: epochs, evaluation, and taking it apart into each run's result.

The test set is read once per run, after its last epoch, with the weights of that and of the best validation epoch.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from fmnist.config import BEST, LAST, OUTPUTS, TEST_BATCH, RunConfig, UserError
from fmnist.data import Data, augmentation_draws, augmented, epoch_order, mixup_shares, scaling, split
from fmnist.engine.optim import Average, Optimizer, scheduled
from fmnist.engine.stack import Stack, cross_entropy, cross_entropy_gradient
from fmnist.model import Result, dropout_keys, learning_rates, wide

CHUNK = 1_000  # images that are gathered at a time: in evaluation, and for one or more batches of training
STEPS = 64  # most batches of a chunk
HISTORY = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds", "weight_norm")
Measured = tuple[Tensor, Tensor, Tensor]  # what `evaluate` gives


def mixed(x: Tensor, share: Tensor, batch_size: int, dim: int) -> Tensor:
    """share · x + (1 − share) · x with the images of each batch, along `dim`, in reversed order; see mixup_shares."""
    return torch.lerp(torch.cat([batch.flip(dim) for batch in x.split(batch_size, dim)], dim), x, share)


class Trainer:
    """A stack in training: one update of every run for each batch, the batches of a chunk of images at a time.

    Its groups each have a seed, thus a split and batch orders, of their own; `rows` [groups, images] are of each part.
    """

    def __init__(self, configs: Sequence[RunConfig], data: Data):
        device, first = data.train_images.device, configs[0]
        self.stack, self.data, self.batch_size = Stack(configs, device), data, first.batch_size
        self.optimizer, groups = Optimizer(self.stack.parameters, configs), self.stack.groups
        self.average = Average(self.stack.state.values(), first.ema_decay) if first.ema_decay else None

        parts = [split(len(data.train_labels), first.val_size, config.seed) for config in groups]
        train, val = (torch.stack(part).to(device) for part in zip(*parts, strict=True))
        scalings = [scaling(config, data) for config in groups]
        self.scale, self.shift = torch.tensor(scalings, dtype=self.stack.dtype, device=device).t()[:, :, None, None]
        self.shifted = any(shift for _, shift in scalings)
        test = torch.arange(len(data.test_labels), device=device)
        test = test.expand(1 if len(set(scalings)) == 1 else len(scalings), -1)  # one group where all are scaled alike
        self.rows = {"train": train, "val": val, "test": test}

        own = [[config.loss_scale, config.label_smoothing, config.distill_weight] for config in configs]
        own = torch.tensor(own, dtype=self.stack.dtype, device=device)
        scale, self.smoothing, self.distilled = own.T[:, :, None, None]
        self.taught = None  # what teachers say of the train images, [groups, images, classes]
        if first.teachers:
            from fmnist.use import soft_labels  # here, as pandas comes along

            self.taught = torch.stack([soft_labels(config, data) for config in groups])
        self.soft = bool(self.smoothing.any() or first.mixup or first.teachers)  # targets are not the labels alone
        last = train.shape[1] % self.batch_size or self.batch_size
        self.scales = {images: scale / images for images in (self.batch_size, last)}  # of the loss of an image
        self.loss, self.correct = (torch.zeros(len(configs), dtype=wide(device), device=device) for _ in range(2))
        self.replay = Graphs(self.steps) if device.type == "cuda" else self.steps

    def batch(self, rows: Tensor, part: str = "train", draws: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Images [groups, batch, 784], augmented by draws [groups, batch, 9], and labels [runs, batch] at rows
        [groups, batch] of train or test images.
        """
        split = "test" if part == "test" else "train"
        images, labels = (getattr(self.data, f"{split}_{name}") for name in ("images", "labels"))
        flat, groups, runs = rows.flatten(), len(rows), len(self.stack.configs)
        pixels = images.index_select(0, flat)
        if draws is not None:
            pixels = augmented(pixels, draws.flatten(0, 1), self.stack.groups[0])
        x = pixels.view(*rows.shape, -1).to(self.stack.dtype) * self.scale[:groups]
        x = x.add_(self.shift[:groups]) if self.shifted else x
        labels = labels.index_select(0, flat).view(groups, 1, -1).expand(-1, runs // groups, -1)
        return x, labels.reshape(runs, -1)

    def epoch(self, epoch: int, stop: threading.Event) -> tuple[Tensor, Tensor]:
        """Train for one epoch: mean loss and accuracy [runs] over its batches, in training mode, as they are seen."""
        size, (groups, count) = self.batch_size, self.rows["train"].shape
        together = min(max(1, CHUNK // (size * groups)), STEPS)  # few enough to stay in cache
        images, steps = self.drawn(epoch)
        self.loss.zero_()
        self.correct.zero_()
        if self.average:  # between epochs the stack's tensors are their moving averages
            self.average.swap()
        for first in range(0, -(-count // size), together):
            if stop.is_set():
                raise KeyboardInterrupt
            chunk = slice(first * size, (first + together) * size)
            own = {name: tensor[:, chunk] for name, tensor in images.items()}
            self.replay(own, {name: tensor[first : first + together] for name, tensor in steps.items()})
        if self.average:
            self.average.swap()
        return self.loss / count, self.correct / count

    def drawn(self, epoch: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What an epoch draws: for images [groups, images, …] rows, draws of `augmented` and shares of `mixed`; for
        steps [steps, …] dropout's keys [hidden layers, runs] and learning rates [runs].
        """
        rows, configs, groups = self.rows["train"], self.stack.configs, self.stack.groups
        first, images, steps = configs[0], rows.shape[1], -(-rows.shape[1] // self.batch_size)
        orders = torch.stack([epoch_order(images, config.seed, epoch) for config in groups])
        of_images = {"rows": rows.gather(1, orders.to(rows.device))}  # in the order in which the groups see them
        if first.augments:
            of_images["draws"] = torch.stack([augmentation_draws(images, config.seed, epoch) for config in groups])
        if first.mixup:
            shares = torch.stack([mixup_shares(config, epoch, steps) for config in groups]).to(self.stack.dtype)
            of_images["shares"] = shares.repeat_interleave(self.batch_size, 1)[:, :images, None]
        of_steps, seeds, begin = {}, [config.seed for config in configs], (epoch - 1) * steps
        if self.stack.dropout is not None and self.stack.depth:
            keys = [dropout_keys(seeds, layer, begin, steps) for layer in range(self.stack.depth)]
            of_steps["keys"] = torch.stack(keys, 1)
        if any(map(scheduled, configs)):
            rates = [learning_rates(config, epoch, steps) for config in configs]
            of_steps["rates"] = torch.stack(rates, 1).to(self.stack.dtype)
        return tuple({name: tensor.to(rows.device) for name, tensor in d.items()} for d in (of_images, of_steps))

    def targets(self, labels: Tensor, rows: Tensor, shares: Tensor | None) -> Tensor:
        """Labels [runs, images] of train images, rows [groups, images], smoothed, taught and mixed by shares
        [groups, images, 1]: [runs, classes, images].
        """
        classes = torch.arange(OUTPUTS, device=labels.device)[:, None]
        hard = (labels[:, None] == classes).to(self.stack.dtype)
        smooth, groups = torch.lerp(hard, torch.full_like(hard, 1 / OUTPUTS), self.smoothing), len(labels) // len(rows)
        if self.taught is not None:
            taught = self.taught.take_along_dim(rows[:, :, None], 1).mT.to(smooth.dtype)
            taught = normalize(taught, 1, 1)  # in float16 they do not add up to 1
            smooth = torch.lerp(smooth, taught.repeat_interleave(groups, 0), self.distilled)
        if shares is None:
            return smooth
        return mixed(smooth, shares.mT.repeat_interleave(groups, 0), self.batch_size, 2)

    def steps(self, images: dict[str, Tensor], steps: dict[str, Tensor]) -> None:
        """An update for each batch of the images, by what is `drawn` for them."""
        shares, size, found = images.get("shares"), self.batch_size, []
        x, labels = self.batch(images["rows"], draws=images.get("draws"))
        x = self.stack.cast(x if shares is None else mixed(x, shares, size, 1))
        targets = self.targets(labels, images["rows"], shares) if self.soft else None
        for step, (inputs, classes) in enumerate(zip(x.split(size, 1), labels.split(size, 1), strict=True)):
            keys, rates = (steps[name][step] if name in steps else None for name in ("keys", "rates"))
            found.append(logits := self.stack.forward(inputs, keys, training=True))
            soft = None if targets is None else targets[:, :, step * size : (step + 1) * size]
            dlogits = cross_entropy_gradient(logits, classes, self.scales[classes.shape[1]], soft)
            self.optimizer.step(self.stack.backward(inputs, dlogits), rates)
            if self.average:
                self.average.step()
        loss, predicted = cross_entropy(torch.cat(found, 2), labels, targets)
        self.loss += loss
        self.correct += (predicted == labels).sum(1)

    def evaluate(self, part: str) -> Measured:
        """Mean loss [runs], accuracy [runs] and predictions uint8 [runs, images] on "train", "val" or "test"."""
        losses, predictions, correct = [], [], []
        for rows in self.rows[part].split(CHUNK, 1):
            x, labels = self.batch(rows, part)
            loss, predicted = cross_entropy(self.stack.forward(self.stack.cast(x)), labels)
            losses.append(loss.to(wide(loss.device)))
            predictions.append(predicted.to(torch.uint8))
            correct.append((predicted == labels).sum(1))
        predicted = torch.cat(predictions, 1)
        return sum(losses) / predicted.shape[1], sum(correct).to(losses[0]) / predicted.shape[1], predicted


class Graphs:
    """Steps as CUDA graphs, one for each number of images: a launch instead of one for every operation."""

    def __init__(self, steps: Callable[[dict[str, Tensor], dict[str, Tensor]], None]):
        self.steps, self.captured = steps, {}

    def __call__(self, *drawn: dict[str, Tensor]) -> None:
        """The first call for a size readies the libraries, the second is captured."""
        if (size := drawn[0]["rows"].shape[1]) not in self.captured:
            self.captured[size] = None
            return self.steps(*drawn)
        if self.captured[size] is None:
            inputs = [{name: tensor.clone() for name, tensor in part.items()} for part in drawn]
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # others may use the device
                self.steps(*inputs)  # recorded, not run
            self.captured[size] = inputs, graph
        inputs, graph = self.captured[size]
        for own, new in zip(inputs, drawn, strict=True):
            for name, tensor in own.items():
                tensor.copy_(new[name])
        graph.replay()


class Record:
    """Curves of a stack's runs, their best validation weights, and which have diverged."""

    def __init__(self, stack: Stack):
        self.stack, self.rows = stack, []
        self.alive = torch.ones(len(stack.configs), dtype=torch.bool, device=stack.parameters[0].device)
        self.best_accuracy = torch.full_like(self.alive, -1, dtype=wide(self.alive.device))
        self.best_epoch = torch.zeros_like(self.alive, dtype=torch.int64)
        self.best_state = {name: tensor.clone() for name, tensor in stack.state.items()}
        self.epochs_seen = torch.zeros_like(self.best_epoch)

    def add(self, epoch: int, train: tuple[Tensor, Tensor] | None, val: tuple[Tensor, Tensor], seconds: float) -> None:
        loss, accuracy = val
        trained = train or (torch.full_like(loss, math.nan),) * 2
        self.alive &= loss.isfinite() & (trained[0].isfinite() if train else True)
        self.epochs_seen[self.alive] = epoch
        better = self.alive & (accuracy > self.best_accuracy)
        self.best_accuracy[better] = accuracy[better]
        self.best_epoch[better] = epoch
        for name, tensor in self.stack.state.items():
            self.best_state[name][better] = tensor[better]
        epochs, took = (torch.full_like(loss, value) for value in (epoch, seconds))
        self.rows.append(torch.stack([epochs, *trained, *val, took, self.stack.weight_norm().to(loss.dtype)], 1))

    def table(self) -> np.ndarray:
        """Every curve, float64 [epochs + 1, runs, len(HISTORY)]."""
        return torch.stack(self.rows).cpu().double().numpy()

    def metrics(self, train: Measured, test: Measured, best: Measured, labels: Tensor) -> dict[str, Tensor]:
        """Every metric but the time, [runs] each on the host; NaN where a diverged run has none."""
        runs = torch.arange(len(self.alive), device=self.alive.device)
        last = torch.stack(self.rows)[self.epochs_seen, runs].T  # [columns, runs]
        batches = (torch.stack([test[2], best[2]]) == labels).cpu().split(TEST_BATCH, 2)
        spread, best_spread = torch.stack([batch.double().mean(2) for batch in batches], 2).std(2)  # NaN for one batch
        at_last = [*train[:2], *last[3:5], *test[:2], spread]
        at_best = [self.best_accuracy, *best[:2], best_spread]
        found = {}
        for names, values, there in ((LAST, at_last, self.alive), (BEST, at_best, self.best_accuracy >= 0)):
            for name, value in zip(names, values, strict=True):
                found[name] = value.cpu().double().where(there.cpu(), math.nan)
        return found | {"best_epoch": self.best_epoch.cpu(), "diverged": ~self.alive.cpu()}


@torch.inference_mode()
def train_stack(
    configs: Sequence[RunConfig],
    data: Data,
    watch: Callable[[int, float, Record], None] = lambda *_: None,
    stop: threading.Event | None = None,
    keep: bool = False,
) -> list[Result]:
    """Train runs of one architecture; `data` is on the device that trains.

    `watch` is given each epoch, from 0 on, the mean validation accuracy after it, and the curves so far. Once `stop` is
    set, KeyboardInterrupt; or, to `keep` what there is by then, runs of the finished epochs, as their configs would
    give. UserError where a schedule depends on the epochs to come.
    """
    begin, trainer, epoch, before = time.perf_counter(), Trainer(configs, data), 0, {}
    stack, record, stop = trainer.stack, Record(trainer.stack), stop or threading.Event()
    record.add(0, None, trainer.evaluate("val")[:2], 0.0)
    watch(0, float(record.rows[0][:, 4].mean()), record)
    try:
        while epoch < configs[0].epochs and (record.alive.any() or not epoch):
            before, start = {name: tensor.clone() for name, tensor in stack.state.items() if keep}, time.perf_counter()
            train, val = trainer.epoch(epoch + 1, stop), trainer.evaluate("val")[:2]
            accuracy = float(val[1].mean())  # waits for the device, so that the time is the epoch's
            epoch += 1
            record.add(epoch, train, val, (time.perf_counter() - start) / len(configs))
            watch(epoch, accuracy, record)
    except KeyboardInterrupt:
        if not keep:
            raise
        if not epoch:
            return []
        if odd := {config.schedule for config in configs} - {"constant"}:
            said = "depends on the epochs to come; what was trained by now is not kept"
            raise UserError(f"schedule: {min(odd)} {said}") from None
        for name, tensor in before.items():
            stack.state[name].copy_(tensor)
        stack.configs = [config.model_copy(update={"epochs": epoch}) for config in configs]
    return results(trainer, record, begin)


def results(trainer: Trainer, record: Record, begin: float) -> list[Result]:
    """Every run's result. Reads the test set, with the last weights and with the best ones."""
    stack, data = trainer.stack, trainer.data
    last, best = ({name: t.cpu().numpy().copy() for name, t in s.items()} for s in (stack.state, record.best_state))
    measured = [trainer.evaluate("train"), trainer.evaluate("test")]
    for name, tensor in stack.state.items():
        tensor.copy_(record.best_state[name])
    measured.append(trainer.evaluate("test"))
    predictions = torch.stack([test[2] for test in measured[1:]], 1).cpu().numpy()  # [runs, 2, test images]
    table, metrics = record.table(), record.metrics(*measured, data.test_labels)
    seconds, device, found = (time.perf_counter() - begin) / len(stack.configs), record.alive.device, []
    called = f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
    for run, (config, end) in enumerate(zip(stack.configs, record.epochs_seen.tolist(), strict=True)):
        history = dict(zip(HISTORY, table[: end + 1, run].T.copy(), strict=True))
        history["epoch"] = history["epoch"].astype(np.int64)
        own = {name: values[run].item() for name, values in metrics.items()} | {"seconds": seconds}
        states = ({name: array[run].copy() for name, array in state.items()} for state in (last, best))
        found.append(Result(config, history, own, predictions[run], *states, called, data.checksum))
    return found
