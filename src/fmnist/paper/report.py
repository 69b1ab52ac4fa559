"""A report: an ordered list of notebooks with their parameters, executed by papermill and rendered as one paper.

`params/<name>/report.yaml` has title, authors, abstract and the sections; `params/<name>/<notebook>.yaml` the
notebook's parameters. All of it is checked first, then every study's missing runs are trained in one go, then the
notebooks run, and last the executed notebooks become one notebook that the exporters turn into HTML and PDF.
"""

import os
import re
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd

from fmnist import store
from fmnist.beyond import check_parameters
from fmnist.config import RunConfig, UserError, nearest, project_root, read_yaml, validate
from fmnist.paper import failure, prose, provenance
from fmnist.paper.document import values
from fmnist.paper.notebooks import check_parameter, execute, parameters_of
from fmnist.paper.outline import Chapter, Group, ReportSpec
from fmnist.replication_old.choices import Asked, check
from fmnist.replication_old.published import read
from fmnist.search import SEARCH_KEYS, Search
from fmnist.study import Study, StudySpec

STUDY_KEYS = tuple(StudySpec.model_fields)


class Report:
    """A checked report. Raises `UserError` for anything wrong in its folder, before anything is trained."""

    def __init__(self, name: str, device: str = "auto"):
        self.name, self.folder, self.device = name, project_root() / "params" / name, device
        there = sorted(path.parent.name for path in (project_root() / "params").glob("*/report.yaml"))
        if name == "index":
            raise UserError("index: report/index.html lists all reports; take another name")
        if name not in there:
            hint = nearest(name, there) if there else f"; {project_root()} is not in a project that has reports"
            raise UserError(f"params/{name}/report.yaml: no such report{hint}")
        place = f"params/{name}/report.yaml"
        self.spec = validate(ReportSpec, read_yaml(self.folder / "report.yaml"), place)
        Study(base=self.spec.base, seeds=self.spec.seeds, where=place)
        names = self._contents()
        if twice := {notebook for notebook in names if names.count(notebook) > 1}:
            raise UserError(f"{place}: sections: {min(twice)} stands twice; a notebook is executed once")
        self.chapters = [self._chapter(name) for name in names]
        if unused := {p.stem for p in self.folder.glob("*.yaml")} - {"report", "published", *names}:
            raise UserError(f"params/{name}/{min(unused)}.yaml: belongs to no section of report.yaml")
        trials = {name: list(study.trials) for name, study in self.studies.items()}
        self.published = read(self.folder, trials, required="reproduction" in names)

    def _contents(self) -> list[str]:
        """The notebooks' names in the paper's order."""
        return [name for part in self.spec.sections for name in (part.notebooks if isinstance(part, Group) else [part])]

    def _chapter(self, name: str) -> Chapter:
        path, place = project_root() / "notebooks" / f"{name}.ipynb", f"params/{self.name}/{name}.yaml"
        there = sorted(p.stem for p in path.parent.glob("*.ipynb"))
        if name not in there:
            raise UserError(f"params/{self.name}/report.yaml: sections: no notebook {name!r}{nearest(name, there)}")
        defaults = parameters_of(path)
        given = read_yaml(yaml) if (yaml := self.folder / f"{name}.yaml").exists() else {}
        ours = {"report": self.name, "device": self.device}
        for key, value in given.items():
            if key not in defaults:
                hint = nearest(key, [name for name in defaults if name not in ours])
                raise UserError(f"{place}: {key}: notebooks/{name}.ipynb has no such parameter{hint}")
            if key in ours:
                raise UserError(f"{place}: {key}: is set by the command: fmnist report {self.name} --device cpu")
            check_parameter(value, defaults[key], f"{place}: {key}")
        merged = {**defaults, **given, **{key: value for key, value in ours.items() if key in defaults}}
        check_parameters(merged, place)
        if "base" in defaults:
            merged["base"] = {**defaults["base"], **self.spec.base, **given.get("base", {})}
        if set(SEARCH_KEYS) <= set(defaults):
            return Chapter(name, path, merged, Search(**{key: merged[key] for key in SEARCH_KEYS}, where=place))
        if not set(STUDY_KEYS) <= set(defaults):
            return Chapter(name, path, merged, None)
        merged["seeds"] = given.get("seeds", self.spec.seeds)
        study = Study(**{key: merged[key] for key in STUDY_KEYS}, where=place)
        known = list(study.spec.variants or study.trials)
        if (baseline := merged.get("baseline", known[0])) not in known:
            raise UserError(f"{place}: baseline: no trial is called {baseline!r}{nearest(baseline, known)}")
        if {"published", "metric"} <= set(merged):
            check({key: merged[key] for key in Asked.model_fields}, {k: v for k, (v, _) in study.trials.items()}, place)
        return Chapter(name, path, merged, study)

    @cached_property
    def studies(self) -> dict[str, Study]:
        """Notebook → its study, in the paper's order."""
        return {name: study for name, study in self.trained.items() if isinstance(study, Study)}

    @cached_property
    def trained(self) -> dict[str, Study | Search]:
        """Notebook → its study or search, in the paper's order."""
        return {chapter.name: chapter.study for chapter in self.chapters if chapter.study}

    @property
    def configs(self) -> list[RunConfig]:
        """Every run that some study or search wants and that is known beforehand, once."""
        return list({c.run_id: c for study in self.trained.values() for c in study.configs}.values())

    @property
    def built(self) -> Path:
        """Where executed notebooks are kept."""
        return project_root() / "report" / "build" / self.name

    def check_prose(self) -> None:
        """Raises `UserError` that names every notebook and cell with a number typed in (the rule is in `prose`)."""
        place = f"params/{self.name}/report.yaml"
        texts = {"abstract": self.spec.abstract, "notice": self.spec.notice}
        lines = [f"{place}: {key}: {', '.join(found)}" for key, t in texts.items() if (found := prose.typed_in(t))]
        for chapter in self.chapters:
            lines += prose.findings(nbformat.read(chapter.notebook, as_version=4), chapter.name)
        if lines:
            rule = "\nCompute it; or, if it is a setting, write it as $0.1$ or in backticks; or cite where it is from."
            raise UserError("a number in the text that nothing computed:\n" + "\n".join(lines) + rule)

    def execute(
        self, progress=lambda done, total, name: None, keep_going: bool = False
    ) -> dict[str, nbformat.NotebookNode]:
        """Run every notebook, several at a time; raises `UserError` that names each failing notebook, cell and line.

        With `keep_going` a failing notebook is replaced by a marked gap instead, see `failure.gap`.
        """
        (to := self.built).mkdir(parents=True, exist_ok=True)
        problems, done = {}, {}
        pool = ProcessPoolExecutor(min(len(self.chapters), os.cpu_count() or 1), get_context("spawn"))
        try:
            jobs = {pool.submit(execute, c.notebook, c.parameters, to / c.notebook.name): c for c in self.chapters}
            for job in as_completed(jobs):
                name = jobs[job].name
                try:
                    problem = job.result()
                except BrokenProcessPool:
                    problem = "its process was killed, perhaps for want of memory; try again"
                problems |= {name: problem} if problem else {}
                done[name] = True
                progress(len(done), len(jobs), name)
        finally:
            pool.shutdown(cancel_futures=True)  # after Ctrl-C, what has not begun does not begin
        if problems and not keep_going:
            raise UserError("\n".join(f"notebook {name}: {problem}" for name, problem in sorted(problems.items())))
        return {
            c.name: failure.gap(c.notebook, problems[c.name])
            if c.name in problems
            else nbformat.read(self.built / c.notebook.name, as_version=4)
            for c in self.chapters
        }

    def merge(self, executed: dict[str, nbformat.NotebookNode]) -> nbformat.NotebookNode:
        """The executed notebooks as one, with title, authors and abstract in its metadata."""
        paper = nbformat.v4.new_notebook(metadata=dict(next(iter(executed.values())).metadata))
        for section in self.spec.sections:
            if isinstance(section, Group):
                paper.cells.append(nbformat.v4.new_markdown_cell(f"# {section.title} {{#{section.id}}}", id=section.id))
            for name in section.notebooks if isinstance(section, Group) else [section]:
                for cell in provenance.noted(executed[name], name, self.folder).cells:
                    where = {"notebook": name, "cell": cell.id, "shift": int(isinstance(section, Group))}
                    cell.id, cell.metadata["fmnist"] = f"{name}-{cell.id}"[:64], where
                    paper.cells.append(cell)
        about = self.spec.model_dump(include={"title", "authors", "notice", "acknowledgements"})
        if newest := self._newest_run(paper):
            about["timestamp"] = int(newest.timestamp())
        about["date"] = self.spec.date or (f"{newest:%B %-d, %Y}" if newest else "")
        about["gaps"] = failure.gaps(executed)
        about["notice"] = " ".join(filter(None, [about["notice"], failure.notice(about["gaps"])]))
        about["values"] = {name: values(notebook) for name, notebook in executed.items()}
        about["abstract"] = self._filled(self.spec.abstract, about["values"], about["gaps"])
        about["appendix"] = provenance.appendix(paper)
        about["bibliography"] = str(project_root() / "report" / "references.bib")
        paper.metadata["fmnist"] = about
        return paper

    def _filled(self, text: str, known: dict[str, dict[str, Any]], gaps: dict[str, str]) -> str:
        names = [f"{notebook}.{name}" for notebook, recorded in known.items() for name in recorded]

        def value(match: re.Match) -> str:
            if match[1].split(".")[0] in gaps:
                return failure.MISSING
            if match[1] not in names:
                where, hint = f"params/{self.name}/report.yaml: abstract", nearest(match[1], names)
                raise UserError(f"{where}: no notebook recorded {{{match[1]}}}{hint}")
            return str(known[match[1].split(".")[0]][match[1].split(".")[1]])

        return re.sub(r"\{([A-Za-z][\w-]*\.\w+)\}", value, text)

    def _newest_run(self, paper: nbformat.NotebookNode) -> pd.Timestamp | None:
        """When the newest run of the studies, or behind a figure or table, was finished."""
        stored = (store.load(run_id) for run_id in {*(c.run_id for c in self.configs), *provenance.runs(paper)})
        return max((pd.Timestamp(run.record["finished"]) for run in stored if run), default=None)

    def render(self, paper: nbformat.NotebookNode) -> list[Path]:
        """Write report/<name>.html, .pdf, .json and report/index.html, each whole or not at all; their paths."""
        from fmnist.paper.exporters import HomeworkHTML, HomeworkPDF
        from fmnist.paper.landing import landing

        nbformat.write(paper, self.built.with_suffix(".ipynb"))
        metadata = paper.metadata["fmnist"]
        place = {"metadata": {"name": self.name, "path": str(project_root() / "notebooks")}}  # where pictures lie
        about = {key: metadata[key] for key in ("title", "date", "notice", "values", "gaps")}
        about = {"report": self.name, **about, **provenance.record(paper, self.trained)}
        html, pdf = (make().from_notebook_node(paper, place)[0] for make in (HomeworkHTML, HomeworkPDF))
        bodies = {".html": html, ".pdf": pdf, ".json": provenance.written(about)}
        folder = project_root() / "report"
        written = [_write(folder / f"{self.name}{suffix}", body) for suffix, body in bodies.items()]
        return [*written, _write(folder / "index.html", landing(folder))]


def _write(path: Path, body: str | bytes) -> Path:
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(body if isinstance(body, bytes) else body.encode())
    return part.replace(path)


def cached_table(report: str) -> pd.DataFrame:
    """Per study: trials, runs wanted, how many of them an earlier study had trained already, and training time."""
    seen, rows = set(), []
    for name, study in Report(report).trained.items():
        ids = [config.run_id for config in study.configs]
        stored = [run for run_id in ids if (run := store.load(run_id))]
        minutes = sum(run.row()["seconds"] for run in stored if run.run_id not in seen) / 60
        devices, words = ", ".join(sorted({run.record["device"] for run in stored})), name.replace("_", " ")
        rows.append((words, len(study.trials), len(ids), len(seen & set(ids)), f"{minutes:.1f}", devices))
        seen |= set(ids)
    return pd.DataFrame(rows, columns=["Study", "Trials", "Runs", "Trained before", "Minutes", "Device"])
