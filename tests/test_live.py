"""Training that is watched, stopped and interrupted: what is kept is what an unwatched training would have given."""

import re
import threading

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from fmnist import store
from fmnist.config import TRIAL_FIELDS, RunConfig, UserError
from fmnist.engine.train import Trainer
from fmnist.lab import explore
from fmnist.lab.browse import Browse
from fmnist.lab.explore import Explore, Live
from fmnist.study import Study, train

TINY = {"hidden_sizes": (8,), "val_size": 500, "batch_size": 64, "lr": 0.1, "dropout": 0.2, "batch_norm": True}


def configs(epochs: int, seeds=(0, 1), **more) -> list[RunConfig]:
    return [RunConfig(**{**TINY, "epochs": epochs, "seed": seed, **more}) for seed in seeds]


def test_what_is_watched_is_what_is_stored(runs):
    seen = []
    training = Live(configs(3), changed=lambda: seen.append(training.history()))
    training.start().wait()
    assert (training.state, training.epochs, len(training.runs)) == ("finished", 3, 2)
    assert [frame["epoch"].max() for frame in seen] == [0, 1, 2, 3, 3]
    for column in ("train_loss", "val_accuracy"):
        np.testing.assert_array_equal(seen[-1][column], seen[-2][column])


AVERAGED = {"ema_decay": 0.9, "warmup_epochs": 4, "mixup": 0.2, "augment_flip": True}


@pytest.mark.parametrize("options", [{}, {"optimizer": "Adam"}, AVERAGED], ids=str)
def test_stopped_in_an_epoch_it_keeps_the_runs_of_the_epochs_before_bit_by_bit(runs, monkeypatch, options):
    chunks = []
    plain = Trainer.epoch

    def epoch(self, number, stop):
        if number == 3:  # in the middle of it
            inner = self.replay
            self.replay = lambda *a: (inner(*a), chunks.append(1), stop.set())[0]
        return plain(self, number, stop)

    monkeypatch.setattr(Trainer, "epoch", epoch)
    training = Live(configs(5, **options))
    training.start().wait()
    assert chunks and (training.state, training.epochs) == ("stopped", 2)
    assert [run.config for run in training.runs] == configs(2, **options)
    kept = [(run.model().state_dict(), run.predictions(), run.history(), run.metrics) for run in training.runs]

    monkeypatch.setattr(Trainer, "epoch", plain)
    monkeypatch.setenv("FMNIST_RUNS", str(runs.parent / "other"))
    whole = Live(configs(2, **options)).start().wait()
    for (state, predictions, history, metrics), run in zip(kept, whole.runs, strict=True):
        assert all((state[name] == tensor).all() for name, tensor in run.model().state_dict().items())
        assert (predictions == run.predictions()).all()
        assert history.drop(columns="seconds").equals(run.history().drop(columns="seconds"))
        assert {**metrics, "seconds": 0} == {**run.metrics, "seconds": 0}


def test_stopped_before_an_epoch_has_ended_or_with_a_schedule_of_all_epochs_it_keeps_nothing_and_says_so(runs):
    training = Live(configs(100_000))
    training.stop()
    training.start().wait()
    assert (training.state, training.runs, store.all_runs()) == ("stopped", [], [])
    training = Live(configs(100_000, schedule="cosine")).start()
    while not training.epochs:
        threading.Event().wait(0.05)
    training.stop()
    assert training.wait(60).runs == [] and "schedule: cosine depends on the epochs to come" in str(training.error)


def test_what_is_in_the_store_is_not_trained_again(runs):
    train(configs(1), "cpu")
    training = Live(configs(1)).start().wait()
    assert training.state == "finished" and training.missing == [] and len(training.runs) == 2
    assert training.history().empty


