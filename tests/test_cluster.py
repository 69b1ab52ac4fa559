"""More than one machine: what Dask's workers train is what this one would, whatever dies, stops or does not fit."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import dask
import psutil
import pytest
import torch
from distributed import Client, LocalCluster

import fmnist
from fmnist import cli, store
from fmnist.config import RunConfig, UserError
from fmnist.engine import cluster, workers
from fmnist.engine.train import train_stack
from fmnist.study import Study

BASE = {"val_size": 500, "batch_size": 64, "lr": 0.1}
ENDLESS = 1_000_000  # epochs
PRELOAD = f"""
import sys, torch; sys.path.append({str(Path(__file__).parent)!r})
from fmnist.data import load
from fmnist.engine import workers
from reference import subset
few = subset(load(), 3_000, {{test}})
workers.load, torch.__version__ = lambda *_: few, {{version!r}}
"""


def configs(*widths: int, epochs: int = 2) -> list[RunConfig]:
    return [RunConfig(hidden_sizes=(width,), epochs=epochs, **BASE) for width in widths]


@pytest.fixture(scope="module")
def preload(tmp_path_factory, data_set) -> str:
    """What gives a worker the first images alone, so that it is quick."""
    path = tmp_path_factory.mktemp("preload") / "few.py"
    path.write_text(PRELOAD.format(test=1_000, version=torch.__version__))
    return str(path)


@pytest.fixture(scope="module")
def two(preload):
    """Two workers, each a process that is started anew when it is killed, even if that takes its time."""
    options = {"threads_per_worker": 1, "preload": preload, "dashboard_address": None, "host": "127.0.0.1"}
    patient = dask.config.set({"distributed.deploy.lost-worker-timeout": "10m"})
    with patient, LocalCluster(n_workers=2, **options) as there:
        yield there


@pytest.fixture
def address(two):
    two.wait_for_workers(2)
    return two.scheduler_address


@pytest.fixture(autouse=True)
def few(runs):
    """As on the workers; an empty store."""
    cluster.fingerprint.cache_clear()
    yield
    cluster.fingerprint.cache_clear()


def start(program: str, *words: str, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-m", f"distributed.cli.dask_{program}", "--no-dashboard", *words]
    return subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.DEVNULL)


def end(*processes: subprocess.Popen) -> None:
    for process in processes:
        for each in [*psutil.Process(process.pid).children(recursive=True), process]:
            each.kill()
        process.wait()


def train(where: str, runs: list[RunConfig], progress=lambda *_: None, done: list | None = None) -> list:
    done = [] if done is None else done
    workers.train(runs, done.append, "auto", progress, team=partial(cluster.team, where))
    return done


def test_a_study_on_a_cluster_is_the_study(address, two, small):
    study = Study(BASE | {"epochs": 1}, {}, {"hidden_sizes": [[4], [5]], "optimizer": ["SGD", "Adam"]}, [0, 1])
    assert len(study.run("auto", None, address).runs()) == 8
    assert "stack of 4: 4, Adam … 4, SGD" in " ".join(two.scheduler.task_prefixes)  # as the dashboard has it
    for config in study.configs:
        again = train_stack([config], small)[0]
        run = store.load_run(config.run_id)
        assert run.metrics["test_accuracy"] == pytest.approx(again.metrics["test_accuracy"], abs=0.002)
        assert run.record["data_checksum"] == small.checksum


def test_where_one_worker_has_no_gpu_stacks_are_those_of_a_cpu():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    runs = [RunConfig(lr=1 / (3 + i)) for i in range(200)]
    assert max(map(len, workers.plan(runs, [(cpu, 1 << 34), (gpu, 1 << 34)]))) == workers.STACK_RUNS["cpu"]
    assert list(map(len, workers.plan(runs, [(gpu, 1 << 36)] * 2))) == [100, 100]


def test_a_killed_workers_stack_runs_again_elsewhere(address, record_property):
    steps, killed = [], []

    def progress(*step):
        steps.append(step)
        if len(steps) == 30:
            with Client(address, set_as_default=False) as client:
                busy = next(who for who, keys in client.processing().items() if keys)
                killed.append(client.run(os.getpid, workers=[busy])[busy])
                os.kill(killed[0], signal.SIGKILL)

    runs = configs(4, 5, epochs=60)
    assert {result.config for result in train(address, runs, progress)} == {*runs} and killed
    assert sum(done for _, done, _ in steps) == pytest.approx(sum(map(workers.work, runs)))
    assert sum(epochs for epochs, _, _ in steps) == 120 < sum(epochs for epochs, _, _ in steps if epochs > 0)
    record_property("fault", "kill of a cluster's worker: 1 of 1 survived")


def test_ctrl_c_keeps_what_is_finished_and_frees_the_workers_as_a_kill_does(address, preload, record_property):
    runs, done = configs(4, epochs=ENDLESS) + configs(5, epochs=1), []

    def progress(*_):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(address, runs, progress, done)
    assert [result.config for result in done] == runs[1:]
    asks = f"import test_cluster as t; t.train({address!r}, t.configs(4, 5, epochs=t.ENDLESS))"
    with Client(address, set_as_default=False) as client:
        killed = subprocess.Popen([sys.executable, "-c", f"{Path(preload).read_text()}\n{asks}"])
        while sum(map(len, client.processing().values())) < 2:
            assert not time.sleep(0.1) and killed.poll() is None
    killed.kill()
    assert killed.wait() == -9 and len(train(address, configs(6, 7))) == 2  # on both workers
    record_property("fault", "kill of the process that asked a cluster: 1 of 1 survived")


def test_a_worker_of_other_code_torch_or_data_is_refused_and_named(address, tmp_path, record_property):
    """Also one that comes when the others are at work already."""
    shutil.copytree(Path(fmnist.__file__).parent, tmp_path / "fmnist")
    (tmp_path / "fmnist" / "words.py").open("a").write("# changed\n")
    (tmp_path / "other.py").write_text(PRELOAD.format(test=999, version="2.0"))
    started = []

    def progress(*_):
        if not started:
            preloaded = ("--preload", str(tmp_path / "other.py"), "--nthreads", "1", "--no-nanny")
            started.append(start("worker", address, *preloaded, PYTHONPATH=str(tmp_path)))

    what = r"fmnist: .*, code \w+, not .*, code \w+; torch: 2.0, not .*; FashionMNIST: data \w+, not \w+"
    try:
        for runs in (configs(4, 5, 6, 7, epochs=ENDLESS), configs(4)):
            with pytest.raises(UserError, match=f"cluster: worker tcp://127.0.0.1:[0-9]+: {what}") as error:
                train(address, runs, progress)
            assert "\n" not in str(error.value)
    finally:
        end(*started)
    record_property("fault", "worker of other code, torch and data: 2 of 2 survived")


def test_a_lost_scheduler_is_one_line_and_what_is_finished_is_kept(preload, tmp_path, monkeypatch, record_property):
    at = ("--scheduler-file", str(tmp_path / "scheduler.json"))
    scheduler = start("scheduler", *at, "--port", "0", "--host", "127.0.0.1")
    worker = start("worker", *at, "--nthreads", "2", "--preload", preload)  # two stacks at a time
    try:
        while not Path(at[1]).exists():
            time.sleep(0.1)
        with Client(scheduler_file=at[1], set_as_default=False) as client:
            where = client.scheduler.address
            client.wait_for_workers(1)
        done, runs = [], configs(4, epochs=1) + configs(5, epochs=ENDLESS)
        kill = lambda *_: end(scheduler) if done and scheduler.poll() is None else None  # noqa: E731
        with pytest.raises(UserError, match=f"training: cluster: {where}: its scheduler was lost"):
            train(where, runs, kill, done)
        assert [result.config for result in done] == runs[:1]
        monkeypatch.setattr(cluster, "PATIENCE", 1)
        with pytest.raises(UserError, match=f"cluster: {where}: no scheduler answers there"):
            train(where, runs)
    finally:
        end(*(process for process in (scheduler, worker) if process.poll() is None))
    record_property("fault", "lost scheduler: 1 of 1 survived")


def test_jobs_of_a_file_train(preload, tmp_path):
    options = "{cores: 1, processes: 1, memory: 3GB, scheduler_options: {dashboard_address: ':0'}, worker_extra_args: "
    (tmp_path / "jobs.yaml").write_text(f"system: Local\njobs: 1\noptions: {options}[--preload, {preload}]}}\n")
    runs = configs(4, 5)
    assert {result.config for result in train(str(tmp_path / "jobs.yaml"), runs)} == {*runs}
    cluster.submit(str(tmp_path / "jobs.yaml"))[0].close()


WRONG = [
    ("system: Slurm\njobs: 2", "system: 'Slurm' is not allowed; did you mean 'SLURM'"),
    ("system: SLURM\njobs: 0", "jobs: should be greater than 0"),
    ("system: SLURM\njobs: 2\noptions: {cores: 1, memory: 1GB}", "system: sbatch is not on this machine"),
    ("system: Local\njobs: 1\noptions: {coers: 1}", "options: Got unexpected keyword argument 'coers'"),
    ("system: Local\njobs: 1", "options: You must specify how much cores and memory per job"),
]


@pytest.mark.parametrize(("text", "told"), WRONG)
def test_a_wrong_file_of_jobs_is_one_clear_line(text, told, tmp_path):
    (tmp_path / "jobs.yaml").write_text(text)
    with pytest.raises(UserError, match=told) as error:
        train(str(tmp_path / "jobs.yaml"), configs(4))
    assert re.match(f"{tmp_path / 'jobs.yaml'}(, line [0-9])?: ", str(error.value)) and "\n" not in str(error.value)


@pytest.mark.parametrize("command", [["train", "params/smoke"], ["report", "smoke"]])
def test_commands_hand_their_cluster_on(command, capsys):
    assert cli.main([*command, "--cluster", "somewhere"]) == 2
    assert "cluster: somewhere: neither a scheduler's address, as tcp://host:8786, nor a" in capsys.readouterr().err
