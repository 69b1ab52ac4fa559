"""A study is its variants times its grid times its seeds; it trains only what is missing, and gives two tables."""

import itertools
import multiprocessing
import signal
import threading

import pandas as pd
import pytest

from fmnist import store
from fmnist.config import TRIAL_FIELDS, RunConfig, UserError
from fmnist.engine import workers
from fmnist.store import METRICS
from fmnist.study import Study

TINY = {"hidden_sizes": [4], "epochs": 1, "val_size": 500, "batch_size": 64}
VARIANTS = {"SGD": {"optimizer": "SGD"}, "Adam": {"optimizer": "Adam"}}


def test_trials_are_variants_times_grid_and_runs_are_trials_times_seeds():
    study = Study(TINY, VARIANTS, {"lr": [0.1, 0.01], "dropout": [0.0, 0.2]}, seeds=[3, 5])
    points = ("lr 0.1, dropout 0", "lr 0.1, dropout 0.2", "lr 0.01, dropout 0", "lr 0.01, dropout 0.2")
    assert list(study.trials) == [f"{variant}, {point}" for variant in VARIANTS for point in points]
    wanted = itertools.product(("SGD", "Adam"), (0.1, 0.01), (0.0, 0.2), (3, 5))
    assert study.configs == [RunConfig(**TINY, optimizer=o, lr=lr, dropout=d, seed=s) for o, lr, d, s in wanted]
    study = Study({"lr": 0.1, "epochs": 3, "dropout": 0.1}, {"v": {"lr": 0.2, "dropout": 0.2}}, {"lr": [0.3]})
    assert study.configs == [RunConfig(epochs=3, dropout=0.2, lr=0.3)]  # the grid overrides variants, these the base
    study = Study(TINY, VARIANTS | {"slow": {"batch_size": 1, "seeds": [0]}}, seeds=[0, 1])  # a variant may have fewer
    assert [len(runs) for _, runs in study.trials.values()] == [2, 2, 1]
    assert "of one to two seeds, five runs" in study.describe()


LABELS = [
    ({"base": {"lr": 0.5}}, ["base"]),
    ({"variants": {"wide": {"hidden_sizes": [400]}}}, ["wide"]),
    ({"grid": {"hidden_sizes": [[], [128], [400, 400]]}}, ["none", "128", "400-400"]),
    ({"grid": {"batch_norm": [False, True]}}, ["no batch norm", "batch norm"]),
    ({"grid": {"optimizer": ["SGD", "Adam"]}}, ["SGD", "Adam"]),
    ({"grid": {"epochs": [1, 10]}}, ["epochs 1", "epochs 10"]),
    ({"grid": {"lr": [1e-4, 1.0]}}, ["lr 0.0001", "lr 1"]),
    ({"grid": {"weight_decay": [1e-5], "init": ["zeros"]}}, ["weight decay 1e-05, zeros"]),
    ({"variants": VARIANTS, "grid": {"lr": [1.0]}}, ["SGD, lr 1", "Adam, lr 1"]),
]


@pytest.mark.parametrize(("parts", "labels"), LABELS)
def test_labels_read_well(parts, labels):
    assert list(Study(**parts).trials) == labels


def test_only_what_is_missing_is_trained_and_progress_is_silent_where_nobody_looks(trained, capfd):
    Study(TINY, VARIANTS, seeds=[0, 1]).run("cpu")
    assert len(trained) == 4

    trained.clear()
    Study(TINY, VARIANTS, seeds=[0, 1]).run("cpu")
    assert trained == []

    Study(TINY, {**VARIANTS, "AdamW": {"optimizer": "AdamW"}}, seeds=[0, 1]).run("cpu")
    assert [(config.optimizer, config.seed) for config in trained] == [("AdamW", 0), ("AdamW", 1)]
    assert capfd.readouterr() == ("", "")

    trained.clear()  # other names, another order, and one run is gone
    (store.runs_folder() / Study(TINY, VARIANTS).configs[1].run_id / "run.json").unlink()
    Study(TINY, {"b": {"optimizer": "Adam"}, "a": {}}, seeds=[1, 0]).run("cpu")
    assert [(config.optimizer, config.seed) for config in trained] == [("Adam", 0)]


def test_teachers_are_trained_before_those_who_learn_from_them(trained):
    variants = {"wide": {"hidden_sizes": [8]}, "taught": {"teachers": [{}, {"hidden_sizes": [8]}]}}
    study = Study(TINY, variants).run("cpu")
    assert [(config.hidden_sizes, len(config.teachers)) for config in trained] == [((4,), 0), ((8,), 0), ((4,), 2)]
    assert list(study.runs().teachers) == ["", '{}, {"hidden_sizes": [8]}']
    assert "two teachers" in Study(TINY, {"taught": variants["taught"]}).describe()


