"""Finished runs as one classifier: the mean of their probabilities, of images and also of their mirror images."""

from collections.abc import Sequence

import numpy as np
import torch

from fmnist import store
from fmnist.config import UserError
from fmnist.data import SIDE, load
from fmnist.model import images_and_labels


@torch.no_grad()
def probabilities(run_ids: Sequence[str], part: str = "test", flip: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Mean probabilities of the runs' networks, after their last epoch, float64 [images, 10], and the images' labels.

    `part` is "test" or "val". With `flip` a network's are the mean of those of the image and of its mirror image: for
    networks trained with augment_flip. Raises UserError for runs of other images: those of two seeds validate on
    different ones, and each would be given images that the other was trained on.
    """
    if not (runs := [store.load_run(run_id) for run_id in run_ids]):
        raise UserError("ensemble: give it one run or more")
    for name in ("dataset", "seed", "val_size")[: 3 if part == "val" else 1]:
        if len({getattr(run.config, name) for run in runs}) > 1:
            raise UserError(f"ensemble: the runs differ in {name}, so their {part} images are not the same")
    data, found = load(dataset=runs[0].config.dataset), []
    for run in runs:
        x, labels = images_and_labels(run.config, data, part)
        views, model = [x, x.view(-1, SIDE, SIDE).flip(2).flatten(1)] if flip else [x], run.model()
        found += [model(view).double().softmax(1) for view in views]
    return torch.stack(found).mean(0).numpy(), labels.numpy()


def accuracy(run_ids: Sequence[str], part: str = "test", flip: bool = False) -> float:
    """Of `probabilities`: the share of images in [0, 1] whose most probable class is their label."""
    p, labels = probabilities(run_ids, part, flip)
    return float((p.argmax(1) == labels).mean())
