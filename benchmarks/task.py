"""What is timed: eight runs that differ in their learning rate alone, and what one epoch of them measures."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fmnist.config import RunConfig
from fmnist.data import epoch_order, load, split
from fmnist.model import MLP

TRAIN, VAL = 54_000, 6_000


class Epoch(NamedTuple):
    """What one unit measured, a number for each of its runs. Losses in nats, accuracies in [0, 1]."""

    train_loss: list[float]
    train_accuracy: list[float]
    val_loss: list[float]
    val_accuracy: list[float]


@dataclass(frozen=True)
class Task:
    """Runs of plain SGD that differ in their learning rate alone: one seed, so one split and one order of batches."""

    network: str  # "784-128-10"
    batch_size: int
    runs: int = 8
    device: str = "cpu"
    choices: dict[str, str] = field(default_factory=dict)

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        return tuple(map(int, self.network.split("-")[1:-1]))

    @property
    def lrs(self) -> list[float]:
        return np.geomspace(0.001, 0.1, self.runs).tolist()

    def weights(self) -> list[tuple[Tensor, Tensor]]:
        """(weight [out, in], bias [out]) of every layer before training, as torch.nn.Linear draws them."""
        layers = MLP(RunConfig(hidden_sizes=self.hidden_sizes)).linears
        return [(layer.weight.detach(), layer.bias.detach()) for layer in layers]

    def pixels(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Train images uint8 [54000, 784] and labels, validation images and labels."""
        data = load()
        train, val = split(len(data.train_labels), VAL, seed=0)
        return tuple(t[rows] for rows in (train, val) for t in (data.train_images, data.train_labels))

    def tensors(self) -> list[Tensor]:
        """The same on the device, pixels as float32 in [0, 1]."""
        return [(t / 255 if t.dtype == torch.uint8 else t).to(self.device) for t in self.pixels()]

    def order(self, epoch: int) -> Tensor:
        """In which order `epoch`, counted from 1, goes through the train images; int64 [54000]."""
        return epoch_order(TRAIN, 0, epoch)

    def fastest(self, what: str, ways: dict[str, Callable[[], object]], repeats: int) -> str:
        """The name of the quickest way, noted in `choices`. The first must work; another may lack its compiler."""
        seconds, failed = {}, ""
        for name, way in ways.items():
            try:
                way()
            except Exception as error:
                if not seconds:
                    raise
                failed += f" ({name}: {type(error).__name__})"
                continue
            start = time.perf_counter()
            for _ in range(repeats):
                way()
            seconds[name] = time.perf_counter() - start
        chosen = min(seconds, key=seconds.get)
        self.choices[what] = chosen + failed
        return chosen


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
