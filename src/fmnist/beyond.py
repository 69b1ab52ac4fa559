"""The report's networks beside something else: which two they are, and the same two on another data set."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from fmnist.classifiers import check
from fmnist.config import RunConfig, UserError, nearest, validate_field
from fmnist.statistics import across_studies
from fmnist.study import Study


def networks(studies: Mapping[str, Study], study: str, trial: str) -> tuple[dict[str, RunConfig], pd.DataFrame]:
    """What validation selects over all studies, and the baseline, `trial` of `study`; one network if they are the same.

    Name → a config, whose seed means nothing, and the runs of both (a row each, see `Study.runs`) with that name as
    `trial`. Raises `UserError` for a study or trial that is not there; all must have been trained.
    """
    if study not in studies:
        raise UserError(f"baseline_study: no study is called {study!r}{nearest(study, list(studies))}")
    if trial not in studies[study].trials:
        raise UserError(f"baseline_trial: {study} has no trial {trial!r}{nearest(trial, list(studies[study].trials))}")
    runs = {name: each.runs() for name, each in studies.items()}
    overall = across_studies(runs)
    winner = overall.loc[overall["val"].idxmax()]
    configs, found = {}, {}
    for where, name in ((winner["study"], winner["best"]), (study, trial)):
        config = studies[where].trials[name][1][0]
        if config.trial_id not in found:
            configs[f"network {name}"] = config
            mine = runs[where][runs[where]["trial"] == name]
            found[config.trial_id] = mine.assign(trial=f"network {name}")
    return configs, pd.concat(found.values(), ignore_index=True)


def check_parameters(parameters: Mapping[str, Any], where: str) -> None:
    """Raises `UserError` for classifiers or another data set, if a notebook takes any, that there are not."""
    check(parameters.get("classifiers", {}), f"{where}: classifiers")
    if "other" in parameters:
        validate_field("dataset", parameters["other"], f"{where}: other")


def elsewhere(configs: Mapping[str, RunConfig], seeds: Sequence[int], dataset: str) -> Study:
    """The same networks on another data set, as a study."""
    variants = {
        name: config.model_dump(exclude={"seed"}) | {"dataset": dataset, "hidden_sizes": list(config.hidden_sizes)}
        for name, config in configs.items()
    }
    return Study(variants=variants, seeds=list(seeds), where=f"on {dataset}")
