"""A network opened up, in tabs: confusion, errors, first weights, signals of the layers, and a canvas to draw on.

A tab is drawn when first looked at. `Inside(run)` shows a run of the store; `show(run)` puts another in its place.
"""

import html
from collections.abc import Callable

import ipywidgets as widgets
import numpy as np
from matplotlib.figure import Figure

from fmnist.lab.anatomy import Anatomy
from fmnist.lab.loop import Loop
from fmnist.lab.sketch import Sketch
from fmnist.paper.publish import svg
from fmnist.store import Run

TITLES = ("Confusion", "Most confused", "First-layer weights", "Layers", "Draw or pick")
WAITING = "<p>Train a network, or lay an earlier one beside it: what it has learned is shown here.</p>"
NOTES = (
    "Each row is a true class, each column what the test images of it were taken for.",
    "Test images that were misread with the greatest probability, each with the class it has and the one it was given.",
    "What each hidden neuron looks for: red pixels raise its input, blue ones lower it. Greatest norms first.",
    "On 512 validation images, before training and after it; the last layer is the output.",
)


def picture(figure: Figure) -> widgets.Image:
    """The figure as a widget, sharp at every zoom; its `value` may be replaced in place."""
    return widgets.Image(value=svg(figure).encode(), format="svg+xml", layout=widgets.Layout(width="600px"))


def bars(names: tuple[str, ...], probabilities: np.ndarray) -> str:
    """Probabilities [10] of the classes as bars, in HTML, the greatest in bold."""
    best, rows = int(probabilities.argmax()), []
    for index, (name, p) in enumerate(zip(names, probabilities, strict=True)):
        weight = "bold" if index == best else "normal"
        rows.append(
            f'<div style="display:flex;align-items:center;line-height:1.55;font-weight:{weight}">'
            f'<span style="width:95px">{html.escape(name)}</span>'
            f'<span style="width:180px"><span style="display:block;height:11px;width:{100 * p:.1f}%;'
            f'background:{"#D55E00" if index == best else "#0072B2"}"></span></span>'
            f'<span style="width:60px;text-align:right">{p:.1%}</span></div>'
        )
    return "".join(rows)


class Inside(widgets.VBox):
    """The tabs; `run` is the run that is shown, None before there is one."""

    def __init__(self, run: Run | None = None):
        self.run: Run | None = None
        self.anatomy: Anatomy | None = None
        self._drawn: set[int] = set()
        self.title = widgets.HTML(WAITING)
        self.boxes = [widgets.VBox() for _ in TITLES]
        self.tabs = widgets.Tab(self.boxes, titles=TITLES)
        soon = Loop(lambda text: setattr(self.title, "value", html.escape(text))).soon
        self.tabs.observe(soon(self._draw), "selected_index")
        self.sketch, self.read = Sketch(), widgets.HTML()
        self.index = widgets.BoundedIntText(0, 0, 9_999, description="test image", layout={"width": "190px"})
        self.pick = widgets.Button(description="Another", tooltip="a test image by chance")
        self.truth = widgets.HTML()
        self._chance = np.random.default_rng(0)
        self.sketch.observe(soon(self._predict), "pixels")
        self.index.observe(soon(self._lay), "value")
        self.pick.on_click(lambda _: setattr(self.index, "value", int(self._chance.integers(10_000))))
        super().__init__([self.title, self.tabs])
        self.tabs.layout.display = "none"
        if run is not None:
            self.show(run)

    def show(self, run: Run, name: str = "") -> None:
        """Open this run's network."""
        self.run, self.anatomy, self._drawn = run, Anatomy(run), set()
        accuracy = run.metrics["test_accuracy"]
        reached = f"test accuracy {accuracy:.1%}" if accuracy is not None else "diverged"
        said = html.escape(name or f"{run.config.row()['hidden_sizes']}, {run.config.optimizer}, lr {run.config.lr:g}")
        self.title.value = (
            f"<b>Inside</b> {said}, seed {run.config.seed}: {reached}. In Python: <code>load_run('{run.run_id}')</code>"
        )
        self.tabs.layout.display = None
        self._draw()

    def close_run(self) -> None:
        """Open nothing, as before the first `show`."""
        self.run = self.anatomy = None
        self.title.value, self.tabs.layout.display = WAITING, "none"

    def _draw(self) -> None:
        """Fill the tab that is in view, unless it is filled."""
        index = self.tabs.selected_index
        if self.anatomy is None or index is None or index in self._drawn:
            return
        a = self.anatomy
        figures: tuple[Callable[[], Figure], ...] = (
            a.confusion_figure, a.misread_figure, a.weights_figure, a.layers_figure,
        )  # fmt: skip
        if index < len(figures):
            self.boxes[index].children = [widgets.HTML(f"<p>{NOTES[index]}</p>"), picture(figures[index]())]
            self._drawn.add(index)
            return
        hint = "<p>Draw a garment, or pick a test image and change it. Shift or the second mouse button rubs out.</p>"
        right = widgets.VBox([widgets.HBox([self.index, self.pick]), self.truth, self.read])
        right.layout.margin = "0 0 0 24px"
        row = widgets.HBox([self.sketch, right])
        self.boxes[index].children = [widgets.HTML(hint), row]
        self._drawn.add(index)
        if any(self.sketch.pixels):
            self._predict()
        else:
            self._lay()

    def _lay(self) -> None:
        """Put the picked test image on the canvas."""
        label = int(self.anatomy.data.test_labels[self.index.value])
        self._picked = self.anatomy.data.test_images[self.index.value].numpy()
        self._label = self.anatomy.names[label]
        self.sketch.lay(self._picked)
        self._predict()

    def _predict(self) -> None:
        """Read what is on the canvas."""
        image = self.sketch.image()
        as_picked = np.array_equal(image.ravel(), getattr(self, "_picked", None))
        self.truth.value = f"It is: <b>{html.escape(self._label)}</b>" if as_picked else "Drawn by hand"
        self.read.value = bars(self.anatomy.names, self.anatomy.probabilities(image[None])[0])
