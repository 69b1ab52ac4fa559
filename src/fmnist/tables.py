"""Display-ready tables: DataFrames of strings for `publish.table`, at most eight columns wide so that they fit a page.

A diverged run is in no mean, and every table says "diverged (2 of 6)" where one was lost.
"""

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import pandas as pd

from fmnist.plots.style import in_order, name_of
from fmnist.statistics import best, compare, summary
from fmnist.words import AXES, MISSING, Metric, diverged, metric_of, number, percent, probability

HEADS = {"variant": "Variant", "trial": "Trial", "hidden_sizes": "Hidden layers", "lr": "lr"}


@dataclass(frozen=True)
class Table:
    """A table for `publish.table`: its numbers, the same as print, and the runs that it rests on."""

    data: pd.DataFrame
    printed: pd.DataFrame  # of text, a row for each of data's
    run_ids: tuple[str, ...] = ()  # sorted


def summary_table(
    runs: pd.DataFrame, by: str = "trial", baseline: str | pd.DataFrame | None = None, metric: str = "test_accuracy"
) -> pd.DataFrame:
    """One row a group: what it has, what it reaches, and how it differs from `baseline` (paired by seed).

    Columns: the group, Parameters (where they differ), Seeds, Validation (%), the metric with its 95 % interval,
    "± batches" (standard deviation of accuracy over test batches of 256: the spread of batches, not of seeds), and
    with a baseline, or comparisons made by `statistics.together`, Difference [95 %] (points or nats) and p (Holm). What
    validation selects is marked "(best)".
    """
    table, val = summary(runs, by, metric), summary(runs, by, "val_accuracy")
    measure = metric_of(metric)
    chosen = best(runs, by) if val["mean"].notna().any() else None
    names = table[by].map(name_of)
    found = {_head(by): names}
    if "parameters" in runs and runs["parameters"].nunique() > 1:
        sizes = runs.groupby(by, sort=False)["parameters"].first()
        found["Parameters"] = [MISSING if np.isnan(size) else f"{size:,.0f}" for size in sizes]
    found["Seeds"] = [_seeds(row) for _, row in table.iterrows()]
    selected = np.where(table[by] == chosen, " (best)", "")
    found["Validation (%)"] = [number(100 * mean) + mark for mean, mark in zip(val["mean"], selected, strict=True)]
    found[_metric_head(metric, measure)] = [_value(row, measure) for _, row in table.iterrows()]
    if measure.unit == "points" and table["batch_std"].notna().any():
        found["± batches"] = [number(100 * spread) for spread in table["batch_std"]]
    if baseline is not None:
        compared = baseline if isinstance(baseline, pd.DataFrame) else compare(runs, baseline, by, metric)
        rows = {row[by]: row for _, row in compared.iterrows()}
        found["Difference [95 %]"] = [_difference(rows.get(name), measure) for name in table[by]]
        found["p (Holm)"] = [_p(rows.get(name)) for name in table[by]]
    return pd.DataFrame(found).reset_index(drop=True)


def comparison_table(comparison: pd.DataFrame) -> pd.DataFrame:
    """`statistics.together` for print: a row a comparison with its trial, baseline, seeds, difference and Holm's p."""
    rows, measure = [row for _, row in comparison.iterrows()], metric_of(comparison["metric"].iloc[0])
    return pd.DataFrame({
        _head(comparison.columns[0]): comparison.iloc[:, 0].map(name_of),
        "Baseline": comparison["baseline"].map(name_of),
        "Seeds": comparison["n"].astype(str),
        "Difference [95 %]": [_difference(row, measure) for row in rows],
        "p (Holm)": [_p(row) for row in rows],
    })  # fmt: skip


def accuracy_grid(
    runs: pd.DataFrame, rows: str = "variant", columns: str = "lr", metric: str = "test_accuracy"
) -> pd.DataFrame:
    """Mean ± half the width of the 95 % interval over seeds, a cell each, in percent (nats for a loss)."""
    table, measure = summary(runs, [rows, columns], metric), metric_of(metric)
    table["cell"] = [_plus_minus(row, measure) for _, row in table.iterrows()]
    grid = table.pivot(index=rows, columns=columns, values="cell").fillna(MISSING)
    grid = grid.loc[list(dict.fromkeys(table[rows])), in_order(table[columns])]
    names = [name_of(value) for value in grid.columns]
    grid.columns = names if any(isinstance(value, str) for value in grid.columns) else [f"{columns} {n}" for n in names]
    grid.insert(0, _head(rows), [name_of(value) for value in grid.index])
    return grid.reset_index(drop=True)


