"""One network and its training, as PyTorch users would write them: the reference that stacks are tested against."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fmnist.config import RunConfig
from fmnist.data import Data, augmentation_draws, augmented, epoch_order, generator, mixup_shares, scaling, split

LEAKY_SLOPE = 0.01  # torch.nn.LeakyReLU's default
ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
PARAMETER_DTYPE = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.float32}


def wide(device: torch.device) -> torch.dtype:
    """For sums and counts: float64, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def adds_input(config: RunConfig) -> list[bool]:
    """Of each hidden layer, whether it adds its output to its input: residual, and as wide as the one before it."""
    return [config.residual and a == b for a, b in pairwise((None, *config.hidden_sizes))]


class MLP(nn.Module):
    """784 → hidden_sizes → 10 fully connected; a hidden layer is linear, [norm], activation, [dropout], [+ its input].
    The weights come from the config's seed alone. `forward`: scaled images [batch, 784] → logits [batch, 10].
    """

    def __init__(self, config: RunConfig):
        super().__init__()
        dtype, draw = PARAMETER_DTYPE[config.precision], generator(config.seed, "weights")
        self.linears = nn.ModuleList(nn.utils.skip_init(nn.Linear, *s, dtype=dtype) for s in config.layer_sizes)
        norm = nn.BatchNorm1d if config.batch_norm else nn.LayerNorm if config.layer_norm else None
        self.norms = nn.ModuleList(norm(width, dtype=dtype) for width in config.hidden_sizes if norm)
        self.activation, self.adds_input = ACTIVATIONS[config.activation](), adds_input(config)
        self.dropout, self.seed, self.step = config.dropout, config.seed, 0
        for linear in self.linears:
            initialize(linear, config, draw)

    def forward(self, x: Tensor) -> Tensor:
        for layer, linear in enumerate(self.linears[:-1]):
            z = linear(x)
            h = self.activation(self.norms[layer](z) if self.norms else z)
            h = h * self.mask(layer, h) if self.training and self.dropout else h
            x = x + h if self.adds_input[layer] else h
        self.step += self.training
        return self.linears[-1](x)

    def mask(self, layer: int, h: Tensor) -> Tensor:
        """Inverted dropout: masks depend on seed, layer and step alone, so that any stack can draw the same ones."""
        keys, p = dropout_keys([self.seed], layer, self.step, 1)[0], torch.tensor([self.dropout], dtype=h.dtype)
        return dropout_mask(keys.to(h.device), p.to(h.device), *h.shape[::-1])[0].t()


@dataclass(frozen=True)
class Result:
    """One finished run. Accuracies in [0, 1], losses in nats; what a diverged run lacks (last epoch, or all) is NaN."""

    config: RunConfig
    history: dict[str, np.ndarray]  # epoch 0 (before training) to the last, see HISTORY
    metrics: dict[str, float | int | bool]
    predictions: np.ndarray  # uint8 [2, test images]: with the last weights, with the best validation epoch's
    weights: dict[str, np.ndarray]  # MLP's state_dict after the last epoch
    best_weights: dict[str, np.ndarray]  # at the best validation epoch
    device: str  # in words: "cpu", "cuda (NVIDIA H200)"
    data_checksum: str


