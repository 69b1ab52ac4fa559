"""The data set: found or fetched, verified, and on a device; each run's split, batch orders and input scaling.

Fashion-MNIST is looked for in `FMNIST_DATA`, in `data/` and where Debian's package puts it, then fetched by
torchvision, then from Debian's archive, without root. Whatever the way, every file's SHA-256 is checked. Other sets of
its form are looked for in a folder of their name, then fetched by torchvision; what is found is checked for its form.

The whole data set is 55 MB, so it lives on the device as one uint8 tensor and a batch is an index selection: no
DataLoader, no copies. Random numbers: every stream is named by (seed, purpose, ...) and hashed, see `generator`.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fmnist.config import FASHION, TEST_IMAGES, TRAIN_IMAGES, UserError, aside, project_root, validate_field

if TYPE_CHECKING:
    import torch

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
FILES = f"{', '.join(SHA256)} (each as it is or as .gz)"
PACKAGE = "dataset-fashion-mnist"
SYSTEM = Path("/usr/share/datasets/fashion-mnist")  # where PACKAGE installs its four .gz files
TIMEOUT = 10.0  # seconds a mirror may be silent
PATIENCE = 900.0  # seconds a command that downloads may take: 26 MB at 30 kB/s


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

    if device != "cpu":
        host = load(dataset=dataset)
        names = ("train_images", "train_labels", "test_images", "test_labels")
        return replace(host, **{name: getattr(host, name).to(device) for name in names})
    _, payloads = _find(dataset)
    lines = "".join(f"{hashlib.sha256(payloads[name]).hexdigest()}  {name}\n" for name in SHA256)
    raw = [torch.frombuffer(bytearray(payloads[name]), dtype=torch.uint8) for name in SHA256]
    # an idx file is a big-endian header (16 bytes for images, 8 for labels), then the bytes
    images, labels = [raw[0][16:].view(-1, 784), raw[2][16:].view(-1, 784)], [raw[1][8:].long(), raw[3][8:].long()]
    return Data(images[0], labels[0], images[1], labels[1], hashlib.sha256(lines.encode()).hexdigest())


def lacking(dataset: str) -> str:
    """Why a data set cannot be had here, in one line; "" if it can. UserError if there is none of this name."""
    validate_field("dataset", dataset, "data")
    try:
        load(dataset=dataset)
    except UserError as error:
        return " ".join(str(error).split())
    return ""


def locate(dataset: str = FASHION, download: bool = True) -> Path:
    """A folder with the four verified files, each as it is or as .gz; fetched into `data/` if need be and allowed.

    UserError if `FMNIST_DATA` is set to something else, or if nothing is found: what was tried, and why it failed.
    """
    return _find(dataset, download)[0]


def _find(dataset: str, download: bool = True) -> tuple[Path, dict[str, bytes]]:
    """`locate`, with the four payloads by name, so that nothing is read twice."""
    validate_field("dataset", dataset, "data")
    data, chosen = project_root() / "data", os.environ.get("FMNIST_DATA")
    tried = [] if chosen else ["FMNIST_DATA: not set"]
    given = [project_root() / Path(chosen).expanduser()] if chosen else []
    for place in [*given, data, *[SYSTEM] * (dataset == FASHION)]:
        folder, payloads, problems = _look(place, dataset)
        if not problems:
            return folder, payloads
        tried.append(f"{folder}: {', '.join(problems)}")
        if place in given and (dataset == FASHION or folder.is_dir()):
            raise UserError(
                f"FMNIST_DATA is set to {chosen}, but {tried[-1]}. It must name a folder with Fashion-MNIST's {FILES}, "
                "other sets in a folder of their name; or unset it, and the data set is looked for elsewhere."
            )
    if not download:
        raise UserError(_not_found(dataset, [*tried, "not asked to download"]))
    target, payloads = data if dataset == FASHION else data / dataset, {}
    ways = {"torchvision's download": _from_torchvision, f"Debian's {PACKAGE} by apt-get": _from_debian}
    for way, fetch in list(ways.items())[: 2 if dataset == FASHION else 1]:
        try:
            return target, _fetched(fetch, target, dataset)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            tried.append(f"{way}: {error}")
    raise UserError(_not_found(dataset, tried))


def _not_found(dataset: str, tried: list[str]) -> str:
    inside, debian = (f" in a folder {dataset}", []) if dataset != FASHION else ("", [PACKAGE])
    lines = [
        f"{dataset} was not found. Do one of these:",
        f"- put {FILES} into {project_root() / 'data'}{inside}",
        f"- set FMNIST_DATA to a folder that has them{inside}",
        *(f"- on Debian or Ubuntu: sudo apt-get install {package}" for package in debian),
        "- connect to the internet (30 MB) and try again",
        "What was tried:",
        *(f"- {line}" for line in tried),
    ]
    return "\n".join(lines)


def _look(start: Path, dataset: str) -> tuple[Path, dict[str, bytes], list[str]]:
    """`_read` of a folder, or of where torchvision would have put the files below it if they are there."""
    for folder in (start / dataset / "raw", start if dataset == FASHION else start / dataset):
        payloads, problems = _read(folder, dataset)
        if not problems:
            break
    return folder, payloads, problems


def _read(folder: Path, dataset: str) -> tuple[dict[str, bytes], list[str]]:
    """The verified payloads in a folder by name, and what is wrong with the others."""
    if not os.path.isdir(folder):
        return {}, ["there is no such folder"]
    payloads, problems = {}, []
    for name in SHA256:
        reasons = []
        for file in (folder / name, folder / f"{name}.gz"):
            try:
                payloads[name] = _payload(name, file.read_bytes(), dataset)
                break
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                reasons.append(f"{file.name} {error}")
        else:
            problems += reasons or [f"{name} is missing"]
    return payloads, problems


def _payload(name: str, content: bytes, dataset: str) -> bytes:
    """A file's content, uncompressed and verified. ValueError, which completes "<file> ...", if it is not that."""
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error):
            raise ValueError("is cut short or damaged") from None
    digest = hashlib.sha256(content).hexdigest()
    if dataset == FASHION and digest != SHA256[name]:
        raise ValueError("is not Fashion-MNIST's (its SHA-256 is another)")
    if dataset != FASHION and digest in SHA256.values():
        raise ValueError(f"is Fashion-MNIST's, not {dataset}'s")
    count, labels = TRAIN_IMAGES if name.startswith("train") else TEST_IMAGES, "labels" in name
    header = struct.pack(">2I", 0x801, count) if labels else struct.pack(">4I", 0x803, count, 28, 28)
    if not content.startswith(header) or len(content) != len(header) + count * (1 if labels else 784):
        raise ValueError(f"is not an IDX file of {count:,} {'labels' if labels else 'images of 28 × 28 bytes'}")
    if labels and max(content[len(header) :]) > 9:
        raise ValueError("has labels beyond 9")
    return content


