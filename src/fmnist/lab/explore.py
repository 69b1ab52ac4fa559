"""The panel of the notebook `explore`: train live, lay earlier runs beside it, open the network, copy it as a study.

Training goes on in a thread (`live`), all else in the kernel's main one (`widgets.Loop`).
"""

import html
import re
import time
from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin

import ipywidgets as widgets
import pandas as pd

from fmnist import store
from fmnist.config import TRIAL_FIELDS, RunConfig, UserError, sizes_text, validate, without_unused
from fmnist.engine.workers import devices, resolve_device
from fmnist.lab.browse import CURVES, described, labels, newest, study_of, study_yaml
from fmnist.lab.live import Live
from fmnist.lab.network import NetworkPanel
from fmnist.lab.widgets import SETTLE, CopyButton, Loop, picture, table
from fmnist.model import MLP
from fmnist.paper.publish import svg
from fmnist.plots.curves import curves
from fmnist.tables import summary_table
from fmnist.words import count, percent

START = {"hidden_sizes": [128], "lr": 0.1, "epochs": 5}
SHORT = {"hidden_sizes", "activation", "dropout", "batch_norm", "init", "optimizer", "lr", "batch_size", "epochs"}
PAUSE = 3  # times as long as a drawing took, before the next one
LOOK = {"layout": {"width": "270px"}, "style": {"description_width": "92px"}}
SEPARATED = r"\[?\s*(\d+(\s*{0}\s*\d+)*)?\s*\]?|none"


def whole_numbers(text: str, name: str, such_as: str, separator: str = r"[,\s]") -> list[int]:
    """ "0, 1 2" → [0, 1, 2]; "none" → []. Raises `UserError` for anything else."""
    if not re.fullmatch(SEPARATED.format(separator), text.strip()):
        raise UserError(f"{name}: should be whole numbers, such as {such_as} (got {text!r})")
    return [int(part) for part in re.findall(r"\d+", text)]


def field_widget(name: str, value: Any) -> widgets.Widget:
    """The widget for a field of run configs, by its type, choices and bounds."""
    field, about = RunConfig.model_fields[name], LOOK | {"description": name.replace("_", " ")}
    kind = field.annotation
    if get_origin(kind) is Literal:
        return widgets.Dropdown(options=get_args(kind), value=value, **about)
    if kind is bool:
        return widgets.Checkbox(value=value, **about)
    if kind not in (int, float):
        return widgets.Text(value=sizes_text(value), placeholder="none, 128 or 400-400", **about)
    bounds = {
        key: getattr(mark, key) for mark in field.metadata for key in ("ge", "gt", "le", "lt") if hasattr(mark, key)
    }
    whole = kind is int  # a bound that is not allowed itself stays in a field of floats: `validate` refuses it
    low, high = bounds.get("ge", bounds.get("gt", -1e9) + whole), bounds.get("le", bounds.get("lt", 1e9) - whole)
    bounded = widgets.BoundedIntText if whole else widgets.BoundedFloatText
    return bounded(value=value, min=kind(low), max=kind(high), step=1 if whole else None, **about)


class Form(widgets.VBox):
    """A field for each of a trial's, those of `SHORT` and of `base` in view at first; `base` holds the first values.

    Raises `UserError` for a base that no run config can have, or a device that is not there.
    """

    def __init__(self, base: dict[str, Any], seeds: list[int], device: str):
        first = validate(RunConfig, base, "base")
        resolve_device(device)
        self.fields = {name: field_widget(name, getattr(first, name)) for name in TRIAL_FIELDS}
        self.seeds = widgets.Text(", ".join(map(str, seeds)), description="seeds", **LOOK)
        self.device = widgets.Dropdown(options=devices(), value=device, description="device", **LOOK)
        self.all = widgets.ToggleButton(description="All fields", layout={"width": "90px"})
        self.all.observe(lambda _: self._lay(base), "value")
        super().__init__()
        self._lay(base)

    def _lay(self, base: dict[str, Any]) -> None:
        shown = [field for name, field in self.fields.items() if self.all.value or name in {*SHORT, *base}]
        self.children = [*shown, self.seeds, self.device]

    def configs(self) -> list[RunConfig]:
        """What the form asks for, a config a seed, less what does not apply. `UserError` for what is not allowed."""
        values = {name: field.value for name, field in self.fields.items()}
        sizes = whole_numbers(values["hidden_sizes"], "hidden sizes", "400-400, or none", r"[-,\s]")
        values = without_unused(values | {"hidden_sizes": sizes})
        seeds = whole_numbers(self.seeds.value, "seeds", "0, 1, 2")
        if not seeds:
            raise UserError("seeds: there should be one or more, such as 0, 1, 2")
        return [validate(RunConfig, values | {"seed": seed}, "form") for seed in dict.fromkeys(seeds)]


