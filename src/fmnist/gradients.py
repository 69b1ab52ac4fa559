"""Is the backward pass right? Its gradient beside a numerical one, weight by weight.

The numerical derivative of the loss E at a weight w is the central difference (E(w + ε) − E(w − ε)) / 2ε. By Taylor's
theorem it errs by E'''(ξ) ε²/6 for some ξ within ε of w: *truncation*. And as E is known to a relative u (2⁻⁵³ in
float64, 2⁻²⁴ in float32) only, it errs by about u E / ε: *rounding*. The one falls with ε, the other rises as ε falls.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from scipy.optimize import curve_fit
from torch import Tensor

from fmnist.config import OUTPUTS, RunConfig, Strict, UserError, layer_sizes, validate
from fmnist.data import Data, scaling, split
from fmnist.engine.stack import Stack, cross_entropy_gradient

PRECISIONS = ("float64", "float32")
LOGISTIC_CURVATURE, LOGISTIC_THIRD = 1 / 4, 3**0.5 / 18  # greatest p (1 − p), and greatest |p (1 − p) (1 − 2p)|


class Weight(Strict):
    """One number of the network; neurons and layers count from 0, and a negative layer from the end."""

    layer: int
    index: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=2)]  # [from, to]; bias: [of]

    def place(self, config: RunConfig, where: str) -> tuple[int, tuple[int, ...]]:
        """Position in `Stack.parameters` and in that tensor; `UserError` if the network has no such weight."""
        sizes = layer_sizes(config.hidden_sizes)
        if not -len(sizes) <= self.layer < len(sizes):
            raise UserError(f"{where}: layer: should be {-len(sizes)} to {len(sizes) - 1} (got {self.layer})")
        shape = sizes[self.layer][-len(self.index) :]  # (in, out), or (out,) of a bias
        if any(i >= n for i, n in zip(self.index, shape, strict=True)):
            raise UserError(f"{where}: index: {self.index} lies outside the layer's {' × '.join(map(str, shape))}")
        return 2 * (self.layer % len(sizes)) + (len(self.index) == 1), tuple(reversed(self.index))


def first_of_each_class(config: RunConfig, data: Data) -> tuple[Tensor, Tensor]:
    """The train split's first image of every class, scaled, float64 [1, classes, 784], and the labels [classes]."""
    train, _ = split(len(data.train_labels), config.val_size, config.seed)
    labels = torch.arange(OUTPUTS)
    rows = torch.stack([train[data.train_labels[train] == label][0] for label in labels])
    scale, shift = scaling(data.train_images, train, config.input_scaling)
    return (data.train_images[rows].double() * scale + shift)[None], labels


@torch.inference_mode()
def check(config: RunConfig, weights: Mapping[str, Mapping], eps: Sequence[float], data: Data) -> pd.DataFrame:
    """The untrained network's gradient both ways, in both precisions, at each of `weights` (name → `Weight`).

    E is `loss_scale` times the cross entropy of one image; derivatives are summed over the first image of every class.
    One row per precision, weight and eps: precision, weight, eps, backprop (by `Stack.backward`), numerical (central
    difference), one_sided (E(w + ε) − E(w)) / ε, difference (backprop − numerical).
    Raises `UserError` for a weight that the network does not have.
    """
    if config.batch_norm or config.dropout:
        raise UserError("gradient check: for networks without batch norm and dropout; leave both out")
    places = [
        validate(Weight, dict(given), f"weights: {name}").place(config, f"weights: {name}")
        for name, given in weights.items()
    ]
    rows = []
    for precision in PRECISIONS:
        one = config.model_copy(update={"precision": precision})
        stack = Stack([one] * (2 * len(places) + 1))  # for each weight one network with w + ε and one with w − ε
        images, labels = first_of_each_class(one, data)
        images, labels = images.to(stack.dtype), labels.expand(len(stack.configs), -1)
        gradients = _backpropagated(stack, images, labels)
        exact = [float(gradients[parameter][-1][index]) for parameter, index in places]
        for step in eps:
            loss = _moved(stack, places, step, images, labels)  # [runs, images]
            plus, minus, center = loss[:-1:2], loss[1:-1:2], loss[-1]
            central, one_sided = ((plus - minus) / (2 * step)).sum(1), ((plus - center) / step).sum(1)
            found = zip(weights, exact, central.tolist(), one_sided.tolist(), strict=True)
            rows += [(precision, name, step, back, c, o, back - c) for name, back, c, o in found]
    return pd.DataFrame(
        rows, columns=["precision", "weight", "eps", "backprop", "numerical", "one_sided", "difference"]
    )


