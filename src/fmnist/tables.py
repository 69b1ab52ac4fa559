"""Tables for `publish.table`: numbers, and the same as text, at most eight columns wide so that they fit a page.

A diverged run is in no mean, and every table says "diverged (2 of 6)" where one was lost.
"""

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import pandas as pd

from fmnist.statistics import best, compare, in_order, summary
from fmnist.words import AXES, MISSING, diverged, metric, metric_of, name_of, number, percent, probability


@dataclass(frozen=True)
class Table:
    """A table for `publish.table`: its numbers, the same as print, and the runs that it rests on."""

    data: pd.DataFrame
    printed: pd.DataFrame  # of text, a row for each of data's
    run_ids: tuple[str, ...] = ()  # sorted


def summary_table(
    runs: pd.DataFrame, by: str = "trial", baseline: str | pd.DataFrame | None = None, metric: str = "test_accuracy"
) -> Table:
    """One row a group: what it has, what it reaches, and how it differs from `baseline` (paired by seed).

    Printed: the group, Parameters (where they differ), Seeds, Validation (%), the metric with its 95 % interval,
    "± batches" (standard deviation of accuracy over test batches of 256: the spread of batches, not of seeds), and
    with a baseline, or comparisons made by `statistics.together`, Difference [95 %] (points or nats) and p (Holm). What
    validation selects is marked "(best)".
    """
    data, val = summary(runs, by, metric), summary(runs, by, "val_accuracy")["mean"]
    data, measure = data.assign(val=val), metric_of(metric)
    chosen = best(runs, by) if val.notna().any() else None
    printed = {_head(by): data[by].map(name_of)}
    if "parameters" in runs and runs["parameters"].nunique() > 1:
        data["parameters"] = runs.groupby(by, sort=False)["parameters"].first().to_numpy()
        printed["Parameters"] = [number(size, 0) for size in data["parameters"]]
    printed["Seeds"] = [_seeds(row) for _, row in data.iterrows()]
    marks = np.where(data[by] == chosen, " (best)", "")
    printed["Validation (%)"] = [percent(mean, sign=False) + mark for mean, mark in zip(val, marks, strict=True)]
    head = "Test (%)" if metric == "test_accuracy" else measure.axis.capitalize()
    printed[f"{head} [95 %]"] = [_mean(row, metric) for _, row in data.iterrows()]
    if measure.unit == "points" and data["batch_std"].notna().any():
        printed["± batches"] = [percent(spread, sign=False) for spread in data["batch_std"]]
    if baseline is not None:
        compared = baseline if isinstance(baseline, pd.DataFrame) else compare(runs, baseline, by, metric)
        rows = compared.set_index(by).reindex(data[by])
        data = data.join(rows.drop(columns="metric").add_prefix("vs_"), on=by)
        printed |= _differences(row for _, row in rows.iterrows())
    return Table(data, pd.DataFrame(printed), _run_ids(runs))


def comparison_table(comparison: pd.DataFrame) -> Table:
    """`statistics.together`: a row a comparison with its trial, baseline, seeds, difference and Holm's p."""
    printed = {_head(comparison.columns[0]): comparison.iloc[:, 0].map(name_of)}
    printed |= {"Baseline": comparison["baseline"].map(name_of), "Seeds": comparison["n"].astype(str)}
    printed |= _differences(row for _, row in comparison.iterrows())
    return Table(comparison, pd.DataFrame(printed))


def accuracy_grid(
    runs: pd.DataFrame, rows: str = "variant", columns: str = "lr", metric: str = "test_accuracy"
) -> Table:
    """Mean ± half the width of the 95 % interval over seeds, a cell each, in percent (nats for a loss)."""
    data = summary(runs, [rows, columns], metric)
    cells = data.assign(cell=[_plus_minus(row, metric) for _, row in data.iterrows()])
    grid = cells.pivot(index=rows, columns=columns, values="cell").fillna(MISSING)
    grid = grid.loc[list(dict.fromkeys(data[rows])), in_order(data[columns])]
    texts = any(isinstance(value, str) for value in grid.columns)
    grid.columns = [name_of(value) if texts else f"{columns} {name_of(value)}" for value in grid.columns]
    grid.insert(0, _head(rows), [name_of(value) for value in grid.index])
    return Table(data, grid.reset_index(drop=True), _run_ids(runs))


