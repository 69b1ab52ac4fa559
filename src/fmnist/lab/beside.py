"""Several trials laid side by side: what tells them apart, their curves in one table, the study that has them all."""

import io
from collections.abc import Sequence
from typing import Any

import pandas as pd
from ruamel.yaml import YAML

from fmnist.config import RunConfig
from fmnist.statistics import interval
from fmnist.store import Run
from fmnist.study import setting
from fmnist.words import MISSING, percent

SAID = ("hidden_sizes", "optimizer", "lr")  # names a trial that stands alone
CURVES = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")  # what the panels draw
FIELDS = [name for name in RunConfig.model_fields if name != "seed"]


def differing(configs: Sequence[RunConfig]) -> list[str]:
    """The fields, seed aside, that have more than one value."""
    return [name for name in FIELDS if len({getattr(config, name) for config in configs}) > 1]


def labels(configs: Sequence[RunConfig]) -> dict[str, str]:
    """trial_id → what tells the trial from the others, in words; of one alone: layers, optimizer, learning rate."""
    fields = differing(configs) or SAID
    return {c.trial_id: ", ".join(setting(name, getattr(c, name)) for name in fields) for c in configs}


def described(config: RunConfig) -> str:
    """A trial in a list: layers, optimizer, learning rate, epochs, and whatever else is not the default."""
    usual = RunConfig()
    more = [n for n in FIELDS if n not in (*SAID, "epochs") and getattr(config, n) != getattr(usual, n)]
    epochs = f"{config.epochs} epoch{'s' * (config.epochs != 1)}"
    return ", ".join([*(setting(name, getattr(config, name)) for name in (*SAID, *more)), epochs])


def by_trial(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """trial_id → its runs, in the given order."""
    trials: dict[str, list[Run]] = {}
    for run in runs:
        trials.setdefault(run.config.trial_id, []).append(run)
    return trials


def curves_of(runs: Sequence[Run]) -> pd.DataFrame:
    """The runs' histories as one table, with run_id, seed, epochs (planned) and trial (its `labels`)."""
    names = labels([run.config for run in runs])
    about = [
        {"run_id": r.run_id, "seed": r.config.seed, "epochs": r.config.epochs, "trial": names[r.config.trial_id]}
        for r in runs
    ]
    return pd.concat([r.history().assign(**a) for r, a in zip(runs, about, strict=True)], ignore_index=True)


def compared(runs: Sequence[Run]) -> pd.DataFrame:
    """A row a trial: only the fields that differ, seeds, and test and validation accuracy with intervals, as text."""
    fields, rows = differing([run.config for run in runs]), []
    for members in by_trial(runs).values():
        row: dict[str, Any] = {name: _cell(members[0].config.row()[name]) for name in fields}
        row["seeds"] = ", ".join(str(run.config.seed) for run in sorted(members, key=lambda run: run.config.seed))
        for name in ("val_accuracy", "test_accuracy"):
            mean, low, high = interval([run.row()[name] for run in members])
            row[name.replace("_", " ")] = percent(float(mean), float(low), float(high)) if mean == mean else MISSING
        rows.append(row)
    return pd.DataFrame(rows)


def table_html(frame: pd.DataFrame) -> str:
    """A table of text for a widget, left aligned."""
    page = frame.to_html(index=False, border=0, justify="left")
    return page.replace("<td>", '<td style="text-align:left;padding:2px 16px 2px 0">').replace(
        "<th>", '<th style="text-align:left;padding:2px 16px 2px 0">'
    )


def _cell(value: Any) -> str:
    return ("no", "yes")[value] if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def study_yaml(runs: Sequence[RunConfig]) -> str:
    """YAML for `params/`: what all configs share as `base`, what differs as `variants`, their seeds.

    Every field is there, and an empty `variants` or `grid`, so that neither a notebook's nor a report's own base
    changes the study. Where trials have different seeds, each variant has its own.
    """
    trials: dict[str, list[RunConfig]] = {}
    for config in runs:
        trials.setdefault(config.trial_id, []).append(config)
    firsts = [members[0] for members in trials.values()]
    varied, rows = differing(firsts), [config.model_dump(mode="json") for config in firsts]
    study: dict[str, Any] = {"base": {name: rows[0][name] for name in FIELDS if name not in varied}, "variants": {}}
    seeds = [sorted({config.seed for config in members}) for members in trials.values()]
    alike, names = all(own == seeds[0] for own in seeds), list(labels(firsts).values())
    if varied:
        study["variants"] = {
            name: {field: row[field] for field in varied} | ({} if alike else {"seeds": list(own)})
            for name, row, own in zip(names, rows, seeds, strict=True)
        }
    study |= {"grid": {}, **({"seeds": seeds[0]} if alike else {})}
    yaml = YAML()
    yaml.default_flow_style, yaml.width = None, 120
    yaml.dump(study, text := io.StringIO())
    hint = f"# A notebook that has a `baseline` takes one of these, too: baseline: {names[0]}\n" if varied else ""
    return hint + text.getvalue()
