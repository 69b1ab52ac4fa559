"""torch.optim's update rules for a stack: one call updates every run, each with its own learning rate and the rest.

Formulas and constants are those of torch.optim (2.9 to 2.14); tests hold each rule to it step by step.
A tensor has a leading run axis; a hyperparameter is a tensor [runs, 1, …] that broadcasts against it. All that changes
from step to step, the count of steps too, is on the device, so that a CUDA graph of a step can be replayed.
"""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from fmnist.config import RunConfig
from fmnist.model import wide

LARGE = 1 << 15  # elements of one run above which the CPU takes run by run, so that a rule's passes stay in cache


def constants(config: RunConfig) -> tuple:
    """The values of CONSTANTS: neighbours in a stack that have them in common can be updated by one call."""
    return tuple(getattr(config, name) for name in CONSTANTS)


class Rule:
    """The update of one parameter of neighbouring runs, in place; each rule says its `direction`, without the rate."""

    state_names: tuple[str, ...] = ()

    def __init__(self, parameter: Tensor, configs: Sequence[RunConfig]):
        def spread(values: list[float]) -> Tensor:
            column = torch.tensor(values, dtype=parameter.dtype, device=parameter.device)
            return column.view(-1, *[1] * (parameter.dim() - 1))

        self.parameter, self.configs = parameter, configs
        self.lr = spread([c.lr for c in configs])
        self.momentum = spread([c.momentum for c in configs]) if any(c.momentum for c in configs) else None
        self.weight_decay = spread([c.weight_decay for c in configs]) if any(c.weight_decay for c in configs) else None
        self.nesterov = spread([float(c.nesterov) for c in configs]) if any(c.nesterov for c in configs) else None
        self.state = [torch.zeros_like(parameter) for _ in self.state_names]
        self.momentum_buffer = torch.zeros_like(parameter) if self.momentum is not None else None

    def step(self, gradient: Tensor, correction: "Correction") -> None:
        if self.weight_decay is not None:
            gradient = self.decay(gradient)
        self.parameter.addcmul_(self.direction(gradient, correction), self.lr, value=-1)

    def decay(self, gradient: Tensor) -> Tensor:
        return torch.addcmul(gradient, self.parameter, self.weight_decay)

    def accelerate(self, gradient: Tensor) -> Tensor:
        """Heavy-ball momentum b ← μ·b + g, as torch.optim.SGD and RMSprop keep it."""
        buffer = self.momentum_buffer
        return gradient if buffer is None else buffer.mul_(self.momentum).add_(gradient)


class SGD(Rule):
    def direction(self, gradient: Tensor, _: "Correction") -> Tensor:
        buffer = self.accelerate(gradient)
        if self.nesterov is None:
            return buffer
        ahead = torch.addcmul(gradient, buffer, self.momentum)
        return torch.lerp(buffer, ahead, self.nesterov.expand_as(buffer))  # 0 or 1: each run its own


class RMSprop(Rule):
    state_names, alpha, eps = ("square_avg",), 0.99, 1e-8

    def direction(self, gradient: Tensor, _: "Correction") -> Tensor:
        (square_avg,) = self.state
        square_avg.mul_(self.alpha).addcmul_(gradient, gradient, value=1 - self.alpha)
        return self.accelerate(gradient / square_avg.sqrt().add_(self.eps))


class Adadelta(Rule):
    state_names, rho, eps = ("square_avg", "acc_delta"), 0.9, 1e-6

    def direction(self, gradient: Tensor, _: "Correction") -> Tensor:
        square_avg, acc_delta = self.state
        square_avg.mul_(self.rho).addcmul_(gradient, gradient, value=1 - self.rho)
        change = acc_delta.add(self.eps).div_(square_avg.add(self.eps)).sqrt_().mul_(gradient)
        acc_delta.mul_(self.rho).addcmul_(change, change, value=1 - self.rho)
        return change


class Adam(Rule):
    state_names, eps = ("exp_avg", "exp_avg_sq"), 1e-8
    fused = torch._fused_adam_  # what torch.optim.Adam(fused=True) calls: one pass instead of eight

    def step(self, gradient: Tensor, correction: "Correction") -> None:
        if len(self.configs) > 1 or self.parameter.device.type != "cpu":
            return super().step(gradient, correction)
        config, (exp_avg, exp_avg_sq) = self.configs[0], self.state
        constants = {"beta1": BETA1, "beta2": BETA2, "eps": self.eps, "weight_decay": config.weight_decay}
        which = {"lr": config.lr, "amsgrad": False, "maximize": False}
        kept = [exp_avg], [exp_avg_sq], [], [correction.steps]
        return type(self).fused([self.parameter], [gradient], *kept, **constants, **which)

    def direction(self, gradient: Tensor, correction: "Correction") -> Tensor:
        exp_avg, exp_avg_sq = self.state
        exp_avg.lerp_(gradient, 1 - BETA1)
        exp_avg_sq.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        spread = exp_avg_sq.sqrt().mul_(correction.second).add_(self.eps)
        return spread.reciprocal_().mul_(exp_avg).mul_(correction.first)


