"""Finished networks in use: what they say of images, alone or together, and of a picture; their model card."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps
from torch.nn.functional import pad

from fmnist import store
from fmnist.config import OUTPUTS, TEMPLATES, TRAIN_IMAGES, TRIAL_FIELDS, RunConfig, UserError, runs_folder, sizes_text
from fmnist.data import NAMES, SIDE, Data, load, scaling
from fmnist.model import PARAMETER_DTYPE, as_inputs, images_and_labels
from fmnist.statistics import interval
from fmnist.words import count, percent, significant

CARD = TEMPLATES / "card.md"
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
        scale, shift = scaling(teacher, data)
        for images, p in zip(data.train_images.split(CHUNK), found.split(CHUNK), strict=True):
            p += model(images.to(dtype) * scale + shift).softmax(1) / len(config.teachers)
    return found.half()


def read_picture(path: Path) -> tuple[torch.Tensor, str]:
    """A picture as the data sets have them, uint8 [784], 28 × 28 pixels of gray, light on dark; and what was done.
    It is inverted where its border is lighter than medium gray (the median), which also fills up what is not square.
    UserError if it cannot be read.
    """
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file).convert("RGBA")
        gray = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("L")
        pixels = np.asarray(gray)
        border = int(np.median(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])))
        if inverted := border > 127:
            gray, border = ImageOps.invert(gray), 255 - border
        small = ImageOps.pad(gray, (SIDE, SIDE), color=border)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # what Pillow raises has no one class
        raise UserError(f"{path}: not a picture that can be read, such as PNG or JPEG") from None
    about = "dark on light, so it is inverted" if inverted else "light on dark, as it should be"
    return torch.from_numpy(np.asarray(small).copy()).flatten(), f"{gray.width} × {gray.height} pixels, {about}"


@torch.no_grad()
def predict(path: Path, run_id: str = "") -> list[str]:
    """What a run sees in a picture: lines of text, the most probable class first. Left out, it is that of the store on
    Fashion-MNIST with the highest validation accuracy; `UserError` if there is none.
    """
    if not run_id:
        table = store.results().dropna(subset="val_accuracy")
        table = table[table["dataset"] == RunConfig().dataset]
        if table.empty:
            raise UserError(f"no finished run in {runs_folder()}; `fmnist report` trains some")
        run_id = table["run_id"][table["val_accuracy"].idxmax()]
    run = store.load_run(run_id)
    pixels, about = read_picture(path)
    data = load(dataset=run.config.dataset) if run.config.input_scaling == "standardized" else None
    x = as_inputs(pixels[None], run.config, data)
    p, names = run.model()(x).softmax(1)[0], NAMES[run.config.dataset]
    lines = [f"{100 * p[i]:5.1f} %  {names[i]}" for i in p.argsort(descending=True).tolist()]
    val = percent(run.metrics["val_accuracy"] or np.nan)
    return [f"{path}: {about}", f"run {run.run_id} ({val} on validation) sees", *lines]


def card(run_id: str) -> str:
    """The model card of a run (Mitchell et al., FAT* 2019, doi:10.1145/3287560.3287596), in Markdown."""
    run, table = store.load_run(run_id), store.results()
    config, own = run.config, run.row()
    peers = table[(table[[*TRIAL_FIELDS]] == [own[name] for name in TRIAL_FIELDS]).all(axis=1)]
    p, labels = probabilities([run.run_id])
    right, (bins, error) = p.argmax(1) == labels, calibration(p, labels)
    names, scale, shift = NAMES[config.dataset], *scaling(config, load(dataset=config.dataset))
    said = {f"{name}_own": percent(own[name]) for name in ("val_accuracy", "test_accuracy")}
    said |= {f"{name}_seeds": percent(*interval(peers[name])) for name in ("val_accuracy", "test_accuracy")}
    changed = [f"{name}: {own[name]}" for name in TRIAL_FIELDS if own[name] != RunConfig().row()[name]]
    taught = f" It also learned what {count(len(config.teachers), 'other network')} said of them."
    sure = [f"| {percent(b.confidence)} | {percent(b.accuracy)} | {b.images:,} |" for b in bins.itertuples()]
    return CARD.read_text("utf-8").format(
        **said, run=run, config=config, own=own, layers=sizes_text(config.hidden_sizes), error=100 * error,
        scale=significant(scale, 6), shift=shift, train=TRAIN_IMAGES - config.val_size, seeds=count(len(peers), "seed"),
        confidence=percent(p.max(1).mean()), taught=taught * bool(config.teachers), bins="\n".join(sure),
        changed="\n".join(changed) or "# nothing",
        classes="\n".join(f"| {name} | {percent(right[labels == i].mean())} |" for i, name in enumerate(names)),
    )  # fmt: skip
