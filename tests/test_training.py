"""A run is PyTorch's own training of that network, whatever it is stacked with; its results are what they say."""

import math
import re
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import chain, product
from typing import get_args

import numpy as np
import psutil
import pytest
import torch
from reference import plain_evaluation, subset, until

from fmnist import store
from fmnist.config import RunConfig, UserError
from fmnist.data import Data, split
from fmnist.engine import stack as stack_module
from fmnist.engine import workers
from fmnist.engine.train import Result, Trainer, train_stack
from fmnist.engine.workers import footprint, pack, plan, slots_here, work
from fmnist.model import MLP, images_and_labels, plain_training
from fmnist.use import soft_labels

torch.set_num_threads(1)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device on this machine")

EXACT = 1e-8  # float64: greatest difference of a weight or loss after 100 steps; mostly 1e-15, 1e-10 with Adam on
#               the biases before a batch norm, whose gradients are nothing but rounding
SINGLE = 2e-5  # float32; mostly 1e-6


def run_config(**overrides) -> RunConfig:
    """100 steps on 630 images: 5 epochs of 20 batches, the last one of 22 images."""
    base = {"hidden_sizes": (24,), "val_size": 370, "batch_size": 32, "epochs": 5, "precision": "float64"}
    return RunConfig(**(base | overrides))


@pytest.fixture(scope="session")
def tiny(small) -> Data:
    """As many images as `run_config` is made for."""
    return subset(small, 1_000, 300)


def longer(**overrides) -> RunConfig:
    """3 epochs on 2,400 images."""
    return run_config(**({"hidden_sizes": (40, 21), "val_size": 600, "batch_size": 64, "epochs": 3} | overrides))


def gap(a: dict, b: dict) -> float:
    """The greatest difference of two networks' weights; NaN counts as infinite."""
    assert a.keys() == b.keys()
    worst = max(float((torch.as_tensor(a[name]) - torch.as_tensor(b[name])).abs().max()) for name in a)
    return math.inf if math.isnan(worst) else worst


def assert_trains_as_torch(configs: list[RunConfig], data: Data) -> None:
    """One stack of `configs` against a plain loop each, after every epoch: weights, mean loss, accuracy."""
    tolerance = {"float64": EXACT, "float32": SINGLE}[configs[0].precision]
    trainer = Trainer(configs, data)
    stack = trainer.stack
    start = {name: tensor.clone() for name, tensor in stack.state.items()}
    taught = [soft_labels(config, data) if config.teachers else None for config in configs]
    loops = zip(*map(plain_training, configs, [data] * len(configs), taught), strict=True)
    for epoch, plain in enumerate(loops, 1):
        loss, accuracy = trainer.epoch(epoch, threading.Event())
        for run, (model, plain_loss, plain_accuracy) in enumerate(plain):
            where = f"{configs[run]}, epoch {epoch}"
            expected = {name: tensor for name, tensor in model.state_dict().items() if name in stack.state}
            assert gap({name: tensor[run] for name, tensor in stack.state.items()}, expected) < tolerance, where
            assert loss[run].item() == pytest.approx(plain_loss, rel=tolerance, abs=tolerance), where
            assert accuracy[run].item() == pytest.approx(plain_accuracy, abs=0.1 * tolerance + 1e-6), where
    last = f"linears.{stack.depth}.bias"
    assert (stack.state[last] - start[last]).abs().amax(1).min() > 200 * tolerance  # it did train


