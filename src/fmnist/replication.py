"""What a published report says, held against our runs: its numbers, its claims, and what it leaves unsaid.

`runs` and `history` are those of `Study`, several studies in one frame with a column `study`. A network that diverged
counts in a claim, and in the distance of a choice, as one that guesses.
"""

from itertools import combinations, pairwise, product
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import BeforeValidator, Field, PositiveInt, model_validator
from scipy import stats

from fmnist.config import GUESS, TEST_IMAGES, TRIAL_FIELDS, Strict, UserError, nearest, read_yaml, sizes_text, validate
from fmnist.statistics import LEVEL, MIN_PAIRS, compare, interval, together
from fmnist.words import METRICS, metric_of

FIELDS = ("variant", *TRIAL_FIELDS)  # what a trial may be named by
MIN_SEEDS = 3  # finite runs below which no prediction is made
WIDEST = {"points": 10.0, "nats": 1.0}  # a wider prediction interval agrees with too much to tell anything
HIGHEST = 1e6  # percent, nats or seconds that may be printed
WORTH = 0.005  # of accuracy: where the interval excludes a lead of this size, "over" does not hold


def select(settings: pd.DataFrame, where: dict | list[dict], place: str = "select", several: bool = True) -> list[str]:
    """Labels of the trials whose fields are as `where` says; `settings` is `Study.settings()` or `Study.runs()`.

    {optimizer: Adam, lr: [0.1, 0.01]} asks for the first rate, then for the second; of `hidden_sizes`, a list of widths
    is one value. Raises UserError, which begins with `place`, for an unknown field, where nothing matches, and, unless
    `several` may, where two trials do.
    """
    found = []
    for one in [where] if isinstance(where, dict) else where:
        if unknown := [key for key in one if key not in FIELDS]:
            raise UserError(f"{place}: {unknown[0]}: no such field{nearest(unknown[0], list(FIELDS))}")
        options = {key: value if isinstance(value, list) else [value] for key, value in one.items()}
        if "hidden_sizes" in options:
            sizes = options["hidden_sizes"]
            options["hidden_sizes"] = map(sizes_text, sizes if sizes and isinstance(sizes[0], list) else [sizes])
        for values in product(*options.values()):
            asked = dict(zip(one, values, strict=True))
            match = (settings[list(asked)] == pd.Series(asked, dtype=object)).all(axis=1)
            labels = list(settings.loc[match, "trial"].unique())
            if not labels or (len(labels) > 1 and not several):
                many = "; ".join(labels) or f"none of {'; '.join(settings['trial'].unique())}"
                raise UserError(f"{place}: {asked} should be of one trial, and is of {many}")
            found += labels
    return list(dict.fromkeys(found))


One = dict[str, Any]  # a trial by its fields, see `select`
Trials = Annotated[list[One], BeforeValidator(lambda value: [value] if isinstance(value, dict) else value)]
Epochs = Annotated[  # an epoch, two to average over, or "end", which is []
    list[PositiveInt],
    Field(max_length=2),
    BeforeValidator(lambda value: [] if value == "end" else [value] if isinstance(value, int) else value),
]
Bound = Annotated[float, Field(ge=-HIGHEST, le=HIGHEST)]
MetricName = Literal[*(name for name in METRICS if METRICS[name].level and name != "weight_norm")]


class Number(Strict):
    """One published number: percent for an accuracy, nats for a loss, seconds."""

    of: One
    value: Annotated[float, Field(ge=0, le=HIGHEST)]
    pm: Annotated[float, Field(ge=0, le=HIGHEST)] | None = None  # as printed behind ±
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

    @model_validator(mode="after")
    def _possible(self) -> "NumberTable":
        most = metric_of(self.metric).scale * self.scale if metric_of(self.metric).unit == "points" else HIGHEST
        for i, row in enumerate(self.rows):
            if row.value > most:
                raise ValueError(f"rows.{i}: value: should be at most {most:g}, as {self.metric} is")
        return self


FORMS = {  # what a test asks, by the key that says so, and what may stand beside it
    "best": {"among"}, "rising": set(), "falling": {"of"}, "over": {"of", "over_at", "at_least", "at_most"},
    "within": {"of", "to"}, "of": {"at_least", "at_most"},
}  # fmt: skip


