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

MODULES = {name: f"fmnist.{name}" for name in ("data", "statistics", "store", "tables", "use", "words")}
MODULES |= {"figures": "fmnist.plots.figures", "reports": "fmnist.paper.report", "verify": "fmnist.paper.verify"}
__all__ = ["Run", "RunConfig", "Study", "UserError", "load_run", "record", "say", "show", "table", "train"]


def __getattr__(name: str):
    if name in MODULES:
        return import_module(MODULES[name])
    for home in ("config", "store", "study", "paper.publish") if name in __all__ else ():
        module = import_module(f"fmnist.{home}")
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"module 'fmnist' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *MODULES]
