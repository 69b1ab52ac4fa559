"""What a published report says, held against our runs: its numbers, its claims, and what it leaves unsaid.

A *number* is of one training, so it is held against one more run of ours: the 95 % prediction interval mean ±
t(0.975, n − 1) s √(1 + 1/n) (Meeker, Hahn, Escobar, Statistical Intervals, 2nd ed., Wiley 2017, chapter 4). A *claim*
comes down to differences paired by seed. One without a size is decided by the paired t test, Holm-corrected over all
such of the report; one with a size by where the 95 % interval lies (for equality: two one-sided tests, Schuirmann,
J. Pharmacokinet. Biopharm. 15, 1987). A network that diverged counts as one that guesses. How far a *choice* of what is
unsaid lies from the numbers is the root mean square of ours − published, seed by seed.

`runs` and `history` are those of `Study`, several studies in one frame with a column `study`.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise, product
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import BeforeValidator, Field, PositiveInt, model_validator
from scipy import stats

from fmnist.config import GUESS, TEST_IMAGES, TRIAL_FIELDS, Strict, UserError, nearest, read_yaml, sizes_text, validate
from fmnist.statistics import LEVEL, MIN_PAIRS, compare, interval, together
from fmnist.words import METRICS, count, joined, metric_of

FIELDS = ("variant", *TRIAL_FIELDS)  # what a trial may be named by
MIN_SEEDS = 3  # finite runs below which no prediction is made
WIDEST = {"points": 10.0, "nats": 1.0}  # a wider prediction interval agrees with too much to tell anything
WORTH = 0.5  # points: where the interval excludes a lead of this size, "over" does not hold
ANSWERS = {1: "holds", 0: "cannot be decided", -1: "does not hold"}
VERDICTS = ("agrees", "differs", "cannot tell")  # and "another machine" for a time
IN_WORDS = {  # a verdict as said of one, and of several
    "agrees": ("agrees", "agree"),
    "differs": ("differs", "differ"),
    "cannot tell": ("cannot be judged", "cannot be judged"),
    "another machine": ("is a time of another machine", "are times of another machine"),
    "holds": ("holds", "hold"),
    "does not hold": ("does not hold", "do not hold"),
    "cannot be decided": ("cannot be decided", "cannot be decided"),
}


def select(
    settings: pd.DataFrame, where: Mapping | Sequence[Mapping], place: str = "select", several: bool = True
) -> list[str]:
    """Labels of the trials whose fields are as `where` says; `settings` is `Study.settings()` or `Study.runs()`.

    {optimizer: Adam, lr: [0.1, 0.01]} asks for the first rate, then for the second; of `hidden_sizes`, a list of widths
    is one value and a list of lists several. A list of such mappings is one after the other. Raises UserError, which
    begins with `place`, for an unknown field, where nothing matches, and, unless `several` may, where two trials do.
    """
    found = []
    for one in [where] if isinstance(where, Mapping) else where:
        if unknown := [key for key in one if key not in FIELDS]:
            raise UserError(f"{place}: {unknown[0]}: no such field{nearest(unknown[0], list(FIELDS))}")
        for values in product(*(_alternatives(*item) for item in one.items())):
            match = pd.Series(True, settings.index)
            for key, value in zip(one, values, strict=True):
                match &= settings[key] == value
            labels = list(dict.fromkeys(settings.loc[match, "trial"]))
            if not labels or (len(labels) > 1 and not several):
                there = {key: dict.fromkeys(map(str, settings[key])) for key in FIELDS if key in settings}
                varied = "; ".join(f"{key}: {', '.join(some)}" for key, some in there.items() if len(some) > 1)
                asked = ", ".join(f"{key}: {value}" for key, value in zip(one, values, strict=True))
                many = "; ".join(labels) or "none; there are " + varied
                raise UserError(f"{place}: {{{asked}}} should be of one trial, and is of {many}")
            found += labels
    return list(dict.fromkeys(found))


def _alternatives(field: str, value: Any) -> list:
    if field == "hidden_sizes" and isinstance(value, list):
        return [sizes_text(tuple(sizes)) for sizes in (value if value and isinstance(value[0], list) else [value])]
    return value if isinstance(value, list) else [value]


# --- published.yaml ---------------------------------------------------------------------------------------------------

One = dict[str, Any]  # a trial by its fields, see `select`
Trials = Annotated[list[One], BeforeValidator(lambda value: [value] if isinstance(value, dict) else value)]
Epochs = Annotated[  # an epoch, two to average over, or "end", which is []
    list[PositiveInt],
    Field(max_length=2),
    BeforeValidator(lambda value: [] if value == "end" else [value] if isinstance(value, int) else value),
]
MetricName = Literal[*(name for name in METRICS if name not in ("gap", "weight_norm"))]


class Number(Strict):
    """One published number: percent for an accuracy, nats for a loss, seconds."""

    of: One
    value: float
    pm: float | None = None  # as printed behind ±
    note: str = ""
    study: str = ""  # where it is not that of the table


class NumberTable(Strict):
    """Published numbers in one metric."""

    study: str
    caption: str
    of: One = {}  # what the trials of this study have in common
    metric: MetricName = "test_accuracy"
    scale: Annotated[float, Field(gt=0)] = 1.0  # ours times this is what is printed: 0.1 if losses are divided by ten
    test_batch: PositiveInt | None = None  # accuracies are means over test batches of so many images, the last smaller
    rows: list[Number] = Field(min_length=1)

    def where(self, row: Number) -> tuple[str, One]:
        """Study and fields of the trial that a row is about."""
        return (row.study, row.of) if row.study else (self.study, self.of | row.of)


FORMS = {  # what a test asks, by the key that says so, and what may stand beside it
    "best": {"among"},
    "rising": set(),
    "falling": {"of"},
    "over": {"of", "over_at", "at_least", "at_most"},
    "within": {"of", "to"},
    "of": {"at_least", "at_most"},
}


class ClaimTest(Strict):
    """One test on our runs. A, B, C are trials by their fields, see `select`, or lists of such.

    best: A [among: B]               A is better than every other trial, or than those of B
    rising: [A, B, C]                each is above the one before
    of: A, over: B                   A is above B; at_least, at_most by so many points (nats, for a loss)
    of: A, within: 1 [to: B]         all pairs of A, or each A and B, differ by no more than so many points;
                                     `within: batches` is our spread over test batches, what a published ± is
    of: A, at_least: 75              each A has a mean so high; with at_most so low
    falling: train_loss [of: A]      in every epoch of every run
    `metrics` are read at the end, `at` an epoch, or averaged over epochs such as [1, 9]; those of B at `over_at`.
    """

    study: str
    best: One | None = None
    among: Trials | None = None
    rising: Trials | None = None
    falling: Literal["train_loss", "val_loss"] | None = None
    of: Trials | None = None
    over: Trials | None = None
    within: Annotated[float, Field(gt=0)] | Literal["batches"] | None = None
    to: One | None = None
    at_least: float | None = None
    at_most: float | None = None
    metrics: list[MetricName] = Field(["test_accuracy"], min_length=1)
    at: Epochs = []
    over_at: Epochs | None = None  # left out: as `at`

    @property
    def form(self) -> str:
        """The key of FORMS that says what is asked; "" for none."""
        return next((key for key in FORMS if getattr(self, key) is not None), "")

    @model_validator(mode="after")
    def _consistent(self) -> "ClaimTest":
        given = {key for key, value in self if value is not None} - {"study", "metrics", "at", self.form}
        if not self.form or (self.form == "of" and not given):
            raise ValueError("asks nothing; allowed: best, rising, falling, of with over, within, at_least, at_most")
        if odd := sorted(given - FORMS[self.form]):
            raise ValueError(f"{odd[0]}: does not stand beside {self.form}; allowed: {', '.join(FORMS[self.form])}")
        if self.form in ("over", "within") and not self.of:
            raise ValueError(f"of: is required beside {self.form}")
        late = [name for name in self.metrics if not name.startswith(("train", "val"))]
        if late and (self.at or self.over_at):
            raise ValueError(f"at: {late[0]} is read at the end only, unlike training and validation metrics")
        if self.within == "batches" and any(metric_of(name).unit != "points" for name in self.metrics):
            raise ValueError("within: for a loss a number is required")
        return self

    def bounds(self, metric: str, spread: float) -> tuple[float, float]:
        """At least and at most, as in data, NaN for none; `spread` is that of accuracy over test batches."""
        if self.within:
            margin = spread if self.within == "batches" else self.within / metric_of(metric).scale
            return -margin, margin
        return tuple(np.nan if end is None else end / metric_of(metric).scale for end in (self.at_least, self.at_most))

    def pairs(self, settings: pd.DataFrame, place: str = "claims") -> list[tuple[str, str | None]]:
        """Labels of the trials to compare, (A, B); (A, None) where a mean by itself is asked for."""
        asked = {key: getattr(self, key) for key in ("best", "among", "rising", "of", "over", "to")}
        named = {
            key: select(settings, where, f"{place}.{key}", several=key in ("among", "of", "over"))
            for key, where in asked.items()
            if where is not None
        }
        every = list(dict.fromkeys(settings["trial"]))
        of, others = named.get("of", every), named.get("over") or named.get("to")
        if self.form in ("of", "falling"):
            return [(one, None) for one in of]
        if self.best:
            found = [(one, other) for one, other in product(named["best"], named.get("among", every)) if one != other]
        elif self.rising:
            found = [(later, earlier) for earlier, later in pairwise(named["rising"])]
        else:
            found = list(product(of, others) if others else combinations(of, 2))
        if not found or (self.over_at is None and any(one == other for one, other in found)):
            raise UserError(f"{place}: {self.form}: needs two different trials, or epochs under over_at")
        return found


class Claim(Strict):
    """A sentence as published; it holds where all of its tests do."""

    says: str
    because: str = ""  # how the tests were chosen
    otherwise: str = ""  # printed where it does not hold: why that may be
    tests: list[ClaimTest] = Field(min_length=1)


class Published(Strict):
    """published.yaml."""

    author: str  # as in a sentence
    cite: str  # key in references.bib
    protocol: str  # a sentence: what the report states
    choices: dict[str, str] = {}  # what it does not state: what we took
    numbers: list[NumberTable] = []
    claims: list[Claim] = Field(min_length=1)


def read(folder: Path, settings: Mapping[str, pd.DataFrame], required: bool = True) -> Published | None:
    """The checked `published.yaml` of a report's folder, None if it has none and none is `required`.

    `settings` has `Study.settings()` of each study. Raises UserError for what is missing, misspelt or of a wrong type,
    for a study that the report lacks, and for fields that no trial has, or several where one is meant.
    """
    path, where = folder / "published.yaml", f"params/{folder.name}/published.yaml"
    if not path.exists() and not required:
        return None
    found = validate(Published, read_yaml(path), where)
    asked = [(f"numbers.{i}", *table.where(row)) for i, table in enumerate(found.numbers) for row in table.rows]
    asked += [(f"claims.{i}", test.study, test) for i, claim in enumerate(found.claims) for test in claim.tests]
    for key, study, one in asked:
        if study not in settings:
            raise UserError(f"{where}: {key}: the report has no study {study!r}{nearest(study, list(settings))}")
        if isinstance(one, ClaimTest):
            one.pairs(settings[study], f"{where}: {key}")
        else:
            select(settings[study], one, f"{where}: {key}", several=False)
    return found


# --- numbers ----------------------------------------------------------------------------------------------------------


def prediction(values: Sequence[float] | np.ndarray, extra: float = 0.0) -> tuple[float, float]:
    """Where one further value would lie: mean ± t √(s² (1 + 1/n) + extra²) of the finite `values`; NaN for one."""
    (mean, _, high), n = interval(values), int(np.isfinite(values).sum())
    half = np.hypot((high - mean) * np.sqrt(n + 1), stats.t.ppf((1 + LEVEL) / 2, n - 1) * extra)
    return float(mean - half), float(mean + half)


def averaging(q: float, batch: int, images: int = TEST_IMAGES) -> float:
    """Standard deviation of mean accuracy over batches, the last one smaller, minus accuracy over all images.

    The network is right for a fraction `q` of the images; in random order, those of the last batch have more weight.
    """
    sizes = np.array([batch] * (images // batch) + [images % batch] * (images % batch > 0))
    weights = 1 / (len(sizes) * sizes) - 1 / images  # of an image, beyond its equal share
    return float(np.sqrt(q * (1 - q) * (sizes * weights**2).sum()))


def verdict(value: float, n: int, low: float, high: float, unit: str) -> str:
    """Of a published value beside the prediction interval of `n` runs."""
    if unit == "s":
        return "another machine"
    if n < MIN_SEEDS or high - low > WIDEST[unit]:
        return "cannot tell"
    return "agrees" if low <= value <= high else "differs"


def judge(table: NumberTable, runs: pd.DataFrame) -> pd.DataFrame:
    """Published numbers beside ours, which are multiplied by the table's `scale`, in the unit of print: a row each.

    Columns: study, trial, metric, scale, published, pm, note, n (finite), diverged, runs, mean, low, high (95 % t
    interval over seeds), one_low, one_high (prediction interval of one run), batch_std (mean over seeds), difference
    (ours − published), verdict.
    """
    rows, measure = [], metric_of(table.metric)
    factor, uneven = table.scale * measure.scale, table.test_batch if measure.unit == "points" else None
    for row in table.rows:
        study, where = table.where(row)
        ours = runs[runs["study"] == study]
        (trial,) = select(ours, where, study, several=False)
        ours = ours[ours["trial"] == trial].assign(seconds_per_epoch=lambda r: r["seconds"] / r["epochs"].clip(1))
        values, spread = factor * ours[table.metric].to_numpy(float), ours.get(f"{table.metric}_std", pd.Series(np.nan))
        (mean, low, high), n = map(float, interval(values)), int(np.isfinite(values).sum())
        one = prediction(values, factor * averaging(mean / factor, uneven) if uneven else 0.0)
        one = (np.nan, np.nan) if measure.unit == "s" else one
        about = [study, trial, table.metric, table.scale, row.value, np.nan if row.pm is None else row.pm, row.note]
        found = [n, int(ours["diverged"].sum()), len(ours), mean, low, high, *one, factor * spread.mean()]
        rows.append([*about, *found, mean - row.value, verdict(row.value, n, *one, measure.unit)])
    names = ["study", "trial", "metric", "scale", "published", "pm", "note", "n", "diverged", "runs", "mean", "low"]
    names += ["high", "one_low", "one_high", "batch_std", "difference", "verdict"]
    return pd.DataFrame(rows, columns=names)


def distinct(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """All `tables` of `judge` in one, each number once: reports print that of their baseline in several tables.

    The same number is one of the same metric beside the same mean of ours, which only the same runs have.
    """
    both = pd.concat(tables, ignore_index=True)
    return both[both["mean"].isna() | ~both.duplicated(["metric", "published", "mean"])].reset_index(drop=True)


def tally(verdicts: pd.Series, noun: str) -> str:
    """Such as "of ten published numbers, six agree, one differs, and three cannot be judged"."""
    found = {key: int((verdicts == key).sum()) for key in IN_WORDS}
    said = [f"{count(n)} {IN_WORDS[key][n > 1]}" for key, n in found.items() if n]
    return f"of {count(len(verdicts), noun)}, {joined(said)}"


def across_reports(folder: Path, names: Sequence[str]) -> pd.DataFrame:
    """What the reports `names` found when they were last written to `folder`, as <name>.json: one row a report.

    Columns: report, title, date, author, numbers, claims, and how many of either have each verdict; NaN, where a report
    has no published numbers and claims, or was not written yet (then title is empty, too).
    """
    rows = []
    for name in names:
        path = folder / f"{name}.json"
        about = json.loads(path.read_text("utf-8")) if path.exists() else {}
        found = about.get("values", {}).get("reproduction", {})
        row = {"report": name, **{key: about.get(key, "") for key in ("title", "date")}}
        row["author"] = found.get("author", name.capitalize())
        for kind, counts in found.get("counts", {}).items():
            row |= {kind: sum(counts.values()), **counts}
        rows.append(row)
    kinds = ["numbers", *VERDICTS, "claims", *ANSWERS.values()]
    return pd.DataFrame(rows).reindex(columns=["report", "title", "date", "author", *kinds])


# --- claims -----------------------------------------------------------------------------------------------------------


def evidence(published: Published, runs: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Every comparison that the claims ask for, a row each; accuracies in [0, 1].

    Columns: claim, test (their places), form, at_least, at_most (NaN where none; where both are, p decides), metric,
    trial, baseline ("" for a mean by itself), guessed (diverged runs in it), n (seeds), difference (trial − baseline),
    low, high (95 % interval), p, p_holm, verdict (of `statistics.together`), status (1 as claimed, −1 not, 0 open).
    """
    rows = []
    for i, claim in enumerate(published.claims):
        for j, test in enumerate(claim.tests):
            mine, then = (frame[frame["study"] == test.study] for frame in (runs, history))
            pairs = test.pairs(mine)
            spread = mine.loc[mine["trial"].isin({*sum(pairs, ())}), "test_accuracy_std"].mean()
            for metric, pair in product([test.falling] if test.falling else test.metrics, pairs):
                low, high = test.bounds(metric, spread)
                better = test.form != "best" or metric_of(metric).higher_is_better  # of a loss the best is below
                row = {"claim": i, "test": j, "form": test.form, "at_least": low, "at_most": high, "metric": metric}
                rows.append(row | _compared(test, pair if better else pair[::-1], mine, then, metric))
    table = pd.DataFrame(rows).assign(p_holm=np.nan, verdict="")
    by_p = table[["at_least", "at_most"]].isna().all(axis=1) & (table["form"] != "falling")
    if by_p.any():
        corrected = together([table.loc[by_p, ["n", "p", "difference"]]])
        table.loc[by_p, ["p_holm", "verdict"]] = corrected[["p_holm", "verdict"]].to_numpy()
    return table.assign(status=[_status(row) for row in table.itertuples()])