def test_a_failure_in_the_thread_is_said_and_more_seeds_than_fit_are_refused(runs, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(explore, "budget", lambda *_: 1_000_000)
        assert "take fewer seeds" in str(Live(configs(1)).start().wait().error)
    monkeypatch.setattr(explore, "load", lambda *_: (_ for _ in ()).throw(UserError("no data")))
    training = Live(configs(1)).start().wait()
    assert (training.state, str(training.error)) == ("failed", "no data")


def test_one_trains_at_a_time(runs):
    first = Live(configs(100_000)).start()
    while not first.epochs:
        threading.Event().wait(0.05)
    second = Live(configs(1, seeds=[7])).start()
    assert first.state == "stopped" and len(first.runs) == 2
    assert second.wait(60).state == "finished"


@pytest.fixture
def panels(runs):
    return lambda *seeds: Explore({**TINY, "epochs": 2}, list(seeds), "cpu")


def test_explore_trains_compares_and_writes_the_study(panels):
    panel = panels(0)
    panel.train_button.click()
    panel.live.wait(60)
    panel._update()
    assert "finished" in panel.said.value and panel.network.run.config.seed == 0 and not panel.train_button.disabled
    panel.form.seeds.value, panel.form.fields["optimizer"].value = "0, 1", "Adam"
    panel.train_button.click()
    panel.live.wait(60)
    panel._update()
    assert panel.network.run.model()(torch.zeros(3, 784)).shape == (3, 10)
    assert len(panel.picked) == 3 and panel.trials.value.count("<tr") == 3  # the head and two trials
    for panel.full.value in (True, False):
        study = Study(**YAML(typ="safe").load(panel.copy.text))
        assert {config.run_id for config in study.configs} == {run.run_id for run in store.all_runs()}
    assert "lr: 0.1" in panel.copy.text and not re.search("[&*]|precision", panel.copy.text)  # which is the default
    panel.clear_button.click()
    assert panel.picked == [] and panel.plot.layout.display == "none" and panel.copy.text == ""


def test_explore_says_what_is_wrong_and_goes_on(panels):
    panel = panels(0)
    for wrong in ("wide", "-1", "8--8"):
        panel.form.fields["hidden_sizes"].value = wrong
        panel.train_button.click()
        assert re.search(r"hidden_sizes(: should be a list|\.0: should be greater)", panel.said.value)
        assert panel.live is None
    panel.form.fields["hidden_sizes"].value = "8"
    panel.train_button.click()
    panel.live.wait(60)
    panel._update()
    store.remove(panel.network.run.run_id)
    panel.refresh()
    assert panel.runs.empty and "Error" not in panel.said.value and panel.plot.layout.display == "none"
    with pytest.raises(UserError, match="no such device"):
        Explore({}, [0], "cuda:77")


def test_a_form_has_every_field_with_its_choices_and_bounds(panels):
    form = panels(0).form
    assert form.fields.keys() == {*TRIAL_FIELDS} and form.fields["momentum"] not in form.children
    assert form.fields["schedule"] in form.children and "one_cycle" in form.fields["schedule"].options
    assert set(form.fields.values()) <= {*form.children, *form.children[-1].children[0].children}
    assert form.fields["init"].options[0] == "default"
    form.fields["momentum"].value, form.fields["optimizer"].value = 0.9, "Adam"
    assert form.configs()[0].momentum == 0  # it has none
    form.fields["lr"].value = 0
    with pytest.raises(UserError, match="lr: should be greater than 0"):
        form.configs()


def test_what_is_removed_is_what_was_asked_about(runs, panels):
    train([*configs(1), *configs(2, optimizer="Adam")], "cpu")
    panel = Browse()
    panel.table.selected_rows = [0]
    panel.remove_button.click()
    assert panel.confirm.layout.display is None and "one run" in panel.yes.description
    panel.table.selected_rows = [0, 1, 2]  # another choice takes the question back
    assert {panel.confirm.layout.display, panel.plot.layout.display} == {"none"} and len(panel.picked) == 3
    panel.table.selected_rows = [3]
    (gone,) = panel.picked
    panel.open_button.click()
    panel.compare_button.click()
    panel.remove_button.click()
    panel.yes.click()
    assert len(store.all_runs()) == 3 and store.load(gone.run_id) is None and panel.network.run is None
    panel.group.value = "trial"
    assert sorted(len(ids) for ids in panel._rows) == [1, 2]
