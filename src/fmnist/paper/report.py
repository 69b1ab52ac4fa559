"""A report: an ordered list of notebooks with their parameters, executed by papermill and rendered as one paper.

`params/<name>/report.yaml` has title, authors, abstract and the sections; `params/<name>/<notebook>.yaml` the
notebook's parameters. All of it is checked first, then everything that the notebooks want is trained, here and in one
go, then the notebooks run, and last the executed notebooks become one that the exporters turn into HTML and PDF.
What a notebook is, its metadata say: `{"fmnist": {"kind": …}}`, one of KINDS.
"""

import ast
import ctypes
import json
import os
import re
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import nbformat
import pandas as pd
from nbformat import NotebookNode, v4
from pydantic import Discriminator, Field, Tag

from fmnist import replication, store
from fmnist.config import (
    RunConfig,
    Strict,
    UserError,
    aside,
    nearest,
    project_root,
    read_yaml,
    validate,
)
from fmnist.paper import prose, provenance
from fmnist.paper.document import Document, heading, values
from fmnist.paper.exporters import TEMPLATES, HomeworkHTML, HomeworkPDF, write_page
from fmnist.search import SEARCH_KEYS, Search
from fmnist.study import Study, StudySpec, train
from fmnist.words import joined

KINDS = ("study", "choices", "search", "replication", "beyond", "text")
STUDY_KEYS = tuple(StudySpec.model_fields)
STARTS_WITHIN = 600  # seconds for a kernel to answer: on a loaded machine the usual 60 are too few
MISSING = "**[missing]**"  # in the abstract, for what a notebook that failed would have recorded


class Author(Strict):
    name: str
    affiliation: str = ""
    email: str = ""


class Group(Strict):
    """A section of the paper made of several notebooks, each a subsection."""

    title: str
    id: str = Field(pattern=r"^sec-[a-z0-9-]+$")
    notebooks: list[str] = Field(min_length=1)


Section = Annotated[  # a notebook's name or a group of them; told apart so that messages speak of one of the two
    Annotated[str, Tag("notebook")] | Annotated[Group, Tag("group")],
    Discriminator(lambda value: "group" if isinstance(value, dict | Group) else "notebook"),
]


class ReportSpec(Strict):
    """report.yaml. `{notebook.name}` in the abstract is what that notebook recorded under that name."""

    title: str
    authors: list[Author]
    date: str = ""  # empty: the day on which the newest run was finished
    abstract: str
    notice: str = ""  # for the first page, such as "this is a smoke run"
    acknowledgements: str = ""
    base: dict[str, Any] = {}  # for every study, under what its own YAML says
    seeds: list[int] = [0]
    sections: list[Section] = Field(min_length=1)


@dataclass(frozen=True)
class Chapter:
    """One notebook of a report with the parameters it will be executed with."""

    name: str
    path: Path
    kind: str
    source: NotebookNode
    parameters: dict[str, Any]
    study: Study | Search | None

    def contents(self) -> dict[str, Any]:
        """What other notebooks of the report may know of it."""
        first = self.source.cells[0].source if self.source.cells else ""
        label = re.match(r"#.*\{#(sec-[\w-]+)\}", first)
        study = self.study.study if self.kind == "search" else self.study if self.kind != "beyond" else None
        about = {"notebook": self.name, "title": heading(first, self.name)[0], "label": label[1] if label else ""}
        about |= {"kind": self.kind, "question": self.source.metadata.get("fmnist", {}).get("question", "")}
        return about | {"study": study and study.spec.model_dump(mode="json")}


