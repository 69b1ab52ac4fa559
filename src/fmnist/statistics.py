"""What the runs say, in numbers: summaries over seeds, paired comparisons, selection on validation, confusion.

Functions take the DataFrames of `Study.runs()` (a row a run). Runs of two trials with one seed share split and batch
order, so differences are taken seed by seed. A diverged run has NaN metrics: it is in no mean, and it is counted.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from fmnist.config import TEST_IMAGES, UserError

LEVEL = 0.95
MIN_PAIRS = 6


def interval(values: np.ndarray | Sequence[float]) -> tuple:
    """Mean, low and high of Student's 95 % t interval, mean ± t s/√n, of the finite `values` [..., seeds], or NaN."""
    values = np.ma.masked_invalid(values)
    mean, std = (np.ma.filled(found, np.nan)[()] for found in (values.mean(-1), values.std(-1, ddof=1)))
    half = stats.t.ppf((1 + LEVEL) / 2, values.count(-1) - 1) * std / np.sqrt(values.count(-1))
    return mean, mean - half, mean + half


def prediction(values: np.ndarray, extra: float = 0.0) -> tuple[float, float]:
    """Where 95 % of further values lie: mean ± t √(s² (1 + 1/n) + extra²) of the finite `values`; NaN for one."""
    # Meeker, Hahn, Escobar, Statistical Intervals, 2nd ed., Wiley 2017, chapter 4
    (mean, _, high), n = interval(values), int(np.isfinite(values).sum())
    half = np.hypot((high - mean) * np.sqrt(n + 1), stats.t.ppf((1 + LEVEL) / 2, n - 1) * extra)
    return float(mean - half), float(mean + half)


def averaging(q: float, batch: int) -> float:
    """Standard deviation of mean accuracy over test batches minus accuracy, where `q` of the images are right."""
    sizes = np.diff([*range(0, TEST_IMAGES, batch), TEST_IMAGES])
    weights = 1 / (len(sizes) * sizes) - 1 / TEST_IMAGES  # of an image, beyond its equal share
    return float(np.sqrt(q * (1 - q) * (sizes * weights**2).sum()))


def summary(runs: pd.DataFrame, by: str | list[str] = "trial", metric: str = "test_accuracy") -> pd.DataFrame:
    """One row a group, in order of appearance.

    Columns: `by`, n (finite runs), diverged (runs without a finite metric, or marked as diverged), runs, mean, low,
    high (95 % t interval over seeds).
    Raises UserError for a group with two runs of one seed: those are not replications.
    """
    keys, rows = [by] if isinstance(by, str) else list(by), []
    for key, group in runs.groupby(keys, sort=False, dropna=False):
        require_replications(group, ", ".join(map(str, key)), metric)
        finite = np.isfinite(group[metric])
        lost = ~finite | group.get("diverged", False)
        rows.append([*key, finite.sum(), lost.sum(), len(group), *interval(group[metric])])
    return pd.DataFrame(rows, columns=[*keys, "n", "diverged", "runs", "mean", "low", "high"])


def compare(runs: pd.DataFrame, baseline: str, metric: str = "test_accuracy") -> pd.DataFrame:
    """Every other trial against `baseline`, paired by seed, in order of appearance.

    Columns: trial, baseline, metric, n (pairs with both metrics finite), diverged (pairs lost to it), difference (mean
    of trial − baseline), low, high (95 % t interval), p (paired t) and those of `together`. Seeds that only one of the
    two has are in no pair. Raises UserError when `baseline` is no trial, and as `summary` does.
    """
    groups = {}
    for name, group in runs.groupby("trial", sort=False):
        require_replications(group, name, metric)
        groups[name] = group.set_index("seed")[metric]
    if baseline not in groups:
        raise UserError(f"compare: no trial is called {baseline!r}; there are: {', '.join(map(str, groups))}.")
    reference, rows = groups.pop(baseline), []
    for name, values in groups.items():
        shared = values.index.intersection(reference.index)
        differences = (values[shared] - reference[shared]).to_numpy(float)
        found = differences[np.isfinite(differences)]
        lost = len(differences) - len(found)
        rows.append([name, baseline, metric, len(found), lost, *interval(found), _paired_p(found)])
    names = ["trial", "baseline", "metric", "n", "diverged", "difference", "low", "high", "p"]
    return together([pd.DataFrame(rows, columns=names)])


