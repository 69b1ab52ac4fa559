"""The panel of the notebook `explore`: train live, lay earlier runs beside it, open the network, copy it as a study.

Training goes on in a thread (`live`), all else in the kernel's main one (`loop`).
"""

import html
import time
from collections.abc import Iterable

import ipywidgets as widgets
import pandas as pd

from fmnist import store
from fmnist.config import RunConfig, UserError
from fmnist.lab.beside import CURVES, by_trial, compared, curves_of, described, labels, study_yaml, table_html
from fmnist.lab.form import Form
from fmnist.lab.inside import Inside
from fmnist.lab.live import Live
from fmnist.lab.loop import SETTLE, Loop
from fmnist.lab.sketch import CopyButton
from fmnist.model import MLP
from fmnist.paper.publish import svg
from fmnist.plots.curves import curves
from fmnist.words import count

START = {"hidden_sizes": [128], "lr": 0.1, "epochs": 5}
PAUSE = 3  # times as long as a drawing took, before the next one


class Explore(widgets.VBox):
    """The panel. `base` are a run config's first values, `seeds` are trained together, `device` as in `Study.run`.

    `run` is the run that is open (its `.model()`, `.history()` …), `live` the training that began last. Raises
    `UserError` for a `base` that no run config can have.
    """

    def __init__(self, base: dict | None = None, seeds: list[int] | None = None, device: str = "auto"):
        self.form, self.inside = Form(base or START, seeds or [0], device), Inside()
        self.live: Live | None = None
        self._loop, self._told, self._next, self._quiet = (
            Loop(lambda text: self._say(text, bad=True)),
            False,
            0.0,
            False,
        )
        self._laid: list[pd.DataFrame] = []  # the curves of what is shown
        self.train_button = widgets.Button(description="Train", button_style="primary", icon="play")
        self.stop_button = widgets.Button(description="Stop", icon="stop", disabled=True)
        self.bar = widgets.IntProgress(0, 0, 1, layout={"width": "270px"})
        self.said = widgets.HTML("")
        self.plot = widgets.Image(format="svg+xml", layout={"width": "620px", "display": "none"})
        self.table = widgets.HTML("")
        wide = {"width": "auto", "min_width": "620px", "max_width": "920px"}
        self.shown = widgets.SelectMultiple(options=[], rows=6, layout=wide)
        self.reload = widgets.Button(description="Read again", icon="refresh", layout={"width": "110px"})
        self.opened = widgets.Dropdown(options=[], description="open", layout={"width": "620px"})
        self.copy = CopyButton(label="Copy as study")
        self.study = widgets.Textarea(layout={"width": "100%", "max_width": "920px", "height": "130px"})
        self.refresh()
        self._wire()
        super().__init__(self._parts())

    def _parts(self) -> list[widgets.Widget]:
        left = widgets.VBox([self.form, widgets.HBox([self.train_button, self.stop_button]), self.bar, self.said])
        left.layout.width, left.layout.margin = "300px", "0 10px 0 0"
        right = widgets.VBox([self.plot, self.table])
        beside = "<b>Shown</b>: every trial of the store; Ctrl-click or Shift-click for several"
        study = "<b>As a study</b>, for a file of <code>params/</code>: what is shown, or the form while nothing is"
        return [
            widgets.HBox([left, right], layout={"flex_flow": "row wrap"}),
            widgets.HBox([widgets.HTML(beside), self.reload]), self.shown, self.opened, self.inside,
            widgets.HTML(study), self.study, self.copy,
        ]  # fmt: skip

    def _wire(self) -> None:
        soon = self._loop.soon
        self.train_button.on_click(lambda _: self._loop.later(self.train, SETTLE))  # after all fields of the form
        self.stop_button.on_click(lambda _: self.stop())
        self.reload.on_click(soon(self.refresh))
        self.shown.observe(soon(self._shown_changed), "value")
        self.opened.observe(soon(self._open), "value")
        for name in (*self.form.fields, "seeds"):
            getattr(self.form, name).observe(soon(self._write_study), "value")

    @property
    def run(self) -> store.Run | None:
        """The run that is open below the curves."""
        return self.inside.run

    @property
    def model(self) -> MLP | None:
        """Its network, in evaluation mode."""
        return self.run.model() if self.run else None

    def train(self) -> None:
        """Train what the form asks for, unless it is in the store; returns at once."""
        if self.live and self.live.state == "training":
            return
        try:
            live = Live(self.form.configs(), self.form.device.value, self._changed)
        except UserError as error:
            self._say(str(error), bad=True)
            return
        self.live = live
        self.train_button.disabled, self.stop_button.disabled = True, False
        self._say("reading the data …")
        self.bar.max, self.bar.value, self.bar.bar_style = live.total, 0, ""
        live.start()

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
        runs = sorted(store.all_runs(), key=lambda run: run.record["finished"], reverse=True)
        self.trials, chosen = by_trial(runs), {*self.shown.value, *also}
        self._quiet = True  # new options take every choice back
        self.shown.options = [
            (f"{described(members[0].config)} · {count(len(members), 'seed')}", trial)
            for trial, members in self.trials.items()
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
            self._progress()
            self._draw()
        elif self.train_button.disabled:  # else it has been seen
            self._ended(state)
        self._next = time.monotonic() + PAUSE * (time.monotonic() - begin)

    def _progress(self) -> None:
        latest = self.live.history()
        latest = latest[latest["epoch"] == self.live.epochs]  # runs that were stored before are further
        reached = f", validation accuracy {latest['val_accuracy'].mean():.1%}" if len(latest) else ""
        self._say(f"epoch {self.live.epochs} of {self.live.total}{reached}")

    def _ended(self, state: str) -> None:
        live, self.train_button.disabled, self.stop_button.disabled = self.live, False, True
        self.bar.bar_style = {"finished": "success", "stopped": "warning"}.get(state, "danger")
        trials = {run.config.trial_id for run in live.runs if live.epochs}
        self.refresh(trials, live.runs[-1].run_id if trials else None)
        if state == "failed":
            self._say(live.error, bad=True)
            return
        kept = f"kept as runs of {count(live.epochs, 'epoch')}" if live.epochs else "no epoch was finished"
        already = "all of it was in the store already" if not live.missing else "in the store"
        self._say(f"stopped; {kept}" if state == "stopped" else f"finished; {already}")

    def _shown_changed(self, opened: str | None = None) -> None:
        if self._quiet:
            return
        runs = self._runs()
        names, wanted = labels([run.config for run in runs]), opened or self.opened.value
        options = [(f"{names[run.config.trial_id]}, seed {run.config.seed}", run.run_id) for run in runs]
        self._quiet = True  # new options open the first of them
        self.opened.options = options
        if wanted in [run_id for _, run_id in options]:
            self.opened.value = wanted
        self._quiet = False
        self._laid = [curves_of(runs)] if runs else []
        self.table.value = table_html(compared(runs)) if runs else ""
        self._open()
        self._draw()
        self._write_study()

    def _runs(self) -> list[store.Run]:
        return [run for trial in self.shown.value for run in self.trials[trial]]

    def _open(self) -> None:
        if not self._quiet and self.opened.value and (self.run is None or self.run.run_id != self.opened.value):
            self.inside.show(store.load_run(self.opened.value), self.opened.label.rpartition(", seed")[0])

    def _draw(self) -> None:
        """Curves of what is shown, and of what is in training."""
        parts = list(self._laid)
        if self.live and self.live.state == "training" and len(now := self.live.history()):
            parts.append(now.assign(trial=f"in training: {described(self.live.configs[0])}"))
        if parts:
            self.plot.value = svg(curves(pd.concat(parts, ignore_index=True), metrics=CURVES)).encode()
        self.plot.layout.display = None if parts else "none"

    def _write_study(self) -> None:
        try:
            configs: list[RunConfig] = [run.config for run in self._runs()] or self.form.configs()
            self.study.value = self.copy.text = study_yaml(configs)
        except UserError as error:
            self.study.value, self.copy.text = f"# {error}", ""

    def _say(self, text: str, bad: bool = False) -> None:
        self.said.value = f'<div style="line-height:1.4{";color:#7a1f1f" * bad}">{html.escape(text)}</div>'
