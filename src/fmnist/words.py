"""Numbers as text, in one place: what a table cell, an axis and a sentence of the report print.

Accuracies are in [0, 1] in data and in percent here, their differences in percentage points, losses in nats.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

MINUS = "\N{MINUS SIGN}"
MISSING = "\N{EN DASH}"
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
AXES = {  # fields whose own name is no English
    "lr": "learning rate", "dropout": "dropout probability", "batch_size": "batch size", "weight_decay": "weight decay",
    "hidden_sizes": "hidden layers", "init": "initialization", "init_std": "standard deviation",
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
    sign = MINUS if value < 0 else "+" if signed else ""
    return sign + text if text.strip("0.") else text


def count(n: int, noun: str = "", plural: str = "") -> str:
    """ "six seeds", "one seed", "24 runs"."""
    text = WORDS[n] if 0 <= n < len(WORDS) else f"{n:,}"
    return f"{text} {noun if n == 1 else plural or noun + 's'}" if noun else text


def significant(value: float, digits: int = 2) -> str:
    """`value` with so many significant digits and no exponent: "4,900", "0.27", "0.000049"."""
    whole, point, part = np.format_float_positional(value, digits, fractional=False, trim="-").partition(".")
    return f"{int(whole):,}{point}{part}"


def metric(value: float, name: str, low: float = np.nan, high: float = np.nan, signed: bool = False) -> str:
    """A metric, or a difference of two, in percent (points) or nats: "88.9", "+2.1 [+1.8, +2.4]", "0.312"."""
    about = metric_of(name)
    text, *ends = (number(about.scale * part, about.digits, signed) for part in (value, low, high))
    return text if MISSING in (text, *ends) else f"{text} [{', '.join(ends)}]"


def percent(mean: float, low: float = np.nan, high: float = np.nan) -> str:
    """An accuracy in [0, 1] as "88.9 % [88.6, 89.2]", or "88.9 %" where there is no interval."""
    value, space, limits = metric(mean, "test_accuracy", low, high).partition(" ")
    return value if value == MISSING else f"{value} %{space}{limits}"


def probability(p: float, symbol: str = "") -> str:
    """A p value; with `symbol="p"` as "p = 0.032" or "p < 0.001"."""
    if not np.isfinite(p):
        return MISSING
    text = "< 0.001" if p < 0.001 else "> 0.99" if p > 0.99 else f"= {p:.{3 if p < 0.1 else 2}f}"
    return f"{symbol} {text}" if symbol else text.removeprefix("= ")


def diverged(failed: int, total: int) -> str:
    """ "diverged (2 of 6)", or nothing when none did."""
    return f"diverged ({failed} of {total})" if failed else ""


def sentence(text: str) -> str:
    """`text` with a capital and a full stop, for a claim that stands alone."""
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def claim(row: Mapping | pd.Series) -> str:
    """A row of `statistics.compare` as a clause: "Adam is 2.1 points above SGD on the test set (95 % interval …)"."""
    name, baseline, verdict = next(iter(dict(row).values())), row["baseline"], row["verdict"]
    about, seeds = metric_of(row["metric"]), count(row["n"], "seed")
    lost = f"; {count(row['diverged'], 'pair')} lost to divergence" if row["diverged"] else ""
    mean, low, high = (about.scale * row[key] for key in ("difference", "low", "high"))
    if verdict == "lower":
        mean, low, high = -mean, -high, -low
    small = about.unit == "points" and (abs(mean) < 0.1 or high - low < 0.2)
    digits = about.digits + small
    difference = f"mean difference {number(mean, digits, True)} {about.unit}"
    if verdict == "too few seeds":
        few = f"{seeds} {'is' if row['n'] == 1 else 'are'} too few{lost}; {difference}"
        reason = few if row["n"] else f"no pair of runs{lost}"
        return f"no difference between {name} and {baseline} is claimed {about.place} ({reason})"
    corrected = "Holm-corrected " if row["family"] > 1 else ""
    alone = "uncorrected " if verdict == "no difference detectable" and low * high > 0 and corrected else ""
    spanned = f"{alone}95 % interval {number(low, digits)} to {number(high, digits)}"
    evidence = f"{spanned}, {seeds}, {corrected}{probability(row['p_holm'], 'p')}{lost}"
    if verdict == "no difference detectable":
        return f"no difference between {name} and {baseline} is detectable {about.place} ({difference}, {evidence})"
    direction = "above" if verdict == "higher" else "below"
    return f"{name} is {number(mean, digits)} {about.unit} {direction} {baseline} {about.place} ({evidence})"


def overview(comparison: pd.DataFrame) -> str:
    """A table of `statistics.compare` or `together` in one sentence."""
    if comparison.empty:
        return "There is nothing to compare."
    if len(comparison) == 1:
        return sentence(claim(comparison.iloc[0]))
    baselines, place = comparison["baseline"].unique(), metric_of(comparison["metric"].iloc[0]).place
    names, parts = comparison.iloc[:, 0].astype(str), []
    for verdict, says in VERDICTS.items():
        group = list(names[comparison["verdict"] == verdict])
        many = count(len(group))
        if len(group) == len(names):
            many = "both" if len(group) == 2 else f"all {many}"
        if group:
            parts.append(f"{says[len(group) > 1].format(many)} ({'; '.join(group)})")
    each = f"alternatives to {baselines[0]}" if len(baselines) == 1 else "trials, each beside its own baseline"
    return f"Of {count(len(names))} {each}, compared {place}: {joined(parts)}."


def joined(parts: list[str]) -> str:
    """ "a", "a and b", "a, b, and c"."""
    return " and ".join(parts) if len(parts) < 3 else ", ".join(parts[:-1]) + f", and {parts[-1]}"


def edge(selected: pd.DataFrame, tried: Sequence[float]) -> str:
    """Which variants of the `selected` runs have the least or greatest learning rate `tried`, and what that means."""
    if len(set(tried)) < 3:
        return "With so few learning rates tried, each lies at the edge of the grid, which has not shown the best."
    names = "; ".join(selected.loc[selected["lr"].isin([min(tried), max(tried)]), "variant"].unique())
    if not names:
        return "Every selected rate lies inside the grid."
    return f"At the edge of the grid, which has then not shown the best rate, is what was selected for: {names}."


def name_of(group: object) -> str:
    """A group in a legend or a table: numbers without trailing zeros, the rest as it is."""
    return f"{group:g}" if isinstance(group, float) else str(group)
