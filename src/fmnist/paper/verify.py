"""Trains a sample of a report's runs again and says whether what the report prints of them holds.

The report's JSON file has every run's config and test accuracy (`provenance.record`), so neither the store nor the
parameters are needed, and nothing is stored. A number holds if it is off by no more than rounding in print, or the
repeatability limit 1.96 √2 s [ISO 5725-6], with s over the trial's seeds, or that of a share of 10,000 images.
"""

import json
from collections.abc import Callable
from math import isfinite, sqrt
from pathlib import Path

import numpy as np

from fmnist.config import TEST_IMAGES, RunConfig, UserError, validate

ROUNDING = 0.0005  # tables print one decimal of a percentage


def read(path: Path) -> tuple[dict[str, tuple[dict, float | None, dict[str, str]]], set[str]]:
    """Of a report's JSON file: each run's config, test accuracy and trials by study, and the checksums of its data."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        known = {text.split()[-1] for facts in about["run_sets"].values() for text in facts.get("data", [])}
        runs = {run_id: (run["config"], run["test_accuracy"], run["trials"]) for run_id, run in about["runs"].items()}
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}; make report writes it") from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise UserError(f"{path}: not a report's JSON file that lists its runs; make the report anew") from None
    return runs, known


def verify(path: Path, size: int, seed: int, device: str, say: Callable[[str], None]) -> bool:
    """Retrain a sample of `size` runs, say a line for each, and return whether all of them hold."""
    from fmnist.engine import workers

    if size < 1 or seed < 0:
        raise UserError(f"--sample {size} --seed {seed}: should be 1 or more, and 0 or more")
    runs, known = read(path)
    ids = [sorted(runs)[i] for i in sorted(np.random.default_rng(seed).permutation(len(runs))[:size])]
    configs = {run_id: validate(RunConfig, runs[run_id][0], f"{path}: run {run_id}") for run_id in ids}
    if other := [run_id for run_id, config in configs.items() if config.run_id != run_id]:
        raise UserError(f"{path}: run {other[0]} is another version's, which trains it differently; make it anew")
    say(f"training {len(ids)} of {len(runs):,} runs again on {device}")
    results = {}
    workers.train(list(configs.values()), lambda result: results.update({result.config.run_id: result}), device)
    wrong = 0
    for run_id, result in results.items():
        (_, stored, trials), again = runs[run_id], result.metrics["test_accuracy"]
        study, trial = next(iter(trials.items()), ("no study", ""))
        peers = [value for _, value, named in runs.values() if trials and named.get(study) == trial]
        limit = max(ROUNDING, _limit([value for value in peers if value is not None], stored or 0))
        both = (stored is not None) + isfinite(again)  # 0: both diverged
        holds = abs(again - stored) <= limit + 1e-9 if both == 2 else both == 0
        other_data = bool(known) and result.data_checksum not in known
        found = f"stored {_percent(stored)}, again {_percent(again)}, limit {_percent(limit)}"
        found += ", trained on other data" * other_data
        said = "holds" if holds and not other_data else "DIFFERS"
        say(f"{said:8}{run_id} {study}: {trial}, seed {configs[run_id].seed}: {found}")
        wrong += other_data or not holds
    say(f"{len(ids) - wrong} of {len(ids)} hold")
    return not wrong


def _percent(value: float | None) -> str:
    return "diverged" if value is None or not isfinite(value) else f"{100 * value:.2f} %"


def _limit(accuracies: list[float], stored: float) -> float:
    """How far two trainings may differ, 95 %; with one seed s is the binomial one of the test images."""
    several = len(accuracies) > 1
    return 1.96 * sqrt(2) * (np.std(accuracies, ddof=1) if several else sqrt(stored * (1 - stored) / TEST_IMAGES))