class Explore(widgets.VBox):
    """The panel. `base` are a run config's first values, `seeds` are trained together, `device` as in `Study.run`.

    `run` is the run that is open (its `.model()`, `.history()` …), `live` the training that began last. Raises
    `UserError` for a `base` that no run config can have.
    """

    def __init__(self, base: dict | None = None, seeds: list[int] | None = None, device: str = "auto"):
        self.form, self.network = Form(base or START, seeds or [0], device), NetworkPanel()
        self.live: Live | None = None
        self.trials: dict[str, list[store.Run]] = {}  # all of the store, by trial_id
        self._order: list[str] = []  # the trials that are shown, as they came: each keeps its colour
        self._loop = Loop(lambda text: self._say(text, bad=True))
        self._told, self._next, self._quiet = False, 0.0, False
        self.train_button = widgets.Button(description="Train", button_style="primary", icon="play")
        self.stop_button = widgets.Button(description="Stop", icon="stop", disabled=True)
        self.bar, self.said = widgets.IntProgress(0, 0, 1, layout={"width": "270px"}), widgets.HTML()
        self.plot, self.found = picture(), widgets.VBox()
        self.shown = widgets.SelectMultiple(rows=6, layout={"width": "100%", "max_width": "920px"})
        self.reload = widgets.Button(description="Read again", icon="refresh", layout={"width": "110px"})
        self.clear = widgets.Button(description="Clear", layout={"width": "80px"})
        self.opened = widgets.Dropdown(description="open", layout={"width": "620px"})
        self.copy = CopyButton(label="Copy as study")
        self.study = widgets.Textarea(layout={"width": "100%", "max_width": "920px", "height": "130px"})
        self.refresh()
        self._wire()
        super().__init__(self._parts())

    def _parts(self) -> list[widgets.Widget]:
        left = widgets.VBox([self.form, widgets.HBox([self.train_button, self.stop_button, self.form.all]), self.bar])
        left.children += (self.said,)
        left.layout, right = widgets.Layout(width="290px", margin="0 10px 0 0"), widgets.VBox([self.plot, self.found])
        right.layout = widgets.Layout(flex="1 1 400px", min_width="400px")
        beside = widgets.HTML("<b>Shown</b>: every trial of the store; Ctrl-click or Shift-click for several")
        study = widgets.HTML("<b>As a study</b>, for a file of <code>params/</code>: what is shown, else the form")
        return [
            widgets.HBox([left, right], layout={"flex_flow": "row wrap"}),
            widgets.HBox([beside, self.reload, self.clear]), self.shown, self.opened, self.network,
            study, self.study, self.copy,
        ]  # fmt: skip

    def _wire(self) -> None:
        soon = self._loop.soon
        self.train_button.on_click(lambda _: self._loop.later(self.train, SETTLE))  # after all fields of the form
        self.stop_button.on_click(lambda _: self.stop())
        self.reload.on_click(soon(self.refresh))
        self.clear.on_click(lambda _: setattr(self.shown, "value", ()))
        self.shown.observe(soon(self._shown_changed), "value")
        self.opened.observe(soon(self._open), "value")
        for field in (*self.form.fields.values(), self.form.seeds):
            field.observe(soon(self._write_study), "value")

    @property
    def run(self) -> store.Run | None:
        """The run that is open below the curves."""
        return self.network.run

    @property
    def model(self) -> MLP | None:
        """Its network, in evaluation mode."""
        return self.run.model() if self.run else None

    def train(self) -> None:
        """Train what the form asks for, unless it is in the store; returns at once."""
        if self.live and self.live.state == "training":
            return
        self.live = Live(self.form.configs(), self.form.device.value, self._changed)
        self.train_button.disabled, self.stop_button.disabled = True, False
        self._say("reading the data …")
        self.bar.max, self.bar.value, self.bar.bar_style = self.live.total, 0, ""
        self.live.start()

    def stop(self) -> None:
        """Stop the training at once; the epochs that were finished are kept."""
        if self.live:
            self.stop_button.disabled = True
            self.live.stop()

    def wait(self, seconds: float | None = None) -> "Explore":
        """Until the training has ended, or for so many seconds; the panel is brought up to date."""
        if self.live:
            self.live.wait(seconds)
            self._update()
        return self

    def refresh(self, also: Iterable[str] = (), opened: str | None = None) -> None:
        """Read the store again: the list of trials, the last one first; show the trials `also`, open run `opened`."""
        chosen, self.trials = {*self.shown.value, *also}, {}
        for run in newest():
            self.trials.setdefault(run.config.trial_id, []).append(run)
        self._quiet = True  # new options take every choice back
        self.shown.options = [
            (f"{described(runs[0].config)} · {count(len(runs), 'seed')}", trial) for trial, runs in self.trials.items()
        ]
        self.shown.value = [trial for trial in self.trials if trial in chosen]
        self._quiet = False
        self._shown_changed(opened)

    def _changed(self) -> None:
        """In the training thread: have the panel brought up to date, once for all that has happened by then."""
        over = self.live.state != "training"
        if over or not self._told:
            self._told = True
            self._loop.later(self._update, 0 if over else max(0, self._next - time.monotonic()))

    def _update(self) -> None:
        """Bring bar, curves and buttons up to date with the training; at its end, what was stored."""
        self._told, live, begin = False, self.live, time.monotonic()
        state = live.state  # once: the thread may end meanwhile
        self.bar.value = live.epochs
        if state == "training":
            history = live.history()
            accuracy = percent(history.loc[history["epoch"] == live.epochs, "val_accuracy"].mean())
            self._say(f"epoch {live.epochs} of {live.total}, validation accuracy {accuracy}")
            self._draw()
        elif self.train_button.disabled:  # else it has been seen
            self._ended(state)
        self._next = time.monotonic() + PAUSE * (time.monotonic() - begin)

    def _ended(self, state: str) -> None:
        live, self.train_button.disabled, self.stop_button.disabled = self.live, False, True
        self.bar.bar_style = {"finished": "success", "stopped": "warning"}.get(state, "danger")
        trials = {run.config.trial_id for run in live.runs if live.epochs}
        self.refresh(trials, live.runs[-1].run_id if trials else None)
        kept = f"kept as runs of {count(live.epochs, 'epoch')}" if live.epochs else "no epoch was finished"
        already = "all of it was in the store already" if not live.missing else "in the store"
        said = {"failed": live.error, "stopped": f"stopped; {kept}", "finished": f"finished; {already}"}[state]
        self._say(said, bad=state == "failed")

    def _runs(self) -> list[store.Run]:
        return [run for trial in self._order for run in self.trials[trial]]

    def _shown_changed(self, opened: str | None = None) -> None:
        if self._quiet:
            return
        kept = [trial for trial in self._order if trial in self.shown.value]
        self._order = [*kept, *(trial for trial in reversed(self.shown.value) if trial not in kept)]
        configs, wanted = [run.config for run in self._runs()], opened or self.opened.value
        names = labels(configs)
        self._quiet = True  # new options open the first of them
        self.opened.options = [(f"{names[config.trial_id]}, seed {config.seed}", config.run_id) for config in configs]
        if wanted in [config.run_id for config in configs]:
            self.opened.value = wanted
        self._quiet = False
        study = study_of(configs) if configs else None
        self._laid = [study.history()] if study else []  # the curves of what is shown
        self.found.children = [table(summary_table(study.runs()))] if study else []
        self._open()
        self._draw()
        self._write_study()

    def _open(self) -> None:
        if not self._quiet and self.opened.value and (self.run is None or self.run.run_id != self.opened.value):
            self.network.show(store.load_run(self.opened.value), self.opened.label.rpartition(", seed")[0])

    def _draw(self) -> None:
        """Curves of what is shown, and of what is in training."""
        parts = list(self._laid)
        if self.live and self.live.state == "training" and self.live.missing:
            parts.append(self.live.history().assign(trial=f"in training: {described(self.live.configs[0])}"))
        if parts:
            self.plot.value = svg(curves(pd.concat(parts, ignore_index=True), metrics=CURVES)).encode()
        self.plot.layout.display = None if parts else "none"

    def _write_study(self) -> None:
        try:
            self.study.value = self.copy.text = study_yaml([r.config for r in self._runs()] or self.form.configs())
        except UserError as error:
            self.study.value, self.copy.text = f"# {error}", ""

    def _say(self, text: str, bad: bool = False) -> None:
        self.said.value = f'<div style="line-height:1.4{";color:#7a1f1f" * bad}">{html.escape(text)}</div>'