def _compared(test: ClaimTest, pair: tuple, runs: pd.DataFrame, history: pd.DataFrame, metric: str) -> dict[str, Any]:
    """One trial against another, paired by seed; of one alone, its mean under the name `difference`."""
    sides, epochs = [], [test.at, test.at if test.over_at is None else test.over_at]
    for trial, when in zip([name for name in pair if name], epochs, strict=False):
        mine = runs[runs["trial"] == trial].set_index("seed")
        values = _values(mine, history, metric, when, test.form)
        lost = mine["diverged"].astype(bool) & values.isna() & (metric_of(metric).unit == "points")
        read = f"epochs {when[0]} to {when[-1]}" if when[1:] else f"epoch {when[0]}" if when else "the end"
        name = f"{trial} at {read}" if any(epochs) else trial
        sides.append(pd.DataFrame({metric: values.mask(lost, GUESS), "guessed": lost, "trial": name}).reset_index())
    names = [side["trial"].iloc[0] for side in sides]
    found = dict(zip(("difference", "low", "high"), interval(sides[0][metric]), strict=True))
    found |= {"baseline": "", "n": int(sides[0][metric].notna().sum()), "p": np.nan}
    if len(sides) == 2:
        found = compare(pd.concat(sides), names[1], metric=metric).iloc[0]
    row = {"trial": names[0], "guessed": int(sum(side["guessed"].sum() for side in sides))}
    return row | {key: found[key] for key in ("baseline", "n", "difference", "low", "high", "p")}