def _fetched(fetch: Callable, target: Path, dataset: str) -> dict[str, bytes]:
    """Fetch aside what `target` lacks, keep there what is verified; all payloads, ValueError if any is lacking yet."""
    payloads = _read(target, dataset)[0]  # whole files from an earlier, interrupted download
    with tempfile.TemporaryDirectory() as scratch:
        folder, problem = fetch(Path(scratch), [name for name in SHA256 if name not in payloads], dataset)
        found, problems = _read(folder, dataset)
        target.mkdir(parents=True, exist_ok=True)
        for name in found.keys() - payloads.keys():
            with aside(target / f"{name}.gz") as part:
                shutil.copyfile(folder / f"{name}.gz", part)
    if lacking := SHA256.keys() - payloads.keys() - found.keys():
        raise ValueError(problem or ", ".join(problems or lacking))
    return found | payloads


def _from_torchvision(folder: Path, names: list[str], dataset: str) -> tuple[Path, str]:
    """Have torchvision download files, in a process that can be ended. The files' folder, and what went wrong."""
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError) as error:  # RuntimeError: torch and torchvision of different builds
        raise ValueError(f"torchvision cannot be imported ({error})") from None
    known = getattr(datasets, dataset)
    wanted = [(f"{name}.gz", dict(known.resources)[f"{name}.gz"]) for name in names]
    code = "import json, sys; from fmnist.data import _download; print(_download(*json.loads(sys.argv[1])))"
    command = [sys.executable, "-c", code, json.dumps([str(folder), wanted, known.mirrors, TIMEOUT])]
    shown = None if sys.stderr.isatty() else subprocess.DEVNULL
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=shown, text=True, timeout=PATIENCE)
    return folder, done.stdout.strip() or ("it failed" if done.returncode else "")


def _download(folder: str, wanted: list[tuple[str, str]], mirrors: list[str], timeout: float) -> str:
    """Fetch files, given by name and MD5, from the first mirror that has each; why one cannot be had, or ""."""
    import socket
    from http.client import HTTPException

    from torchvision.datasets.utils import download_url

    socket.setdefaulttimeout(timeout)
    for name, md5 in wanted:
        reasons = {}
        for url in [f"{mirror.rstrip('/')}/{name}" for mirror in mirrors] * 2:  # two rounds: silence may be a hiccup
            try:
                download_url(url, folder, name, md5)
                break
            except (OSError, RuntimeError, HTTPException) as error:
                reasons[f"{url}: {error}"] = None
        else:
            return "; ".join(reasons) or "there is no mirror"
    return ""


def _from_debian(folder: Path, names: list[str], dataset: str) -> tuple[Path, str]:
    """Fetch and unpack Debian's package with this machine's apt sources. The files' folder, and what went wrong."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise ValueError("apt-get and dpkg-deb are not both on PATH")
    if sys.stderr.isatty():
        print(f"Fetching Debian's {PACKAGE} (31 MB) with apt-get ...", file=sys.stderr)

    def problem(*command: str) -> str:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=PATIENCE)
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return lines[-1] if done.returncode else ""

    for part in ("state/lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True)
    own = (f"-oDir::State={folder}/state", f"-oDir::Cache={folder}/cache", "-oAPT::Sandbox::User=")
    apt = ("apt-get", "-qq", f"-oAcquire::http::Timeout={TIMEOUT:.0f}")
    failed = problem(*apt, "download", PACKAGE)
    if failed:  # containers come without package lists: fetch some of our own, which needs no root
        problem(*apt, *own, "update")
        failed = problem(*apt, *own, "download", PACKAGE)
    for deb in () if failed else folder.glob("*.deb"):
        failed = problem("dpkg-deb", "-x", deb.name, "unpacked")
    return folder / "unpacked" / SYSTEM.relative_to("/"), failed


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