# Optimizers, initial weights and scalings are those of the stacks below; test_optim has every rule.
REGULARIZED = [{}, {"dropout": 0.3}, {"batch_norm": True}, {"dropout": 0.3, "batch_norm": True}]
CASES = {
    f"{activation}, {options}": {"activation": activation, "hidden_sizes": (24, 17), "momentum": 0.9, **options}
    for activation in ("relu", "leaky_relu", "tanh", "sigmoid")
    for options in (REGULARIZED if activation == "relu" else REGULARIZED[3:])
}
CASES |= {
    f"hidden {sizes}": {"hidden_sizes": sizes, "optimizer": "Adam", "dropout": p, "batch_norm": p > 0.1}
    for sizes, p in {(): 0.2, (1,): 0.0, (33,): 0.1, (20, 15): 0.0, (20, 15, 12): 0.2, (20, 15, 12, 11, 9): 0.0}.items()
}
CASES |= {
    "standardized, no hidden layer": {"input_scaling": "standardized", "hidden_sizes": ()},
    "one batch an epoch": {"batch_size": 5_000, "lr": 0.5},
    "one image a batch": {"batch_size": 1, "epochs": 1, "val_size": 800, "dropout": 0.5, "lr": 0.001},
    "another seed": {"seed": 2**32 - 1, "dropout": 0.5},
    "float32, deep": {"precision": "float32", "hidden_sizes": (30, 20), "dropout": 0.3, "momentum": 0.9},
    "float32, batch norm": {"precision": "float32", "activation": "sigmoid", "momentum": 0.9, "batch_norm": True},
    "float32, no hidden layer": {"precision": "float32", "hidden_sizes": (), "loss_scale": 2.0},
}
WIDTHS = (24, 24, 17, 17, 17)
FEATURES = {
    "layer norm": {"hidden_sizes": (24, 17), "layer_norm": True, "dropout": 0.3, "momentum": 0.9},
    "residual, first layer as wide as an image": {"hidden_sizes": (784, 784), "residual": True, "epochs": 2},
    "residual, layer norm": {"hidden_sizes": WIDTHS, "residual": True, "layer_norm": True, "dropout": 0.3},
    "average, batch norm": {"ema_decay": 0.9, "batch_norm": True, "hidden_sizes": (24, 17), "momentum": 0.9},
    "mixup, label smoothing, large batch": {"mixup": 1.0, "label_smoothing": 0.2, "batch_size": 5_000, "lr": 0.5},
    "linear, wide": {"schedule": "linear", "hidden_sizes": (300,), "momentum": 0.9, "weight_decay": 0.01, "epochs": 3},
    "cosine, wide": {"schedule": "cosine", "hidden_sizes": (300,), "momentum": 0.9, "warmup_epochs": 1, "epochs": 3},
}
FEATURES["everything"] = {
    "hidden_sizes": (24, 24, 17), "residual": True, "batch_norm": True, "dropout": 0.2, "optimizer": "AdamW",
    "lr": 0.003, "weight_decay": 0.1, "schedule": "one_cycle", "label_smoothing": 0.1, "ema_decay": 0.9, "mixup": 0.2,
    "augment_shift": 2, "augment_flip": True, "augment_rotation": 10.0, "augment_erasing": 0.3,
    "input_scaling": "standardized",
}  # fmt: skip
CASES |= {name: {"epochs": 4} | own for name, own in FEATURES.items()}


@pytest.mark.parametrize("name", CASES)
def test_a_stacked_run_trains_as_torch_does(name, tiny):
    assert_trains_as_torch([run_config(**CASES[name])], tiny)


TEACHERS = ({}, {"hidden_sizes": [30, 20], "optimizer": "Adam", "lr": 0.003, "input_scaling": "standardized"})
LEARNS = {
    "alone": {"distill_weight": 0.7},
    "everything": {"label_smoothing": 0.1, "mixup": 0.3, "augment_flip": True, "ema_decay": 0.9, "dropout": 0.2},
}


