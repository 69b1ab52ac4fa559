"""A study: one question, asked as a `base` config with `variants` and a `grid`, repeated over seeds.

Trials are every variant with every combination of the grid; runs are every trial with every seed. `Study.run` trains
what the store lacks; then `runs()` and `history()` give the two tables that analysis starts from.
"""

import itertools
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
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
        self.runs, self.epochs = [0, len(configs)], [0, sum(c.epochs for c in configs)]  # done, wanted
        self.bar = tqdm(total=sum(map(work, configs)), bar_format=form, disable=not watched(), leave=False)
        self.begin = time.monotonic()
        self.finished(0)

    def advance(self, epochs: int, work: float, accuracy: float) -> None:
        self.epochs[0] += epochs
        rate = self.epochs[0] / (time.monotonic() - self.begin)
        done = "{:,} of {:,} epochs".format(*self.epochs)
        self.bar.set_postfix_str(f"{done}, {rate:.3g} a second, val {accuracy:.1%}", refresh=False)
        self.bar.update(work)

    def finished(self, runs: int = 1) -> None:
        self.runs[0] += runs
        self.bar.set_description_str("{} of {} runs".format(*self.runs), refresh=False)


Overrides = dict[str, Any]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Seeds = Annotated[list[Seed], Field(min_length=1)]


class StudySpec(Strict):
    """What a user writes of a study; the fields inside are checked as run configs by `Study`."""

    base: Overrides = {}
    variants: dict[str, Overrides] = {}  # of run configs, and of `seeds`
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    seeds: Annotated[Seeds, BeforeValidator(lambda v: list(v) if isinstance(v, range | tuple) else v)] = [0]


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
        self.trials: dict[str, tuple[str, list[RunConfig]]] = {}  # label → (variant, its runs)
        _check_parts(self.spec, where)
        known: dict[str, str] = {}  # address of a trial's first run → label
        for name, overrides in (self.spec.variants or {"": {}}).items():
            place = f"{where}: variants.{name}" if name else where
            seeds = _seeds(overrides.get("seeds", self.spec.seeds), place)
            for values in itertools.product(*self.spec.grid.values()):
                point = dict(zip(self.spec.grid, values, strict=True))
                label = ", ".join([name] * bool(name) + [setting(*item) for item in point.items()]) or "base"
                if label in self.trials:
                    raise UserError(f"{where}: two trials would have the same name: {label}; remove or rename one")
                fields = {**self.spec.base, **overrides, **point}
                fields.pop("seeds", None)
                runs = [validate(RunConfig, {**fields, "seed": seed}, place) for seed in seeds]
                if (twin := known.setdefault(runs[0].trial_id, label)) != label:
                    raise UserError(f"{where}: two trials have the same config: {twin} = {label}; remove one")
                self.trials[label] = (name or label, runs)

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

    def run(self, device: str = "auto", memory: int | None = None) -> "Study":
        """Train what the store lacks, with a progress bar; returns the study. All as for `train`."""
        labels = {config.run_id: label for label, (_, runs) in self.trials.items() for config in runs}
        train(self.configs, device, memory, labels)
        return self

    def runs(self) -> pd.DataFrame:
        """One row per run: run_id, trial, variant, config fields, parameters, metrics, device; see `store.METRICS`.

        Accuracies are in [0, 1], losses in nats, times in seconds. Raises `UserError` if a run is not in the store.
        """
        rows = [
            about | {"parameters": parameter_count(run.config.hidden_sizes, run.config.batch_norm), **run.row()}
            for about, run in self._stored()
        ]
        return pd.DataFrame(rows)

    def history(self) -> pd.DataFrame:
        """One row per run and epoch: run_id, trial, variant, config fields, and the columns of `Run.history`."""
        frames = [run.history().assign(run_id=run.run_id, **about, **run.config.row()) for about, run in self._stored()]
        return pd.concat(frames, ignore_index=True)

    def describe(self) -> str:
        """What all runs share and what varies, as sentences (Markdown)."""
        rows, usual, first = [config.row() for config in self.configs], RunConfig().row(), self.configs[0]
        varied = [name for name in TRIAL_FIELDS if len({row[name] for row in rows}) > 1]
        said = {"hidden_sizes", "optimizer", "lr", "batch_size", "epochs"} | {
            n for n in usual if rows[0][n] != usual[n]
        }
        of = {"hidden_sizes": "hidden layers ", "bias_init": "initial biases "}
        fixed = [n for n in TRIAL_FIELDS if n in said and n not in varied]
        same = ", ".join(of.get(n, "") + setting(n, getattr(first, n)) for n in fixed)
        names = ", ".join(f"`{name}`" for name in varied) or "only the seed"
        sizes = {label: len(runs) for label, (_, runs) in self.trials.items()}
        most = max(sizes.values())
        few = [f"{label} with {count(n)}" for label, n in sizes.items() if n < most]
        return (
            f"All runs have {same}; what is not named here keeps its default (@sec-config). What varies is {names}. "
            f"There are {count(len(sizes), 'trial')}, each with {count(most, 'seed')}"
            f"{f' (but {joined(few)})' if few else ''}: {count(len(rows), 'run')}."
        )

    def load(self, trial: str, seed: int) -> store.Run:
        """One run of the study. Raises `UserError` for an unknown trial or seed, or a run not trained yet."""
        for config in self.trials.get(trial, ("", []))[1]:
            if config.seed == seed:
                return store.load_run(config.run_id)
        raise UserError(f"no run of trial {trial!r} with seed {seed}{nearest(trial, list(self.trials))}")

    def _stored(self) -> Iterable[tuple[dict[str, str], store.Run]]:
        for label, (name, configs) in self.trials.items():
            for config in configs:
                run = store.load(config.run_id)
                if run is None:
                    raise UserError(f"trial {label!r}, seed {config.seed} has not been trained; call study.run() first")
                yield {"trial": label, "variant": name}, run


