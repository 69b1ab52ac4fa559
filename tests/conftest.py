"""What tests share: the first images of the real data set, an empty store, published outputs, a browser."""

import os
import shutil
import sys
from pathlib import Path

if sys.dont_write_bytecode:  # then each of a hundred processes would compile all that it imports, torch for ten seconds
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(Path(__file__).parents[1] / ".pytest_cache" / "bytecode")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix

import nbformat.v4 as nbf
import pytest
from reference import TINY_RUN, subset

from fmnist import data
from fmnist.config import UserError
from fmnist.engine import workers
from fmnist.engine.train import train_stack
from fmnist.paper import publish

LONGEST = ["test_report", "test_lab", "test_training", "test_cluster", "test_faults", "test_answers", "test_reading"]


def pytest_collection_modifyitems(items):
    """The longest files first, so that the workers of `make test`, to each of which go whole files, end together."""
    place = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session")
def data_set():
    """Fashion-MNIST is on this machine, for commands that look for it themselves."""
    try:
        data.find()
    except UserError as error:
        pytest.skip(f"the data set is nowhere to be had: {error}")


@pytest.fixture(scope="session")
def small(data_set):
    """The first 3,000 train and 1,000 test images."""
    return subset(data.load(), 3_000, 1_000)


@pytest.fixture(scope="session")
def result(small):
    """A tiny run as training gives it."""
    return train_stack([TINY_RUN], small)[0]


@pytest.fixture
def runs(tmp_path, monkeypatch, small):
    """An empty store, and training on the first images."""
    monkeypatch.setenv("FMNIST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(data, "_load", lambda *_: small)
    return tmp_path / "runs"


@pytest.fixture
def house(tmp_path, monkeypatch) -> Path:
    """A project on a machine that has no data set, no apt-get and no mirror; the tests give it what they are about."""
    house = tmp_path / "house"
    for folder in ("params", "notebooks"):
        (house / folder).mkdir(parents=True)
    monkeypatch.chdir(house)
    monkeypatch.delenv("FMNIST_DATA", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr(data, "SYSTEM", Path("/nowhere/fashion-mnist"))
    for kind in ("FashionMNIST", "MNIST", "KMNIST"):
        monkeypatch.setattr(f"torchvision.datasets.{kind}.mirrors", [])
    return house


@pytest.fixture
def trained(runs, monkeypatch):
    """The configs that were trained, in the order in which they are handed to training; the store is empty at first."""
    configs, train = [], workers.train

    def counted(missing, *rest):
        configs.extend(missing)
        return train(missing, *rest)

    monkeypatch.setattr(workers, "train", counted)
    return configs


@pytest.fixture
def published(monkeypatch):
    """The outputs of what is published, as a kernel would store them."""
    outputs = []

    def display(data, metadata, raw):
        outputs.append(nbf.new_output("display_data", data, metadata=metadata))

    monkeypatch.setattr(publish, "display", display)
    return outputs


@pytest.fixture(scope="session")
def chromium():
    """The path of a Chromium."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    return path or pytest.skip("Chromium is not installed; on Debian: apt install chromium")


def pytest_terminal_summary(terminalreporter):
    """How often which fault was tried (test_faults)."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "fault":
                terminalreporter.write_line(value)