def _paired_p(differences: np.ndarray) -> float:
    """p of the paired t test; its limits without variance: 1 where nothing differs, 0 where every pair does alike."""
    if len(differences) < 2:
        return np.nan
    if differences.std() <= 1e-9 * max(1.0, abs(differences.mean())):
        return float(abs(differences.mean()) <= 1e-9)
    return float(stats.ttest_1samp(differences, 0).pvalue)


def together(comparisons: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Several tables of `compare`, each with a baseline of its own, as one family.

    Adds p_holm (over the rows with six pairs or more) and verdict: "higher" or "lower" where p_holm < 0.05, "no
    difference detectable", "too few seeds".
    """
    table = pd.concat(comparisons, ignore_index=True)
    tested = table["n"] >= MIN_PAIRS
    table["p_holm"] = np.nan
    table.loc[tested, "p_holm"] = holm(table.loc[tested, "p"].to_numpy(float))
    direction = np.where(table["difference"] > 0, "higher", "lower")
    found = np.where(table["p_holm"] < 1 - LEVEL, direction, "no difference detectable")
    table["verdict"] = np.where(tested, found, "too few seeds")
    return table


def holm(p: np.ndarray) -> np.ndarray:
    """Adjusted p values (S. Holm, Scand. J. Statist. 6, 1979): the k-th smallest of m times m − k + 1, never less."""
    order = np.argsort(p)
    adjusted = np.maximum.accumulate(np.arange(len(p), 0, -1) * p[order]).clip(max=1)
    return adjusted[np.argsort(order)]


def best(runs: pd.DataFrame, by: str = "trial") -> str:
    """The group with the highest mean validation accuracy; ties go to the first.

    A group with a diverged run is chosen only when every group has one: survivors flatter it.
    Raises UserError when every run diverged.
    """
    table = summary(runs, by, "val_accuracy").dropna(subset="mean")
    if table.empty:
        raise UserError("best: every run diverged, so none can be selected; lower the learning rate.")
    if not table["diverged"].all():
        table = table[table["diverged"] == 0]
    return table.loc[table["mean"].idxmax(), by]


def best_per(runs: pd.DataFrame) -> pd.Series:
    """Per variant the trial best on validation; variants whose runs all diverged are left out."""
    groups = {name: group for name, group in runs.groupby("variant", sort=False) if group["val_accuracy"].notna().any()}
    return pd.Series({name: best(group) for name, group in groups.items()}, dtype=object)


def gains(runs: pd.DataFrame, history: pd.DataFrame, baseline: str, same: Sequence[str] = ()) -> pd.DataFrame:
    """What a choice is worth by training budget: epochs of the best alternative to the trial `baseline`, on validation.

    Of the other variants' trials with the baseline's values of `same` fields, validation selects one at the end. Its
    rows of `history` after epoch 0, with gain: its validation accuracy minus that of the baseline's run of that seed.
    """
    base = runs[runs["trial"] == baseline].iloc[0]
    others = runs[(runs[list(same)] == base[list(same)]).all(axis=1) & (runs["variant"] != base["variant"])]
    after = history[history["epoch"] > 0]
    chosen = after[after["trial"] == best(others)]
    paired = after.loc[after["trial"] == baseline, ["seed", "epoch", "val_accuracy"]]
    both = chosen.merge(paired, on=["seed", "epoch"], suffixes=("", "_base"))
    return both.assign(gain=both["val_accuracy"] - both["val_accuracy_base"])


def overtakes(history: pd.DataFrame, baseline: str) -> pd.Series:
    """Per trial, the first epoch at which its mean validation accuracy is that of `baseline` at the end; NaN: none."""
    means = history[history["epoch"] > 0].groupby(["epoch", "trial"], sort=False)["val_accuracy"].mean().unstack()
    there = means >= means[baseline].iloc[-1]
    return there.idxmax().where(there.any())


def best_of(studies: Mapping[str, pd.DataFrame]) -> tuple[str, str]:
    """The study, by its name, and in it the trial that validation selects over all `studies`, as `best` does."""
    named = [runs.assign(both=[(name, trial) for trial in runs["trial"]]) for name, runs in studies.items()]
    return best(pd.concat(named), "both")


def require_replications(group: pd.DataFrame, name: object, metric: str) -> None:
    """Raises UserError when two runs of `group` (a row a run) have one seed: they belong to different trials."""
    if group["seed"].duplicated().any():
        raise UserError(f"{metric} of {name!r}: two runs of one seed are not replications; group by 'trial'")
