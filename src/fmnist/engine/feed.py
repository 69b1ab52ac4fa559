"""What a stack sees: each group's share of the images, scaled, batch by batch."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fmnist.engine.data import Data, epoch_order, scaling, split
from fmnist.engine.stack import Stack

CHUNK = 1_000  # images that are gathered at a time: in evaluation, and for one or more batches of training


class Feed:
    """The inputs and labels of a stack, whose groups each have a seed, thus a split and batch orders, of their own."""

    def __init__(self, stack: Stack, data: Data):
        first, device = stack.configs[0], data.train_images.device
        self.stack, self.data, self.device = stack, data, device
        self.groups = [stack.configs[start] for start in stack.starts]
        parts = [split(len(data.train_labels), first.val_size, config.seed) for config in self.groups]
        self.train, self.val = (torch.stack(part).to(device) for part in zip(*parts, strict=True))  # [groups, images]
        scalings = [
            scaling(data.train_images, own[0], c.input_scaling) for own, c in zip(parts, self.groups, strict=True)
        ]
        self.scale, self.shift = torch.tensor(scalings, dtype=stack.dtype, device=device).t()[:, :, None, None]
        self.alike, self.shifted = len(set(scalings)) == 1, any(shift for _, shift in scalings)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Images [groups, batch, 784] and labels [runs, batch] at rows [groups, batch] of the train images."""
        flat, data = rows.flatten(), self.data
        x = self._scaled(data.train_images.index_select(0, flat).view(*rows.shape, -1))
        return x, self._of_runs(data.train_labels.index_select(0, flat).view(rows.shape))

    def _scaled(self, pixels: Tensor, groups: slice = slice(None)) -> Tensor:
        x = pixels.to(self.stack.dtype) * self.scale[groups]
        return (x.add_(self.shift[groups]) if self.shifted else x).to(self.stack.compute_dtype)

    def _of_runs(self, labels: Tensor) -> Tensor:
        """[groups, batch] → [runs, batch]"""
        groups, runs = len(labels), len(self.stack.configs)
        return labels.expand(runs, -1) if groups == 1 else labels.repeat_interleave(runs // groups, 0)

    def order(self, epoch: int) -> Tensor:
        """The rows of the train images in the order in which the groups see them, int64 [groups, images]."""
        orders = [epoch_order(self.train.shape[1], config.seed, epoch) for config in self.groups]
        return self.train.gather(1, torch.stack(orders).to(self.device))

    def chunks(self, part: str) -> Iterator[tuple[Tensor, Tensor]]:
        """The images of "train", "val" or "test" in order, some at a time, as `batch` gives them."""
        if part != "test":
            for rows in getattr(self, part).split(CHUNK, 1):
                yield self.batch(rows)
            return
        tests = self.data.test_images.split(CHUNK), self.data.test_labels.split(CHUNK)
        for pixels, labels in zip(*tests, strict=True):  # one group where all are scaled alike
            yield self._scaled(pixels[None], slice(0, 1 if self.alike else None)), self._of_runs(labels[None])
