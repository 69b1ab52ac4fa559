"""What a published report says, held against our runs: its numbers, its claims, and what it leaves unsaid.

`runs` and `history` are those of `Study`, several studies in one frame with a column `study`. A published number is one
run of theirs, ours are a distribution over seeds. A run that diverged, or ended at chance, has *crashed*.
"""

from collections.abc import Mapping
from decimal import Decimal
from functools import partial
from itertools import combinations, pairwise, product
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import BeforeValidator, Field, NonNegativeFloat, PositiveInt, model_validator
from scipy import special

from fmnist.config import GUESS, RunConfig, Strict, UserError, nearest, read_yaml, sizes_text, validate, validate_field
from fmnist.statistics import LEVEL, MIN_PAIRS, averaging, compare, holm, prediction
from fmnist.words import METRICS, metric_of

CHANCE = 0.125  # an accuracy that a network which guesses may have
MIN_SEEDS = 3  # runs below which no prediction is made
WIDEST = {"points": 10.0, "nats": 1.0}  # a wider prediction interval agrees with too much to tell anything
WORTH = 0.005  # of accuracy: a difference of a clear size; where "over" excludes a lead of this size, it fails
MARGIN = 0.02  # of accuracy: "the same" is at most so far apart, in every claim; the least ± that the reports print
BEST_EPOCH = {  # what two trials are compared by where a run of theirs crashed
    "test_accuracy": "best_val_test_accuracy", "val_accuracy": "best_val_accuracy", "test_loss": "best_val_test_loss",
}  # fmt: skip
ANSWERS = {2: "clearly holds", 1: "holds", 0: "open", -1: "fails", -2: "clearly fails"}


def select(settings: pd.DataFrame, where: dict | list[dict], place: str = "select", several: bool = True) -> list[str]:
    """Labels of the trials whose fields are as `where` says; `settings` is `Study.settings()` or `Study.runs()`.

    {optimizer: Adam, lr: [0.1, 0.01]} asks for the first rate, then for the second; of `hidden_sizes`, a list of widths
    is one value. Raises UserError, which begins with `place`, for an unknown field, where nothing matches, and, unless
    `several` may, where two trials do.
    """
    known, found = [name for name in settings if name != "trial"], []
    for one in [where] if isinstance(where, dict) else where:
        if unknown := [key for key in one if key not in known]:
            raise UserError(f"{place}: {unknown[0]}: no such field{nearest(unknown[0], known)}")
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
MetricName = Literal[*(name for name in METRICS if METRICS[name].unit in WIDEST and METRICS[name].level)]


class Number(Strict):
    """One published number: percent for an accuracy, points for a lead, nats for a loss."""

    of: One
    over: One | None = None  # then it is by how much `of` leads this trial
    value: NonNegativeFloat
    pm: NonNegativeFloat | None = None  # as printed behind ±
    note: str = ""
    study: str = ""  # where it is not that of the table
    fit: bool = False  # what is unsaid is inferred from it, so that it is not judged


class NumberTable(Strict):
    """Published numbers in one metric."""

    study: str
    of: One = {}  # what the trials of this study have in common
    metric: MetricName = "test_accuracy"
    scale: Annotated[float, Field(gt=0)] = 1.0  # ours times this is what is printed: 0.1 if losses are divided by ten
    counted: bool = True  # false: in a unit that is not known, shown and not counted
    test_batch: PositiveInt | None = None  # accuracies are means over test batches of so many images, the last smaller
    rows: list[Number] = Field(min_length=1)

    @model_validator(mode="after")
    def _possible(self) -> "NumberTable":
        percent, most = metric_of(self.metric).unit == "points", metric_of(self.metric).scale * self.scale
        for i, row in enumerate(self.rows):
            if percent and row.value > most:
                raise ValueError(f"rows.{i}: value: should be at most {most:g}, as {self.metric} is")
            if row.fit and not percent:
                raise ValueError(f"rows.{i}: fit: only accuracies are fitted to, and {self.metric} is none")
        return self


FORMS = {  # what a test asks, by the key that says so, and what may stand beside it
    "best": {"among"}, "rising": set(), "falling": {"of"}, "over": {"of", "over_at", "at_least", "at_most"},
    "same": {"to"}, "of": {"at_least", "at_most"},
}  # fmt: skip