def _values(mine: pd.DataFrame, history: pd.DataFrame, metric: str, when: list[int], form: str) -> pd.Series:
    """The metric of a trial's runs by seed: at the end, or averaged over epochs; or whether it falls in every epoch."""
    if not when and form != "falling":
        return mine[metric].astype(float)
    part = history[history["run_id"].isin(mine["run_id"]) & (history["epoch"] > 0)].sort_values("epoch")
    if form == "falling":
        falls = part.groupby("seed")[metric].agg(lambda loss: float((loss.diff()[1:] < 0).all()))
        return falls.reindex(mine.index).mask(mine["diverged"].astype(bool), 0.0)
    whole = part[part["epoch"].between(when[0], when[-1])].groupby("seed")[metric]
    return whole.mean().where(whole.count() == when[-1] - when[0] + 1).reindex(mine.index).astype(float)


def _status(row: Any) -> int:
    """1 where a row of `evidence` is as claimed, −1 where it is not, 0 where that cannot be decided."""
    if row.form == "falling":  # in every run: one rise is enough against it
        return int(row.n >= MIN_PAIRS) if row.difference == 1 else -1
    if row.n < MIN_PAIRS:
        return 0
    if np.isnan([row.at_least, row.at_most]).all():
        measure = metric_of(row.metric)
        excluded = row.form != "best" and measure.unit == "points" and measure.scale * row.high < WORTH
        return {"higher": 1, "lower": -1}.get(row.verdict, -1 if excluded else 0)
    return inside(row.low, row.high, row.at_least, row.at_most)


