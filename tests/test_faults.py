"""Faults on purpose: nothing is lost, nothing is silently wrong, and whoever is told is told in one line.

`make test` tries each fault a few times, `make test-faults` as often as README says; both print how often.
"""

import errno
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nbformat.v4 as nbf
import numpy as np
import psutil
import pypdf
import pytest
from test_report import environment, project
from test_store import CONFIG, SCRIPT, folders, result, runs, script  # noqa: F401

from fmnist import cli, store, study
from fmnist.config import RunConfig, UserError, read_yaml
from fmnist.engine import workers
from fmnist.engine.train import train_stack
from fmnist.paper.exporters import HomeworkHTML, HomeworkPDF
from fmnist.study import Study

ROOT = Path(__file__).parents[1]


def often(few, many):
    """A test's arguments: a few in `make test`, many in `make test-faults`."""
    return [few, pytest.param(many, marks=pytest.mark.faults)]


@pytest.fixture
def survived(record_property):
    """survived("kill", 30) has the summary say so; conftest prints it."""
    return lambda fault, times: record_property("fault", f"{fault}: {times} of {times} survived")


def seeded(result, seed: int):
    return replace(result, config=CONFIG.model_copy(update={"seed": seed}))


# --- damaged runs ------------------------------------------------------------------------------------------------------


def damage(path: Path, way: str, at: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if way == "flip":
        content[at.randrange(len(content))] ^= 1 << at.randrange(8)
    elif way == "zero":
        content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    else:
        del content[at.randrange(len(content)) :]
    path.write_bytes(content)


@pytest.mark.parametrize("times", often(25, 200))
def test_no_corruption_is_used_as_it_is(times, runs, result, monkeypatch, capsys, survived):
    """Whatever byte is hit: the run is as it was, or it is named, set aside and trained anew."""
    monkeypatch.setattr(workers, "train", lambda configs, finished, *_: finished(result))
    at, caught = random.Random(0), 0
    for i in range(times):
        run = store.save(result)
        before = {name: run.content(name) for name in store.PARSE}
        damage(run.folder / at.choice(store.FILES), "zero" if i % 10 == 0 else "cut" if i % 10 == 1 else "flip", at)
        (again,) = study.train([CONFIG], "cpu")
        said = capsys.readouterr().err
        aside = list(runs.glob(f".{run.run_id}.damaged.*"))
        assert len(aside) == said.count(f"run {run.run_id}: ") == said.count("set aside as")
        caught += len(aside)
        store.clean(everything=True)
        assert {name: again.content(name) for name in store.PARSE} == before and again.metrics == run.metrics
    assert caught >= 0.8 * times  # the rest hit a blank of run.json
    survived("corruption", times)


PARTS = {"history.parquet": "history", "predictions.npy": "predictions", "weights.safetensors": "model"}


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("sealed", [True, False])
def test_damage_that_is_met_in_reading_is_said_in_one_line(name, sealed, runs, result, capsys):
    run = store.save(result)
    if not sealed:  # stored before there were checksums
        record = {key: part for key, part in run.record.items() if key not in ("files", "checksum")}
        (run.folder / "run.json").write_text(json.dumps(record))
        run = store.load(run.run_id)
    (run.folder / name).write_bytes((run.folder / name).read_bytes()[:90])
    with pytest.raises(UserError, match=f"run {run.run_id}: {name} is not .*; train it anew"):
        getattr(run, PARTS[name])()
    assert folders(runs) == [] and store.load(run.run_id) is None
    store.save(result)
    assert len(getattr(run, PARTS[name])() if name != "weights.safetensors" else run.model().linears) > 0


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000, "9" * 5_000, b"\x80\x04N.", bytes(500)])
def test_what_is_no_record_is_set_aside(content, runs, result):
    run = store.save(result)
    (run.folder / "run.json").write_bytes(content.encode() if isinstance(content, str) else content)
    assert store.results().empty and folders(runs) == []


