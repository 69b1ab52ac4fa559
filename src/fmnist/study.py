"""A study: one question, asked as a `base` config with `variants` and a `grid`, repeated over seeds.

`Study.run` trains what the store lacks; then `runs()` and `history()` give the tables that analysis starts from.
"""

import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Annotated, Any

import pandas as pd
from IPython import get_ipython
from pydantic import Field
from tqdm.auto import tqdm

from fmnist import store
from fmnist.config import TEMPLATES, RunConfig, Strict, UserError, nearest, project_root, validate, validate_field
from fmnist.statistics import best_per
from fmnist.words import count, differing, joined, setting

Overrides = dict[str, Any]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
MOST = 10_000  # runs of a study


class StudySpec(Strict):
    """What a user writes of a study; the fields inside are checked as run configs by `Study`."""

    base: Overrides = {}
    variants: dict[str, Overrides] = {}  # of run configs, and of `seeds`
    grid: dict[str, Annotated[list[Any], Field(min_length=1, max_length=MOST)]] = {}
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=MOST, strict=False)] = [0]  # a range will do


class Study:
    """`Study(base={"epochs": 5}, variants={"narrow": {"hidden_sizes": [32]}}, grid={"lr": [0.1, 0.01]}, seeds=[0, 1])`.

    `base` are fields of `RunConfig` that all runs share, `variants` named overrides of them, `grid` lists of values:
    each variant with each combination of the grid is a trial, each trial with each seed a run. The grid wins over a
    variant, a variant over the base; a variant may have `seeds` of its own. Raises `UserError` with `where`, the source
    of the parameters, for any unknown key, wrong type or value that is not allowed.
    """

    def __init__(self, base=None, variants=None, grid=None, seeds: Sequence[int] = (0,), where: str = "study"):
        given = {"base": base, "variants": variants, "grid": grid, "seeds": seeds}
        self.spec = validate(StudySpec, {key: part for key, part in given.items() if part is not None}, where)
        _check_fields(self.spec, where)
        self.trials: dict[str, tuple[str, list[RunConfig]]] = {}  # label → (variant, its runs)
        known: dict[str, str] = {}  # address of a trial → its label
        points, planned = math.prod(map(len, self.spec.grid.values())), 0
        for name, overrides in (self.spec.variants or {"": {}}).items():
            place = f"{where}: variants.{name}" if name else where
            given, source = (overrides["seeds"], place) if "seeds" in overrides else (self.spec.seeds, where)
            seeds = validate(StudySpec, {"seeds": given}, source).seeds
            if len(set(seeds)) < len(seeds):
                raise UserError(f"{source}: seeds: a seed stands twice in {seeds}")
            if (planned := planned + points * len(seeds)) > MOST:
                times = f"{len(self.spec.variants) or 1:,} variants × {points:,} points × {len(seeds):,} seeds"
                raise UserError(f"{where}: grid: a study has at most {MOST:,} runs, not {times}")
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
        rows = [{"trial": trial, "variant": name, **runs[0].row()} for trial, (name, runs) in self.trials.items()]
        return pd.DataFrame(rows).drop(columns="seed")

    def run(self, device: str = "auto", memory: int | None = None, cluster: str = "") -> "Study":
        """Train what the store lacks, with a progress bar; returns the study. All as for `train`."""
        train(self.configs, device, memory, cluster, self.names())
        return self

    def names(self, of: str = "") -> dict[str, str]:
        """Run id → trial, behind the name of what it is of."""
        return {config.run_id: of + trial for trial, (_, configs) in self.trials.items() for config in configs}

    def again(self, seeds: Sequence[int], baseline: str = "") -> "Study":
        """With `seeds`: the trial that validation selects for each variant, by its name; and `baseline`, if a trial."""
        chosen = {trial: variant for variant, trial in best_per(self.settled()).items()}
        chosen |= {baseline: baseline} if baseline in self.trials else {}
        first = {name: self.trials[trial][1][0] for trial, name in chosen.items()}
        configs = {name: run.model_dump(exclude_defaults=True, exclude={"seed"}) for name, run in first.items()}
        return Study({}, configs, {}, seeds)

    def runs(self) -> pd.DataFrame:
        """One row per run: run_id, trial, variant, config fields, parameters, metrics, device; see `store.METRICS`.
        Accuracies are in [0, 1], losses in nats, times in seconds. Raises `UserError` if a run is not in the store.
        """
        return pd.DataFrame([a | {"parameters": run.config.parameters} | run.row() for a, run in self._stored()])

    def settled(self) -> pd.DataFrame:
        """`runs()`, with val_accuracy the mean of the last tenth of epochs: at a constant rate the last is luck."""
        runs, late = self.runs(), self.history().query("epoch > 0.9 * epochs")
        ends = runs["run_id"].map(late.groupby("run_id")["val_accuracy"].mean())
        return runs.assign(val_accuracy=ends.where(runs["val_accuracy"].notna()))

    def history(self) -> pd.DataFrame:
        """One row per run and epoch: run_id, trial, variant, config fields, and the columns of `Run.history`."""
        frames = [run.history().assign(run_id=run.run_id, **about, **run.config.row()) for about, run in self._stored()]
        return pd.concat(frames, ignore_index=True)

    def load(self, trial: str, seed: int) -> store.Run:
        """One run of the study. Raises `UserError` for an unknown trial or seed, or a run not trained yet."""
        ids = {config.seed: config.run_id for config in self.trials.get(trial, ("", []))[1]}
        if seed not in ids:
            raise UserError(f"no run of trial {trial!r} with seed {seed}{nearest(trial, list(self.trials))}")
        return store.load_run(ids[seed])

    def describe(self, selected: "Study | None" = None) -> str:
        """What all runs share and what varies, as sentences (Markdown); and the seeds of what came of it `again`."""
        varied, first = differing(self.configs), self.configs[0]
        said = {"hidden_sizes", "optimizer", "lr", "batch_size", "epochs", *differing([first, RunConfig()])} - {*varied}
        of = {"hidden_sizes": "hidden layers ", "bias_init": "initial biases "}
        same = ", ".join(of.get(name, "") + setting(name, value) for name, value in first if name in said)
        vary = joined([f"`{name}`" for name in varied]) or "the seed alone"
        sizes = [len(runs) for _, runs in self.trials.values()]
        seeds = f"{count(min(sizes))} to " * (min(sizes) < max(sizes)) + count(max(sizes), "seed")
        again = max(len(runs) for _, runs in (selected or self).trials.values())
        made = f"We vary {vary} in {count(len(sizes), 'trial')} of {seeds}, {count(sum(sizes), 'run')}"
        new = count(len({*(selected or self).names()} - {*self.names()}), "more run")
        more = f" What validation selects is trained with {count(again, 'seed')}, in {new}." * (again > max(sizes))
        return f"{made}, all with {same} (@tbl-config).{more}"

    def _stored(self) -> Iterable[tuple[dict[str, str], store.Run]]:
        for label, (name, configs) in self.trials.items():
            for config in configs:
                run = store.load(config.run_id)
                if run is None:
                    raise UserError(f"trial {label!r}, seed {config.seed} has not been trained; call study.run() first")
                yield {"trial": label, "variant": name}, run


