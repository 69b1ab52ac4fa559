"""torch.optim's update rules for a stack: one call updates every run, each with its own learning rate and the rest.

Formulas and constants are those of torch.optim (2.9 to 2.14). A tensor has a leading run axis; a hyperparameter is a
tensor [runs, 1, …] that broadcasts against it. All that changes from step to step is on the device, for CUDA graphs.
"""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from fmnist.config import RunConfig
from fmnist.model import wide

PACE = ("lr", "momentum", "nesterov", "weight_decay", "schedule", "warmup_epochs")
LARGE = 1 << 15  # elements of one run above which the CPU takes run by run, so that a rule's passes stay in cache


def pace(config: RunConfig) -> tuple | None:
    """What is equal in runs that one fused kernel of torch.optim updates; None without one, as for plain SGD."""
    if config.optimizer.startswith("Adam") or config.optimizer == "SGD" and config.momentum:
        return tuple(getattr(config, name) for name in PACE)
    return None


def scheduled(config: RunConfig) -> bool:
    return config.schedule != "constant" or config.warmup_epochs > 0


class Rule:
    """The update of one parameter of neighbouring runs, in place; each rule says its `direction`, without the rate."""

    state_names: tuple[str, ...] = ()

    def __init__(self, parameter: Tensor, configs: Sequence[RunConfig]):
        def spread(name: str) -> Tensor | None:
            values = [float(getattr(config, name)) for config in configs]
            column = torch.tensor(values, dtype=parameter.dtype, device=parameter.device)
            return column.view(-1, *[1] * (parameter.dim() - 1)) if any(values) else None

        self.lr, self.momentum = spread("lr"), spread("momentum")
        self.weight_decay, self.nesterov = spread("weight_decay"), spread("nesterov")
        self.parameter, self.config = parameter, configs[0]
        same, *others = set(map(pace, configs))
        self.fused = bool(same and not others) and parameter.device.type == "cpu"  # kernels take one value of each
        self.scheduled = any(map(scheduled, configs))  # then `lr` is written anew for each step
        self.state = [torch.zeros_like(parameter) for _ in self.state_names]
        self.momentum_buffer = torch.zeros_like(parameter) if self.momentum is not None else None

    def step(self, gradient: Tensor, correction: "Correction") -> None:
        if self.fused:
            lr = self.lr.view(-1)[0].item() if self.scheduled else self.config.lr
            return self.fuse(gradient, correction, lr=lr, weight_decay=self.config.weight_decay, maximize=False)
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
    def fuse(self, gradient: Tensor, _: "Correction", **numbers: float) -> None:
        numbers |= {"momentum": self.config.momentum, "nesterov": self.config.nesterov, "dampening": 0.0}
        torch._fused_sgd_([self.parameter], [gradient], [self.momentum_buffer], **numbers, is_first_step=False)

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
    kernel = torch._fused_adam_  # one pass instead of eight

    def fuse(self, gradient: Tensor, correction: "Correction", **numbers: float) -> None:
        numbers |= {"beta1": BETA1, "beta2": BETA2, "eps": self.eps, "amsgrad": False}
        kept = [[tensor] for tensor in (self.parameter, gradient, *self.state)]
        type(self).kernel(*kept, [], [correction.steps], **numbers)

    def direction(self, gradient: Tensor, correction: "Correction") -> Tensor:
        exp_avg, exp_avg_sq = self.state
        exp_avg.lerp_(gradient, 1 - BETA1)
        exp_avg_sq.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        spread = exp_avg_sq.sqrt().mul_(correction.second).add_(self.eps)
        return spread.reciprocal_().mul_(exp_avg).mul_(correction.first)


class AdamW(Adam):
    kernel = torch._fused_adamw_

    def decay(self, gradient: Tensor) -> Tensor:
        self.parameter.mul_(1 - self.lr * self.weight_decay)
        return gradient


RULES = {"SGD": SGD, "Adam": Adam, "AdamW": AdamW, "RMSprop": RMSprop, "Adadelta": Adadelta}
BETA1, BETA2 = 0.9, 0.999


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


class Optimizer:
    """All rules of a stack: per parameter one for each block of neighbouring runs with the same optimizer."""

    def __init__(self, parameters: Sequence[Tensor], configs: Sequence[RunConfig]):
        self.dtype = parameters[0].dtype
        self.rules = [blocks(parameter, configs) for parameter in parameters]
        adaptive = any(config.optimizer.startswith("Adam") for config in configs)
        self.correction = Correction(parameters[0]) if adaptive else None

    def step(self, gradients: Sequence[Tensor], rates: Tensor | None = None) -> None:
        """One update; `gradients` as the parameters, in any floating type; `rates` [runs] of runs with a schedule."""
        if self.correction is not None:
            self.correction.step()
        gradients = [gradient.to(self.dtype) for gradient in gradients]  # themselves, where they have it
        for gradient, rules in zip(gradients, self.rules, strict=True):
            for part, rule in rules:
                if rates is not None:
                    rule.lr.copy_(rates[part].view_as(rule.lr))
                rule.step(gradient[part] if len(rules) > 1 else gradient, self.correction)


def blocks(parameter: Tensor, configs: Sequence[RunConfig]) -> list[tuple[slice, Rule]]:
    """Neighbours of one optimizer and their rule; on the CPU a large parameter's where one kernel does."""
    large = parameter.device.type == "cpu" and parameter[0].numel() > LARGE

    def block(run: int) -> tuple[str, object]:
        config = configs[run]
        if not large or config.optimizer == "SGD" and not (config.momentum or config.weight_decay):
            return config.optimizer, None  # plain SGD is a single pass anyway
        return config.optimizer, pace(config) or run

    found = []
    for (name, _), members in groupby(range(len(configs)), key=block):
        first, *more = members
        part = slice(first, first + 1 + len(more))
        found.append((part, RULES[name](parameter[part], configs[part])))
    return found


class Average:
    """The moving average of tensors, e ← d·e + (1 − d)·w after each step, from e = w before the first, as
    torch.optim.swa_utils.AveragedModel with get_ema_multi_avg_fn(d) and use_buffers, of running statistics, too.
    """

    def __init__(self, tensors: Sequence[Tensor], decay: float):
        self.tensors, self.decay = list(tensors), decay
        self.averages = [tensor.clone() for tensor in tensors]

    def step(self) -> None:
        torch._foreach_lerp_(self.averages, self.tensors, 1 - self.decay)

    def swap(self) -> None:
        """The averages where the tensors were, and these aside; once more, and all is as it was."""
        before = [tensor.clone() for tensor in self.tensors]
        torch._foreach_copy_(self.tensors, self.averages)
        torch._foreach_copy_(self.averages, before)