@pytest.mark.parametrize("name", LEARNS)
def test_a_student_learns_what_its_stored_teachers_say_as_in_torch(name, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("FMNIST_RUNS", str(tmp_path))
    own = {"momentum": 0.9, "epochs": 3, "teachers": TEACHERS, **LEARNS[name]}
    students = [run_config(**own, seed=seed) for seed in (0, 1)]
    with pytest.raises(UserError, match="no such finished run"):
        Trainer(students, tiny)
    for teacher in (teacher for student in students for teacher in student.teacher_configs):
        store.save(train_stack([teacher], tiny)[0])
    assert_trains_as_torch(students, tiny)
    pair = [students[0], students[0].model_copy(update={"teachers": TEACHERS[:1]})]
    assert [len(stack) for stack in pack([*pair, students[1]], torch.device("cpu"))] == [2, 1]

    said = soft_labels(students[0], tiny)[split(1_000, 370, 0)[0]].double()
    parts = [images_and_labels(teacher, tiny, "train")[0] for teacher in students[0].teacher_configs]
    nets = [store.load_run(teacher.run_id).model() for teacher in students[0].teacher_configs]
    mean = sum(net(x).softmax(1) for net, x in zip(nets, parts, strict=True)) / 2
    assert (said - mean).abs().max() < 1e-3 and mean.max() > 0.5


MIXED = [
    {"lr": 0.1},
    {"lr": 0.2, "bias_init": "normal", "init_std": 0.1},
    {"optimizer": "Adam", "lr": 0.003},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01, "dropout": 0.0},
    {"optimizer": "RMSprop", "lr": 0.001, "momentum": 0.5},
    {"init": "kaiming_normal", "lr": 0.05, "dropout": 0.6},
    {"optimizer": "AdamW", "lr": 0.001, "weight_decay": 0.1},
    {"optimizer": "Adadelta", "lr": 1.0, "init": "normal", "init_std": 0.05},
    {"momentum": 0.5, "loss_scale": 3.0, "weight_decay": 0.001, "bias_init": "zeros"},
]
SCALINGS = ("none", "standardized", "symmetric")
STACKS = {
    "one image a batch": [{"batch_size": 1, "epochs": 1, "val_size": 900, **own, "lr": 0.001} for own in MIXED],
    "one seed": MIXED,
    "one seed, batch norm": [own | {"batch_norm": True} for own in MIXED],
    "one seed, no hidden layer": [own | {"hidden_sizes": ()} for own in MIXED],
    "several seeds": [own | {"seed": i // 3, "input_scaling": SCALINGS[i % 2]} for i, own in enumerate(MIXED)],
    "seeds in turn, batch norm": [
        own | {"seed": i % 2, "batch_norm": True, "input_scaling": SCALINGS[i % 3]} for i, own in enumerate(MIXED)
    ],
}
SCHEDULES = get_args(RunConfig.model_fields["schedule"].annotation)
EVERYTHING = {key: value for key, value in FEATURES["everything"].items() if key not in ("optimizer", "weight_decay")}
STACKS["everything, several seeds"] = [
    EVERYTHING | own | {"seed": i // 3, "epochs": 2, "schedule": schedule, "label_smoothing": 0.05 * (1 + i % 3)}
    for i, (own, schedule) in enumerate(zip(MIXED, [*SCHEDULES, *SCHEDULES[1:]], strict=True))
]
FLOAT32_STACKS = [(name, "float32") for name in ("one seed", "several seeds")]


@pytest.mark.parametrize(("name", "precision"), [*((name, "float64") for name in STACKS), *FLOAT32_STACKS])
def test_eight_different_runs_in_one_stack_train_as_torch_does(name, precision, tiny):
    configs = [run_config(**({"dropout": 0.3, "epochs": 4, "precision": precision} | own)) for own in STACKS[name]]
    assert_trains_as_torch(configs, tiny)


LAST_EPOCH = [f"{part}_{what}" for part in ("train", "val", "test") for what in ("loss", "accuracy")]
NORMED = {"batch_norm": True, "lr": 0.1}
TRAINED = [{}, NORMED, {"batch_norm": True, "dropout": 0.3}]
UNTRAINED = [{"epochs": 0, **own} for own in ({}, {"batch_norm": True, "dropout": 0.5}, {"hidden_sizes": ()})]


@pytest.mark.parametrize("options", [*TRAINED, *UNTRAINED], ids=str)
def test_a_runs_results_are_those_of_the_plain_loop_and_zero_epochs_change_nothing(options, small):
    """History, metrics, predictions, and weights, at the last epoch and at the best validation epoch."""
    config = longer(**({"momentum": 0.9, "epochs": 4} | options))
    (result,) = train_stack([config], small)
    untrained = (MLP(config), math.nan, math.nan)
    rows, states, tests = [], [], []
    for model, loss, accuracy in chain([untrained], plain_training(config, small)):
        train, val, test = (plain_evaluation(model, config, small, part) for part in ("train", "val", "test"))
        rows.append((loss, accuracy, *val[:2]))
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items() if "tracked" not in name})
        tests.append(test)
    names = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
    np.testing.assert_allclose(np.stack([result.history[name] for name in names], 1), rows, rtol=EXACT)
    assert result.history["epoch"].tolist() == [*range(config.epochs + 1)]

    best, metrics = int(np.argmax([row[3] for row in rows])), result.metrics
    assert metrics["best_epoch"] == best and not metrics["diverged"] and (best > 0) == (config.epochs > 0)
    assert max(gap(result.weights, states[-1]), gap(result.best_weights, states[best])) <= EXACT * (config.epochs > 0)
    names = [*LAST_EPOCH, "best_val_test_loss", "best_val_test_accuracy", "best_val_accuracy"]
    values = [*train[:2], *rows[-1][2:], *tests[-1][:2], *tests[best][:2], rows[best][3]]
    expected = dict(zip(names, values, strict=True))
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=EXACT)
    assert (result.predictions == torch.stack([tests[-1][2], tests[best][2]]).numpy()).all()
    for epoch, weights in ((-1, result.weights), (best, result.best_weights)):  # without biases
        squares = sum((array**2).sum() for name, array in weights.items() if re.fullmatch(r"linears.*weight", name))
        assert result.history["weight_norm"][epoch] == pytest.approx(math.sqrt(squares))
    by_batch = [part.double().mean().item() for part in (tests[-1][2] == small.test_labels).split(256)]
    assert metrics["test_accuracy_std"] == pytest.approx(np.std(by_batch, ddof=1), rel=1e-9)


