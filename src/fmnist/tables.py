"""Tables for `publish.table`: numbers, and the same as text, at most eight columns wide so that they fit a page.

A diverged run is in no mean, and every table says "diverged (2 of 6)" where one was lost.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import pandas as pd

from fmnist.statistics import best, compare, summary
from fmnist.words import MISSING, diverged, name_of, number, probability
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


def summary_table(runs: pd.DataFrame, baseline: str | pd.DataFrame | None = None) -> Table:
    """One row a trial: what it has, what it reaches, and how it differs from `baseline` (paired by seed).

    Printed: the trial, Parameters (where they differ), Seeds, Validation (%; what it selects is marked "(best)"), test
    accuracy with its 95 % interval, and with a baseline, or comparisons made by `statistics.together`, Difference
    [95 %] (points) and p (Holm).
    """
    data = summary(runs).assign(val=summary(runs, metric="val_accuracy")["mean"])
    chosen = best(runs) if data["val"].notna().any() else None
    printed = {"Trial": data["trial"].map(name_of)}
    if "parameters" in runs and runs["parameters"].nunique() > 1:
        data["parameters"] = runs.groupby("trial", sort=False)["parameters"].first().to_numpy()
        printed["Parameters"] = [number(size, 0) for size in data["parameters"]]
    rows = list(data.itertuples())
    lost = [diverged(row.diverged, row.runs) for row in rows]
    printed["Seeds"] = ["; ".join(filter(None, [str(row.n), gone])) for row, gone in zip(rows, lost, strict=True)]
    printed["Validation (%)"] = ["(best) " * (r.trial == chosen) + written(r.val, "val_accuracy") for r in rows]
    printed["Test (%) [95 %]"] = [written(row.mean, "test_accuracy", row.low, row.high) for row in rows]
    if baseline is not None:
        compared = baseline if isinstance(baseline, pd.DataFrame) else compare(runs, baseline)
        against = compared.set_index("trial").reindex(data["trial"])
        data = data.join(against.drop(columns="metric").add_prefix("vs_"), on="trial")
        form, rows = partial(written, signed=True), list(against.itertuples())
        found = [form(r.difference, r.metric, r.low, r.high) if r.n > 0 else MISSING for r in rows]
        p = [r.verdict if r.verdict == "too few seeds" else probability(r.p_holm) for r in rows]
        printed |= {"Difference [95 %]": found, "p (Holm)": p}
    return Table(data, pd.DataFrame(printed), run_ids(runs))
