"""Networks start as torch.nn.init has it, and dropout is random where it should be.

That a mask is the same in any stack and on every device, test_training sees: a stacked run trains as the plain loop.
"""

import math

import pytest
import torch
from scipy.stats import ks_2samp
from torch import nn

from fmnist.config import RunConfig
from fmnist.model import MLP, dropout_keys, dropout_mask

torch.set_num_threads(1)
SIZES = (96, 48)
INITS = ["default", "xavier_normal", "xavier_uniform", "kaiming_normal", "kaiming_uniform", "normal", "zeros"]


def initialize(parameter: torch.Tensor, init: str) -> None:
    """As torch.nn.init does it; a new torch.nn.Linear is as by default."""
    options = {"std": 0.3} if init == "normal" else {"nonlinearity": "relu"} if init.startswith("kaiming") else {}
    if init != "default":
        getattr(nn.init, f"{init}_")(parameter, **options)


def assert_same_distribution(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    if not theirs.any():
        assert not ours.any()
        return
    assert ours.unique().numel() > 0.9 * ours.numel()  # drawn one by one; float32 has some ties
    assert ks_2samp(ours.numpy(), theirs.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("init", INITS)
def test_weights_and_biases_are_drawn_as_torch_draws_them(init):
    own = {"init": init, "bias_init": init if init in ("normal", "zeros") else "default"}
    own |= {"init_std": 0.3} if init == "normal" else {}
    ours = [MLP(RunConfig(hidden_sizes=SIZES, seed=seed, **own)).linears for seed in range(6)]
    torch.manual_seed(1)
    for layer, like in enumerate(ours[0]):
        theirs = [nn.Linear(like.in_features, like.out_features) for _ in ours]
        for linear in theirs:
            initialize(linear.weight, init)
            initialize(linear.bias, own["bias_init"])
        for kind in ("weight", "bias"):
            sides = [[getattr(linears[layer], kind) for linears in ours], [getattr(linear, kind) for linear in theirs]]
            assert_same_distribution(*(torch.cat([p.detach().flatten() for p in side]) for side in sides))


def test_equal_seeds_give_equal_weights_whatever_else_differs_and_torchs_own_random_numbers_are_left_alone():
    before = torch.random.get_rng_state()
    expected = MLP(RunConfig(seed=5)).linears.state_dict()
    others = [{"optimizer": "Adam"}, {"activation": "tanh"}, {"dropout": 0.5}, {"batch_norm": True}, {"batch_size": 64}]
    for other in [*others, {"precision": "float64"}, {"precision": "bfloat16"}]:
        got = MLP(RunConfig(seed=5, lr=0.1, **other)).linears.state_dict()
        assert all(torch.equal(got[name].float(), expected[name]) for name in expected)
    MLP(RunConfig(dropout=0.5, init="kaiming_normal"))(torch.ones(3, 784))
    assert torch.equal(torch.random.get_rng_state(), before)
    other_seed = MLP(RunConfig(seed=6)).linears.state_dict()
    for name, tensor in expected.items():
        assert (other_seed[name] == tensor).float().mean() < 1e-3


def dropped(seeds: list[int], layer: int = 0, first: int = 0, steps: int = 1, p=0.5, batch=256, width=128):
    """Where masks are 0, as ±1 of mean 0 for p = 0.5: float32 [steps, runs, batch, width]."""
    keys = dropout_keys(seeds, layer, first, steps)
    rates = torch.full((len(seeds),), p)
    return torch.stack([(dropout_mask(key, rates, batch, width) == 0).float() for key in keys])


@pytest.mark.parametrize("p", [0.0, 0.01, 0.2, 1 / 3, 0.5, 0.8, 0.99])
def test_a_mask_drops_at_its_rate_and_keeps_the_mean(p):
    mask = dropout_mask(dropout_keys(list(range(16)), 0, 0, 1)[0], torch.full((16,), p), 512, 128)
    error = 5 * math.sqrt(p * (1 - p) / mask.numel()) + 2**-16  # sampling, and p's own rounding
    assert abs((mask == 0).double().mean() - p) <= error
    assert torch.equal(mask[mask != 0].unique(), torch.tensor([1 / (1 - torch.tensor(p))]))
    assert abs(mask.double().mean() - 1) <= error / (1 - p) + 1e-6


def test_masks_of_different_runs_steps_and_layers_are_uncorrelated():
    seeds = [0, 1, 2, 3, 1000, 2**32 - 1]
    masks = torch.cat([dropped(seeds, layer, first, 3) for layer in (0, 1, 2) for first in (0, 100)]).flatten(0, 1)
    centred = masks.flatten(1) - masks.flatten(1).mean(1, keepdim=True)
    correlation = torch.corrcoef(centred).fill_diagonal_(0)
    assert correlation.abs().max() < 5.5 / math.sqrt(centred.shape[1])  # 5,778 pairs


@pytest.mark.parametrize("p", [0.2, 0.5])
@pytest.mark.parametrize("width", [100, 127, 128])
def test_neighbours_in_a_mask_are_uncorrelated(p, width):
    """Neighbouring units, images, and elements at any small or power-of-two distance; and higher orders by pairs."""
    flat = dropped([0, 7], steps=4, p=p, width=width).flatten(2).flatten(0, 1) - p
    lags = [*range(1, 17), width - 1, width, width + 1, 2 * width, *(2**k for k in range(5, 14))]
    for lag in lags:
        products = flat[:, lag:] * flat[:, :-lag] / (p * (1 - p))
        assert abs(products.mean()) < 5 / math.sqrt(products.numel()), lag
    triple = flat[:, 2:] * flat[:, 1:-1] * flat[:, :-2] / (p * (1 - p)) ** 1.5
    assert abs(triple.mean()) < 5 / math.sqrt(triple.numel())