class ClaimTest(Strict):
    """One test on our runs; trials are given by their fields, see `select`, and `of` left out is every trial."""

    study: str
    best: One | None = None  # better than every other trial, or than those `among`
    among: Trials | None = None
    rising: Trials | None = None  # each above the one before
    falling: Literal["train_loss", "val_loss"] | None = None  # in every epoch of every run of each `of`
    of: Trials | None = None
    over: Trials | None = None  # each `of` is above each of these; by so much, with at_least, at_most
    within: Annotated[float, Field(gt=0, le=HIGHEST)] | Literal["batches"] | None = None  # all pairs of `of`, or each
    to: One | None = None  # and `to`, differ by no more; "batches": than our spread over test batches, a published ±
    at_least: Bound = np.nan  # points, for a loss nats; by itself, of the mean of each `of`
    at_most: Bound = np.nan
    metrics: list[MetricName] = Field(["test_accuracy"], min_length=1)
    at: Epochs = []  # where the metrics are read
    over_at: Epochs | None = None  # where those of `over` are; left out: as `at`

    @property
    def form(self) -> str:
        return next((key for key in FORMS if key in self.model_fields_set), "")

    @model_validator(mode="after")
    def _consistent(self) -> "ClaimTest":
        beside = self.model_fields_set - {"study", "metrics", "at", self.form}
        if not self.form or (self.form == "of" and not beside):
            raise ValueError("asks nothing; allowed: best, rising, falling, of with over, within, at_least, at_most")
        if odd := sorted(beside - FORMS[self.form]):
            raise ValueError(f"{odd[0]}: does not stand beside {self.form}; allowed: {', '.join(FORMS[self.form])}")
        if (self.at or self.over_at) and not all(name.startswith(("train", "val")) for name in self.metrics):
            raise ValueError("at: training and validation metrics are read at an epoch, others at the end only")
        if self.within == "batches" and any(metric_of(name).unit != "points" for name in self.metrics):
            raise ValueError("within: for a loss a number is required")
        return self

    def pairs(self, settings: pd.DataFrame, place: str = "claims") -> list[tuple[str, str]]:
        """Labels of the trials to compare, (A, B); (A, "") where a mean by itself is asked for."""
        named = {
            key: select(settings, getattr(self, key), f"{place}.{key}", several=key in ("of", "over", "among"))
            for key in ("of", "best", "rising", "over", "to", "among")
            if getattr(self, key) is not None
        }
        every = list(settings["trial"].unique())
        first = named.get("of") or named.get("best") or every
        if self.form in ("of", "falling"):
            return [(trial, "") for trial in first]
        if self.form == "rising":
            found = [(later, earlier) for earlier, later in pairwise(named["rising"])]
        elif self.form == "within" and not self.to:
            found = combinations(first, 2)
        else:
            found = product(first, named.get("over") or named.get("to") or named.get("among") or every)
        if pairs := [(one, other) for one, other in found if one != other or self.over_at is not None]:
            return pairs
        raise UserError(f"{place}: {self.form}: needs two different trials, or epochs under over_at")

    def check(self, settings: pd.DataFrame, place: str) -> None:
        """Raises UserError if trials are not there, or are not trained for as long as the test reads them."""
        named, last = {*sum(self.pairs(settings, place), ())}, max([*self.at, *(self.over_at or [])], default=0)
        for row in settings[settings["trial"].isin(named) & (settings["epochs"] < last)].itertuples():
            raise UserError(f"{place}: at: epoch {last} is beyond the {row.epochs} of {row.trial!r}")


class Claim(Strict):
    """A sentence as published; it holds where all of its tests do."""

    says: str
    because: str = ""  # how the tests were chosen
    otherwise: str = ""  # printed where it does not hold: why that may be
    tests: list[ClaimTest] = Field(min_length=1)


class Published(Strict):
    author: str  # as in a sentence
    cite: str  # key in references.bib
    protocol: str  # a sentence: what the report states
    choices: dict[str, str] = {}  # what it does not state: what we took
    numbers: list[NumberTable] = []
    claims: list[Claim] = Field(min_length=1)


def read(folder: Path, settings: dict[str, pd.DataFrame], required: bool = True) -> Published | None:
    """The checked `published.yaml` of a report's folder, None if it has none and none is `required`.

    `settings` has `Study.settings()` of each study. Raises UserError for anything wrong in it.
    """
    path, where = folder / "published.yaml", f"params/{folder.name}/published.yaml"
    if not path.exists() and not required:
        return None
    found = validate(Published, read_yaml(path), where)
    tables, claims = enumerate(found.numbers), enumerate(found.claims)
    asked = [(f"{where}: numbers.{i}", row.study or t.study, t.of | row.of) for i, t in tables for row in t.rows]
    asked += [(f"{where}: claims.{i}", test.study, test) for i, claim in claims for test in claim.tests]
    for place, study, one in asked:
        if study not in settings:
            raise UserError(f"{place}: the report has no study {study!r}{nearest(study, list(settings))}")
        try:
            if isinstance(one, ClaimTest):
                one.check(settings[study], place)
            else:
                select(settings[study], one, place, several=False)
        except UserError as error:
            raise UserError(f"{error} (the study is params/{folder.name}/{study}.yaml)") from None
    return found


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


