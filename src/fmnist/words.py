"""Numbers as text, in one place: what a table cell, an axis and a sentence of the report print.

Accuracies are in [0, 1] in data and in percent here, their differences in percentage points, losses in nats.
`claim` turns one row of `statistics.compare` into English that says no more than the row does.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

MINUS = "\N{MINUS SIGN}"
MISSING = "\N{EN DASH}"
PER_CENT = " %"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
VERDICTS = {  # verdict of `statistics.compare`: (for one, for several)
    "higher": ("{} is higher", "{} are higher"),
    "lower": ("{} is lower", "{} are lower"),
    "no difference detectable": ("for {} no difference is detectable",) * 2,
    "too few seeds": ("for {} there are too few seeds to tell",) * 2,
}


class Metric(NamedTuple):
    """How a column of `runs` or `history` is named on an axis and in a sentence, and how it is printed."""

    label: str
    place: str
    scale: float = 100.0  # from data to print
    unit: str = "points"
    higher_is_better: bool = True
    digits: int = 1  # decimals of what is printed

    @property
    def axis(self) -> str:
        return f"{self.label} ({'%' if self.unit == 'points' else self.unit})"


NATS = (1.0, "nats", False, 3)
METRICS = {
    "train_accuracy": Metric("training accuracy", "on the training set"),
    "val_accuracy": Metric("validation accuracy", "on the validation set"),
    "test_accuracy": Metric("test accuracy", "on the test set"),
    "best_val_accuracy": Metric("best validation accuracy", "on the validation set at the best epoch"),
    "best_val_test_accuracy": Metric("test accuracy at the best epoch", "on the test set at the best validation epoch"),
    "gap": Metric("training \N{MINUS SIGN} validation", "in training minus validation accuracy"),
    "train_loss": Metric("training loss", "in training loss", *NATS),
    "val_loss": Metric("validation loss", "in validation loss", *NATS),
    "test_loss": Metric("test loss", "in test loss", *NATS),
    "best_val_test_loss": Metric("test loss at the best epoch", "in test loss at the best epoch", *NATS),
    "weight_norm": Metric("weight norm", "in the norm of the weights", 1.0, "Euclidean", False, 1),
    "seconds": Metric("share of the stack's wall time", "in wall time", 1.0, "s", False, 1),
    "seconds_per_epoch": Metric("wall time of an epoch", "in wall time of an epoch", 1.0, "s", False, 3),
}
AXES = {  # fields and groups in words
    "lr": "learning rate", "dropout": "dropout probability", "batch_size": "batch size", "weight_decay": "weight decay",
    "hidden_sizes": "hidden layers", "variant": "variant", "optimizer": "optimizer", "init": "initialization",
    "trial": "trial", "activation": "activation", "parameters": "parameters", "seed": "seed",
    "init_std": "standard deviation",
}  # fmt: skip


def metric_of(name: str) -> Metric:
    """The `Metric` of a column; a column nobody described is printed under its own name, unscaled."""
    plain = name.replace("_", " ")
    return METRICS.get(name) or Metric(plain, f"in {plain}", 1.0, "units", digits=3)


def number(value: float, digits: int = 1, signed: bool = False) -> str:
    """`value` with `digits` decimals, a true minus sign, and never "−0.0"; a dash when it is not finite."""
    if not np.isfinite(value):
        return MISSING
    text = f"{abs(value):,.{digits}f}"
    if not float(text.replace(",", "")):
        return text
    return (MINUS if value < 0 else "+" if signed else "") + text


def count(n: int, noun: str = "", plural: str = "") -> str:
    """ "six seeds", "one seed", "24 runs": words up to twelve, the noun in the number it needs."""
    text = WORDS[n] if 0 <= n < len(WORDS) else f"{n:,}"
    return f"{text} {noun if n == 1 else plural or noun + 's'}" if noun else text


def significant(value: float, digits: int = 2) -> str:
    """`value` with so many significant digits and no exponent: "4,900", "0.27", "0.000049"."""
    whole, point, part = np.format_float_positional(value, digits, fractional=False, trim="-").partition(".")
    return f"{int(whole):,}{point}{part}"


def scientific(value: float, digits: int = 3) -> str:
    """`value` as Markdown mathematics with so many significant digits, "$-4.18 \\times 10^{-4}$"; a dash for NaN."""
    if not np.isfinite(value):
        return MISSING
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    return rf"${mantissa} \times 10^{{{int(exponent)}}}$"


def metric(value: float, name: str, low: float = np.nan, high: float = np.nan, signed: bool = False) -> str:
    """A metric's value, or a difference of two, as it is printed everywhere: "88.9", "+2.1 [+1.8, +2.4]", "0.312".

    In percent (points) or nats, without the unit, and without the interval where there is none.
    """
    about = metric_of(name)
    return _spanned([about.scale * part for part in (value, low, high)], about.digits, signed)


def percent(mean: float, low: float = np.nan, high: float = np.nan, digits: int = 1, sign: bool = True) -> str:
    """Accuracies in [0, 1] as "88.9 % [88.6, 89.2]"; without the interval when there is none (fewer than two seeds)."""
    return _spanned([100 * mean, 100 * low, 100 * high], digits, unit=PER_CENT * sign)


def _spanned(values: list[float], digits: int, signed: bool = False, unit: str = "") -> str:
    mean, low, high = (number(value, digits, signed) for value in values)
    unit = "" if mean == MISSING else unit
    return f"{mean}{unit} [{low}, {high}]" if np.isfinite(values).all() else mean + unit


def probability(p: float, symbol: str = "") -> str:
    """A p value; with `symbol="p"` as "p = 0.032" or "p < 0.001"."""
    if not np.isfinite(p):
        return MISSING
    relation, text = "=", f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
    if p < 0.001:
        relation, text = "<", "0.001"
    elif p > 0.99:
        relation, text = ">", "0.99"
    if symbol:
        return f"{symbol} {relation} {text}"
    return text if relation == "=" else f"{relation} {text}"


def diverged(failed: int, total: int) -> str:
    """ "diverged (2 of 6)", or nothing when none did."""
    return f"diverged ({failed} of {total})" if failed else ""


def sentence(text: str) -> str:
    """`text` with a capital and a full stop, for a claim that stands alone."""
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def claim(row: Mapping | pd.Series) -> str:
    """A row of `statistics.compare` as a clause, e.g. "Adam is 2.1 points above SGD on the test set (95 % interval …)".

    The verdict of the row decides the wording: a difference is stated only where the row claims one.
    The interval is that of this comparison alone; the p value is the corrected one.
    """
    name, baseline, verdict = next(iter(dict(row).values())), row["baseline"], row["verdict"]
    about, seeds = metric_of(row["metric"]), count(row["n"], "seed")
    lost = f"; {count(row['diverged'], 'pair')} lost to divergence" if row["diverged"] else ""
    mean, low, high = (about.scale * row[key] for key in ("difference", "low", "high"))
    if verdict == "lower":
        mean, low, high = -mean, -high, -low
    fine = about.unit == "points" and (abs(mean) < 0.1 or high - low < 0.2)  # a small difference stays visible
    digits = about.digits + fine
    difference = f"mean difference {number(mean, digits, True)} {about.unit}"
    if verdict == "too few seeds":
        few = f"{seeds} {'is' if row['n'] == 1 else 'are'} too few{lost}; {difference}"
        reason = few if row["n"] else f"no pair of runs{lost}"
        return f"no difference between {name} and {baseline} is claimed {about.place} ({reason})"
    corrected = "Holm-corrected " if row["family"] > 1 else ""
    alone = "uncorrected " if verdict == "no difference detectable" and low * high > 0 and corrected else ""
    evidence = f"{alone}95 % interval {number(low, digits)} to {number(high, digits)}"
    evidence = f"{evidence}, {seeds}, {corrected}{probability(row['p_holm'], 'p')}{lost}"
    if verdict == "no difference detectable":
        return f"no difference between {name} and {baseline} is detectable {about.place} ({difference}, {evidence})"
    direction = "above" if verdict == "higher" else "below"
    return f"{name} is {number(mean, digits)} {about.unit} {direction} {baseline} {about.place} ({evidence})"


def sentences(comparison: pd.DataFrame) -> str:
    """The claims of a table of `statistics.compare`, a sentence each; too few seeds claim nothing and have none."""
    decided = comparison[comparison["verdict"] != "too few seeds"]
    return " ".join(sentence(claim(row)) for _, row in decided.iterrows())


def overview(comparison: pd.DataFrame) -> str:
    """A table of `statistics.compare` or `together` in one sentence: how many are higher, lower, and undecided."""
    if comparison.empty:
        return "There is nothing to compare."
    if len(comparison) == 1:
        return sentence(claim(comparison.iloc[0]))
    baselines, place = comparison["baseline"].unique(), metric_of(comparison["metric"].iloc[0]).place
    names, parts = comparison.iloc[:, 0].astype(str), []
    for verdict, says in VERDICTS.items():
        group = list(names[comparison["verdict"] == verdict])
        number = count(len(group))
        if len(group) == len(names):
            number = "both" if len(group) == 2 else f"all {number}"
        if group:
            parts.append(f"{says[len(group) > 1].format(number)} ({'; '.join(group)})")
    many = f"alternative to {baselines[0]}", f"alternatives to {baselines[0]}"
    many = many if len(baselines) == 1 else ("trial, beside its own baseline", "trials, each beside its own baseline")
    return f"Of {count(len(names), *many)}, compared {place}: {joined(parts)}."


def joined(parts: list[str]) -> str:
    """ "a", "a and b", "a, b, and c"."""
    return " and ".join(parts) if len(parts) < 3 else ", ".join(parts[:-1]) + f", and {parts[-1]}"


def edge(names: list[str], tried: Sequence[float]) -> str:
    """What it means that the variants of `statistics.at_edge` have the least or greatest learning rate `tried`."""
    if len(set(tried)) < 3:
        return "With so few learning rates tried, each lies at the edge of the grid, which has not shown the best."
    if not names:
        return "Every selected rate lies inside the grid."
    which = "At the edge of the grid, which has then not shown the best rate, is what was selected for: "
    return f"{which}{'; '.join(names)}."


def name_of(group: object) -> str:
    """A group in a legend or a table: numbers without trailing zeros, the rest as it is."""
    return f"{group:g}" if isinstance(group, float) else str(group)