def test_runs_stored_before_are_sealed_once_and_other_versions_kept(runs, result, capsys):
    run, other = store.save(result), store.save(seeded(result, 1))
    record = {key: part for key, part in run.record.items() if key not in ("files", "checksum")}
    (run.folder / "run.json").write_text(json.dumps(record))
    newer = other.record | {"config": other.record["config"] | {"label_smoothing": 0.1}}  # by another version
    (other.folder / "run.json").write_bytes(store._sealed(newer, {}))
    assert cli.main(["store", "check"]) == 0 and store.load(run.run_id, whole=True).record.keys() == run.record.keys()
    assert store.load(other.run_id) is None and len(folders(runs)) == 2 and len(store.results()) == 1
    assert (store.check(), capsys.readouterr().err) == ((1, 0, 0), "")
    damage(run.folder / "best.safetensors", "zero", random.Random(0))
    assert cli.main(["store", "check"]) == 1 and "best.safetensors is not as it was stored" in capsys.readouterr().err
    assert cli.main(["store", "gc"]) == 0 and "removed 1 leftovers" in capsys.readouterr().out


@pytest.mark.parametrize("count", often(40, 400))
def test_the_index_says_what_the_folders_say(count, runs, result, monkeypatch, survived):
    for seed in range(count):
        store.save(seeded(result, seed))
    (path,) = [store.results(), *runs.glob(".index-*")][1:]
    before, content, at = store.results(), path.read_bytes(), random.Random(0)
    assert before["run_id"].tolist() == [run.run_id for run in store.all_runs()]
    monkeypatch.setattr(store, "load", lambda *_: pytest.fail("a run was read"))
    assert store.results().equals(before)
    monkeypatch.undo()
    monkeypatch.setenv("FMNIST_RUNS", str(runs))
    for i in range(count // 4):
        path.write_bytes(content)
        damage(path, "flip" if i else "cut", at)
        assert store.results().equals(before)
    store.remove(before["run_id"][0])
    store.save(seeded(result, count))
    assert len(store.results()) == count and before["run_id"][0] not in store.results()["run_id"].tolist()
    survived("damaged index", count // 4)


# --- kills, and several at a time ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", often(2, 30))
def test_kills_at_random_moments_of_training(times, runs, survived):
    at = random.Random(0)
    for _ in range(times):
        process = script("study.train(configs(epochs=20), 'cpu')", runs)
        time.sleep(at.uniform(0, 8))
        process.kill()
        process.communicate()
        assert all(run.history().epoch.max() == 20 for run in store.all_runs())
    process = script("study.train(configs(epochs=20), 'cpu')", runs)
    assert process.communicate()[1] == "" and process.returncode == 0
    assert len(store.all_runs()) == 3 and len(list(runs.iterdir())) == 3, "the next writer has tidied up"
    survived("kill in training", times)


def test_what_the_dead_left_goes_and_the_living_keep(runs, result, monkeypatch):
    run, ours = store.save(result), store.owner().rpartition(".")[0]
    dead = subprocess.Popen(["true"])
    dead.wait()
    for name in (f"{ours}.{dead.pid}.01234567", f"{ours}.{os.getpid()}.01234567", "elsewhere.1.01234567"):
        (runs / f".{run.run_id}.{name}").mkdir()
    (runs / ".bashrc.bak").write_text("mine")
    store.check_writable()
    assert {path.name.split(".")[2] for path in runs.glob(f".{run.run_id}.*")} == {ours, "elsewhere"}
    monkeypatch.setattr(time, "time", lambda: 0.0)  # a clock set back by decades
    (again,) = study.train([CONFIG], "cpu")
    assert again.run_id == run.run_id and store.clean() == 1
    assert store.clean(everything=True) == 0 and (runs / ".bashrc.bak").exists()


@pytest.mark.parametrize("count", often(2, 4))
def test_builds_at_once_train_no_run_twice(count, runs, survived):
    code = "train = workers.train\nworkers.train = lambda c, *a: (print(len(c), flush=True), train(c, *a))\n"
    code = f"{code}study.train(configs(epochs=30), 'cpu')"
    environ = {**os.environ, "FMNIST_RUNS": str(runs)}
    command = [sys.executable, "-c", SCRIPT + code]
    together = [subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    trained = [sum(map(int, process.communicate(timeout=300)[0].split())) for process in together]
    assert [process.returncode for process in together] == [0] * count
    assert sum(trained) == len(store.all_runs()) == len(list(runs.iterdir())) == 3
    survived("builds at once", count)
