"""Published claims, answered from our runs: holds, does not hold, or cannot be decided with this many seeds.

Every test of a claim comes down to *parts*, mostly differences between two trials, paired by seed. A claim without a
magnitude (higher, best, trend) is decided by the paired t test, Holm-corrected over all such parts of all claims of the
report; one with a magnitude (same, level, higher with bounds) by where the 95 % interval lies: inside the bounds it
holds, outside it does not, across a bound it is undecided. For `same` this is the two one-sided tests procedure, at
2.5 % each (D. J. Schuirmann, J. Pharmacokinet. Biopharm. 15, 1987). A test holds where all of its parts do, a claim
where all of its tests do; one part that does not hold is enough against it. Fewer than six seeds decide nothing, except
that a single rise refutes "falls in every epoch".
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby

import pandas as pd

from fmnist.replication_old.evidence import Part, Tables, parts
from fmnist.replication_old.published import Best, Claim, Level, Monotone, Published, Question
from fmnist.statistics import MIN_PAIRS, together
from fmnist.words import claim as clause
from fmnist.words import count, joined, metric_of, number, overview, sentence

ANSWERS = {1: "holds", 0: "cannot be decided", -1: "does not hold"}
WORTH = 0.5  # points: where the interval excludes a lead of this size, "higher" does not hold
PLACES = {1: "inside", 0: "across a limit", -1: "outside"}
REVERSED = {"higher": "lower", "lower": "higher"}


def answers(published: Published, runs: Tables, histories: Tables) -> pd.DataFrame:
    """One row a claim: says, because, answer (see ANSWERS), found (computed sentences, Markdown), otherwise."""
    tests = [test.asked for claim in published.claims for test in claim.tests]
    found = iter(_corrected([parts(test, runs, histories) for test in tests]))
    return pd.DataFrame([_answer(claim, found, runs, histories) for claim in published.claims])


def _answer(claim: Claim, found: Iterator[list[Part]], runs: Tables, histories: Tables) -> dict[str, str]:
    judged = []
    for test in claim.tests:
        mine, asked = next(found), test.asked
        judged.append(_fall(asked, runs, histories) if isinstance(asked, Monotone) else _judged(asked, mine))
    answer = ANSWERS[min(status for status, _ in judged)]
    otherwise = claim.otherwise if answer == ANSWERS[-1] else ""
    marks = [f"*({i}) {ANSWERS[status]}:* " for i, (status, _) in enumerate(judged, 1)] if len(judged) > 1 else [""]
    text = " ".join(mark + text for mark, (_, text) in zip(marks, judged, strict=True))
    return {"says": claim.says, "because": claim.because, "answer": answer, "found": text, "otherwise": otherwise}


def reached(runs: pd.DataFrame, trial: str, at_least: float) -> tuple[str, str]:
    """Whether a trial's mean test accuracy is so many percent or more: the answer (see ANSWERS) and what was found."""
    asked = Level(study="these", trials=[trial], at_least=at_least)
    status, text = _judged(asked, parts(asked, {"these": runs}, {"these": pd.DataFrame()}))
    return ANSWERS[status], text


def tally(found: pd.DataFrame) -> str:
    """`answers` counted: "of eight claims, five hold, two do not hold, and one cannot be decided"."""
    words = (("holds", "hold"), ("does not hold", "do not hold"), ("cannot be decided",) * 2)
    counts = [(int((found["answer"] == one).sum()), one, several) for one, several in words]
    said = [f"{count(n)} {one if n == 1 else several}" for n, one, several in counts if n]
    return f"of {count(len(found), 'claim')}, {joined(said)}"


def _corrected(tests: list[list[Part]]) -> list[list[Part]]:
    """The parts with Holm's p and verdict over all that a p value decides."""
    deciding = [part.row.to_frame().T for parts in tests for part in parts if part.by_p]
    if not deciding:
        return tests
    table = together([frame.infer_objects() for frame in deciding])
    rows = iter([row for _, row in table.iterrows()])
    return [[replace(part, row=next(rows)) if part.by_p else part for part in parts] for parts in tests]


# --- from parts to an answer and its sentences ------------------------------------------------------------------------


def _judged(test: Question, parts: list[Part]) -> tuple[int, str]:
    if isinstance(test, Best):
        status = min(_status(part, worth=False) for part in parts)
        text = _ranked(test.trial, parts)
    else:
        status = min(_status(part) for part in parts)
        text = " ".join(_said(part) for part in parts if part.by_p) + _placed([p for p in parts if not p.by_p])
    guessed = frozenset().union(*(part.guessed for part in parts))
    if guessed:
        text += f" ({count(len(guessed), 'diverged run counts', 'diverged runs count')} as guessing.)"
    return status, text


