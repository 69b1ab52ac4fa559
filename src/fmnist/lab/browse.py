"""The panel of the notebook `runs`: the store as a table; compare, open and remove what is picked in it."""

import io
import itertools

import ipywidgets as widgets
import pandas as pd
from itables import JavascriptFunction
from itables.widget import ITable
from ruamel.yaml import YAML

from fmnist import store
from fmnist.config import TRIAL_FIELDS, RunConfig
from fmnist.lab.network import NetworkPanel
from fmnist.lab.widgets import SAID, CopyAsStudy, Panel, described, picture
from fmnist.paper.publish import svg
from fmnist.plots.figures import curves
from fmnist.study import Study
from fmnist.tables import summary_table
from fmnist.words import count, differing, metric_of, setting

CURVES = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")  # what the panels draw
TEST, VAL = "test (%)", "validation (%)"
MEAN = f"{TEST}, mean"
NEWEST = 10_000  # most rows that are listed: a browser takes seconds for more
GROUPED = {"ids": ("run_id", list), MEAN: (TEST, "mean"), "runs": ("run_id", "size"), "diverged": ("diverged", "sum")}
GROUPED |= {f"{TEST}, {name}": (TEST, name) for name in ("std", "min", "max")}
FIRST = ["ids", "run_id", MEAN, TEST, VAL]  # stay in view
LOOK = {  # of DataTables: with a search by words and one by conditions; sorting, search and page outlast an update
    "layout": {"topStart": "pageLength", "topEnd": "search", "top2Start": "searchBuilder"}, "scrollX": True,
    "language": {"searchBuilder": {"title": {"0": "Conditions", "_": "Conditions (%d)"}}},
    "select": True, "order": [], "showIndex": False, "maxBytes": 0, "style": "width:100%;margin:0",
    "text_in_header_can_be_selected": False, "stateSave": True, "stateDuration": -1,
    "stateLoadParams": JavascriptFunction("function (settings, state) { delete state.select; }"),  # `refresh` picks
    "warn_on_undocumented_option": False,  # of DataTables by ITables: stateLoadParams is one
}  # fmt: skip


def study_of(configs: list[RunConfig]) -> Study:
    """The study that has them all: what they share as `base`, what differs as `variants`, named by it."""
    varied, variants, seeds = differing(configs), {}, {}
    for config in configs:
        row = config.model_dump(mode="json")
        name = ", ".join(setting(field, getattr(config, field)) for field in varied) or described(config)
        variants[name] = {field: row[field] for field in varied}
        seeds[name] = sorted([*seeds.get(name, []), config.seed])
    if any(own != seeds[name] for own in seeds.values()):
        variants = {name: variants[name] | {"seeds": own} for name, own in seeds.items()}
    return Study({field: row[field] for field in TRIAL_FIELDS if field not in varied}, variants, {}, seeds[name])


def study_yaml(configs: list[RunConfig], full: bool = False) -> str:
    """`study_of` for a file of `params/`: what is not the default, or in `full`, so that no other base changes it."""
    usual, spec, yaml = RunConfig().model_dump(mode="json"), study_of(configs).spec.model_dump(), YAML()
    spec["base"] = {name: value for name, value in spec["base"].items() if full or value != usual[name]}
    yaml.default_flow_style, yaml.width = None, 120
    yaml.dump(spec, text := io.StringIO())
    return text.getvalue()