def assert_same_run(one: Result, other: Result, tolerance: float) -> None:
    assert one.config == other.config
    assert gap(one.weights, other.weights) < tolerance and gap(one.best_weights, other.best_weights) < tolerance
    for name in set(one.history) - {"seconds"}:
        np.testing.assert_allclose(one.history[name], other.history[name], rtol=10 * tolerance, atol=10 * tolerance)
    timeless = [{name: value for name, value in r.metrics.items() if name != "seconds"} for r in (one, other)]
    assert timeless[0] == pytest.approx(timeless[1], rel=10 * tolerance, abs=10 * tolerance, nan_ok=True)


@pytest.mark.parametrize("precision", ["float64", "float32", "bfloat16"])
def test_the_same_stack_twice_is_bitwise_the_same(precision, tiny):
    base = {"dropout": 0.3, "precision": precision, "epochs": 4}
    configs = [run_config(**(base | own)) for own in STACKS["seeds in turn, batch norm"]]
    for one, other in zip(train_stack(configs, tiny), train_stack(configs, tiny), strict=True):
        assert (one.predictions == other.predictions).all()
        assert_same_run(one, other, 1e-300)


DIVERGING = {
    "at once": {"lr": 1e6},
    "later": {"lr": 1e-6, "weight_decay": 2.11e6},  # weights grow by 11 % a step
    "from the start": {"init": "normal", "bias_init": "normal", "init_std": 1e20},
}


@pytest.mark.parametrize("name", DIVERGING)
def test_a_diverging_run_is_marked_and_ends_at_its_last_finite_epoch(name, small):
    config = longer(precision="float32", epochs=6, **DIVERGING[name])
    finite = sum(math.isfinite(loss) for _, loss, _ in plain_training(config, small))
    assert finite == {"at once": 0, "later": 3, "from the start": 0}[name]
    watched = []
    (result,) = train_stack([config], small, lambda epoch, *_: watched.append(epoch))
    history, metrics = result.history, result.metrics
    assert metrics["diverged"] is True and history["epoch"].tolist() == list(range(finite + 1))
    assert all(math.isnan(metrics[metric]) for metric in (*LAST_EPOCH, "test_accuracy_std"))
    assert watched == list(range(finite + 2))  # nothing is trained on after the whole stack has diverged
    best = ("best_val_accuracy", "best_val_test_accuracy", "best_val_test_loss")
    if name == "from the start":
        assert all(math.isnan(metrics[metric]) for metric in best) and metrics["best_epoch"] == 0
        return
    assert np.isfinite(history["val_loss"]).all() and np.isfinite(history["train_loss"][1:]).all()
    assert metrics["best_epoch"] == history["val_accuracy"].argmax()
    model = MLP(config)
    model.load_state_dict({name: torch.from_numpy(weights) for name, weights in result.best_weights.items()})
    loss, accuracy, _ = plain_evaluation(model, config, small, "test")
    assert [metrics[metric] for metric in best] == pytest.approx([history["val_accuracy"].max(), accuracy, loss])


