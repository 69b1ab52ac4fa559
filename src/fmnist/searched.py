"""What a search says beyond its winner: which hyperparameters mattered, what more trials bought, what selection cost.

Every function takes the DataFrame of `Search.runs()` (a row a trial) and returns one; nothing trains or draws.

A trial is one draw from the space, so trials are independent replications of the space, though not of any config.
Budget and inflation are averages over all orders in which the same trials could have come. They are computed exactly:
of n trials taken from N without replacement, the best has rank r with probability C(N − r, n − 1) / C(N, n).
A diverged trial counts as one that guesses, with accuracy 0.1: nobody would select it; to leave it out would flatter.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import special, stats

from fmnist.config import UserError
from fmnist.search import Range
from fmnist.statistics import LEVEL, holm
from fmnist.study import setting
from fmnist.words import AXES, MISSING, number, percent, probability

CHANCE = 0.1  # accuracy of guessing among ten classes
MIN_TRIALS = 20  # fewer say nothing about importance
TREES, FOLDS, REPEATS = 100, 5, 10


def ranked(runs: pd.DataFrame) -> pd.DataFrame:
    """`runs`, best on validation first (ties in the order of the trials, diverged last), with a column rank from 1."""
    order = runs["val_accuracy"].fillna(-1).sort_values(ascending=False, kind="stable").index
    return runs.loc[order].reset_index(drop=True).assign(rank=range(1, len(runs) + 1))


def configuration(row: pd.Series, axes: Sequence[str]) -> str:
    """The settings of a trial in words: "2 × 256, Adam, lr 0.0012, dropout 0.2, batch norm, init zeros"."""
    parts = [f"{row['layers']} × {row['width']}"] if {"layers", "width"} & set(axes) else []
    skipped = {"layers", "width"} | ({"momentum"} if not row.get("momentum") else set())
    for axis in axes:
        value = row[axis].item() if hasattr(row[axis], "item") else row[axis]
        parts += [] if axis in skipped else ["init " * (axis == "init") + setting(axis, value)]
    return ", ".join(part.replace("_", " ") for part in parts)


def axis_name(axis: str) -> str:
    """An axis in a sentence: lr → "learning rate"."""
    return AXES.get(axis, axis).replace("_", " ")


def best_table(runs: pd.DataFrame, axes: Sequence[str], shown: int = 10) -> pd.DataFrame:
    """The trials best on validation, for `publish.table`: rank, run id, settings, accuracies in percent."""
    rows = ranked(runs).head(shown)
    percents = {
        name: [number(100 * value, 2) for value in rows[f"{split}_accuracy"]]
        for name, split in {"Train (%)": "train", "Validation (%)": "val", "Test (%)": "test"}.items()
    }
    found = {"Rank": rows["rank"].astype(str), "Run": [f"`{run_id[:8]}`" for run_id in rows["run_id"]]}
    found["Config"] = [configuration(row, axes) for _, row in rows.iterrows()]
    return pd.DataFrame(found | percents)


def space_table(space: dict) -> pd.DataFrame:
    """The axes of a search and what is drawn from each, for `publish.table`."""
    rows = []
    for key, axis in space.items():
        if isinstance(axis, Range):
            how = "logarithmic" if axis.log else "uniform"
            rows.append([f"`{key}`", f"{axis.low:g} to {axis.high:g}", how])
        else:
            texts = [setting("hidden_sizes", v) if isinstance(v, list) else str(v).replace("_", " ") for v in axis]
            rows.append([f"`{key}`", ", ".join(texts), "each alike" if len(axis) > 1 else "fixed"])
    return pd.DataFrame(rows, columns=["Axis", "Values", "Drawn"])


def levels(runs: pd.DataFrame, axis: str, baseline: object) -> pd.DataFrame:
    """Each choice of an axis against `baseline`, over all trials that drew it, whatever else they drew.

    Random search draws the choices at random, so this is a randomized experiment: the two-sided Mann–Whitney test of
    validation accuracy, Holm-corrected over the rows. Columns: `axis`, n, median, best, p_holm, verdict ("higher",
    "lower", "no difference detectable"; empty for the baseline). Raises UserError when nothing drew the baseline.
    """
    groups = {level: part["val_accuracy"].fillna(CHANCE).to_numpy() for level, part in runs.groupby(axis)}
    if baseline not in groups:
        raise UserError(f"levels: no trial has {axis} {baseline!r}; there are: {', '.join(map(str, groups))}.")
    reference = groups[baseline]
    rows = [(level, len(v), np.median(v), v.max()) for level, v in groups.items()]
    table = pd.DataFrame(rows, columns=[axis, "n", "median", "best"])
    others = (table[axis] != baseline).to_numpy()
    p = [stats.mannwhitneyu(groups[level], reference).pvalue for level in table.loc[others, axis]]
    table.loc[others, "p_holm"] = holm(np.array(p))
    side = [stats.mannwhitneyu(v, reference).statistic - len(v) * len(reference) / 2 for v in groups.values()]
    found = np.where(np.array(side) > 0, "higher", "lower")
    table["verdict"] = np.where(table["p_holm"] < 1 - LEVEL, found, "no difference detectable")
    table.loc[~others, "verdict"] = ""
    return table.sort_values("median", ascending=False, kind="stable").reset_index(drop=True)


def levels_table(table: pd.DataFrame) -> pd.DataFrame:
    """`levels` for print."""
    axis = table.columns[0]
    return pd.DataFrame({
        axis.capitalize(): [str(level).replace("_", " ") for level in table[axis]],
        "Trials": table["n"].astype(str),
        "Median validation (%)": [percent(value, sign=False) for value in table["median"]],
        "Best validation (%)": [percent(value, sign=False) for value in table["best"]],
        "p (Holm)": [probability(p) for p in table["p_holm"]],
        "Verdict": table["verdict"].replace("", MISSING),
    })  # fmt: skip


def importance(runs: pd.DataFrame, axes: Sequence[str], seed: int = 0) -> pd.DataFrame:
    """How much of the differences between trials each hyperparameter carries, alone and together with the others.

    A random forest (scikit-learn) predicts the logarithm of the validation error from the hyperparameters; on trials
    that it has not seen, one column is shuffled, and the importance is by how much R² falls (permutation importance,
    Breiman, Machine Learning 45, 2001). What matters only in combination therefore counts for each of those that
    combine. Columns: hyperparameter, importance (mean over five folds), low, high (least and greatest fold); greatest
    first. `attrs["r2"]`: R² of the unshuffled forest, to hold the importances against.
    Raises UserError for fewer than 20 trials.
    """
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance
    from sklearn.model_selection import KFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    if len(runs) < MIN_TRIALS:
        raise UserError(f"importance: {len(runs)} trials are too few; take {MIN_TRIALS} or more")
    x, y = runs[list(axes)], error_depth(runs["val_accuracy"])
    words = [axis for axis in axes if not pd.api.types.is_numeric_dtype(x[axis])]
    encoded = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), words), remainder="passthrough")
    falls, fits = [], []
    for train, held in KFold(FOLDS, shuffle=True, random_state=seed).split(x):
        forest = make_pipeline(encoded, RandomForestRegressor(TREES, min_samples_leaf=2, random_state=seed))
        forest.fit(x.iloc[train], y[train])
        fits.append(forest.score(x.iloc[held], y[held]))
        shuffled = permutation_importance(forest, x.iloc[held], y[held], n_repeats=REPEATS, random_state=seed)
        falls.append(shuffled.importances_mean)
    found = {"importance": np.mean(falls, 0), "low": np.min(falls, 0), "high": np.max(falls, 0)}
    table = pd.DataFrame({"hyperparameter": list(axes), **found})
    table = table.sort_values("importance", ascending=False, kind="stable").reset_index(drop=True)
    table.attrs["r2"] = float(np.mean(fits))
    return table


def better_half(runs: pd.DataFrame) -> pd.DataFrame:
    """The trials at or above the median on validation."""
    accuracy = runs["val_accuracy"].fillna(CHANCE)
    return runs[accuracy >= accuracy.median()]


def error_depth(accuracy: pd.Series) -> np.ndarray:
    """−log10 of the error, so that 80 → 90 % counts as much as 90 → 95 %; a diverged trial as one that guesses."""
    return -np.log10(np.maximum(1 - accuracy.fillna(CHANCE).to_numpy(float), 1e-4))


def budget(runs: pd.DataFrame, resamples: int = 400, seed: int = 0) -> pd.DataFrame:
    """What the best of the first n trials has, for n = 1 … N; accuracies in [0, 1].

    own_val, own_test: in the order in which the trials came. val, test: the mean over all orders, of the trial selected
    on validation; val_low, val_high: between them lie 90 % of the orders. inflation = val − test: how much too good the
    validation accuracy of what it selected is; inflation_low, inflation_high: 95 % percentile interval over resamples
    of the trials (bootstrap), for a search that drew others.
    """
    val, test = (runs[f"{split}_accuracy"].fillna(CHANCE).to_numpy(float) for split in ("val", "test"))
    chances = _best_of(len(val))
    order, expected = _sorted(val, test)
    reached = chances.cumsum(1)
    low, high = ((reached >= share - 1e-12).argmax(1) for share in (0.95, 0.05))
    own = np.array([np.argmax(val[: n + 1]) for n in range(len(val))])
    random = np.random.default_rng(seed)
    picks = random.integers(len(val), size=(resamples, len(val)))
    copies = [np.subtract(*_sorted(val[pick], test[pick])) for pick in picks]
    spread = np.quantile(np.array(copies) @ chances.T, [0.025, 0.975], axis=0)
    return pd.DataFrame({
        "n": np.arange(1, len(val) + 1), "own_val": val[own], "own_test": test[own],
        "val": chances @ order, "val_low": order[low], "val_high": order[high], "test": chances @ expected,
        "inflation": chances @ (order - expected), "inflation_low": spread[0], "inflation_high": spread[1],
    })  # fmt: skip


def _best_of(trials: int) -> np.ndarray:
    """Probability [n − 1, r − 1] that the best of n of the trials, taken without replacement, has rank r."""
    n, rank = np.arange(1, trials + 1)[:, None], np.arange(1, trials + 1)

    def log_choose(a, b):  # −inf where b > a, as gammaln is infinite at 0, −1, …
        return special.gammaln(a + 1) - special.gammaln(b + 1) - special.gammaln(a - b + 1)

    return np.exp(log_choose(trials - rank, n - 1) - log_choose(trials, n))


def _sorted(val: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Validation accuracies, best first, and the test accuracy to be expected of each: trials that tie share theirs."""
    order = np.argsort(-val, kind="stable")
    _, tied = np.unique(val[order], return_inverse=True)
    means = np.bincount(tied, test[order]) / np.bincount(tied)
    return val[order], means[tied]


def inflation_sentence(curve: pd.DataFrame) -> str:
    """What `budget` says about best-of-N, with how much of it is selection: the growth from one trial to all."""
    first, last = curve.iloc[0], curve.iloc[-1]

    def points(value: float) -> str:
        return number(100 * value, 2, signed=True)

    grown = last["inflation"] - first["inflation"]
    return (
        f"Validation minus test accuracy is {points(first['inflation'])} points for a single trial, on average over "
        "the trials; nothing was selected there, so this is between the two sets of images. For the best of all "
        f"{last['n']:.0f} it is "
        f"{points(last['inflation'])} points (95 % interval over resampled trials {points(last['inflation_low'])} to "
        f"{points(last['inflation_high'])}). The difference, {points(grown)} points, is partly the luck of selection "
        "and partly that an average trial includes those that failed, which guess on both sets; this search cannot "
        "tell the two apart."
    )
