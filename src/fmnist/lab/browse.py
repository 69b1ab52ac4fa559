"""The panel of the notebook `runs`: the store as a table; compare, open and remove what is picked in it.

The table is DataTables by `itables`: it sorts by a click on a column, filters by a word or by conditions, and brings
its scripts along, so that it needs no network.
"""

import html

import ipywidgets as widgets
import numpy as np
import pandas as pd
from itables.widget import ITable

from fmnist import store
from fmnist.config import RunConfig, UserError, nearest
from fmnist.lab.beside import CURVES, FIELDS, compared, curves_of, study_yaml, table_html
from fmnist.lab.inside import Inside, picture
from fmnist.lab.loop import Loop
from fmnist.lab.sketch import CopyButton
from fmnist.plots.curves import curves
from fmnist.words import count

USUAL = ("hidden_sizes", "optimizer", "lr", "epochs", "seed")  # columns that are shown even if all runs share them
SCORES = ("val_accuracy", "test_accuracy")
NO_GROUPS = "every run"
LOOK = {
    "select": True, "maxBytes": 0, "showIndex": False, "pageLength": 10, "lengthMenu": [10, 25, 100], "scrollX": True,
    "layout": {"topStart": "pageLength", "topEnd": "search", "top2Start": "searchBuilder"},
    "classes": "display compact nowrap", "style": "table-layout:auto;width:100%;margin:0",
}  # fmt: skip


def overview(results: pd.DataFrame) -> pd.DataFrame:
    """`store.results()` for reading: what differs, accuracies in percent, seconds; diverged runs say so."""
    varied = [n for n in RunConfig.model_fields if n in USUAL or results[n].nunique() > 1]
    frame = results[["run_id", *varied]].rename(columns=lambda name: name.replace("_", " "))
    for name in SCORES:
        frame[f"{name.replace('_', ' ')} (%)"] = (100 * results[name]).round(2)
    frame["best epoch"] = results["best_epoch"]
    frame["seconds"] = results["seconds"].astype(float).round(1)
    frame["diverged"] = np.where(results["diverged"].astype(bool), "yes", "")
    return frame


def grouped(results: pd.DataFrame, by: str) -> pd.DataFrame:
    """A row a group: how many runs and trials, how many diverged, mean and extremes of test accuracy in percent.

    `by` is a field, or "trial": all fields but the seed.
    """
    keys = _keys(results, by)
    percent = results.assign(score=100 * results["test_accuracy"], diverged=results["diverged"].astype(bool))
    found = percent.groupby(keys, sort=False, dropna=False)
    table = found.agg(
        runs=("run_id", "size"), diverged=("diverged", "sum"), mean=("score", "mean"),
        std=("score", "std"), lowest=("score", "min"), highest=("score", "max"),
    )  # fmt: skip
    names = {name: f"test {name} (%)" for name in ("mean", "std", "lowest", "highest")}
    return table.round(2).rename(columns=names).reset_index().rename(columns=lambda name: name.replace("_", " "))


def members(results: pd.DataFrame, by: str) -> list[list[str]]:
    """The run_ids of each row of `grouped`, in its order."""
    return [list(group["run_id"]) for _, group in results.groupby(_keys(results, by), sort=False, dropna=False)]


def _keys(results: pd.DataFrame, by: str) -> list[str]:
    return [n for n in FIELDS if results[n].nunique() > 1 or n in USUAL] if by == "trial" else [by]


