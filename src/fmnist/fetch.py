"""Where a data set's four files come from: found on this machine, or fetched, and verified whatever the way.

Fashion-MNIST's are looked for in `FMNIST_DATA`, in `data/`, and where Debian's package `dataset-fashion-mnist` puts
them; then fetched from torchvision's mirrors, then from Debian's archive, without root. The SHA-256 of every
uncompressed file is checked before use. What is fetched goes into `data/`, written aside and renamed: whole or absent.

Other sets of its form (MNIST) are looked for in a folder of their name in `FMNIST_DATA` and in `data/`, then fetched
from torchvision's mirrors, by its MD5. Files found here are checked for their form, and none may be Fashion-MNIST's.
"""

import gzip
import hashlib
import http.client
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
import zlib
from pathlib import Path

from fmnist.config import FASHION, TEST_IMAGES, TRAIN_IMAGES, UserError, project_root

SHA256 = {  # of the uncompressed files, as in Debian's package and zalandoresearch/fashion-mnist
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
FILES = f"{', '.join(SHA256)} (each as it is or as .gz)"
PACKAGE = "dataset-fashion-mnist"
SYSTEM = Path("/usr/share/datasets/fashion-mnist")  # where PACKAGE installs its four .gz files
TIMEOUT = 10.0  # seconds a mirror may be silent
PATIENCE = 900.0  # seconds one transfer may take in all: 26 MB at 30 kB/s


def locate(download: bool = True, progress: bool = True, dataset: str = FASHION) -> Path:
    """A folder with the four verified files, each as it is or as .gz; fetched into `data/` if need be and allowed.

    UserError if `FMNIST_DATA` is set to something else, or if nothing is found: what was tried, and why it failed.
    """
    return find(download, progress, dataset)[0]


def find(download: bool, progress: bool, dataset: str = FASHION) -> tuple[Path, dict[str, bytes]]:
    """`locate`, with the four payloads by name, so that nothing is read twice."""
    if dataset != FASHION:
        return _find_other(dataset, download, progress)
    if chosen := os.environ.get("FMNIST_DATA"):
        folder, payloads, problems = _look(project_root() / Path(chosen).expanduser())
        if problems:
            raise UserError(
                f"FMNIST_DATA is set to {chosen}, but {', '.join(problems)}. It must name a folder with "
                f"Fashion-MNIST's {FILES}; or unset it, and the data set is looked for elsewhere."
            )
        return folder, payloads
    data = project_root() / "data"
    tried = ["FMNIST_DATA: not set"]
    for start in (data, SYSTEM):
        folder, payloads, problems = _look(start)
        if not problems:
            return folder, payloads
        tried.append(f"{start}: {', '.join(problems)}")
    payloads = _read(data)[0]  # whole files from an earlier, interrupted fetch are kept
    for source, fetch in (("torchvision's mirrors", _from_mirrors), (f"Debian's {PACKAGE} by apt-get", _from_debian)):
        if not download:
            tried.append(f"{source}: not asked to download")
            continue
        try:
            fetch(data, payloads, progress and sys.stderr.isatty())
            return data, payloads
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            tried.append(f"{source}: {error}")
    raise UserError(
        "Fashion-MNIST was not found. Do one of these:\n"
        f"  - put {FILES} into {data}\n"
        "  - set FMNIST_DATA to a folder that has them\n"
        f"  - on Debian or Ubuntu: sudo apt-get install {PACKAGE}\n"
        "  - connect to the internet (30 MB) and try again\n"
        "What was tried:\n" + "\n".join(f"  - {line}" for line in tried)
    )


def _find_other(dataset: str, download: bool, progress: bool) -> tuple[Path, dict[str, bytes]]:
    """`find` of a data set that is not Fashion-MNIST."""
    data, chosen = project_root() / "data", os.environ.get("FMNIST_DATA")
    tried = [] if chosen else ["FMNIST_DATA: not set"]
    for root in ([project_root() / Path(chosen).expanduser()] if chosen else []) + [data]:
        folder, payloads, problems = _look(root, dataset)
        if not problems:
            return folder, payloads
        if root is not data and folder.is_dir():
            raise UserError(
                f"FMNIST_DATA is set to {chosen}, but in {folder} {', '.join(problems)}: mend or remove it."
            )
        tried.append(f"{folder}: {', '.join(problems)}")
    try:
        if not download:
            raise ValueError("not asked to download")
        _from_mirrors(folder, payloads, progress and sys.stderr.isatty(), dataset)  # what is whole in data/ is kept
        return folder, payloads
    except (OSError, ValueError) as error:
        tried.append(f"torchvision's mirrors: {error}")
    raise UserError(
        f"{dataset} was not found: {'; '.join(tried)}. Put {FILES} into {data / dataset}, or set FMNIST_DATA to a "
        f"folder that has them in a folder {dataset}, or connect to the internet and try again."
    )


def _look(start: Path, dataset: str = FASHION) -> tuple[Path, dict[str, bytes], list[str]]:
    """`_read` of a folder, or of where torchvision would have put the files below it if they are there."""
    for folder in (start / dataset / "raw", start if dataset == FASHION else start / dataset):
        payloads, problems = _read(folder, dataset)
        if not problems:
            break
    return folder, payloads, problems


def _read(folder: Path, dataset: str = FASHION) -> tuple[dict[str, bytes], list[str]]:
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


def _payload(name: str, content: bytes, dataset: str = FASHION) -> bytes:
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


def _keep(folder: Path, name: str, content: bytes) -> None:
    """Write a verified file so that it is whole or absent, whatever ends this process."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{name}.{uuid.uuid4().hex}.part"
    try:
        part.write_bytes(content)
        part.replace(folder / name)
    finally:
        part.unlink(missing_ok=True)


def _from_mirrors(folder: Path, payloads: dict[str, bytes], progress: bool, dataset: str = FASHION) -> None:
    """Fetch what `payloads` lacks from each of torchvision's mirrors in turn, verify it and keep it in `folder`."""
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError) as error:  # RuntimeError: torch and torchvision of different builds
        raise ValueError(f"torchvision cannot be imported ({error})") from None
    known = getattr(datasets, dataset)
    for name in [name for name in SHA256 if name not in payloads]:
        reasons = []
        for mirror in [*known.mirrors, *known.mirrors]:  # two rounds: silence may be a hiccup
            url = f"{mirror.rstrip('/')}/{name}.gz"
            try:
                content = _transfer(url, progress)
                if (
                    dataset != FASHION
                    and hashlib.md5(content, usedforsecurity=False).hexdigest() != dict(known.resources)[f"{name}.gz"]
                ):
                    raise ValueError(f"is not {dataset}'s (its MD5 is another)")
                payloads[name] = _payload(name, content, dataset)
            except (OSError, ValueError, http.client.HTTPException) as error:
                reasons.append(f"{url}: {error}")
            else:
                _keep(folder, f"{name}.gz", content)
                break
        else:
            raise ValueError("; ".join(dict.fromkeys(reasons)))