def _losses(stack: Stack, images: Tensor, labels: Tensor) -> Tensor:
    """The scaled loss of every image, [runs, images]."""
    log_p = stack.forward(images).log_softmax(1)
    return -stack.configs[0].loss_scale * log_p.gather(1, labels[:, None])[:, 0]


def _backpropagated(stack: Stack, images: Tensor, labels: Tensor) -> list[Tensor]:
    """Gradients of the sum of `_losses` over the images, as `Stack.backward` orders them."""
    logits = stack.forward(images, training=True)
    scale = logits.new_full((len(logits), 1, 1), stack.configs[0].loss_scale)
    return stack.backward(images, cross_entropy_gradient(logits, labels, scale))


def _moved(stack: Stack, places: Sequence[tuple], step: float, images: Tensor, labels: Tensor) -> Tensor:
    """`_losses` with weight k of `places` moved by + step in run 2k and by − step in run 2k + 1, then moved back."""
    for k, (parameter, index) in enumerate(places):
        tensor = stack.parameters[parameter]
        tensor[(2 * k, *index)] += step
        tensor[(2 * k + 1, *index)] -= step
    loss = _losses(stack, images, labels)
    for k, (parameter, index) in enumerate(places):
        tensor = stack.parameters[parameter]
        tensor[(slice(2 * k, 2 * k + 2), *index)] = tensor[(-1, *index)]
    return loss


def beside(checked: pd.DataFrame, others: pd.DataFrame, eps: float, published: Mapping[str, float]) -> pd.DataFrame:
    """Backpropagated minus numerical gradient at `eps` in float64, a row per weight, beside what was published.

    `others` are checks of networks with other weights, for the largest absolute difference among them.
    """
    at = checked[(checked["eps"] == eps) & (checked["precision"] == "float64")]
    more = others[others["precision"] == "float64"].assign(size=lambda frame: frame["difference"].abs())
    networks = len(more) // len(at)
    return pd.DataFrame(
        {
            "Weight": at["weight"],
            "Published": at["weight"].map(published),
            "Ours, central": at["difference"],
            "Ours, one-sided": at["backprop"] - at["one_sided"],
            "Gradient": at["backprop"],
            f"Largest of {networks}, central": at["weight"].map(more.groupby("weight")["size"].max()),
        }
    ).reset_index(drop=True)


def crossings(checked: pd.DataFrame) -> pd.DataFrame:
    """Where truncation ends and rounding takes over: one row per precision of `check`.

    The root mean square of the differences over the weights is fitted, in logarithms, by C ε² + R / ε. Columns:
    precision, truncation (C), rounding (R), eps (∛(R/C), where the two are equal), order (slope of the logarithm of the
    differences between ten times that ε and the largest one: 2 where the gradient is right; NaN for under two points).
    """
    rows = []
    for precision, part in checked.groupby("precision", sort=False):
        error = part.groupby("eps")["difference"].apply(lambda d: float(np.sqrt(np.mean(d**2))))
        x, y = np.log(error.index.to_numpy()), np.log(error.to_numpy())
        start = (y[-1] - 2 * x[-1], y[0] + x[0])
        (c, r), _ = curve_fit(lambda x, c, r: np.logaddexp(c + 2 * x, r - x), x, y, start)
        cross = (r - c) / 3
        upper = x > cross + np.log(10)
        order = np.polyfit(x[upper], y[upper], 1)[0] if upper.sum() > 1 else np.nan
        rows.append((precision, np.exp(c), np.exp(r), np.exp(cross), order))
    return pd.DataFrame(rows, columns=["precision", "truncation", "rounding", "eps", "order"])


def bias_limits(eps: float, images: int, loss_scale: float) -> tuple[float, float]:
    """How far at most numerical derivatives by an *output bias* can be from right ones: central, one-sided.

    By one of the ten logits, the derivatives of cross entropy are p − y, p (1 − p) and p (1 − p) (1 − 2p), whatever the
    weights, so that Taylor's remainders are at most ε²/6 · √3/18 and ε/2 · 1/4 for each image.
    """
    return images * loss_scale * eps**2 / 6 * LOGISTIC_THIRD, images * loss_scale * eps / 2 * LOGISTIC_CURVATURE
