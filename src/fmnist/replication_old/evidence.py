"""What a claim's test looks at: differences between trials, paired by seed, taken from our runs and histories.

For a claim that orders trials, a network that diverged is not missing: it cannot classify. Its accuracy counts as that
of guessing, and whoever reads a `Part` can see so. Its loss stays missing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import pandas as pd

from fmnist.replication_old.published import Best, Higher, Level, Question, Same, Trend
from fmnist.statistics import compare, interval
from fmnist.words import count, metric_of, number

GUESS = 0.1  # accuracy of guessing among ten classes

Tables = Mapping[str, pd.DataFrame]  # study → its runs, or its history
Side = tuple[str, tuple[int, ...]]  # a trial, and the epochs at which it is read


@dataclass(frozen=True)
class Part:
    """One comparison of a test: a row of `compare`, and bounds in printed units unless its p value decides.

    `row` of a level has no baseline; its `difference` is the mean itself.
    """

    row: pd.Series
    guessed: frozenset[str]  # run ids of diverged runs that count as guessing
    low: float = np.nan
    high: float = np.nan
    bounds: str = ""  # the bounds in words

    @property
    def by_p(self) -> bool:
        return not self.bounds


def parts(test: Question, runs: Tables, histories: Tables) -> list[Part]:
    """The comparisons that a test asks for."""

    def pair(a: str, b: str, metric: str, then: tuple | None = None, **bounds) -> Part:
        sides = [(a, test.at), (b, test.at if then is None else then)]
        return _difference(runs[test.study], histories[test.study], sides, metric, **bounds)

    found = []
    for metric in getattr(test, "metrics", []):
        match test:
            case Higher():
                limits = _bounds(test, metric)
                found += [pair(test.trial, other, metric, test.than_at, **limits) for other in test.than]
            case Best():
                others = test.among or list(dict.fromkeys(runs[test.study]["trial"]))
                pairs = [(test.trial, other) for other in others if other != test.trial]
                better = 1 if metric_of(metric).higher_is_better else -1  # the first of a pair should be above
                found += [pair(*sides[::better], metric) for sides in pairs]
            case Trend():
                found += [pair(later, earlier, metric) for earlier, later in pairwise(test.trials)]
            case Same():
                pairs = [(t, test.to) for t in test.trials] if test.to else list(combinations(test.trials, 2))
                found += [pair(a, b, metric, **_margin(test, runs[test.study], metric)) for a, b in pairs]
            case Level():
                sides = [[(trial, test.at)] for trial in test.trials]
                tables, limits = (runs[test.study], histories[test.study]), _bounds(test, metric)
                found += [_difference(*tables, side, metric, **limits) for side in sides]
    return found


def _bounds(test: Higher | Level, metric: str) -> dict:
    low = -np.inf if test.at_least is None else test.at_least
    high = np.inf if test.at_most is None else test.at_most
    measure = metric_of(metric)
    digits = 1 if measure.unit == "points" else 3
    level = isinstance(test, Level)
    unit = "%" if level and measure.unit == "points" else measure.unit
    said = [f"at {end} {number(x, digits)}" for end, x in (("least", low), ("most", high)) if np.isfinite(x)]
    what = "" if level else "a difference of "
    return {"low": low, "high": high, "bounds": f"{what}{' and '.join(said)} {unit}"} if said else {}


def _margin(test: Same, runs: pd.DataFrame, metric: str) -> dict:
    margin, why = test.margin, ""
    if margin is None:
        margin = 100 * runs.loc[runs["trial"].isin([*test.trials, test.to]), "test_accuracy_std"].mean()
        why = ", the spread over test batches"
    measure = metric_of(metric)
    shown = number(margin, 1 if measure.unit == "points" else 3)
    return {"low": -margin, "high": margin, "bounds": f"a difference of at most {shown} {measure.unit} either way{why}"}


def _difference(runs: pd.DataFrame, history: pd.DataFrame, sides: list[Side], metric: str, **bounds) -> Part:
    """First side minus second, paired by seed; of one side alone, its mean under the name `difference`."""
    groups, guessed = [], set()
    for trial, when in sides:
        values, lost = _values(runs, history, trial, metric, when)
        groups.append(values.assign(trial=trial + _at(when, others=[w for _, w in sides])))
        guessed |= lost
    if len(groups) == 1:
        mean, low, high = interval(groups[0][metric])
        n = int(np.isfinite(groups[0][metric]).sum())
        row = {"trial": groups[0]["trial"].iloc[0], "metric": metric, "n": n}
        return Part(pd.Series(row | {"difference": mean, "low": low, "high": high}), frozenset(guessed), **bounds)
    name = groups[1]["trial"].iloc[0]
    row = compare(pd.concat(groups), name, metric=metric).iloc[0]
    return Part(row, frozenset(guessed), **bounds)


def _values(
    runs: pd.DataFrame, history: pd.DataFrame, trial: str, metric: str, when: tuple[int, ...]
) -> tuple[pd.DataFrame, set[str]]:
    """Seed and metric of a trial's runs, at the end or averaged over epochs, and which of them are guesses."""
    mine = runs[runs["trial"] == trial].set_index("seed")
    values = mine[metric].astype(float)
    if when:
        part = history[(history["trial"] == trial) & history["epoch"].between(*when)]
        whole = part.groupby("seed")[metric].agg(lambda v: v.mean() if len(v) == when[1] - when[0] + 1 else np.nan)
        values = whole.reindex(mine.index).astype(float)
    lost = mine["diverged"].astype(bool) & ~np.isfinite(values)
    guessed = lost if metric_of(metric).unit == "points" else lost & False
    frame = values.mask(guessed, GUESS).rename(metric).reset_index()
    return frame, set(mine.loc[guessed, "run_id"])


def _at(when: tuple, others: list) -> str:
    if not when:
        return " at the end" if any(others) else ""
    first, last = when
    return f" after {count(first, 'epoch')}" if first == last else f" over epochs {first} to {last}"
