"""Where every figure and table comes from: notebook and cell, parameters, runs, and what those runs record.

All of it is read from the runs' own records in the store and from the executed notebooks, nothing from the moment of
rendering, so that the same runs give the same bytes. In HTML it is a note below the figure or table, in the PDF an
appendix, and in report/<name>.json (`record`) what `verify` starts from.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from nbformat import NotebookNode

from fmnist import store
from fmnist.config import RunConfig
from fmnist.words import count, joined

UNKNOWN = "not recorded"


def noted(notebook: NotebookNode, name: str, folder: Path) -> NotebookNode:
    """The executed notebook, called `name`, of the report in `folder`, with a note at each figure and table."""
    number, facts = 0, {}
    given = folder / f"{name}.yaml"
    for cell in notebook.cells:
        number += "injected-parameters" not in cell.metadata.get("tags", [])  # the cell that papermill puts in
        for mark in _marks([cell]):
            ids = mark.get("runs", [])
            key = digest(ids)
            facts[key] = facts.get(key) or _facts(ids)
            source = {"notebook": f"notebooks/{name}.ipynb", "cell": number, "id": cell.get("id", "")}
            # The report's own YAML sets what its notebooks share: base and seeds.
            source["parameters"] = f"params/{folder.name}/{given.name if given.exists() else 'report.yaml'}"
            mark |= {"source": source, "digest": key, "facts": facts[key]}
            mark["note"] = f"{_made(source)} {_said(key, facts[key])}"
    return notebook


def appendix(paper: NotebookNode) -> str:
    """The notes of all figures and tables for the PDF, as Markdown: what made each, and below what the runs record."""
    marks = list(_marks(paper.cells))
    if not marks:
        return ""
    lines = ["| Shown | Made by | Parameters | Runs | Data |", "|:--|:--|:--|:--|:--|"]
    for mark in marks:
        source, data = mark["source"], f"`{mark['label']}.csv`" if mark.get("data") else "–"
        made = f"`{Path(source['notebook']).stem}`, cell {source['cell']}"
        runs = f"`{mark['digest']}`" if mark["facts"] else "none"
        lines.append(f"| @{mark['label']} | {made} | `{source['parameters']}` | {runs} | {data} |")
    sets = {mark["digest"]: _said(mark["digest"], mark["facts"]) for mark in marks if mark["facts"]}
    return (
        "# Provenance {#provenance .unnumbered}\n\nNotebooks are in `notebooks/`. The data are attached to this PDF. "
        "Runs are those that the notebook had read by then; the JSON file beside this report has their ids.\n\n"
        + "\n".join(lines)
        + "\n\n"
        + "\n\n".join(sets.values())
    )


def record(paper: NotebookNode, trained: dict) -> dict[str, Any]:
    """For report/<name>.json: what is shown, the sets of runs behind it, and each run with what it reached.

    `trained` maps notebooks to their studies, which name the trials. A run's `config` leaves out what is default.
    """
    shown, sets, names = [], {}, {}
    for mark in _marks(paper.cells):
        data = mark.get("data", "")
        about = {"rows": data.count("\n") - 1, "sha256": hashlib.sha256(data.encode()).hexdigest()} if data else None
        shown.append({"label": mark["label"], **mark["source"], "runs": mark["digest"], "data": about})
        sets[mark["digest"]] = {**mark["facts"], "ids": mark.get("runs", [])}
    for name, study in trained.items():
        for trial, (_, configs) in study.trials.items():
            for config in configs:
                names.setdefault(config.run_id, {})[name] = trial
    ids = dict.fromkeys([*names, *(run_id for found in sets.values() for run_id in found["ids"])])
    stored = {run_id: _run(run, names.get(run_id, {})) for run_id in ids if (run := store.load(run_id))}
    return {"shown": shown, "run_sets": sets, "runs": stored}


def written(about: dict[str, Any]) -> str:
    """`about` as JSON; what is listed under shown, run_sets and runs has a line each."""
    parts = []
    for key, value in about.items():
        if key in ("shown", "run_sets", "runs") and value:
            pairs = value.items() if isinstance(value, dict) else ((None, item) for item in value)
            lines = [(f"{_json(k)}: " if k else "") + _json(item) for k, item in pairs]
            opened, closed = "{}" if isinstance(value, dict) else "[]"
            parts.append(f" {_json(key)}: {opened}\n  " + ",\n  ".join(lines) + f"\n {closed}")
        else:
            parts.append(f" {_json(key)}: " + json.dumps(value, indent=1, ensure_ascii=False).replace("\n", "\n "))
    return "{\n" + ",\n".join(parts) + "\n}\n"


def runs(paper: NotebookNode) -> set[str]:
    """Ids of the runs behind all figures and tables."""
    return {run_id for mark in _marks(paper.cells) for run_id in mark.get("runs", [])}


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


def _facts(ids: list[str]) -> dict[str, Any]:
    """What the records of these runs say, each thing that occurs once; {} for no runs."""
    records = [run.record for run_id in ids if (run := store.load(run_id))]
    if not records:
        return {}

    def each(say) -> list[str]:
        return sorted({say(record) for record in records})

    finished = each(lambda record: record["finished"])
    return {
        "count": len(records),
        "commits": each(_commit),
        "data": each(lambda r: f"{r['config'].get('dataset', 'FashionMNIST')} {r.get('data_checksum', UNKNOWN)}"),
        "devices": each(lambda record: record["device"]),
        "precision": each(lambda record: record["config"]["precision"]),
        "versions": each(_versions),
        "seconds": round(sum(record["metrics"]["seconds"] for record in records), 1),
        "finished": [finished[0], finished[-1]],
    }


def _commit(record: dict) -> str:
    code = record.get("code") or {}  # runs of earlier versions do not have it
    state = {True: "clean", False: "with changes"}.get(code.get("clean"), "")
    return f"{code['commit']} {state}".strip() if code.get("commit") else UNKNOWN


def _versions(record: dict) -> str:
    return ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items()) or UNKNOWN


def _made(source: dict) -> str:
    return f"Made by cell {source['cell']} (`{source['id']}`) of `{source['notebook']}` with `{source['parameters']}`."


def _said(key: str, facts: dict[str, Any]) -> str:
    """The records of a set of runs, named `key`, as a sentence (Markdown)."""
    if not facts:
        return "No trained run was read for it."
    commits = [
        f"commit `{commit[:12]}` ({state})" if state else f"commit {commit}"
        for commit, _, state in (
            text.partition(" ") if text != UNKNOWN else (text, "", "") for text in facts["commits"]
        )
    ]
    data = [f"{name} `{checksum[:12]}`" for name, _, checksum in (text.partition(" ") for text in facts["data"])]
    first, last = (f"{pd.Timestamp(moment):%Y-%m-%d}" for moment in facts["finished"])
    days = first if first == last else f"{first} to {last}"
    return (
        f"{count(facts['count'], 'run').capitalize()} (`{key}`): {joined(commits)}; data {joined(data)}; "
        f"device {joined(facts['devices'])}; precision {joined(facts['precision'])}; "
        f"{'; or '.join(facts['versions'])}; {facts['seconds'] / 60:.1f} minutes of training, finished {days}."
    )


def _run(run: store.Run, trials: dict[str, str]) -> dict[str, Any]:
    usual = RunConfig().model_dump(mode="json")
    config = {key: value for key, value in run.config.model_dump(mode="json").items() if value != usual[key]}
    return {"trials": trials, "config": config, "test_accuracy": run.metrics["test_accuracy"]}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