class ClaimTest(Strict):
    """One test on our runs; trials are given by their fields, see `select`, and `of` left out is every trial."""

    study: str
    best: One | None = None  # better than every other trial, or than those `among`
    among: Trials | None = None
    rising: Trials | None = None  # each above the one before
    falling: Literal["train_loss", "val_loss"] | None = None  # over the epochs of each `of`
    of: Trials | None = None
    over: Trials | None = None  # each `of` is above each of these; by so much, with at_least, at_most
    same: Trials | None = None  # all pairs of these, or each and `to`, differ by no more than `MARGIN`
    to: One | None = None
    at_least: float = -np.inf  # points, for a loss nats; by itself, of the mean of each `of`
    at_most: float = np.inf
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
            raise ValueError("asks nothing; allowed: best, rising, falling, same, of with over, at_least, at_most")
        if odd := sorted(beside - FORMS[self.form]):
            raise ValueError(f"{odd[0]}: does not stand beside {self.form}; allowed: {', '.join(FORMS[self.form])}")
        if (self.at or self.over_at) and not all(name.startswith(("train", "val")) for name in self.metrics):
            raise ValueError("at: training and validation metrics are read at an epoch, others at the end only")
        if self.form == "same" and any(metric_of(name).unit != "points" for name in self.metrics):
            raise ValueError("same: is asked of accuracies")
        return self

    def pairs(self, settings: pd.DataFrame, place: str = "claims") -> list[tuple[str, str]]:
        """Labels of the trials to compare, (A, B); (A, "") where a trial is asked by itself."""
        named = {
            key: select(settings, getattr(self, key), f"{place}.{key}", several=key in ("of", "over", "among", "same"))
            for key in ("of", "best", "rising", "over", "same", "to", "among")
            if getattr(self, key) is not None
        }
        every = list(settings["trial"].unique())
        first = named.get("of") or named.get("best") or named.get("same") or every
        if self.form in ("of", "falling"):
            return [(trial, "") for trial in first]
        if self.form == "rising":
            found = [(later, earlier) for earlier, later in pairwise(named["rising"])]
        elif self.form == "same" and not self.to:
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
    tests: list[ClaimTest] = Field(min_length=1)


class Published(Strict):
    author: str  # as in a sentence
    cite: str  # key in references.bib
    protocol: str  # a sentence: what the report states
    choices: dict[str, str] = {}  # what it does not state, besides what is inferred: what we took
    numbers: list[NumberTable] = []
    claims: list[Claim] = Field(min_length=1)


def read(folder: Path, settings: dict[str, pd.DataFrame]) -> Published:
    """The checked `published.yaml` of a report's folder; `settings` has `Study.settings()` of each study.

    Raises UserError for anything wrong in it.
    """
    where = f"params/{folder.name}/published.yaml"
    found = validate(Published, read_yaml(folder / "published.yaml"), where)
    asked = [
        (f"{where}: numbers.{i}", row.study or table.study, partial(select, where=table.of | one, several=False))
        for i, table in enumerate(found.numbers)
        for row in table.rows
        for one in (row.of, row.over)
        if one is not None
    ]
    asked += [(f"{where}: claims.{i}", test.study, test.check) for i, c in enumerate(found.claims) for test in c.tests]
    for place, study, check in asked:
        if study not in settings:
            raise UserError(f"{place}: the report has no study {study!r}{nearest(study, list(settings))}")
        try:
            check(settings[study], place=place)
        except UserError as error:
            raise UserError(f"{error} (the study is params/{folder.name}/{study}.yaml)") from None
    return found


# ---- numbers


def judge(published: Published, runs: pd.DataFrame) -> pd.DataFrame:
    """Every published number beside ours, in the unit of print: a row each.

    mean is over the n runs that did not crash; one_low, one_high is the 95 % prediction interval of one run of ours,
    for an accuracy on the logit scale, so that it stays within 0 and 100 %; batch_std is the mean of the runs'
    `test_accuracy_std`; difference is ours − published. A number at chance, in an unknown unit, or fitted to is shown,
    and its verdict says so; the others agree, differ, or cannot tell. Rounding, and a lead's range, are allowed for.
    """
    return pd.DataFrame([_judged(table, row, runs) for table in published.numbers for row in table.rows])