class Browse(widgets.VBox):
    """The panel. `picked` are the picked runs; `run` is the one whose network is open, None before one is.

    `group` is what a row stands for: "" for every run, "trial", or a field of run configs; `UserError` for another.
    """

    def __init__(self, group: str = ""):
        if group not in ("", "trial", *FIELDS):
            raise UserError(f"group: {group!r} is unknown{nearest(group, ['trial', *FIELDS])}")
        self.inside = Inside()
        groups = [(NO_GROUPS, ""), ("trial", "trial"), *((name.replace("_", " "), name) for name in FIELDS)]
        self.group = widgets.Dropdown(options=groups, value=group, description="a row for", layout={"width": "280px"})
        self.reload = widgets.Button(description="Read again", icon="refresh")
        self.said = widgets.HTML()
        self.table = ITable(pd.DataFrame({"run id": [""]}), **LOOK)
        self.compare_button = widgets.Button(description="Compare", button_style="primary")
        self.open_button = widgets.Button(description="Open network")
        self.remove_button = widgets.Button(description="Remove …")
        self.yes = widgets.Button(description="Yes, remove", button_style="danger")
        self.no = widgets.Button(description="Keep")
        self.ask = widgets.HTML()
        self.confirm = widgets.HBox([self.ask, self.yes, self.no], layout={"display": "none"})
        self.copy = CopyButton(label="Copy as study")
        self.found = widgets.VBox()
        self._wire()
        self.refresh()
        top = widgets.HBox([self.group, self.reload])
        buttons = widgets.HBox([self.compare_button, self.open_button, self.copy, self.remove_button])
        super().__init__([top, self.table, self.said, buttons, self.confirm, self.found, self.inside])
        self.inside.title.value = ""

    def _wire(self) -> None:
        soon = Loop(lambda text: setattr(self.said, "value", html.escape(text))).soon
        self.group.observe(soon(self._fill), "value")
        self.reload.on_click(soon(self.refresh))
        self.table.observe(soon(self._count), "selected_rows")
        self.compare_button.on_click(soon(self._beside))
        self.open_button.on_click(soon(self._open))
        self.remove_button.on_click(soon(self._ask))
        self.yes.on_click(soon(self._remove))
        self.no.on_click(soon(self._close))

    @property
    def run(self) -> store.Run | None:
        """The run whose network is open."""
        return self.inside.run

    @property
    def picked(self) -> list[store.Run]:
        """The runs of the rows that are picked, in the table's order, less those removed elsewhere."""
        ids = [run_id for row in sorted(self.table.selected_rows) for run_id in self._rows[row]]
        return [run for run_id in ids if (run := store.load(run_id))]

    def refresh(self) -> None:
        """Read the store again."""
        self.results = store.results()
        self._fill()

    def _fill(self) -> None:
        by, results = self.group.value, self.results
        self._rows = members(results, by) if by else [[run_id] for run_id in results["run_id"]]
        self.table.update(grouped(results, by) if by else overview(results), selected_rows=[], **LOOK)
        self._count()

    def _count(self) -> None:
        self._close()  # a question about other rows
        runs = self.picked
        shared = [n for n in FIELDS if n not in USUAL and self.results[n].nunique() == 1]
        usual = RunConfig()
        odd = [n for n in shared if self.results[n].iloc[0] != usual.row()[n]]
        same = "; all have " + ", ".join(f"{n.replace('_', ' ')} {self.results[n].iloc[0]}" for n in odd) if odd else ""
        hint = f"{count(len(runs), 'run')} picked" if runs else "click rows to pick them, with Ctrl or Shift several"
        self.said.value = html.escape(f"{len(self.results):,} finished runs{same}; {hint}")
        for button in (self.compare_button, self.open_button, self.remove_button):
            button.disabled = not runs
        self.copy.text = study_yaml([run.config for run in runs]) if runs else ""

    def _beside(self) -> None:
        """Curves of the picked runs, mean and band of each trial, and a table of what differs alone."""
        if runs := self.picked:
            figure = curves(curves_of(runs), metrics=CURVES)
            self.found.children = [picture(figure), widgets.HTML(table_html(compared(runs)))]

    def _open(self) -> None:
        if runs := self.picked:
            self.inside.show(runs[0])

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
            self.found.children = []
            if self.run and store.load(self.run.run_id) is None:
                self.inside.close_run()
            self.refresh()
