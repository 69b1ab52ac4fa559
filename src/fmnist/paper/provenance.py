"""Where every figure and table comes from: notebook and cell, parameters, code, runs, and what those runs record.

All of it is read from the runs' own records in the store and from the executed notebooks, nothing from the moment of
rendering, so that the same runs give the same bytes. In HTML it is a note below the figure or table, in the PDF an
appendix, and in report/<name>.json (`record`) what `verify` starts from.
"""

import hashlib
import json
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from nbformat import NotebookNode

from fmnist import store
from fmnist.config import RunConfig, project_root
from fmnist.store import git
from fmnist.words import count, joined

UNKNOWN = "not recorded"


def code(name: str, folder: Path) -> str:
    """The commit that last changed what the notebook `name` of the report in `folder` shows, runs apart.

    That is the package, the notebook and its parameters, where they are in the project's repository; " (clean)" says
    that all of them are as committed, " (with changes)" that they are not. Without git "not recorded".
    """
    root, package = project_root(), Path(__file__).parents[1]
    paths = [root / "notebooks" / f"{name}.ipynb", folder / "report.yaml", folder / f"{name}.yaml"]
    paths += [package] * package.is_relative_to(root)

    files = ["--", *map(str, paths)]
    try:
        commit, changed = git(root, "log", "-1", "--format=%H", *files), git(root, "status", "--porcelain", *files)
        return f"{commit} ({'with changes' if changed else 'clean'})" if commit else UNKNOWN
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN


def note(executed: Mapping[str, NotebookNode], folder: Path) -> None:
    """Put at each figure and table of the executed notebooks of the report in `folder` where it comes from."""
    stored = {run_id: store.load(run_id) for run_id in runs(executed.values())}
    for name, notebook in executed.items():
        number, given = 0, folder / f"{name}.yaml"  # report.yaml sets what notebooks share: base and seeds
        parameters = f"params/{folder.name}/{given.name if given.exists() else 'report.yaml'}"
        for cell in notebook.cells:
            number += "injected-parameters" not in cell.metadata.get("tags", [])  # the cell that papermill puts in
            for mark in _marks([cell]):
                facts = _facts([stored[run_id].record for run_id in mark["runs"] if stored[run_id]])
                source = {"notebook": f"notebooks/{name}.ipynb", "cell": number, "id": cell.get("id", "")}
                source |= {"parameters": parameters, "code": notebook.metadata.get("code", UNKNOWN)}
                mark |= {"source": source, "digest": digest(mark["runs"]), "facts": facts}
                made = f"cell {number} (`{source['id']}`) of `{source['notebook']}` with `{parameters}`"
                mark["note"] = f"Made by {made}, {_commit(source['code'])}. {_rests(mark)}"


def appendix(cells: Iterable[NotebookNode]) -> str:
    """The notes of all figures and tables for the PDF, as Markdown: what made each, and below what the runs record."""
    marks = list(_marks(cells))
    if not marks:
        return ""
    lines = ["| Shown | Made by | Parameters | Runs | Data |", "|:--|:--|:--|:--|:--|"]
    codes, sets = {}, {}
    for mark in marks:
        source, data = mark["source"], f"`{mark['label']}.csv`" if mark["data"] else "–"
        name = Path(source["notebook"]).stem
        what = f"`{mark['digest']}`" if mark["facts"] else "other reports" if mark.get("reports") else "none"
        lines.append(
            f"| @{mark['label']} | `{name}`, cell {source['cell']} | `{source['parameters']}` | {what} | {data} |"
        )
        codes.setdefault(_commit(source["code"]), {})[f"`{name}`"] = None
        if mark["facts"] or mark.get("reports"):
            sets[mark["digest"], *(other["name"] for other in mark.get("reports", []))] = _rests(mark)
    said = [f"Package, notebook and parameters of {joined(list(names))}: {text}." for text, names in codes.items()]
    intro = (
        "Notebooks are in `notebooks/`. The data are attached to this PDF; the JSON file beside it has the runs' ids."
    )
    return "\n\n".join(["# Provenance {#provenance .unnumbered}", intro, "\n".join(lines), *said, *sets.values()])