def test_the_two_tables(trained):
    study = Study(TINY, VARIANTS, {"epochs": [1, 2]}, seeds=[0, 1]).run("cpu")
    runs, history = study.runs(), study.history()

    about = ["run_id", "trial", "variant", *RunConfig.model_fields]
    assert set(runs.columns) == {*about, "parameters", *METRICS, "device", "finished"}
    assert runs.trial.tolist() == [trial for trial in study.trials for _ in range(2)]
    assert runs.run_id.tolist() == [config.run_id for config in study.configs] and len(runs) == 8
    assert set(runs.hidden_sizes) == {"4"} and set(runs.parameters) == {784 * 4 + 4 + 4 * 10 + 10}
    assert runs[["test_accuracy", "val_accuracy", "best_val_test_accuracy"]].stack().between(0, 1).all()
    assert runs.diverged.dtype == bool

    curve = ["epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds", "weight_norm"]
    assert set(history.columns) == {*about, *curve} and len(history) == sum(c.epochs + 1 for c in study.configs)
    assert history[history.epoch == 0].train_loss.isna().all()
    assert history[history.epoch > 0][curve].notna().all(axis=None)
    assert list(history.val_accuracy[history.epoch == history.epochs]) == list(runs.val_accuracy)
    study.history = lambda: history.assign(epochs=0)  # all of it is in the last tenth
    means = history[history.epoch > 0].groupby("run_id", sort=False).val_accuracy.mean()
    assert study.settled().val_accuracy.tolist() == pytest.approx(means.tolist())


def test_rates_are_tuned_with_few_seeds_and_what_is_selected_has_all(trained):
    tuned = Study(TINY, VARIANTS, {"lr": [1e-6, 0.01]}, [0]).run()
    study = tuned.again([0, 1], "SGD, lr 1e-06").run()
    assert list(study.trials) == ["SGD", "Adam", "SGD, lr 1e-06"] and {c.seed for c in study.configs} == {0, 1}
    assert len(study.runs()) == 6 and {c.run_id for c in study.configs} & {c.run_id for c in tuned.configs}
    assert len(Study(TINY, VARIANTS, {}, [1]).run().again([0, 1]).configs) == 4  # the first seed may be another


def test_settings_need_no_training_and_tables_of_an_untrained_study_say_what_to_do(trained):
    study = Study(TINY, VARIANTS, {"lr": [0.1, 0.2]}, seeds=[0, 1])
    settings = study.settings()
    assert list(settings.columns) == ["trial", "variant", *TRIAL_FIELDS]
    assert settings.trial.tolist() == ["SGD, lr 0.1", "SGD, lr 0.2", "Adam, lr 0.1", "Adam, lr 0.2"]
    assert settings.lr.tolist() == [0.1, 0.2] * 2 and set(settings.hidden_sizes) == {"4"} and trained == []
    for table in (study.runs, study.history):
        with pytest.raises(UserError, match="trial 'SGD, lr 0.1', seed 0 has not been trained; call study.run"):
            table()


def test_a_diverged_run_is_in_the_tables(trained):
    study = Study({**TINY, "epochs": 3}, grid={"lr": [0.1, 1e30]}).run("cpu")
    runs = study.runs().set_index("trial")
    assert runs.diverged.tolist() == [False, True]
    assert pd.isna(runs.test_accuracy["lr 1e+30"]) and runs.test_accuracy["lr 0.1"] > 0
    assert len(study.history()) < 8
    trained.clear()
    study.run("cpu")
    assert trained == [], "diverging is a result"


def test_an_interrupt_keeps_finished_runs(trained, monkeypatch, request):
    """Ctrl-C while the first run is being stored: its whole stack is kept; what is in training is given up at once."""
    interrupted, save = [], store.save
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts without it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    def saving(result):
        if not interrupted:
            interrupted.append(True)
            signal.raise_signal(signal.SIGINT)
        return save(result)

    monkeypatch.setattr(store, "save", saving)
    monkeypatch.setenv("FMNIST_YES", "1")  # on a busy machine the long one would take days
    study = Study(TINY, {"short": {}, "fast": {"lr": 0.5}, "long": {"epochs": 100_000}})
    monkeypatch.setattr(workers.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    with pytest.raises(KeyboardInterrupt):
        study.run("cpu")
    assert sorted(run.config.lr for run in store.all_runs()) == sorted([RunConfig(**TINY).lr, 0.5])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("stack")], "nothing trains on"
    assert not multiprocessing.active_children()
