"""Five other ways to train the same study, each as its own community writes it at its best.

A peer is a generator function: each `next` trains one unit, an epoch of all runs at once or of one run, the runs taken
in turn, validates it, and yields its `Epoch`. Where a library leaves a choice (workers, compiling), the peer tries both
ways on this machine, within the first unit, and goes on with the faster: `Task.choices` says which.

All start from the same weights. `dataloader` and `sklearn` shuffle by themselves, as they do for everybody, and
`sklearn` also draws its own weights; the others see the same batches as fmnist, so their losses agree to rounding.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import count, cycle

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from task import Epoch, Task, cores

Peer = Callable[[Task], Iterator[Epoch]]
Batches = Iterable[tuple[Tensor, Tensor]]


# PyTorch, one run after another


def network(task: Task) -> nn.Sequential:
    layers = [nn.Flatten()]
    for weight, bias in task.weights():
        layers += [nn.Linear(*weight.shape[::-1]), nn.ReLU()]
        layers[-2].load_state_dict({"weight": weight, "bias": bias})
    return nn.Sequential(*layers[:-1]).to(task.device)


def trainable(task: Task, lr: float) -> tuple[nn.Sequential, torch.optim.SGD]:
    model = network(task)
    return model, torch.optim.SGD(model.parameters(), lr=lr, fused=task.device != "cpu")


def measure(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean loss and accuracy of a batch."""
    logits = model(x)
    return cross_entropy(logits, y), (logits.argmax(1) == y).float().mean()


def torch_epoch(measure: Callable, model: nn.Module, optimizer: torch.optim.SGD, train: Batches, val: Batches) -> Epoch:
    device = next(model.parameters()).device
    totals = torch.zeros(2, 2, device=device)  # [train, val][loss, accuracy]
    counts = torch.zeros(2, 1, device=device)
    for part, batches in enumerate((train, val)):
        with torch.set_grad_enabled(part == 0):
            for x, y in batches:
                x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
                loss, accuracy = measure(model, x, y)
                if part == 0:
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                totals[part] += torch.stack([loss.detach(), accuracy]) * len(y)
                counts[part] += len(y)
    return Epoch(*([value] for value in (totals / counts).flatten().tolist()))


class Images(torch.utils.data.Dataset):
    """torchvision.datasets.FashionMNIST with ToTensor(), item by item the same, on files that need not be copied."""

    def __init__(self, images: Tensor, labels: Tensor):
        from torchvision.transforms import ToTensor

        self.images, self.labels, self.transform = images.view(-1, 28, 28), labels, ToTensor()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index].numpy(), mode="L")), int(self.labels[index])


def dataloader(task: Task) -> Iterator[Epoch]:
    """The textbook's loop: a data set, a transform, a DataLoader."""
    images, labels, val_images, val_labels = task.pixels()
    sets = Images(images, labels), Images(val_images, val_labels)

    def loaders(workers: int) -> list[torch.utils.data.DataLoader]:
        options = {"num_workers": workers, "persistent_workers": workers > 0, "pin_memory": task.device != "cpu"}
        shuffled = {"shuffle": True, "batch_size": task.batch_size, "generator": torch.Generator().manual_seed(0)}
        train, val = sets
        return [
            torch.utils.data.DataLoader(train, **shuffled, **options),
            torch.utils.data.DataLoader(val, batch_size=1_000, **options),
        ]

    def trial(workers: int) -> Callable[[], Epoch]:
        run, pair = trainable(task, 0.01), loaders(workers)
        return lambda: torch_epoch(measure, *run, *pair)

    workers = task.fastest("workers", {str(n): trial(n) for n in (0, 2, 4, 8, 16) if n <= cores()}, repeats=1)
    pair = loaders(int(workers))
    runs = [trainable(task, lr) for lr in task.lrs]
    for run in cycle(runs):
        yield torch_epoch(measure, *run, *pair)


