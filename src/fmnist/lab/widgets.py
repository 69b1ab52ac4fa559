"""What panels are made of: one thread for all they do, figures and tables as widgets, a canvas, a button that copies.

JupyterLab hands a widget's messages to the kernel's main thread or to a second one beside it, and training has a thread
of its own; widgets and Matplotlib are not made for that. A `Loop` has everything done in the main one, between cells.
"""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from pathlib import Path

import anywidget
import ipywidgets
import numpy as np
import pandas as pd
import traitlets
from matplotlib.figure import Figure

from fmnist.config import UserError
from fmnist.paper.publish import svg

SETTLE = 0.2  # seconds that messages which were sent before may still take, by the other thread
SIDE = 28
TEMPLATES = Path(__file__).parents[1] / "templates"


class Loop:
    """Made in a cell, it has calls done in the kernel's loop; without a kernel they are done at once.

    What a call raises would be seen by nobody: `failed` is told it in one line.
    """

    def __init__(self, failed: Callable[[str], None]):
        self._failed = failed
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None
        self._thread, self._context = threading.current_thread(), contextvars.copy_context()

    def later(self, call: Callable[[], object], seconds: float = 0.0) -> None:
        """Have it called in the loop in so many seconds, from any thread; without a kernel at once, or not at all."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.call_later, seconds, self._do, call, context=self._context)
        elif threading.current_thread() is self._thread:
            self._do(call)

    def soon(self, call: Callable[[], object]) -> Callable[[object], None]:
        """A handler for a widget's events, which calls at once in the panel's thread, else later there."""

        def handle(_: object) -> None:
            if threading.current_thread() is self._thread:
                self._do(call)
            else:
                self.later(call, SETTLE)

        return handle

    def _do(self, call: Callable[[], object]) -> None:
        try:
            call()
        except UserError as error:
            self._failed(str(error))
        except Exception as error:
            self._failed(f"{type(error).__name__}: {error}")


class Sketch(anywidget.AnyWidget):
    """A canvas to draw on with mouse, pen or finger; `pixels` are its 28 × 28 bytes (0 background, 255 ink), both ways.

    The brush is soft and about two pixels wide; the second mouse button, or Shift, rubs out.
    """

    _esm, _css = TEMPLATES / "sketch.js", TEMPLATES / "sketch.css"
    pixels = traitlets.Bytes(bytes(SIDE * SIDE)).tag(sync=True, from_json=lambda value, _: bytes(value))  # a memoryview

    def image(self) -> np.ndarray:
        """What is drawn, uint8 [28, 28]."""
        return np.frombuffer(self.pixels, np.uint8).reshape(SIDE, SIDE)

    def lay(self, image: np.ndarray) -> None:
        """Put an image, uint8 [28, 28] or [784], on the canvas."""
        self.pixels = np.ascontiguousarray(image, np.uint8).tobytes()


class CopyButton(anywidget.AnyWidget):
    """A button that puts `text` on the clipboard and says so; where the browser refuses, it shows the text."""

    _esm = TEMPLATES / "copy.js"
    label = traitlets.Unicode("Copy").tag(sync=True)
    text = traitlets.Unicode("").tag(sync=True)  # without any the button is disabled


def picture(figure: Figure | None = None) -> ipywidgets.Image:
    """A figure as a widget, sharp at every zoom; its `value`, an SVG, may be replaced in place."""
    layout = {"width": "100%", "max_width": "620px", "object_fit": "contain"}
    return ipywidgets.Image(value=svg(figure).encode() if figure else b"", format="svg+xml", layout=layout)


def table(frame: pd.DataFrame) -> ipywidgets.HTML:
    """A table of text as a widget, left aligned."""
    cells = {"selector": "th, td", "props": "text-align: left; padding: 2px 16px 2px 0"}
    return ipywidgets.HTML(frame.style.hide().set_table_styles([cells]).to_html())
