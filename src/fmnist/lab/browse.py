"""The panel of the notebook `runs`: the store as a table; compare, open and remove what is picked in it.

The table is DataTables by `itables`: it sorts by a click on a column, filters by a word or by conditions, and brings
its scripts along, so that it needs no network.
"""

import io
from collections.abc import Sequence, Set

import ipywidgets as widgets
import pandas as pd
from itables.widget import ITable
from ruamel.yaml import YAML

from fmnist import store
from fmnist.config import TRIAL_FIELDS, RunConfig, UserError, nearest
from fmnist.lab.network import NetworkPanel
from fmnist.lab.widgets import CopyButton, Panel, picture
from fmnist.paper.publish import svg
from fmnist.plots.curves import curves
from fmnist.study import Study, setting
from fmnist.tables import summary_table
from fmnist.words import count

CURVES = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")  # what the panels draw
SAID = ("hidden_sizes", "optimizer", "lr", "epochs")  # names a trial that stands alone
LOOK = {
    "select": True, "maxBytes": 0, "showIndex": False, "pageLength": 10, "lengthMenu": [10, 25, 100], "scrollX": True,
    "layout": {"topStart": "pageLength", "topEnd": "search", "top2Start": "searchBuilder"}, "order": [],
    "fixedColumns": {"start": 1}, "classes": "display compact nowrap", "style": "table-layout:auto;width:100%;margin:0",
}  # fmt: skip


def differing(configs: Sequence[RunConfig]) -> list[str]:
    """The fields, seed aside, that have more than one value."""
    return [name for name in TRIAL_FIELDS if len({getattr(config, name) for config in configs}) > 1]


def described(config: RunConfig) -> str:
    """A trial in words: layers, optimizer, learning rate, epochs, and whatever else is not the default."""
    more = [name for name in differing([config, RunConfig()]) if name not in SAID]
    return ", ".join(setting(name, getattr(config, name)) for name in (*SAID, *more))


def study_of(configs: Sequence[RunConfig]) -> Study:
    """The study that has them all: what they share as `base`, what differs as `variants`, named by it.

    Where trials have different seeds, each variant has its own.
    """
    trials: dict[str, list[RunConfig]] = {}
    for config in configs:
        trials.setdefault(config.trial_id, []).append(config)
    varied, variants = differing(configs), {}
    seeds = [sorted(config.seed for config in members) for members in trials.values()]
    alike = all(own == seeds[0] for own in seeds)
    for (config, *_), own in zip(trials.values(), seeds, strict=True):
        name = ", ".join(setting(field, getattr(config, field)) for field in varied) or described(config)
        row = config.model_dump(mode="json")
        variants[name] = {field: row[field] for field in varied} | ({} if alike else {"seeds": own})
    return Study({field: row[field] for field in TRIAL_FIELDS if field not in varied}, variants, {}, seeds[0])


def study_yaml(configs: Sequence[RunConfig]) -> str:
    """`study_of` for a file of `params/`.

    Every field is there, what is not the default first, so that neither a notebook's nor a report's base changes it.
    """
    usual, spec = RunConfig().model_dump(mode="json"), study_of(configs).spec.model_dump()
    spec["base"] = dict(sorted(spec["base"].items(), key=lambda item: item[1] == usual[item[0]]))
    yaml = YAML()
    yaml.default_flow_style, yaml.width = None, 120
    yaml.representer.ignore_aliases = lambda _: True
    yaml.dump(spec, text := io.StringIO())
    return text.getvalue()


def overview(runs: Sequence[store.Run], by: str = "") -> pd.DataFrame:
    """The runs for reading, accuracies in percent: `ids`, scores, and of the config only what differs.

    A row a run, or a group of those that share `by`, a field or "trial" (all fields): how many, mean and extremes.
    """
    frame, fields = pd.DataFrame([run.row() for run in runs]), differing([run.config for run in runs])
    if frame.empty:
        return pd.DataFrame({"ids": [], "run": []})
    frame["val (%)"], frame["test (%)"] = (100 * frame[name] for name in ("val_accuracy", "test_accuracy"))
    frame["diverged"] = frame["diverged"].astype(bool)
    if not by:
        frame["run"], frame["ids"] = frame["run_id"], [[run_id] for run_id in frame["run_id"]]
        scores = frame[["ids", "run", "test (%)", "val (%)"]].round(2)
        frame["diverged"] = frame["diverged"].map({True: "yes", False: ""})
        more = frame[[*fields, "seed", "best_epoch", "diverged"]].assign(seconds=frame["seconds"].round(1))
        return pd.concat([scores, more], axis=1).rename(columns=lambda name: name.replace("_", " "))
    keys, test = (fields or list(SAID)) if by == "trial" else [by], ("test (%)",)
    found = frame.groupby(keys, sort=False, dropna=False).agg(
        ids=("run_id", list), runs=("run_id", "size"), diverged=("diverged", "sum"), mean=(*test, "mean"),
        std=(*test, "std"), lowest=(*test, "min"), highest=(*test, "max"),
    )  # fmt: skip
    names = {name: f"test {name} (%)" for name in ("mean", "std", "lowest", "highest")}
    return found.round(2).rename(columns=names).reset_index().rename(columns=lambda name: name.replace("_", " "))


