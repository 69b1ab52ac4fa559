"""Trains a sample of a report's runs again and says whether what the report prints of them holds.

Nothing is stored. A number holds if it is off by no more than rounding in print, or the repeatability limit 1.96 √2 s
[ISO 5725-6], s over the trial's seeds or of a share of images.
"""

import json
from collections.abc import Callable
from math import sqrt
from pathlib import Path

import numpy as np

from fmnist.config import TEST_IMAGES, RunConfig, UserError, validate

ROUNDING = 0.0005 + 1e-9  # tables print one decimal of a percentage


def read(path: Path) -> tuple[dict[str, tuple[dict, float | None, dict[str, str]]], set[str]]:
    """Each run's config, test accuracy (None: diverged) and study → trial; and the checksums of the report's data."""
    try:
        about = json.loads(path.read_text("utf-8"))
        known = {text.split()[-1] for facts in about["run_sets"].values() for text in facts.get("data", [])}
        runs = {run_id: (run["config"], run["test_accuracy"], run["trials"]) for run_id, run in about["runs"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise UserError(f"{path}: not the JSON file of a report, which make report writes") from None
    return runs, known


def verify(path: Path, size: int, seed: int, device: str, say: Callable[[str], None]) -> bool:
    """Retrain a sample of `size` runs, say a line for each, and return whether all of them hold."""
    from fmnist.engine import workers

    runs, known = read(path)
    ids = [sorted(runs)[i] for i in sorted(np.random.default_rng(seed).permutation(len(runs))[:size])]
    configs = [validate(RunConfig, runs[run_id][0], f"{path}: run {run_id}") for run_id in ids]
    if [config.run_id for config in configs] != ids:
        raise UserError(f"{path}: its runs are another version's, which trains them differently; make it anew")
    say(f"training {len(ids)} of {len(runs):,} runs again on {device}")
    results, held = [], 0
    workers.train(configs, results.append, device)
    for result in results:
        run_id, again = result.config.run_id, result.metrics["test_accuracy"]
        stored, trials = np.float64(runs[run_id][1]), runs[run_id][2]  # of None: NaN
        study, trial = next(iter(trials.items()), ("no study", ""))
        peers = [value for _, value, named in runs.values() if named.get(study) == trial and value is not None]
        s = np.std(peers, ddof=1) if len(peers) > 1 else sqrt(stored * (1 - stored) / TEST_IMAGES)
        limit = np.fmax(ROUNDING, 1.96 * sqrt(2) * s)  # 95 %
        same_data = not known or result.data_checksum in known
        holds = same_data and np.isclose(again, stored, rtol=0, atol=limit, equal_nan=True)
        found = [f"{100 * value:.2f} %" if np.isfinite(value) else "diverged" for value in (stored, again, limit)]
        text = "stored {}, again {}, limit {}".format(*found) + ", trained on other data" * (not same_data)
        say(f"{'holds' if holds else 'DIFFERS':8}{run_id} {study}: {trial}, seed {result.config.seed}: {text}")
        held += holds
    say(f"{held} of {len(ids)} hold")
    return held == len(ids)
