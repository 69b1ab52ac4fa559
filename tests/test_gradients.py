"""The gradient check: what it finds when the backward pass is right, that it finds it wrong when it is, and where."""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import cross_entropy

from fmnist.config import RunConfig, UserError, layer_sizes, read_yaml
from fmnist.engine import stack
from fmnist.gradients import Weight, bias_limits, check, crossings, first_of_each_class
from fmnist.model import MLP
from fmnist.paper.notebooks import parameters_of

ROOT = Path(__file__).parents[1]
STEPS = tuple(np.geomspace(1e-6, 1e-1, 16))


@cache
def defaults() -> dict:
    return parameters_of(ROOT / "notebooks" / "gradient_check.ipynb")


def network(**overrides) -> RunConfig:
    """The published network, on the few images of the tests."""
    fields = {name: tuple(v) if isinstance(v, list) else v for name, v in defaults()["network"].items()}
    return RunConfig(**(fields | {"val_size": 500} | overrides))


@pytest.fixture(scope="module")
def checked(small) -> pd.DataFrame:
    return check(network(), defaults()["weights"], STEPS, small)


# --- the published weights --------------------------------------------------------------------------------------------


def test_the_seven_published_weights_are_in_the_network():
    config, weights, published = network(), defaults()["weights"], defaults()["published"]
    assert len(weights) == 7 and weights.keys() == published.keys()
    kinds = [weight.place(config, name)[0] for name, weight in ((n, Weight(**w)) for n, w in weights.items())]
    assert kinds == [5, 1, 1, 4, 4, 0, 0]  # output bias, hidden biases, hidden to output, input to hidden
    for name, given in weights.items():
        assert all(str(i) in name for i in given["index"])


def test_the_report_checks_them_at_the_published_step():
    given = read_yaml(ROOT / "params" / "dewangan" / "gradient_check.yaml")
    assert {**defaults(), **given}["eps"] == 0.01


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ({"layer": 3, "index": [0]}, r"weights: w: layer: should be -3 to 2 \(got 3\)"),
        ({"layer": -1, "index": [10]}, r"weights: w: index: \[10\] lies outside the layer's 10"),
        ({"layer": 0, "index": [784, 0]}, r"weights: w: index: \[784, 0\] lies outside the layer's 784 × 50"),
        ({"layer": 0, "index": [-1]}, r"weights: w: index\.0: should be greater than or equal to 0 \(got -1\)"),
        ({"layer": 0, "index": []}, r"weights: w: index: should not be empty"),
        ({"layer": 0}, r"weights: w: index: is required"),
        ({"layers": 0, "index": [0]}, r"weights: w: .*layers: unknown key; did you mean 'layer'\?"),
    ],
)
def test_a_weight_that_is_not_there_is_named(weight, message, small):
    with pytest.raises(UserError, match=message):
        check(network(), {"w": weight}, [0.01], small)


def test_what_cannot_be_checked_is_refused(small):
    with pytest.raises(UserError, match="without batch norm and dropout"):
        check(network(dropout=0.1), {}, [0.01], small)


# --- a right gradient -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu", "leaky_relu"])
def test_the_written_out_backward_pass_is_autograds(activation, small):
    config = network(activation=activation, hidden_sizes=(12, 9, 7), precision="float64")
    places = [(layer, i, o) for layer, (i, o) in enumerate(layer_sizes(config.hidden_sizes))]
    weights = {f"{layer} bias": {"layer": layer, "index": [o - 2]} for layer, _, o in places}
    weights |= {f"{layer} weight": {"layer": layer, "index": [i // 2, o - 2]} for layer, i, o in places}
    found = check(config, weights, [1e-4], small).query("precision == 'float64'").set_index("weight").backprop

    model, (x, labels) = MLP(config), first_of_each_class(config, small)
    (config.loss_scale * cross_entropy(model(x[0]), labels, reduction="sum")).backward()
    for layer, i, o in places:
        assert found[f"{layer} bias"] == pytest.approx(float(model.linears[layer].bias.grad[o - 2]), rel=1e-9)
        assert found[f"{layer} weight"] == pytest.approx(
            float(model.linears[layer].weight.grad[o - 2, i // 2]), rel=1e-9
        )
    assert (found != 0).sum() > 4


def test_the_images_are_the_first_of_each_class_of_the_train_split(small):
    x, labels = first_of_each_class(network(), small)
    assert x.shape == (1, 10, 784) and labels.tolist() == list(range(10))
    assert not torch.equal(x, first_of_each_class(network(seed=1), small)[0])  # another split


def test_central_differences_err_by_the_square_of_the_step(checked):
    """And one-sided ones by the step itself."""
    double = checked[checked.precision == "float64"]
    assert crossings(checked).set_index("precision").order["float64"] == pytest.approx(2, abs=0.02)
    for column, power in (("numerical", 2), ("one_sided", 1)):
        error = (double[column] - double.backprop).abs().groupby(double.eps).max()
        assert np.log10(error.iloc[-1] / error.iloc[-4]) == pytest.approx(power, abs=0.1)  # a decade of eps


def test_rounding_takes_over_where_the_fit_says(checked):
    """On both sides of the crossing the error is larger; float32 turns at a much larger step."""
    fits = crossings(checked).set_index("precision")
    assert 1e-6 < fits.eps["float64"] < 1e-3 < fits.eps["float32"] < 1e-1
    double = checked[checked.precision == "float64"]
    error = double.groupby("eps").difference.agg(lambda d: np.sqrt(np.mean(d**2)))
    at = error.iloc[np.abs(error.index / fits.eps["float64"] - 1).argmin()]
    assert error.iloc[-1] > 1e3 * at and error.iloc[0] > at


def test_an_output_bias_errs_by_no_more_than_taylors_remainder(small):
    """For any weights: here for all ten biases of three networks. The limits are not idle: they are nearly reached."""
    biases = {f"bias {k}": {"layer": -1, "index": [k]} for k in range(10)}
    small_weights = {"init": "default", "bias_init": "default"}  # probabilities near 0.1, where the limit is approached
    found = [check(network(seed=s, **own), biases, [0.01], small) for s in (0, 1) for own in ({}, small_weights)]
    double = pd.concat(found).query("precision == 'float64'")
    central, one_sided = bias_limits(0.01, 10, 0.1)
    assert 0.5 * central < double.difference.abs().max() <= central
    assert 0.2 * one_sided < (double.one_sided - double.backprop).abs().max() <= one_sided


# --- a wrong gradient -------------------------------------------------------------------------------------------------


def test_a_mistake_in_the_backward_pass_is_found(monkeypatch, small):
    """tanh with the sigmoid's derivative: what lies below it is wrong at every step, what lies above is not."""
    monkeypatch.setitem(stack.BACKWARD, "tanh", stack.BACKWARD["sigmoid"])
    wrong = check(network(), defaults()["weights"], [1e-2, 1e-3, 1e-4], small).query("precision == 'float64'")
    below = wrong.weight.isin([name for name, w in defaults()["weights"].items() if w["layer"] == 0])
    assert (wrong[below].difference.abs() > 1e-3).all() and below.sum() == 12
    assert (wrong[~below].difference.abs() < 1e-5).all()
