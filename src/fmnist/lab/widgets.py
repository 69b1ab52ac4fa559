"""What panels are made of: one thread for all they do, figures as widgets, a canvas, a button that copies."""

import asyncio
import contextvars
import html
import threading
from collections.abc import Callable
from pathlib import Path

import anywidget
import ipywidgets
import numpy as np
import traitlets
from matplotlib.figure import Figure

from fmnist.config import UserError
from fmnist.paper.publish import svg

SETTLE = 0.2  # seconds that messages which were sent before may still take, by the other thread
SIDE = 28
TEMPLATES = Path(__file__).parents[1] / "templates"


class Panel(ipywidgets.VBox):
    """A panel of a notebook, which does everything in the thread of the cell that made it, the kernel's main one.

    JupyterLab hands a widget's messages to that thread or to a second one beside it, and training has a thread of its
    own; widgets and Matplotlib are not made for that. Without a kernel all is done at once. What goes wrong in a
    handler, which nobody would see, is said in one line.
    """

    def __init__(self) -> None:
        super().__init__()
        self.said = ipywidgets.HTML()
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None
        self._thread, self._context = threading.current_thread(), contextvars.copy_context()

    def say(self, text: str, bad: bool = False) -> None:
        self.said.value = f'<div style="line-height:1.4{";color:#7a1f1f" * bad}">{html.escape(text)}</div>'

    def later(self, call: Callable[[], object], seconds: float = 0.0) -> None:
        """From any thread, have it called in the panel's in so many seconds; without a kernel at once or not at all."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.call_later, seconds, self._do, call, context=self._context)
        elif threading.current_thread() is self._thread:
            self._do(call)

    def on(self, widget: ipywidgets.Widget, name: str, call: Callable[[], object]) -> None:
        """Call when the trait `name` of the widget changes: at once in the panel's thread, else later there."""
        here = self._thread
        widget.observe(
            lambda _: self._do(call) if threading.current_thread() is here else self.later(call, SETTLE), name
        )

    def button(self, name: str, call: Callable[[], object], **look: str) -> ipywidgets.Button:
        """A button that calls in the panel's thread, after the fields that were changed before it was clicked."""
        button = ipywidgets.Button(description=name, **look)
        button.on_click(lambda _: self.later(call, SETTLE))
        return button

    def _do(self, call: Callable[[], object]) -> None:
        try:
            call()
        except UserError as error:
            self.say(str(error), bad=True)
        except Exception as error:
            self.say(f"{type(error).__name__}: {error}", bad=True)


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
    value = svg(figure).encode() if figure else b""
    return ipywidgets.Image(value=value, format="svg+xml", layout={"width": "100%", "max_width": "620px"})
