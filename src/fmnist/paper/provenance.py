"""Where every figure and table comes from: notebook and cell, parameters, code, runs, and what those runs record.

The same runs give the same bytes. In HTML it is a note below the figure or table, in the PDF an appendix, and in
report/<name>.json (`record`) what `verify` starts from.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from fmnist import store
from fmnist.config import FASHION, project_root
from fmnist.paper.exporters import marks
from fmnist.words import count, joined


def code(name: str, folder: Path) -> str:
    """The last commit of what a notebook of the report in `folder` rests on: "1f0c… (clean)" or "(with changes)"."""
    root, package = project_root(), Path(__file__).parents[1]
    paths = [root / "notebooks" / f"{name}.ipynb", folder / "report.yaml", folder / f"{name}.yaml"]
    return _state(**store.committed(root, *paths + [package] * package.is_relative_to(root)))


def note(executed: Mapping[str, NotebookNode], folder: Path) -> None:
    """Put at each figure and table of the executed notebooks of the report in `folder` where it comes from."""
    ids = {run_id for notebook in executed.values() for mark in marks(notebook.cells) for run_id in mark["runs"]}
    stored = {run_id: store.load(run_id) for run_id in ids}
    for name, notebook in executed.items():
        given = f"params/{folder.name}/{name if (folder / f'{name}.yaml').exists() else 'report'}.yaml"
        commit = code(name, folder)
        own = [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
        for number, cell in enumerate(own, 1):  # as in the notebook, without the cell that papermill puts in
            source = {"notebook": f"notebooks/{name}.ipynb", "cell": number, "id": cell.get("id", "")}
            source |= {"parameters": given, "code": commit}
            made = "Made by cell {cell} (`{id}`) of `{notebook}` with `{parameters}`, commit {code}.".format_map(source)
            for mark in marks([cell]):
                records = [stored[run_id].record for run_id in mark["runs"] if stored[run_id]]
                mark |= {"source": source, "digest": digest(mark["runs"]), "facts": _facts(records) if records else {}}
                mark["note"] = _brief(f"{made} {_rests(mark)}")


def appendix(cells: Iterable[NotebookNode]) -> str:
    """The notes of all figures and tables for the PDF, as Markdown: what made each, and below what the runs record."""
    intro = "Notebooks are in `notebooks/`, the data attached to this PDF, the runs' ids in the JSON file beside it."
    lines, shown, codes, sets = ["| Made by | Parameters | Shown (cell) | Runs |", "|:--|:--|:--|:--|"], {}, {}, {}
    for mark in marks(cells):
        name, source = f"`{Path(mark['source']['notebook']).stem}`", mark["source"]
        made, runs = shown.setdefault((name, source["parameters"]), ([], {}))
        made.append(f"@{mark['label']} ({source['cell']})")
        codes.setdefault(source["code"], {})[name] = None
        if facts := mark["facts"]:
            runs[f"`{mark['digest']}`"] = None
            found = f"{facts['count']} (`{mark['digest']}`, {facts['seconds'] / 60:.1f} minutes)"
            sets.setdefault(_same(facts), {})[found] = None
    for (name, given), (made, runs) in shown.items():
        lines.append(f"| {name} | `{given}` | {', '.join(made)} | {', '.join(runs) or 'none'} |")
    of = {c: joined([*names]) if len(codes) > 1 else "all" for c, names in codes.items()}
    said = [f"Package, notebook and parameters of {names}: commit {c}." for c, names in of.items()]
    said += [f"Runs {', '.join(found)}: {same}." for same, found in sets.items()]
    parts = "\n\n".join(["# Provenance {#provenance .unnumbered}", intro, "\n".join(lines), *said])
    return _brief(parts) if codes else ""


def record(cells: Iterable[NotebookNode], trials: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """For report/<name>.json: what is shown, the sets of runs behind it, each run; `trials`: run → study → trial."""
    shown, sets = [], {}
    for mark in marks(cells):
        data = mark["data"]
        about = {"rows": data.count("\n") - 1, "sha256": hashlib.sha256(data.encode()).hexdigest()} if data else None
        shown.append({"label": mark["label"], **mark["source"], "runs": mark["digest"], "data": about})
        sets[mark["digest"]] = {**mark["facts"], "ids": mark["runs"]}
    stored = {}
    for run_id in dict.fromkeys([*trials, *(run_id for found in sets.values() for run_id in found["ids"])]):
        if run := store.load(run_id):
            config, accuracy = run.config.model_dump(mode="json", exclude_defaults=True), run.metrics["test_accuracy"]
            stored[run_id] = {"trials": trials.get(run_id, {}), "config": config, "test_accuracy": accuracy}
    return {"shown": shown, "run_sets": sets, "runs": stored}


def written(about: dict[str, Any]) -> str:
    """`about` as JSON, in which each run and whatever else is two levels deep has a line."""
    return re.sub(r"\n(?: {3,}|  (?=[}\]]))", " ", json.dumps(about, indent=1, ensure_ascii=False)) + "\n"


def digest(ids: Iterable[str]) -> str:
    """A short name of a set of runs: twelve digits of the SHA-256 of its sorted ids."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:12]


def _facts(records: list[dict]) -> dict[str, Any]:
    """What the records of runs say, each thing that occurs once."""
    return {
        "count": len(records),
        "commits": sorted({_state(**run.get("code", {})) for run in records}),  # earlier versions did not record it
        "data": sorted({f"{run['config'].get('dataset', FASHION)} {run['data_checksum']}" for run in records}),
        "devices": sorted({run["device"] for run in records}),
        "precision": sorted({run["config"]["precision"] for run in records}),
        "versions": sorted({", ".join(map(" ".join, run["versions"].items())) for run in records}),
        "seconds": round(sum(run["metrics"]["seconds"] for run in records), 1),
        "finished": [min(run["finished"] for run in records), max(run["finished"] for run in records)],
    }


def _state(commit: str = "", clean: bool | None = None) -> str:
    return f"{commit} ({'clean' if clean else 'with changes'})" if commit else "not recorded"


def _brief(text: str) -> str:
    """Commits and checksums by their first twelve digits."""
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{20,}", r"`\1`", text)


def _rests(mark: dict) -> str:
    """What the records of the runs say that a figure or table rests on (Markdown)."""
    if not (facts := mark["facts"]):
        return "No trained run was read for it."
    about = f"{_same(facts)}; {facts['seconds'] / 60:.1f} minutes of training"
    return f"{count(facts['count'], 'run').capitalize()} (`{mark['digest']}`): {about}."


def _same(facts: dict[str, Any]) -> str:
    """What sets of runs have in common, mostly."""
    parts = [joined([f"commit {state}" for state in facts["commits"]]), f"data {joined(facts['data'])}"]
    parts += [f"device {joined(facts['devices'])}", f"precision {joined(facts['precision'])}"]
    days = " to ".join(dict.fromkeys(moment[:10] for moment in facts["finished"]))
    return "; ".join([*parts, "; or ".join(facts["versions"]), f"finished {days}"])
