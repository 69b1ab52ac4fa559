"""A study: one question, asked as a `base` config with `variants` and a `grid`, repeated over seeds.

Trials are every variant with every combination of the grid; runs are every trial with every seed. `Study.run` trains
what the store lacks; then `runs()` and `history()` give the two tables that analysis starts from.
"""

import itertools
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import pandas as pd
from pydantic import BeforeValidator, Field

from fmnist import store
from fmnist.config import (
    TRIAL_FIELDS,
    RunConfig,
    Strict,
    UserError,
    nearest,
    parameter_count,
    sizes_text,
    validate,
    validate_field,
)
from fmnist.words import count, joined


def watched() -> bool:
    """Whether somebody sees a progress bar: at a terminal, or in a notebook."""
    ipython = sys.modules.get("IPython")
    return sys.stderr.isatty() or hasattr(ipython and ipython.get_ipython(), "kernel")


class Progress:
    """One bar for all runs, in units of work, so that its ETA holds for small and large networks alike."""

    def __init__(self, configs: Sequence[RunConfig], work: Callable[[RunConfig], float]):
        from tqdm.auto import tqdm

        form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} < {remaining}{postfix}"
        self.runs, self.runs_done, self.epochs, self.epochs_done = len(configs), 0, sum(c.epochs for c in configs), 0
        self.bar = tqdm(total=sum(map(work, configs)), bar_format=form, disable=not watched(), leave=False)
        self.begin = time.monotonic()
        self._describe()

    def _describe(self) -> None:
        self.bar.set_description_str(f"{self.runs_done} of {self.runs} runs", refresh=False)

    def advance(self, epochs: int, work: float, accuracy: float) -> None:
        self.epochs_done += epochs
        rate = self.epochs_done / (time.monotonic() - self.begin)
        done = f"{self.epochs_done:,} of {self.epochs:,} epochs, {rate:.3g} a second, val {accuracy:.1%}"
        self.bar.set_postfix_str(done, refresh=False)
        self.bar.update(work)

    def finished(self) -> None:
        self.runs_done += 1
        self._describe()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()


Overrides = dict[str, Any]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class StudySpec(Strict):
    """What a user writes of a study; the fields inside are checked as run configs by `Study`."""

    base: Overrides = {}
    variants: dict[str, Overrides] = {}  # of run configs, and of `seeds`
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    seeds: Annotated[list[Seed], BeforeValidator(lambda v: list(v) if isinstance(v, range | tuple) else v)] = Field(
        [0], min_length=1
    )


