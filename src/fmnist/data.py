"""The data set: found or fetched, verified, and on a device; each run's split, batch orders and input scaling.

The whole set is 55 MB: it lives on the device as one uint8 tensor, and a batch is an index selection.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import math
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import torch
from torch.nn.functional import grid_sample, pad

from fmnist.config import FASHION, TEST_IMAGES, TRAIN_IMAGES, RunConfig, UserError, aside, project_root, validate_field

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
NAMES = {  # of the classes, by data set; torchvision's
    FASHION: CLASSES,
    "MNIST": tuple("0123456789"),
    "KMNIST": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
}
SHA256 = {  # of Fashion-MNIST's uncompressed files, as in Debian's package and zalandoresearch/fashion-mnist
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
PACKAGE = "dataset-fashion-mnist"  # Debian's
SYSTEM = Path("/usr/share/datasets/fashion-mnist")  # where PACKAGE installs its four .gz files
SIDE = 28  # pixels of an image's height and width
FIXED = {"none": (1 / 255, 0.0), "symmetric": (2 / 255, -1.0), "mnist": (1 / (255 * 0.3081), -0.1307 / 0.3081)}
TIMEOUT = 10.0  # seconds a mirror may be silent
PATIENCE = 900.0  # seconds apt-get may take: 26 MB at 30 kB/s


@dataclass(frozen=True, eq=False)
class Data:
    """The data set on one device. Pixels are 0..255, 28 rows of 28, row by row."""

    train_images: torch.Tensor  # uint8 [60000, 784]
    train_labels: torch.Tensor  # int64 [60000], indices into NAMES[dataset]
    test_images: torch.Tensor  # uint8 [10000, 784]
    test_labels: torch.Tensor  # int64 [10000]
    checksum: str  # SHA-256 of `sha256sum`'s four lines in SHA256's order


def load(device: str | torch.device = "cpu", dataset: str = FASHION) -> Data:
    """The data set on `device`, read and verified once per process. UserError if there is no way to get it."""
    return _load(str(device), dataset)


@functools.cache
def _load(device: str, dataset: str) -> Data:
    if device != "cpu":
        host = load(dataset=dataset)
        return replace(host, **{name: part.to(device) for name, part in vars(host).items() if name != "checksum"})
    payloads = find(dataset)[1]
    lines = "".join(f"{hashlib.sha256(payloads[name]).hexdigest()}  {name}\n" for name in SHA256)
    raw = [torch.frombuffer(bytearray(payloads[name]), dtype=torch.uint8) for name in SHA256]
    # an idx file is a big-endian header (16 bytes for images, 8 for labels), then the bytes
    images, labels = [raw[0][16:].view(-1, 784), raw[2][16:].view(-1, 784)], [raw[1][8:].long(), raw[3][8:].long()]
    return Data(images[0], labels[0], images[1], labels[1], hashlib.sha256(lines.encode()).hexdigest())


def lacking(dataset: str) -> str:
    """Why a data set cannot be had here, in one line; "" if it can."""
    try:
        load(dataset=dataset)
    except UserError as error:
        return " ".join(str(error).split())
    return ""


def find(dataset: str = FASHION) -> tuple[Path, dict[str, bytes]]:
    """The four files' folder, fetched if need be, and verified payloads by name. UserError if they cannot be had."""
    validate_field("dataset", dataset, "data")
    root, chosen, fashion, tried = project_root(), os.environ.get("FMNIST_DATA"), dataset == FASHION, []
    for place in [*([root / Path(chosen).expanduser()] if chosen else []), root / "data", *[SYSTEM] * fashion]:
        for folder in (place / dataset / "raw", place if fashion else place / dataset):  # torchvision's layout, ours
            try:
                return folder, _read(folder, dataset)
            except (OSError, ValueError) as error:
                problem = str(error)
        if chosen and fashion:
            raise UserError(f"FMNIST_DATA is set to {chosen}, but {problem}; unset it, and the data set is fetched")
        tried.append(problem)
    target = root / "data" / ("" if fashion else dataset)
    ways = {"torchvision's mirrors": _from_mirrors, f"Debian's {PACKAGE}": _from_debian}
    for way, fetch in list(ways.items())[: 2 if fashion else 1]:
        print(f"Fetching {dataset} (30 MB) from {way} …", file=sys.stderr)
        try:
            return target, _fetched(fetch, target, dataset)
        except Exception as error:  # torchvision's, apt-get's and ours have no one class
            tried.append(f"{way}: {' '.join(str(error).split()) or repr(error)}")
    lines = [f"{dataset} was not found. Connect to the internet (30 MB) and try again; or:"]
    lines += [f"put {', '.join(SHA256)} (each as it is or as .gz) into {target}"]
    lines += [f"set FMNIST_DATA to a folder that has them{'' if fashion else f' in a folder {dataset}'}"]
    lines += [f"on Debian or Ubuntu: sudo apt-get install {PACKAGE}"] * fashion
    raise UserError("\n  - ".join(lines) + "\n  - ".join(["\nWhat was tried:", *tried]))


