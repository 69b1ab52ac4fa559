"""What a published report says, held against our runs: its numbers, its claims, and what it leaves unsaid.

`runs` and `history` are those of `Study`, several studies in one frame with a column `study`. A network that diverged
counts in a claim, and in the distance of a choice, as one that guesses.
"""

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
    is one value. A list of mappings is one after the other. Raises UserError, which begins with `place`, for an unknown
    field, where nothing matches, and, unless `several` may, where two trials do.
    """
    found = []
    for one in [where] if isinstance(where, Mapping) else where:
        if unknown := [key for key in one if key not in FIELDS]:
            raise UserError(f"{place}: {unknown[0]}: no such field{nearest(unknown[0], list(FIELDS))}")
        for values in product(*(_alternatives(*item) for item in one.items())):
            asked = dict(zip(one, values, strict=True))
            match = (settings[list(asked)] == pd.Series(asked, dtype=object)).all(axis=1)
            labels = list(settings.loc[match, "trial"].unique())
            if not labels or (len(labels) > 1 and not several):
                these = ", ".join(f"{key}: {value}" for key, value in asked.items())
                many = "; ".join(labels) or f"none of {'; '.join(settings['trial'].unique())}"
                raise UserError(f"{place}: {{{these}}} should be of one trial, and is of {many}")
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
    at_least: float = np.nan
    at_most: float = np.nan
    metrics: list[MetricName] = Field(["test_accuracy"], min_length=1)
    at: Epochs = []
    over_at: Epochs | None = None  # left out: as `at`

    @property
    def form(self) -> str:
        """The key of FORMS that says what is asked; "" for none."""
        return next((key for key in FORMS if key in self.model_fields_set), "")

    @model_validator(mode="after")
    def _consistent(self) -> "ClaimTest":
        beside = self.model_fields_set - {"study", "metrics", "at", self.form}
        if not self.form or (self.form == "of" and not beside):
            raise ValueError("asks nothing; allowed: best, rising, falling, of with over, within, at_least, at_most")
        if odd := sorted(beside - FORMS[self.form]):
            raise ValueError(f"{odd[0]}: does not stand beside {self.form}; allowed: {', '.join(FORMS[self.form])}")
        if self.form in ("over", "within") and not self.of:
            raise ValueError(f"of: is required beside {self.form}")
        late = [name for name in self.metrics if not name.startswith(("train", "val"))]
        if late and (self.at or self.over_at):
            raise ValueError(f"at: {late[0]} is read at the end only, unlike training and validation metrics")
        if self.within == "batches" and any(metric_of(name).unit != "points" for name in self.metrics):
            raise ValueError("within: for a loss a number is required")
        return self

    def pairs(self, settings: pd.DataFrame, place: str = "claims") -> list[tuple[str, str]]:
        """Labels of the trials to compare, (A, B); (A, "") where a mean by itself is asked for."""

        def named(key: str, several: bool = False) -> list[str]:
            where = getattr(self, key)
            return [] if where is None else select(settings, where, f"{place}.{key}", several)

        every, of, to = list(settings["trial"].unique()), named("of", several=True), named("to")
        if self.form in ("of", "falling"):
            return [(trial, "") for trial in of or every]
        if self.form == "best":
            others = named("among", several=True) or every
            found = [pair for pair in product(named("best"), others) if pair[0] != pair[1]]
        elif self.form == "rising":
            found = [(later, earlier) for earlier, later in pairwise(named("rising"))]
        elif self.form == "within" and not to:
            found = list(combinations(of, 2))
        else:
            found = list(product(of, to or named("over", several=True)))
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
    """Where one further value would lie: mean ± t √(s² (1 + 1/n) + extra²) of the finite `values`; NaN for one.

    The 95 % prediction interval: Meeker, Hahn, Escobar, Statistical Intervals, 2nd ed., Wiley 2017, chapter 4.
    """
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

    n are finite runs; low, high the 95 % t interval over seeds; one_low, one_high the prediction interval of one run;
    batch_std the spread over test batches, a mean over seeds; difference is ours − published.
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
        rows.append({
            "study": study, "trial": trial, "metric": table.metric, "scale": table.scale, "published": row.value,
            "pm": np.nan if row.pm is None else row.pm, "note": row.note, "n": n,
            "diverged": int(ours["diverged"].sum()), "runs": len(ours), "mean": mean, "low": low, "high": high,
            "one_low": one[0], "one_high": one[1], "batch_std": factor * spread.mean(), "difference": mean - row.value,
            "verdict": verdict(row.value, n, *one, measure.unit),
        })  # fmt: skip
    return pd.DataFrame(rows)


def tally(verdicts: pd.Series, noun: str) -> str:
    """Such as "of ten published numbers, six agree, one differs, and three cannot be judged"."""
    found = {key: int((verdicts == key).sum()) for key in IN_WORDS}
    said = [f"{count(n)} {IN_WORDS[key][n > 1]}" for key, n in found.items() if n]
    return f"of {count(len(verdicts), noun)}, {joined(said)}"


# --- claims -----------------------------------------------------------------------------------------------------------


def evidence(published: Published, runs: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Every comparison that the claims ask for, a row each, paired by seed; accuracies in [0, 1].

    Without bounds the paired t test decides, Holm-corrected over all such rows; with bounds (at_least, at_most, NaN for
    none) where the 95 % interval lies; for equality these are two one-sided tests (Schuirmann, J. Pharmacokinet.
    Biopharm. 15, 1987). claim and test are places; difference is trial − baseline, or a mean by itself where baseline
    is ""; guessed counts diverged runs in it; status is 1 as claimed, −1 not, 0 open.
    """
    rows = []
    for i, claim in enumerate(published.claims):
        for j, test in enumerate(claim.tests):
            mine, then = (frame[frame["study"] == test.study] for frame in (runs, history))
            pairs = test.pairs(mine)
            spread = mine.loc[mine["trial"].isin({*sum(pairs, ())}), "test_accuracy_std"].mean()
            for metric, pair in product([test.falling] if test.falling else test.metrics, pairs):
                measure, ends = metric_of(metric), np.array([test.at_least, test.at_most])
                if test.form == "within":
                    ends = np.array([-1, 1]) * (test.within if test.within != "batches" else spread * measure.scale)
                low, high = ends / measure.scale
                better = test.form != "best" or measure.higher_is_better  # of a loss the best is below
                row = {"claim": i, "test": j, "form": test.form, "at_least": low, "at_most": high, "metric": metric}
                rows.append(row | _compared(test, pair if better else pair[::-1], mine, then, metric))
    table = pd.DataFrame(rows)
    by_p = table[["at_least", "at_most"]].isna().all(axis=1) & (table["form"] != "falling")
    corrected = together([table[by_p]]).set_index(table.index[by_p])[["p_holm", "verdict"]]
    table = table.join(corrected).fillna({"verdict": ""})
    return table.assign(status=[_status(row) for row in table.itertuples()])


