"""A stack: runs trained together as one batched network, with forward and backward pass written out.

Weights are [runs, out, in]. Runs that see the same batch (equal seed) share one product in the first layer,
[batch, 784] · [784, runs · width]. Hidden activations are [runs, batch, width]; logits are [runs, classes, batch],
because softmax over ten classes is fast when the batch is the innermost axis.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fmnist.config import RunConfig
from fmnist.model import LEAKY_SLOPE, MLP, PARAMETER_DTYPE, dropout_mask

BN_MOMENTUM, BN_EPS = 0.1, 1e-5  # torch.nn.BatchNorm1d's defaults

aten = torch.ops.aten
# activation → its name and scalars as oneDNN's fused post-operation; forward; gradient from its own output
FUSED = {
    "relu": ("relu", []),
    "leaky_relu": ("leaky_relu", [LEAKY_SLOPE]),
    "tanh": ("tanh", []),
    "sigmoid": ("sigmoid", []),
}
FORWARD = {
    "none": lambda z: z,
    "relu": torch.relu_,
    "leaky_relu": lambda z: aten.leaky_relu_(z, LEAKY_SLOPE),
    "tanh": torch.tanh_,
    "sigmoid": torch.sigmoid_,
}
BACKWARD = {
    "relu": lambda gradient, a: aten.threshold_backward(gradient, a, 0),
    "leaky_relu": lambda gradient, a: aten.leaky_relu_backward(gradient, a, LEAKY_SLOPE, True),
    "tanh": aten.tanh_backward,
    "sigmoid": aten.sigmoid_backward,
}

Groups = Sequence[
    tuple[slice, Tensor]
]  # (neighbouring runs, the batch [batch, 784] that they share, in the type of the products)


def product(x: Tensor, w: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """activation(x · wᵀ + bias) of [batch, in] and [out, in]: by oneDNN on the CPU, twice MKL's rate on AMD."""
    if x.device.type == "cpu" and x.dtype != torch.float64 and torch.backends.mkldnn.is_available():
        name, scalars = FUSED.get(activation, ("none", []))
        return torch.ops.mkldnn._linear_pointwise(x, w, bias, name, scalars, "")
    return FORWARD[activation](torch.nn.functional.linear(x, w, bias))


def shared_linear(groups: Groups, w: Tensor, bias: Tensor, activation: str) -> Tensor:
    """First layer of all runs, one product per group → [runs, batch, out]."""

    def part(runs: slice, x: Tensor) -> Tensor:
        z = product(x, w[runs].flatten(0, 1), bias[runs].flatten(), activation)
        return z.unflatten(1, (-1, w.shape[1])).transpose(0, 1)

    return part(*groups[0]) if len(groups) == 1 else torch.cat([part(*group) for group in groups])


def shared_weight_gradient(groups: Groups, dz: Tensor) -> Tensor:
    """dz [runs, batch, out] with the groups' batches → [runs, out, 784]."""

    def part(runs: slice, x: Tensor) -> Tensor:
        flat = dz[runs].transpose(0, 1).flatten(1)  # [batch, runs · out]
        return product(flat.t(), x.t()).unflatten(0, (-1, dz.shape[2]))

    return part(*groups[0]) if len(groups) == 1 else torch.cat([part(*group) for group in groups])


