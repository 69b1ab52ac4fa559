"""Hyperparameter studies of small neural networks on Fashion-MNIST, from parameters to a paper.

Names are imported when first used: `import fmnist` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what editors complete from
    from fmnist.config import RunConfig, UserError
    from fmnist.paper.publish import record, say, show, table
    from fmnist.store import Run, load_run
    from fmnist.study import Study, train

_HOME = {
    **dict.fromkeys(("RunConfig", "UserError"), "config"),
    **dict.fromkeys(("Run", "load_run"), "store"),
    **dict.fromkeys(("Study", "train"), "study"),
    **dict.fromkeys(("record", "say", "show", "table"), "paper.publish"),
}
__all__ = ["Run", "RunConfig", "Study", "UserError", "load_run", "record", "say", "show", "table", "train"]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'fmnist' has no attribute {name!r}")
    return getattr(import_module(f"fmnist.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
