"""A finished network in use: what it sees in a picture of any size, and its model card."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from fmnist import store
from fmnist.config import FASHION, TEMPLATES, TRAIN_IMAGES, TRIAL_FIELDS, RunConfig, UserError, runs_folder, sizes_text
from fmnist.data import NAMES, SIDE, load, run_scaling
from fmnist.ensemble import calibration, probabilities
from fmnist.model import as_inputs
from fmnist.statistics import interval
from fmnist.words import count, percent, significant

CARD = TEMPLATES / "card.md"


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
        table = table[table["dataset"] == FASHION]
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
    names, scale, shift = NAMES[config.dataset], *run_scaling(config, load(dataset=config.dataset))
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
