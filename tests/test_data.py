"""The data set is Fashion-MNIST whatever way it came, or it is refused; a run's split and orders are its seed's."""

import gzip
import hashlib
import struct
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import beta, kstest
from torchvision.datasets import MNIST, FashionMNIST
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from fmnist import data, store, study
from fmnist.config import RunConfig, UserError

IMAGES = "train-images-idx3-ubyte"
FILES = [f"{name}.gz" for name in data.SHA256]


@pytest.fixture(scope="session")
def payloads(data_set) -> dict[str, bytes]:
    """The four real files, uncompressed, by name."""
    return data.find()[1]


@pytest.fixture(scope="session")
def gz_folder(payloads, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gz")
    return fill(folder, {f"{name}.gz": gzip.compress(payload, 0) for name, payload in payloads.items()})


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def kept(house: Path) -> list[str]:
    return sorted(path.name for path in house.glob("data/*"))


def test_FMNIST_DATA_comes_first_raw_or_gz(house, payloads, gz_folder, tmp_path, monkeypatch):
    raw = fill(tmp_path / "raw", payloads)
    fill(house / "data", payloads)
    for folder in (raw, gz_folder):
        monkeypatch.setenv("FMNIST_DATA", str(folder))
        assert data.find()[0] == folder


WRONG = {
    "absent": "No such file or directory: '.*absent/train-images",
    "empty": "No such file or directory: '.*empty/train-images",
    "damaged": f"damaged/{IMAGES}.gz is cut short or damaged",
    "other": f"other/{IMAGES}.gz is not FashionMNIST's, by its SHA-256",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_FMNIST_DATA_is_an_error_even_if_data_is_fine(wrong, house, payloads, tmp_path, monkeypatch):
    fill(house / "data", payloads)
    folder = tmp_path / wrong
    if wrong != "absent":
        folder.mkdir()
    if wrong in ("damaged", "other"):
        zipped = gzip.compress(bytes(len(payloads[IMAGES])))
        fill(folder, {name: content for name, content in payloads.items() if name != IMAGES})
        fill(folder, {f"{IMAGES}.gz": zipped[:-9] if wrong == "damaged" else zipped})
    monkeypatch.setenv("FMNIST_DATA", str(folder))
    with pytest.raises(UserError, match=f"FMNIST_DATA is set to .*{wrong}, but .*{WRONG[wrong]}"):
        data.find()


def test_nothing_found_says_what_was_tried_and_what_to_do(house):
    with pytest.raises(UserError) as error:
        data.find()
    parts = [f"{house}/data/{IMAGES}", f"/nowhere/fashion-mnist/{IMAGES}", "No such file or directory: 'apt-get'"]
    assert all(part in str(error.value) for part in [*parts, "sudo apt-get install dataset-fashion-mnist"])
    assert kept(house) == []


@pytest.fixture
def mirrors(house, monkeypatch):
    """mirrors(torchvision's class, files, *folders): it knows the files by their MD5 and asks servers of the folders,
    None being one that is gone. What else a server may do is in test_faults.
    """
    opened = []

    def open_mirrors(kind: type, files: Path, *folders: Path | None) -> None:
        md5 = [(path.name, hashlib.md5(path.read_bytes()).hexdigest()) for path in sorted(files.iterdir())]
        monkeypatch.setattr(kind, "resources", md5)
        for folder in folders:
            answer = partial(SimpleHTTPRequestHandler, directory=folder)
            opened.append(server := ThreadingHTTPServer(("127.0.0.1", 0), answer))
            if folder is None:
                server.server_close()
            else:
                threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        addresses = [f"http://127.0.0.1:{server.server_port}/" for server in opened[-len(folders) :]]
        monkeypatch.setattr(kind, "mirrors", addresses)

    yield open_mirrors
    for server in opened:
        server.server_close()


@pytest.fixture
def zipped_digits(digits, tmp_path) -> Path:
    return fill(tmp_path / "digits", {f"{name}.gz": gzip.compress(part, 0) for name, part in digits.items()})


def test_a_mirror_without_the_files_or_with_others_leaves_nothing(house, gz_folder, zipped_digits, mirrors, tmp_path):
    for files, folder, reason in [(gz_folder, tmp_path, "404"), (*[zipped_digits] * 2, "gz is not FashionMNIST's")]:
        mirrors(FashionMNIST, files, folder)
        with pytest.raises(UserError, match=f"torchvision's mirrors: .*{reason}"):
            data.find()
        assert kept(house) == []


def test_what_is_damaged_is_replaced_and_an_interrupt_leaves_no_half(house, payloads, gz_folder, mirrors):
    damaged = fill(house / "data", payloads) / IMAGES
    damaged.write_bytes(payloads[IMAGES][:-1])
    mirrors(FashionMNIST, gz_folder, gz_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            data.find()
    assert kept(house) == sorted(data.SHA256)
    assert data.find()[0] == data.find()[0] == house / "data"


def command(folder: Path, name: str, script: str) -> None:
    path = fill(folder, {name: f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n".encode()}) / name
    path.chmod(0o755)


def test_debians_package_is_fetched_and_unpacked(house, gz_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    lists = 'case "$*" in *Dir::State*) ;; *) echo "E: Unable to locate package" >&2; exit 100;; esac\n'
    command(tmp_path / "bin", "apt-get", f"{lists}touch some_all.deb")
    command(tmp_path / "bin", "dpkg-deb", f'mkdir -p "$3/nowhere" && cp -r {gz_folder} "$3/nowhere/fashion-mnist"')
    assert data.find()[0] == house / "data" and kept(house) == sorted(FILES)


NO_DEB = [
    ("echo 'E: no network' >&2; exit 100", "", "E: no network"),
    ("touch some_all.deb", "exit 2", "unpacked failed"),
    ("touch some_all.deb", "exit 0", "No such file or directory"),
    ("exec sleep 60", "", "timed out"),
]


@pytest.mark.parametrize(("apt", "dpkg", "reason"), NO_DEB)
def test_a_failed_apt_get_or_dpkg_deb_is_named_with_its_reason(apt, dpkg, reason, house, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(data, "PATIENCE", 3.0)
    command(tmp_path / "bin", "apt-get", apt)
    command(tmp_path / "bin", "dpkg-deb", dpkg)
    with pytest.raises(UserError, match=f"Debian's dataset-fashion-mnist: .*{reason}"):
        data.find()
    assert kept(house) == []


@pytest.fixture(scope="session")
def full(data_set) -> data.Data:
    return data.load()


def test_tensors_are_torchvisions(full, payloads, tmp_path):
    fill(tmp_path / "FashionMNIST" / "raw", payloads)
    assert (full.train_images.dtype, full.train_labels.dtype) == (torch.uint8, torch.int64)
    assert data.load(torch.device("cpu")) is data.load() is full
    train, test = FashionMNIST(tmp_path, train=True), FashionMNIST(tmp_path, train=False)
    assert torch.equal(train.data.flatten(1), full.train_images) and torch.equal(train.targets, full.train_labels)
    assert torch.equal(test.data.flatten(1), full.test_images) and torch.equal(test.targets, full.test_labels)
    assert tuple(train.classes) == data.CLASSES


@pytest.mark.parametrize("val_size", [0, 1, 6_000, 59_999])
def test_a_split_is_disjoint_and_complete(val_size):
    train, val = data.split(60_000, val_size, seed=3)
    assert len(val) == val_size
    assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(60_000))


def test_splits_and_orders_are_their_seeds_and_stay_what_they_are():
    """Stored runs are addressed by their seed: what a seed means must not change unnoticed."""
    orders = [data.split(500, 100, seed)[1].tolist() for seed in range(4)]
    orders += [data.epoch_order(500, seed, epoch).tolist() for seed, epoch in product(range(4), range(4))]
    assert len({*map(tuple, orders)}) == 4 * 5 and sorted(orders[-1]) == list(range(500))
    assert data.split(10, 3, seed=0)[1].tolist() == [2, 4, 8]
    assert data.epoch_order(10, seed=0, epoch=1).tolist() == [6, 3, 5, 2, 8, 0, 7, 9, 1, 4]


@pytest.mark.parametrize("seed", [0, 1])
def test_fixed_scalings_span_their_range_and_a_standardized_train_split_has_mean_0_and_std_1(seed, full):
    for kind, span in {"none": (0, 1), "symmetric": (-1, 1), "mnist": (-0.1307 / 0.3081, 0.8693 / 0.3081)}.items():
        scale, shift = data.scaling(RunConfig(input_scaling=kind), None)
        assert (shift, 255 * scale + shift) == pytest.approx(span, rel=1e-15, abs=1e-15)
    train, _ = data.split(60_000, 40_000, seed)
    scale, shift = data.scaling(RunConfig(input_scaling="standardized", val_size=40_000, seed=seed), full)
    inputs = full.train_images[train].double() * scale + shift
    assert inputs.mean().item() == pytest.approx(0, abs=1e-10)
    assert inputs.std(correction=0).item() == pytest.approx(1, abs=1e-10)


@pytest.fixture(scope="session")
def digits() -> dict[str, bytes]:
    """What MNIST would look like: four IDX files of random bytes, uncompressed, by name."""
    draw = np.random.default_rng(0)
    return {
        f"{part}-{what}": struct.pack(">4I" if images else ">2I", kind, count, *((28, 28) if images else ()))
        + draw.integers(0, 256 if images else 10, count * (784 if images else 1), np.uint8).tobytes()
        for part, count in (("train", 60_000), ("t10k", 10_000))
        for what, kind, images in (("images-idx3-ubyte", 0x803, True), ("labels-idx1-ubyte", 0x801, False))
    }


@pytest.fixture
def fresh():
    """`data.load` remembers; a test that moves the files wants it to forget, before and after."""
    data._load.cache_clear()
    yield
    data._load.cache_clear()


@pytest.mark.parametrize("place", ["data/MNIST", "data/MNIST/raw", "elsewhere/MNIST"])
def test_another_set_is_found_by_its_name(place, house, digits, fresh, monkeypatch):
    folder = fill(house / place, digits)
    if place.startswith("elsewhere"):
        monkeypatch.setenv("FMNIST_DATA", str(house / "elsewhere"))
    assert data.find("MNIST")[0] == folder
    there = data.load(dataset="MNIST")
    labels = np.frombuffer(digits["t10k-labels-idx1-ubyte"], np.uint8, offset=8)
    assert there.test_labels.tolist() == labels.tolist() and there.test_images.shape == (10_000, 784)
    assert there.test_images[0].tolist() == list(digits["t10k-images-idx3-ubyte"][16 : 16 + 784])


def test_runs_on_two_data_sets_train_side_by_side(house, digits, gz_folder, fresh, monkeypatch):
    fill(house / "data" / "MNIST", digits)
    fill(house / "data", {path.name: path.read_bytes() for path in gz_folder.iterdir()})
    monkeypatch.setenv("FMNIST_RUNS", str(house / "runs"))
    one = RunConfig(hidden_sizes=(), epochs=1, val_size=500, batch_size=5_000, lr=0.1)
    fashion, random = study.train([one, RunConfig(**one.model_dump() | {"dataset": "MNIST"})], "cpu")
    assert fashion.run_id != random.run_id and store.load_run(random.run_id).config.dataset == "MNIST"
    assert random.record["data_checksum"] == data.load(dataset="MNIST").checksum != fashion.record["data_checksum"]
    assert random.metrics["test_accuracy"] < 0.2 < fashion.metrics["test_accuracy"]


def test_no_set_passes_for_another(house, payloads, digits, fresh):
    fill(house / "data" / "MNIST", payloads)
    with pytest.raises(UserError, match=f"{IMAGES} is not MNIST's, by its SHA-256"):
        data.load(dataset="MNIST")
    fill(house / "data", digits)
    with pytest.raises(UserError, match=f"{IMAGES} is not FashionMNIST's"):
        data.load()
    assert "is not MNIST's, by its SHA-256" in data.lacking("MNIST")


MALFORMED = [
    (IMAGES, lambda b: b[:-1], "is not an IDX file of 60,000 images of 28 × 28 bytes"),
    ("t10k-labels-idx1-ubyte", lambda b: b[:4] + bytes(4) + b[8:], "is not an IDX file of 10,000 labels"),
    ("train-labels-idx1-ubyte", lambda b: b[:-1] + b"\x0a", "is not an IDX file of 60,000 labels from 0 to 9"),
]


@pytest.mark.parametrize(("name", "damage", "reason"), MALFORMED)
def test_a_file_of_another_form_is_refused(name, damage, reason, house, digits):
    fill(house / "data" / "KMNIST", digits | {name: damage(digits[name])})
    with pytest.raises(UserError, match=f"{name} {reason}"):
        data.find("KMNIST")


def test_a_set_that_cannot_be_had_is_said_with_where_it_was_looked_for(house, fresh):
    with pytest.raises(UserError, match="^MNIST was not found") as error:
        study.train([RunConfig(dataset="MNIST")], "cpu")
    text = str(error.value)
    assert f"No such file or directory: '{house}/data/MNIST/{IMAGES}'" in text and "torchvision's mirrors" in text
    assert f"into {house}/data/MNIST\n" in text
    assert "apt-get" not in text and data.lacking("MNIST") == " ".join(text.split())
    with pytest.raises(UserError, match="dataset: 'MNISTT' is not allowed; did you mean 'MNIST'"):
        data.find("MNISTT")


def test_torchvision_fetches_other_sets(house, zipped_digits, mirrors):
    mirrors(MNIST, zipped_digits, zipped_digits)
    assert data.find("MNIST")[0] == house / "data" / "MNIST"
    assert sorted(path.name for path in house.glob("data/MNIST/*")) == sorted(FILES)


ONE_EACH = [{"augment_rotation": 20.0}, {"augment_flip": True}, {"augment_shift": 3}, {"augment_erasing": 0.5}]
TOGETHER = ONE_EACH[0] | ONE_EACH[1] | ONE_EACH[2] | ONE_EACH[3]


def by_torchvision(image: torch.Tensor, draws: list[float], config: RunConfig) -> torch.Tensor:
    """An image [784] after torchvision's functions of one image, one after the other."""
    angle, flip, down, right, erase, height, width, top, left = draws
    x, most = image.view(1, 28, 28).double(), config.augment_shift
    if config.augment_rotation:
        x = transforms.rotate(x, (2 * angle - 1) * config.augment_rotation, InterpolationMode.BILINEAR)
    if config.augment_flip and flip < 0.5:
        x = transforms.horizontal_flip(x)
    if most:
        move = [int((2 * most + 1) * draw) for draw in (down, right)]
        x = transforms.crop(transforms.pad(x, [most]), *move, 28, 28)
    if erase < config.augment_erasing:
        height, width = (4 + int(13 * draw) for draw in (height, width))
        x = transforms.erase(x, int((29 - height) * top), int((29 - width) * left), height, width, torch.tensor(0.0))
    return x.flatten()


@pytest.mark.parametrize("options", [*ONE_EACH, TOGETHER], ids=lambda options: ", ".join(options))
def test_images_are_augmented_as_torchvision_does_it_one_by_one(options, small):
    config, images = RunConfig(precision="float64", **options), small.train_images[:200]
    draws = data.augmentation_draws(200, 7, 1)
    expected = [by_torchvision(*pair, config) for pair in zip(images, draws.tolist(), strict=True)]
    found = data.augmented(images, draws, config)
    tolerance = 1e-4 if config.augment_rotation else 0
    torch.testing.assert_close(found.double(), torch.stack(expected), rtol=0, atol=tolerance)
    assert found.dtype == (torch.float64 if config.augment_rotation else torch.uint8)
    assert 0.2 < (found.double() - images).abs().amax(1).gt(1).double().mean() <= 1
    assert torch.equal(found[50:60], data.augmented(images[50:60], draws[50:60], config))


def test_augmentation_is_drawn_evenly_and_anew_for_every_epoch_and_seed():
    draws = data.augmentation_draws(5_000, 3, 2)
    assert torch.equal(draws, data.augmentation_draws(5_000, 3, 2))
    assert all(kstest(each, "uniform").pvalue > 1e-4 for each in draws.T.numpy())
    for other in (data.augmentation_draws(5_000, 3, 1), data.augmentation_draws(5_000, 4, 2)):
        assert torch.corrcoef(torch.stack([draws.flatten(), other.flatten()]))[0, 1].abs() < 0.03


def test_shares_of_mixtures_have_their_distribution():
    config = RunConfig(mixup=0.3)
    shares = data.mixup_shares(config, 1, 20_000)
    assert kstest(shares.numpy(), lambda x: beta.cdf(x, 0.3, 0.3) - beta.cdf(1 - x, 0.3, 0.3)).pvalue > 1e-3
    assert (data.mixup_shares(config, 2, 100) != shares[:100]).all()
    assert data.mixup_shares(RunConfig(), 1, 3).tolist() == [1, 1, 1]
