"""A run is finished or absent, never half, whatever kills, damages or shares the store; what was stored comes back."""

import json
import math
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from reference import TINY_RUN as CONFIG
from reference import plain_evaluation

from fmnist import data, store, study, use
from fmnist.config import RunConfig, UserError
from fmnist.data import split
from fmnist.engine import workers
from fmnist.engine.train import Result, train_stack

# What another process does: train `runs` tiny runs on the first images, with more of its own around it.
SCRIPT = """
import os, signal, sys
from fmnist.engine import workers
from fmnist import data, store, study, use
from fmnist.config import RunConfig
from fmnist.data import load
from reference import subset
small = subset(load(), 3_000, 1_000)
workers.load = lambda *_: small
def configs(**more):
    base = dict(hidden_sizes=(4,), epochs=1, val_size=500, batch_size=64, lr=0.1)
    return [RunConfig(**{**base, "seed": seed, **more}) for seed in range(3)]
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def script(code: str, runs: Path) -> subprocess.Popen:
    environment = {**os.environ, "FMNIST_RUNS": str(runs), "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", SCRIPT + code], env=environment, stderr=subprocess.PIPE, text=True)


def seeded(result: Result, seed: int) -> Result:
    return replace(result, config=CONFIG.model_copy(update={"seed": seed}))


def folders(runs: Path) -> list[str]:
    """What a user sees in the store, without what begins with a dot."""
    return sorted(path.name for path in runs.glob("[!.]*"))


MOMENTS = {
    "nothing written yet": "store.pd.DataFrame.to_parquet = die",
    "all but run.json": "store.Path.write_bytes = lambda path, _: path.touch() or path.name == 'run.json' and die()",
    "all, under another name": "store.Path.replace = die",
    "renamed": "store.load_run = die",
}
AT_EACH = """
for name, moment in {moments}.items():
    if not (child := os.fork()):
        os.environ["FMNIST_RUNS"] += "/" + name
        exec(moment)
        study.train(configs()[:1], "cpu")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, name