def _read(folder: Path, dataset: str) -> dict[str, bytes]:
    """The verified payloads in a folder by name. OSError or ValueError for the first that is absent or wrong."""
    payloads = {}
    for name in SHA256:
        zipped = folder / f"{name}.gz"
        file = zipped if os.path.isfile(zipped) else folder / name
        payloads[name] = _payload(file, file.read_bytes(), dataset)
    return payloads


def _payload(file: Path, content: bytes, dataset: str) -> bytes:
    """A file's content, uncompressed and verified. ValueError if it is not that."""
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error):
            raise ValueError(f"{file} is cut short or damaged") from None
    digest = hashlib.sha256(content).hexdigest()
    if (digest == SHA256[file.name.removesuffix(".gz")]) != (dataset == FASHION):
        raise ValueError(f"{file} is not {dataset}'s, by its SHA-256")
    count, labels = TRAIN_IMAGES if "train" in file.name else TEST_IMAGES, "labels" in file.name
    header = struct.pack(">2I", 0x801, count) if labels else struct.pack(">4I", 0x803, count, 28, 28)
    whole = content.startswith(header) and len(content) == len(header) + count * (1 if labels else 784)
    if not whole or (labels and max(content[len(header) :]) > 9):
        form = "labels from 0 to 9" if labels else "images of 28 × 28 bytes"
        raise ValueError(f"{file} is not an IDX file of {count:,} {form}")
    return content


def _fetched(fetch: Callable, target: Path, dataset: str) -> dict[str, bytes]:
    """Fetch the files and keep them in `target`; all payloads. ValueError if they are not what they should be."""
    patience = socket.getdefaulttimeout()
    with tempfile.TemporaryDirectory() as place:
        socket.setdefaulttimeout(TIMEOUT)
        try:
            folder = fetch(Path(place), dataset)
        finally:
            socket.setdefaulttimeout(patience)
        payloads = _read(folder, dataset)
        target.mkdir(parents=True, exist_ok=True)
        for name in SHA256:
            with aside(target / f"{name}.gz") as part:
                shutil.copyfile(folder / f"{name}.gz", part)
    return payloads


def _from_mirrors(place: Path, dataset: str) -> Path:
    kind, problems = getattr(import_module("torchvision.datasets"), dataset), []
    for mirror in kind.mirrors:  # each by itself: torchvision asks no other after one that is silent
        try:
            type(dataset, (kind,), {"mirrors": [mirror]})(place, download=True)
            return place / dataset / "raw"
        except (OSError, RuntimeError) as error:
            problems.append(str(error))
    raise ValueError("; ".join(problems))


def _from_debian(place: Path, _: str) -> Path:
    """The package fetched with package lists of our own, as containers have none, and unpacked without root."""
    own = (f"-oDir::State={place}", f"-oDir::Cache={place}", "-oAPT::Sandbox::User=")
    apt = ("apt-get", "-qq", f"-oAcquire::http::Timeout={TIMEOUT:.0f}", *own)
    for command in ((*apt, "update"), (*apt, "download", PACKAGE), ("sh", "-c", "dpkg-deb -x *.deb unpacked")):
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=PATIENCE)
        if done.returncode:
            raise ValueError([f"{command[-1]} failed", *done.stderr.strip().splitlines()][-1])
    return place / "unpacked" / SYSTEM.relative_to("/")


def generator(seed: int, purpose: str, *more: int) -> torch.Generator:
    """One for each (seed, purpose, ...); its seed begins the SHA-256 of "fmnist purpose seed ...": no two are alike."""
    digest = hashlib.sha256(" ".join(["fmnist", purpose, *map(str, (seed, *more))]).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))