def _seeds(given: Any, where: str) -> list[int]:
    seeds = validate(StudySpec, {"seeds": given}, where).seeds
    if len(set(seeds)) < len(seeds):
        raise UserError(f"{where}: seeds: a seed stands twice in {seeds}")
    return seeds


def _check_parts(spec: StudySpec, where: str) -> None:
    """Every name, and every value by itself, where it stands: also those that a variant or the grid overrides."""
    parts = [("base", key, [value]) for key, value in spec.base.items()]
    for name, overrides in spec.variants.items():
        parts += [(f"variants.{name}", key, [value]) for key, value in overrides.items() if key != "seeds"]
    for part, key, values in [*parts, *(("grid", *item) for item in spec.grid.items())]:
        if key not in TRIAL_FIELDS:
            hint = "; seeds are listed under `seeds`" if key == "seed" else nearest(key, list(TRIAL_FIELDS))
            raise UserError(f"{where}: {part}.{key}: unknown key{hint}")
        for value in values:
            validate_field(key, value, f"{where}: {part}")


def setting(key: str, value: Any) -> str:
    """One setting in words: "lr 0.1", "400-400", "batch norm", "no batch norm", "dropout 0.2"."""
    words = key.replace("_", " ")
    if key == "hidden_sizes":
        return sizes_text(tuple(value)) if isinstance(value, list | tuple) else str(value)
    if isinstance(value, bool):
        return words if value else f"no {words}"
    if isinstance(value, str):
        return value
    return f"{words} {value:g}" if isinstance(value, float) else f"{words} {value}"


def train(
    configs: Sequence[RunConfig], device: str = "auto", memory: int | None = None, labels: dict[str, str] | None = None
) -> list[store.Run]:
    """Train the runs that the store lacks, each once, and return all of them in the given order.

    `device` is "auto" (the accelerator if there is one), "cpu", "cuda", "cuda:1" or "mps". Every run is stored as its
    stack ends, so an interrupt (KeyboardInterrupt) loses only what is in training. `memory` bounds the bytes taken
    meanwhile: by the process on the CPU, on the device elsewhere; left out, most of what is free. `labels` name runs by
    id in messages. Raises `UserError` for a device that is not there, a store that cannot be written, a data set that
    cannot be had, runs that do not fit, and where `FMNIST_READ_ONLY` forbids to train.
    """
    missing = list({c.run_id: c for c in configs if store.load(c.run_id) is None}.values())
    if missing and os.environ.get("FMNIST_READ_ONLY") == "1":
        _refuse(missing, labels or {})
    if missing:
        from fmnist.engine import workers

        workers.resolve_device(device)
        store.check_writable()
        progress = Progress(missing, workers.work)

        def finished(result) -> None:
            store.save(result)
            progress.finished()

        with progress.bar:
            workers.train(missing, finished, device, progress.advance, memory)
    return [store.load_run(config.run_id) for config in configs]


def _refuse(missing: list[RunConfig], labels: dict[str, str]) -> None:
    lacking = Counter(labels.get(config.run_id, f"run {config.run_id}") for config in missing)
    few = ", ".join(f"{n} of {label}" for label, n in lacking.items())
    raise UserError(
        f"{count(len(missing), 'run')} not in the store: {few}. The notebooks of a report only read; "
        "`fmnist report` trains beforehand what their parameters ask for"
    )


def contents(path: str) -> dict[str, Any]:
    """What a report tells its notebooks of itself: report, folder, base, published, and sections in order.

    A section has notebook, title, label, kind, question, and study, the parts of a `Study` or None. "" gives a small
    example, with which a notebook runs alone.
    """
    if path:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    base, sections = {"epochs": 1}, []
    for name, variants in {
        "optimizer": {"SGD": {"lr": 0.1}, "Adam": {"optimizer": "Adam", "lr": 0.001}},
        "shape": {"one layer": {"hidden_sizes": [64]}, "two layers": {"hidden_sizes": [32, 32]}},
    }.items():
        about = {"notebook": name, "title": name.capitalize(), "label": f"sec-{name}", "kind": "study", "question": ""}
        sections.append(about | {"study": {"base": base, "variants": variants, "grid": {}, "seeds": [0]}})
    return {"report": "", "folder": "", "base": base, "sections": sections, "published": None}