class Browse(Panel):
    """The panel. `picked` are the picked runs; `run` is the one whose network is open, None before one is.

    `group` is what a row stands for: "" for every run, "trial", or a field of run configs; `UserError` for another.
    """

    def __init__(self, group: str = ""):
        super().__init__()
        if group not in ("", "trial", *TRIAL_FIELDS):
            raise UserError(f"group: {group!r} is unknown{nearest(group, ['trial', *TRIAL_FIELDS])}")
        groups = [("every run", ""), *((name.replace("_", " "), name) for name in ("trial", *TRIAL_FIELDS))]
        self.group = widgets.Dropdown(options=groups, value=group, description="a row for", layout={"width": "280px"})
        self.table, self.network = ITable(pd.DataFrame({"run": [""]}), **LOOK), NetworkPanel()
        self.plot, self.trials, self.counted, self.ask = picture(), *(widgets.HTML() for _ in range(3))
        self.compare_button = self.button("Compare", self.compare, button_style="primary")
        self.open_button = self.button("Open network", self._open)
        self.remove_button = self.button("Remove …", self._ask)
        self.copy = CopyButton(label="Copy as study")
        self.yes = self.button("Yes, remove", self._remove, button_style="danger")
        self.confirm = widgets.HBox([self.ask, self.yes, self.button("Keep", self._close)])
        self._rows: list[list[str]] = []  # the run ids of each row
        self._order: list[str] = []  # the trials that are compared, as they came: each keeps its colour
        self._curves: list[pd.DataFrame] = []
        self.refresh()
        self.on(self.group, "value", self._fill)
        self.on(self.table, "selected_rows", self._picked_changed)
        top = widgets.HBox([self.group, self.button("Read again", self.refresh, icon="refresh")])
        buttons = [self.compare_button, self.open_button, self.copy, self.remove_button]
        self.rows = widgets.VBox([top, self.table, self.counted, widgets.HBox(buttons), self.confirm])
        self.children = [self.rows, self.said, self.plot, self.trials, self.network]

    @property
    def run(self) -> store.Run | None:
        """The run whose network is open."""
        return self.network.run

    @property
    def picked(self) -> list[store.Run]:
        """The runs of the rows that are picked, in the table's order, less those removed elsewhere."""
        ids = [run_id for row in sorted(self.table.selected_rows) for run_id in self._rows[row]]
        return [run for run_id in ids if (run := store.load(run_id))]

    def refresh(self, also: Sequence[store.Run] = ()) -> None:
        """Read the store again; what is picked stays so, and the rows of the runs `also` with it."""
        picked = {run.run_id for run in (*self.picked, *also)}
        self.runs = sorted(store.all_runs(), key=lambda run: run.record["finished"], reverse=True)
        self._fill(picked)

    def _fill(self, picked: Set[str] = frozenset()) -> None:
        frame = overview(self.runs, self.group.value)
        self._rows = list(frame.pop("ids"))
        before, rows = self.table.selected_rows, [row for row, ids in enumerate(self._rows) if picked & {*ids}]
        self.table.update(frame, selected_rows=rows, **LOOK)
        if rows == list(before):  # else it has been told
            self._picked_changed()

    def _picked_changed(self) -> None:
        self._close()  # a question about other rows
        runs = self.picked
        hint = f"{count(len(runs), 'run')} picked" if runs else "click rows to pick them, with Ctrl or Shift several"
        self.counted.value = f"{len(self.runs):,} finished runs; {hint}"
        for button in (self.compare_button, self.open_button, self.remove_button):
            button.disabled = not runs
        self.copy.text = study_yaml([run.config for run in runs]) if runs else ""

    def compare(self) -> None:
        """Draw the curves of the picked runs, mean and band of each trial, above the report's table of trials."""
        runs = {run.config.trial_id: run.config for run in self.picked}
        self._order = [*(trial for trial in self._order if trial in runs), *(t for t in runs if t not in self._order)]
        configs = sorted((run.config for run in self.picked), key=lambda c: self._order.index(c.trial_id))
        self._curves, self.trials.value = [], ""
        if configs:
            study = study_of(configs)
            self._curves, rows = [study.history()], summary_table(study.runs()).printed
            cells = {"selector": "th, td", "props": "text-align: left; padding: 2px 16px 2px 0"}
            self.trials.value = rows.style.hide().set_table_styles([cells]).to_html()
        self._draw(self._curves)

    def _draw(self, parts: list[pd.DataFrame]) -> None:
        if parts:
            self.plot.value = svg(curves(pd.concat(parts, ignore_index=True), metrics=CURVES)).encode()
        self.plot.layout.display = None if parts else "none"

    def _open(self) -> None:
        if runs := self.picked:
            self.network.show(runs[0], described(runs[0].config))

    def _ask(self) -> None:
        self._asked = [run.run_id for run in self.picked]
        self.ask.value = f"Remove {count(len(self._asked), 'run')} from the store, for good? &nbsp;"
        self.confirm.layout.display = None

    def _close(self) -> None:
        self.confirm.layout.display = "none"

    def _remove(self) -> None:
        try:
            for run_id in self._asked:
                store.remove(run_id)
        finally:
            if self.run and store.load(self.run.run_id) is None:
                self.network.close_run()
            self.refresh()
            self.compare()
