"""What tests hold runs and papers to: optimizers, plain evaluation, simulated runs, a PDF's words and figures."""

import hashlib
import html
import math
import re
import time

import numpy as np
import pandas as pd
import pypdf
import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler

from fmnist.config import RunConfig
from fmnist.data import Data
from fmnist.model import MLP, images_and_labels

TINY_RUN = RunConfig(hidden_sizes=(4,), epochs=1, val_size=500, batch_size=64, lr=0.1)
RULES = {
    "SGD": {"lr": 0.1},
    "SGD, momentum": {"momentum": 0.9},
    "Nesterov": {"momentum": 0.8, "nesterov": True},
    "Adam": {"optimizer": "Adam"},
    "AdamW": {"optimizer": "AdamW"},
    "RMSprop": {"optimizer": "RMSprop", "lr": 0.001},
    "RMSprop, momentum": {"optimizer": "RMSprop", "lr": 0.001, "momentum": 0.5},
    "Adadelta": {"optimizer": "Adadelta", "lr": 0.5},
}
OPTIMIZERS = RULES | {f"{name}, weight decay": own | {"weight_decay": 0.02} for name, own in RULES.items()}


def subset(data: Data, train: int, test: int) -> Data:
    """The first `train` and the first `test` images, with a checksum of their own."""
    few = (data.train_images[:train], data.train_labels[:train], data.test_images[:test], data.test_labels[:test])
    return Data(*few, hashlib.sha256(f"{data.checksum} {train} {test}".encode()).hexdigest())


@torch.no_grad()
def plain_evaluation(model: MLP, config: RunConfig, data: Data, part: str) -> tuple[float, float, Tensor]:
    """Mean loss, accuracy and predictions on "train", "val" or "test", in evaluation mode."""
    x, labels = images_and_labels(config, data, part)
    logits = model.eval()(x)
    predicted = logits.argmax(1)
    loss = nn.functional.cross_entropy(logits, labels).item()
    return loss, (predicted == labels).double().mean().item(), predicted


def torch_scheduler(config: RunConfig, optimizer: Optimizer, steps: int) -> lr_scheduler.LRScheduler:
    """For the optimizer's learning rate, to be stepped after each of an epoch's `steps`."""
    warmup = round(config.warmup_epochs * steps)
    n = max(config.epochs * steps - warmup, 1)
    match config.schedule:
        case "constant":
            schedule = lr_scheduler.ConstantLR(optimizer, 1)
        case "cosine":
            schedule = lr_scheduler.CosineAnnealingLR(optimizer, n)
        case "linear":
            schedule = lr_scheduler.LinearLR(optimizer, 1, 0, n)
        case "steps":
            schedule = lr_scheduler.MultiStepLR(optimizer, [math.ceil(n / 2), math.ceil(3 * n / 4)])
        case "one_cycle":
            schedule = lr_scheduler.OneCycleLR(optimizer, config.lr, n, cycle_momentum=False)
    if not warmup:
        return schedule
    rise = lr_scheduler.LinearLR(optimizer, 1 / (warmup + 1), total_iters=warmup)
    return lr_scheduler.SequentialLR(optimizer, [rise, schedule], [warmup])


def simulated(settings, seeds=6, noise=0.001, lost=(), generator=0, epochs=10) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs and histories of trials {trial: accuracy at the end}, or of `Study.settings()` with a column accuracy.

    The epochs climb to the accuracy; the `lost` trials, or (trial, seed) pairs, diverged.
    """
    if isinstance(settings, dict):
        settings = pd.DataFrame({"trial": [*settings], "accuracy": settings.values(), "study": "s", "lr": 0.01})
        settings["variant"] = settings["trial"].str.partition(",")[0]
    rng, lost = np.random.default_rng(generator), [*lost]
    shared, rows, history = rng.normal(0, 0.002, seeds), [], []
    for trial in settings.to_dict("records"):
        for seed in range(seeds):
            name, end = trial["trial"], trial["accuracy"] + shared[seed]
            gone = name in lost or (name, seed) in lost
            val, test, train = (np.nan if gone else end) + rng.normal(0, noise, 3)
            about = {"run_id": f"{trial['study']}/{name}/{seed}", "trial": name, "study": trial["study"], "seed": seed}
            row = trial | about | {"epochs": epochs, "seconds": 20.0, "diverged": gone, "parameters": 101_770}
            row["test_accuracy_std"] = np.nan if gone else 0.02
            for split, accuracy in {"train": train, "val": val, "test": test, "best_val_test": test}.items():
                row |= {f"{split}_accuracy": accuracy, f"{split}_loss": 1 - accuracy}
            rows.append(row)
            for epoch in range(epochs + 1):
                accuracies = {"val_accuracy": val * (1 - 0.5 / (1 + epoch)), "train_accuracy": train}
                history.append(about | accuracies | {"epoch": epoch, "train_loss": 3.0 - 0.2 * epoch})
    return pd.DataFrame(rows), pd.DataFrame(history)


def page_text(page: str, between: str = " ") -> str:
    """What an HTML page says, `between` for each tag, without the notebooks' code, which is folded away."""
    page = re.sub(r"<(style|script|pre|annotation)\b.*?</\1>|<[^>]+>", between, page, flags=re.S)
    return " ".join(html.unescape(page).split())


def pdf_text(reader: pypdf.PdfReader) -> str:
    return " ".join(" ".join(page.extract_text() for page in reader.pages).split())


def pdf_figures(reader: pypdf.PdfReader) -> list[str | None]:
    """The text of each figure for those who cannot see it."""
    texts, todo = [], [reader.trailer["/Root"]["/StructTreeRoot"]]
    while todo:
        element = todo.pop().get_object()
        if isinstance(element, list):
            todo += element
        elif isinstance(element, dict):  # else the number of a piece of a page
            texts += [element.get("/Alt")] if element.get("/S") == "/Figure" else []
            todo += [element["/K"]] if "/K" in element else []
    return texts


def until(done, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.2)
