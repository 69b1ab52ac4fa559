"""A trained network opened up: its errors, its first weights, its layers' signals, and a canvas for it to read.

`Network(run)` has them as numbers and figures, `NetworkPanel` as tabs.
"""

import html
import random

import ipywidgets as widgets
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fmnist.data import NAMES, load, scaling, split
from fmnist.lab.widgets import Panel, Sketch, picture
from fmnist.model import MLP
from fmnist.plots.figures import confusion_matrix, image_grid
from fmnist.plots.style import COLORS, FAINT, WIDTH, figure, fold_legend, style
from fmnist.statistics import confusion
from fmnist.store import Run
from fmnist.words import percent

BATCH = 512  # validation images on which signals and gradients are measured


class Network:
    """A finished run's network with the data it was trained on, on the CPU. Images are uint8 [n, 784]."""

    def __init__(self, run: Run):
        self.run, self.config, self.model = run, run.config, run.model()
        self.names, self.data = NAMES[self.config.dataset], load(dataset=self.config.dataset)
        train, self.val = split(len(self.data.train_labels), self.config.val_size, self.config.seed)
        self.scale, self.shift = scaling(self.data.train_images, train, self.config.input_scaling)

    def inputs(self, images: torch.Tensor) -> torch.Tensor:
        """The images as the network takes them, [n, 784]."""
        return images.to(self.model.linears[0].weight.dtype) * self.scale + self.shift

    @torch.no_grad()
    def probabilities(self, images: np.ndarray | torch.Tensor) -> np.ndarray:
        """Of the ten classes, float [n, 10], each row's sum 1."""
        images = torch.as_tensor(np.array(images)).view(-1, 784)
        return self.model(self.inputs(images)).double().softmax(1).numpy()

    def misread(self, count: int = 12) -> pd.DataFrame:
        """Test images misread with the greatest probability, worst first: index, label, read, p (of read), p_label."""
        p, labels = self.probabilities(self.data.test_images), self.data.test_labels.numpy()
        rows, read = np.arange(len(p)), p.argmax(1)
        columns = {"index": rows, "label": labels, "read": read, "p": p[rows, read], "p_label": p[rows, labels]}
        return pd.DataFrame(columns).query("label != read").nlargest(count, "p")

    def layers(self) -> pd.DataFrame:
        """What passes through the layers, untrained and trained, on the first validation images: a row a layer of each.

        Columns: network, layer (from 1; the last is the output) and the three that `layers_figure` shows.
        """
        x, labels = self.inputs(self.data.train_images[self.val[:BATCH]]), self.data.train_labels[self.val[:BATCH]]
        rows, untrained = [], MLP(self.config).eval()
        untrained.norms.train()  # before training there are no running statistics to normalize by
        for name, model in (("untrained", untrained), ("trained", self.run.model())):
            outputs: list[torch.Tensor] = []
            hook = model.activation.register_forward_hook(lambda *call, to=outputs: to.append(call[2].detach()))
            logits = model(x)
            hook.remove()
            torch.nn.functional.cross_entropy(logits, labels).backward()
            zeros = [float((out == 0).double().mean()) for out in outputs] + [np.nan]
            for i, out in enumerate([*outputs, logits.detach()]):
                gradient = float(model.linears[i].weight.grad.norm())
                rows.append((name, i + 1, float(out.std()), zeros[i], gradient))
        measured = ("std of the layer's output", "share of hidden outputs at zero", "norm of the weights' gradient")
        return pd.DataFrame(rows, columns=["network", "layer", *measured])

    def confusion_figure(self) -> Figure:
        """The confusion matrix on the test set."""
        return confusion_matrix(confusion(self.data.test_labels.numpy(), self.run.predictions()), self.names)

    def misread_figure(self) -> Figure:
        """The worst of `misread`, with what they are and what they were read as, each with its probability."""
        rows, text = self.misread(), "{} {}\n→ {} {}".format
        images = self.data.test_images.numpy()[rows["index"]].reshape(-1, 28, 28)
        both = [(self.names[r.label], percent(r.p_label), self.names[r.read], percent(r.p)) for r in rows.itertuples()]
        return image_grid(images, [text(*words) for words in both], columns=4)

    def weights_figure(self) -> Figure:
        """The first layer's weights as images, greatest norms first; without a hidden layer, one for each class.

        Red where ink raises the neuron's input, blue where it lowers it, all on one scale.
        """
        weight = self.model.linears[0].weight.detach().double().numpy()  # [out, 784]
        order = np.argsort(-np.linalg.norm(weight, axis=1), kind="stable")[:32]
        titles = [str(i + 1) for i in order]
        if not self.config.hidden_sizes:
            order, titles = range(len(weight)), self.names
        columns, reach = min(8, len(order)), np.quantile(np.abs(weight), 0.995) or 1.0
        rows = -(-len(order) // columns)
        with style():
            fig = figure(rows * (WIDTH / columns * 1.13) + 0.45)
            axes = fig.subplots(rows, columns, squeeze=False)
            for ax in axes.flat:
                ax.set_axis_off()
            for ax, index, title in zip(axes.flat, order, titles, strict=False):
                shown = ax.imshow(weight[index].reshape(28, 28), cmap="RdBu_r", vmin=-reach, vmax=reach)
                ax.set_title(title, loc="center", weight="normal", fontsize=7, pad=2)
            fig.colorbar(shown, ax=axes, location="bottom", fraction=0.04, aspect=60, pad=0.02, label="weight")
        return fig

    def layers_figure(self) -> Figure:
        """`layers`, a panel a quantity, untrained beside trained."""
        frame = self.layers().dropna(axis=1, how="all")
        quantities, looks = frame.columns[2:], {"untrained": FAINT, "trained": COLORS[0]}
        with style():
            fig = figure(2.3)
            for ax, quantity in zip(fig.subplots(1, len(quantities), squeeze=False)[0], quantities, strict=True):
                part = frame.dropna(subset=quantity).pivot(index="layer", columns="network", values=quantity)
                part[[*looks]].plot.bar(ax=ax, color=looks, width=0.75, rot=0, legend=False, ylabel=quantity)
                ax.grid(axis="x", visible=False)
            fold_legend(fig, [Patch(color=color) for color in looks.values()], list(looks))
        return fig


NOTES = {
    "Confusion": "Each row is a true class of test images, each column what they are read as.",
    "Most confused": "Test images misread with the greatest probability: what they are, and what they are read as.",
    "First-layer weights": "Red pixels raise a neuron's input, blue ones lower it. Greatest norms first.",
    "Layers": "On 512 validation images, before training and after it; the last layer is the output.",
    "Draw or pick": "Draw a garment, or pick a test image and change it. Shift or the second mouse button rubs out.",
}


def bars(names: tuple[str, ...], probabilities: np.ndarray) -> str:
    """Probabilities [10] of the classes as bars, in HTML, the greatest in bold."""
    bar = '<span style="height:11px;width:{:.1f}%;background:{}"></span>'.format
    rows = ""
    for name, p in zip(names, probabilities, strict=True):
        tag, color = ("b", COLORS[1]) if p == max(probabilities) else ("span", COLORS[0])
        rows += f"<{tag}>{html.escape(name)}</{tag}>{bar(100 * p, color)}<{tag}>{percent(p)}</{tag}>"
    return f'<div style="display:grid;grid-template-columns:95px 180px 60px;align-items:center">{rows}</div>'


class NetworkPanel(Panel):
    """A network in tabs, each drawn when first looked at; `run` is the run that is shown, None before there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.run: Run | None = None
        self._drawn: set[int] = set()
        self.tabs = widgets.Tab([widgets.VBox() for _ in NOTES], titles=[*NOTES])
        self.tabs.layout.display = "none"
        self.sketch, self.truth, self.read = Sketch(), widgets.HTML(), widgets.HTML()
        self.index = widgets.BoundedIntText(0, 0, 9_999, description="test image", layout={"width": "190px"})
        another = self.button("Another", lambda: self.index.set_trait("value", random.randrange(10_000)))
        picked = widgets.VBox([widgets.HBox([self.index, another]), self.truth, self.read])
        picked.layout.margin = "0 0 0 24px"
        self._canvas = widgets.HBox([self.sketch, picked])
        self.children = [self.said, self.tabs]
        self.on(self.tabs, "selected_index", self._draw)
        self.on(self.sketch, "pixels", self._predict)
        self.on(self.index, "value", self._lay)

    def show(self, run: Run, name: str) -> None:
        """Open this run's network; `name` is its trial's."""
        self.run, self.network, self._drawn = run, Network(run), set()
        accuracy = run.metrics["test_accuracy"]
        reached = "diverged" if accuracy is None else f"test accuracy {percent(accuracy)}"
        said = f"{html.escape(name)}, seed {run.config.seed}: {reached}"
        self.said.value = f"<b>Inside</b> {said}. In Python: <code>load_run('{run.run_id}')</code>"
        self.tabs.layout.display = None
        self._draw()

    def close_run(self) -> None:
        """Open nothing, as before the first `show`."""
        self.run, self.said.value, self.tabs.layout.display = None, "", "none"

    def _draw(self) -> None:
        """Fill the tab that is in view, unless it is filled."""
        index, n = self.tabs.selected_index, self.network
        if index is None or index in self._drawn:
            return
        figures = (n.confusion_figure, n.misread_figure, n.weights_figure, n.layers_figure)
        content = picture(figures[index]()) if index < len(figures) else self._canvas
        self.tabs.children[index].children = [widgets.HTML(f"<p>{[*NOTES.values()][index]}</p>"), content]
        self._drawn.add(index)
        if content is self._canvas:
            (self._predict if any(self.sketch.pixels) else self._lay)()

    def _lay(self) -> None:
        """Put the picked test image on the canvas."""
        self.sketch.lay(self.network.data.test_images[self.index.value].numpy())
        self._predict()

    def _predict(self) -> None:
        """Read what is on the canvas."""
        image, n, index = self.sketch.image(), self.network, self.index.value
        as_picked = np.array_equal(image.ravel(), n.data.test_images[index].numpy())
        name = html.escape(n.names[int(n.data.test_labels[index])])
        self.truth.value = f"It is: <b>{name}</b>" if as_picked else "Drawn by hand"
        self.read.value = bars(n.names, n.probabilities(image[None])[0])