def _transfer(url: str, progress: bool) -> bytes:
    """What is at `url`. OSError or HTTPException if it is unreachable, silent for TIMEOUT, or cut short."""
    from tqdm import tqdm

    content, begin = bytearray(), time.monotonic()
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
        size = int(answer.headers.get("Content-Length", 0))
        with tqdm(total=size or None, unit="B", unit_scale=True, desc=Path(url).name, disable=not progress) as bar:
            while block := answer.read1(1 << 16):
                content += block
                bar.update(len(block))
                if time.monotonic() - begin > PATIENCE:
                    raise TimeoutError(f"took longer than {PATIENCE:.0f} s")
    if len(content) < size:
        raise ConnectionError(f"ended after {len(content)} of {size} bytes")
    return bytes(content)


def _from_debian(folder: Path, payloads: dict[str, bytes], progress: bool) -> None:
    """Fetch Debian's package with this machine's apt sources, unpack it aside, keep its verified files in `folder`."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise ValueError("apt-get and dpkg-deb are not both on PATH")
    if progress:
        print(f"Fetching Debian's {PACKAGE} (31 MB) with apt-get ...", file=sys.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        for part in ("state/lists/partial", "cache/archives/partial"):
            Path(scratch, part).mkdir(parents=True)
        own = ("-o", f"Dir::State={scratch}/state", "-o", f"Dir::Cache={scratch}/cache", "-o", "APT::Sandbox::User=")
        apt = ("apt-get", "-qq", "-o", f"Acquire::http::Timeout={TIMEOUT:.0f}")
        problem = _command(scratch, *apt, "download", PACKAGE)
        if problem:  # containers come without package lists: fetch some of our own, which needs no root
            _command(scratch, *apt, *own, "update")
            problem = _command(scratch, *apt, *own, "download", PACKAGE)
        for deb in () if problem else Path(scratch).glob("*.deb"):
            problem = _command(scratch, "dpkg-deb", "-x", deb.name, "unpacked")
        unpacked = Path(scratch, "unpacked", SYSTEM.relative_to("/"))
        found, problems = _read(unpacked)
        if problem or problems:
            raise ValueError(problem or f"in the package, {', '.join(problems)}")
        for name in found.keys() - payloads.keys():
            payloads[name] = found[name]
            _keep(folder, f"{name}.gz", (unpacked / f"{name}.gz").read_bytes())


def _command(cwd: str, *command: str) -> str:
    """Why a command failed, "" if it did not."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, errors="replace", timeout=PATIENCE)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
