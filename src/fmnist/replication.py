"""What a published report says, held against our runs: its numbers, its claims, and what it leaves unsaid.

A *number* is of one training, so it is held against one more run of ours: the 95 % prediction interval mean ±
t(0.975, n − 1) s √(1 + 1/n) (Meeker, Hahn, Escobar, Statistical Intervals, 2nd ed., Wiley 2017, chapter 4). A *claim*
comes down to differences paired by seed. One without a size is decided by the paired t test, Holm-corrected over all
such of the report; one with a size by where the 95 % interval lies (for equality: two one-sided tests, Schuirmann,
J. Pharmacokinet. Biopharm. 15, 1987). A network that diverged counts as one that guesses. How far a *choice* of what is
unsaid lies from the numbers is the root mean square of ours − published, seed by seed.

`runs` and `history` are those of `Study`, several studies in one frame with a column `study`. What is computed is in
the unit of print: percent, points, nats, seconds.
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
from fmnist.words import METRICS, count, joined, metric_of, number, probability

FIELDS = ("variant", *TRIAL_FIELDS)  # what a trial may be named by
MIN_SEEDS = 3  # finite runs below which no prediction is made
WIDEST = {"points": 10.0, "nats": 1.0}  # a wider prediction interval agrees with too much to tell anything
WORTH = 0.5  # points: where the interval excludes a lead of this size, "over" does not hold
ANSWERS = {1: "holds", 0: "cannot be decided", -1: "does not hold"}
VERDICTS = {"agrees": "agree", "differs": "differ", "cannot tell": "cannot be judged", "another machine": "are times"}
SAID_OF_SEVERAL = VERDICTS | {"holds": "hold", "does not hold": "do not hold", "cannot be decided": "cannot be decided"}


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
                many = f"several trials have it ({'; '.join(labels)})" if labels else f"no trial has it; there are {varied}"
                raise UserError(f"{place}: {', '.join(f'{k}: {v}' for k, v in zip(one, values, strict=True))}: {many}")
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
            raise ValueError("asks nothing; allowed: best, rising, falling, or of with over, within, at_least or at_most")
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
    """Published numbers beside ours, which are multiplied by the table's `scale`: a row each.

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
    found = {key: int((verdicts == key).sum()) for key in SAID_OF_SEVERAL}
    said = [f"{count(n)} {key if n == 1 else SAID_OF_SEVERAL[key]}" for key, n in found.items() if n]
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
    kinds = ["numbers", *list(VERDICTS)[:3], "claims", *ANSWERS.values()]
    return pd.DataFrame(rows).reindex(columns=["report", "title", "date", "author", *kinds])


# --- claims -----------------------------------------------------------------------------------------------------------


