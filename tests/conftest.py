"""What tests share: the first images of the real data set."""

import pytest


@pytest.fixture(scope="session")
def small():
    """The first 3,000 train and 1,000 test images."""
    from fmnist.config import UserError
    from fmnist.data import load

    try:
        return load().subset(3_000, 1_000)
    except UserError as error:
        pytest.skip(f"the data set is nowhere to be had: {error}")


@pytest.fixture(scope="session")
def data_set():
    """Fashion-MNIST is on this machine, for commands that look for it themselves."""
    from fmnist.config import UserError
    from fmnist.data import find

    try:
        find()
    except UserError as error:
        pytest.skip(f"the data set is nowhere to be had: {error}")


@pytest.fixture(scope="session")
def result(small):
    """A tiny run as training gives it."""
    from reference import TINY_RUN

    from fmnist.engine.train import train_stack

    return train_stack([TINY_RUN], small)[0]


@pytest.fixture
def runs(tmp_path, monkeypatch, small):
    """An empty store, and training on the first images."""
    from fmnist.engine import workers

    monkeypatch.setenv("FMNIST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(workers, "load", lambda *_: small)
    return tmp_path / "runs"


def pytest_terminal_summary(terminalreporter):
    """How often which fault was tried (test_faults)."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "fault":
                terminalreporter.write_line(value)