def _judged(table: NumberTable, row: Number, runs: pd.DataFrame) -> dict[str, Any]:
    measure, ours = metric_of(table.metric), runs[runs["study"] == (row.study or table.study)]
    trials = [select(ours, table.of | one, several=False)[0] for one in (row.of, row.over) if one is not None]
    sides = [ours[ours["trial"] == trial].set_index("seed") for trial in trials]
    kept = [side.loc[~crashed(side), table.metric].astype(float) for side in sides]
    factor, accuracy = table.scale * measure.scale, measure.unit == "points" and row.over is None
    values = (kept[0] - kept[1]).to_numpy() if row.over is not None else kept[0].to_numpy()
    spread = sides[0].loc[kept[0].index, "test_accuracy_std"].mean() if table.metric == "test_accuracy" else np.nan
    mean, n = float(np.mean(values)) if len(values) else np.nan, int(np.isfinite(values).sum())
    if accuracy:
        extra = averaging(mean, table.test_batch) / (mean * (1 - mean)) if table.test_batch and n else 0.0
        one_low, one_high = special.expit(prediction(special.logit(np.clip(values, 1e-6, 1 - 1e-6)), extra))
    else:
        one_low, one_high = prediction(values)
    low, high = factor * one_low, factor * one_high
    printed = 0.5 * 10.0 ** Decimal(str(row.value)).as_tuple().exponent + (row.pm or 0.0) * (row.over is not None)
    few = n < MIN_SEEDS or high - low > WIDEST[measure.unit]
    said = {
        "fitted": row.fit,
        "unknown unit": not table.counted,
        "at chance": accuracy and row.value <= factor * CHANCE,
    }
    said |= {"cannot tell": few, "agrees": low <= row.value + printed and row.value - printed <= high, "differs": True}
    verdict = next(word for word, so in said.items() if so)  # the first that is so
    return {
        "study": row.study or table.study, "trial": " − ".join(trials), "metric": table.metric, "unit": measure.unit,
        "published": row.value, "pm": np.nan if row.pm is None else row.pm, "note": row.note, "n": n,
        "runs": len(sides[0]), "batch_std": factor * spread if row.over is None else np.nan, "mean": factor * mean,
        "one_low": low, "one_high": high, "difference": factor * mean - row.value, "verdict": verdict,
    }  # fmt: skip


def crashed(runs: pd.DataFrame) -> pd.Series:
    """Which runs diverged, or ended at chance."""
    return runs["diverged"].astype(bool) | ~(runs["test_accuracy"] > CHANCE)


# ---- what is unsaid


def protocols(
    published: Published, studies: Mapping[str, Any], unsaid: dict[str, dict[str, Any]], place: str = "unsaid"
) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """What to train to infer the `unsaid` fields, {field: {name: value}}: a row for each protocol and number.

    A protocol is a combination of their values; the first of each are the first guess, which has all accuracies, the
    others have the numbers with `fit`. Columns: protocol, number (its place among all), metric, published, fit, first,
    taken (these are the configs of the report's `studies`), and trial and over, which name the variants that come with
    it, each config once. Values of `times_weight_decay` are factors on a trial's own. UserError for what is no field.
    """
    rows, names, variants = [], {}, {}
    for field, values in unsaid.items():
        if not isinstance(values, dict) or not values:
            raise UserError(f"{place}: unsaid: {field}: should be values by the names that the paper gives them")
        for value in values.values():
            validate_field("weight_decay" if field == "times_weight_decay" else field, value, f"{place}: unsaid")
    options = [[(field, name, value) for name, value in values.items()] for field, values in unsaid.items()]
    numbers = [(table, row) for table in published.numbers for row in table.rows]
    for order, chosen in enumerate(product(*options)):
        protocol, fields = ", ".join(name for _, name, _ in chosen), {field: value for field, _, value in chosen}
        for number, (table, row) in enumerate(numbers):
            if metric_of(table.metric).unit != "points" or not (row.fit or order == 0):
                continue
            study, sides = studies[row.study or table.study], []
            for one in (row.of, row.over):
                if one is not None:
                    (trial,) = select(study.settings(), table.of | one, several=False)
                    own = study.trials[trial][1][0]
                    config = _under(fields, own)
                    sides.append(names.setdefault(config.trial_id, f"{protocol}: {trial}"))
                    variants[sides[-1]] = config.model_dump(exclude_defaults=True, exclude={"seed"})
            taken, over = config.trial_id == own.trial_id, sides[1] if row.over is not None else ""
            rows.append([protocol, number, table.metric, row.value, row.fit, order == 0, taken, sides[0], over])
    columns = ["protocol", "number", "metric", "published", "fit", "first", "taken", "trial", "over"]
    return pd.DataFrame(rows, columns=columns), variants


def _under(fields: dict[str, Any], config: RunConfig) -> RunConfig:
    given = config.model_dump(exclude_defaults=True) | fields
    if times := given.pop("times_weight_decay", None):
        given["weight_decay"] = times * config.weight_decay
    return RunConfig(**given)


# ---- claims


