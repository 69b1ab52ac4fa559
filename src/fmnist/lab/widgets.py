"""What panels are made of: one thread for all they do, figures as widgets, a canvas, a button that copies."""

import asyncio
import contextvars
import html
from collections.abc import Callable
from contextlib import suppress
from threading import current_thread

import anywidget
import ipywidgets
import traitlets

from fmnist.config import INPUTS, TEMPLATES, RunConfig, UserError
from fmnist.words import differing, setting

SETTLE = 0.2  # seconds that messages which were sent before may still take, by the other thread
SAID = ("hidden_sizes", "optimizer", "lr", "epochs")  # names a trial that stands alone


class Panel(ipywidgets.VBox):
    """A panel of a notebook, which does everything in the thread of the cell that made it, and says what goes wrong:
    JupyterLab hands a widget's messages to that thread or to a second one, and training has one of its own; widgets
    and Matplotlib are not made for that. Without a kernel all is done at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.said, self._loop = ipywidgets.HTML(), None
        self._thread, self._context = current_thread(), contextvars.copy_context()
        with suppress(RuntimeError):  # without a kernel
            self._loop = asyncio.get_running_loop()

    def say(self, said: str | Exception) -> None:
        bad = isinstance(said, Exception)
        text = f"{type(said).__name__}: {said}" if bad and not isinstance(said, UserError) else str(said)
        self.said.value = f'<div style="line-height:1.4{";color:#7a1f1f" * bad}">{html.escape(text)}</div>'

    def later(self, call: Callable[[], object], seconds: float = 0.0) -> None:
        """From any thread, have it called in the panel's in so many seconds; without a kernel at once or not at all."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.call_later, seconds, self._do, call, context=self._context)
        elif current_thread() is self._thread:
            self._do(call)

    def on(self, widget: ipywidgets.Widget, name: str, call: Callable[[], object]) -> None:
        """Call when the trait `name` of the widget changes: at once in the panel's thread, else later there."""
        here = self._thread
        widget.observe(lambda _: self._do(call) if current_thread() is here else self.later(call, SETTLE), name)

    def button(self, name: str, call: Callable[[], object], **look: str) -> ipywidgets.Button:
        """A button that calls in the panel's thread, after the fields that were changed before it was clicked."""
        button = ipywidgets.Button(description=name, **look)
        button.on_click(lambda _: self.later(call, SETTLE))
        return button

    def _do(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:
            self.say(error)


class Sketch(anywidget.AnyWidget):
    """A canvas to draw on; `pixels` are its 28 × 28 bytes (0 background, 255 ink), both ways."""

    _esm, _css = TEMPLATES / "sketch.js", TEMPLATES / "sketch.css"
    pixels = traitlets.Bytes(bytes(INPUTS)).tag(sync=True, from_json=lambda value, _: bytes(value))  # a memoryview


class CopyAsStudy(anywidget.AnyWidget):
    """A button that puts `text` on the clipboard, disabled without any."""

    _esm = TEMPLATES / "copy.js"
    text = traitlets.Unicode("").tag(sync=True)


def picture(value: bytes = b"") -> ipywidgets.Image:
    """A figure as a widget, whose `value`, an SVG, may be replaced in place; hidden while there is none."""
    layout = {"width": "100%", "max_width": "620px", "display": None if value else "none"}
    return ipywidgets.Image(value=value, format="svg+xml", layout=layout)


def described(config: RunConfig) -> str:
    """A trial in words: layers, optimizer, learning rate, epochs, and whatever else is not the default."""
    more = [name for name in differing([config, RunConfig()]) if name not in SAID]
    return ", ".join(setting(name, getattr(config, name)) for name in (*SAID, *more))
