"""The panel of the notebook `explore`: the store as in `browse`, and a form from which to train live beside it."""

import json
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Literal, get_args, get_origin

import ipywidgets as widgets
import numpy as np
import pandas as pd

from fmnist import store
from fmnist.config import TRIAL_FIELDS, RunConfig, UserError, validate, without_unused
from fmnist.data import load
from fmnist.engine.train import HISTORY, Record, Result, train_stack
from fmnist.engine.workers import budget, devices, footprint, resolve_device, settings
from fmnist.lab.browse import Browse
from fmnist.lab.widgets import described
from fmnist.words import count, percent

SHORT = {"hidden_sizes", "activation", "dropout", "batch_norm", "init", "optimizer", "lr", "schedule", "batch_size"}
PAUSE = 3  # times as long as a drawing took, before the next one
LOOK = {"layout": {"width": "270px"}, "style": {"description_width": "92px"}}
FIELDS = {int: widgets.IntText, float: widgets.FloatText, bool: widgets.Checkbox}
LISTS = {"hidden_sizes": "none", "teachers": '{"dropout": 0.3}, {}'}  # what an empty one shows


def field_widget(name: str, value: Any) -> widgets.Widget:
    """The widget for a field of run configs, by its type and choices; a list is written as in JSON, "400, 400"."""
    kind, about = RunConfig.model_fields[name].annotation, LOOK | {"description": name.replace("_", " ")}
    if get_origin(kind) is Literal:
        return widgets.Dropdown(options=get_args(kind), value=value, **about)
    if kind in FIELDS:
        return FIELDS[kind](value=value, **about)
    return widgets.Text(json.dumps(value)[1:-1], placeholder=LISTS[name], **about)


class Form(widgets.VBox):
    """A field for each of a trial's, those of `SHORT` and of `base` in view at first; `base` holds the first values."""

    def __init__(self, base: dict[str, Any], seeds: list[int], device: str):
        first = validate(RunConfig, base, "base")
        resolve_device(device)
        self.fields = {name: field_widget(name, getattr(first, name)) for name in TRIAL_FIELDS}
        self.seeds = widgets.Text(", ".join(map(str, seeds)), description="seeds", **LOOK)
        self.device = widgets.Dropdown(options=devices(), value=device, description="device", **LOOK)
        seen = {*SHORT, "epochs", *base}
        few, more = ([each for name, each in self.fields.items() if (name in seen) is at] for at in (True, False))
        super().__init__([*few, self.seeds, self.device, widgets.Accordion([widgets.VBox(more)], titles=["More"])])

    def configs(self) -> list[RunConfig]:
        """What the form asks for, a config a seed, less what does not apply. `UserError` for what is not allowed."""
        values = {name: field.value for name, field in self.fields.items()} | {"seeds": self.seeds.value}
        for name in (*LISTS, "seeds"):
            with suppress(ValueError):  # what is no list stays text, which `validate` refuses
                values[name] = json.loads(f"[{values[name]}]")
        seeds = dict.fromkeys(values.pop("seeds"))
        return [validate(RunConfig, without_unused(values) | {"seed": seed}, "form") for seed in seeds]