def _check_fields(spec: StudySpec, where: str) -> None:
    """Every name, and every value by itself, where it stands: also those that a variant or the grid overrides."""
    parts = [("base", spec.base), *((f"variants.{name}", part) for name, part in spec.variants.items())]
    fields = [(place, key, [value]) for place, part in parts for key, value in part.items()]
    for place, key, values in fields + [("grid", key, values) for key, values in spec.grid.items()]:
        for value in values if key != "seeds" or not place.startswith("variants.") else ():
            validate_field(key, value, f"{where}: {place}")


def train(
    configs: Sequence[RunConfig],
    device: str = "auto",
    memory: int | None = None,
    cluster: str = "",
    names: dict[str, str] | None = None,
) -> list[store.Run]:
    """Train the runs that the store lacks, each once and after its teachers, and return all of them in the given order.

    `device` is "auto" (the accelerator if there is one), "cpu", "cuda", "cuda:1" or "mps", `memory` as for
    `workers.train`. Every run is stored as its stack ends, so an interrupt loses only what is in training. `cluster`,
    the address of a Dask scheduler or a YAML file of jobs, trains on workers instead (docs/cluster.md), whose dashboard
    shows the runs' `names`, by id. Raises `UserError` for what is not there, cannot be written or does not fit, and
    where `FMNIST_READ_ONLY` forbids to train.
    """
    wanted = {config.run_id: config for config in configs}
    stored = {run_id: run for run_id in wanted if (run := store.load(run_id, whole=True))}
    missing = [config for run_id, config in wanted.items() if run_id not in stored]
    if missing and os.environ.get("FMNIST_READ_ONLY") == "1":
        raise UserError(
            f"{count(len(missing), 'run')} not in the store; here notebooks only read: `fmnist report` trains"
        )
    if teachers := [teacher for config in missing for teacher in config.teacher_configs]:
        train(teachers, device, memory, cluster)
    if missing:
        _train(missing, device, memory, cluster, names or {})
    return [stored.get(config.run_id) or store.load_run(config.run_id) for config in configs]


