"""One thread for all that a panel does: the kernel's main one, between cells.

JupyterLab hands a widget's messages to the kernel's main thread or to a second one beside it, and training has a thread
of its own; widgets and Matplotlib are not made for that.
"""

import asyncio
import contextvars
import threading
from collections.abc import Callable

from fmnist.config import UserError

SETTLE = 0.2  # seconds that messages which were sent before may still take, by the other thread


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

    @property
    def here(self) -> bool:
        """Whether this is the panel's thread."""
        return threading.current_thread() is self._thread

    def later(self, call: Callable[[], object], seconds: float = 0.0) -> None:
        """Have it called in the loop in so many seconds, from any thread; without a kernel at once, or not at all."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.call_later, seconds, self._do, call, context=self._context)
        elif self.here:
            self._do(call)

    def soon(self, call: Callable[[], object]) -> Callable[[object], None]:
        """A handler for a widget's events, which calls at once in the panel's thread, else later there."""

        def handle(_: object) -> None:
            if self.here:
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