class Report:
    """A checked report. Raises `UserError` for anything wrong in its folder, before anything is trained."""

    def __init__(self, name: str, device: str = "auto"):
        self.name, self.folder, self.device = name, project_root() / "params" / name, device
        self.built = project_root() / "report" / "build" / name  # where executed notebooks are kept
        there = sorted(path.parent.name for path in (project_root() / "params").glob("*/report.yaml"))
        if name not in there or name == "index":  # which is the page that lists all reports
            hint = nearest(name, there) if there else f"; {project_root()} is not in a project that has reports"
            raise UserError(f"params/{name}/report.yaml: no such report{hint}")
        place = f"params/{name}/report.yaml"
        self.spec = validate(ReportSpec, read_yaml(self.folder / "report.yaml"), place)
        Study(base=self.spec.base, seeds=self.spec.seeds, where=place)
        names = [n for part in self.spec.sections for n in (part.notebooks if isinstance(part, Group) else [part])]
        if twice := {notebook for notebook in names if names.count(notebook) > 1}:
            raise UserError(f"{place}: sections: {min(twice)} stands twice; a notebook is executed once")
        self.chapters = [self._chapter(notebook) for notebook in names]
        if unused := {p.stem for p in self.folder.glob("*.yaml")} - {"report", "published", *names}:
            raise UserError(f"params/{name}/{min(unused)}.yaml: belongs to no section of report.yaml")
        self.trained = {c.name: c.study for c in self.chapters if c.kind in ("study", "choices", "search")}
        self.later: dict[str, Study] = {}  # notebook → what it wants beyond `trained`, known once that is trained
        settings = {c.name: c.study.settings() for c in self.chapters if c.kind in ("study", "choices")}
        replication.read(self.folder, settings, required="replication" in [chapter.kind for chapter in self.chapters])

    def _chapter(self, name: str) -> Chapter:
        path, place = project_root() / "notebooks" / f"{name}.ipynb", f"params/{self.name}/{name}.yaml"
        there = sorted(p.stem for p in path.parent.glob("*.ipynb"))
        if name not in there:
            raise UserError(f"params/{self.name}/report.yaml: sections: no notebook {name!r}{nearest(name, there)}")
        source = _notebook(path)
        kind = source.metadata.get("fmnist", {}).get("kind", "text")
        if kind not in KINDS:
            raise UserError(f"notebooks/{name}.ipynb: kind {kind!r} is for no report{nearest(str(kind), list(KINDS))}")
        parameters = self._parameters(name, _defaults(source, path))
        keys = SEARCH_KEYS if kind == "search" else STUDY_KEYS if kind in ("study", "choices", "beyond") else ()
        if lacking := [key for key in keys if key not in parameters]:
            raise UserError(f"notebooks/{name}.ipynb: is of kind {kind} and has no parameter {lacking[0]}")
        parts = {key: parameters[key] for key in keys}
        study = Search(**parts, where=place) if kind == "search" else Study(**parts, where=place) if parts else None
        if isinstance(study, Study):
            known = list(study.spec.variants or study.trials)
            if (baseline := parameters.get("baseline", known[0])) not in known:
                raise UserError(f"{place}: baseline: no trial is called {baseline!r}{nearest(baseline, known)}")
        if kind == "choices":
            replication.check_choices(parameters["published"], parameters["metric"], study.settings(), place)
        return Chapter(name, path, kind, source, parameters, study)

    def _parameters(self, name: str, defaults: dict[str, Any]) -> dict[str, Any]:
        """What a notebook is executed with: its defaults, under its YAML, under what the report says."""
        place = f"params/{self.name}/{name}.yaml"
        given = read_yaml(path) if (path := self.folder / f"{name}.yaml").exists() else {}
        ours = {"contents": str(self.built / "contents.json"), "device": self.device}
        for key, value in given.items():
            if key not in defaults:
                hint = nearest(key, [name for name in defaults if name not in ours])
                raise UserError(f"{place}: {key}: notebooks/{name}.ipynb has no such parameter{hint}")
            if key in ours:
                raise UserError(f"{place}: {key}: is set by the command: fmnist report {self.name} --device cpu")
            _check_type(value, defaults[key], f"{place}: {key}")
        merged = {**defaults, **given, **{key: value for key, value in ours.items() if key in defaults}}
        if "base" in defaults:
            merged["base"] = {**defaults["base"], **self.spec.base, **given.get("base", {})}
        if "seeds" in defaults:
            merged["seeds"] = given.get("seeds", self.spec.seeds)
        return merged

    @property
    def configs(self) -> list[RunConfig]:
        """Every run that some study or search wants and that is known beforehand, once."""
        return list({c.run_id: c for study in self.trained.values() for c in study.configs}.values())

    def check_prose(self) -> None:
        """Raises `UserError` that names every notebook and cell with a number typed in (the rule is in `prose`)."""
        place = f"params/{self.name}/report.yaml"
        texts = {"abstract": self.spec.abstract, "notice": self.spec.notice}
        lines = [f"{place}: {key}: {', '.join(found)}" for key, t in texts.items() if (found := prose.typed_in(t))]
        lines += [line for chapter in self.chapters for line in prose.findings(chapter.source, chapter.name)]
        if lines:
            rule = "\nCompute it; or, if it is a setting, write it as $0.1$ or in backticks; or cite where it is from."
            raise UserError("a number in the text that nothing computed:\n" + "\n".join(lines) + rule)

    def train(self, memory: int | None = None) -> None:
        """Train all that the notebooks want and write for them what the report contains.

        First what is known beforehand; then a search's rounds and finalists, and networks on data that may be lacking.
        """
        from fmnist.data import lacking

        train(self.configs, self.device, memory)
        for chapter in self.chapters:
            if chapter.kind == "search":
                search = chapter.study.run(self.device, memory)
                finalists = search.finalists(chapter.parameters["finalists"])
                self.later[chapter.name] = search.again(finalists, chapter.parameters["again"])
            elif chapter.kind == "beyond" and not lacking(chapter.study.configs[0].dataset):
                self.later[chapter.name] = chapter.study
        train([config for study in self.later.values() for config in study.configs], self.device, memory)
        published = self.folder / "published.yaml"
        contents = {"report": self.name, "folder": str(self.folder), "base": self.spec.base}
        contents |= {"sections": [chapter.contents() for chapter in self.chapters]}
        contents |= {"published": read_yaml(published) if published.exists() else None}
        _write(self.built / "contents.json", json.dumps(contents, indent=1))

    def execute(self, say: Callable[[str], None]) -> dict[str, NotebookNode]:
        """Run every notebook, several at a time; those that fail are gaps, with what went wrong in their metadata."""
        codes = {chapter.name: provenance.code(chapter.name, self.folder) for chapter in self.chapters}
        problems: dict[str, str] = {}
        pool = ProcessPoolExecutor(min(len(codes), os.cpu_count() or 1), get_context("spawn"), _follow_parent)
        try:
            jobs = {
                pool.submit(_execute, c.path, c.parameters, self.built / c.path.name): c.name for c in self.chapters
            }
            for done, job in enumerate(as_completed(jobs), 1):
                try:
                    problems[jobs[job]] = job.result()
                except BrokenProcessPool:
                    problems[jobs[job]] = "its process was killed, perhaps for want of memory; try again"
                say(f"  {done} of {len(jobs)}: {jobs[job]}")
        finally:
            pool.shutdown(cancel_futures=True)  # after Ctrl-C, what has not begun does not begin
        executed = {}
        for chapter in self.chapters:
            target, problem = self.built / chapter.path.name, problems[chapter.name]
            executed[chapter.name] = _gap(chapter, problem) if problem else nbformat.read(target, as_version=4)
            executed[chapter.name].metadata["code"] = codes[chapter.name]
        return executed

    def merge(self, executed: dict[str, NotebookNode]) -> NotebookNode:
        """The executed notebooks as one, with title, authors and abstract in its metadata."""
        provenance.note(executed, self.folder)
        first = next(iter(executed.values())).metadata
        paper = v4.new_notebook(metadata={key: first[key] for key in ("kernelspec", "language_info") if key in first})
        for section in self.spec.sections:
            if isinstance(section, Group):
                paper.cells.append(v4.new_markdown_cell(f"# {section.title} {{#{section.id}}}", id=section.id))
            for name in section.notebooks if isinstance(section, Group) else [section]:
                for cell in executed[name].cells:
                    where = {"notebook": name, "cell": cell.id, "shift": int(isinstance(section, Group))}
                    cell.id, cell.metadata["fmnist"] = f"{name}-{cell.id}"[:64], where
                    paper.cells.append(cell)
        about = self.spec.model_dump(include={"title", "authors", "notice", "acknowledgements"})
        run_ids = {*(config.run_id for config in self.configs), *provenance.runs([paper])}
        newest = max((run.record["finished"] for run_id in run_ids if (run := store.load(run_id))), default="")
        day = pd.Timestamp(newest) if newest else None
        about |= {"timestamp": int(day.timestamp())} if day else {}
        about["date"] = self.spec.date or (f"{day:%B %-d, %Y}" if day else "")
        about["gaps"] = gaps(executed)
        if about["gaps"]:
            names = joined([f"`{name}`" for name in about["gaps"]])
            lost = f"**This paper is incomplete.** Missing, because its notebook failed: {names}."
            about["notice"] = f"{about['notice']} {lost}".strip()
        about["values"] = {name: values(notebook) for name, notebook in executed.items()}
        about["abstract"] = self._filled(self.spec.abstract, about["values"], about["gaps"])
        about["appendix"] = provenance.appendix(paper.cells)
        about["bibliography"] = str(project_root() / "report" / "references.bib")
        paper.metadata["fmnist"] = about
        return paper

    def _filled(self, text: str, known: dict[str, dict[str, Any]], missing: dict[str, str]) -> str:
        found = {f"{notebook}.{name}": str(value) for notebook, named in known.items() for name, value in named.items()}

        def value(match: re.Match) -> str:
            if match[1].split(".")[0] in missing:
                return MISSING
            if match[1] not in found:
                where, hint = f"params/{self.name}/report.yaml: abstract", nearest(match[1], list(found))
                raise UserError(f"{where}: no notebook recorded {{{match[1]}}}{hint}")
            return found[match[1]]

        return re.sub(r"\{([A-Za-z][\w-]*\.\w+)\}", value, text)

    def render(self, paper: NotebookNode) -> list[Path]:
        """Write report/<name>.html, .pdf, .json and report/index.html, each whole or not at all; their paths."""
        folder, metadata = project_root() / "report", paper.metadata["fmnist"]
        _write(self.built.with_suffix(".ipynb"), nbformat.writes(paper))
        place = {"metadata": {"name": self.name, "path": str(project_root() / "notebooks")}}  # where pictures lie
        trials: dict[str, dict[str, str]] = {}
        for name, study in [*self.trained.items(), *self.later.items()]:
            for trial, (_, configs) in study.trials.items():
                for config in configs:
                    trials.setdefault(config.run_id, {})[name] = trial
        about = {key: metadata[key] for key in ("title", "date", "notice", "values", "gaps")}
        about = {"report": self.name, **about, **provenance.record(paper.cells, trials)}
        bodies = {suffix: make().from_notebook_node(paper, place)[0]
                  for suffix, make in ((".html", HomeworkHTML), (".pdf", HomeworkPDF))}  # fmt: skip
        bodies[".json"] = provenance.written(about)
        written = [_write(folder / f"{self.name}{suffix}", body) for suffix, body in bodies.items()]
        return [*written, _write(folder / "index.html", index(folder))]


