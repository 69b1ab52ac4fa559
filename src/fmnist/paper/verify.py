"""Trains a sample of a report's runs again and says whether what the report prints of them holds.

All that it needs is in the report's JSON file (`provenance.record`), and nothing is stored. A number holds if it is off
by no more than rounding in print, or the repeatability limit 1.96 √2 s [ISO 5725-6], with s over the trial's seeds, or
that of a share of 10,000 images.
"""

import json
from collections.abc import Callable
from math import nan, sqrt
from pathlib import Path

import numpy as np

from fmnist.config import TEST_IMAGES, RunConfig, UserError, validate

ROUNDING = 0.0005 + 1e-9  # tables print one decimal of a percentage


def read(path: Path) -> tuple[dict[str, tuple[dict, float, dict[str, str]]], set[str]]:
    """Each run's config, test accuracy (NaN: diverged) and study → trial; and the checksums of the report's data."""
    try:
        about = json.loads(path.read_text("utf-8"))
        known = {text.split()[-1] for facts in about["run_sets"].values() for text in facts.get("data", [])}
        runs = about["runs"].items()
        return {run_id: (r["config"], r["test_accuracy"] or nan, r["trials"]) for run_id, r in runs}, known
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise UserError(f"{path}: not the JSON file of a report, which make report writes") from None


def verify(path: Path, size: int, seed: int, device: str, say: Callable[[str], None]) -> bool:
    """Retrain a sample of `size` runs, say a line for each, and return whether all of them hold."""
    from fmnist.engine import workers

    runs, known = read(path)
    ids = [sorted(runs)[i] for i in sorted(np.random.default_rng(seed).permutation(len(runs))[:size])]
    configs = {run_id: validate(RunConfig, runs[run_id][0], f"{path}: run {run_id}") for run_id in ids}
    if other := [run_id for run_id, config in configs.items() if config.run_id != run_id]:
        raise UserError(f"{path}: run {other[0]} is another version's, which trains it differently; make it anew")
    say(f"training {len(ids)} of {len(runs):,} runs again on {device}")
    results, held = [], 0
    workers.train(list(configs.values()), results.append, device)
    for result in results:
        (_, stored, trials), again = runs[result.config.run_id], result.metrics["test_accuracy"]
        study, trial = next(iter(trials.items()), ("no study", ""))
        peers = [value for _, value, named in runs.values() if named.get(study) == trial and np.isfinite(value)]
        s = np.std(peers, ddof=1) if len(peers) > 1 else sqrt(stored * (1 - stored) / TEST_IMAGES)
        limit = np.fmax(ROUNDING, 1.96 * sqrt(2) * s)  # 95 %
        same_data = not known or result.data_checksum in known
        holds = same_data and np.isclose(again, stored, rtol=0, atol=limit, equal_nan=True)
        found = [f"{100 * value:.2f} %" if np.isfinite(value) else "diverged" for value in (stored, again, limit)]
        text = "stored {}, again {}, limit {}".format(*found) + ", trained on other data" * (not same_data)
        verdict = "holds" if holds else "DIFFERS"
        say(f"{verdict:8}{result.config.run_id} {study}: {trial}, seed {result.config.seed}: {text}")
        held += holds
    say(f"{held} of {len(ids)} hold")
    return held == len(ids)