class Study:
    """`Study(base={"epochs": 5}, variants={"narrow": {"hidden_sizes": [32]}}, grid={"lr": [0.1, 0.01]}, seeds=[0, 1])`.

    `base` are fields of `RunConfig` that all runs share, `variants` named overrides of them, `grid` lists of values:
    each variant with each combination of the grid is a trial, each trial with each seed a run. The grid wins over a
    variant, a variant over the base; a variant may have `seeds` of its own. `where` names the source of the parameters
    in messages. Raises `UserError` for any unknown key, wrong type or value that is not allowed, before anything is
    trained.
    """

    def __init__(
        self,
        base: Overrides | None = None,
        variants: dict[str, Overrides] | None = None,
        grid: dict[str, list[Any]] | None = None,
        seeds: Sequence[int] = (0,),
        where: str = "study",
    ):
        given = {"base": base, "variants": variants, "grid": grid, "seeds": seeds}
        self.spec = validate(StudySpec, {key: part for key, part in given.items() if part is not None}, where)
        self._seeds(self.spec.seeds, where)
        self.trials: dict[str, tuple[str, list[RunConfig]]] = {}  # label → (variant, its runs)
        self._check_parts(where)
        for name, overrides in (self.spec.variants or {"": {}}).items():
            place = f"{where}: variants.{name}" if name else where
            seeds = self._seeds(overrides["seeds"], place) if "seeds" in overrides else self.spec.seeds
            for values in itertools.product(*self.spec.grid.values()):
                point = dict(zip(self.spec.grid, values, strict=True))
                fields = {
                    key: value for key, value in {**self.spec.base, **overrides, **point}.items() if key != "seeds"
                }
                label = ", ".join([name] * bool(name) + [setting(*item) for item in point.items()]) or "base"
                if label in self.trials:
                    raise UserError(f"{where}: two trials would have the same name: {label}; remove or rename one")
                runs = [validate(RunConfig, {**fields, "seed": seed}, place) for seed in seeds]
                self.trials[label] = (name or label, runs)
        ids = [config.run_id for config in self.configs]
        if len(set(ids)) < len(ids):
            raise UserError(f"{where}: two trials have the same config: {' · '.join(self._twins())}; remove one")

    @staticmethod
    def _seeds(given: Any, where: str) -> list[int]:
        seeds = validate(StudySpec, {"seeds": given}, where).seeds
        if len(set(seeds)) < len(seeds):
            raise UserError(f"{where}: seeds: a seed stands twice in {seeds}")
        return seeds

    def _check_parts(self, where: str) -> None:
        """Every name, and every value by itself, where it stands: also those that a variant or the grid overrides."""
        fields = [name for name in RunConfig.model_fields if name != "seed"]
        parts = [("base", key, [value]) for key, value in self.spec.base.items()]
        for name, overrides in self.spec.variants.items():
            parts += [(f"variants.{name}", key, [value]) for key, value in overrides.items() if key != "seeds"]
        for part, key, values in [*parts, *(("grid", *item) for item in self.spec.grid.items())]:
            if key not in fields:
                hint = "; seeds are listed under `seeds`" if key == "seed" else nearest(key, fields)
                raise UserError(f"{where}: {part}.{key}: unknown key{hint}")
            for value in values:
                validate_field(key, value, f"{where}: {part}")

    def _twins(self) -> list[str]:
        first = {runs[0].run_id: label for label, (_, runs) in self.trials.items()}
        return [
            f"{label} = {first[runs[0].run_id]}"
            for label, (_, runs) in self.trials.items()
            if first[runs[0].run_id] != label
        ]

    @property
    def configs(self) -> list[RunConfig]:
        """Every run of the study, trial by trial."""
        return [config for _, runs in self.trials.values() for config in runs]

    def settings(self) -> pd.DataFrame:
        """One row per trial, trained or not: trial, variant, every field of its config but the seed."""
        rows = [
            {"trial": trial, "variant": variant} | {name: configs[0].row()[name] for name in TRIAL_FIELDS}
            for trial, (variant, configs) in self.trials.items()
        ]
        return pd.DataFrame(rows)

    def run(self, device: str = "auto") -> "Study":
        """Train what the store lacks, with a progress bar; returns the study. `device` and errors as for `train`."""
        train(self.configs, device)
        return self

    def runs(self) -> pd.DataFrame:
        """One row per run: run_id, trial, variant, config fields, parameters, metrics, device; see `store.METRICS`.

        Accuracies are in [0, 1], losses in nats, times in seconds. Raises `UserError` if a run is not in the store.
        """
        rows = []
        for label, name, run in self._stored():
            count = parameter_count(run.config.hidden_sizes, run.config.batch_norm)
            rows.append({"trial": label, "variant": name, "parameters": count, **run.row()})
        return pd.DataFrame(rows)

    def history(self) -> pd.DataFrame:
        """One row per run and epoch: run_id, trial, variant, config fields, and the columns of `Run.history`."""
        rows = []
        for label, name, run in self._stored():
            about = {"run_id": run.run_id, "trial": label, "variant": name, **run.config.row()}
            rows.append(run.history().assign(**about))
        return pd.concat(rows, ignore_index=True)

    def signals(self) -> pd.DataFrame:
        """Scales in the untrained networks on the first batch of their train split, for `figures.layer_scales`.

        One row per trial (`init`), seed, hidden layer and quantity ("activation std", "gradient std").
        """
        from fmnist.data import load, scaling, split
        from fmnist.model import MLP, layer_signals

        rows = []
        for trial, (_, configs) in self.trials.items():
            for config in configs:
                data = load(dataset=config.dataset)
                train, _ = split(len(data.train_labels), config.val_size, config.seed)
                scale, shift = scaling(data.train_images, train, config.input_scaling)
                model, batch = MLP(config), train[: config.batch_size]
                x = data.train_images[batch].to(model.linears[0].weight.dtype) * scale + shift
                for layer, pair in enumerate(layer_signals(model, x, data.train_labels[batch]), 1):
                    names = ("activation std", "gradient std")
                    rows += [(trial, config.seed, layer, *item) for item in zip(names, pair, strict=True)]
        return pd.DataFrame(rows, columns=["init", "seed", "layer", "quantity", "value"])

    def describe(self) -> str:
        """What all runs share and what varies, as sentences (Markdown)."""
        rows = [config.row() for config in self.configs]
        fields = [name for name in RunConfig.model_fields if name != "seed"]
        varied = [name for name in fields if len({row[name] for row in rows}) > 1]
        usual, first = RunConfig().row(), self.configs[0]
        said = ("hidden_sizes", "optimizer", "lr", "batch_size", "epochs")
        fixed = [n for n in fields if n not in varied and (n in said or rows[0][n] != usual[n])]
        of = {"hidden_sizes": "hidden layers ", "bias_init": "initial biases "}
        same = ", ".join(of.get(n, "") + setting(n, getattr(first, n)) for n in fixed)
        names = ", ".join(f"`{name}`" for name in varied) or "only the seed"
        sizes = {label: len(runs) for label, (_, runs) in self.trials.items()}
        most = max(sizes.values())
        few = [f"{label} with {count(n)}" for label, n in sizes.items() if n < most]
        fewer = f" (but {joined(few)})" if few else ""
        return (
            f"All runs have {same}; what is not named here keeps its default (@sec-config). What varies is {names}. "
            f"There are {count(len(sizes), 'trial')}, each with {count(most, 'seed')}{fewer}: "
            f"{count(len(rows), 'run')}."
        )

    def load(self, trial: str, seed: int) -> store.Run:
        """One run of the study. Raises `UserError` for an unknown trial or seed, or a run not trained yet."""
        for config in self.trials.get(trial, ("", []))[1]:
            if config.seed == seed:
                return store.load_run(config.run_id)
        raise UserError(f"no run of trial {trial!r} with seed {seed}{nearest(trial, list(self.trials))}")

    def _stored(self) -> Iterable[tuple[str, str, store.Run]]:
        for label, (name, configs) in self.trials.items():
            for config in configs:
                run = store.load(config.run_id)
                if run is None:
                    raise UserError(f"trial {label!r}, seed {config.seed} has not been trained; call study.run() first")
                yield label, name, run


