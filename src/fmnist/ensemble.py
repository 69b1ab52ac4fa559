"""Finished runs as one classifier: the mean of their probabilities, which may also be what another run learns."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import pad

from fmnist import store
from fmnist.config import OUTPUTS, RunConfig, UserError
from fmnist.data import SIDE, Data, load, run_scaling
from fmnist.model import PARAMETER_DTYPE, images_and_labels

CHUNK = 2_000  # images that a teacher is shown at a time
Answers = tuple[np.ndarray, np.ndarray]  # probabilities and labels


@torch.no_grad()
def probabilities(run_ids: Sequence[str], part: str = "test", flip: bool = False, shift: int = 0) -> Answers:
    """Mean probabilities of the runs' networks, after their last epoch, float64 [images, 10], and the images' labels.

    `part` is "test" or "val". With `flip` and `shift` a network's are the mean of those of an image's `views`: for
    networks trained with augment_flip, augment_shift. Raises UserError for runs of other images: those of two seeds
    validate on different ones, and each would be given images that the other was trained on.
    """
    if not (runs := [store.load_run(run_id) for run_id in run_ids]):
        raise UserError("ensemble: give it one run or more")
    for name in ("dataset", "seed", "val_size")[: 3 if part == "val" else 1]:
        if len({getattr(run.config, name) for run in runs}) > 1:
            raise UserError(f"ensemble: the runs differ in {name}, so their {part} images are not the same")
    data, found = load(dataset=runs[0].config.dataset), []
    for run in runs:
        x, labels = images_and_labels(run.config, data, part)
        model = run.model()
        found += [model(view).double().softmax(1) for view in views(x, flip, shift)]
    return torch.stack(found).mean(0).numpy(), labels.numpy()


def views(x: torch.Tensor, flip: bool, shift: int) -> list[torch.Tensor]:
    """Scaled images [n, 784], with `flip` also mirrored; with `shift` each is also moved by it in four ways."""
    seen = [x.view(-1, SIDE, SIDE)]
    seen += [seen[0].flip(2)] * flip
    wide = [pad(each, [shift] * 4, value=float(x.min())) for each in seen]  # what comes into view is black
    ways = [(1, 1), (2, 1), (0, 1), (1, 2), (1, 0)] if shift else [(0, 0)]  # corners, in shifts
    corners = [(shift * down, shift * right) for down, right in ways]
    return [each[:, down : down + SIDE, right : right + SIDE].flatten(1) for each in wide for down, right in corners]


def calibration(p: np.ndarray, labels: np.ndarray) -> tuple[pd.DataFrame, float]:
    """A row for each of ten bins of equal width of the greatest probability in p [images, 10] that has images: mean
    confidence, accuracy and images; and the expected calibration error, the mean of |accuracy − confidence| over the
    bins, weighted by their images (Guo et al., ICML 2017).
    """
    sure = p.max(1)
    frame = pd.DataFrame({"confidence": sure, "accuracy": p.argmax(1) == labels, "images": 1})
    each = frame.groupby(np.minimum(10 * sure, 9).astype(int))
    table = each.agg({"confidence": "mean", "accuracy": "mean", "images": "sum"})
    return table, float(np.average((table["accuracy"] - table["confidence"]).abs(), weights=table["images"]))


@torch.no_grad()
def soft_labels(config: RunConfig, data: Data) -> torch.Tensor:
    """Mean probabilities that the teachers of a run, all in the store, give the train images, float16 [images, 10]."""
    found = torch.zeros(len(data.train_labels), OUTPUTS, dtype=torch.float32, device=data.train_images.device)
    for teacher in config.teacher_configs:
        model, dtype = store.load_run(teacher.run_id).model().to(found.device), PARAMETER_DTYPE[teacher.precision]
        scale, shift = run_scaling(teacher, data)
        for images, p in zip(data.train_images.split(CHUNK), found.split(CHUNK), strict=True):
            p += model(images.to(dtype) * scale + shift).softmax(1) / len(config.teachers)
    return found.half()
