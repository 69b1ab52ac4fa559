"""A progress bar for many trainings at once, with a time to go that holds for small and large networks alike."""

import sys
import time
from collections.abc import Callable, Sequence

from fmnist.config import RunConfig


def watched() -> bool:
    """Whether somebody sees a progress bar: at a terminal, or in a notebook."""
    ipython = sys.modules.get("IPython")
    return sys.stderr.isatty() or hasattr(ipython and ipython.get_ipython(), "kernel")


class Progress:
    """One bar for all runs, in units of work, so that its ETA holds for small and large networks alike."""

    def __init__(self, configs: Sequence[RunConfig], work: Callable[[RunConfig], float]):
        from tqdm.auto import tqdm

        form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} < {remaining}{postfix}"
        self.runs, self.runs_done, self.epochs, self.epochs_done = len(configs), 0, sum(c.epochs for c in configs), 0
        self.bar = tqdm(total=sum(map(work, configs)), bar_format=form, disable=not watched(), leave=False)
        self.begin = time.monotonic()
        self._describe()

    def _describe(self) -> None:
        self.bar.set_description_str(f"{self.runs_done} of {self.runs} runs", refresh=False)

    def advance(self, epochs: int, work: float, accuracy: float) -> None:
        self.epochs_done += epochs
        rate = self.epochs_done / (time.monotonic() - self.begin)
        done = f"{self.epochs_done:,} of {self.epochs:,} epochs, {rate:.3g} a second, val {accuracy:.1%}"
        self.bar.set_postfix_str(done, refresh=False)
        self.bar.update(work)

    def finished(self) -> None:
        self.runs_done += 1
        self._describe()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