def tensor_loop(task: Task) -> Iterator[Epoch]:
    """No DataLoader: the data set is a tensor on the device, a batch an index selection."""
    x, y, val_x, val_y = task.tensors()
    runs = [trainable(task, lr) for lr in task.lrs]
    ways = {"eager": measure, "compiled": torch.compile(measure, dynamic=False)}
    trial = network(task)
    first = slice(task.batch_size)
    tries = {name: lambda way=way: way(trial, x[first], y[first])[0].backward() for name, way in ways.items()}
    chosen = ways[task.fastest("step", tries, repeats=20)]
    for turn, run in enumerate(cycle(runs)):
        rows = task.order(1 + turn // task.runs).to(task.device).split(task.batch_size)
        yield torch_epoch(chosen, *run, ((x[r], y[r]) for r in rows), [(val_x, val_y)])


# PyTorch, all runs at once


def torch_func(task: Task) -> Iterator[Epoch]:
    """Model ensembling as in torch.func's tutorial: the parameters stacked, the gradient vectorized over them."""
    from torch.func import functional_call, grad_and_value, stack_module_state, vmap

    x, y, val_x, val_y = task.tensors()
    models = [network(task) for _ in task.lrs]
    params = {name: stacked.detach() for name, stacked in stack_module_state(models)[0].items()}
    base = copy.deepcopy(models[0]).to("meta")
    lrs = torch.tensor(task.lrs, device=task.device)

    def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return measure(lambda x: functional_call(base, params, (x,)), x, y)

    gradients = vmap(grad_and_value(loss, has_aux=True), in_dims=(0, None, None))
    validate = vmap(loss, in_dims=(0, None, None))

    @torch.no_grad()
    def step(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        gradient, measured = gradients(params, x, y)
        for name, parameter in params.items():
            parameter -= lrs.view(-1, *[1] * (parameter.dim() - 1)) * gradient[name]
        return torch.stack(measured)

    ways, first = {"eager": step, "compiled": torch.compile(step, dynamic=False)}, slice(task.batch_size)
    trial = {name: tensor.clone() for name, tensor in params.items()}
    tries = {name: lambda way=way: way(trial, x[first], y[first]) for name, way in ways.items()}
    step = ways[task.fastest("step", tries, repeats=20)]
    epoch = 0
    while epoch := epoch + 1:
        totals = torch.zeros(2, task.runs, device=task.device)
        for rows in task.order(epoch).to(task.device).split(task.batch_size):
            totals += step(params, x[rows], y[rows]) * len(rows)
        with torch.no_grad():
            validated = validate(params, val_x, val_y)
        yield Epoch(*(totals / len(y)).tolist(), *torch.stack(validated).tolist())


# JAX, all runs at once


def jax_scan(task: Task) -> Iterator[Epoch]:
    """One compiled call an epoch: a scan over its batches, each step vectorized over the runs."""
    import jax
    import jax.numpy as jnp

    if task.device != "cpu" and jax.default_backend() == "cpu":
        raise RuntimeError("this jax has no accelerator")
    x, y, val_x, val_y = (jnp.asarray(tensor.cpu().numpy()) for tensor in task.tensors())
    y, val_y = y.astype(jnp.int32), val_y.astype(jnp.int32)
    lrs, whole = jnp.asarray(task.lrs, jnp.float32), len(x) // task.batch_size * task.batch_size
    weights = [
        (np.broadcast_to(w.T, (task.runs, *w.T.shape)), np.broadcast_to(b, (task.runs, *b.shape)))
        for w, b in task.weights()
    ]
    params = jax.tree.map(jnp.array, weights)

    def loss(params, x, y):
        *hidden, (w_out, b_out) = params
        for w, b in hidden:
            x = jax.nn.relu(x @ w + b)
        logits = x @ w_out + b_out
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1)
        return -log_p.mean(), (logits.argmax(1) == y).mean()

    def step(params, lr, x, y):
        measured, gradient = jax.value_and_grad(loss, has_aux=True)(params, x, y)
        return jax.tree.map(lambda p, g: p - lr * g, params, gradient), jnp.stack(measured)

    steps = jax.vmap(step, in_axes=(0, 0, None, None), out_axes=(0, 1))

    @partial(jax.jit, donate_argnums=0)
    def epoch(params, x, y, val_x, val_y, order):
        def batch(params, rows):
            return steps(params, lrs, x[rows], y[rows])

        params, measured = jax.lax.scan(batch, params, order[:whole].reshape(-1, task.batch_size))
        total = measured.sum(0) * task.batch_size
        if len(rest := order[whole:]):
            params, measured = batch(params, rest)
            total += measured * len(rest)
        validated = jax.vmap(loss, in_axes=(0, None, None))(params, val_x, val_y)
        return params, jnp.stack([*total / len(order), *validated])

    for number in count(1):
        params, measured = epoch(params, x, y, val_x, val_y, task.order(number).numpy())
        yield Epoch(*measured.tolist())


# scikit-learn, one run after another


def sklearn(task: Task) -> Iterator[Epoch]:
    """MLPClassifier, an epoch a call of partial_fit. It measures no training accuracy, and is not made to."""
    from sklearn import config_context
    from sklearn.neural_network import MLPClassifier

    x, y, val_x, val_y = (tensor.cpu().numpy() for tensor in task.tensors())
    sgd = {"solver": "sgd", "momentum": 0.0, "nesterovs_momentum": False, "alpha": 0.0}
    models = [
        MLPClassifier(
            task.hidden_sizes,
            **sgd,
            learning_rate_init=lr,
            batch_size=task.batch_size,
            random_state=np.random.RandomState(0),  # a plain 0 would shuffle every epoch alike
        )
        for lr in task.lrs
    ]
    with config_context(assume_finite=True):  # no search for NaN in every call
        for model in cycle(models):
            model.partial_fit(x, y, classes=np.arange(10))
            p = model.predict_proba(val_x)
            loss, accuracy = -np.log(p[np.arange(len(p)), val_y]).mean(), (p.argmax(1) == val_y).mean()
            yield Epoch([model.loss_], [np.nan], [float(loss)], [float(accuracy)])


PEERS: dict[str, Peer] = {
    "jax": jax_scan,
    "torch_func": torch_func,
    "tensor_loop": tensor_loop,
    "sklearn": sklearn,
    "dataloader": dataloader,
}
