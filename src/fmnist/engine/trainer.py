"""One epoch of a stack: batch by batch forward, backward, update; on CUDA replayed as graphs."""

import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fmnist.config import RunConfig
from fmnist.engine.data import Data
from fmnist.engine.delayed import DelayedWeights
from fmnist.engine.feed import CHUNK, Feed
from fmnist.engine.model import dropout_keys, wide
from fmnist.engine.optim import Optimizer
from fmnist.engine.stack import Stack, cross_entropy, cross_entropy_gradient

STEPS = 64  # most batches of a chunk
Mark = Callable[[str], None]  # says which phase has just ended, for `fmnist profile`


class Trainer:
    """A stack in training: one update of every run for each batch, the batches of a chunk of images at a time.

    On CUDA a chunk is a graph, captured once for each number of images.
    """

    def __init__(self, configs: Sequence[RunConfig], data: Data, mark: Mark | None = None, graphs: bool = True):
        device = data.train_images.device
        self.stack, self.batch_size = Stack(configs, device), configs[0].batch_size
        self.delayed = DelayedWeights(self.stack, STEPS) if DelayedWeights.can_wait(configs, device) else None
        self.feed = Feed(self.stack, data)
        self.optimizer = Optimizer(self.stack.parameters[1 if self.delayed else 0 :], configs)
        scale = torch.tensor([c.loss_scale for c in configs], dtype=self.stack.dtype, device=device)[:, None, None]
        last = self.feed.train.shape[1] % self.batch_size or self.batch_size
        self.scales = {images: scale / images for images in (self.batch_size, last)}  # of the loss of an image
        self.loss, self.correct = (torch.zeros(len(configs), dtype=wide(device), device=device) for _ in range(2))
        self.mark = mark or (lambda _: None)
        self.graphs: dict[int, Graph | None] | None = {} if graphs and device.type == "cuda" and not mark else None

    def epoch(self, epoch: int, stop: threading.Event) -> tuple[Tensor, Tensor]:
        """Train for one epoch: mean loss and accuracy [runs] over its batches, in training mode, as they are seen."""
        order, size, seeds = self.feed.order(epoch), self.batch_size, [c.seed for c in self.stack.configs]
        together = min(max(1, CHUNK // (size * len(order))), STEPS)  # few enough to stay in cache
        images, device = order.shape[1], order.device
        steps = -(-images // size)
        layers = range(self.stack.depth) if self.stack.dropout is not None else ()
        keys = [dropout_keys(seeds, layer, (epoch - 1) * steps, steps).to(device) for layer in layers]
        self.loss.zero_()
        self.correct.zero_()
        self.mark("data")
        for chunk, rows in enumerate(order.split(together * size, 1)):
            if stop.is_set():
                raise KeyboardInterrupt
            self.replay(rows, [key[chunk * together : (chunk + 1) * together] for key in keys])
        return self.loss / images, self.correct / images

    def steps(self, rows: Tensor, keys: Sequence[Tensor]) -> None:
        """An update for each batch of the images at `rows` [groups, images]; `keys` [hidden layers][steps, runs]."""
        x, labels = self.feed.batch(rows)
        if self.delayed:
            self.delayed.start(x)
        self.mark("data")
        batches = zip(x.split(self.batch_size, 1), labels.split(self.batch_size, 1), strict=True)
        logits = [self.update(*batch, [key[step] for key in keys]) for step, batch in enumerate(batches)]
        if self.delayed:
            self.delayed.finish(x)
        loss, predicted = cross_entropy(torch.cat(logits, 2), labels)
        self.loss += loss
        self.correct += (predicted == labels).sum(1)
        self.mark("forward")

    def update(self, x: Tensor, labels: Tensor, keys: Sequence[Tensor]) -> Tensor:
        """One update of every run from x [groups, batch, 784]; the logits before it. `keys` draw dropout's masks."""
        delayed = self.delayed
        logits = self.stack.forward(x, keys, training=True, first=delayed.forward() if delayed else None)
        self.mark("forward")
        dlogits = cross_entropy_gradient(logits, labels, self.scales[labels.shape[1]])
        gradients = self.stack.backward(None if delayed else x, dlogits)
        self.mark("backward")
        if delayed:
            delayed.take(gradients.pop(0))
        self.optimizer.step(gradients)
        self.mark("update")
        return logits

    def replay(self, rows: Tensor, keys: Sequence[Tensor]) -> None:
        """`steps`, on CUDA as a graph: a chunk size's first chunk readies the libraries, its second is captured."""
        if self.graphs is None:
            return self.steps(rows, keys)
        if (size := rows.shape[1]) not in self.graphs:
            self.graphs[size] = None
            return self.steps(rows, keys)
        if self.graphs[size] is None:
            self.graphs[size] = Graph(self.steps, rows, keys)
        self.graphs[size].replay(rows, keys)


class Graph:
    """A chunk's steps captured as one CUDA graph: replaying it costs one launch instead of one for every operation."""

    def __init__(self, steps: Callable[[Tensor, Sequence[Tensor]], None], rows: Tensor, keys: Sequence[Tensor]):
        self.rows, self.keys = rows.clone(), [key.clone() for key in keys]
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):  # others may use the device
            steps(self.rows, self.keys)  # recorded, not run

    def replay(self, rows: Tensor, keys: Sequence[Tensor]) -> None:
        self.rows.copy_(rows)
        for own, key in zip(self.keys, keys, strict=True):
            own.copy_(key)
        self.graph.replay()