def studies_table(studies: pd.DataFrame) -> pd.DataFrame:
    """`statistics.across_studies` for print: per study what validation selects, and how far the choices spread.

    The column Diverged is there only if a run did.
    """
    table = pd.DataFrame({
        "Study": studies["study"],
        "Trials": studies["trials"].astype(str),
        "Best on validation": studies["best"].fillna(MISSING),
        "Test (%) [95 %]": [_interval_of(row) for _, row in studies.iterrows()],
        "At best epoch (%)": [number(100 * value) for value in studies["stopped"]],
        "Worst on validation (test %)": [_worst(row) for _, row in studies.iterrows()],
        "Spread (points)": [number(100 * value) for value in studies["spread"]],
        "Diverged": [f"{a} of {b}" if a else "none" for a, b in zip(studies["diverged"], studies["runs"], strict=True)],
    })  # fmt: skip
    return table if studies["diverged"].any() else table.drop(columns="Diverged")


def pairs_table(pairs: pd.DataFrame) -> pd.DataFrame:
    """`statistics.worst_pairs` for print."""
    shares = [number(100 * share) for share in pairs["share"]]
    counts = [f"{value:,}" for value in pairs["count"]]
    return pd.DataFrame(
        {"Class": pairs["label"], "Read as": pairs["predicted"], "Images": counts, "Share of class (%)": shares}
    )


def _head(column: str) -> str:
    return HEADS.get(column) or AXES.get(column, column.replace("_", " ")).capitalize()


def _metric_head(metric: str, measure: Metric) -> str:
    name = {"test_accuracy": "Test (%)"}.get(metric) or measure.axis.capitalize()
    return f"{name} [95 %]"


def _seeds(row: pd.Series) -> str:
    return "; ".join(filter(None, [str(row["n"]), diverged(row["diverged"], row["runs"]) if row["n"] else ""]))


def _value(row: pd.Series, measure: Metric) -> str:
    if not row["n"]:
        return diverged(row["diverged"], row["runs"])
    if measure.unit == "points":
        return percent(row["mean"], row["low"], row["high"], sign=False)
    limits = f" [{number(row['low'], 3)}, {number(row['high'], 3)}]" if np.isfinite(row["low"]) else ""
    return number(row["mean"], 3) + limits


def _difference(row: pd.Series | None, measure: Metric) -> str:
    """ "+2.1 [1.8, 2.4]"; a dash for the baseline itself and where no pair of runs is left."""
    if row is None or not row["n"]:
        return MISSING
    digits = 1 if measure.unit == "points" else 3
    mean, low, high = (number(measure.scale * row[key], digits, True) for key in ("difference", "low", "high"))
    return f"{mean} [{low}, {high}]" if np.isfinite(row["low"]) else mean


def _p(row: pd.Series | None) -> str:
    if row is None:
        return MISSING
    return "too few seeds" if row["verdict"] == "too few seeds" else probability(row["p_holm"])


def _plus_minus(row: pd.Series, measure: Metric) -> str:
    failed, digits = diverged(row["diverged"], row["runs"]), 1 if measure.unit == "points" else 3
    if not row["n"]:
        return failed
    half = f" ± {number(measure.scale * (row['high'] - row['mean']), digits)}" if row["n"] > 1 else ""
    return ", ".join(filter(None, [number(measure.scale * row["mean"], digits) + half, failed]))


def _interval_of(row: pd.Series) -> str:
    return percent(row["test"], row["low"], row["high"], sign=False)


def _worst(row: pd.Series) -> str:
    return f"{row['worst']} ({number(100 * row['worst_test'])})" if isinstance(row["worst"], str) else MISSING


def environment_table() -> pd.DataFrame:
    """Software and machine, in two columns."""
    packages = ("torch", "torchvision", "numpy", "pandas", "matplotlib", "papermill", "nbconvert")
    rows = [("Python", platform.python_version())] + [(name, version(name)) for name in packages]
    rows += [("operating system", f"{platform.system()} {platform.machine()}")]
    rows += [("processor cores", str(os.cpu_count()))]
    return pd.DataFrame(rows, columns=["Component", "Version"])
