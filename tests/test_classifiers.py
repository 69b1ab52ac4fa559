"""A classifier is fitted once, gives the same again, and sees what a network of its seed sees."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import KNeighborsClassifier

from fmnist import classifiers, data
from fmnist.beyond import check_parameters, elsewhere, networks
from fmnist.config import RunConfig, UserError
from fmnist.engine import workers
from fmnist.replication_old.claims import reached
from fmnist.study import Study

TREES = {"trees": {"model": "ExtraTreesClassifier", "n_estimators": 3}}


@pytest.fixture
def runs(tmp_path, monkeypatch, small):
    """An empty store, and the first images as data set."""
    monkeypatch.setenv("FMNIST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(data, "load", lambda *_, **__: small)
    monkeypatch.setattr(workers, "load", lambda *_: small)
    return tmp_path / "runs"


def test_nothing_is_fitted_twice(runs, monkeypatch):
    first = classifiers.fit(TREES, [0, 1], val_size=500)
    assert len(list(runs.glob("classifiers/*"))) == 2
    monkeypatch.setattr(classifiers, "_judge", None)
    pd.testing.assert_frame_equal(first, classifiers.fit(TREES, [0, 1], val_size=500))


def test_a_damaged_result_is_fitted_again_and_gives_the_same(runs):
    first = classifiers.fit(TREES, [0], val_size=500)
    (path,) = runs.glob("classifiers/*")
    path.write_text(path.read_text()[:40])
    again = classifiers.fit(TREES, [0], val_size=500)
    columns = ["val_accuracy", "test_accuracy", "test_accuracy_std"]
    assert first[columns].equals(again[columns]) and json.loads(path.read_text())["seed"] == 0


@pytest.mark.parametrize("other", ["seed", "val_size", "train_images", "parameter"])
def test_whatever_a_result_depends_on_is_in_its_address(other, runs):
    usual = {"classifiers": TREES, "seeds": [0], "val_size": 500, "train_images": 1_000}
    changes = {"seed": {"seeds": [1]}, "val_size": {"val_size": 400}, "train_images": {"train_images": 900}}
    changes["parameter"] = {"classifiers": {"trees": {**TREES["trees"], "n_estimators": 4}}}
    classifiers.fit(**usual)
    classifiers.fit(**usual | changes[other])
    assert len(list(runs.glob("classifiers/*"))) == 2


def test_it_learns_from_the_train_split_of_a_networks_seed(runs, small):
    found = classifiers.fit({"near": {"model": "KNeighborsClassifier", "n_neighbors": 1}}, [3], val_size=500).iloc[0]
    train, val = data.split(3_000, 500, seed=3)
    images, labels = small.train_images.numpy() / np.float32(255), small.train_labels.numpy()
    near = KNeighborsClassifier(1).fit(images[train], labels[train])
    assert found.val_accuracy == near.score(images[val], labels[val])
    assert found.test_accuracy == near.score(small.test_images.numpy() / np.float32(255), small.test_labels.numpy())
    assert found.train_images == 2_500


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "ExtraTreesClasifier"}, "did you mean 'ExtraTreesClassifier'"),
        ({"model": "LinearSVC", "c": 1}, "classifiers: mine: c: LinearSVC has no such parameter; did you mean 'C'"),
        ({"model": "LinearSVC", "C": -1}, "classifiers: mine: The 'C' parameter of LinearSVC must be"),
        ({}, "model: '' is not allowed"),
    ],
)
def test_a_mistake_is_refused_in_one_line(given, message, runs):
    with pytest.raises(UserError, match=message) as error:
        classifiers.fit({"mine": given}, [0], val_size=500)
    assert "\n" not in str(error.value)


def test_a_network_that_is_both_baseline_and_selected_stands_once(runs):
    base = {"hidden_sizes": [4], "epochs": 1, "val_size": 500, "batch_size": 100}
    studies = {
        "one": Study(base, {"slow": {"lr": 1e-9}, "quick": {"lr": 0.5}}, seeds=[0, 1]).run("cpu"),
        "two": Study(base, {"same": {"lr": 0.5}}, seeds=[0, 1]).run("cpu"),
    }
    configs, runs = networks(studies, "two", "same")
    assert list(configs) == ["network quick"] and len(runs) == 2
    configs, runs = networks(studies, "one", "slow")
    assert list(configs) == list(dict.fromkeys(runs.trial)) == ["network quick", "network slow"]
    there = elsewhere(configs, [0, 1], "MNIST").configs
    assert {c.dataset for c in there} == {"MNIST"} and len(there) == 4
    assert there[0] == RunConfig(**base, lr=0.5, dataset="MNIST")
    with pytest.raises(UserError, match="did you mean 'slow'"):
        networks(studies, "one", "slo")


@pytest.mark.parametrize(
    ("mean", "seeds", "answer"),
    [(0.95, 6, "holds"), (0.85, 6, "does not hold"), (0.9001, 6, "cannot be decided"), (0.95, 5, "cannot be decided")],
)
def test_a_goal_is_reached_by_the_whole_interval(mean, seeds, answer):
    accuracy = mean + 0.001 * np.resize([-1, 1], seeds)
    runs = pd.DataFrame({"trial": "x", "seed": range(seeds), "test_accuracy": accuracy, "diverged": False})
    runs["run_id"] = runs["seed"].astype(str)
    assert reached(runs, "x", 90)[0] == answer


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("classifiers", {"mine": {"model": "LinearSVM"}}, "beyond.yaml: classifiers: mine: model: 'LinearSVM' is not"),
        ("other", "mnist", "beyond.yaml: other: dataset: 'mnist' is not allowed; did you mean 'MNIST'"),
    ],
)
def test_a_report_refuses_it_before_anything_is_trained(key, value, message):
    with pytest.raises(UserError, match=message):
        check_parameters({"classifiers": {}, "other": "MNIST"} | {key: value}, "params/wood/beyond.yaml")