def _train(missing: list[RunConfig], device: str, memory: int | None, at: str, names: dict[str, str]) -> None:
    """Train and store what is missing; what another process is training is waited for."""
    from fmnist.engine import cluster, workers

    on, waits = workers.resolve_device("auto" if at else device), False
    store.check_writable()
    if not at and (seconds := workers.estimate(missing, on)) > store.DAY and os.environ.get("FMNIST_YES") != "1":
        days = f"about {seconds / store.DAY:,.0f} days on {on}, at the pace of one large product"
        raise UserError(f"training {count(len(missing), 'run')} would take {days}; --yes, or FMNIST_YES=1, goes on")
    while missing:
        store.clean()  # of claims, too, whose process has died
        own, other = store.claim(missing)
        try:
            if lacking := [config for config in own if not store.load(config.run_id)]:  # or just finished elsewhere
                _train_own(lacking, device, memory, partial(cluster.team, at, names=names) if at else workers.here)
        finally:
            store.release(own)
        missing = [config for config in missing if config not in own and not store.load(config.run_id)]
        if missing and not own:
            if not waits:
                machine, _, process = other.rpartition(".")
                print(f"waiting for {count(len(missing), 'run')} of process {process} on {machine}", file=sys.stderr)
            waits = True
            time.sleep(1)


def _train_own(missing: list[RunConfig], device: str, memory: int | None, team: Callable) -> None:
    """Under one bar in units of work, so that its ETA holds for all sizes of networks; in a log, once a minute."""
    from fmnist.engine import workers

    seen = sys.stderr.isatty() or hasattr(get_ipython(), "kernel")  # at a terminal or in a notebook
    form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} < {remaining}{postfix}"
    total, done = sum(map(workers.work, missing)), itertools.count(1)
    pace = dict.fromkeys(("delay", "mininterval", "maxinterval"), 0.1 if seen else 60.0)  # seconds
    with tqdm(desc=f"{len(missing)} runs", total=total, bar_format=form, leave=False, **pace) as bar:

        def finished(result) -> None:
            store.save(result)
            bar.set_description_str(f"{next(done)} of {len(missing)} runs", refresh=False)

        def progress(_: int, work: float, accuracy: float) -> None:
            bar.set_postfix_str(f"val {accuracy:.1%}", refresh=False)
            bar.update(work)

        workers.train(missing, finished, device, progress, memory, team)


def contents(path: str) -> dict[str, Any]:
    """What a report tells its notebooks of itself: base, published, and sections in order, each with notebook, title,
    kind, baseline, same (of `gains`), and in study and tuning a `Study`'s parts or None. "": an example.
    """
    return json.loads((project_root() / path if path else TEMPLATES / "contents.json").read_text(encoding="utf-8"))
