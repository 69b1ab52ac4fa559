"""SGD in batches of one image: the first layer's weights, most of the network, are updated once for many steps."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fmnist.config import RunConfig
from fmnist.engine.stack import Stack, product


class DelayedWeights:
    """The first weights W [runs, width, 784] of a stack, and their momentum V, a chunk of steps behind.

    A step with one image x adds a gradient of rank one, δxᵀ, to weights and momentum, which SGD changes linearly. After
    t steps they are W_t = a_t W + b_t V + Σ_i c_{t-1-i} δ_i x_iᵀ, with numbers a, b and c that follow from learning
    rate, momentum and weight decay. All that the network needs of W_t is its product with the next image, for which
    W x, V x and the inner products of the images are enough. The pass over all weights, which takes most of the time of
    such a step, is then made once for the chunk. What comes out differs from step after step by rounding only.
    """

    def __init__(self, stack: Stack, steps: int):
        """For chunks of at most `steps` steps of runs that `can_wait`."""
        self.weights = stack.parameters[0]
        self.momentum = torch.zeros_like(self.weights)
        self.runs, self.width, self.inputs = self.weights.shape
        powers = [torch.eye(2, dtype=torch.float64).expand(self.runs, 2, 2)]
        transition, entry = (torch.stack(part) for part in zip(*map(recurrence, stack.configs), strict=True))
        for _ in range(steps):
            powers.append(transition @ powers[-1])
        self.powers = torch.stack(powers, 1).to(self.weights.dtype)  # [runs, steps + 1, 2, 2]
        self.kernel = torch.stack([(power @ entry)[..., 0] for power in powers[:-1]], 1).to(self.weights.dtype)
        later = torch.arange(steps) - torch.arange(steps)[:, None] - 1  # [i, t]: steps between a gradient and its use
        self.effect = self.kernel[:, later.clamp(min=0), 0] * (later >= 0)  # [runs, i, t] on W_t of gradient i

    @staticmethod
    def can_wait(configs: Sequence[RunConfig], device: torch.device) -> bool:
        """Whether a stack of these runs is trained so: by SGD in batches of one image, on a CPU, without rounding."""
        alike = all(c.batch_size == 1 and c.optimizer == "SGD" and c.precision != "bfloat16" for c in configs)
        return alike and device.type == "cpu"

    def start(self, x: Tensor) -> None:
        """A chunk begins: x [groups, steps, 784], an image for each step."""
        groups, steps, _ = x.shape
        both = torch.cat([self.weights, self.momentum], 1).view(groups, -1, self.inputs)
        of_weights, of_momentum = product(both, x).view(self.runs, -1, steps).split(self.width, 1)
        a, b = self.powers[:, None, :steps, 0].unbind(-1)
        self.waiting = (a * of_weights).addcmul_(b, of_momentum)  # W_t x_t, but for gradients that are still to come
        alike = torch.bmm(x, x.mT).repeat_interleave(self.runs // groups, 0)
        self.effects, self.gradients = alike.mul_(self.effect[:, :steps, :steps]), []

    def forward(self) -> Tensor:
        """The product of the weights with the image of the next step, [runs, width, 1]."""
        step = len(self.gradients)
        return self.waiting[:, :, step : step + 1].clone()

    def take(self, dz: Tensor) -> None:
        """The step's gradient of the loss by that product, [runs, width, 1]."""
        step = len(self.gradients)
        self.gradients.append(dz)
        self.waiting[:, :, step + 1 :].addcmul_(dz, self.effects[:, step : step + 1, step + 1 :])

    def finish(self, x: Tensor) -> None:
        """The chunk has ended: weights and momentum as `len(self.gradients)` steps of SGD leave them."""
        groups, steps, _ = x.shape
        dz, kernel = torch.cat(self.gradients, 2), self.kernel[:, :steps].flip(1)
        each = torch.cat([dz * kernel[:, None, :, 0], dz * kernel[:, None, :, 1]], 1)
        added = product(each.view(groups, -1, steps), x.mT).view(self.runs, -1, self.inputs).split(self.width, 1)
        old = self.weights.clone()
        for tensor, own, row in zip((self.weights, self.momentum), added, self.powers[:, steps].unbind(1), strict=True):
            first, second = row[:, :, None, None].unbind(1)
            tensor.copy_(torch.addcmul(own, first, old).addcmul_(second, self.momentum))


def recurrence(config: RunConfig) -> tuple[Tensor, Tensor]:
    """(M [2, 2], u [2, 1]) of a step of torch.optim.SGD: (W, V) ← M (W, V) + u g, in float64."""
    lr, momentum, decay = config.lr, config.momentum, config.weight_decay
    own, kept = (1 + momentum, momentum**2) if config.nesterov else (1.0, momentum)  # of the new momentum in the step
    weights, buffer = [1 - lr * own * decay, -lr * kept], [decay, momentum]
    return torch.tensor([weights, buffer], dtype=torch.float64), torch.tensor([[-lr * own], [1.0]], dtype=torch.float64)