def studies_table(studies: pd.DataFrame) -> Table:
    """`statistics.across_studies`: per study what validation selects, and how far the choices spread.

    The column Diverged is there only if a run did.
    """
    rows = list(studies.itertuples())
    worst = [f"{row.worst} ({percent(row.worst_test, sign=False)})" for row in rows]
    printed = pd.DataFrame({
        "Study": studies["study"],
        "Trials": studies["trials"].astype(str),
        "Best on validation": studies["best"].fillna(MISSING),
        "Test (%) [95 %]": [percent(row.test, row.low, row.high, sign=False) for row in rows],
        "At best epoch (%)": [percent(row.stopped, sign=False) for row in rows],
        "Worst on validation (test %)": np.where(studies["worst"].notna(), worst, MISSING),
        "Spread (points)": [metric(row.spread, "test_accuracy") for row in rows],
        "Diverged": [f"{row.diverged} of {row.runs}" if row.diverged else "none" for row in rows],
    })  # fmt: skip
    return Table(studies, printed if studies["diverged"].any() else printed.drop(columns="Diverged"))


def pairs_table(pairs: pd.DataFrame) -> Table:
    """`statistics.worst_pairs`."""
    printed = {"Class": pairs["label"], "Read as": pairs["predicted"], "Images": pairs["count"].map("{:,}".format)}
    printed["Share of class (%)"] = [percent(share, sign=False) for share in pairs["share"]]
    return Table(pairs, pd.DataFrame(printed))


def environment_table() -> Table:
    """Software and machine, in two columns."""
    packages = ("torch", "torchvision", "numpy", "pandas", "matplotlib", "papermill", "nbconvert")
    rows = [("Python", platform.python_version())] + [(name, version(name)) for name in packages]
    rows += [("operating system", f"{platform.system()} {platform.machine()}")]
    rows += [("processor cores", str(os.cpu_count()))]
    frame = pd.DataFrame(rows, columns=["Component", "Version"])
    return Table(frame, frame)


def _run_ids(runs: pd.DataFrame) -> tuple[str, ...]:
    return () if "run_id" not in runs else tuple(sorted(runs["run_id"].unique()))


def _head(column: str) -> str:
    return "lr" if column == "lr" else AXES.get(column, column.replace("_", " ")).capitalize()


def _seeds(row: pd.Series) -> str:
    failed = diverged(row["diverged"], row["runs"]) if row["n"] else ""
    return "; ".join(filter(None, [str(row["n"]), failed]))


def _mean(row: pd.Series, name: str) -> str:
    return metric(row["mean"], name, row["low"], row["high"]) if row["n"] else diverged(row["diverged"], row["runs"])


def _differences(rows) -> dict[str, list[str]]:
    """Two columns for rows of `compare`; a dash for a baseline itself (all NaN) and where no pair of runs is left."""
    found: dict[str, list[str]] = {"Difference [95 %]": [], "p (Holm)": []}
    for row in rows:
        limits = (row["low"], row["high"])
        found["Difference [95 %]"].append(
            metric(row["difference"], row["metric"], *limits, signed=True) if row["n"] > 0 else MISSING
        )
        found["p (Holm)"].append("too few seeds" if row["verdict"] == "too few seeds" else probability(row["p_holm"]))
    return found


def _plus_minus(row: pd.Series, name: str) -> str:
    failed = diverged(row["diverged"], row["runs"])
    if not row["n"]:
        return failed
    half = f" ± {metric(row['high'] - row['mean'], name)}" if row["n"] > 1 else ""
    return ", ".join(filter(None, [metric(row["mean"], name) + half, failed]))
