"""Tables for `publish.table`: numbers, and the same as text, at most eight columns wide so that they fit a page.

A diverged run is in no mean, and every table says "diverged (2 of 6)" where one was lost.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from fmnist.statistics import best, compare, summary
from fmnist.words import AXES, MISSING, diverged, metric_of, name_of, number, probability
from fmnist.words import metric as written


@dataclass(frozen=True)
class Table:
    """A table for `publish.table`: its numbers, the same as print, and the runs that it rests on."""

    data: pd.DataFrame
    printed: pd.DataFrame  # of text, a row for each of data's
    run_ids: tuple[str, ...] = ()  # sorted


def run_ids(runs: pd.DataFrame | Iterable[pd.DataFrame] | None) -> tuple[str, ...]:
    """Ids of the runs in a frame, or in several, each once, sorted; a frame may lack the column `run_id`."""
    frames = [runs] if isinstance(runs, pd.DataFrame) else runs or []
    return tuple(sorted({run_id for frame in frames if "run_id" in frame for run_id in frame["run_id"].dropna()}))


def summary_table(
    runs: pd.DataFrame, by: str = "trial", baseline: str | pd.DataFrame | None = None, metric: str = "test_accuracy"
) -> Table:
    """One row a group: what it has, what it reaches, and how it differs from `baseline` (paired by seed).

    Printed: the group, Parameters (where they differ), Seeds, Validation (%; what it selects is marked "(best)"), the
    metric with its 95 % interval, "± batches" (standard deviation of accuracy over test batches of 256), and with a
    baseline, or comparisons made by `statistics.together`, Difference [95 %] (points or nats) and p (Holm).
    """
    data, val = summary(runs, by, metric), summary(runs, by, "val_accuracy")["mean"]
    data, measure = data.assign(val=val), metric_of(metric)
    chosen = best(runs, by) if val.notna().any() else None
    printed = {_head(by): data[by].map(name_of)}
    if "parameters" in runs and runs["parameters"].nunique() > 1:
        data["parameters"] = runs.groupby(by, sort=False)["parameters"].first().to_numpy()
        printed["Parameters"] = [number(size, 0) for size in data["parameters"]]
    lost = [diverged(row["diverged"], row["runs"]) for _, row in data.iterrows()]
    printed["Seeds"] = [f"{n}; {gone}" if n and gone else str(n) for n, gone in zip(data["n"], lost, strict=True)]
    marks = np.where(data[by] == chosen, " (best)", "")
    printed["Validation (%)"] = [written(mean, "val_accuracy") + mark for mean, mark in zip(val, marks, strict=True)]
    head = "Test (%)" if metric == "test_accuracy" else measure.axis.capitalize()
    means = [written(row["mean"], metric, row["low"], row["high"]) for _, row in data.iterrows()]
    printed[f"{head} [95 %]"] = np.where(data["n"] > 0, means, lost)
    if measure.unit == "points" and data["batch_std"].notna().any():
        printed["± batches"] = [written(spread, "test_accuracy") for spread in data["batch_std"]]
    if baseline is not None:
        compared = baseline if isinstance(baseline, pd.DataFrame) else compare(runs, baseline, by, metric)
        rows = compared.set_index(by).reindex(data[by])
        data = data.join(rows.drop(columns="metric").add_prefix("vs_"), on=by)
        printed |= _differences(rows)
    return Table(data, pd.DataFrame(printed), run_ids(runs))


def comparison_table(comparison: pd.DataFrame) -> Table:
    """`statistics.together`: a row a comparison with its trial, baseline, seeds, difference and Holm's p."""
    printed = {_head(comparison.columns[0]): comparison.iloc[:, 0].map(name_of)}
    printed |= {"Baseline": comparison["baseline"].map(name_of), "Seeds": comparison["n"].astype(str)}
    printed |= _differences(comparison)
    return Table(comparison, pd.DataFrame(printed))


def _head(column: str) -> str:
    return "lr" if column == "lr" else AXES.get(column, column.replace("_", " ")).capitalize()


def _differences(compared: pd.DataFrame) -> dict[str, list[str]]:
    """Two columns for rows of `compare`; a dash for a baseline itself (all NaN) and where no pair of runs is left."""
    rows, form = [row for _, row in compared.iterrows()], partial(written, signed=True)
    found = [form(r["difference"], r["metric"], r["low"], r["high"]) if r["n"] > 0 else MISSING for r in rows]
    p = [r["verdict"] if r["verdict"] == "too few seeds" else probability(r["p_holm"]) for r in rows]
    return {"Difference [95 %]": found, "p (Holm)": p}