def _compared(test: ClaimTest, pair: tuple[str, str], runs: pd.DataFrame, history: pd.DataFrame, metric: str) -> dict:
    """One trial against another, paired by seed; against "", its mean under the name `difference`."""
    sides, epochs = [], [test.at, test.at if test.over_at is None else test.over_at]
    for trial, when in zip(pair, epochs, strict=True):
        mine = runs[runs["trial"] == (trial or pair[0])].set_index("seed")
        values = _values(mine, history, metric, when, test.form) if trial else pd.Series(0.0, mine.index)
        lost = mine["diverged"].astype(bool) & values.isna() & (metric_of(metric).unit == "points")
        read = f"epochs {when[0]} to {when[-1]}" if when[1:] else f"epoch {when[0]}" if when else "the end"
        name = f"{trial} at {read}" if trial and any(epochs) else trial
        sides.append(pd.DataFrame({metric: values.mask(lost, GUESS), "guessed": lost, "trial": name}).reset_index())
    both = pd.concat(sides)
    found = compare(both, sides[1]["trial"].iloc[0], metric=metric).iloc[0]
    row = {"trial": found["trial"], "guessed": int(both["guessed"].sum())}
    row |= {key: found[key] for key in ("baseline", "n", "difference", "low", "high", "p")}
    return row if pair[1] else row | {"p": np.nan}


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
    if row.verdict:
        measure = metric_of(row.metric)
        excluded = row.form != "best" and measure.unit == "points" and measure.scale * row.high < WORTH
        return {"higher": 1, "lower": -1}.get(row.verdict, -int(excluded))
    if row.high < row.at_least or row.low > row.at_most:
        return -1
    return 0 if row.low < row.at_least or row.high > row.at_most else 1