def judge(table: NumberTable, runs: pd.DataFrame) -> pd.DataFrame:
    """Published numbers beside ours, which are multiplied by the table's `scale`, in the unit of print: a row each.

    n are finite runs; low, high the 95 % t interval over seeds; one_low, one_high the prediction interval of one run;
    batch_std the spread over test batches, a mean over seeds; difference is ours − published.
    """
    rows, metric, unit = [], table.metric, metric_of(table.metric).unit
    factor, uneven = table.scale * metric_of(metric).scale, unit == "points" and table.test_batch
    for row in table.rows:
        ours = runs[runs["study"] == (row.study or table.study)]
        (trial,) = select(ours, table.of | row.of, table.study, several=False)
        ours = ours[ours["trial"] == trial].assign(seconds_per_epoch=lambda r: r["seconds"] / r["epochs"].clip(1))
        values, spread = factor * ours[metric].to_numpy(float), ours.get(f"{metric}_std", pd.Series(np.nan))
        (mean, low, high), n = map(float, interval(values)), int(np.isfinite(values).sum())
        one_low, one_high = prediction(values, factor * averaging(mean / factor, uneven) if uneven else 0.0)
        said = "agrees" if one_low <= row.value <= one_high else "differs"
        if unit == "s":
            one_low, one_high, said = np.nan, np.nan, "another machine"
        elif n < MIN_SEEDS or one_high - one_low > WIDEST[unit]:
            said = "cannot tell"
        rows.append({
            "study": row.study or table.study, "trial": trial, "metric": metric, "scale": table.scale,
            "published": row.value, "pm": np.nan if row.pm is None else row.pm, "note": row.note,
            "n": n, "diverged": int(ours["diverged"].sum()), "runs": len(ours), "mean": mean, "low": low, "high": high,
            "one_low": one_low, "one_high": one_high, "batch_std": factor * spread.mean(),
            "difference": mean - row.value, "verdict": said,
        })  # fmt: skip
    return pd.DataFrame(rows)