@pytest.mark.parametrize("extra", [{}, {"batch_norm": True}, {"momentum": 0.9, "nesterov": True}], ids=str)
@pytest.mark.parametrize("cause", [{"lr": 1e300, "weight_decay": 1.0}, {"init": "normal", "init_std": 1e200}], ids=str)
def test_a_diverging_run_does_not_touch_its_stack_mates(cause, extra, tiny):
    mates = [run_config(epochs=3, dropout=0.2, lr=lr, **extra) for lr in (0.1, 0.01, 0.001)]
    diverging = run_config(epochs=3, dropout=0.2, **extra, **cause)
    with_it = train_stack([mates[0], diverging, *mates[1:]], tiny)
    assert with_it[1].metrics["diverged"]
    for without, beside in zip(train_stack(mates, tiny), [with_it[0], *with_it[2:]], strict=True):
        assert not beside.metrics["diverged"]
        assert_same_run(without, beside, EXACT)


@pytest.mark.parametrize("options", [{}, {"batch_norm": True, "dropout": 0.1}, {"activation": "tanh"}], ids=str)
def test_bfloat16_learns_as_float32_does(options, small):
    single, half = (
        train_stack([longer(optimizer="Adam", lr=0.001, precision=p, seed=s, **options) for s in (0, 1)], small)
        for p in ("float32", "bfloat16")
    )
    for one, other in zip(single, half, strict=True):
        assert all(array.dtype == np.float32 for array in other.weights.values())
        assert other.metrics["test_accuracy"] == pytest.approx(one.metrics["test_accuracy"], abs=0.03)
        assert other.metrics["test_accuracy"] > 0.6
        np.testing.assert_allclose(other.history["train_loss"][1:], one.history["train_loss"][1:], rtol=0.03)
        assert gap(one.weights, other.weights) > 0  # its products are rounded, but not its weights:
        weight = torch.from_numpy(other.weights["linears.0.weight"])
        assert (weight.bfloat16().float() != weight).float().mean() > 0.9


def test_the_test_set_changes_nothing_but_test_metrics(small):
    shuffled = replace(small, test_images=small.test_images.flip(1), test_labels=small.test_labels.roll(1))
    one, other = (train_stack([longer(lr=0.1, batch_norm=True)], data)[0] for data in (small, shuffled))
    assert gap(one.weights, other.weights) == gap(one.best_weights, other.best_weights) == 0
    differing = {name for name in one.metrics if one.metrics[name] != other.metrics[name]} - {"seconds"}
    assert differing == {name for name in one.metrics if "test" in name}


def test_a_stack_is_bounded_by_memory_and_a_run_that_does_not_fit_is_refused(monkeypatch):
    alike = [RunConfig(lr=1 / (3 + i), hidden_sizes=(400, 400)) for i in range(24)]
    assert [len(stack) for stack in pack(alike[:8], torch.device("cpu"), workers=2)] == [4, 4]  # no core without work
    own, shared = footprint(alike[0])
    small = pack(alike, torch.device("cpu"), 1, 5 * own + shared)
    assert max(map(len, small)) <= 5 and sum(map(len, small)) == 24
    assert small == pack(alike[::-1], torch.device("cpu"), 1, 5 * own + shared)
    with pytest.raises(UserError, match="memory: 0 MB are free for training: too little for one of these runs"):
        plan(alike, slots_here(alike, torch.device("cpu"), 100_000_000))


def collected(configs: list[RunConfig], **options) -> list[Result]:
    results = []
    workers.train(configs, results.append, "cpu", **options)
    return results