def inside(low: float, high: float, at_least: float, at_most: float) -> int:
    """1 where an interval lies inside bounds (NaN for none), −1 where it lies outside, 0 where it lies across one."""
    if high < at_least or low > at_most:
        return -1
    return 0 if low < at_least or high > at_most else 1


def answers(published: Published, found: pd.DataFrame) -> pd.DataFrame:
    """Claims with what their `evidence` comes to, a row each: says, because, answer (see ANSWERS), otherwise."""
    status = found.groupby("claim")["status"].min()
    rows = [
        (claim.says, claim.because, ANSWERS[worst], claim.otherwise if worst < 0 else "")
        for claim, worst in zip(published.claims, status, strict=True)
    ]
    return pd.DataFrame(rows, columns=["says", "because", "answer", "otherwise"])


# --- choices ----------------------------------------------------------------------------------------------------------


def check_choices(
    published: Sequence[Mapping], metric: str, settings: pd.DataFrame, where: str = "choices"
) -> NumberTable:
    """The `published` numbers, records such as {of: {lr: 0.1}, value: 86.4}, for every choice, a variant of the study.

    Raises UserError for a wrong type, for a number that is not of one trial of each choice, and a trial without one.
    """
    given = {"study": "choices", "caption": "", "metric": metric, "rows": list(published)}
    rows = validate(NumberTable, given, where).rows
    variants = list(dict.fromkeys(settings["variant"]))
    each = [row.model_copy(update={"of": {"variant": name} | row.of}) for row in rows for name in variants]
    found = [select(settings, row.of, f"{where}: published", several=False)[0] for row in each]
    if bare := [trial for trial in settings["trial"].unique() if found.count(trial) != 1]:
        raise UserError(f"{where}: published: needs one number for {bare[0]!r}; add it or take it from the grid")
    return NumberTable(study="choices", caption="", metric=metric, rows=each)


