"""A search over all hyperparameters at once: trials drawn from a space, trained as one study, and what they say.

By successive halving (Jamieson and Talwalkar, AISTATS 2016) most trials are given up early. All trials have one seed:
they share split and batch order; those of one architecture are a stack, so widths and depths are choices, not ranges.
"""

import math
from typing import Annotated, Any, Literal

import numpy as np
import optuna
import pandas as pd
from pydantic import Discriminator, Field, PositiveInt, Tag, model_validator

from fmnist import store
from fmnist.config import TRIAL_FIELDS, RunConfig, Strict, UserError, nearest, validate, validate_field, without_unused
from fmnist.study import MOST, Overrides, Seed, Study, train
from fmnist.words import setting

SHARE = 3  # halving: of so many trials one goes on, for so many times the epochs
ROUND = 32  # trials that Optuna proposes together, so that stacks have several runs
ATTEMPTS = 100  # draws for each trial that is wanted, before the space counts as exhausted
SHAPE = ["layers", "width"]  # axes of their own: so many hidden layers, each of this width
optuna.logging.set_verbosity(optuna.logging.WARNING)


class Range(Strict):
    """Real numbers from `low` to `high`, uniform, or uniform in their logarithm."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError("low should be below high, and above 0 where log is true")
        return self

    def at(self, share: float) -> float:
        """The number at `share` in [0, 1] of the way, to three digits, which is how it is printed."""
        low, high = np.log([self.low, self.high]) if self.log else (self.low, self.high)
        value = low + share * (high - low)
        return min(max(float(f"{math.exp(value) if self.log else value:.3g}"), self.low), self.high)


Axis = Annotated[  # choices or a range; told apart so that messages speak of one of the two
    Annotated[list[Any], Field(min_length=1), Tag("choices")] | Annotated[Range, Tag("range")],
    Discriminator(lambda value: "range" if isinstance(value, dict | Range) else "choices"),
]


class SearchSpec(Strict):
    base: Overrides = {}  # its fields, and those of the space, are checked by `Search`
    space: dict[str, Axis] = Field(min_length=1)
    trials: Annotated[PositiveInt, Field(le=MOST)] = 40
    method: Literal["random", "optuna", "halving"] = "random"
    seed: Seed = 0  # of the draws, and of every run


class Search:
    """`Search(space={"layers": [1, 2], "width": [64], "lr": {"low": 1e-4, "high": 1, "log": True}}, trials=20).run()`.

    An axis of the space is a field of `RunConfig` with a list of choices or a range; `layers` and `width` together make
    `hidden_sizes`. What does not apply (Adam has no momentum) is left out, and no config is drawn twice. `configs` are
    those so far: Optuna's TPE sampler proposes in rounds. By halving all begin with few epochs; the best third on
    validation is trained anew for three times as many, up to those of the base. Raises `UserError` before training.
    """

    def __init__(self, base=None, space=None, trials=40, method="random", seed=0, where: str = "search"):
        given = {"base": base or {}, "space": space or {}, "trials": trials, "method": method, "seed": seed}
        self.spec, self.where = validate(SearchSpec, given, where), where
        fields, place = [*SHAPE, *TRIAL_FIELDS], f"{where}: space"
        for key, axis in self.spec.space.items():
            if key not in fields:
                raise UserError(f"{place}.{key}: unknown key{nearest(key, fields)}")
            if isinstance(axis, Range) and (key in SHAPE or RunConfig.model_fields[key].annotation is not float):
                raise UserError(f"{place}.{key}: takes a list of choices, not a range")
            for value in [axis.low, axis.high] if isinstance(axis, Range) else axis:
                deep = key == "layers" and isinstance(value, int) and value > 0
                widths = [1] * min(value, MOST) if deep else [value]
                validate_field(*(("hidden_sizes", widths) if key in SHAPE else (key, value)), place)
        if len({*SHAPE} & {*self.spec.space}) == 1 or {*SHAPE, "hidden_sizes"} <= {*self.spec.space}:
            raise UserError(f"{place}: layers and width go together, and not with hidden_sizes")
        self._found: dict[str, Overrides] = {}  # run id → what the trial overrides, in order
        self._asked: list[tuple[optuna.Trial, str]] = []  # proposals of this round, with their run ids
        sampler = optuna.samplers.TPESampler(seed=self.spec.seed, n_startup_trials=ROUND, constant_liar=True)
        self._optuna = optuna.create_study(direction="maximize", sampler=sampler)
        self.rungs: list[int] = []  # halving: the epochs of each
        if method == "halving":
            if "epochs" in self.spec.space:
                raise UserError(f"{place}.epochs: not with method halving, which varies the epochs itself")
            last = validate(RunConfig, {k: v for k, v in self.spec.base.items() if k == "epochs"}, where).epochs
            powers = [SHARE**i for i in range(20) if SHARE**i <= min(self.spec.trials, last)] or [1]
            self.rungs = [round(last / power) for power in reversed(powers)]
        self._draw(ROUND if method == "optuna" else self.spec.trials)

    def run(self, device: str = "auto", memory: int | None = None, cluster: str = "") -> "Search":
        """Train what the store lacks, with Optuna round by round, as `study.train`; returns the search."""
        train(self.configs, device, memory, cluster)
        for i, epochs in enumerate(self.rungs[1:], 1):
            best = self.runs().nsmallest(self.spec.trials // SHARE**i, "rank")["trial"]
            for trial, own in zip(self.trials, self._found, strict=True):
                self._found[own] |= {"epochs": epochs} if trial in {*best} else {}
            self._ask()
            train(self.configs, device, memory, cluster)
        while len(self._found) < self.spec.trials:
            for proposal, run_id in self._asked:  # a diverged run is worth nothing
                self._optuna.tell(proposal, store.load_run(run_id).metrics["val_accuracy"] or 0.0)
            self._asked.clear()
            self._draw(len(self._found) + ROUND)
            train(self.configs, device, memory, cluster)
        return self

    def runs(self) -> pd.DataFrame:
        """`Study.runs` with layers, width (of the widest), config in words, rank (1 is best on validation; by halving,
        those that came further stand before the others).
        """
        runs, sizes = self.study.runs(), [config.hidden_sizes for config in self.configs]
        runs = runs.assign(layers=list(map(len, sizes)), width=[max(widths, default=0) for widths in sizes])
        varied = [key for key, axis in self.spec.space.items() if isinstance(axis, Range) or len(axis) > 1]
        config = [configuration(row, varied) for row in runs.to_dict("records")]
        came = runs["epochs"].where(runs["val_accuracy"].notna() & bool(self.rungs), 0)
        order = np.lexsort([-runs["val_accuracy"].fillna(-1), -came])  # the last key first; ties as they came
        return runs.assign(config=config, rank=np.argsort(order) + 1)

    def again(self, finalists: int, seeds: list[int], epochs: int = 0) -> Study:
        """The study of so many of the best on validation, in the order of their ranks, with `epochs` if not 0."""
        names, longer = self.runs().nsmallest(finalists, "rank")["trial"], {"epochs": epochs} if epochs else {}
        found = {name: self.study.spec.variants[name] | longer for name in names}
        return Study(self.spec.base, found, {}, seeds, self.where)

    def _draw(self, wanted: int) -> None:
        """Add trials until there are `wanted`, or as many as the search has."""
        wanted = min(wanted, self.spec.trials)
        for i in range(ATTEMPTS * wanted):
            if len(self._found) == wanted:
                break
            proposal = self._optuna.ask() if self.spec.method == "optuna" else None
            random = np.random.default_rng([self.spec.seed, i])  # of its own: more trials extend fewer
            point = {key: _drawn(key, axis, random, proposal) for key, axis in self.spec.space.items()}
            if "layers" in point:
                point["hidden_sizes"] = [point.pop("width")] * point.pop("layers")
            if self.rungs:
                point["epochs"] = self.rungs[0]
            fields = without_unused({**self.spec.base, **point})
            config = validate(RunConfig, {**fields, "seed": self.spec.seed}, self.where)
            self._found.setdefault(config.run_id, fields)
            self._asked.append((proposal, config.run_id))
        if len(self._found) < wanted:
            raise UserError(f"{self.where}: trials: the space has {len(self._found)} different configs; ask for fewer")
        self._ask()

    def _ask(self) -> None:
        """The study of the trials as they are now."""
        named = {f"trial {i}": dict(fields) for i, fields in enumerate(self._found.values(), 1)}
        self.study = Study(self.spec.base, named, {}, [self.spec.seed], self.where)
        self.configs, self.trials = self.study.configs, self.study.trials


def _drawn(key: str, axis: list[Any] | Range, random: np.random.Generator, proposal: optuna.Trial | None) -> Any:
    if isinstance(axis, Range):
        return axis.at(proposal.suggest_float(key, 0, 1) if proposal else random.random())
    return axis[proposal.suggest_categorical(key, range(len(axis))) if proposal else int(random.random() * len(axis))]


def configuration(row: dict[str, Any], axes: list[str]) -> str:
    """The settings of a trial in words: "2 × 256, Adam, lr 0.0012, dropout 0.2, batch norm, init zeros"."""
    parts = [f"{row['layers']} × {row['width']}"] if {*SHAPE} & {*axes} else []
    axes = [axis for axis in axes if axis not in SHAPE and (axis != "momentum" or row[axis])]
    parts += ["init " * (axis == "init") + setting(axis, row[axis]) for axis in axes]
    return ", ".join(parts).replace("_", " ")
