"""A search draws the same valid trials again, extends itself, and says what its trials say: no more."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from fmnist import store
from fmnist.config import RunConfig, UserError
from fmnist.search import Search, configuration

SPACE = {
    "layers": [1, 2, 3], "width": [16, 32], "optimizer": ["SGD", "Adam", "RMSprop"],
    "lr": {"low": 1e-4, "high": 1.0, "log": True}, "momentum": [0.0, 0.9], "dropout": [0.0, 0.5],
    "batch_norm": [False, True], "init": ["default", "zeros"],
}  # fmt: skip


def test_one_seed_draws_one_set_of_trials_and_always_did_and_more_trials_extend_fewer():
    first, other = (Search({}, SPACE, 30, seed=seed).configs for seed in (5, 6))
    assert Search({}, SPACE, 15, seed=5).configs == first[:15] and len({*first}) == 30
    fields = ("hidden_sizes", "optimizer", "lr", "momentum", "dropout", "batch_norm", "init")
    assert [tuple(getattr(config, field) for field in fields) for config in first[:3]] == [
        ((32, 32, 32), "Adam", 0.00139, 0.0, 0.0, False, "default"),
        ((16, 16, 16), "RMSprop", 0.185, 0.9, 0.5, False, "default"),
        ((16,), "Adam", 0.0639, 0.0, 0.0, False, "default"),
    ]
    assert not {(c.lr, c.hidden_sizes) for c in first} & {(c.lr, c.hidden_sizes) for c in other}


def test_trials_lie_in_the_space_and_cover_it():
    configs = Search({"epochs": 2}, SPACE, 200).configs
    assert all(RunConfig.model_validate(config.model_dump()) == config and config.epochs == 2 for config in configs)
    assert {len(c.hidden_sizes) for c in configs} == {1, 2, 3}
    assert {size for c in configs for size in c.hidden_sizes} == {16, 32}
    for key in ("optimizer", "momentum", "dropout", "batch_norm", "init"):
        assert {getattr(c, key) for c in configs} == set(SPACE[key])
    assert {c.momentum for c in configs if c.optimizer == "Adam"} == {0.0}
    decades = np.histogram(np.log10([c.lr for c in configs]), bins=4, range=(-4, 0))[0]
    assert decades.sum() == 200 and decades.min() > 30  # uniform in the logarithm: about 50 each


def test_no_config_is_drawn_twice_and_an_exhausted_space_is_named():
    space = {"optimizer": ["SGD", "Adam"], "momentum": [0.0, 0.9]}  # Adam has no momentum: three configs
    assert len({*Search({}, space, 3).configs}) == 3
    with pytest.raises(UserError, match="trials: the space has 3 different configs; ask for fewer"):
        Search({}, space, 4)
    with pytest.raises(UserError, match="trials: should be less than or equal to 10000"):
        Search({}, space, 10**9)


WRONG = [
    ({"lerning_rate": [0.1]}, r"space\.lerning_rate: unknown key; did you mean 'lr'\?"),
    ({"lr": {"low": 0.1, "high": 0.01}}, "low should be below high"),
    ({"lr": {"low": 0.0, "high": 1.0, "log": True}}, "above 0 where log is true"),
    ({"batch_size": {"low": 1.0, "high": 9.0}}, "batch_size: takes a list of choices"),
    ({"layers": [2]}, "layers and width go together"),
    ({"layers": [0], "width": [8]}, "hidden_sizes.0: should be greater than 0 \\(got 0\\)"),
    ({"layers": [10**6], "width": [8]}, "hidden_sizes: should have at most 100 items"),
    ({}, "space: should not be empty"),
]


@pytest.mark.parametrize(("space", "message"), WRONG)
def test_a_wrong_space_is_one_clear_line(space, message):
    with pytest.raises(UserError, match=message) as error:
        Search({}, space, where="params/x/search.yaml")
    assert str(error.value).startswith("params/x/search.yaml: ") and "\n" not in str(error.value)


def test_every_trial_comes_back_and_the_best_train_again_with_other_seeds(trained):
    search = Search({"epochs": 1, "val_size": 500, "batch_size": 100}, SPACE, 3).run("cpu")
    runs, configs = search.runs(), search.configs
    assert [store.load_run(run_id).config for run_id in runs["run_id"]] == configs and {*trained} == {*configs}
    assert list(runs["layers"]) == [len(config.hidden_sizes) for config in configs]
    best = runs.sort_values("val_accuracy", ascending=False, kind="stable")
    assert list(best["rank"]) == [1, 2, 3]
    found = [store.load_run(run_id).config for run_id in best["run_id"][:2]]
    wanted = [config.model_copy(update={"seed": seed}) for config in found for seed in (7, 8)]
    assert search.again(2, [7, 8]).configs == wanted


@pytest.fixture
def asked(monkeypatch) -> dict[str, RunConfig]:
    """What would be trained, in its order, by run id."""
    asked: dict[str, RunConfig] = {}
    monkeypatch.setattr("fmnist.search.train", lambda configs, *_: asked.update({c.run_id: c for c in configs}))
    return asked


def test_optuna_proposes_in_rounds_better_ones_and_the_same_again(asked, monkeypatch):
    def load_run(run_id):  # a learning rate of 0.01 is best; Adam diverges
        accuracy = 0.9 - 0.2 * abs(math.log10(asked[run_id].lr) + 2)
        return SimpleNamespace(metrics={"val_accuracy": None if asked[run_id].optimizer == "Adam" else accuracy})

    monkeypatch.setattr("fmnist.search.store.load_run", load_run)
    search = Search({}, SPACE, 80, "optuna")
    assert len(search.configs) == 32
    early, late = np.split(np.array([abs(math.log10(c.lr) + 2) for c in search.run().configs]), [32])
    assert len(asked) == 80 and late.mean() < 0.7 * early.mean()
    assert search.configs == Search({}, SPACE, 80, "optuna").run().configs


def test_halving_gives_the_best_third_three_times_the_epochs(asked, monkeypatch):
    def runs(study):  # the smaller the rate the better; the one that diverges would be best
        rows = [{"trial": trial, "epochs": config.epochs, "lr": config.lr, "momentum": config.momentum}
                for trial, (_, (config,)) in study.trials.items()]  # fmt: skip
        frame = pd.DataFrame(rows)
        return frame.assign(val_accuracy=(1 - frame.lr).where(frame.lr > frame.lr.min()))

    monkeypatch.setattr("fmnist.search.Study.runs", runs)
    space = {"lr": {"low": 0.1, "high": 0.9}, "momentum": [0.5]}
    search = Search({"epochs": 10, "momentum": 0.5}, space, 28, "halving")
    assert search.rungs == [1, 3, 10] and {config.epochs for config in search.configs} == {1}
    found = search.run().runs().sort_values("rank")
    assert [config.epochs for config in asked.values()] == [1] * 28 + [3] * 9 + [10] * 3
    assert list(found.epochs) == [10] * 3 + [3] * 6 + [1] * 19 and list(found["rank"]) == [*range(1, 29)]
    assert found.lr.iloc[:27].is_monotonic_increasing and found.lr.iloc[27] == found.lr.min()
    assert [config.epochs for config in search.again(2, [7]).configs] == [10, 10]
    assert Search({"epochs": 0}, space, 5, "halving").rungs == [0]
    with pytest.raises(UserError, match="space.epochs: not with method halving"):
        Search({}, {"epochs": [1, 2]}, 2, "halving")


def test_a_configuration_in_words():
    row = {"layers": 2, "width": 256, "optimizer": "Adam", "lr": 0.0012, "momentum": 0.0, "batch_norm": True}
    assert configuration(row, list(row)) == "2 × 256, Adam, lr 0.0012, batch norm"