def overview(runs: pd.DataFrame, by: str = "") -> pd.DataFrame:
    """`store.results()` for reading, a row a run, or a group of those that share `by`, a field or "trial" (all fields);
    what has one value in all rows is left out, but for names and scores.
    """
    if runs.empty:
        return pd.DataFrame({"ids": [], "run id": []})
    fields = [name for name in TRIAL_FIELDS if runs[name].nunique() > 1]
    scores = {TEST: 100 * runs["test_accuracy"], VAL: 100 * runs["val_accuracy"]}
    frame = runs.assign(ids=[[run_id] for run_id in runs["run_id"]], **scores)
    each = ["ids", "run_id", TEST, VAL, *fields, "seed", "best_epoch", "diverged", "seconds"]
    keys = {"": "run_id", "trial": fields or [*SAID]}.get(by, by)
    shown = frame.groupby(keys, sort=False).agg(**GROUPED).reset_index() if by else frame[each]
    names = sorted(shown, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    kept = [n for n in names if n in (*FIRST, keys) or len(shown) < 2 or shown[n].nunique() > 1]
    rounded = shown[kept].round(dict.fromkeys([TEST, VAL, *GROUPED, "seconds"], metric_of("test_accuracy").digits))
    return rounded.rename(columns=lambda name: name.replace("_", " "))


class Browse(Panel):
    """The panel; `group` is what a row stands for: "" for every run, "trial", or a field of run configs."""

    def __init__(self, group: str = ""):
        super().__init__()
        groups = [("every run", ""), *((name.replace("_", " "), name) for name in ("trial", *TRIAL_FIELDS))]
        self.group = widgets.Dropdown(options=groups, value=group, description="a row for", layout={"width": "280px"})
        self.table, self.network = ITable(pd.DataFrame({"run id": [""]}), **LOOK), NetworkPanel()
        self.plot, self.trials, self.counted, self.copy = picture(), widgets.HTML(), widgets.HTML(), CopyAsStudy()
        self.full = widgets.Checkbox(description="with every field", indent=False, layout={"width": "140px"})
        self.compare_button = self.button("Compare", self.compare, button_style="primary")
        self.open_button = self.button("Open network", lambda: self.network.show(self.picked[0]))
        self.remove_button = self.button("Remove …", self._ask)
        self.yes = self.button("", self._remove, button_style="danger", layout={"width": "auto"})
        self.clear_button = self.button("Clear", self.clear, tooltip="pick nothing and empty the plot")
        self.confirm = widgets.HBox([self.yes, self.button("Keep", self._picked_changed)])
        self._rows, self._curves = [], []  # run ids of each row; what is drawn
        self._seats, self._looks = {}, {}  # the look of each trial that is shown, kept for so long, by id and by name
        self.refresh()
        self.on(self.group, "value", self.refresh)
        self.on(self.table, "selected_rows", self._picked_changed)
        self.on(self.full, "value", self._write_study)
        top = widgets.HBox([self.group, self.button("Read again", self.refresh, icon="refresh")])
        buttons = [self.compare_button, self.clear_button, self.open_button, self.remove_button, self.copy, self.full]
        self.rows = widgets.VBox([top, self.table, self.counted, widgets.HBox(buttons), self.confirm])
        self.children = [self.rows, self.said, self.plot, self.trials, self.network]

    @property
    def picked(self) -> list[store.Run]:
        """The runs of the rows that are picked, in the table's order."""
        ids = [run_id for row in sorted(self.table.selected_rows) for run_id in self._rows[row]]
        return [run for run_id in ids if (run := store.load(run_id))]

    def refresh(self, also: tuple[store.Run, ...] = ()) -> None:
        """Read the store again; rows whose runs were all picked stay so, and those of the runs `also` with them."""
        picked, new = ({run.run_id for run in runs} for runs in (self.picked, also))
        self.runs = store.results().sort_values("finished", ascending=False, kind="stable")
        by, before = self.group.value, [*self.table.selected_rows]
        frame = overview(self.runs[: None if by else NEWEST], by)[:NEWEST]
        self._rows = [*frame.pop("ids")]
        rows = [row for row, ids in enumerate(self._rows) if picked >= {*ids} or new & {*ids}]
        fixed = {"start": sum(name.replace(" ", "_") in FIRST or name in FIRST for name in frame)}
        self.table.update(frame, selected_rows=rows, fixedColumns=fixed, **LOOK)
        if rows == before:  # else it has been told
            self._picked_changed()

    def _picked_changed(self) -> None:
        self.confirm.layout.display = "none"  # a question about other rows
        runs = self.picked
        picked = f"{count(len(runs), 'run')} picked (Ctrl or Shift: several)"
        listed = f"the newest {NEWEST:,} rows of them are listed; " if len(self._rows) == NEWEST else ""
        self.counted.value = f"{len(self.runs):,} finished runs; {listed}{picked}"
        for button in (self.compare_button, self.open_button, self.remove_button):
            button.disabled = not runs
        self._write_study()

    def _write_study(self) -> None:
        configs = [run.config for run in self.picked]
        self.copy.text = study_yaml(configs, self.full.value) if configs else ""

    def clear(self) -> None:
        """Pick nothing, and draw nothing."""
        self.table.selected_rows = []
        self.compare()

    def compare(self) -> None:
        """Draw the curves of the picked runs, mean and band of each trial, above the report's table of trials."""
        configs, self._curves, self._looks, self.trials.value = [run.config for run in self.picked], [], {}, ""
        self._seat([config.trial_id for config in configs])
        if configs:
            study = study_of(sorted(configs, key=lambda config: self._seats[config.trial_id]))
            self._looks = {name: self._seats[runs[0].trial_id] for name, (_, runs) in study.trials.items()}
            table, self._curves = summary_table(study.runs()).printed.style.hide(), [study.history()]
            self.trials.value = table.set_table_attributes('cellpadding="5" style="text-align: left"').to_html()
        self._draw(self._curves, self._looks)

    def _seat(self, trials: list[str]) -> None:
        """Those trials that were shown last keep their look; the others get the first ones that are free."""
        if not trials:  # as for a moment between two picks
            return
        kept = {trial: self._seats[trial] for trial in trials if trial in self._seats}
        free = (seat for seat in itertools.count() if seat not in kept.values())
        self._seats = kept | {trial: next(free) for trial in dict.fromkeys(trials) if trial not in kept}

    def _draw(self, parts: list[pd.DataFrame], looks: dict[str, int], planned: int = 0) -> None:
        if parts:
            history = pd.concat(parts, ignore_index=True)
            until = max(1, planned, history["epochs"].max())
            self.plot.value = svg(curves(history, metrics=CURVES, looks=looks, until=until)).encode()
        self.plot.layout.display = None if parts else "none"

    def _ask(self) -> None:
        self._asked = [run.run_id for run in self.picked]
        self.yes.description = f"Yes, remove {count(len(self._asked), 'run')} for good"
        self.confirm.layout.display = None

    def _remove(self) -> None:
        for run_id in self._asked:
            store.remove(run_id)
        if self.network.run and self.network.run.run_id in self._asked:
            self.network.close_run()
        self.refresh()
        self.compare()