def evidence(published: Published, runs: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Every comparison that the claims ask for, a row each, paired by seed; accuracies in [0, 1].

    Without bounds the paired t test decides, Holm-corrected over all such rows; with bounds (at_least, at_most), where
    the 95 % interval lies: for equality two one-sided tests (Schuirmann, J. Pharmacokinet. Biopharm. 15, 1987). Columns
    beside those of `compare`: claim, test (places), guessed (diverged runs), status (1 as claimed, −1 not, 0 open).
    """
    tests = [(i, j, test) for i, claim in enumerate(published.claims) for j, test in enumerate(claim.tests)]
    found = [_compared(test, runs, history).assign(claim=i, test=j, form=test.form) for i, j, test in tests]
    table = pd.concat(found, ignore_index=True).drop(columns=["diverged", "family", "p_holm", "verdict"])
    by_p = table[["at_least", "at_most"]].isna().all(axis=1) & (table["form"] != "falling")
    family = together([table[by_p]]).set_index(table.index[by_p])[["p_holm", "verdict"]]
    table = table.join(family).fillna({"verdict": ""})
    return table.assign(status=[_status(row) for row in table.itertuples()])


def _compared(test: ClaimTest, runs: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """A row of `statistics.compare` for each metric and pair of trials; a trial by itself is compared with zero."""
    runs, history = (frame[frame["study"] == test.study] for frame in (runs, history))
    rows, pairs, over_at = [], test.pairs(runs), test.at if test.over_at is None else test.over_at
    spread = runs.loc[runs["trial"].isin({*sum(pairs, ())}), "test_accuracy_std"].mean()
    for metric, (trial, other) in product([test.falling] if test.falling else test.metrics, pairs):
        ours = _values(test, metric, test.at, runs[runs["trial"] == trial], history)
        zero = ours.assign(**{metric: 0.0}, guessed=False, trial="")
        sides = [ours, _values(test, metric, over_at, runs[runs["trial"] == other], history) if other else zero]
        if test.form == "best" and not metric_of(metric).higher_is_better:  # of a loss the best is below
            sides.reverse()
        both, scale, ends = pd.concat(sides), metric_of(metric).scale, np.array([test.at_least, test.at_most])
        if test.within:
            ends = np.array([-1, 1]) * (scale * spread if test.within == "batches" else test.within)
        row = compare(both, sides[1]["trial"].iloc[0], metric=metric).assign(guessed=both["guessed"].sum())
        rows.append(row.assign(at_least=ends[0] / scale, at_most=ends[1] / scale, p=row["p"] if other else np.nan))
    return pd.concat(rows)


def _values(test: ClaimTest, metric: str, when: list[int], runs: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Runs of a trial with a metric at the end or averaged over epochs; of what should fall, 1 where it always does."""
    trained, values, lost = history[history["epoch"] > 0], runs[metric], runs["diverged"].astype(bool)
    if test.falling:
        losses = trained.sort_values("epoch").groupby("run_id")[metric]
        values = runs["run_id"].map(losses.agg(lambda loss: float((loss.diff()[1:] < 0).all()))).mask(lost, 0.0)
    elif when:
        part = trained[trained["epoch"].between(when[0], when[-1])].groupby("run_id")[metric]
        values = runs["run_id"].map(part.mean().where(part.count() == when[-1] - when[0] + 1))
    lost &= values.isna() & (metric_of(metric).unit == "points")
    read = f" at epochs {when[0]} to {when[-1]}" if when[1:] else f" at epoch {when[0]}" if when else " at the end"
    trial = runs["trial"] + (read if test.at or test.over_at else "")
    return pd.DataFrame({"trial": trial, "seed": runs["seed"], metric: values.mask(lost, GUESS), "guessed": lost})


def _status(row: Any) -> int:
    """1 where a row of `evidence` is as claimed, −1 where it is not, 0 where that cannot be decided."""
    if row.form == "falling":  # in every run: one rise is enough against it
        return int(row.n >= MIN_PAIRS) if row.difference == 1 else -1
    if row.n < MIN_PAIRS:
        return 0
    if row.verdict:
        excluded = row.form != "best" and metric_of(row.metric).unit == "points" and row.high < WORTH
        return {"higher": 1, "lower": -1}.get(row.verdict, -int(excluded))
    if row.high < row.at_least or row.low > row.at_most:
        return -1
    return 0 if row.low < row.at_least or row.high > row.at_most else 1


def check_choices(published: list[dict], metric: str, settings: pd.DataFrame, where: str = "choices") -> NumberTable:
    """The `published` numbers, records such as {of: {lr: 0.1}, value: 86.4}, for every choice, a variant of the study.

    Raises UserError for a wrong type, for a number that is not of one trial of each choice, and a trial without one.
    """
    given = {"study": "choices", "caption": "", "metric": metric, "rows": published}
    table, variants = validate(NumberTable, given, where), settings["variant"].unique()
    each = [row.model_copy(update={"of": {"variant": name} | row.of}) for row in table.rows for name in variants]
    found = [select(settings, row.of, f"{where}: published", several=False)[0] for row in each]
    if bare := [trial for trial in settings["trial"].unique() if found.count(trial) != 1]:
        raise UserError(f"{where}: published: needs one number for {bare[0]!r}; add it or take it from the grid")
    return table.model_copy(update={"rows": each})


def distances(judged: pd.DataFrame, runs: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """How far each choice is from the published numbers, in points: a row each, in order of appearance.

    rms and absolute are means over seeds, of root mean squares and mean absolutes of ours − published; difference that
    of rms to `baseline`, paired by seed, in a simultaneous interval (Bonferroni); verdict "" is that of the baseline.
    """
    metric, groups = judged["metric"].iloc[0], runs.groupby("variant", sort=False)
    ours = 100 * runs[metric].mask(runs["diverged"].astype(bool), GUESS).fillna(GUESS)
    off = (ours - runs["trial"].map(judged.set_index("trial")["published"])).groupby([runs["variant"], runs["seed"]])
    rms = off.agg(lambda points: np.sqrt((points**2).mean())).unstack("seed")
    absolute = off.agg(lambda points: points.abs().mean()).groupby("variant").mean()
    variants = judged["trial"].map(runs.drop_duplicates("trial").set_index("trial")["variant"])
    seen = pd.crosstab(variants, judged["verdict"]).reindex(columns=["agrees", "differs"], fill_value=0)
    table = groups.agg(seeds=("seed", "nunique"), diverged=("diverged", "sum"), runs=("seed", "size")).join(seen)
    mean, low, high = interval((rms - rms.loc[baseline]).loc[table.index], 1 - (1 - LEVEL) / max(len(rms) - 1, 1))
    table = table.assign(rms=rms.mean(axis=1), absolute=absolute, difference=mean, low=low, high=high)
    cases = [table.index == baseline, table["seeds"] < MIN_SEEDS, low > 0, high < 0]
    table["verdict"] = np.select(cases, ["", "cannot tell", "farther", "closer"], "cannot tell")
    return table.rename_axis("choice").reset_index()
