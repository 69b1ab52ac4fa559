"""The data set on a device, and what each run does with it: its split, its batch orders, its input scaling.

Fashion-MNIST unless a run config says otherwise; the others have its form, 60,000 and 10,000 images of 28 × 28.

The whole data set is 55 MB, so it lives on the device as one uint8 tensor and a batch is an index selection: no
DataLoader, no workers, no copies. `fetch` finds it and verifies it.

Random numbers: every stream is named by (seed, purpose, ...) and hashed, see `generator`; seed 1 in epoch 2 has nothing
to do with seed 2 in epoch 1.
"""

from __future__ import annotations

import functools
import hashlib
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fmnist.config import FASHION, UserError, validate_field
from fmnist.fetch import SHA256, find, locate

if TYPE_CHECKING:
    import torch

__all__ = ["CLASSES", "NAMES", "Data", "epoch_order", "generator", "lacking", "load", "locate", "scaling", "split"]

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
NAMES = {  # of the classes, by data set; torchvision's
    FASHION: CLASSES,
    "MNIST": tuple("0123456789"),
    "KMNIST": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
}


@dataclass(frozen=True, eq=False)
class Data:
    """The data set on one device. Pixels are 0..255, 28 rows of 28, row by row."""

    train_images: torch.Tensor  # uint8 [60000, 784]
    train_labels: torch.Tensor  # int64 [60000], indices into CLASSES, or into NAMES of another set
    test_images: torch.Tensor  # uint8 [10000, 784]
    test_labels: torch.Tensor  # int64 [10000]
    checksum: str  # SHA-256 of `sha256sum`'s four lines in SHA256's order; a subset has its own

    def subset(self, train: int, test: int) -> Data:
        """The first `train` and the first `test` images, for quick tests and demonstrations. UserError if too many."""
        for split, wanted, there in (("train", train, len(self.train_labels)), ("test", test, len(self.test_labels))):
            if not 1 <= wanted <= there:
                raise UserError(f"A subset of {wanted} {split} images cannot be taken: choose from 1 to {there}.")
        if (train, test) == (len(self.train_labels), len(self.test_labels)):
            return self
        return Data(
            *(self.train_images[:train], self.train_labels[:train], self.test_images[:test], self.test_labels[:test]),
            checksum=hashlib.sha256(f"{self.checksum} {train} {test}".encode()).hexdigest(),
        )


def load(device: str | torch.device = "cpu", dataset: str = FASHION) -> Data:
    """The data set on `device`, read and verified once per process. UserError if there is no way to get it."""
    return _load(str(device), dataset)


@functools.cache
def _load(device: str, dataset: str) -> Data:
    import torch

    validate_field("dataset", dataset, "data")
    if device != "cpu":
        host = load(dataset=dataset)
        names = ("train_images", "train_labels", "test_images", "test_labels")
        return replace(host, **{name: getattr(host, name).to(device) for name in names})
    _, payloads = find(download=True, progress=True, dataset=dataset)
    lines = "".join(f"{hashlib.sha256(payloads[name]).hexdigest()}  {name}\n" for name in SHA256)
    raw = [torch.frombuffer(bytearray(payloads[name]), dtype=torch.uint8) for name in SHA256]
    # an idx file is a big-endian header (16 bytes for images, 8 for labels), then the bytes
    images, labels = [raw[0][16:].view(-1, 784), raw[2][16:].view(-1, 784)], [raw[1][8:].long(), raw[3][8:].long()]
    return Data(images[0], labels[0], images[1], labels[1], hashlib.sha256(lines.encode()).hexdigest())


def lacking(dataset: str) -> str:
    """Why a data set cannot be had here; "" if it can. UserError if it is none of those that may be named."""
    validate_field("dataset", dataset, "data")
    try:
        load(dataset=dataset)
    except UserError as error:
        return str(error)
    return ""


def generator(seed: int, purpose: str, *more: int) -> torch.Generator:
    """A generator of its own for each (seed, purpose, ...), e.g. (0, "order", epoch).

    Its seed is the first 8 bytes of the SHA-256 of "fmnist purpose seed ...", so that neighbours share nothing. (Of
    these, torch's CPU generator uses 32 bits: two given streams are equal with a chance of 1 in 4e9.)
    """
    import torch

    digest = hashlib.sha256(" ".join(["fmnist", purpose, *map(str, (seed, *more))]).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))


def split(count: int, val_size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Train and val indices of `count` images, int64 on the CPU, each ascending. Equal seeds give equal splits.

    UserError unless 0 <= val_size < count.
    """
    import torch

    if not 0 <= val_size < count:
        raise UserError(f"val_size: {val_size} of {count} train images cannot be set aside; 0 to {count - 1} can.")
    order = torch.randperm(count, generator=generator(seed, "split"))
    return order[val_size:].sort().values, order[:val_size].sort().values


def epoch_order(n: int, seed: int, epoch: int) -> torch.Tensor:
    """The order, int64 [n] on the CPU, in which one epoch goes through the n train images; every epoch has its own."""
    import torch

    return torch.randperm(n, generator=generator(seed, "order", epoch))


def scaling(images_uint8: torch.Tensor, train_idx: torch.Tensor, kind: str) -> tuple[float, float]:
    """(scale, shift) such that input = pixel * scale + shift, for uint8 pixels.

    "none": [0, 1], as torchvision's ToTensor. "symmetric": [-1, 1]. "standardized": mean 0 and (population) standard
    deviation 1 over all pixels of the run's own train split, from exact integer sums, so the same on every device.
    """
    if kind == "none":
        return 1 / 255, 0.0
    if kind == "symmetric":
        return 2 / 255, -1.0
    if kind != "standardized":
        raise UserError(f"input_scaling: {kind!r} is not known; allowed are none, symmetric, standardized.")
    n, total, squares = _sums(images_uint8[train_idx.to(images_uint8.device)])
    std = math.sqrt(n * squares - total * total) / n
    return 1 / std, -total / n / std


def mean_square(images_uint8: torch.Tensor, kind: str) -> float:
    """Mean of the squared inputs over all pixels of all images, scaled as `kind` says (see `scaling`)."""
    n, total, squares = _sums(images_uint8)
    import torch

    scale, shift = scaling(images_uint8, torch.arange(len(images_uint8)), kind)
    return (scale * scale * squares + 2 * scale * shift * total) / n + shift * shift


def _sums(images_uint8: torch.Tensor) -> tuple[int, int, int]:
    """How many pixels there are, their sum and the sum of their squares, exactly."""
    histogram = images_uint8.flatten().bincount(minlength=256).tolist()
    total = sum(pixel * times for pixel, times in enumerate(histogram))
    return sum(histogram), total, sum(pixel * pixel * times for pixel, times in enumerate(histogram))
