"""What a trained network is like inside, as numbers and figures: its errors, its first weights, its layers' signals."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fmnist.config import RunConfig
from fmnist.data import NAMES, Data, load, scaling, split
from fmnist.model import MLP
from fmnist.plots.figures import confusion_matrix, image_grid
from fmnist.plots.style import COLORS, FAINT, WIDTH, figure, fold_legend, style
from fmnist.statistics import confusion
from fmnist.store import Run

BATCH = 512  # validation images on which signals and gradients are measured


@dataclass
class Anatomy:
    """A finished run's network with the data it was trained on, on the CPU. Images are uint8 [n, 784]."""

    run: Run

    @property
    def config(self) -> RunConfig:
        return self.run.config

    @cached_property
    def data(self) -> Data:
        return load(dataset=self.config.dataset)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the ten classes."""
        return NAMES[self.config.dataset]

    @cached_property
    def model(self) -> MLP:
        return self.run.model()

    @cached_property
    def _scaling(self) -> tuple[float, float]:
        train, _ = split(len(self.data.train_labels), self.config.val_size, self.config.seed)
        return scaling(self.data.train_images, train, self.config.input_scaling)

    def inputs(self, images: torch.Tensor) -> torch.Tensor:
        """The images as the network takes them, [n, 784]."""
        scale, shift = self._scaling
        return images.to(self.model.linears[0].weight.dtype) * scale + shift

    @torch.no_grad()
    def probabilities(self, images: np.ndarray | torch.Tensor) -> np.ndarray:
        """Of the ten classes, float [n, 10], each row's sum 1."""
        images = torch.as_tensor(np.array(images)).view(-1, 784)
        return self.model(self.inputs(images)).double().softmax(1).numpy()

    def misread(self, count: int = 12) -> pd.DataFrame:
        """The test images that were misread with the greatest probability: index, label, read, p (of read), p_label.

        Probabilities are in [0, 1]; the first row is the worst.
        """
        labels = self.data.test_labels.numpy()
        p = self.probabilities(self.data.test_images)
        read, rows = p.argmax(1), np.arange(len(labels))
        wrong = np.flatnonzero(read != labels)
        worst = wrong[np.argsort(-p[wrong, read[wrong]], kind="stable")][:count]
        columns = {"index": worst, "label": labels[worst], "read": read[worst]}
        return pd.DataFrame(columns | {"p": p[rows[worst], read[worst]], "p_label": p[worst, labels[worst]]})

    def layers(self) -> pd.DataFrame:
        """What passes through the layers, before and after training, on the first validation images.

        One row per network ("untrained", "trained"), layer (from 1, the last is the output) and quantity: "activation
        std", "inactive" (share of hidden outputs at zero) and "gradient norm" (Euclidean, of the layer's weights).
        """
        _, val = split(len(self.data.train_labels), self.config.val_size, self.config.seed)
        x, labels = self.inputs(self.data.train_images[val[:BATCH]]), self.data.train_labels[val[:BATCH]]
        rows, untrained = [], MLP(self.config).eval()
        untrained.norms.train()  # before training there are no running statistics to normalize by
        for name, model in (("untrained", untrained), ("trained", self.run.model())):
            seen: list[torch.Tensor] = []
            hook = model.activation.register_forward_hook(lambda *call, seen=seen: seen.append(call[2].detach()))
            logits = model(x)
            hook.remove()
            torch.nn.functional.cross_entropy(logits, labels).backward()
            for layer, linear in enumerate(model.linears, 1):
                out = seen[layer - 1] if layer <= len(seen) else logits.detach()
                rows.append((name, layer, "activation std", float(out.std())))
                rows.append((name, layer, "gradient norm", float(linear.weight.grad.norm())))
                if layer <= len(seen):
                    rows.append((name, layer, "inactive", float((out == 0).double().mean())))
        return pd.DataFrame(rows, columns=["network", "layer", "quantity", "value"])

    def confusion_figure(self) -> Figure:
        """The confusion matrix on the test set."""
        return confusion_matrix(confusion(self.data.test_labels.numpy(), self.run.predictions()), self.names)

    def misread_figure(self) -> Figure:
        """The worst of `misread`, with what they are and what they were read as, each with its probability."""
        rows = self.misread()
        images = self.data.test_images.numpy()[rows["index"]].reshape(-1, 28, 28)
        titles = [
            f"{self.names[row.label]} {row.p_label:.1%}\n→ {self.names[row.read]} {row.p:.1%}"
            for row in rows.itertuples()
        ]
        return image_grid(images, titles, columns=4)

    def weights_figure(self) -> Figure:
        """The first layer's weights as images, greatest norms first; without a hidden layer, one for each class."""
        weight = self.model.linears[0].weight.detach().double().numpy()  # [out, 784]
        norms = np.linalg.norm(weight, axis=1)
        classes = not self.config.hidden_sizes
        chosen = np.arange(len(weight)) if classes else np.argsort(-norms, kind="stable")[:32]
        return weight_images(weight[chosen], [self.names[i] if classes else f"{i + 1}" for i in chosen])

    def layers_figure(self) -> Figure:
        """`layers`, a panel a quantity."""
        return layer_bars(self.layers())


def weight_images(weights: np.ndarray, titles: list[str]) -> Figure:
    """Weights [n, 784] as images on one scale: blue where ink lowers the neuron's input, red where it raises it."""
    columns = min(8, len(weights))
    rows, reach = -(-len(weights) // columns), np.quantile(np.abs(weights), 0.995) or 1.0
    with style():
        fig = figure(rows * (WIDTH / columns * 1.13) + 0.45)
        axes = fig.subplots(rows, columns, squeeze=False)
        for ax in axes.flat:
            ax.set_axis_off()
        for ax, weight, title in zip(axes.flat, weights, titles, strict=False):
            shown = ax.imshow(weight.reshape(28, 28), cmap="RdBu_r", vmin=-reach, vmax=reach)
            ax.set_title(title, loc="center", weight="normal", fontsize=7, pad=2)
        bar = fig.colorbar(shown, ax=axes, location="bottom", fraction=0.04, aspect=60, pad=0.02)
        bar.ax.set_xlabel("weight")
        bar.outline.set_visible(False)
    return fig


def layer_bars(frame: pd.DataFrame) -> Figure:
    """`Anatomy.layers` as bars, untrained beside trained."""
    quantities = [name for name in ("activation std", "inactive", "gradient norm") if name in set(frame["quantity"])]
    looks = {"untrained": FAINT, "trained": COLORS[0]}
    with style():
        fig = figure(2.3)
        for ax, quantity in zip(fig.subplots(1, len(quantities), squeeze=False)[0], quantities, strict=True):
            part, scale = frame[frame["quantity"] == quantity], 100 if quantity == "inactive" else 1
            for index, (network, color) in enumerate(looks.items()):
                rows = part[part["network"] == network]
                ax.bar(rows["layer"] + 0.38 * (index - 0.5), scale * rows["value"], 0.36, color=color)
            names = {"inactive": "hidden outputs that are zero (%)", "gradient norm": "norm of the weights' gradient"}
            ax.set(xlabel="layer", ylabel=names.get(quantity, "std of the layer's output"))
            ax.set_xticks(sorted(part["layer"].unique()))
            ax.set_xlim(0.4, frame["layer"].max() + 0.6 if quantity != "inactive" else part["layer"].max() + 0.6)
            ax.grid(axis="x", visible=False)
        handles = [Patch(color=color) for color in looks.values()]
        fold_legend(fig, handles, list(looks))
    return fig
