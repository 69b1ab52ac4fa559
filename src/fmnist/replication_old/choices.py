"""Which way to fill in what a published report leaves unsaid comes closest to the numbers that it prints.

The variants of a study are the *choices*, its grid the *settings* that have a published number each. How far a choice
is from the published numbers is said by the root mean square of ours − published over the settings, for every seed by
itself: a published number, too, is of one run. A choice is held against the baseline, what the report at hand takes,
seed by seed; the intervals of these differences hold together (Bonferroni: each at 1 − 0.05 / number of choices
compared), so that a choice is not called closer because many were tried. A run that diverged cannot classify and counts
as guessing.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from fmnist.config import Strict, UserError, nearest, validate
from fmnist.replication_old.evidence import GUESS
from fmnist.replication_old.published import Table
from fmnist.replication_old.reproduced import MIN_SEEDS, judge
from fmnist.statistics import LEVEL, interval
from fmnist.words import MISSING, count, diverged, joined, number, sentence

Percent = Annotated[float, Field(ge=0, le=100)]


class Asked(Strict):
    """What the choices are held against: published test accuracies in percent, by setting."""

    published: dict[str, Percent] = Field(min_length=1)
    metric: Literal["test_accuracy", "best_val_test_accuracy"] = "test_accuracy"


def check(asked: Mapping, trials: Mapping[str, str], where: str = "choices") -> Asked:
    """`asked`, checked against the study's `trials` (name → variant).

    Raises UserError for a wrong type, for a published setting that the study lacks, and for one without a number.
    """
    found = validate(Asked, dict(asked), where)
    known = list(dict.fromkeys(_setting(trial, variant) for trial, variant in trials.items()))
    for name in found.published:
        if name not in known:
            raise UserError(f"{where}: published: the study has no setting {name!r}{nearest(name, known)}")
    if bare := [name for name in known if name not in found.published]:
        raise UserError(f"{where}: published: no number for the setting {bare[0]!r}; add one or take it from the grid")
    return found


def beside(runs: pd.DataFrame, published: Mapping[str, float], metric: str = "test_accuracy") -> pd.DataFrame:
    """`reproduced.judge` of every choice and setting, with columns `choice` and `setting` in front."""
    check({"published": published, "metric": metric}, dict(zip(runs["trial"], runs["variant"], strict=True)))
    trials = runs.groupby("trial", sort=False)["variant"].first()
    settings = [_setting(trial, variant) for trial, variant in trials.items()]
    rows = [{"trial": trial, "value": published[name]} for trial, name in zip(trials.index, settings, strict=True)]
    table = Table.model_validate({"study": "choices", "caption": "", "metric": metric, "rows": rows})
    judged = judge(table, {"choices": runs})
    judged.insert(0, "choice", trials.to_numpy())
    judged.insert(1, "setting", settings)
    return judged


def distances(
    runs: pd.DataFrame, published: Mapping[str, float], baseline: str, metric: str = "test_accuracy"
) -> pd.DataFrame:
    """How far each choice is from the published numbers, in points: a row each, in order of appearance.

    Columns: choice, numbers (settings asked), agree (by `reproduced.judge`), judged (agree or differ), n (seeds),
    diverged, runs, rms (mean over seeds of the root mean square of ours − published), absolute (of the mean absolute
    difference), and against `baseline`, paired by seed: difference of rms, low, high, verdict ("closer", "farther",
    "cannot tell", "" for the baseline itself).
    """
    judged = beside(runs, published, metric)
    value = judged.set_index("trial")["published"]
    ours = 100 * runs[metric].where(~runs["diverged"].astype(bool) & runs[metric].notna(), GUESS)
    off = runs.assign(off=ours - runs["trial"].map(value)).pivot(
        index=["variant", "seed"], columns="trial", values="off"
    )
    rms, absolute = np.sqrt((off**2).mean(axis=1)), off.abs().mean(axis=1)
    verdicts, choices = judged.groupby("choice")["verdict"], list(dict.fromkeys(runs["variant"]))
    rows = []
    for choice in choices:
        mine = runs[runs["variant"] == choice]
        seen = verdicts.get_group(choice)
        about = [choice, len(seen), int((seen == "agrees").sum()), int(seen.isin(["agrees", "differs"]).sum())]
        about += [mine["seed"].nunique(), int(mine["diverged"].sum()), len(mine), rms[choice].mean()]
        compared = (rms[choice] - rms[baseline]).dropna()
        rows.append([*about, absolute[choice].mean(), *_against(compared, len(choices) - 1, choice == baseline)])
    names = ["choice", "numbers", "agree", "judged", "n", "diverged", "runs", "rms", "absolute"]
    return pd.DataFrame(rows, columns=[*names, "difference", "low", "high", "verdict"])


def _against(differences: pd.Series, family: int, itself: bool) -> tuple[float, float, float, str]:
    """Mean and simultaneous interval of paired differences of rms, and what they say."""
    if itself:
        return 0.0, np.nan, np.nan, ""
    mean, low, high = (float(end) for end in interval(differences, 1 - (1 - LEVEL) / family))
    if len(differences) < MIN_SEEDS or not (high < 0 or low > 0):
        return mean, low, high, "cannot tell"
    return mean, low, high, "closer" if high < 0 else "farther"


def shown(found: pd.DataFrame) -> pd.DataFrame:
    """`distances` for `publish.table`; the choice with the least root mean square is marked."""
    nearest_one = found["rms"].idxmin()
    lost = [diverged(row.diverged, row.runs) for row in found.itertuples()]
    seeds = ["; ".join(filter(None, [str(row.n), gone])) for row, gone in zip(found.itertuples(), lost, strict=True)]
    return pd.DataFrame({
        "Choice": [name + " (closest)" * (i == nearest_one) for i, name in found["choice"].items()],
        "Seeds": seeds,
        "RMS (points)": [number(value) for value in found["rms"]],
        "Mean absolute": [number(value) for value in found["absolute"]],
        "Agree": [f"{row.agree} of {row.judged}" if row.judged else MISSING for row in found.itertuples()],
        "RMS − ours [95 %]": [_span(row) for row in found.itertuples()],
        "Verdict": [verdict or MISSING for verdict in found["verdict"]],
    })  # fmt: skip


def _span(row) -> str:
    if not row.verdict:
        return MISSING
    limits = f" [{number(row.low, 1, True)}, {number(row.high, 1, True)}]" if np.isfinite(row.low) else ""
    return number(row.difference, 1, True) + limits


def closest(found: pd.DataFrame) -> str:
    """Which choice explains the published numbers best, as far as the rows of `distances` can tell: a sentence."""
    first, ours = found.loc[found["rms"].idxmin()], found[found["verdict"] == ""].iloc[0]
    distance = f"root mean square of {number(first.rms)} points over {count(first.numbers, 'published number')}"
    name, taken = sentence(first.choice)[:-1], f"ours ({ours.choice})"
    if first.choice == ours.choice:
        return f"No choice comes closer to the published numbers than {taken}: a {distance}."
    if first.verdict == "closer":
        return f"{name} comes closest to the published numbers: a {distance}, against {number(ours.rms)} with {taken}."
    text = f"{name} comes closest, with a {distance}, but against {number(ours.rms)} with {taken} it cannot be told "
    return text + f"from {count(first.n, 'seed')} whether it is closer."


def says(found: pd.DataFrame) -> str:
    """`closest`, how the other choices compare with the one taken, and what the closest leaves, in sentences."""
    first, text = found.loc[found["rms"].idxmin()], closest(found)
    others = found[(found["verdict"] != "") & (found["choice"] != first.choice)]
    words = {
        "closer": "closer than ours",
        "farther": "farther away than ours",
        "cannot tell": "not to be told from ours",
    }
    groups = [(said, list(others.loc[others["verdict"] == verdict, "choice"])) for verdict, said in words.items()]
    parts = [f"{joined(names)} {'is' if len(names) == 1 else 'are'} {said}" for said, names in groups if names]
    text += f" Of the others, {', and '.join(parts)}." if parts else ""
    return f"{text} {_left(first)}"


def _left(first: pd.Series) -> str:
    """What the closest choice leaves unexplained."""
    if not first.judged:
        return f"With {first.choice}, too few runs or too wide an interval let none of the published numbers be judged."
    agree = (
        f"{count(first.agree)} of {count(first.judged, 'judged number')} {'agrees' if first.agree == 1 else 'agree'}"
    )
    rest = "" if first.agree == first.judged else "; what differs is not explained by any single choice tried here"
    return f"With {first.choice}, {agree} with one run of ours{rest}."


def _setting(trial: str, variant: str) -> str:
    return trial.removeprefix(f"{variant}, ")
