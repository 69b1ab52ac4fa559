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
from scipy import stats

from fmnist import store
from fmnist.config import (
    GUESS,
    TRIAL_FIELDS,
    RunConfig,
    Strict,
    UserError,
    nearest,
    validate,
    validate_field,
    without_unused,
)
from fmnist.study import MOST, Overrides, Seed, Study, setting, train
from fmnist.words import AXES

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
        """The study of so many of the best on validation, in order of rank; with `epochs`, where that is not 0."""
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


def importance(runs: pd.DataFrame, space: dict[str, Axis], seed: int = 0) -> pd.Series:
    """The share of the differences between trials that lies in each axis alone, greatest first: Optuna's fANOVA.

    Of the variance of a random forest fitted to −log10 of the validation error (Hutter, Hoos and Leyton-Brown, ICML
    2014). It is given each axis a second time, shuffled among the trials; "chance" is the greatest of their shares
    (Kursa and Rudnicki, J. Stat. Softw. 36, 2010).
    """
    random, limits, columns = np.random.default_rng(seed), {}, {}
    for key, axis in space.items():  # what does not apply (Adam's momentum) may lie outside of the space
        values, shuffled = runs[key].tolist(), f"chance {key}"
        limit = optuna.distributions.CategoricalDistribution(sorted(set(values)))
        if isinstance(axis, Range):
            limit = optuna.distributions.FloatDistribution(min(values), max(values), axis.log)
        limits |= {key: limit, shuffled: limit}
        columns |= {key: values, shuffled: random.permutation(values).tolist()}
    study, depths = optuna.create_study(), -np.log10((1 - runs["val_accuracy"].fillna(GUESS)).clip(1e-4))
    for row, depth in zip(pd.DataFrame(columns).to_dict("records"), depths, strict=True):
        study.add_trial(optuna.create_trial(params=row, distributions=limits, value=depth))
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=32, seed=seed)
    found = pd.Series(optuna.importance.get_param_importances(study, evaluator=evaluator))
    shares = found[[*space]].rename(lambda axis: AXES.get(axis, axis).replace("_", " "))
    shares["chance"] = found.drop([*space]).max()
    return shares.sort_values(ascending=False, kind="stable")


def budget(runs: pd.DataFrame, resamples: int = 400, seed: int = 0) -> pd.DataFrame:
    """What the best of the first n trials has, for n = 1 … N; accuracies in [0, 1], that of guessing where diverged.

    own_: in the order in which the trials came. val, test: the exact mean over all orders, of the trial selected on
    validation (equal ones share their test accuracy); val_low, val_high: 90 % of the orders. inflation: how much too
    good validation is for the selected, with a 95 % percentile interval over resampled trials.
    """
    came = runs[["val_accuracy", "test_accuracy"]].fillna(GUESS)
    place = came["val_accuracy"].rank(ascending=False, method="first").to_numpy(int) - 1
    ordered = came.iloc[np.argsort(place)]
    val, own_test = ordered.to_numpy().T
    test = ordered.groupby("val_accuracy")["test_accuracy"].transform("mean").to_numpy()
    n, own = np.arange(1, len(val) + 1), np.minimum.accumulate(place)
    missed = stats.hypergeom.pmf(0, len(val), np.arange(len(val) + 1), n[:, None])  # none of the r best is among n
    chances = -np.diff(missed)  # [n − 1, r − 1]: the best of n has rank r
    low, high = ((1 - missed[:, 1:] >= share - 1e-12).argmax(1) for share in (0.95, 0.05))
    picks = np.random.default_rng(seed).integers(len(val), size=(resamples, len(val)))
    spread = np.quantile((val - test)[np.sort(place[picks])] @ chances.T, [0.025, 0.975], axis=0)
    return pd.DataFrame({
        "n": n, "own_val": val[own], "own_test": own_test[own],
        "val": chances @ val, "val_low": val[low], "val_high": val[high], "test": chances @ test,
        "inflation": chances @ (val - test), "inflation_low": spread[0], "inflation_high": spread[1],
    })  # fmt: skip
