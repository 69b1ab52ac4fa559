"""Training by the book, one network at a time: `MLP`, autograd and torch.optim. Stacks are held to it."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fmnist.config import RunConfig
from fmnist.data import Data, epoch_order, split
from fmnist.model import MLP

OPTIMIZERS = {
    "SGD": {"lr": 0.1},
    "SGD, weight decay": {"lr": 0.1, "weight_decay": 0.01},
    "SGD, momentum": {"momentum": 0.9},
    "SGD, momentum, weight decay": {"momentum": 0.9, "weight_decay": 0.01},
    "Nesterov": {"momentum": 0.9, "nesterov": True},
    "Nesterov, weight decay": {"momentum": 0.8, "nesterov": True, "weight_decay": 0.02},
    "Adam": {"optimizer": "Adam"},
    "Adam, weight decay": {"optimizer": "Adam", "weight_decay": 0.01},
    "AdamW": {"optimizer": "AdamW"},
    "AdamW, weight decay": {"optimizer": "AdamW", "weight_decay": 0.1},
    "RMSprop": {"optimizer": "RMSprop", "lr": 0.001},
    "RMSprop, weight decay": {"optimizer": "RMSprop", "lr": 0.001, "weight_decay": 0.01},
    "RMSprop, momentum": {"optimizer": "RMSprop", "lr": 0.001, "momentum": 0.5},
    "RMSprop, momentum, weight decay": {"optimizer": "RMSprop", "lr": 0.001, "momentum": 0.5, "weight_decay": 0.01},
    "Adadelta": {"optimizer": "Adadelta", "lr": 1.0},
    "Adadelta, weight decay": {"optimizer": "Adadelta", "lr": 0.5, "weight_decay": 0.01},
}


def torch_optimizer(config: RunConfig, parameters: list[Tensor]) -> torch.optim.Optimizer:
    options = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer in ("SGD", "RMSprop"):
        options["momentum"] = config.momentum
    if config.optimizer == "SGD":
        options["nesterov"] = config.nesterov
    return getattr(torch.optim, config.optimizer)(parameters, **options)


def scaled(images: Tensor, config: RunConfig, train_images: Tensor) -> Tensor:
    """uint8 → the network's input, in the type of its weights; `train_images` is what standardising looks at."""
    x = images.double()
    if config.input_scaling == "none":
        x = x / 255
    elif config.input_scaling == "symmetric":
        x = x / 127.5 - 1
    else:
        seen = train_images.double()
        x = (x - seen.mean()) / seen.std(correction=0)
    return x.to(torch.float64 if config.precision == "float64" else torch.float32)


def plain_training(config: RunConfig, data: Data) -> Iterator[tuple[MLP, float, float]]:
    """After every epoch: the network, and its mean loss and accuracy over the epoch's images as it saw them."""
    train, _ = split(len(data.train_labels), config.val_size, config.seed)
    x, labels = scaled(data.train_images[train], config, data.train_images[train]), data.train_labels[train]
    model = MLP(config)
    optimizer = torch_optimizer(config, list(model.parameters()))
    for epoch in range(1, config.epochs + 1):
        model.train()
        total = correct = 0.0
        for rows in epoch_order(len(labels), config.seed, epoch).split(config.batch_size):
            logits = model(x[rows])
            loss = cross_entropy(logits, labels[rows])
            optimizer.zero_grad()
            (config.loss_scale * loss).backward()
            optimizer.step()
            total += loss.item() * len(rows)
            correct += (logits.argmax(1) == labels[rows]).sum().item()
        yield model, total / len(labels), correct / len(labels)


@torch.no_grad()
def plain_evaluation(model: MLP, config: RunConfig, data: Data, part: str) -> tuple[float, float, Tensor]:
    """Mean loss, accuracy and predictions on "train", "val" or "test", in evaluation mode."""
    train, val = split(len(data.train_labels), config.val_size, config.seed)
    images, labels = {
        "train": (data.train_images[train], data.train_labels[train]),
        "val": (data.train_images[val], data.train_labels[val]),
        "test": (data.test_images, data.test_labels),
    }[part]
    logits = model.eval()(scaled(images, config, data.train_images[train]))
    predicted = logits.argmax(1)
    return cross_entropy(logits, labels).item(), (predicted == labels).double().mean().item(), predicted