def build(
    names: Sequence[str],
    device: str = "auto",
    memory: int | None = None,
    keep_going: bool = False,
    say: Callable[[str], None] = print,
) -> bool:
    """Train, execute and render reports; whether a section is missing, which only `keep_going` allows.

    Raises `UserError` for whatever is wrong in any of them before training, and for notebooks that fail.
    """
    reports = [Report(name, device) for name in names]
    for report in reports:
        report.check_prose()
    incomplete = False
    for number, report in enumerate(reports, 1):
        start = time.perf_counter()
        if len(reports) > 1:
            say(f"report {number} of {len(reports)}: {report.name}")
        _write(report.built / ".probe", "").unlink()
        there = sum(store.load(config.run_id) is not None for config in report.configs)
        wanted = len(report.configs)
        say(f"{wanted} runs: {there} in the store, {wanted - there} to train on {device}")
        report.train(memory)
        say(f"executing {len(report.chapters)} notebooks")
        executed = report.execute(say)
        missing = gaps(executed)
        if missing and not keep_going:
            raise UserError("\n".join(f"notebook {name}: {problem}" for name, problem in sorted(missing.items())))
        for name, problem in missing.items():
            say(f"notebook {name} failed, and the paper has a gap: {problem}")
        for path in report.render(report.merge(executed)):
            say(f"wrote {path.relative_to(project_root())} ({path.stat().st_size / 1e6:.1f} MB)")
        say(f"{report.name}: {time.perf_counter() - start:.0f} s")
        incomplete |= bool(missing)
    return incomplete


