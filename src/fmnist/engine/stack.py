"""A stack: runs trained together as one batched network, with forward and backward pass written out.

Everything is laid out features first: weights [runs, out, in], activations [runs, width, batch], logits
[runs, classes, batch]. So nothing is ever transposed in memory, and the first layer is one product for all runs of a
*group*, [runs · width, 784] · [784, batch]: neighbours that have seed and scaling in common. Where groups would not be
equally large, every run is one.
"""

import functools
import platform
from collections import namedtuple
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from fmnist.config import RunConfig
from fmnist.model import LEAKY_SLOPE, MLP, PARAMETER_DTYPE, adds_input, dropout_mask

BN_MOMENTUM, NORM_EPS = 0.1, 1e-5  # torch.nn.BatchNorm1d's and LayerNorm's defaults
NORM = ("weight", "bias", "running_mean", "running_var")
LARGE = 1 << 20  # multiply-adds of a product that is worth a call of its own
# What backward needs of a hidden layer: activations before dropout, dropout's mask and what the next layer sees, each
# [runs, width, batch], and what undoes its norm.
Layer = namedtuple("Layer", "activated mask undo out")
aten = torch.ops.aten
PASSES = {  # forward in place; backward from the activation's own output: one that needs its input does not fit here
    "relu": (torch.relu_, lambda gradient, a: aten.threshold_backward(gradient, a, 0)),
    "leaky_relu": (
        lambda z: aten.leaky_relu_(z, LEAKY_SLOPE),
        lambda gradient, a: aten.leaky_relu_backward(gradient, a, LEAKY_SLOPE, True),
    ),
    "tanh": (torch.tanh_, aten.tanh_backward),
    "sigmoid": (torch.sigmoid_, aten.sigmoid_backward),
}


@functools.cache
def made_by_amd() -> bool:
    about = Path("/proc/cpuinfo")
    return "AuthenticAMD" in (about.read_text() if about.exists() else platform.processor())


@functools.cache
def has_bfloat16() -> bool:
    """Whether bfloat16's products are faster here than float32's of rounded numbers: not on Intel's without AMX."""
    if not torch.backends.mkldnn.is_available():
        return False
    if platform.machine() in ("x86_64", "AMD64"):
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported() and made_by_amd()
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


@functools.cache
def onednn_leads() -> bool:
    """Whether oneDNN's float32 products are far faster than MKL's: on AMD's with AVX-512; on Zen 3 a tenth slower."""
    return made_by_amd() and torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_supported()


def round_bfloat16(x: Tensor, out: Tensor) -> Tensor:
    """Float32 to the nearest number of bfloat16, the upper half of its bits; a tie, one in 65,536, away from zero."""
    torch.add(x.view(torch.int32), 1 << 15, out=out.view(torch.int32)).bitwise_and_(-1 << 16)
    return out


def matmul(a: Tensor, b: Tensor, bias: Tensor | None = None, large: int = 8 * LARGE) -> Tensor:
    """a · b + bias run by run, or group by group, [runs, m, k] · [runs, k, n]. On the CPU, products in float32 of more
    than `large` multiply-adds are oneDNN's, where that leads; in bfloat16 torch.bmm is that already, all in one call.
    """
    if a.shape[2] == 1 and bias is None:  # a batch of one image: the libraries' products take ten times as long
        return a * b
    on_cpu = a.device.type == "cpu" and a.dtype == torch.float32
    if on_cpu and a[0].numel() * b.shape[2] > large and onednn_leads():
        linear = torch.ops.mkldnn._linear_pointwise  # a · bᵀ of two matrices; views that are strided cost nothing
        parts = [linear(*pair, None, "none", [], "") for pair in zip(a, b.mT, strict=True)]
        c = torch.stack(parts) if len(parts) > 1 else parts[0][None]
        return c if bias is None else c.add_(bias)
    if b.shape[2] == 1 and bias is None:  # a vector: faster from the left, as backward's weights lie transposed
        return torch.bmm(b.mT, a.mT).mT
    return torch.bmm(a, b) if bias is None else torch.baddbmm(bias, a, b)