class Live:
    """One training of `configs`, which differ in their seeds alone; those in the store are taken from there.

    Stopped, it keeps what `train_stack` does. `state` is "training", then "finished", "stopped" or "failed" (`error` is
    why); `runs` are those stored. `changed()` is called after each epoch and at the end, in the training thread.
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
        if Live._latest:  # one trains at a time
            Live._latest.stop()
            Live._latest.wait()
        Live._latest = self
        self._thread.start()
        return self

    def stop(self) -> None:  # within a few batches
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
            self.runs += map(store.save, self._train() if self.missing else [])
            self.state = "stopped" if self._stop.is_set() and self.epochs < self.total else "finished"
        except Exception as error:  # a thread's exception is seen by nobody
            self.error, self.state = error, "failed"
        self.changed()

    def _train(self) -> list[Result]:
        store.check_writable()
        needed, room = sum(sum(footprint(config)) for config in self.missing), budget(self.device, None, 1)
        if needed > room:
            said = f"these seeds need up to {needed / 1e6:,.0f} MB, of {room / 1e6:,.0f} free"
            raise UserError(f"memory: {said}; take fewer seeds, or a smaller network")
        with settings(self.device, 1):
            data = load(self.device, self.missing[0].dataset)
            return train_stack(self.missing, data, self._watch, self._stop, keep=True)

    def _watch(self, epoch: int, _: float, record: Record) -> None:
        self.epochs, self._curves = epoch, record.table()
        self.changed()


class Explore(Browse):
    """The panel; `base` are a run config's first values, and `seeds` are trained together."""

    live: Live | None = None  # the training that began last
    _told, _next = False, 0.0  # whether a drawing is due, and when at the earliest

    def __init__(self, base: dict[str, Any], seeds: list[int], device: str = "auto"):
        self.form = Form(base, seeds, device)
        super().__init__("trial")
        self.train_button = self.button("Train", self.train, button_style="primary", icon="play")
        self.stop_button = self.button("Stop", lambda: self.live.stop(), icon="stop", disabled=True)
        self.bar = widgets.IntProgress(0, 0, 1, layout={"width": "270px"})
        buttons = widgets.HBox([self.train_button, self.stop_button])
        layouts = {"width": "290px", "margin": "0 10px 0 0"}, {"flex": "1 1 400px", "min_width": "400px"}
        left = widgets.VBox([buttons, self.bar, self.said, self.form], layout=layouts[0])
        right = widgets.VBox([self.plot, self.trials], layout=layouts[1])
        self.children = [widgets.HBox([left, right], layout={"flex_flow": "row wrap"}), self.rows, self.network]
        self.compare_button.layout.display = "none"  # what is picked is drawn at once

    def train(self) -> None:
        """Train what the form asks for, unless it is in the store; returns at once."""
        if not self.train_button.disabled:
            self.live = Live(self.form.configs(), self.form.device.value, self._changed)
            self._seat([*self._seats])
            self.train_button.disabled, self.stop_button.disabled = True, False
            self.say("reading the data …")
            self.bar.max, self.bar.value = self.live.total, 0
            self.live.start()

    def _changed(self) -> None:
        """In the training thread: have the panel updated, once for all that has happened by then."""
        over = self.live.state != "training"
        if over or not self._told:
            self._told = True
            self.later(self._update, 0 if over else max(0, self._next - time.monotonic()))

    def _update(self) -> None:
        self._told, live, begin = False, self.live, time.monotonic()
        state = live.state  # once: the thread may end meanwhile
        self.bar.value = live.epochs
        if state == "training":
            history = live.history()
            accuracy = percent(history.loc[history["epoch"] == live.epochs, "val_accuracy"].mean())
            self.say(f"epoch {live.epochs} of {live.total}, validation accuracy {accuracy}")
            self._draw(self._curves, self._looks)
        elif self.train_button.disabled:  # else it has been seen
            self._ended(state)
        self._next = time.monotonic() + PAUSE * (time.monotonic() - begin)

    def _ended(self, state: str) -> None:
        live, self.train_button.disabled, self.stop_button.disabled = self.live, False, True
        kept = f"kept as runs of {count(live.epochs, 'epoch')}" if live.epochs else "no epoch was finished"
        if live.runs:
            if live.missing and live.missing[0].trial_id in self._seats:  # fewer epochs are another trial of that look
                self._seats[live.runs[-1].config.trial_id] = self._seats.pop(live.missing[0].trial_id)
            self.refresh(tuple(live.runs))
            self.network.show(live.runs[-1])
        self.say(live.error or f"{state}; {kept}")

    def _picked_changed(self) -> None:
        super()._picked_changed()
        self.compare()

    def _trained(self) -> list[RunConfig]:
        return self.live.missing[:1] if self.live and self.live.state == "training" else []

    def _seat(self, trials: list[str]) -> None:
        super()._seat([*trials, *(config.trial_id for config in self._trained())])

    def _draw(self, parts: list[pd.DataFrame], looks: dict[str, int], planned: int = 0) -> None:
        """Curves of what is picked, and of what is in training."""
        for config in self._trained():
            label, planned = f"in training: {described(config)}", self.live.total
            parts = [*parts, self.live.history().assign(trial=label)]
            looks = looks | {label: self._seats[config.trial_id]}
        super()._draw(parts, looks, planned)