def distances(judged: pd.DataFrame, runs: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """How far each choice is from the published numbers, in points: a row each, in order of appearance.

    Columns: choice, agree, differs, seeds, diverged, runs, rms (mean over seeds of the root mean square of ours −
    published), absolute (of the mean absolute difference), and against `baseline`, paired by seed: difference of rms,
    low, high (simultaneous, Bonferroni), verdict ("closer", "farther", "cannot tell", "" for the baseline itself).
    """
    metric, names = judged["metric"].iloc[0], list(dict.fromkeys(runs["variant"]))
    ours = 100 * runs[metric].mask(runs["diverged"].astype(bool) | runs[metric].isna(), GUESS)
    off = ours - runs["trial"].map(judged.set_index("trial")["published"])
    by_seed = pd.DataFrame({"squared": off**2, "absolute": off.abs()}).groupby([runs["variant"], runs["seed"]]).mean()
    rms = np.sqrt(by_seed["squared"]).unstack("seed").loc[names]
    seen = pd.crosstab(judged["trial"].map(runs.groupby("trial")["variant"].first()), judged["verdict"])
    groups = runs.groupby("variant")
    table = groups.agg(seeds=("seed", "nunique"), diverged=("diverged", "sum"), runs=("seed", "size")).loc[names]
    table = table.join(seen.reindex(columns=["agrees", "differs"], fill_value=0))
    mean, low, high = interval(rms - rms.loc[baseline], 1 - (1 - LEVEL) / max(len(names) - 1, 1))
    table = table.assign(rms=rms.mean(axis=1), absolute=by_seed["absolute"].groupby("variant").mean())
    table = table.assign(difference=mean, low=low, high=high, verdict=np.where(mean < 0, "closer", "farther"))
    table.loc[(table["seeds"] < MIN_SEEDS) | ~((low > 0) | (high < 0)), "verdict"] = "cannot tell"
    table.loc[baseline, "verdict"] = ""
    return table.rename_axis("choice").reset_index()