def batched_linear(h: Tensor, w: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """activation(h · wᵀ + bias) run by run: [runs, batch, in], [runs, out, in] → [runs, batch, out]."""
    z = torch.bmm(h, w.mT) if bias is None else torch.baddbmm(bias[:, None], h, w.mT)
    return FORWARD[activation](z)


@dataclass
class Layer:
    """What the backward pass needs of one hidden layer."""

    activated: Tensor  # [runs, batch, width], before dropout
    mask: Tensor | None  # dropout's, of the same shape
    norm: tuple[Tensor, ...] | None  # batch norm's input [batch, runs · width], mean and 1/std
    out: Tensor  # [runs, batch, width], what the next layer sees


class Stack:
    """Networks of one architecture, `len(configs)` of them, initialized as `MLP(config)` each.

    `parameters` lists weight, bias and, with batch norm, scale and shift, layer by layer, each [runs, …].
    """

    def __init__(self, configs: Sequence[RunConfig], device: torch.device | str = "cpu"):
        first, models = configs[0], [MLP(config) for config in configs]
        self.configs, self.activation = list(configs), first.activation
        self.depth, self.batch_norm = len(first.hidden_sizes), first.batch_norm
        self.compute_dtype = getattr(torch, first.precision)
        self.state = {
            name: torch.stack([model.state_dict()[name] for model in models]).to(device)
            for name in models[0].state_dict()
            if not name.endswith("num_batches_tracked")
        }
        dtype = PARAMETER_DTYPE[first.precision]
        drops = [config.dropout for config in configs]
        self.dropout = torch.tensor(drops, dtype=dtype, device=device) if any(drops) else None
        self.parameters = [self.state[name] for name in self.parameter_names()]
        self.tape: list[Layer] = []

    def parameter_names(self) -> list[str]:
        names = []
        for layer in range(self.depth + 1):
            names += [f"linears.{layer}.weight", f"linears.{layer}.bias"]
            if self.batch_norm and layer < self.depth:
                names += [f"norms.{layer}.weight", f"norms.{layer}.bias"]
        return names

    def _linear(self, layer: int) -> tuple[Tensor, Tensor]:
        weight, bias = self.state[f"linears.{layer}.weight"], self.state[f"linears.{layer}.bias"]
        return weight.to(self.compute_dtype), bias.to(self.compute_dtype)

    def forward(self, groups: Groups, keys: Tensor | None = None, training: bool = False) -> Tensor:
        """Logits [runs, classes, batch] of the groups' batches; `keys` [hidden layers][runs] draw dropout's masks."""
        self.tape = []
        h = None
        fused = "none" if self.batch_norm else self.activation
        for layer in range(self.depth):
            w, b = self._linear(layer)
            a = shared_linear(groups, w, b, fused) if h is None else batched_linear(h, w, b, fused)
            norm = mask = None
            if self.batch_norm:
                a, norm = self._normalize(layer, a, training)
                a = FORWARD[self.activation](a)
            h = a
            if training and self.dropout is not None:
                mask = dropout_mask(keys[layer], self.dropout, *a.shape[1:]).to(a.dtype)
                h = a * mask
            if training:
                self.tape.append(Layer(a, mask, norm, h))
        w, b = self._linear(self.depth)
        if h is None:
            return shared_linear(groups, w, b, "none").mT.to(self.parameters[0].dtype)
        return torch.baddbmm(b[:, :, None], w, h.mT).to(self.parameters[0].dtype)

    def _normalize(self, layer: int, z: Tensor, training: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        runs, batch, width = z.shape
        flat = z.transpose(0, 1).reshape(batch, runs * width).to(self.parameters[0].dtype)
        scale, shift, mean, var = (self.state[f"norms.{layer}.{n}"].view(-1) for n in NORM)
        y, *saved = aten.native_batch_norm(flat, scale, shift, mean, var, training, BN_MOMENTUM, BN_EPS)
        return y.view(batch, runs, width).transpose(0, 1).to(z.dtype), (flat, *saved)

    def _normalize_backward(self, layer: int, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        runs, batch, width = dy.shape
        scale, _, mean, var = (self.state[f"norms.{layer}.{n}"].view(-1) for n in NORM)
        flat = dy.transpose(0, 1).reshape(batch, runs * width).to(scale.dtype)
        dz, dscale, dshift = aten.native_batch_norm_backward(
            flat, self.tape[layer].norm[0], scale, mean, var, *self.tape[layer].norm[1:], True, BN_EPS, [True] * 3
        )
        return dz.view(batch, runs, width).transpose(0, 1).to(dy.dtype), dscale.view(runs, -1), dshift.view(runs, -1)

    def backward(self, groups: Groups, dlogits: Tensor) -> list[Tensor]:
        """Gradients of the parameters, in their order, after a training `forward`; dlogits [runs, classes, batch]."""
        dlogits = dlogits.to(self.compute_dtype)
        if not self.depth:
            return self._in_parameter_type([shared_weight_gradient(groups, dlogits.mT), dlogits.sum(2)])
        gradients = [torch.bmm(dlogits, self.tape[-1].out), dlogits.sum(2)]
        dh = torch.bmm(dlogits.mT, self._linear(self.depth)[0])
        for layer in reversed(range(self.depth)):
            tape = self.tape[layer]
            dz = BACKWARD[self.activation](dh if tape.mask is None else dh * tape.mask, tape.activated)
            norm_gradients = []
            if self.batch_norm:
                dz, *norm_gradients = self._normalize_backward(layer, dz)
            if layer:
                weight_gradient = batched_linear(dz.mT, self.tape[layer - 1].out.mT)
                dh = batched_linear(dz, self._linear(layer)[0].mT)
            else:
                weight_gradient = shared_weight_gradient(groups, dz)
            gradients = [weight_gradient, dz.sum(1), *norm_gradients, *gradients]
        return self._in_parameter_type(gradients)

    def _in_parameter_type(self, gradients: list[Tensor]) -> list[Tensor]:
        return [gradient.to(self.parameters[0].dtype) for gradient in gradients]


NORM = ("weight", "bias", "running_mean", "running_var")


def cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and predictions: logits [runs, classes, batch], labels [runs, batch].

    Returns the sum of the loss over the batch [runs] in nats, the predicted classes [runs, batch], and the logarithms
    of the predicted probabilities [runs, classes, batch].
    """
    log_p = logits.log_softmax(1)
    return -log_p.gather(1, labels[:, None]).sum((1, 2)), logits.mT.contiguous().argmax(2), log_p


def cross_entropy_gradient(log_p: Tensor, labels: Tensor) -> Tensor:
    """d(sum of the loss)/d(logits) = softmax − one-hot, [runs, classes, batch]; takes the memory of `log_p`."""
    at_label = labels[:, None]
    return log_p.exp_().scatter_add_(1, at_label, -torch.ones_like(at_label, dtype=log_p.dtype))