def evidence(published: Published, runs: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Every comparison that the claims ask for, a row each.

    Columns: claim, test (their places), form, metric, trial, baseline ("" for a mean by itself), n (seeds), difference
    (trial − baseline), low, high (95 % interval), at_least, at_most (NaN where p decides), guessed (ids of diverged
    runs), p, p_holm, verdict (of `statistics.together`), status (1 as claimed, −1 not, 0 cannot be decided).
    """
    rows = []
    for i, claim in enumerate(published.claims):
        for j, test in enumerate(claim.tests):
            mine, then = (frame[frame["study"] == test.study] for frame in (runs, history))
            pairs = test.pairs(mine)
            spread = 100 * mine.loc[mine["trial"].isin({*sum(pairs, ())}), "test_accuracy_std"].mean()
            for metric, pair in product([test.falling] if test.falling else test.metrics, pairs):
                better = test.form != "best" or metric_of(metric).higher_is_better  # else the others are above the best
                row = _compared(test, pair if better else pair[::-1], mine, then, metric)
                rows.append({"claim": i, "test": j, "form": test.form, **row, **_bounds(test, spread)})
    table = pd.DataFrame(rows)
    if (by_p := table["at_least"].isna()).any():
        corrected = together([table.loc[by_p, ["n", "p", "difference"]]])
        table = table.join(corrected.set_index(table.index[by_p])[["p_holm", "verdict"]])
    return table.assign(status=[_status(row) for row in table.itertuples()])


def _bounds(test: ClaimTest, spread: float) -> dict[str, float]:
    if test.form == "falling":
        return {"at_least": 1.0, "at_most": 1.0}
    if test.within:
        margin = spread if test.within == "batches" else test.within
        return {"at_least": -margin, "at_most": margin}
    low, high = test.at_least, test.at_most
    if low is None and high is None:
        return {"at_least": np.nan, "at_most": np.nan}
    return {"at_least": -np.inf if low is None else low, "at_most": np.inf if high is None else high}


def _compared(test: ClaimTest, pair: tuple, runs: pd.DataFrame, history: pd.DataFrame, metric: str) -> dict[str, Any]:
    """One trial against another, paired by seed; of one alone, its mean under the name `difference`."""
    sides, guessed, epochs, scale = [], [], [test.at, test.at if test.over_at is None else test.over_at], metric_of(metric).scale
    for trial, when in zip([name for name in pair if name], epochs, strict=False):
        mine = runs[runs["trial"] == trial].set_index("seed")
        values = _values(mine, history, metric, when, test.form)
        lost = mine["diverged"].astype(bool) & ~np.isfinite(values) & (metric_of(metric).unit == "points")
        guessed += list(mine.loc[lost, "run_id"])
        read = f"epochs {when[0]} to {when[-1]}" if when[1:] else f"epoch {when[0]}" if when else "the end"
        name = f"{trial} at {read}" if any(epochs) else trial
        sides.append(values.mask(lost, GUESS).rename(metric).reset_index().assign(trial=name))
    found = dict(zip(("difference", "low", "high"), interval(sides[0][metric]), strict=True))
    found |= {"baseline": "", "n": int(np.isfinite(sides[0][metric]).sum()), "p": np.nan}
    if len(sides) == 2:
        found = compare(pd.concat(sides), sides[1]["trial"].iloc[0], metric=metric).iloc[0]
    row = {"metric": metric, "trial": sides[0]["trial"].iloc[0], "guessed": guessed}
    row |= {key: found[key] for key in ("baseline", "n", "p")}
    return row | {key: float(scale * found[key]) for key in ("difference", "low", "high")}


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
    if np.isnan(row.at_least):
        excluded = row.form != "best" and metric_of(row.metric).unit == "points" and row.high < WORTH
        return {"higher": 1, "lower": -1}.get(row.verdict, -1 if excluded else 0)
    return inside(row.low, row.high, row.at_least, row.at_most)


def inside(low: float, high: float, at_least: float, at_most: float) -> int:
    """1 where an interval lies inside bounds, −1 where it lies outside, 0 where it lies across one."""
    if at_least <= low and high <= at_most:
        return 1
    return -1 if high < at_least or low > at_most else 0


def reached(runs: pd.DataFrame, trial: str, at_least: float) -> tuple[str, str]:
    """Whether a trial's mean test accuracy is so many percent or more: the answer (see ANSWERS) and what was found."""
    test = ClaimTest(study="", of=[{}], at_least=at_least)
    row = _compared(test, (trial, None), runs, runs, "test_accuracy") | _bounds(test, 0) | {"form": "of"}
    found = pd.DataFrame([row]).assign(status=[_status(pd.Series(row))])
    return ANSWERS[found["status"].iloc[0]], said(found)


def answers(published: Published, found: pd.DataFrame) -> pd.DataFrame:
    """Claims with what `evidence` found, a row each: says, because, answer (see ANSWERS), found (Markdown), otherwise."""
    rows = []
    for i, claim in enumerate(published.claims):
        tests = [test for _, test in found[found["claim"] == i].groupby("test")]
        marks = [f"*({j}) {ANSWERS[test['status'].min()]}:* " * (len(tests) > 1) for j, test in enumerate(tests, 1)]
        text = " ".join(mark + said(test) for mark, test in zip(marks, tests, strict=True))
        status = min(test["status"].min() for test in tests)
        rows.append((claim.says, claim.because, ANSWERS[status], text, claim.otherwise if status < 0 else ""))
    return pd.DataFrame(rows, columns=["says", "because", "answer", "found", "otherwise"])


def said(test: pd.DataFrame) -> str:
    """What was asked and what was found, of the rows of `evidence` of one test."""
    text = []
    for metric, rows in test.groupby("metric", sort=False):
        first, digits = rows.iloc[0], 1 if metric_of(metric).unit == "points" else 3
        ends = {"at least": first["at_least"], "at most": first["at_most"]}
        asked = " and ".join(f"{end} {number(x, digits)}" for end, x in ends.items() if np.isfinite(x)) or "above"
        asked = "a fall in every epoch of every run" if first["form"] == "falling" else asked
        seeds = " or ".join(count(n, "seed") for n in dict.fromkeys(rows["n"]))
        found = "; ".join(_found(row, digits) for row in rows.itertuples())
        text.append(f"Asked {metric_of(metric).place}: {asked}. Found ({seeds}, 95 % intervals): {found}.")
    lost = len({run_id for ids in test["guessed"] for run_id in ids})
    return " ".join(text) + (f" ({count(lost, 'diverged run counts', 'diverged runs count')} as guessing.)" if lost else "")


def _found(row: Any, digits: int) -> str:
    name = f"{row.trial} minus {row.baseline}" if row.baseline else row.trial
    if row.form == "falling":
        return f"{name} in {round(row.n * row.difference)} of {count(row.n, 'run')}"
    if row.n < MIN_PAIRS:
        return f"{name}, not judged with fewer than {count(MIN_PAIRS, 'seed')}"
    mean, low, high = (number(x, digits, signed=bool(row.baseline)) for x in (row.difference, row.low, row.high))
    why = f", {probability(row.p_holm, 'p')}" if np.isnan(row.at_least) else ""
    return f"{name} {mean} [{low}, {high}]{why}, {ANSWERS[row.status]}"


# --- choices ----------------------------------------------------------------------------------------------------------


def check_choices(
    published: Sequence[Mapping], metric: str, settings: pd.DataFrame, where: str = "choices"
) -> NumberTable:
    """The `published` numbers, records such as {of: {lr: 0.1}, value: 86.4}, for every choice, a variant of the study.

    Raises UserError for a wrong type, for a number that is not of one trial of each choice, and a trial without one.
    """
    given = {"study": "choices", "caption": "", "metric": metric, "rows": list(published)}
    rows = validate(NumberTable, given, where).rows
    each = [row.model_copy(update={"of": {"variant": name} | row.of}) for row in rows for name in settings["variant"].unique()]
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
    metric, value = judged["metric"].iloc[0], judged.set_index("trial")["published"]
    lost = runs["diverged"].astype(bool) | runs[metric].isna()
    runs = runs.assign(off=100 * runs[metric].mask(lost, GUESS) - runs["trial"].map(value))
    groups = runs.groupby("variant", sort=False)
    by_seed = runs.groupby(["variant", "seed"], sort=False)["off"]
    rms = by_seed.agg(lambda off: np.sqrt((off**2).mean())).unstack("seed").loc[list(groups.groups)]
    verdicts = pd.crosstab(judged["trial"].map(runs.groupby("trial")["variant"].first()), judged["verdict"])
    verdicts = verdicts.reindex(columns=["agrees", "differs"], fill_value=0)
    table = groups.agg(seeds=("seed", "nunique"), diverged=("diverged", "sum"), runs=("seed", "size")).join(verdicts)
    table["rms"], table["absolute"] = rms.mean(axis=1), by_seed.agg(lambda off: off.abs().mean()).groupby("variant").mean()
    mean, low, high = interval(rms - rms.loc[baseline], 1 - (1 - LEVEL) / max(len(rms) - 1, 1))
    told = (rms.notna().sum(axis=1) >= MIN_SEEDS) & ((high < 0) | (low > 0))
    table = table.assign(difference=mean, low=low, high=high, verdict=np.where(mean < 0, "closer", "farther"))
    table.loc[~told, "verdict"], table.loc[baseline, "verdict"] = "cannot tell", ""
    return table.rename_axis("choice").reset_index()
