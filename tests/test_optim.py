"""Every update rule is torch.optim's, step by step, whatever else is in the stack."""

from functools import cache
from typing import get_args

import pytest
import torch
from reference import OPTIMIZERS, torch_scheduler

from fmnist.config import RunConfig
from fmnist.engine.optim import LARGE, Optimizer, scheduled
from fmnist.model import learning_rates, torch_optimizer

torch.set_num_threads(1)
SHAPES = [(5, 7), (5,), (LARGE // 64 + 1, 64)]  # a weight, a bias, and a weight that the CPU takes run by run
ROUNDING = {torch.float64: {"rtol": 1e-10, "atol": 1e-12}, torch.float32: {"rtol": 1e-4, "atol": 1e-5}}


@cache
def gradients(runs: int, step: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Made-up gradients over many orders of magnitude, a quarter of them 0 as at a dead unit or an empty pixel."""
    draw = torch.Generator().manual_seed(step)
    found = []
    for shape in SHAPES:
        size = 10 ** torch.empty(runs, *shape, dtype=dtype).uniform_(-6, 1, generator=draw)
        sign = torch.randn(runs, *shape, dtype=dtype, generator=draw).sign()
        found.append(size * sign * (torch.rand(runs, *shape, generator=draw) < 0.75))
    return found


def assert_steps_as_torch(configs: list[RunConfig], dtype: torch.dtype, steps: int) -> None:
    torch.manual_seed(0)
    stacked = [torch.randn(len(configs), *shape, dtype=dtype) for shape in SHAPES]
    plain = [[parameter[run].clone() for parameter in stacked] for run in range(len(configs))]
    optimizer = Optimizer(stacked, configs)
    plain_optimizers = [torch_optimizer(config, own) for config, own in zip(configs, plain, strict=True)]
    schedulers = [torch_scheduler(*pair, steps=5) for pair in zip(configs, plain_optimizers, strict=True)]
    rates = [torch.cat([learning_rates(c, epoch, 5) for epoch in range(1, 7)]).to(dtype) for c in configs]
    for step in range(steps):
        drawn = gradients(len(configs), step, dtype)
        rate = torch.stack([each[step] for each in rates]) if any(map(scheduled, configs)) else None
        optimizer.step([gradient.clone() for gradient in drawn], rate)
        for run, plain_optimizer in enumerate(plain_optimizers):
            for own, gradient in zip(plain[run], drawn, strict=True):
                own.grad = gradient[run].clone()
            plain_optimizer.step()
            schedulers[run].step()
        for parameter, own in zip(stacked, zip(*plain, strict=True), strict=True):
            said = lambda message, step=step: f"step {step}: {message}"  # noqa: E731
            torch.testing.assert_close(parameter, torch.stack(own), **ROUNDING[dtype], msg=said)


def three(kind: str, name: str) -> list[RunConfig]:
    """Runs of one optimizer; SGD with momentum takes neighbours of equal constants in one pass: all three, or two."""
    own = {"lr": 0.01, "epochs": 4, **OPTIMIZERS[name]}
    tenth = own | {"lr": own["lr"] / 10}
    bare = {"optimizer": own.get("optimizer", "SGD"), "lr": own["lr"] * 3}
    schedules = [{"schedule": "one_cycle"}, {"schedule": "cosine", "warmup_epochs": 1}, {"schedule": "steps"}]
    kinds = {"different": [own, tenth, bare], "alike": [own] * 3, "two alike": [own, own, tenth]}
    kinds |= {"a schedule": [own | schedules[0]] * 3, "schedules": [own | each for each in schedules]}
    return [RunConfig(**options, seed=seed) for seed, options in enumerate(kinds[kind])]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["different", "alike", "two alike", "a schedule", "schedules"])
def test_a_rule_steps_as_torch_optim(kind, name):
    assert_steps_as_torch(three(kind, name), torch.float64, steps=30 if kind == "different" else 20)
    if kind == "different":
        assert_steps_as_torch(three(kind, name), torch.float32, steps=15)


@pytest.mark.parametrize("steps", [1, 7, 106])
@pytest.mark.parametrize("epochs", [1, 9])
@pytest.mark.parametrize("warmup", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("schedule", get_args(RunConfig.model_fields["schedule"].annotation))
def test_learning_rates_are_those_of_torchs_schedulers(schedule, warmup, epochs, steps):
    """Also where the warm-up is longer than the training."""
    if schedule == "one_cycle" and warmup:
        return
    config, expected = RunConfig(lr=0.3, epochs=epochs, schedule=schedule, warmup_epochs=warmup), []
    optimizer = torch_optimizer(config, [torch.zeros(1, requires_grad=True)])
    scheduler = torch_scheduler(config, optimizer, steps)
    for _ in range(epochs * steps):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    found = torch.cat([learning_rates(config, epoch, steps) for epoch in range(1, epochs + 1)])
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)
