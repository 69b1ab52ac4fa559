"""A search over all hyperparameters at once: trials drawn from a space, trained as one study.

A trial is a run config like any other and its run is in the store, so config, learning curve and network of every trial
come back: `load_run(id).config`, `.history()`, `.model()`. All trials have one seed: they share split and batch order,
and the engine trains those of one architecture as a stack, which is why widths and depths are choices, not ranges.
"""

import math
import warnings
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Discriminator, Field, PositiveInt, Tag, model_validator

from fmnist import store
from fmnist.config import RunConfig, Strict, UserError, nearest, validate, validate_field
from fmnist.study import Overrides, Seed, Study
from fmnist.words import count

ROUND = 32  # trials that Optuna proposes together, so that stacks have several runs
ATTEMPTS = 100  # draws for each trial that is wanted, before the space counts as exhausted
SHAPE = ("layers", "width")  # axes of their own: so many hidden layers, each of this width


class Range(Strict):
    """Real numbers from `low` to `high`, uniform, or uniform in their logarithm."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} should be below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low:g} should be above 0 where log is true")
        return self

    def at(self, share: float) -> float:
        """The number at `share` in [0, 1] of the way, to three digits, which is how it is printed."""
        ends = np.array([self.low, self.high])
        low, high = np.log(ends) if self.log else ends
        value = low + share * (high - low)
        return min(max(float(f"{math.exp(value) if self.log else value:.3g}"), self.low), self.high)


Axis = Annotated[  # choices or a range; told apart so that messages speak of one of the two
    Annotated[Annotated[list[Any], Field(min_length=1)], Tag("choices")] | Annotated[Range, Tag("range")],
    Discriminator(lambda value: "range" if isinstance(value, dict | Range) else "choices"),
]


class SearchSpec(Strict):
    """What a user writes of a search; the fields inside are checked as run configs by `Search`."""

    base: Overrides = {}
    space: dict[str, Axis] = Field(min_length=1)
    trials: PositiveInt = 40
    method: Literal["random", "optuna"] = "random"
    seed: Seed = 0  # of the draws, and of every run


SEARCH_KEYS = tuple(SearchSpec.model_fields)


class Search:
    """`Search(space={"layers": [1, 2], "width": [64], "lr": {"low": 1e-4, "high": 1, "log": True}}, trials=20).run()`.

    An axis of the space is a field of `RunConfig` with a list of choices or a range; `layers` and `width` together make
    `hidden_sizes`. What does not apply (Adam has no momentum) is left out, and no config is drawn twice. With method
    "random" all trials are known at once and the first n do not depend on how many follow. With "optuna" they come in
    rounds, each proposed by the TPE sampler from the results before; `configs` are then those proposed so far.
    Raises `UserError` for an unknown key, wrong type or value that is not allowed, before anything is trained.
    """

    def __init__(self, base=None, space=None, trials=40, method="random", seed=0, where: str = "search"):
        given = {"base": base, "space": space, "trials": trials, "method": method, "seed": seed}
        self.spec = validate(SearchSpec, {key: part for key, part in given.items() if part is not None}, where)
        self.where = where
        self._check_space()
        self._found: dict[str, Overrides] = {}  # run id → what the trial overrides, in order
        if method == "random":
            self._draw()
        else:
            self._tpe, self._asked = _optuna(self.spec.seed, where), []
            self._propose()
        self.study = self._study()

    @property
    def axes(self) -> list[str]:
        """Names of the axes along which trials can differ, as columns of `runs()`."""
        return [key for key, axis in self.spec.space.items() if isinstance(axis, Range) or len(axis) > 1]

    @property
    def configs(self) -> list[RunConfig]:
        return self.study.configs

    @property
    def trials(self) -> dict[str, tuple[str, list[RunConfig]]]:
        return self.study.trials

    def run(self, device: str = "auto") -> "Search":
        """Train what the store lacks, with Optuna round by round; returns the search."""
        self.study.run(device)
        while len(self._found) < self.spec.trials:
            self._propose()
            self.study = self._study().run(device)
        return self

    def runs(self) -> pd.DataFrame:
        """One row a trial, as `Study.runs`, with columns layers and width (of the widest layer)."""
        sizes = [config.hidden_sizes for config in self.configs]
        return self.study.runs().assign(layers=list(map(len, sizes)), width=[max(s, default=0) for s in sizes])

    def history(self) -> pd.DataFrame:
        """One row a trial and epoch, as `Study.history`."""
        return self.study.history()

    def again(self, trials: list[str], seeds: list[int]) -> Study:
        """Some trials as a study of their own with other seeds."""
        known = self.study.spec.variants
        if unknown := [name for name in trials if name not in known]:
            raise UserError(f"{self.where}: no trial is called {unknown[0]!r}{nearest(unknown[0], list(known)[:12])}")
        return Study(self.spec.base, {name: known[name] for name in trials}, {}, seeds, self.where)

    def describe(self) -> str:
        """What all runs share, what varies, and how the trials were drawn (Markdown)."""
        how = {"random": "drawn at random, each value independently of the others",
               "optuna": f"proposed by Optuna's TPE sampler in rounds of {ROUND}"}[self.spec.method]  # fmt: skip
        return f"{self.study.describe()} The {count(len(self.trials), 'config')} were {how}."

    def _study(self) -> Study:
        names = {f"trial {i}": fields for i, fields in enumerate(self._found.values(), 1)}
        return Study(self.spec.base, names, {}, [self.spec.seed], self.where)

    def _check_space(self) -> None:
        space = self.spec.space
        fields = [*SHAPE, *(name for name in RunConfig.model_fields if name != "seed")]
        for key, axis in space.items():
            place = f"{self.where}: space"
            if key not in fields:
                raise UserError(f"{place}.{key}: unknown key{nearest(key, fields)}")
            if isinstance(axis, Range) and (key in SHAPE or RunConfig.model_fields[key].annotation is not float):
                raise UserError(f"{place}.{key}: takes a list of choices, not a range")
            if key in SHAPE:
                bad = [value for value in axis if type(value) is not int or value < 1]
                if bad:
                    raise UserError(f"{place}.{key}: should be whole numbers from 1 (got {bad[0]!r})")
                continue
            for value in [axis.low, axis.high] if isinstance(axis, Range) else axis:
                validate_field(key, value, place)
        if (SHAPE[0] in space) != (SHAPE[1] in space) or "hidden_sizes" in space and SHAPE[0] in space:
            raise UserError(f"{self.where}: space: layers and width go together, and not with hidden_sizes")

    def _add(self, point: dict[str, Any]) -> str:
        """Keep a point of the space as a trial, unless it is one already; returns the run id."""
        fields = dict(point)
        if SHAPE[0] in fields:
            fields["hidden_sizes"] = [fields.pop("width")] * fields.pop("layers")
        fields |= _unused({**self.spec.base, **fields})
        config = validate(RunConfig, {**self.spec.base, **fields, "seed": self.spec.seed}, self.where)
        self._found.setdefault(config.run_id, fields)
        return config.run_id

    def _draw(self) -> None:
        """All trials at random. Trial i has a random stream of its own: more trials extend fewer."""
        for i in range(ATTEMPTS * self.spec.trials):
            shares = np.random.default_rng([self.spec.seed, i]).random(len(self.spec.space))
            drawn = zip(self.spec.space.items(), shares, strict=True)
            self._add({key: _at(axis, share) for (key, axis), share in drawn})
            if len(self._found) == self.spec.trials:
                return
        self._exhausted()

    def _propose(self) -> None:
        """Tell Optuna what has been trained, and take the next round from it."""
        for proposal, run_id in self._asked:
            accuracy = store.load_run(run_id).metrics["val_accuracy"]
            self._tpe.tell(proposal, 0.0 if accuracy is None else accuracy)  # a diverged run is worth nothing
        self._asked, wanted = [], min(len(self._found) + ROUND, self.spec.trials)
        for _ in range(ATTEMPTS * ROUND):
            proposal = self._tpe.ask()
            point = {key: _suggest(proposal, key, axis) for key, axis in self.spec.space.items()}
            self._asked.append((proposal, self._add(point)))
            if len(self._found) == wanted:
                return
        self._exhausted()

    def _exhausted(self) -> None:
        found = f"{count(len(self._found))} different {'config was' if len(self._found) == 1 else 'configs were'} found"
        raise UserError(f"{self.where}: trials: only {found} in the space; ask for fewer than {self.spec.trials}")


def _unused(whole: Overrides) -> Overrides:
    """What has no meaning beside the other settings, set to what says so."""
    none: Overrides = {}
    if "momentum" in whole and whole.get("optimizer", "SGD") not in ("SGD", "RMSprop"):
        none["momentum"] = 0.0
    if "nesterov" in whole and (whole.get("optimizer", "SGD") != "SGD" or not whole.get("momentum")):
        none["nesterov"] = False
    if "init_std" in whole and "normal" not in (whole.get("init"), whole.get("bias_init")):
        none["init_std"] = 1.0
    return none


def _at(axis: list[Any] | Range, share: float) -> Any:
    return axis.at(share) if isinstance(axis, Range) else axis[int(share * len(axis))]


def _optuna(seed: int, where: str):
    """A study of Optuna that maximizes, with a seeded TPE sampler that knows of proposals still in training."""
    try:
        import optuna
    except ImportError:
        raise UserError(
            f"{where}: method: optuna is not installed; pip install 'fmnist[search]', or use method: random"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=ROUND, constant_liar=True)
    return optuna.create_study(direction="maximize", sampler=sampler)


def _suggest(proposal, key: str, axis: list[Any] | Range) -> Any:
    if isinstance(axis, Range):
        value = proposal.suggest_float(key, axis.low, axis.high, log=axis.log)
        return min(max(float(f"{value:.3g}"), axis.low), axis.high)
    return axis[proposal.suggest_categorical(key, list(range(len(axis))))]