def gaps(executed: dict[str, NotebookNode]) -> dict[str, str]:
    """Notebooks that failed → why."""
    return {name: notebook.metadata["gap"] for name, notebook in executed.items() if "gap" in notebook.metadata}


def index(folder: Path) -> str:
    """The page that lists the papers in `folder`, by title: report/index.html."""
    papers = []
    for name in {path.stem for form in ("html", "pdf") for path in folder.glob(f"*.{form}")} - {"index"}:
        about: dict[str, Any] = {}
        with suppress(OSError, ValueError, AttributeError):
            found = json.loads((folder / f"{name}.json").read_text("utf-8"))
            about = {key: escape(found.get(key, ""), quote=False) for key in ("date", "title")}
        forms = {form: f"{name}.{form}" for form in ("html", "pdf") if (folder / f"{name}.{form}").exists()}
        papers.append({"title": name} | {key: text for key, text in about.items() if text} | forms)
    page = Document({"title": "Reports", "lang": "en", "reports": sorted(papers, key=lambda paper: paper["title"])})
    with TemporaryDirectory() as place:
        page.write(Path(place))
        return write_page(Path(place), "index.html")


def new(name: str, title: str, author: str) -> Path:
    """Make params/`name`, a report of one's own to edit, from templates/new; raises `UserError` where it cannot."""
    folder = project_root() / "params" / name
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", name) or name == "index":
        raise UserError(f"{name!r}: a report's name is lower-case letters, digits and hyphens, and not index")
    if not folder.parent.is_dir():
        raise UserError(f"{project_root()} is not in a project: there is no folder params/")
    if folder.exists():
        raise UserError(f"params/{name} is there already; take another name, or edit what is in it")
    about = {key: json.dumps(text, ensure_ascii=False) for key, text in (("title", title), ("author", author))}
    with aside(folder) as part:
        part.mkdir()
        for template in sorted((TEMPLATES / "new").glob("*.yaml")):
            (part / template.name).write_text(template.read_text("utf-8").format(name=name, **about), encoding="utf-8")
    return folder