def _status(part: Part, worth: bool = True) -> int:
    row = part.row
    if row["n"] < MIN_PAIRS:
        return 0
    scale = metric_of(row["metric"]).scale
    low, high = scale * row["low"], scale * row["high"]
    if part.by_p:
        excluded = worth and metric_of(row["metric"]).unit == "points" and high < WORTH
        undecided = -1 if excluded else 0
        return {"higher": 1, "lower": -1}.get(row["verdict"], undecided)
    if part.low <= low and high <= part.high:
        return 1
    return -1 if high < part.low or low > part.high else 0


def _said(part: Part) -> str:
    """A comparison that its p value decides, as a sentence."""
    excluded = part.row["verdict"] == "no difference detectable" and _status(part) < 0
    return sentence(clause(part.row) + (f"; a lead of {number(WORTH)} points or more is excluded" if excluded else ""))


def _placed(parts: list[Part]) -> str:
    """Comparisons that bounds decide: a sentence with the bounds and one with all intervals, for each metric."""
    said = []
    for (metric, bounds), members in groupby(parts, lambda part: (part.row["metric"], part.bounds)):
        group = list(members)
        seeds = " or ".join(count(n, "seed") for n in dict.fromkeys(part.row["n"] for part in group))
        found = "; ".join(_interval(part) for part in group)
        said.append(f"Asked {metric_of(metric).place}: {bounds}. Found ({seeds}, 95 % intervals): {found}.")
    return " ".join(said)


def _interval(part: Part) -> str:
    row, measure, level = part.row, metric_of(part.row["metric"]), "baseline" not in part.row
    subject = row["trial"] if level else f"{row['trial']} minus {row['baseline']}"
    if row["n"] < MIN_PAIRS:
        return f"{subject}, not judged with fewer than {count(MIN_PAIRS, 'seed')}"
    digits = 1 if measure.unit == "points" else 3
    low, high = (number(measure.scale * row[key], digits) for key in ("low", "high"))
    mean = number(measure.scale * row["difference"], digits, signed=not level)
    return f"{subject} {mean} [{low}, {high}], {PLACES[_status(part)]}"


def _ranked(trial: str, parts: list[Part]) -> str:
    """All comparisons of `best` in one sentence a metric, seen from the trial that is said to be best."""
    table = pd.DataFrame([part.row for part in parts])
    first = table["trial"].str.startswith(trial)
    turned = table.assign(trial=table["baseline"], baseline=table["trial"], verdict=table["verdict"].replace(REVERSED))
    turned = turned.assign(difference=-table["difference"], low=-table["high"], high=-table["low"])
    table = table.where(~first, turned)
    return " ".join(overview(group) for _, group in table.groupby("metric", sort=False))


def _fall(test: Monotone, runs: Tables, histories: Tables) -> tuple[int, str]:
    """Whether the loss falls in every epoch of every run: counts, and the chance that one run a trial would show it."""
    mine, history = runs[test.study], histories[test.study]
    mine = mine[mine["trial"].isin(test.trials)] if test.trials else mine
    history = history[history["run_id"].isin(mine["run_id"]) & (history["epoch"] > 0)].sort_values("epoch")
    steps = history.groupby("run_id")[test.metric].diff()
    first = ~history["run_id"].duplicated()
    falls = ((steps < 0) | first).groupby(history["run_id"]).all()
    falls &= ~mine.set_index("run_id")["diverged"].astype(bool).reindex(falls.index)
    share = falls.groupby(mine.set_index("run_id")["trial"].reindex(falls.index), sort=False).mean()
    status = -1 if not falls.all() else int(mine.groupby("trial")["seed"].nunique().min() >= MIN_PAIRS)
    share_of = f"{count(int(falls.sum()))} of {count(len(falls), 'run')}"
    text = f"The {metric_of(test.metric).label} of the {test.study} study falls in every epoch in {share_of}"
    if not falls.all():
        text += f"; it does not in some runs of {'; '.join(share.index[share < 1])}"
        chance = f"{share.prod():.2f}" if share.prod() >= 0.01 else "less than 0.01"
        text += f"; one run of each of {count(len(share), 'trial')} would all fall with probability {chance}"
    return status, text + "."
