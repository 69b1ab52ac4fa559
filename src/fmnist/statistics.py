"""What the runs say, in numbers: summaries over seeds, paired comparisons, selection on validation, confusion.

Functions take the DataFrames of `Study.runs()` (a row a run) and return one; nothing here trains, draws or prints.

Statistics, and why these. A seed sets split, batch order, initial weights and dropout masks, so runs with different
seeds are the replications, and runs of two trials with one seed share split and batch order: differences are taken
seed by seed. Intervals are Student's t over seeds, mean ± t(0.975, n − 1) s/√n, each for its own row. A difference is
claimed when the paired t test passes 0.05 after Holm's correction over the table (S. Holm, Scand. J. Statist. 6, 1979);
fewer than six pairs claim nothing. A diverged run has NaN metrics: it is in no mean, and it is counted in every table.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from fmnist.config import OUTPUTS, UserError
from fmnist.words import METRICS, metric_of

LEVEL = 0.95
MIN_PAIRS = 6
SELECTORS = ("val_accuracy", "best_val_accuracy", "val_loss")


def interval(values: np.ndarray | Sequence[float], level: float = LEVEL) -> tuple:
    """Mean and Student t interval of the finite `values` [..., seeds] along the last axis: (mean, low, high).

    The interval is NaN for fewer than two finite values, and the mean for none.
    """
    values = np.asarray(values, float)
    finite = np.isfinite(values)
    n = finite.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(finite, values, 0).sum(-1) / n
        squares = np.where(finite, values - mean[..., None], 0) ** 2
        half = stats.t.ppf((1 + level) / 2, n - 1) * np.sqrt(squares.sum(-1) / (n - 1) / n)
    return mean, mean - half, mean + half


def summary(runs: pd.DataFrame, by: str | list[str] = "trial", metric: str = "test_accuracy") -> pd.DataFrame:
    """One row a group, in order of appearance.

    Columns: `by`, n (finite runs), diverged (runs without a finite metric, or marked as diverged), runs, mean, low,
    high (95 % t interval over seeds), best, worst, batch_std (mean of `test_accuracy_std`, published reports' "±").
    Raises UserError for an unknown column, and for a group with two runs of one seed: those are not replications.
    """
    keys = [by] if isinstance(by, str) else list(by)
    _require(runs, *keys, metric, "seed")
    rows = []
    for key, group in runs.groupby(keys, sort=False, dropna=False):
        require_replications(group, key, metric)
        values = group[metric]
        finite, flagged = np.isfinite(values), group.get("diverged", pd.Series(False, group.index)).astype(bool)
        extremes = (values.max(), values.min())[:: 1 if metric_of(metric).higher_is_better else -1]
        spread = group["test_accuracy_std"].mean() if "test_accuracy_std" in group else np.nan
        counts = finite.sum(), (~finite | flagged).sum(), len(group)
        rows.append([*key, *map(int, counts), *interval(values), *extremes, spread])
    names = [*keys, "n", "diverged", "runs", "mean", "low", "high", "best", "worst", "batch_std"]
    return pd.DataFrame(rows, columns=names)


def compare(runs: pd.DataFrame, baseline: str, by: str = "trial", metric: str = "test_accuracy") -> pd.DataFrame:
    """Every other group against `baseline`, paired by seed, in order of appearance.

    Columns: `by`, baseline, metric, n (pairs with both metrics finite), diverged (pairs lost to it), difference (mean
    of group − baseline), low, high (95 % t interval), p (paired t), p_holm (of p, over the rows with six pairs or
    more), family (how many those are), verdict ("higher", "lower", "no difference detectable", "too few seeds"). Seeds
    that only one of the two has are in no pair. Raises UserError when `baseline` is not a group, and as `summary` does.
    """
    _require(runs, by, metric, "seed")
    groups = {}
    for name, group in runs.groupby(by, sort=False):
        require_replications(group, name, metric)
        groups[name] = group.set_index("seed")[metric]
    if baseline not in groups:
        raise UserError(f"compare: no {by} is called {baseline!r}; there are: {', '.join(map(str, groups))}.")
    reference, rows = groups.pop(baseline), []
    for name, values in groups.items():
        pairs = pd.concat([values, reference], axis=1, join="inner").to_numpy()
        found = np.isfinite(pairs).all(axis=1)
        differences = pairs[found, 0] - pairs[found, 1]
        p = _paired_p(differences)
        rows.append([name, baseline, metric, len(differences), int((~found).sum()), *interval(differences), p])
    names = [by, "baseline", "metric", "n", "diverged", "difference", "low", "high", "p"]
    return together([pd.DataFrame(rows, columns=names)])


def _paired_p(differences: np.ndarray) -> float:
    """p of the paired t test; its limits without variance: 1 where nothing differs, 0 where every pair does alike."""
    if len(differences) < 2:
        return np.nan
    if differences.std() <= 1e-9 * max(1.0, abs(differences.mean())):
        return float(abs(differences.mean()) <= 1e-9)
    return float(stats.ttest_1samp(differences, 0).pvalue)


def together(comparisons: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Several tables of `compare`, each with a baseline of its own, as one family: Holm's correction over all rows."""
    table = pd.concat(comparisons, ignore_index=True)
    tested = table["n"] >= MIN_PAIRS
    table["p_holm"] = np.nan
    table.loc[tested, "p_holm"] = holm(table.loc[tested, "p"].to_numpy(float))
    table["family"] = int(tested.sum())
    direction = np.where(table["difference"] > 0, "higher", "lower")
    found = np.where(table["p_holm"] < 1 - LEVEL, direction, "no difference detectable")
    table["verdict"] = np.where(tested, found, "too few seeds")
    return table


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's adjusted p values: the k-th smallest of m times m − k + 1, never falling, at most 1."""
    order = np.argsort(p)
    adjusted = np.maximum.accumulate(np.arange(len(p), 0, -1) * p[order]).clip(max=1)
    return adjusted[np.argsort(order)]


def best(runs: pd.DataFrame, by: str = "trial", metric: str = "val_accuracy") -> str:
    """The group with the highest mean on validation (lowest, for a loss); ties go to the first.

    A group with a diverged run is chosen only when every group has one: survivors flatter it.
    Raises UserError for a metric that is not of the validation split, and when every run diverged.
    """
    if metric not in SELECTORS:
        raise UserError(f"best: {metric!r} is not of the validation split; selection reads {', '.join(SELECTORS)}.")
    table = summary(runs, by, metric).dropna(subset="mean")
    if table.empty:
        raise UserError("best: every run diverged, so none can be selected; lower the learning rate.")
    if not table["diverged"].all():
        table = table[table["diverged"] == 0]
    row = table["mean"].idxmax() if METRICS[metric].higher_is_better else table["mean"].idxmin()
    return table.loc[row, by]


def best_per(runs: pd.DataFrame, within: str = "variant", by: str = "trial", metric: str = "val_accuracy") -> pd.Series:
    """Per value of `within`, the group best on validation: a Series, so `runs[runs.trial.isin(best_per(runs))]` works.

    A value of `within` whose runs all diverged is left out.
    """
    _require(runs, within, by, metric)
    groups = {name: group for name, group in runs.groupby(within, sort=False) if np.isfinite(group[metric]).any()}
    found = {name: best(group, by, metric) for name, group in groups.items()}
    return pd.Series(found, dtype=object, name=by).rename_axis(within)


def at_edge(runs: pd.DataFrame, tried: Sequence[float], field: str = "lr") -> list[str]:
    """The variants of `runs`, the selected ones, whose `field` is the least or the greatest of those `tried`."""
    chosen = runs.groupby("variant", sort=False)[field].first()
    return list(chosen[chosen.isin([min(tried), max(tried)])].index)


def across_studies(studies: Mapping[str, pd.DataFrame], by: str = "trial") -> pd.DataFrame:
    """One row a study: what validation selects, what that reaches on the test set, and how much the choices mattered.

    Columns: study, trials, runs, diverged, best (trial, on validation), n, val, test, low, high, stopped (mean test
    accuracy with the weights of each run's best validation epoch), worst (trial, on validation), worst_test, spread
    (highest − lowest mean test accuracy of its trials). NaN where every run diverged.
    """
    names = ["study", "trials", "runs", "diverged", "best", "n", "val", "test", "low", "high"]
    names += ["stopped", "worst", "worst_test", "spread"]
    rows = []
    for name, runs in studies.items():
        val, test = summary(runs, by, "val_accuracy").set_index(by)["mean"], summary(runs, by).set_index(by)
        row = {"study": name, "trials": len(test), "runs": len(runs), "diverged": int(test["diverged"].sum())}
        if val.notna().any():
            chosen, worst = best(runs, by), val.idxmin()
            row |= {"best": chosen, "n": test.loc[chosen, "n"], "val": val[chosen]}
            row |= dict(zip(["test", "low", "high"], test.loc[chosen, ["mean", "low", "high"]], strict=True))
            if "best_val_test_accuracy" in runs:
                row["stopped"] = runs.loc[runs[by] == chosen, "best_val_test_accuracy"].mean()
            row |= {"worst": worst, "worst_test": test.loc[worst, "mean"]}
            row["spread"] = test["mean"].max() - test["mean"].min()
        rows.append(row)
    return pd.DataFrame(rows, columns=names)


def confusion(labels: np.ndarray, predictions: np.ndarray, classes: int = OUTPUTS) -> np.ndarray:
    """Counts, int [classes, classes]: row = label, column = prediction."""
    labels, predictions = np.asarray(labels).astype(int).ravel(), np.asarray(predictions).astype(int).ravel()
    if labels.shape != predictions.shape:
        raise UserError(f"confusion: {len(labels)} labels but {len(predictions)} predictions.")
    return np.bincount(classes * labels + predictions, minlength=classes**2).reshape(classes, classes)


def worst_pairs(matrix: np.ndarray, names: Sequence[str], k: int = 5) -> pd.DataFrame:
    """The `k` most frequent confusions: label, predicted, count, share (of the images with that label)."""
    errors = np.array(matrix) - np.diag(np.diag(matrix))
    rows, columns = np.unravel_index(np.argsort(-errors, axis=None, kind="stable")[:k], errors.shape)
    counts, totals = errors[rows, columns], np.maximum(np.sum(matrix, axis=1), 1)
    found = {"label": [names[i] for i in rows], "predicted": [names[j] for j in columns]}
    return pd.DataFrame(found | {"count": counts, "share": counts / totals[rows]})[counts > 0]


def in_order(values: Sequence) -> list:
    """Each value once: numbers ascending, anything else in order of appearance."""
    found = list(dict.fromkeys(values))
    return found if any(isinstance(value, str) for value in found) else sorted(found)


def _require(frame: pd.DataFrame, *columns: str) -> None:
    missing = [column for column in columns if column not in frame]
    if missing:
        raise UserError(f"No column {', '.join(map(repr, missing))}; there are: {', '.join(map(str, frame.columns))}.")


def require_replications(group: pd.DataFrame, name: object, metric: str) -> None:
    """Raises UserError when two runs of `group` (a row a run) have one seed: they belong to different trials."""
    if group["seed"].duplicated().any():
        name = ", ".join(map(str, name)) if isinstance(name, tuple) else name
        raise UserError(
            f"{metric} of {name!r}: several runs have one seed, so they are not replications of one trial. "
            "Group by 'trial', or keep one trial each with runs[runs.trial.isin(best_per(runs))]."
        )
