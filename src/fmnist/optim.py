"""torch.optim's update rules for a stack: one call updates every run, each with its own learning rate and the rest.

Formulas and constants are those of torch.optim (2.9 to 2.14); tests hold each rule to it step by step.
A tensor has a leading run axis; a hyperparameter is a tensor [runs, 1, …] that broadcasts against it.
"""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from fmnist.config import RunConfig

LARGE = 1 << 15  # elements of one run above which the CPU takes run by run, so that a rule's passes stay in cache


class Rule:
    """The update of one parameter of neighbouring runs, in place; each rule says its `direction`, without the rate."""

    state_names: tuple[str, ...] = ()

    def __init__(self, parameter: Tensor, configs: Sequence[RunConfig]):
        def spread(values: list[float]) -> Tensor:
            column = torch.tensor(values, dtype=parameter.dtype, device=parameter.device)
            return column.view(-1, *[1] * (parameter.dim() - 1))

        self.parameter, self.steps = parameter, 0
        self.lr = spread([c.lr for c in configs])
        self.momentum = spread([c.momentum for c in configs]) if any(c.momentum for c in configs) else None
        self.weight_decay = spread([c.weight_decay for c in configs]) if any(c.weight_decay for c in configs) else None
        self.nesterov = spread([float(c.nesterov) for c in configs]) if any(c.nesterov for c in configs) else None
        self.state = [torch.zeros_like(parameter) for _ in self.state_names]
        self.velocity = torch.zeros_like(parameter) if self.momentum is not None else None

    def step(self, gradient: Tensor) -> None:
        self.steps += 1
        if self.weight_decay is not None:
            gradient = self.decay(gradient)
        self.parameter.addcmul_(self.direction(gradient), self.lr, value=-1)

    def decay(self, gradient: Tensor) -> Tensor:
        return torch.addcmul(gradient, self.parameter, self.weight_decay)

    def accelerate(self, gradient: Tensor) -> Tensor:
        """Heavy-ball velocity v ← μ·v + g, as torch.optim.SGD and RMSprop keep it."""
        return gradient if self.velocity is None else self.velocity.mul_(self.momentum).add_(gradient)


class SGD(Rule):
    def direction(self, gradient: Tensor) -> Tensor:
        velocity = self.accelerate(gradient)
        if self.nesterov is None:
            return velocity
        ahead = torch.addcmul(gradient, velocity, self.momentum)
        return torch.lerp(velocity, ahead, self.nesterov.expand_as(velocity))  # 0 or 1: each run its own


class RMSprop(Rule):
    state_names, alpha, eps = ("square",), 0.99, 1e-8

    def direction(self, gradient: Tensor) -> Tensor:
        (square,) = self.state
        square.mul_(self.alpha).addcmul_(gradient, gradient, value=1 - self.alpha)
        return self.accelerate(gradient / square.sqrt().add_(self.eps))


class Adadelta(Rule):
    state_names, rho, eps = ("square", "delta"), 0.9, 1e-6

    def direction(self, gradient: Tensor) -> Tensor:
        square, delta = self.state
        square.mul_(self.rho).addcmul_(gradient, gradient, value=1 - self.rho)
        change = delta.add(self.eps).div_(square.add(self.eps)).sqrt_().mul_(gradient)
        delta.mul_(self.rho).addcmul_(change, change, value=1 - self.rho)
        return change


class Adam(Rule):
    state_names, beta1, beta2, eps = ("mean", "square"), 0.9, 0.999, 1e-8

    def direction(self, gradient: Tensor) -> Tensor:
        mean, square = self.state
        mean.lerp_(gradient, 1 - self.beta1)
        square.mul_(self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)
        spread = square.sqrt().div_((1 - self.beta2**self.steps) ** 0.5).add_(self.eps)
        return spread.reciprocal_().mul_(mean).div_(1 - self.beta1**self.steps)


class AdamW(Adam):
    def decay(self, gradient: Tensor) -> Tensor:
        self.parameter.mul_(1 - self.lr * self.weight_decay)
        return gradient


RULES = {"SGD": SGD, "Adam": Adam, "AdamW": AdamW, "RMSprop": RMSprop, "Adadelta": Adadelta}


class Optimizer:
    """All rules of a stack: per parameter one for each block of neighbouring runs with the same optimizer."""

    def __init__(self, parameters: Sequence[Tensor], configs: Sequence[RunConfig]):
        self.rules: list[list[tuple[slice, Rule]]] = [self._blocks(p, configs) for p in parameters]

    @staticmethod
    def _blocks(parameter: Tensor, configs: Sequence[RunConfig]) -> list[tuple[slice, Rule]]:
        alone = parameter.device.type == "cpu" and parameter[0].numel() > LARGE
        numbered = groupby(enumerate(configs), key=lambda item: (item[1].optimizer, item[0] if alone else None))
        blocks = []
        for (name, _), members in numbered:
            runs = [run for run, _ in members]
            part = slice(runs[0], runs[-1] + 1)
            blocks.append((part, RULES[name](parameter[part], configs[part])))
        return blocks

    def step(self, gradients: Sequence[Tensor]) -> None:
        """One update; `gradients` in the order of the parameters, of their shapes."""
        for blocks, gradient in zip(self.rules, gradients, strict=True):
            for part, rule in blocks:
                rule.step(gradient[part])
