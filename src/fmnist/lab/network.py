"""A trained network opened up: its errors, its first weights, its layers' signals, and a canvas for it to read."""

import random

import ipywidgets as widgets
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure

from fmnist.config import OUTPUTS, TEST_IMAGES
from fmnist.data import NAMES, load
from fmnist.lab.widgets import Panel, Sketch, described, picture
from fmnist.model import MLP, as_inputs, images_and_labels
from fmnist.paper.publish import svg
from fmnist.plots.figures import confusion_matrix, image_grid
from fmnist.plots.style import COLORS, FAINT, figure, style
from fmnist.store import Run
from fmnist.use import probabilities
from fmnist.words import percent

BATCH = 512  # validation images on which signals and gradients are measured
NOTES = {
    "Confusion": "Each row is a true class of test images, each column what they are read as.",
    "Most confused": "Test images misread with the greatest probability: what they are, and what they are read as.",
    "First-layer weights": "Red pixels raise a neuron's input, blue ones lower it. Greatest norms first.",
    "Layers": f"On {BATCH} validation images, before training and after it; the last layer is the output.",
    "Draw or pick": "Draw a garment, or pick a test image and change it. Shift or the second mouse button rubs out.",
}


class Network:
    """A finished run's network with the data it was trained on, on the CPU."""

    def __init__(self, run: Run):
        self.run, self.config, self.model = run, run.config, run.model()
        self.names, self.data = NAMES[self.config.dataset], load(dataset=self.config.dataset)

    def confusion_figure(self) -> Figure:
        from sklearn import metrics  # here, because it takes a second

        matrix = metrics.confusion_matrix(self.data.test_labels, self.run.predictions(), labels=range(OUTPUTS))
        return confusion_matrix(matrix, self.names)

    def misread_figure(self) -> Figure:
        """Test images misread with the greatest probability, worst first, with the two classes' probabilities."""
        p, labels = probabilities([self.run.run_id])
        read = p.argmax(1)
        worst = np.argsort(-np.where(read == labels, 0, p.max(1)), kind="stable")[:12]
        both = [[f"{self.names[k]} {percent(p[i, k])}" for k in (labels[i], read[i])] for i in worst]
        return image_grid(self.data.test_images[worst].view(-1, 28, 28), list(map("\n→ ".join, both)), columns=4)

    def weights_figure(self) -> Figure:
        """The first layer's weights as images on one scale; without a hidden layer, one for each class."""
        weight = self.model.linears[0].weight.detach().double().numpy()  # [out, 784]
        titles = range(1, len(weight) + 1) if self.config.hidden_sizes else self.names
        order = np.argsort(-np.linalg.norm(weight, axis=1), kind="stable")[:32]
        rows, reach = -(-len(order) // 8), np.quantile(np.abs(weight), 0.995) or 1.0
        with style():
            fig = figure(0.88 * rows + 0.45)
            axes = fig.subplots(rows, 8, squeeze=False)
            for ax in axes.flat:
                ax.set_axis_off()
            for ax, index in zip(axes.flat, order, strict=False):
                shown = ax.imshow(weight[index].reshape(28, 28), cmap="RdBu_r", vmin=-reach, vmax=reach)
                ax.set_title(titles[index], loc="center", weight="normal", fontsize=8, pad=2)
            fig.colorbar(shown, ax=axes, location="bottom", fraction=0.04, aspect=60, pad=0.02, label="weight")
        return fig

    def layers_figure(self) -> Figure:
        """What passes through each layer on the first validation images, untrained beside trained."""
        x, labels = (part[:BATCH] for part in images_and_labels(self.config, self.data, "val"))
        measured = ("std of the layer's output", "share of outputs at zero", "norm of the weights' gradient")
        rows, palette, untrained = [], {"untrained": FAINT, "trained": COLORS[0]}, MLP(self.config).eval()
        untrained.norms.train()  # before training there are no running statistics to normalize by
        for name, model in (("untrained", untrained), ("trained", self.run.model())):
            outputs: list[torch.Tensor] = []
            model.activation.register_forward_hook(lambda *call, to=outputs: to.append(call[2]))
            outputs.append(model(x))
            torch.nn.functional.cross_entropy(outputs[-1], labels).backward()
            for layer, (out, linear) in enumerate(zip(outputs, model.linears, strict=True), 1):
                found = out.std().item(), (out == 0).double().mean().item(), linear.weight.grad.norm().item()
                rows.append({"network": name, "layer": layer} | dict(zip(measured, found, strict=True)))
        with style():
            fig = figure(2.3)
            for ax, y in zip(fig.subplots(1, 3), measured, strict=True):
                legend = y == measured[0]
                sns.barplot(pd.DataFrame(rows), x="layer", y=y, hue="network", palette=palette, legend=legend, ax=ax)
        return fig


def bars(names: tuple[str, ...], p: np.ndarray) -> str:
    """Probabilities [10] of the classes as bars, in HTML, the greatest in bold."""
    rows = pd.DataFrame({"name": names, "bar": 100 * p, "p": p}).style.format({"bar": lambda _: "", "p": percent})
    rows.bar("bar", vmin=0, vmax=100, color=COLORS[0], props="width: 180px;")
    rows.highlight_max("p", props="font-weight: bold")
    return rows.hide().hide(axis="columns").to_html()


class NetworkPanel(Panel):
    """A network in tabs, each drawn when first looked at; `run` is the run that is shown, None before there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.tabs = widgets.Tab([widgets.VBox() for _ in NOTES], titles=[*NOTES])
        self.sketch, self.truth, self.read = Sketch(), widgets.HTML(), widgets.HTML()
        self.index = widgets.BoundedIntText(0, 0, TEST_IMAGES - 1, description="test image", layout={"width": "190px"})
        another = self.button("Another", lambda: self.index.set_trait("value", random.randrange(TEST_IMAGES)))
        beside = [widgets.HBox([self.index, another]), self.truth, self.read]
        picked = widgets.VBox(beside, layout={"margin": "0 0 0 24px"})
        self._canvas = widgets.HBox([self.sketch, picked])
        self.close_run()
        self.on(self.tabs, "selected_index", self._draw)
        self.on(self.sketch, "pixels", self._predict)
        self.on(self.index, "value", self._lay)

    def show(self, run: Run) -> None:
        self.run, self.network, self._drawn = run, Network(run), set()
        inside = f"Inside {described(run.config)}, seed {run.config.seed}"
        reached = f"test accuracy {percent(run.row()['test_accuracy'])}"
        self.say(f"{inside}: {reached}. In Python: load_run('{run.run_id}')")
        self.children = [self.said, self.tabs]
        self._draw()

    def close_run(self) -> None:
        self.run, self.children = None, []

    def _draw(self) -> None:
        """Fill the tab that is in view, unless it is filled."""
        index, n = self.tabs.selected_index, self.network
        if index is None or index in self._drawn:
            return
        figures = (n.confusion_figure, n.misread_figure, n.weights_figure, n.layers_figure)
        content = picture(svg(figures[index]()).encode()) if index < len(figures) else self._canvas
        self.tabs.children[index].children = [widgets.HTML(f"<p>{[*NOTES.values()][index]}</p>"), content]
        self._drawn.add(index)
        if content is self._canvas:
            (self._predict if any(self.sketch.pixels) else self._lay)()

    def _lay(self) -> None:  # the picked test image on the canvas
        self.sketch.pixels = self.network.data.test_images[self.index.value].numpy().tobytes()

    def _predict(self) -> None:
        n, index = self.network, self.index.value
        image = torch.frombuffer(bytearray(self.sketch.pixels), dtype=torch.uint8)
        name = n.names[int(n.data.test_labels[index])]
        self.truth.value = f"It is: {name}" if image.equal(n.data.test_images[index]) else "Drawn by hand"
        p = n.model(as_inputs(image[None], n.config, n.data)).double().softmax(1)[0]
        self.read.value = bars(n.names, p.detach().numpy())