class Stack:
    """Networks of one architecture, initialized as `MLP(config)` each; `parameters` lists weight, bias and, with batch
    or layer norm, scale and shift, layer by layer, each [runs, …].
    """

    def __init__(self, configs: Sequence[RunConfig], device: torch.device | str = "cpu"):
        first, states = configs[0], [MLP(config).state_dict() for config in configs]
        sizes = [len(list(members)) for _, members in groupby(configs, key=lambda c: (c.seed, c.input_scaling))]
        self.configs, together = list(configs), sizes[0] if len({*sizes}) == 1 else 1
        self.groups = self.configs[::together]  # the first run of each
        self.depth, self.adds = len(first.hidden_sizes), adds_input(first)
        self.norm = self._batch_norm if first.batch_norm else self._layer_norm if first.layer_norm else None
        self.dtype = PARAMETER_DTYPE[first.precision]
        lacks_bfloat16 = torch.device(device).type == "cpu" and not has_bfloat16()
        self.stands_in = first.precision == "bfloat16" and lacks_bfloat16
        self.compute_dtype = self.dtype if self.stands_in else getattr(torch, first.precision)
        self.activate, self.activate_backward = PASSES[first.activation]
        self.state = {
            name: torch.stack([state[name] for state in states]).to(device)
            for name in states[0]
            if not name.endswith("num_batches_tracked")
        }
        layers, kinds = range(self.depth + 1), ("weight", "bias")
        names = [f"{part}.{layer}.{kind}" for layer in layers for part in ("linears", "norms") for kind in kinds]
        self.parameters = [self.state[name] for name in names if name in self.state]
        self.exact = [self.state[f"linears.{layer}.{kind}"] for kind in kinds for layer in layers]
        self.rounded = self.exact  # what the products take
        if first.precision == "bfloat16":  # each forward brings it up to date
            self.rounded = [torch.empty_like(tensor, dtype=self.compute_dtype) for tensor in self.exact]
        self.weights = self.rounded[: self.depth + 1]
        self.columns = [bias[:, :, None] for bias in self.rounded[self.depth + 1 :]]
        drops = [config.dropout for config in configs]
        self.dropout = torch.tensor(drops, dtype=self.dtype, device=device) if any(drops) else None

    def weight_norm(self) -> Tensor:
        """Euclidean norm of all weights of all linear layers together, biases left out, [runs]."""
        weights = self.exact[: self.depth + 1]
        return torch.stack([torch.linalg.vector_norm(each.flatten(1), dim=1) for each in weights], 1).norm(dim=1)

    def cast(self, x: Tensor) -> Tensor:
        """`x`, which nobody else needs, as the products take it: in their type, or rounded in place."""
        return round_bfloat16(x, x) if self.stands_in else x.to(self.compute_dtype)

    def forward(self, x: Tensor, keys: Sequence[Tensor] | None = None, training: bool = False) -> Tensor:
        """Logits [runs, classes, batch] of x [groups, batch, 784], or of one group where all runs see the same inputs;
        `keys` [hidden layers][runs] draw dropout's masks.
        """
        self.tape = []
        if self.stands_in:
            for exact, rounded in zip(self.exact, self.rounded, strict=True):
                round_bfloat16(exact, rounded)
        elif self.rounded is not self.exact:
            torch._foreach_copy_(self.rounded, self.exact)
        runs, width, inputs = self.weights[0].shape
        a = matmul(self.weights[0].view(len(x), -1, inputs), x.mT, large=LARGE)
        a = a.view(runs, width, -1).add_(self.columns[0])
        h = x
        for layer in range(self.depth):
            undo = mask = None
            if self.norm:
                a, undo = self.norm(layer, a, training)
            a = self.activate(a)
            if training and self.dropout is not None:
                mask = dropout_mask(keys[layer], self.dropout, *a.shape[1:], dtype=a.dtype)
            if self.adds[layer]:
                h = self.cast(h + a if mask is None else torch.addcmul(h, a, mask))
            else:
                h = self.cast(a if mask is None else a * mask)
            if training:
                self.tape.append(Layer(a, mask, undo, h))
            a = matmul(self.weights[layer + 1], h, self.columns[layer + 1])
        return a.to(self.dtype)

    def _batch_norm(self, layer: int, z: Tensor, training: bool) -> tuple[Tensor, Callable]:
        """torch.nn.BatchNorm1d of z [runs, width, batch]; and from the gradient by it those by z, scale and shift."""
        flat = z.view(1, -1, z.shape[2])  # what it reads and writes may be bfloat16, what it adds up is float32
        scale, shift, mean, var = (self.state[f"norms.{layer}.{kind}"].view(-1) for kind in NORM)
        y, *saved = aten.native_batch_norm(flat, scale, shift, mean, var, training, BN_MOMENTUM, NORM_EPS)

        def undo(dy: Tensor) -> tuple[Tensor, ...]:
            known = flat, scale, mean, var, *saved, True, NORM_EPS, [True] * 3
            dz, *own = aten.native_batch_norm_backward(dy.view(flat.shape), *known)
            return dz.view(dy.shape), *(each.view(len(dy), -1) for each in own)

        return y.view(z.shape), undo

    def _layer_norm(self, layer: int, z: Tensor, _: bool) -> tuple[Tensor, Callable]:
        """torch.nn.LayerNorm over the width of z [runs, width, batch]; else as `_batch_norm`."""
        var, mean = torch.var_mean(z.to(self.dtype), 1, correction=0, keepdim=True)
        rstd = (var + NORM_EPS).rsqrt_()
        scale, shift = (self.state[f"norms.{layer}.{kind}"][:, :, None] for kind in NORM[:2])
        normal = (z - mean).mul_(rstd)

        def undo(dy: Tensor) -> tuple[Tensor, ...]:
            wide_dy = dy.to(self.dtype)
            dnormal, along = wide_dy * scale, wide_dy * normal
            dz = dnormal - dnormal.mean(1, keepdim=True) - normal * (dnormal * normal).mean(1, keepdim=True)
            return dz.mul_(rstd).to(dy.dtype), along.sum(2), wide_dy.sum(2)

        return torch.addcmul(shift, normal, scale).to(z.dtype), undo

    def backward(self, x: Tensor, dlogits: Tensor) -> list[Tensor]:
        """Gradients of the parameters, in the products' type, after a training `forward`; dlogits as the logits."""
        dz, gradients, beside = self.cast(dlogits), [], None
        for layer in reversed(range(self.depth)):
            tape = self.tape[layer]
            gradients = [matmul(dz, tape.out.mT), dz.sum(2), *gradients]
            dh = matmul(self.weights[layer + 1].mT, dz)
            if beside is not None:
                dh += beside
            beside = dh if self.adds[layer] else None  # the gradient that passes the layer by
            if tape.mask is not None:
                dh = dh.mul_(tape.mask) if beside is None else dh * tape.mask
            dz = self.activate_backward(dh, tape.activated)
            if tape.undo:
                dz, *norm_gradients = tape.undo(dz)
                gradients = [*norm_gradients, *gradients]
            dz = self.cast(dz)
        first = matmul(dz.view(len(x), -1, dz.shape[2]), x, large=LARGE).view(self.weights[0].shape)
        return [first, dz.sum(2), *gradients]


def cross_entropy(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sum of the loss in nats [runs] and predicted classes [runs, images] of logits [runs, classes, images]; `targets`,
    probabilities of the logits' shape, take the place of the labels [runs, images].
    """
    log_p = logits.log_softmax(1)
    at_label = log_p.gather(1, labels[:, None]) if targets is None else log_p * targets
    return -at_label.sum((1, 2)), logits.max(1).indices


def cross_entropy_gradient(logits: Tensor, labels: Tensor, scale: Tensor, targets: Tensor | None = None) -> Tensor:
    """d(scale · sum of the loss)/d(logits) = scale · (softmax − target), [runs, classes, batch]; scale [runs, 1, 1]"""
    if targets is not None:
        return logits.softmax(1).sub_(targets).mul_(scale)
    at_label = labels[:, None]
    return logits.softmax(1).mul_(scale).scatter_add_(1, at_label, (-scale).expand(at_label.shape))
