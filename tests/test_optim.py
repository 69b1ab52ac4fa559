"""Every update rule is torch.optim's, step by step, whatever else is in the stack."""

import pytest
import torch
from reference import OPTIMIZERS

from fmnist.config import RunConfig
from fmnist.engine.optim import LARGE, Optimizer
from fmnist.model import torch_optimizer

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
    for step in range(steps):
        gradient = gradients(len(configs), step, dtype)
        kept = [g.clone() for g in gradient]
        optimizer.step(gradient)
        for run, plain_optimizer in enumerate(plain_optimizers):
            for own, g in zip(plain[run], kept, strict=True):
                own.grad = g[run].clone()
            plain_optimizer.step()
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


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if "decay" not in name])
def test_without_gradient_nothing_moves(name):
    weights = torch.randn(3, 5, 7)
    before = weights.clone()
    optimizer = Optimizer([weights], variants(name))
    for _ in range(3):
        optimizer.step([torch.zeros_like(weights)])
    assert torch.equal(weights, before)
