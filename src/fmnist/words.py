"""Numbers as text, in one place: what a table cell, an axis and a sentence of the report print.

Accuracies are in [0, 1] in data and in percent here, their differences in percentage points, losses in nats.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fmnist.config import TRAIN_IMAGES, TRIAL_FIELDS, RunConfig, sizes_text

MINUS = "\N{MINUS SIGN}"
MISSING = "\N{EN DASH}"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


class Metric(NamedTuple):
    """How a column of `runs` or `history` is named on an axis and in a sentence, and how it is printed."""

    label: str
    place: str
    scale: float = 100.0  # from data to print
    unit: str = "points"
    higher_is_better: bool = True
    digits: int = 1  # decimals of what is printed
    level: bool = True  # not a difference, which has points where a level has percent

    @property
    def axis(self) -> str:
        return f"{self.label} ({'%' if self.level and self.unit == 'points' else self.unit})"


NATS = (1.0, "nats", False, 3)
METRICS = {
    "train_accuracy": Metric("training accuracy", "on the training set"),
    "val_accuracy": Metric("validation accuracy", "on the validation set"),
    "test_accuracy": Metric("test accuracy", "on the test set"),
    "best_val_accuracy": Metric("best validation accuracy", "on the validation set at the best epoch"),
    "best_val_test_accuracy": Metric("test accuracy at the best epoch", "on the test set at the best validation epoch"),
    "gain": Metric("gain", "in validation accuracy", level=False),
    "gap": Metric("training \N{MINUS SIGN} validation", "in training minus validation accuracy", level=False),
    "train_loss": Metric("training loss", "in training loss", *NATS),
    "val_loss": Metric("validation loss", "in validation loss", *NATS),
    "test_loss": Metric("test loss", "in test loss", *NATS),
    "best_val_test_loss": Metric("test loss at the best epoch", "in test loss at the best epoch", *NATS),
    "weight_norm": Metric("weight norm", "in the norm of the weights", 1.0, "Euclidean", False, 1),
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


def count(n: int, noun: str = "") -> str:
    """ "six seeds", "one seed", "24 runs"."""
    text = WORDS[n] if 0 <= n < len(WORDS) else f"{n:,}"
    return f"{text} {noun if n == 1 else noun + 's'}" if noun else text


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


def probability(p: float) -> str:
    """A p value: "0.032", "< 0.001", "> 0.99"."""
    if not np.isfinite(p):
        return MISSING
    return "< 0.001" if p < 0.001 else "> 0.99" if p > 0.99 else f"{p:.{3 if p < 0.1 else 2}f}"


def diverged(failed: int, total: int) -> str:
    """ "diverged (2 of 6)", or nothing when none did."""
    return f"diverged ({failed} of {total})" if failed else ""


def differing(configs: Sequence[RunConfig]) -> list[str]:
    """The fields of trials, seed aside, that have more than one value."""
    return [name for name in TRIAL_FIELDS if any(getattr(c, name) != getattr(configs[0], name) for c in configs)]


def setting(key: str, value: Any) -> str:
    """One setting in words: "lr 0.1", "400-400", "batch norm", "no batch norm", "dropout 0.2"."""
    words = key.replace("_", " ")
    if isinstance(value, str) and key != "input_scaling":
        return value
    if key == "hidden_sizes":
        return sizes_text(value)
    if key == "val_size":
        return f"{TRAIN_IMAGES - value:,} training images"
    if key == "teachers":
        return count(len(value), "teacher")
    if isinstance(value, bool):
        return words if value else f"no {words}"
    return f"{words} {value:g}" if isinstance(value, float) else f"{words} {value}"


def sentence(text: str) -> str:
    """`text` with a capital and a full stop, for a claim that stands alone."""
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def finding(comparison: pd.DataFrame, noun: str = "alternative") -> str:
    """A table of `statistics.compare` or `together` in one sentence; more than two are counted, their extremes named.

    With two to five pairs a difference is told by its interval alone, and said to be provisional.
    """
    table = comparison[comparison["n"] > 0]
    if table.empty:
        return "There is nothing to compare."
    about, few = metric_of(table["metric"].iloc[0]), table["verdict"] == "too few seeds"
    by_interval = np.select([table["low"] > 0, table["high"] < 0], ["higher", "lower"], "no difference detectable")
    verdicts, baselines = table["verdict"].mask(few, by_interval), table["baseline"].unique()
    base = baselines[0] if len(baselines) == 1 else "its baseline"
    sizes = pd.Series(abs(about.scale * table["difference"]).to_numpy(), table.iloc[:, 0]).round(about.digits)
    parts = []
    for verdict, side in {"higher": "above", "lower": "below", "no difference detectable": ""}.items():
        some = sizes[(verdicts == verdict).to_numpy()].sort_values()
        every = count(len(sizes), noun * (" of " not in "".join(parts)))  # of what is said once
        who = joined(list(some.index)) if len(some) < 3 else f"{count(len(some))} of {every}"
        if 1 < len(some) == len(sizes):
            who = ("every" if side else "no") + f" {noun}"
        of = f"{base} {about.place}" if not parts or base == "its baseline" else "it"
        if len(some) and side:
            lie = "lie" if len(some) > 1 and len(some) < len(sizes) else "lies"
            parts.append(f"{who} {lie} {side} {of}, by {_span(some, about)}")
        elif len(some):
            can = "can" if who == f"no {noun}" else "cannot"
            most = f"{'up to ' * (len(some) > 1)}{number(some.iloc[-1], about.digits)} {about.unit} apart"
            parts.append(f"{who} {can} be told from {of} ({most})")
    lost = int(table["diverged"].sum())
    notes = [f"provisional, n = {table['n'].min()}"] * bool(few.any())
    notes += [f"{count(lost, 'pair')} lost to divergence"] * bool(lost)
    return sentence(("; ".join(parts) + f" ({'; '.join(notes)})" * bool(notes)).replace(") (", "; "))


def _span(sizes: pd.Series, about: Metric) -> str:
    """Sorted differences: "0.3 points", "0.3 (2 × 64) to 1.8 points (3 × 42)"."""
    least, most = (number(size, about.digits) for size in (sizes.iloc[0], sizes.iloc[-1]))
    if least == most:
        return f"{most} {about.unit}"
    return f"{least} ({sizes.index[0]}) to {most} {about.unit} ({sizes.index[-1]})"


def joined(parts: list[str]) -> str:
    """ "a", "a and b", "a, b, and c"."""
    return " and ".join(parts) if len(parts) < 3 else ", ".join(parts[:-1]) + f", and {parts[-1]}"


def edge(selected: pd.DataFrame, tried: Sequence[float]) -> str:
    """Which variants of the `selected` runs have the least or greatest rate `tried`: their best may lie beyond it."""
    said = []
    for side, which, end in (("below", "smallest", min(tried)), ("above", "largest", max(tried))):
        names = [f"*{name}*" for name in selected.loc[selected["lr"] == end, "variant"].unique()]  # some have commas
        said += [f"{joined(names)} may want a rate {side} {end:g}, the {which} we tried."] * bool(names)
    return " ".join(said)


def name_of(group: object) -> str:
    """A group in a legend or a table: numbers without trailing zeros, the rest as it is."""
    return f"{group:g}" if isinstance(group, float) else str(group)