SHAPES = [{}, {"hidden_sizes": ()}, {"activation": "tanh"}, {"batch_norm": True}, {"batch_size": 64}, {"epochs": 3}]
SHAPES += [{"val_size": 700}, {"precision": "float32"}, {"dropout": 0.5}, {"input_scaling": "symmetric"}]
SHAPES += [{"optimizer": "Adam"}, {"schedule": "linear"}, {"augment_flip": True}]


def test_training_many_runs_finishes_each_once_as_training_it_alone(tiny, monkeypatch):
    monkeypatch.setattr(workers, "load", lambda *_: tiny)
    monkeypatch.setattr(workers, "START", math.inf)  # all in this process
    grid, done = product((0, 1), (0.01, 0.02), SHAPES), []
    configs = [run_config(**{"epochs": 2, "seed": seed, "lr": lr} | own) for seed, lr, own in grid]
    results = collected(configs, progress=lambda *step: done.append(step))
    assert {result.config for result in results} == set(configs) and len(results) == len(configs)
    assert sum(epochs for epochs, _, _ in done) == sum(config.epochs for config in configs)
    assert sum(each for _, each, _ in done) == pytest.approx(sum(map(work, configs)))
    for result in results:
        tolerance = SINGLE if result.config.precision == "float32" else EXACT
        assert_same_run(result, train_stack([result.config], tiny)[0], tolerance)


def test_a_stack_that_finds_too_little_memory_is_split(tiny, monkeypatch):
    """The device has room for two runs only, which no estimate knew; every run comes out, and progress adds up."""
    monkeypatch.setattr(workers, "load", lambda *_: tiny)
    sizes, done = [], []

    def cramped(configs, data, watch, stop):
        sizes.append(len(configs))
        if len(configs) > 2:
            watch(1, 0.5)
            raise torch.OutOfMemoryError
        return train_stack(configs, data, watch, stop)

    monkeypatch.setattr(workers, "train_stack", cramped)
    monkeypatch.setattr(workers, "plan", lambda configs, _: [configs])
    configs = [run_config(epochs=2, lr=0.1 / (1 + i)) for i in range(7)]
    results = collected(configs, progress=lambda *step: done.append(step))
    assert {result.config for result in results} == set(configs) and max(sizes) == 7
    assert sum(epochs for epochs, _, _ in done) == 14
    monkeypatch.setattr(workers, "train_stack", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError))
    with pytest.raises(UserError, match="device: cpu has too little free memory for a single run"):
        collected(configs)


