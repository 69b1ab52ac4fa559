"""Trains a sample of a report's runs again and says whether what the report prints of them holds.

The report's JSON file has every run's config and test accuracy (`provenance.record`), so neither the store nor the
parameters are needed, and nothing is stored. A number holds if it is off by no more than rounding in print (half of
0.1 points), or by what seeds make of it: for a run the repeatability limit 1.96 √2 s [ISO 5725-6] over all seeds,
with the standard error of a share of 10,000 images in place of s where there is one seed; for a mean of n runs of which
k were trained again, √k / n of that.
"""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fmnist.config import TEST_IMAGES, RunConfig, UserError, validate
from fmnist.words import count, number

ROUNDING = 0.05  # points; tables print one decimal
Line = tuple[bool, str]  # whether it holds, and what to say


def read(path: Path) -> dict[str, Any]:
    """The report's JSON file. Raises `UserError` unless it is one that lists its runs."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}; make report writes it") from None
    except ValueError:
        raise UserError(f"{path}: not a report's JSON file; name one, such as report/homework.json") from None
    if not isinstance(about, dict) or not {"runs", "run_sets"} <= about.keys() or not about["runs"]:
        raise UserError(f"{path}: lists no runs; make the report anew, and it will")
    if bare := [name for name, run in about["runs"].items() if not {"config", "test_accuracy", "trials"} <= run.keys()]:
        raise UserError(f"{path}: run {bare[0]} lacks its config, trials or accuracy; make the report anew")
    return about


def sample(runs: dict[str, Any], size: int, seed: int) -> list[str]:
    """Ids of `size` runs (or all), drawn without replacement; the same for the same runs, size and seed."""
    if size < 1:
        raise UserError(f"--sample {size}: should be 1 or more")
    if seed < 0:
        raise UserError(f"--seed {seed}: should be 0 or more")
    ids = sorted(runs)
    return [ids[i] for i in sorted(np.random.default_rng(seed).permutation(len(ids))[:size])]


def verify(about: dict[str, Any], size: int, seed: int, device: str, say: Callable[[str], None]) -> bool:
    """Retrain a sample, say a line for each run and each mean it is part of, and return whether all of them hold."""
    from fmnist.engine import workers

    runs, ids = about["runs"], sample(about["runs"], size, seed)
    configs = {run_id: validate(RunConfig, runs[run_id]["config"], f"run {run_id}") for run_id in ids}
    for run_id, config in configs.items():
        if config.run_id != run_id:
            raise UserError(
                f"run {run_id}: of another version of fmnist, which trains it differently; make the report anew"
            )
    say(f"training {count(len(ids), 'run')} of {len(runs):,} again on {device}")
    results = {}
    workers.train(list(configs.values()), lambda result: results.update({result.config.run_id: result}), device)
    lines = list(_data(about, results))
    fresh = {run_id: _none(results[run_id].metrics["test_accuracy"]) for run_id in ids}
    lines += [_run(runs, run_id, configs[run_id], fresh[run_id]) for run_id in ids]
    lines += [_mean(runs, *trial, fresh) for trial in sorted({key for i in ids for key in runs[i]["trials"].items()})]
    for holds, text in lines:
        say(f"{'holds' if holds else 'DIFFERS':8} {text}")
    wrong = sum(not holds for holds, _ in lines)
    say(f"{len(lines) - wrong} of {len(lines)} hold" + "; all of them" * (not wrong))
    return not wrong


def _data(about: dict[str, Any], results: dict) -> Iterator[Line]:
    """A line for each data set that is not the report's."""
    known = {text.rpartition(" ")[2] for facts in about["run_sets"].values() for text in facts.get("data", [])}
    for dataset, checksum in sorted({(r.config.dataset, r.data_checksum) for r in results.values()}):
        if known and checksum not in known:
            yield False, f"data     {dataset}: checksum {checksum[:12]} is not that of the report's data"


def _run(runs: dict[str, Any], run_id: str, config: RunConfig, fresh: float | None) -> Line:
    stored, trials = runs[run_id]["test_accuracy"], runs[run_id]["trials"]
    study, trial = next(iter(trials.items()), ("", "of no study"))
    about = f"run      {run_id}  {f'{study}: ' * bool(study)}{trial}, seed {config.seed}"
    if stored is None or fresh is None:
        said = {True: "diverged", False: "finished"}
        return (stored is None) == (fresh is None), f"{about}: {said[stored is None]}, again {said[fresh is None]}"
    peers = [v for v in (_accuracies(runs, study, trial) or {run_id: stored}).values() if v is not None]
    limit = max(ROUNDING, 100 * _repeatability(peers, stored))
    off = 100 * (fresh - stored)
    text = f"stored {100 * stored:.2f} %, again {100 * fresh:.2f} %: {number(off, 2, signed=True)} points"
    return abs(off) <= limit + 1e-9, f"{about}: {text}, at most {limit:.2f}"


def _mean(runs: dict[str, Any], study: str, trial: str, fresh: dict[str, float | None]) -> Line:
    """A trial's mean over seeds as tables print it, and with its retrained runs in place of the stored ones."""
    stored = _accuracies(runs, study, trial)
    before = np.array([v for v in stored.values() if v is not None])
    after = np.array([v for v in (stored | {i: fresh[i] for i in stored if i in fresh}).values() if v is not None])
    again = count(len(stored.keys() & fresh.keys()), "run")
    about = f"mean     {study}: {trial}, {count(len(stored), 'seed')}, {again} trained again"
    if not len(before) or not len(after):
        return len(before) == len(after), f"{about}: diverged, again {'diverged' if not len(after) else 'finished'}"
    n, off = len(before), 100 * (after.mean() - before.mean())
    half = 100 * _repeatability(before, before[0]) * math.sqrt(len(stored.keys() & fresh.keys())) / n
    limit = max(ROUNDING, half)
    text = f"printed {number(100 * before.mean())} %, now {number(100 * after.mean())} %"
    return abs(off) <= limit + 1e-9, f"{about}: {text}: {number(off, 2, signed=True)} points, at most {limit:.2f}"


def _accuracies(runs: dict[str, Any], study: str, trial: str) -> dict[str, float | None]:
    """Stored test accuracies of a trial's runs."""
    return {i: run["test_accuracy"] for i, run in runs.items() if run["trials"].get(study) == trial} if study else {}


def _repeatability(values, accuracy: float) -> float:
    """How far two trainings may differ, 95 %: 1.96 √2 s; with one seed, s is the binomial one of the test images."""
    if len(values) > 1:
        return 1.96 * math.sqrt(2) * float(np.std(values, ddof=1))
    return 1.96 * math.sqrt(2 * accuracy * (1 - accuracy) / TEST_IMAGES)


def _none(value: float) -> float | None:
    return value if math.isfinite(value) else None