def evidence(published: Published, runs: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Every comparison that the claims ask for, a row each, paired by seed; accuracies in [0, 1].

    Columns beside those of `compare`: claim, test (places), form, at_least, at_most, every and none (whether every seed
    is as claimed, or no seed is), median, and status, see `_status`. Holm's correction is over the rows of a claim.
    """
    asked = [(i, j, test) for i, claim in enumerate(published.claims) for j, test in enumerate(claim.tests)]
    rows = [_compared(test, runs, history).assign(claim=i, test=j) for i, j, test in asked]
    table = pd.concat(rows, ignore_index=True)
    by_p = (table["at_least"] == 0) & (table["at_most"] == np.inf) & (table["form"] != "falling")
    tested = table["p"].where(by_p).dropna().groupby(table["claim"])
    table["p_holm"] = tested.transform(lambda p: holm(p.to_numpy(float)))
    return table.assign(status=[_status(row) for row in table.itertuples()])


def _compared(test: ClaimTest, runs: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """A row of `statistics.compare` for each metric and pair of trials; a trial by itself is compared with zero."""
    runs, history = (frame[frame["study"] == test.study] for frame in (runs, history))
    rows, over_at = [], test.at if test.over_at is None else test.over_at
    for metric, (trial, other) in product([test.falling] if test.falling else test.metrics, test.pairs(runs)):
        both = [runs[runs["trial"] == name] for name in (trial, other) if name]
        if other and not (test.at or test.over_at) and any(crashed(side).any() for side in both):
            metric = BEST_EPOCH.get(metric, metric)  # a crash in one seed leaves the others what they are
        sides = [_values(test, metric, at, side, history) for at, side in zip((test.at, over_at), both, strict=False)]
        sides += [sides[0].assign(**{metric: 0.0}, trial="")] * (not other)
        if test.form == "best" and not metric_of(metric).higher_is_better:  # of a loss the best is below
            sides.reverse()
        bounded = {"at_least", "at_most"} & test.model_fields_set  # without bounds, above zero
        low, high = np.array([test.at_least if bounded else 0.0, test.at_most]) / metric_of(metric).scale
        low, high = (-MARGIN, MARGIN) if test.form == "same" else (low, high)
        apart = sides[0].set_index("seed")[metric].sub(sides[1].set_index("seed")[metric]).dropna()
        there = (apart > low) & (apart < high)
        row = compare(pd.concat(sides), sides[1]["trial"].iloc[0], metric=metric)
        rows.append(row.assign(
            form=test.form, at_least=low, at_most=high, p=row["p"] if other else np.nan, median=apart.median(),
            every=bool(len(apart)) and there.all(), none=bool(len(apart)) and not there.any(),
        ))  # fmt: skip
    return pd.concat(rows).drop(columns=["p_holm", "verdict", "diverged"])


def _values(test: ClaimTest, metric: str, when: list[int], runs: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Runs of a trial with a metric at the end or averaged over epochs; of what should fall, 1 where it always does.

    A rise counts that an eye would find in a figure of the curve: by a hundredth of the curve's height.
    """
    trained, values = history[history["epoch"] > 0], runs[metric]
    if test.falling:
        losses = trained.sort_values("epoch").groupby("run_id")[metric]
        falls = losses.agg(lambda loss: float((loss.diff()[1:] < 0.01 * (loss.max() - loss.min())).all()))
        values = runs["run_id"].map(falls).mask(runs["diverged"].astype(bool), 0.0)
    elif when:
        part = trained[trained["epoch"].between(when[0], when[-1])].groupby("run_id")[metric]
        values = runs["run_id"].map(part.mean().where(part.count() == when[-1] - when[0] + 1))
    lost = runs["diverged"].astype(bool) & values.isna() & (metric_of(metric).unit == "points")
    read = f" at epochs {when[0]} to {when[-1]}" if when[1:] else f" at epoch {when[0]}" if when else " at the end"
    trial = runs["trial"] + (read if test.at or test.over_at else "")
    return pd.DataFrame({"trial": trial, "seed": runs["seed"], metric: values.mask(lost, GUESS)})


def _status(row: Any) -> int:
    """2 where every seed is as claimed and the size is clear, 1 as claimed, 0 open, −1 and −2 the same against it.

    1 and −1 are decided by Holm's p or, with bounds, by where the 95 % interval lies (two one-sided tests: Schuirmann,
    J. Pharmacokinet. Biopharm. 15, 1987); of two to five seeds by whether all say the same.
    """
    low, high = row.at_least, row.at_most
    plain, decided = low == 0 and high == np.inf, row.n >= MIN_PAIRS
    if row.n < 2:
        return 0
    if row.every and (not plain or row.median >= WORTH):
        return 1 + decided
    if row.none and (row.form == "falling" or max(low - row.median, row.median - high) >= WORTH):
        return -1 - decided
    if row.form == "falling" or not decided:
        return 0
    if plain:
        excluded = row.form != "best" and metric_of(row.metric).unit == "points" and row.high < WORTH
        return int(np.sign(row.difference)) if row.p_holm < 1 - LEVEL else -int(excluded)
    if row.high < low or row.low > high:
        return -1
    return int(low <= row.low and row.high <= high)