def _notebook(path: Path) -> NotebookNode:
    try:
        source = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    except Exception as error:  # no JSON, no notebook: nbformat has no one class for them
        raise UserError(f"{path}: not a notebook that can be executed: {error}") from None
    if source.get("nbformat_minor", 0) < 5:
        raise UserError(f"{path}: its cells have no ids to refer to; open it in JupyterLab and save it")
    return source


def _defaults(source: NotebookNode, path: Path) -> dict[str, Any]:
    """Names and default values in the cell tagged `parameters`."""
    cells = [cell.source for cell in source.cells if "parameters" in cell.metadata.get("tags", [])]
    if cells and "kernelspec" not in source.metadata:
        raise UserError(
            f"{path}: not a notebook that can be executed: No kernel name; open it in JupyterLab and save it"
        )
    try:
        lines = [node for cell in cells for node in ast.parse(cell).body]
        named = [(t.id, node.value) for node in lines for t in node.targets if isinstance(t, ast.Name)]
        return {name: ast.literal_eval(value) for name, value in named}
    except (ValueError, SyntaxError, AttributeError):
        raise UserError(f"{path}: its parameters cell must hold literals only, one name a line") from None


def _check_type(value: Any, default: Any, where: str) -> None:
    """Raises `UserError` unless `value` has the type of the notebook's default; a whole number is a float, too."""
    allowed = (int, float) if type(default) is float else (type(default),)
    if type(value) not in allowed:
        kind = {dict: "keys with values", list: "a list", str: "text", bool: "true or false", int: "a whole number"}
        example = textwrap.shorten(repr(default), 60, placeholder=" …")
        raise UserError(f"{where}: should be {kind.get(type(default), 'a number')}, such as {example} (got {value!r})")