def setting(key: str, value: Any) -> str:
    """One setting in words: "lr 0.1", "400-400", "batch norm", "no batch norm", "dropout 0.2"."""
    if key == "hidden_sizes":
        return sizes_text(tuple(value)) if isinstance(value, list | tuple) else str(value)
    words = key.replace("_", " ")
    if isinstance(value, bool):
        return words if value else f"no {words}"
    return (
        str(value)
        if isinstance(value, str)
        else f"{words} {value:g}"
        if isinstance(value, float)
        else f"{words} {value}"
    )


def train(configs: Sequence[RunConfig], device: str = "auto", memory: int | None = None) -> list[store.Run]:
    """Train the runs that the store lacks, each once, and return all of them in the given order.

    `device` is "auto" (the accelerator if there is one), "cpu", "cuda", "cuda:1" or "mps". Every run is stored as its
    stack ends, so an interrupt (KeyboardInterrupt) loses only what is in training. `memory` bounds the bytes taken
    meanwhile: by the process on the CPU, on the device elsewhere; left out, most of what is free. Raises `UserError`
    for a device that is not there, a store that cannot be written, a data set that cannot be had, or runs that do not
    fit.
    """
    missing = list({c.run_id: c for c in configs if store.load(c.run_id) is None}.values())
    if missing:
        from fmnist.engine import workers

        workers.resolve_device(device)
        store.check_writable()
        with Progress(missing, workers.work) as progress:

            def finished(result) -> None:
                store.save(result)
                progress.finished()

            workers.train(missing, finished, device, progress.advance, memory)
    return [store.load_run(config.run_id) for config in configs]