def split(count: int, val_size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Train and val indices of `count` images, int64 on the CPU, each ascending. Equal seeds give equal splits."""
    order = torch.randperm(count, generator=generator(seed, "split"))
    return order[val_size:].sort().values, order[:val_size].sort().values


def epoch_order(n: int, seed: int, epoch: int) -> torch.Tensor:
    """The order, int64 [n] on the CPU, in which one epoch goes through the n train images; every epoch has its own."""
    return torch.randperm(n, generator=generator(seed, "order", epoch))


def augmentation_draws(n: int, seed: int, epoch: int) -> torch.Tensor:
    """Uniform in [0, 1), float32 [n, 9] on the CPU: what `augmented` takes of each of an epoch's n images in order."""
    return torch.rand(n, 9, generator=generator(seed, "augment", epoch))


def augmented(images: torch.Tensor, draws: torch.Tensor, config: RunConfig) -> torch.Tensor:
    """`images` uint8 [n, 784], each changed as the config says, by `draws` [n, 9], of which each has one use.

    Turned about its centre (bilinear; the result is then float of the weights' type), flipped left to right, moved
    along both axes by whole pixels, a rectangle with sides of 4 to 16 pixels blackened. What comes into view is black.
    """
    x, (angle, flip, down, right, erase, *box) = images.view(-1, SIDE, SIDE), draws.T
    place = torch.arange(SIDE, device=x.device)
    if config.augment_rotation:
        x = x.to(torch.float64 if config.precision == "float64" else torch.float32)
        turn = (2 * angle.to(x.dtype) - 1) * math.radians(config.augment_rotation)
        matrices = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], 1)  # applied to (x, y) in [-1, 1]
        x_y = (2 * torch.cartesian_prod(place, place).flip(1).to(x.dtype) + 1) / SIDE - 1
        grid = (matrices.view(-1, 2) @ x_y.T).view(-1, 2, SIDE, SIDE).permute(0, 2, 3, 1)
        x = grid_sample(x[:, None], grid, align_corners=False)[:, 0]
    if config.augment_flip:
        x = x + (x.flip(2) - x) * (flip < 0.5)[:, None, None].to(x.dtype)  # faster than a choice; bytes wrap around
    if most := config.augment_shift:
        windows = pad(x, [most] * 4).unfold(1, SIDE, 1).unfold(2, SIDE, 1)  # [n, 2 most + 1, 2 most + 1, 28, 28]
        start = ((2 * most + 1) * torch.stack([down, right])).long()
        x = windows[torch.arange(len(x), device=x.device), *start]
    if config.augment_erasing:
        size, start = torch.stack(box).view(2, 2, -1, 1)  # each [rows and columns, n, 1]
        size = 4 + (13 * size).floor()
        start = ((SIDE + 1 - size) * start).floor()
        rows, columns = (place >= start) & (place < start + size)  # each [n, 28]
        rows = rows & (erase < config.augment_erasing)[:, None]
        x = x - x * rows[:, :, None].to(x.dtype) * columns[:, None].to(x.dtype)
    return x.reshape(len(x), -1)


def mixup_shares(config: RunConfig, epoch: int, batches: int) -> torch.Tensor:
    """The share λ of an image in its mixture, for each of an epoch's batches, float64 on the CPU: λ · image + (1 − λ) ·
    the image as far from the other end of the batch, labels alike, λ from Beta(α, α) (Zhang et al., ICLR 2018); the
    greater of λ and 1 − λ: in a batch as a whole it is the same, and the image's own label leads.
    """
    if not config.mixup:
        return torch.ones(batches, dtype=torch.float64)
    from scipy.special import betaincinv  # a third of a second

    draws = torch.rand(batches, dtype=torch.float64, generator=generator(config.seed, "mixup", epoch))
    share = torch.from_numpy(betaincinv(config.mixup, config.mixup, draws.numpy()))
    return torch.maximum(share, 1 - share)


@functools.lru_cache(maxsize=64)
def scaling(config: RunConfig, data: Data | None) -> tuple[float, float]:
    """(scale, shift) such that a run's input = pixel * scale + shift: `input_scaling` "none" to [0, 1], "symmetric" to
    [-1, 1], "standardized" to mean 0 and (population) standard deviation 1 over all pixels of the train split, from
    exact integer sums, so the same on every device, "mnist" by MNIST's mean and deviation, as in PyTorch's example.
    `data` may be left out where pixels are not standardized.
    """
    if config.input_scaling in FIXED:
        return FIXED[config.input_scaling]
    train, _ = split(len(data.train_labels), config.val_size, config.seed)
    images = data.train_images[train.to(data.train_images.device)]
    histogram = images.flatten().bincount(minlength=256).tolist()
    n, total = sum(histogram), sum(pixel * times for pixel, times in enumerate(histogram))
    squares = sum(pixel * pixel * times for pixel, times in enumerate(histogram))
    std = math.sqrt(n * squares - total * total) / n
    return 1 / std, -total / n / std