PROCESSES = """
import os, sys, threading, time, numpy, psutil, torch
from fmnist.config import RunConfig, UserError
from fmnist.engine import workers

torch.set_num_threads(int(sys.argv[1]))  # which OpenMP starts before there are workers
torch.randn(1_000, 1_000) @ torch.randn(1_000, 1_000)
workers.START, workers.os.sched_getaffinity = 0, lambda _: {0, 1}
runs, killed, peak = [], [], 0

def processes():
    alive = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in alive if "spawn_main" in " ".join(child.cmdline())]

def train(epochs, seed, progress=lambda *_: None):
    configs = [RunConfig(hidden_sizes=(n,), epochs=e, seed=seed, batch_size=5_000) for n, e in zip((4, 5), epochs)]
    memory = None if runs else 1_900_000_000
    workers.train(configs, lambda result: runs.append(result.config.epochs), "cpu", progress, memory)

def watch(*_):
    global peak
    if not runs:
        peak = max(peak, sum(process.memory_full_info().pss for process in [psutil.Process(), *processes()]))

def kill_one(*_):
    if not killed:
        killed.append(processes()[0].kill())

train((2, 2), 0, watch)
assert len(processes()) == 2 and runs == [2, 2] and peak < 1_900_000_000, (processes(), runs, peak)
(torch.rand(1_000, 1_000) @ torch.rand(1_000, 1_000, requires_grad=True)).sum().backward()  # and more before the next
torch.nn.functional.conv2d(torch.rand(8, 3, 64, 64), torch.rand(16, 3, 5, 5))
numpy.linalg.inv(numpy.random.rand(400, 400) @ numpy.random.rand(400, 400))
def busy():
    while True:
        time.sleep(0.01 + 0 * len(torch.rand(300, 300) @ torch.rand(300, 300)))

threading.Thread(target=busy, daemon=True).start()
try:
    train((100_000, 100_000), 2, kill_one)
except UserError as error:
    print(error, flush=True)
assert not processes()
train((100_000, 100_000), 2, lambda *_: (print(*[p.pid for p in processes()], flush=True), os.kill(os.getpid(), 9)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what processes share is known on Linux alone")
@pytest.mark.parametrize("threads", ["4", *(pytest.param(n, marks=pytest.mark.faults) for n in "28")])
def test_workers_start_from_a_plain_script_and_end_with_it(threads, tmp_path, data_set, record_property):
    """No `__main__` guard; after OpenMP; kept between trainings; gone with a killed worker or parent."""
    script = tmp_path / "script.py"
    script.write_text(PROCESSES)
    done = subprocess.run([sys.executable, script, threads], capture_output=True, text=True, timeout=600)
    assert done.returncode == -9, done.stderr
    killed, pids = done.stdout.splitlines()[:2]
    assert killed.startswith("training: a worker was killed")
    until(lambda: not any(map(psutil.pid_exists, map(int, pids.split()))), 20)
    record_property("fault", f"training after {threads} threads have computed: 1 of 1 survived")


@pytest.mark.parametrize("options", [{}, {"dropout": 0.3}, {"hidden_sizes": (40, 30), "batch_norm": True}], ids=str)
def test_float32_stands_in_for_bfloat16(options, small, monkeypatch):
    """Every operand of a product is a number that bfloat16 has, whether the processor multiplies bfloat16 or not."""
    config = longer(**({"precision": "bfloat16", "optimizer": "Adam", "lr": 0.001} | options))
    found = []
    for there in (False, True):
        monkeypatch.setattr(stack_module, "has_bfloat16", lambda there=there: there)
        found += train_stack([config], small)
    np.testing.assert_allclose(found[0].history["train_loss"], found[1].history["train_loss"], rtol=0.02)
    assert (found[0].predictions != found[1].predictions).mean() < 0.05


def test_hidden_products_are_the_same_by_onednn(small, monkeypatch):
    config = longer(precision="float32", hidden_sizes=(300, 300), batch_size=128, epochs=1)
    found = []
    for leads in (False, True):
        monkeypatch.setattr(stack_module, "onednn_leads", lambda leads=leads: leads)
        found += train_stack([config], small)
    assert gap(found[0].weights, found[1].weights) < SINGLE


def on_cuda(data: Data) -> Data:
    names = ("train_images", "train_labels", "test_images", "test_labels")
    return Data(*(getattr(data, name).cuda() for name in names), data.checksum)


@needs_cuda
@pytest.mark.parametrize("name", [*STACKS, "float32", "bfloat16"])
def test_cuda_equals_the_cpu(name, small):
    """To the last bits in float64; in other precisions by rounding."""
    rounded = [{"precision": name, "lr": 0.05, "seed": seed} for seed in (0, 1, 1)]
    configs = [longer(**({"dropout": 0.3} | own)) for own in STACKS.get(name, rounded)]
    for there, here in zip(train_stack(configs, on_cuda(small)), train_stack(configs, small), strict=True):
        assert there.device.startswith("cuda")
        if name in STACKS:
            assert_same_run(there, here, EXACT)
            continue
        tolerance = {"float32": 1e-3, "bfloat16": 0.03}[name]
        np.testing.assert_allclose(there.history["train_loss"], here.history["train_loss"], rtol=tolerance)
        assert (there.predictions != here.predictions).mean() <= 3 * tolerance


@needs_cuda
def test_memory_on_cuda_stays_within_its_bound(small, monkeypatch):
    monkeypatch.setattr(workers, "load", lambda *_: on_cuda(small))
    configs = [longer(precision="float32", hidden_sizes=(h, h), lr=0.1 / (1 + i)) for i in range(75) for h in (40, 90)]
    before, bound = torch.cuda.memory_allocated(), 500_000_000
    torch.cuda.reset_peak_memory_stats()
    results = []
    workers.train(configs, results.append, "cuda", memory=bound)
    assert len(results) == len(configs) and torch.cuda.max_memory_reserved() - before < bound