def record(cells: Iterable[NotebookNode], trials: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """For report/<name>.json: what is shown, the sets of runs behind it, and each run with what it reached.

    `trials` has, for each run of the report's studies, notebook → trial. A run's `config` leaves out what is default.
    """
    shown, sets = [], {}
    for mark in _marks(cells):
        data = mark["data"]
        about = {"rows": data.count("\n") - 1, "sha256": hashlib.sha256(data.encode()).hexdigest()} if data else None
        shown.append({"label": mark["label"], **mark["source"], "runs": mark["digest"], "data": about})
        shown[-1] |= {"reports": mark["reports"]} if mark.get("reports") else {}
        sets[mark["digest"]] = {**mark["facts"], "ids": mark["runs"]}
    ids = dict.fromkeys([*trials, *(run_id for found in sets.values() for run_id in found["ids"])])
    stored = {run_id: _run(run, trials.get(run_id, {})) for run_id in ids if (run := store.load(run_id))}
    return {"shown": shown, "run_sets": sets, "runs": stored}


def written(about: dict[str, Any]) -> str:
    """`about` as JSON, in which each run and whatever else is two levels deep has a line."""
    text = json.dumps(about, indent=1, ensure_ascii=False)
    return re.sub(r"\n(?: {3,}|  (?=[}\]]))", " ", text) + "\n"


def runs(notebooks: Iterable[NotebookNode]) -> set[str]:
    """Ids of the runs behind all figures and tables."""
    return {run_id for notebook in notebooks for mark in _marks(notebook.cells) for run_id in mark["runs"]}


def digest(ids: Iterable[str]) -> str:
    """A short name of a set of runs: twelve digits of the SHA-256 of its sorted ids."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:12]


def _marks(cells: Iterable[NotebookNode]) -> Iterator[dict]:
    """What `publish` wrote at each figure and table."""
    for cell in cells:
        for output in cell.get("outputs", []):
            mark = output.get("metadata", {}).get("fmnist", {})
            if mark.get("role") in ("figure", "table"):
                yield mark


def _facts(records: list[dict]) -> dict[str, Any]:
    """What the records of runs say, each thing that occurs once; {} for no runs."""
    if not records:
        return {}

    def each(say: Callable[[dict], str]) -> list[str]:
        return sorted({say(record) for record in records})

    finished = each(lambda record: record["finished"])
    return {
        "count": len(records),
        "commits": each(_run_commit),
        "data": each(lambda r: f"{r['config'].get('dataset', 'FashionMNIST')} {r.get('data_checksum', UNKNOWN)}"),
        "devices": each(lambda record: record["device"]),
        "precision": each(lambda record: record["config"]["precision"]),
        "versions": each(lambda r: ", ".join(f"{k} {v}" for k, v in r.get("versions", {}).items()) or UNKNOWN),
        "seconds": round(sum(record["metrics"]["seconds"] for record in records), 1),
        "finished": [finished[0], finished[-1]],
    }


def _run_commit(record: dict) -> str:
    found = record.get("code") or {}  # runs of earlier versions do not have it
    state = {True: " (clean)", False: " (with changes)"}.get(found.get("clean"), "")
    return f"{found['commit']}{state}" if found.get("commit") else UNKNOWN


def _commit(text: str) -> str:
    """ "1f0c… (clean)" → "commit `1f0c…` (clean)", twelve digits of it."""
    commit, _, state = text.partition(" ")
    return f"commit {UNKNOWN}" if text == UNKNOWN else f"commit `{commit[:12]}` {state}".strip()


def _rests(mark: dict) -> str:
    """What a figure or table rests on: other reports, and what the records of its runs say (Markdown)."""
    others = [
        f"`{other['name']}` of {other['date'] or 'no date'} (SHA-256 `{other['sha256'][:12]}`)"
        for other in mark.get("reports", [])
    ]
    said = [f"It rests on the {'reports' if len(others) > 1 else 'report'} {joined(others)}."] * bool(others)
    if not (facts := mark["facts"]):
        return " ".join(said) or "No trained run was read for it."
    data = [f"{name} `{checksum[:12]}`" for name, _, checksum in (text.partition(" ") for text in facts["data"])]
    days = list(dict.fromkeys(f"{pd.Timestamp(moment):%Y-%m-%d}" for moment in facts["finished"]))
    parts = [joined([_commit(text) for text in facts["commits"]]), f"data {joined(data)}"]
    parts += [f"device {joined(facts['devices'])}", f"precision {joined(facts['precision'])}"]
    parts += ["; or ".join(facts["versions"])]
    parts += [f"{facts['seconds'] / 60:.1f} minutes of training, finished {' to '.join(days)}"]
    said += [f"{count(facts['count'], 'run').capitalize()} (`{mark['digest']}`): {'; '.join(parts)}."]
    return " ".join(said)


def _run(run: store.Run, trials: Mapping[str, str]) -> dict[str, Any]:
    usual = RunConfig().model_dump(mode="json")
    config = {key: value for key, value in run.config.model_dump(mode="json").items() if value != usual[key]}
    return {"trials": trials, "config": config, "test_accuracy": run.metrics["test_accuracy"]}
