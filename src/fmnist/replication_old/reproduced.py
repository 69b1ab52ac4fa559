"""Published numbers beside ours, with a verdict each.

The published reports trained each network once. A number of theirs is therefore held against what *one more* run of
ours would do: the 95 % prediction interval of a single future observation, mean ± t(0.975, n − 1) s √(1 + 1/n)
(W. Q. Meeker, G. J. Hahn, L. A. Escobar, Statistical Intervals, 2nd ed., Wiley 2017, chapter 4), not against the
interval of our mean, which narrows with the number of seeds and which a single run need not meet.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from fmnist.replication_old.published import Table
from fmnist.statistics import LEVEL, interval
from fmnist.words import MISSING, count, diverged, joined, metric_of, number

MIN_SEEDS = 3  # finite runs below which no prediction is made
VERDICTS = ("agrees", "differs", "cannot tell")
WIDEST = {"points": 10.0, "nats": 1.0}  # a wider prediction interval agrees with too much to tell anything


def prediction(values: Sequence[float] | np.ndarray, extra: float = 0.0) -> tuple[float, float]:
    """Where one further value would lie: mean ± t √(s² (1 + 1/n) + extra²) of the finite `values`; NaN for one.

    `extra` is the standard deviation of whatever that value has besides the spread of the `values`.
    """
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    n = len(values)
    if n < 2:
        return np.nan, np.nan
    spread = np.sqrt(values.var(ddof=1) * (1 + 1 / n) + extra**2)
    half = stats.t.ppf((1 + LEVEL) / 2, n - 1) * spread
    return float(values.mean() - half), float(values.mean() + half)


def averaging(q: float, batch: int, images: int = 10_000) -> float:
    """Standard deviation of mean accuracy over batches, the last one smaller, minus accuracy over all images.

    A network right for a fraction `q` of the images, in random order, gets a share of each batch with a variance of
    q (1 − q) / size; the mean over batches gives an image of the last batch more weight than the others.
    """
    sizes = np.array([batch] * (images // batch) + [images % batch] * (images % batch > 0))
    weights = 1 / (len(sizes) * sizes) - 1 / images  # of an image, beyond its equal share
    return float(np.sqrt(q * (1 - q) * (sizes * weights**2).sum()))


def judge(table: Table, runs: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Published numbers beside ours, a row each, in the unit of print; `runs` of a study as `Study.runs()`.

    Where the table has a `scale`, ours are multiplied by it, and everything below is in that unit.
    Columns: trial, metric, scale, published, pm, note, n (finite), diverged, runs, mean, low, high (95 % t interval
    over seeds), one_low, one_high (95 % prediction interval of one run), batch_std (mean over seeds), difference
    (ours − published), verdict: "agrees" (inside the prediction interval), "differs", "cannot tell" (fewer than three
    finite runs, or an interval wider than `WIDEST`), "another machine" for seconds.
    """
    measure, rows = metric_of(table.metric), []
    for printed in table.rows:
        ours = runs[printed.study or table.study]
        ours = ours[ours["trial"] == printed.trial]
        ours = ours.assign(seconds_per_epoch=ours["seconds"] / ours["epochs"].clip(1))
        values = table.scale * measure.scale * ours[table.metric].to_numpy(float)
        mean, low, high = interval(values)
        spread = ours.get(f"{table.metric}_std", pd.Series([np.nan])).mean() * measure.scale * table.scale
        timed, uneven = table.metric.startswith("seconds"), table.test_batch and measure.unit == "points"
        extra = measure.scale * averaging(mean / measure.scale, table.test_batch) if uneven else 0.0
        n, one = int(np.isfinite(values).sum()), (np.nan, np.nan) if timed else prediction(values, extra)
        pm = np.nan if printed.pm is None else printed.pm
        about = [printed.trial, table.metric, table.scale, printed.value, pm, printed.note]
        verdict = _verdict(table.metric, printed.value, n, *one)
        found = [n, int(ours["diverged"].sum()), len(ours), float(mean), low, high, *one, spread, mean - printed.value]
        rows.append([*about, *found, verdict])
    names = ["trial", "metric", "scale", "published", "pm", "note", "n", "diverged", "runs", "mean", "low", "high"]
    return pd.DataFrame(rows, columns=[*names, "one_low", "one_high", "batch_std", "difference", "verdict"])


def _verdict(metric: str, value: float, n: int, low: float, high: float) -> str:
    if metric.startswith("seconds"):
        return "another machine"
    if n < MIN_SEEDS or high - low > WIDEST[metric_of(metric).unit]:
        return "cannot tell"
    return "agrees" if low <= value <= high else "differs"