"""


def test_a_process_killed_in_saving_leaves_a_whole_run_or_none(runs, trained, monkeypatch):
    process = script(AT_EACH.replace("{moments}", str(MOMENTS)), runs)
    assert process.communicate(timeout=600) == (None, "")
    for moment in MOMENTS:
        monkeypatch.setenv("FMNIST_RUNS", str(runs / moment))
        finished = moment == "renamed"
        assert folders(runs / moment) == [run.run_id for run in store.all_runs()] == [CONFIG.run_id] * finished
        trained.clear()
        study.train([CONFIG], "cpu")
        assert trained == [CONFIG] * (not finished)
        assert store.load_run(CONFIG.run_id).predictions().shape == (1_000,)


def test_whoever_comes_second_leaves_the_first_ones_run(runs, result):
    first = store.save(result)
    before = (first.folder / "run.json").stat().st_mtime_ns
    assert store.save(result).run_id == first.run_id
    assert (first.folder / "run.json").stat().st_mtime_ns == before
    assert [path.name for path in runs.iterdir()] == [first.run_id]


DAMAGE = {
    **{f"no {name}": lambda folder, name=name: (folder / name).unlink() for name in ("run.json", *store.FILES)},
    "run.json a list": lambda folder: (folder / "run.json").write_text("[]"),
    "run.json too deep": lambda folder: (folder / "run.json").write_text('{"a":' * 100_000),
    "run.json too great a number": lambda folder: (folder / "run.json").write_text("9" * 5_000),
    "run.json a folder": lambda folder: [(folder / "run.json").unlink(), (folder / "run.json").mkdir()],
    "a file for a folder": lambda folder: [shutil.rmtree(folder), folder.write_text("mine")],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_run_is_absent_and_trained_anew(damage, runs, result, monkeypatch):
    folder = store.save(result).folder
    damage(folder)
    assert store.load(CONFIG.run_id) is None and store.all_runs() == [] and store.results().empty
    with pytest.raises(UserError, match="no such finished run"):
        store.load_run(CONFIG.run_id)

    asked = []
    monkeypatch.setattr(workers, "train", lambda configs, finished, *_: [asked.extend(configs), finished(result)])
    (again,) = study.train([CONFIG], "cpu")
    assert asked == [CONFIG] == [again.config] and len(again.predictions()) == 1_000
    assert folders(runs) == [CONFIG.run_id]


def test_what_is_not_a_run_is_ignored(runs, result):
    run = store.save(result)
    shutil.copytree(run.folder, runs / f".{run.run_id}.0123")  # left by a process that was killed
    shutil.copytree(run.folder, runs / f"{run.run_id} (copy)")
    shutil.copytree(run.folder, runs / f"{run.run_id}old")
    shutil.copytree(run.folder, runs / run.run_id[::-1])  # the address of another run
    (runs / "notes.txt").write_text("not a run")
    (runs / "plots").mkdir()
    (runs / "0123456789abcdef").symlink_to("nowhere")
    assert [found.run_id for found in store.all_runs()] == [run.run_id]
    assert store.results().run_id.tolist() == [run.run_id]
    assert store.load_run(run.run_id).folder == store.load_run(run.run_id[:4]).folder == run.folder


def test_a_run_is_found_by_the_beginning_of_its_id(runs, result):
    ids = sorted(store.save(seeded(result, seed)).run_id for seed in range(17))  # so that two begin alike
    one, other = next(pair for pair in pairwise(ids) if pair[0][0] == pair[1][0])
    alike = os.path.commonprefix([one, other])
    assert store.load_run(one).run_id == store.load_run(one[: len(alike) + 1]).run_id == one
    with pytest.raises(UserError, match=f"begins \\d+ runs: .*{other}"):
        store.load_run(alike)


@pytest.mark.parametrize("name", ["", "zzzz", "../x", ".", "[a-f]*", "/", "\0"])
def test_what_is_no_id_finds_nothing(name, runs, result):
    assert store.all_runs() == [] and store.results().empty and not runs.exists(), "looking makes nothing"
    store.save(result)
    with pytest.raises(UserError, match="no such finished run .* `fmnist results` lists them"):
        store.load_run(name)


def test_the_store_is_where_FMNIST_RUNS_says(house, tmp_path, monkeypatch, result):
    monkeypatch.delenv("FMNIST_RUNS", raising=False)
    assert store.save(result).folder.parent == house / "runs"
    monkeypatch.setenv("FMNIST_RUNS", str(tmp_path / "elsewhere"))
    assert store.all_runs() == [] and store.save(result).folder.parent == tmp_path / "elsewhere"
    # a relative one counts from the project: the command and the notebooks' kernels share it
    monkeypatch.setenv("FMNIST_RUNS", "mine")
    run = store.save(result)
    monkeypatch.chdir(house / "notebooks")
    assert store.load_run(run.run_id).folder.parent == house / "mine"


@pytest.mark.parametrize("size", [100, 12_000, 20_000], ids=["history", "weights", "predictions"])
def test_a_full_disk_leaves_no_half_run(size, runs, result):
    """A limit on the size of files stands for the disk that is full."""
    wide = replace(result, weights={"w": np.zeros((784, 4), np.float32)}, predictions=np.zeros((2, 10_000), np.uint8))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with pytest.raises(UserError, match="a run cannot be stored: .*FMNIST_RUNS"):
            store.save(wide)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(runs.iterdir()) == []


@pytest.fixture(scope="module")
def richer(small):
    """Two epochs with all that a state_dict may hold."""
    network = {"hidden_sizes": (8, 6), "batch_norm": True, "dropout": 0.2, "input_scaling": "standardized"}
    training = {"optimizer": "Adam", "lr": 0.003, "epochs": 2, "seed": 3}
    return train_stack([CONFIG.model_copy(update=network | training)], small)[0]


def test_what_is_stored_comes_back_and_the_network_with_it(runs, richer, small):
    store.save(richer)
    run = store.load_run(richer.config.run_id)
    assert run.config == richer.config and run.metrics == richer.metrics
    pd.testing.assert_frame_equal(run.history(), pd.DataFrame(richer.history))
    for best, part in enumerate(("test", "best_val_test")):
        assert (run.predictions(best) == richer.predictions[best]).all() and run.predictions(best).dtype == np.uint8
        correct = (run.predictions(best) == small.test_labels.numpy()).mean()
        assert math.isclose(correct, run.metrics[f"{part}_accuracy"], abs_tol=1e-6)
        loss, _, predicted = plain_evaluation(run.model(best), run.config, small, "test")
        assert (predicted.numpy() == run.predictions(best)).mean() > 0.998  # rounding decides near ties
        assert math.isclose(loss, run.metrics[f"{part}_loss"], rel_tol=1e-4)


def test_run_json_is_strict_json(runs, result):
    """NaN and infinity are no JSON; other programs read a store, too."""

    def refuse(constant):
        raise AssertionError(f"{constant} in run.json")

    metrics = {**result.metrics, "test_loss": math.nan, "train_loss": math.inf, "diverged": True}
    run = store.save(replace(result, metrics=metrics))
    record = json.loads((run.folder / "run.json").read_text(), parse_constant=refuse)
    assert record["metrics"]["test_loss"] is record["metrics"]["train_loss"] is None
    assert math.isnan(store.results().test_loss[0])


def test_results_have_a_row_a_run(runs, result):
    wide = CONFIG.model_copy(update={"hidden_sizes": (400, 400)})
    ids = [store.save(replace(result, config=each)).run_id for each in (CONFIG, wide, RunConfig(hidden_sizes=()))]
    table = store.results()
    assert {"run_id", *RunConfig.model_fields, *store.METRICS, "device"} <= set(table.columns)
    assert sorted(table.hidden_sizes) == ["4", "400-400", "none"]
    assert sorted(table.run_id) == sorted(ids) and table.notna().all(axis=None)
    shutil.rmtree(runs)
    assert list(store.results().columns) == list(table.columns)


def test_a_runs_address_is_the_same_on_every_machine_and_day():
    """Whoever changes this line orphans every stored run: raise RESULTS_VERSION only for results that differ."""
    assert RunConfig().run_id == RunConfig(dataset="FashionMNIST").run_id == "032cb4a545d9a0ae"
    assert RunConfig().trial_id == "6f5f457c75115df8"
    assert RunConfig(hidden_sizes=(400, 400), optimizer="AdamW", lr=0.001, seed=3).run_id == "cf0c923a68249b98"
    assert RunConfig(lr=1).run_id == RunConfig(lr=1.0).run_id
    assert RunConfig(hidden_sizes=[128]).run_id == RunConfig(hidden_sizes=(128,)).run_id


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("field", RunConfig.model_fields)
def test_every_field_is_part_of_the_address(field):
    plain, changed = RunConfig(), RunConfig().model_copy(update={field: ("another",)})  # which is not validated
    assert changed.run_id != plain.run_id
    assert (changed.trial_id != plain.trial_id) == (field != "seed")


def test_an_ensembles_probabilities_are_the_mean_of_its_networks(runs, small, result, monkeypatch):
    kinds = {"none": (30,), "standardized": (40, 20), "symmetric": ()}
    configs = [CONFIG.model_copy(update={"hidden_sizes": h, "input_scaling": kind}) for kind, h in kinds.items()]
    found = [run for config in configs for run in map(store.save, train_stack([config], small))]
    ids = [run.run_id for run in found]
    for part in ("test", "val"):
        each = [use.probabilities([run_id], part) for run_id in ids]
        together, labels = use.probabilities(ids, part)
        np.testing.assert_allclose(together, sum(p for p, _ in each) / 3)
        np.testing.assert_allclose(together.sum(1), 1)
        right = (each[0][0].argmax(1) == labels).mean()
        assert right == pytest.approx(found[0].metrics[f"{part}_accuracy"]) and right > 0.25
    assert (each[0][1] == small.train_labels[split(3_000, 500, 0)[1]].numpy()).all()
    mirrored = replace(small, test_images=small.test_images.view(-1, 28, 28).flip(2).flatten(1))
    plain, both = use.probabilities(ids)[0], use.probabilities(ids, flip=True)[0]
    monkeypatch.setattr(data, "_load", lambda *_: mirrored)
    np.testing.assert_allclose(both, (plain + use.probabilities(ids)[0]) / 2, rtol=1e-6)
    assert np.abs(both - plain).max() > 0.1


def test_an_image_is_also_seen_mirrored_and_moved_and_what_comes_into_view_is_black(small):
    images = small.test_images[:9].float() - 7
    square = images.view(-1, 28, 28)
    assert torch.equal(torch.stack(use.views(images, False, 0)), images[None])
    seen = [view.view(-1, 28, 28) for view in use.views(images, True, 2)]
    assert len(seen) == 10 and torch.equal(seen[0], square) and torch.equal(seen[5], square.flip(2))
    up, down, left, right = seen[1:5]
    assert torch.equal(up[:, :-2], square[:, 2:]) and torch.equal(down[:, 2:], square[:, :-2])
    assert torch.equal(left[:, :, :-2], square[:, :, 2:]) and torch.equal(right[:, :, 2:], square[:, :, :-2])
    assert all((edge == -7).all() for edge in (up[:, -2:], down[:, :2], left[:, :, -2:], right[:, :, :2]))


def test_runs_that_validate_on_other_images_are_no_ensemble_there(runs, result):
    ids = [store.save(seeded(result, seed)).run_id for seed in range(2)]
    with pytest.raises(UserError, match="ensemble: the runs differ in seed, so their val images are not the same"):
        use.probabilities(ids, "val")
    with pytest.raises(UserError, match="ensemble: give it one run or more"):
        use.probabilities([])


def test_runs_are_written_as_csv_once(runs, result, tmp_path):
    with pytest.raises(UserError, match="no finished runs"):
        store.export("csv", tmp_path / "csv")
    ids = sorted(store.save(seeded(result, seed)).run_id for seed in (0, 1))
    store.export("csv", tmp_path / "csv")
    table, history = (pd.read_csv(tmp_path / "csv" / name) for name in ("runs.csv", "history.csv"))
    assert list(table.run_id) == ids and list(history.run_id) == [ids[0]] * 2 + [ids[1]] * 2
    assert table.test_accuracy.tolist() == store.results().test_accuracy.tolist()
    with pytest.raises(FileExistsError):
        store.export("csv", tmp_path / "csv")


def test_runs_are_written_for_tensorboard(runs, result, tmp_path, monkeypatch):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = store.save(result)
    store.export("tensorboard", tmp_path / "events")
    found = accumulator.EventAccumulator(str(tmp_path / "events" / run.run_id))
    found.Reload()
    curve = [(event.step, event.value) for event in found.Scalars("val_accuracy")]
    assert curve == [(i, pytest.approx(value)) for i, value in enumerate(run.history().val_accuracy)]
    monkeypatch.setattr(store, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"fmnist\[tensorboard\]"):
        store.export("tensorboard", tmp_path / "again")
