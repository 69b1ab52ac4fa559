"""What a published report says, as data.

`params/<report>/published.yaml` has its numbers as tables (`reproduced` holds ours beside them), its claims as
sentences, each with tests on our runs (`claims` answers them), and what it leaves unsaid with what we took. `read`
checks all of it before anything is trained.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from fmnist.config import Strict, UserError, nearest, read_yaml, validate
from fmnist.words import metric_of

EPOCHWISE = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")

MetricName = Literal[
    "test_accuracy", "val_accuracy", "train_accuracy", "test_loss", "val_loss", "train_loss", "best_val_accuracy",
    "best_val_test_accuracy", "best_val_test_loss", "seconds", "seconds_per_epoch",
]  # fmt: skip
Names = Annotated[list[str], Field(min_length=1)]
Two = Annotated[list[str], Field(min_length=2)]


def _when(value: Any) -> Any:
    """Epochs to average over, (first, last); () is the end of training."""
    whole = [value] if type(value) is int else value
    if value == "end":
        return ()
    if not isinstance(whole, list) or len(whole) not in (1, 2) or any(type(n) is not int or n < 1 for n in whole):
        raise ValueError('should be an epoch from 1, two such as [1, 9] to average over, or "end"')
    return min(whole), max(whole)


When = Annotated[tuple[int, ...], BeforeValidator(_when)]


class Number(Strict):
    """One published number: percent for an accuracy, nats for a loss, seconds."""

    trial: str
    study: str = ""  # where it is not that of the table
    value: float
    pm: float | None = None  # as printed behind ±
    note: str = ""


class Table(Strict):
    """Published numbers in one metric, mostly of one study."""

    study: str
    caption: str
    metric: MetricName = "test_accuracy"
    scale: Annotated[float, Field(gt=0)] = 1.0  # ours times this is what is printed: 0.1 if losses are divided by ten
    test_batch: PositiveInt | None = None  # accuracies are means over test batches of so many images, the last smaller
    rows: list[Number] = Field(min_length=1)

    @model_validator(mode="after")
    def _scaled(self) -> "Table":
        if self.scale != 1 and metric_of(self.metric).unit != "nats":
            raise ValueError(f"scale: is for losses; {self.metric} has none")
        return self


class Question(Strict):
    """What all tests of a claim have; `at` is when the metrics are read."""

    study: str
    metrics: list[MetricName] = Field(["test_accuracy"], min_length=1)
    at: When = ()

    @model_validator(mode="after")
    def _epochs(self) -> "Question":
        late = [name for name in self.metrics if name not in EPOCHWISE]
        if late and (self.at or getattr(self, "than_at", None)):
            raise ValueError(f"at: {late[0]} is read at the end only; after an epoch: {', '.join(EPOCHWISE)}")
        return self


class Higher(Question):
    """`trial` is above each of `than`; with bounds, by at least or at most so many points (nats, for a loss)."""

    trial: str
    than: Names
    than_at: When | None = None  # left out: as `at`
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _two(self) -> "Higher":
        if self.trial in self.than and self.than_at is None:
            raise ValueError(f"than: {self.trial!r} is compared with itself; name an epoch under `than_at`")
        return self


class Same(Question):
    """`trials` (each pair, or each and `to`) differ by no more than `margin` points or nats.

    Without a margin it is our spread over test batches, which is what the published ± is: then the claim is that
    each lies within the other's ±.
    """

    trials: Names
    to: str | None = None
    margin: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _pairs(self) -> "Same":
        if self.to is None and len(self.trials) < 2:
            raise ValueError("trials: one alone has nothing to be the same as; name two, or another under `to`")
        if self.margin is None and any(metric_of(name).unit != "points" for name in self.metrics):
            raise ValueError("margin: is required for a loss")
        return self


class Best(Question):
    """`trial` is the best of the study, or of the trials under `among`."""

    trial: str
    among: list[str] = []


class Trend(Question):
    """Along `trials` the metric rises with every step."""

    trials: Two


class Level(Question):
    """Every one of `trials` ends at a mean of at least or at most so many percent, nats."""

    trials: Names
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _bounded(self) -> "Level":
        if self.at_least is None and self.at_most is None:
            raise ValueError("at_least: or at_most is required")
        return self


class Monotone(Strict):
    """`metric` falls in every epoch of every run of the study, or of the trials named."""

    study: str
    trials: list[str] = []
    metric: Literal["train_loss", "val_loss"] = "train_loss"


class ClaimTest(Strict):
    """One test on our runs: exactly one kind."""

    higher: Higher | None = None
    same: Same | None = None
    best: Best | None = None
    trend: Trend | None = None
    level: Level | None = None
    monotone: Monotone | None = None

    @model_validator(mode="after")
    def _one(self) -> "ClaimTest":
        if len(self.model_fields_set) != 1 or self.asked is None:
            raise ValueError(f"a test is of one kind; allowed are {', '.join(ClaimTest.model_fields)}")
        return self

    @property
    def asked(self) -> Higher | Same | Best | Trend | Level | Monotone | None:
        return next((getattr(self, kind) for kind in self.model_fields_set), None)


class Claim(Strict):
    """A sentence as published; it holds where all of its tests do.

    `because` says how the tests were chosen; `otherwise`, which is printed only where the claim does not hold, why
    that may be.
    """

    says: str
    because: str = ""
    otherwise: str = ""
    tests: list[ClaimTest] = Field(min_length=1)


class Choice(Strict):
    """Something that the published report does not say, and what we took."""

    what: str
    taken: str


class Published(Strict):
    """published.yaml."""

    author: str  # as in a sentence
    cite: str  # key in references.bib
    protocol: str  # a sentence: what the report states
    choices: list[Choice] = []
    numbers: list[Table] = []
    claims: list[Claim] = Field(min_length=1)


def read(folder: Path, studies: Mapping[str, Sequence[str]], required: bool = True) -> Published | None:
    """The checked `published.yaml` of a report's folder, None if it has none and none is `required`.

    `studies` names the report's studies with their trials. Raises UserError for what is missing, misspelt or of a wrong
    type, and for a study or trial that the report lacks.
    """
    path, where = folder / "published.yaml", f"params/{folder.name}/published.yaml"
    if not path.exists() and not required:
        return None
    found = validate(Published, read_yaml(path), where)
    for i, table in enumerate(found.numbers):
        _check(table.study, [], studies, f"{where}: numbers.{i}")
        for j, row in enumerate(table.rows):
            _check(row.study or table.study, [row.trial], studies, f"{where}: numbers.{i}.rows.{j}")
    for i, claim in enumerate(found.claims):
        for j, test in enumerate(claim.tests):
            asked = test.asked
            named = [getattr(asked, key, None) for key in ("trial", "to")]
            lists = [getattr(asked, key, []) for key in ("trials", "than", "among")]
            trials = [*filter(None, named), *(name for names in lists for name in names)]
            _check(asked.study, trials, studies, f"{where}: claims.{i}.tests.{j}")
    return found


def _check(study: str, trials: Sequence[str], studies: Mapping[str, Sequence[str]], where: str) -> None:
    if study not in studies:
        raise UserError(f"{where}: the report has no study {study!r}{nearest(study, list(studies))}")
    for name in trials:
        if name not in studies[study]:
            raise UserError(f"{where}: study {study} has no trial {name!r}{nearest(name, list(studies[study]))}")