def distinct(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """All `tables` of `judge` in one, each number once: reports print that of their baseline in several tables.

    The same number is one of the same metric beside the same mean of ours, which only the same runs have.
    """
    both = pd.concat(tables, ignore_index=True)
    return both[both["mean"].isna() | ~both.duplicated(["metric", "published", "mean"])].reset_index(drop=True)


def tally(judged: pd.DataFrame) -> str:
    """`judge` of all tables counted: "of ten published numbers, six agree with our runs, three differ, and …"."""
    words = {"agrees": "agree with our runs", "differs": "differ", "cannot tell": "cannot be judged"}
    words["another machine"] = "are times of another machine"
    counts = {text: int((judged["verdict"] == verdict).sum()) for verdict, text in words.items()}
    singular = {"agree with our runs": "agrees with our runs", "differ": "differs"}
    singular["are times of another machine"] = "is a time of another machine"
    said = [f"{count(n)} {singular.get(text, text) if n == 1 else text}" for text, n in counts.items() if n]
    return f"of {count(len(judged), 'published number')}, {joined(said)}"


def apart(judged: pd.DataFrame) -> str:
    """Between what ours − published lies in a table of `judge`, a sentence; "" for times, and for fewer than two."""
    found, measure = judged["difference"].dropna(), metric_of(judged["metric"].iloc[0])
    if len(found) < 2 or judged["metric"].iloc[0].startswith("seconds"):
        return ""
    unit = "points" if measure.unit == "points" else f"({unit_of(judged)})"
    low, high = (number(value, digits_of(judged), signed=True) for value in (found.min(), found.max()))
    return f"Ours − published lies between {low} and {high} {unit}."


def across_reports(folder: Path, names: Sequence[str]) -> pd.DataFrame:
    """What the reports `names` found when they were last written to `folder`, as <name>.json: one row a report.

    Columns: report, title, date, author, numbers, agrees, differs, cannot tell, claims, holds, does not hold, cannot be
    decided; NaN, where a report has no published numbers and claims, or was not written yet (then title is empty, too).
    """
    rows = []
    for name in names:
        path = folder / f"{name}.json"
        about = json.loads(path.read_text("utf-8")) if path.exists() else {}
        found = about.get("values", {}).get("reproduction", {})
        row = {"report": name, "title": about.get("title", ""), "date": about.get("date", "")}
        row["author"] = found.get("author", name.capitalize())
        for kind, counts in found.get("counts", {}).items():
            row |= {kind: sum(counts.values()), **counts}
        rows.append(row)
    kinds = ["numbers", *VERDICTS, "claims", "holds", "does not hold", "cannot be decided"]
    return pd.DataFrame(rows).reindex(columns=["report", "title", "date", "author", *kinds])


def beside(judged: pd.DataFrame) -> pd.DataFrame:
    """`judge` for `publish.table`; our spread over batches where the published numbers have a ±, too."""
    digits, unit = digits_of(judged), unit_of(judged)
    table = pd.DataFrame({"Trial": judged["trial"] + [f" ({note})" if note else "" for note in judged["note"]]})
    table[f"Published ({unit})"] = [_printed(row, judged, digits) for _, row in judged.iterrows()]
    table[f"Ours ({unit}) [95 %]"] = [_mean(row, digits) for _, row in judged.iterrows()]
    if judged["pm"].notna().any():
        table["± batches"] = [number(value, digits) for value in judged["batch_std"]]
    if judged["one_low"].notna().any():
        table["One run [95 %]"] = [_span(row["one_low"], row["one_high"], digits) for _, row in judged.iterrows()]
    table["Difference"] = [number(value, digits, signed=True) for value in judged["difference"]]
    table["Verdict"] = judged["verdict"].to_numpy()
    return table


def unit_of(judged: pd.DataFrame) -> str:
    """What a table of `judge` is in: "%", "nats", "nats × 0.1" where ours were multiplied by a tenth."""
    unit, scale = metric_of(judged["metric"].iloc[0]).unit, judged["scale"].iloc[0]
    return {"points": "%"}.get(unit, unit) + (f" × {scale:g}" if scale != 1 else "")


def digits_of(judged: pd.DataFrame) -> int:
    """Decimals of a table of `judge`: two of nats, otherwise one; one more where ours were multiplied by a tenth."""
    plain = 2 if metric_of(judged["metric"].iloc[0]).unit == "nats" else 1
    return plain + max(0, round(-np.log10(judged["scale"].iloc[0])))


def _printed(row: pd.Series, judged: pd.DataFrame, digits: int) -> str:
    """The published number with the decimals that it was printed with."""
    texts = [f"{value:.10f}".rstrip("0").partition(".")[2] for value in judged["published"]]
    text = number(row["published"], max(len(decimals) for decimals in texts))
    return text + (f" ± {number(row['pm'], digits)}" if np.isfinite(row["pm"]) else "")


def _mean(row: pd.Series, digits: int) -> str:
    limits = f" [{number(row['low'], digits)}, {number(row['high'], digits)}]" if np.isfinite(row["low"]) else ""
    value = number(row["mean"], digits) + limits if row["n"] else ""
    return ", ".join(filter(None, [value, diverged(row["diverged"], row["runs"])])) or MISSING


def _span(low: float, high: float, digits: int) -> str:
    return f"[{number(low, digits)}, {number(high, digits)}]" if np.isfinite(low) else MISSING
