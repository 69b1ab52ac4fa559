"""Training that can be watched, and stopped at any moment: one trial's runs in a thread of their own.

The epochs that were finished by then are a run of a config with so many epochs, bit by bit, and are stored as that.
"""

import threading
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch

from fmnist import store
from fmnist.config import RunConfig, UserError
from fmnist.data import load
from fmnist.engine.train import HISTORY, Training
from fmnist.engine.workers import budget, footprint, resolve_device, settings


class Live:
    """One training of `configs`, which differ in their seeds alone; those in the store are taken from there.

    `state` is "training", then "finished", "stopped" or "failed" (`error` is why); `runs` are those stored. `changed()`
    is called after each epoch and at the end, in the training thread. Starting another one stops it.
    """

    _latest: "Live | None" = None

    def __init__(self, configs: Sequence[RunConfig], device: str = "auto", changed: Callable[[], None] = lambda: None):
        self.device, self.changed, self.total = resolve_device(device), changed, configs[0].epochs
        self.runs = [run for config in configs if (run := store.load(config.run_id, whole=True))]
        self.missing = [c for c in configs if c.run_id not in {run.run_id for run in self.runs}]
        self.epochs = 0 if self.missing else self.total
        self.state, self.error = "training", None
        self._curves, self._stop = np.zeros((0, len(self.missing), len(HISTORY))), threading.Event()
        self._thread = threading.Thread(target=self._run, name="fmnist live", daemon=True)

    def start(self) -> "Live":
        if Live._latest:
            Live._latest.stop()
            Live._latest.wait()
        Live._latest = self
        self._thread.start()
        return self

    def stop(self) -> None:
        """End it within a few batches."""
        self._stop.set()

    def wait(self, seconds: float | None = None) -> "Live":
        self._thread.join(seconds)
        return self

    def history(self) -> pd.DataFrame:
        """Curves so far of the runs that the store lacked: those of `Run.history`, run_id, seed, epochs (so far)."""
        curves = self._curves  # [epochs, runs, columns]; the thread replaces it
        frame = pd.DataFrame(curves.reshape(-1, len(HISTORY)), columns=HISTORY).astype({"epoch": int})
        ids, seeds = [c.run_id for c in self.missing], [c.seed for c in self.missing]
        return frame.assign(epochs=len(curves) - 1, run_id=ids * len(curves), seed=seeds * len(curves))

    def _run(self) -> None:
        try:
            state = self._train() if self.missing else "finished"
        except Exception as error:  # a thread's exception is seen by nobody
            state, self.error = "failed", error
        self.state = state
        self.changed()

    @torch.inference_mode()
    def _train(self) -> str:
        store.check_writable()
        needed, room = sum(sum(footprint(config)) for config in self.missing), budget(self.device, None, 1)
        if needed > room:
            said = f"these seeds need up to {needed / 1e6:,.0f} MB, of {room / 1e6:,.0f} free"
            raise UserError(f"memory: {said}; take fewer seeds, or a smaller network")
        state = "finished"
        with settings(self.device, 1):
            training = Training(self.missing, load(self.device, self.missing[0].dataset))
            try:
                while True:
                    self.epochs, self._curves = training.epochs, training.record.table()
                    self.changed()
                    if training.over:
                        break
                    before = {name: tensor.clone() for name, tensor in training.stack.state.items()}
                    training.epoch(self._stop)
            except KeyboardInterrupt:
                training.end(before)
                state = "stopped"
            if training.epochs or state == "finished":
                self.runs += map(store.save, training.finish())
        return state
