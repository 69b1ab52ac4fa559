"""Processes of our own: begun apart from the script that wants them, and never left behind."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from types import ModuleType


@contextmanager
def apart() -> Iterator[None]:
    """Processes that start meanwhile do not run the caller's script again, and keep still at Ctrl-C."""
    main, signals = sys.modules["__main__"], getattr(signal, "pthread_sigmask", lambda *_: set())
    before = signals(signal.SIG_BLOCK, {signal.SIGINT})  # inherited
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        signals(signal.SIG_SETMASK, before)


def follow_parent(interrupted: bool) -> None:
    """In a process begun `apart`: it ends when its parent does, however that ends, and if it has before; by Ctrl-C only
    if it is to be `interrupted`.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL if interrupted else signal.SIG_IGN)
    getattr(signal, "pthread_sigmask", lambda *_: None)(getattr(signal, "SIG_UNBLOCK", 0), {signal.SIGINT})
    threading.Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()