def answers(published: Published, found: pd.DataFrame) -> pd.DataFrame:
    """Claims with what their `evidence` comes to, a row each: says, because, answer (see ANSWERS), otherwise."""
    rows = []
    for claim, worst in zip(published.claims, found.groupby("claim")["status"].min(), strict=True):
        why = claim.otherwise if worst < 0 else ""
        rows.append({"says": claim.says, "because": claim.because, "answer": ANSWERS[worst], "otherwise": why})
    return pd.DataFrame(rows)


# --- choices ----------------------------------------------------------------------------------------------------------


def check_choices(
    published: Sequence[Mapping], metric: str, settings: pd.DataFrame, where: str = "choices"
) -> NumberTable:
    """The `published` numbers, records such as {of: {lr: 0.1}, value: 86.4}, for every choice, a variant of the study.

    Raises UserError for a wrong type, for a number that is not of one trial of each choice, and a trial without one.
    """
    given = {"study": "choices", "caption": "", "metric": metric, "rows": list(published)}
    table, variants = validate(NumberTable, given, where), settings["variant"].unique()
    each = [row.model_copy(update={"of": {"variant": name} | row.of}) for row in table.rows for name in variants]
    found = [select(settings, row.of, f"{where}: published", several=False)[0] for row in each]
    if bare := [trial for trial in settings["trial"].unique() if found.count(trial) != 1]:
        raise UserError(f"{where}: published: needs one number for {bare[0]!r}; add it or take it from the grid")
    return table.model_copy(update={"rows": each})


def distances(judged: pd.DataFrame, runs: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """How far each choice is from the published numbers, in points: a row each, in order of appearance.

    rms is the mean over seeds of the root mean square of ours − published, absolute of the mean absolute difference;
    difference is that of rms to `baseline`, paired by seed; low, high its simultaneous interval (Bonferroni); verdict
    "closer", "farther", "cannot tell", or "" for the baseline itself.
    """
    metric, groups = judged["metric"].iloc[0], runs.groupby("variant", sort=False)
    ours = 100 * runs[metric].mask(runs["diverged"].astype(bool) | runs[metric].isna(), GUESS)
    off = ours - runs["trial"].map(judged.set_index("trial")["published"])
    by_seed = pd.DataFrame({"squared": off**2, "absolute": off.abs()}).groupby([runs["variant"], runs["seed"]]).mean()
    table = groups.agg(seeds=("seed", "nunique"), diverged=("diverged", "sum"), runs=("seed", "size"))
    variants = judged["trial"].map(runs.drop_duplicates("trial").set_index("trial")["variant"])
    seen = pd.crosstab(variants, judged["verdict"]).reindex(columns=["agrees", "differs"], fill_value=0)
    rms = np.sqrt(by_seed["squared"]).unstack("seed").loc[table.index]
    mean, low, high = interval(rms - rms.loc[baseline], 1 - (1 - LEVEL) / max(len(rms) - 1, 1))
    table = table.join(seen).assign(rms=rms.mean(axis=1), absolute=by_seed["absolute"].groupby("variant").mean())
    table = table.assign(difference=mean, low=low, high=high, verdict=np.where(mean < 0, "closer", "farther"))
    table.loc[(table["seeds"] < MIN_SEEDS) | ~((low > 0) | (high < 0)), "verdict"] = "cannot tell"
    table.loc[baseline, "verdict"] = ""
    return table.rename_axis("choice").reset_index()
