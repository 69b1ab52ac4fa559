"""Every update rule is torch.optim's, step by step, whatever else is in the stack."""

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
        gradient = gradients(len(configs), step, dtype)
        kept = [g.clone() for g in gradient]
        optimizer.step(gradient, torch.stack([rate[step] for rate in rates]) if any(map(scheduled, configs)) else None)
        for run, plain_optimizer in enumerate(plain_optimizers):
            for own, g in zip(plain[run], kept, strict=True):
                own.grad = g[run].clone()
            plain_optimizer.step()
            schedulers[run].step()
            for own, parameter in zip(plain[run], stacked, strict=True):
                torch.testing.assert_close(
                    parameter[run], own, **ROUNDING[dtype], msg=lambda m, s=step, r=run: f"step {s}, run {r}: {m}"
                )


def variants(name: str) -> list[RunConfig]:
    """Three runs of one optimizer: as listed, with a tenth of the learning rate, and with nothing but that rate."""
    own = {"lr": 0.01, **OPTIMIZERS[name]}
    bare = {"optimizer": own.get("optimizer", "SGD"), "lr": own["lr"] * 3}
    return [RunConfig(**own), RunConfig(**{**own, "lr": own["lr"] / 10}), RunConfig(**bare)]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_a_rule_steps_as_torch_optim(name, dtype):
    assert_steps_as_torch(variants(name), dtype, steps=30 if dtype == torch.float64 else 15)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_runs_of_equal_constants_step_as_torch_optim(name):
    """SGD with momentum then takes neighbours of equal constants in one pass: all three, or two and one."""
    own = {"lr": 0.01, **OPTIMIZERS[name]}
    for other in (own, own | {"lr": own["lr"] / 10}):
        configs = [RunConfig(**own, seed=0), RunConfig(**own, seed=1), RunConfig(**other, seed=2)]
        assert_steps_as_torch(configs, torch.float64, steps=20)


def test_every_rule_in_one_stack_steps_as_torch_optim():
    one_each = [RunConfig(**{"lr": 0.01, **own}) for own in OPTIMIZERS.values()]
    assert_steps_as_torch(one_each[::3] + one_each[1::3] + one_each[2::3], torch.float64, steps=20)


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


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("alike", [True, False])
def test_a_rule_with_a_schedule_steps_as_torch_optim(name, alike):
    schedules = [{"schedule": "one_cycle"}, {"schedule": "cosine", "warmup_epochs": 1}, {"schedule": "steps"}]
    own = {"lr": 0.01, "epochs": 4, **OPTIMIZERS[name]}
    configs = [RunConfig(**own, **schedules[0 if alike else i], seed=i) for i in range(3)]
    assert_steps_as_torch(configs, torch.float64, steps=20)