class AdamW(Adam):
    fused = torch._fused_adamw_

    def decay(self, gradient: Tensor) -> Tensor:
        self.parameter.mul_(1 - self.lr * self.weight_decay)
        return gradient


RULES = {"SGD": SGD, "Adam": Adam, "AdamW": AdamW, "RMSprop": RMSprop, "Adadelta": Adadelta}
BETA1, BETA2 = 0.9, 0.999
CONSTANTS = ("lr", "momentum", "nesterov", "weight_decay")  # of SGD


class Correction:
    """Adam's correction of its averages' start at zero, after so many `steps`: tensors of no dimension."""

    def __init__(self, parameter: Tensor):
        self.steps = torch.zeros((), dtype=torch.float32, device=parameter.device)  # float32: as torch.optim counts
        self.betas = torch.tensor([BETA1, BETA2], dtype=wide(parameter.device), device=parameter.device)
        self.powers = torch.ones_like(self.betas)

    def step(self) -> None:
        self.steps += 1
        self.powers *= self.betas
        first, second = (1 - self.powers).reciprocal_()
        self.first, self.second = first, second.sqrt()


class Fused:
    """SGD with momentum for neighbouring runs whose constants are the same: one call of PyTorch's fused SGD for all."""

    def __init__(self, parameters: Sequence[Tensor], part: slice, config: RunConfig):
        self.part = None if part == slice(0, len(parameters[0])) else part
        self.parameters = [parameter[part] for parameter in parameters]
        self.buffers = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.constants = dict(zip(CONSTANTS, constants(config), strict=True))
        self.constants |= {"dampening": 0.0, "maximize": False, "is_first_step": False}

    def step(self, gradients: Sequence[Tensor]) -> None:
        own = list(gradients) if self.part is None else [gradient[self.part] for gradient in gradients]
        torch._fused_sgd_(self.parameters, own, self.buffers, **self.constants)


class Optimizer:
    """All rules of a stack: per parameter one for each block of neighbouring runs with the same optimizer."""

    def __init__(self, parameters: Sequence[Tensor], configs: Sequence[RunConfig]):
        self.dtype = parameters[0].dtype
        self.gradients: list[Tensor] = []  # in the parameters' type, where they come in another one
        heavy = all(config.optimizer == "SGD" and config.momentum > 0 for config in configs)
        fused = heavy and parameters[0].device.type == "cpu"
        self.fused = self._fused(parameters, configs) if fused else []
        self.rules = [] if fused else [self._blocks(parameter, configs) for parameter in parameters]
        adaptive = any(config.optimizer.startswith("Adam") for config in configs)
        self.correction = Correction(parameters[0]) if adaptive else None

    @staticmethod
    def _fused(parameters: Sequence[Tensor], configs: Sequence[RunConfig]) -> list[Fused]:
        alike = groupby(range(len(configs)), key=lambda run: constants(configs[run]))
        runs = [list(members) for _, members in alike]
        return [Fused(parameters, slice(some[0], some[-1] + 1), configs[some[0]]) for some in runs]

    @staticmethod
    def _blocks(parameter: Tensor, configs: Sequence[RunConfig]) -> list[tuple[slice, Rule]]:
        large = parameter.device.type == "cpu" and parameter[0].numel() > LARGE

        def alone(config: RunConfig) -> bool:  # plain SGD is a single pass anyway
            return large and (config.optimizer != "SGD" or config.momentum > 0 or config.weight_decay > 0)

        numbered = groupby(
            enumerate(configs), key=lambda item: (item[1].optimizer, item[0] if alone(item[1]) else None)
        )
        blocks = []
        for (name, _), members in numbered:
            runs = [run for run, _ in members]
            part = slice(runs[0], runs[-1] + 1)
            blocks.append((part, RULES[name](parameter[part], configs[part])))
        return blocks

    def step(self, gradients: Sequence[Tensor]) -> None:
        """One update; `gradients` in the order of the parameters, of their shapes, in any floating type."""
        if self.correction is not None:
            self.correction.step()
        if gradients[0].dtype != self.dtype:
            self.gradients = self.gradients or [torch.empty_like(g, dtype=self.dtype) for g in gradients]
            torch._foreach_copy_(self.gradients, list(gradients))
            gradients = self.gradients
        for block in self.fused:
            block.step(gradients)
        for gradient, blocks in zip(gradients, self.rules, strict=False):  # no rules where all is fused
            for part, rule in blocks:
                rule.step(gradient[part] if len(blocks) > 1 else gradient, self.correction)