def plain_training(
    config: RunConfig, data: Data, soft_labels: Tensor | None = None
) -> Iterator[tuple[MLP, float, float]]:
    """After every epoch: the network, or the moving average of its weights; mean loss, which is minimized,
    and accuracy over the epoch's images as it saw them. `soft_labels` [images, 10]: what teachers say.
    """
    model = MLP(config)
    average = moving_average(config, model) if config.ema_decay else None
    optimizer = torch_optimizer(config, list(model.parameters()))
    images = len(data.train_labels) - config.val_size
    for epoch in range(1, config.epochs + 1):
        model.train()
        total = correct = 0.0
        rates = learning_rates(config, epoch, -(-images // config.batch_size)).tolist()
        for (x, rows, share), rate in zip(plain_batches(config, data, epoch), rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate
            logits, labels = model(x), data.train_labels[rows]
            loss = plain_loss(config, logits, labels, soft_labels[rows] if config.teachers else None, share)
            optimizer.zero_grad()
            (config.loss_scale * loss).backward()
            optimizer.step()
            if average:
                average.update_parameters(model)
            total += loss.item() * len(labels)
            correct += (logits.argmax(1) == labels).sum().item()
        yield average.module if average else model, total / images, correct / images


def moving_average(config: RunConfig, model: MLP) -> AveragedModel:
    """The exponential moving average of the model's weights, which begins with the initial ones."""
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay), use_buffers=True)
    average.update_parameters(model)  # this first time copies
    return average


def plain_loss(config: RunConfig, logits: Tensor, labels: Tensor, taught: Tensor | None, share: float = 1.0) -> Tensor:
    """Cross entropy with labels and, as configured, what teachers gave, made to sum to one; `share`: see batches."""
    loss = nn.functional.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
    if taught is not None:
        soft = nn.functional.normalize(taught.to(logits.dtype), 1)
        loss = torch.lerp(loss, nn.functional.cross_entropy(logits, soft), config.distill_weight)
    twins = labels.flip(0), None if taught is None else taught.flip(0)
    return loss if share == 1 else torch.lerp(plain_loss(config, logits, *twins), loss, share)


def plain_batches(config: RunConfig, data: Data, epoch: int) -> Iterator[tuple[Tensor, Tensor, float]]:
    """An epoch's inputs [batch, 784], their rows among the train images, and an image's share in its mixture."""
    (train, _), size = split(len(data.train_labels), config.val_size, config.seed), config.batch_size
    order, draws = (draw(len(train), config.seed, epoch).split(size) for draw in (epoch_order, augmentation_draws))
    for places, drawn, share in zip(order, draws, mixup_shares(config, epoch, len(order)).tolist(), strict=True):
        images = data.train_images[train[places]]
        images = augmented(images, drawn, config) if config.augments else images
        x = as_inputs(images, config, data)
        yield share * x + (1 - share) * x.flip(0) if config.mixup else x, train[places], share


def as_inputs(images: Tensor, config: RunConfig, data: Data | None) -> Tensor:
    """Images, uint8 [n, 784], scaled as the config says, in the type of its weights; `data` as for `scaling`."""
    scale, shift = scaling(config, data)
    return (images.double() * scale + shift).to(PARAMETER_DTYPE[config.precision])


def images_and_labels(config: RunConfig, data: Data, part: str) -> tuple[Tensor, Tensor]:
    """Inputs and labels of "train", "val" or "test"."""
    if part == "test":
        return as_inputs(data.test_images, config, data), data.test_labels
    train, val = split(len(data.train_labels), config.val_size, config.seed)
    rows = {"train": train, "val": val}[part]
    return as_inputs(data.train_images[rows], config, data), data.train_labels[rows]


def torch_optimizer(config: RunConfig, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
    options = {"lr": config.lr, "weight_decay": config.weight_decay}  # AdamW's own is not zero
    options |= {name: getattr(config, name) for name in ("momentum", "nesterov") if getattr(config, name)}
    return getattr(torch.optim, config.optimizer)(parameters, **options)


def learning_rates(config: RunConfig, epoch: int, steps: int) -> Tensor:
    """The rate of each of the `steps` of an epoch (1 is the first), float64 [steps], as torch.optim.lr_scheduler's: the
    steps of the warm-up rise by LinearLR; the n others are those of the schedule's class there.
    """
    t = torch.arange((epoch - 1) * steps, epoch * steps, dtype=torch.float64)
    warmup = round(config.warmup_epochs * steps)
    n = max(config.epochs * steps - warmup, 1)
    rise, t = ((t + 1) / (warmup + 1)).clamp(max=1), (t - warmup).clamp(min=0)
    match config.schedule:
        case "constant":
            factor = torch.ones_like(t)
        case "cosine":
            factor = (1 + torch.cos(math.pi * t / n)) / 2
        case "linear":
            factor = 1 - t / n
        case "steps":
            factor = 0.1 ** ((t >= 0.5 * n).double() + (t >= 0.75 * n))
        case "one_cycle":
            peak, low = 0.3 * n - 1, 1 / 25
            up = 1 + (low - 1) * (1 + torch.cos(math.pi * t / peak)) / 2
            share = (t - peak) / (n - 1 - peak)
            down = low / 1e4 + (1 - low / 1e4) * (1 + torch.cos(math.pi * share)) / 2
            factor = torch.where(t <= peak, up, down)
    return config.lr * rise * factor


@torch.no_grad()
def initialize(linear: nn.Linear, config: RunConfig, draw: torch.Generator) -> None:
    """Draw weights and biases in place, in float64, so that every precision starts from the same numbers.
    `default` is torch.nn.Linear's own: U(-1/√n_in, 1/√n_in) for weights and biases (Kaiming uniform with a = √5).
    """
    bound = linear.in_features**-0.5
    for parameter, init in ((linear.weight, config.init), (linear.bias, config.bias_init)):
        exact = parameter.double()
        match init:
            case "default":
                exact.uniform_(-bound, bound, generator=draw)
            case "zeros":
                exact.zero_()
            case _:
                options = {"nonlinearity": "relu"} if init.startswith("kaiming") else {}
                options |= {"std": config.init_std} if init == "normal" else {}
                getattr(nn.init, f"{init}_")(exact, generator=draw, **options)
        parameter.copy_(exact)


def dropout_keys(seeds: Sequence[int], layer: int, first_step: int, steps: int) -> Tensor:
    """One 32-bit key per step and run, int32 [steps, runs]."""
    seed = np.asarray(seeds, np.uint64)[None, :] << np.uint64(32)
    place = (np.arange(first_step, first_step + steps, dtype=np.uint64)[:, None] << np.uint64(8)) + np.uint64(layer)
    z = _splitmix(_splitmix(seed) ^ place)
    return torch.from_numpy((z >> np.uint64(32)).astype(np.uint32).view(np.int32))


def _splitmix(z: np.ndarray) -> np.ndarray:
    """splitmix64, Steele, Lea & Flood 2014, doi:10.1145/2660193.2660195."""
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def dropout_mask(keys: Tensor, p: Tensor, width: int, batch: int, dtype: torch.dtype | None = None) -> Tensor:
    """0 with probability p, else 1/(1 - p); keys int32 [runs], p floating [runs] → [runs, width, batch].

    A counter-based generator: every element hashes its own position with the run's key, so the mask is the same on
    every device and in every stack. p is rounded to 1/32,768: each 32-bit hash serves two elements.
    """
    count, dtype = width * batch, dtype or p.dtype
    bits = torch.arange((count + 1) // 2, dtype=torch.int32, device=keys.device)[None] * 0x1E3779B1 + keys[:, None]
    for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97), (15, None)):  # Wellons' 32-bit mixer, public domain
        bits ^= (bits >> shift) & ((1 << (32 - shift)) - 1)  # int32 shifts keep the sign: mask it off
        if factor:
            bits *= factor
    halves = ((bits >> 1) & 0x7FFF7FFF).view(torch.int16)[:, :count].view(-1, width, batch)  # 0 … 32,767
    threshold = (p * 32768).round().clamp(max=32767).to(torch.int16)[:, None, None]
    dropped = (halves - threshold) >> 15  # -1 below the threshold, else 0: arithmetic is faster than a comparison
    return dropped.to(dtype).add_(1).mul_((1 / (1 - p)).to(dtype)[:, None, None])