def _follow_parent() -> None:
    """In a process that executes notebooks: end when the command is killed (Linux); then its kernel ends, too."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _execute(notebook: Path, parameters: dict[str, Any], target: Path) -> str:
    """Run a notebook in a kernel of its own and keep it as `target`; returns what went wrong, "" if nothing did."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    os.environ |= {"FMNIST_READ_ONLY": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    with target.with_suffix(".log").open("w") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())  # what the kernel prints, kept from the terminal
    options = {"kernel_name": "python3", "cwd": str(notebook.parent), "progress_bar": False, "log_output": False}
    for attempt in (1, 2):
        try:
            papermill.execute_notebook(str(notebook), str(target), parameters, start_timeout=STARTS_WITHIN, **options)
            return ""
        except KeyboardInterrupt:
            return "interrupted"
        except PapermillExecutionError as error:
            plain = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
            arrow = re.search(r"^-+> ?(\d+) (.*)$", plain, flags=re.M)  # the first frame is the notebook's own
            line = f", line {arrow[1]}: {arrow[2].strip()}" if arrow else ""
            problem = f"cell {_number(notebook, error.cell_index)}{line}: {error.ename}: {error.evalue}"
        except Exception as error:
            problem = f"the kernel failed: {type(error).__name__}: {error}"
            if isinstance(error, RuntimeError) and not isinstance(error, DeadKernelError) and attempt == 1:
                continue  # it died as it started
        break
    return f"{problem}\n  see it:   {target}\n  mend it:  jupyter lab {notebook}"


def _number(notebook: Path, index: int) -> int:
    """Number of a cell, from 1, in the notebook as it was before papermill put the given parameters in."""
    cells = nbformat.read(notebook, as_version=4).cells
    tagged = [i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", [])]
    return index if tagged and index > tagged[0] else index + 1


def _gap(chapter: Chapter, problem: str) -> NotebookNode:
    """What stands in for a notebook that failed: its heading, that it is missing, and the first line of why."""
    about = chapter.contents()
    title = f"# {about['title']}" + f" {{#{about['label']}}}" * bool(about["label"])
    text = f"{title}\n\n**This section is missing**: its notebook, `{chapter.path.name}`, failed."
    error = v4.new_output("error", ename="", evalue="", traceback=problem.splitlines()[:1])
    cells = [v4.new_markdown_cell(text, id="title"), v4.new_code_cell("", id="gap", outputs=[error])]
    return v4.new_notebook(cells=cells, metadata={**chapter.source.metadata, "gap": problem})


def _write(path: Path, body: str | bytes) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside(path) as part:
            part.write_bytes(body if isinstance(body, bytes) else body.encode())
    except OSError as error:
        place = path.parent.relative_to(project_root())
        raise UserError(f"{place}: the report cannot be written here: {error.strerror or error}") from None
    return path
