"""A report: an ordered list of notebooks with their parameters, executed by papermill and rendered as one paper.

All of `params/<name>/` is checked first; then everything that the notebooks want is trained, here and in one go; then
the notebooks run; and last the executed notebooks become one, which the exporters turn into HTML and PDF.
"""

import ast
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import nbformat
import pandas as pd
import papermill
from filelock import FileLock, Timeout
from nbformat import NotebookNode, v4
from pydantic import BeforeValidator, Field, create_model

from fmnist import replication, store
from fmnist.config import Strict, UserError, apart, aside, follow_parent, nearest, project_root, read_yaml, validate
from fmnist.paper import prose, provenance
from fmnist.paper.exporters import TEMPLATES, HomeworkHTML, HomeworkPDF, marks, values
from fmnist.search import Search, SearchSpec
from fmnist.statistics import best_per
from fmnist.study import Study, StudySpec, train
from fmnist.words import differing, joined

KINDS = {"text": Strict, "replication": Strict, "search": SearchSpec}  # as metadata {"fmnist": {"kind": …}} say
KINDS |= dict.fromkeys(["study", "recipe", "beyond"], StudySpec)
Say = Callable[[str], None]


class Author(Strict):
    name: str
    affiliation: str = ""
    email: Annotated[str, Field(pattern=r"^([^\s@<>]+@[^\s@<>]+)?$")] = ""


class Section(Strict):
    """Notebooks, each a subsection; in report.yaml a notebook's bare name is one without a title."""

    title: str = ""
    id: str = Field("sec-group", pattern=r"^sec-[a-z0-9-]+$")
    notebooks: list[str] = Field(min_length=1)


NamedSection = Annotated[Section, BeforeValidator(lambda s: s if isinstance(s, dict) else {"notebooks": [s]})]


class ReportSpec(Strict):
    """report.yaml. `{notebook.name}` in the abstract is what that notebook recorded under that name."""

    title: str
    authors: list[Author]
    date: str = ""  # empty: the day on which the newest run was finished
    abstract: str
    notice: str = ""  # for the first page, such as "this is a smoke run"
    found: list[str] = []  # what was found, a line each, filled in like the abstract
    acknowledgements: str = ""
    base: dict[str, Any] = {}  # for every study, under what its own YAML says
    seeds: list[int] = [0]
    sections: list[NamedSection] = Field(min_length=1)


class Chapter:
    """One notebook of a report with the parameters it will be executed with, and its study or search if it has one."""

    def __init__(self, report: "Report", name: str):
        self.name, self.path = name, project_root() / "notebooks" / f"{name}.ipynb"
        there = sorted(path.stem for path in self.path.parent.glob("*.ipynb"))
        _check_name(name, there, f"params/{report.name}/report.yaml: sections: no notebook {name!r}")
        self.source, defaults = _notebook(self.path)
        self.kind = kind = self.source.metadata.get("fmnist", {}).get("kind", "text")
        _check_name(kind, KINDS, f"notebooks/{name}.ipynb: metadata fmnist: kind {kind!r} is for no report")
        if kind == "text" and "base" in defaults:
            raise UserError(f"notebooks/{name}.ipynb: metadata fmnist: its kind is missing, such as study")
        self.parameters, place = report.parameters(name, defaults), f"params/{report.name}/{name}.yaml"
        parts = {key: self.parameters[key] for key in KINDS[kind].model_fields if key in self.parameters}
        asks = Search if kind == "search" else Study
        self.study = asks(**parts, where=place) if KINDS[kind] is not Strict else None
        if self.parameters.get("tuning"):
            first = slice(self.parameters["tuning"])
            self.study = Study(**parts | {"seeds": parts["seeds"][first]}, where=place)
        if isinstance(self.study, Study) and self.parameters.get("baseline"):
            known, baseline = self.study.spec.variants or self.study.trials, self.parameters["baseline"]
            if baseline not in self.study.trials:  # then it is a variant, with what is selected for it
                _check_name(baseline, known, f"{place}: baseline: no trial is called {baseline!r}")

    def later(self, *options) -> Study | None:
        """What is wanted beyond `study`, known once that is trained; or on data that may be lacking."""
        from fmnist.data import lacking

        if self.kind == "search":
            return self.study.run(*options).again(*map(self.parameters.get, ("finalists", "again", "final_epochs")))
        if self.kind == "beyond":
            return None if lacking(self.study.configs[0].dataset) else self.study
        tuned = self.kind == "study" and self.parameters.get("tuning")
        return self.study.again(self.parameters["seeds"], self.parameters["baseline"]) if tuned else None

    def contents(self, later: Study | None) -> dict[str, Any]:
        """What other notebooks of the report may know of it; `study` is what is shown, `tuning` came before it."""
        title = re.match(r"#* *(.*?) *(?:<!--.*|\{#.*)?$", self.source.cells[0].source, re.M)[1]
        study = getattr(self.study, "study", self.study) if self.kind != "beyond" else None  # a search has one
        tuning, baseline, same = None, self.parameters.get("baseline", ""), []
        if self.kind in ("study", "recipe"):
            tuning, study = (study, later) if later else (None, study)
            same = list(study.spec.grid) if study.spec.variants else []
            if baseline not in study.trials:  # a variant stands for its selected trial, and so do the others
                baseline, same = best_per(study.settled()).get(baseline, baseline), []
        contents = {"notebook": self.name, "title": title, "kind": self.kind, "baseline": baseline}
        study, tuning = (each and each.spec.model_dump(mode="json") for each in (study, tuning))
        return contents | {"study": study, "tuning": tuning, "same": same}


class Report:
    """A checked report. Raises `UserError` for anything wrong in its folder, before anything is trained."""

    def __init__(self, name: str, device: str = "auto", cluster: str = ""):
        from fmnist.engine.workers import resolve_device

        self.name, self.folder, self.cluster = name, project_root() / "params" / name, cluster
        self.device = device if cluster else str(resolve_device(device))  # a cluster's workers each resolve it
        self.built = project_root() / "report" / "build" / name  # where executed notebooks are kept
        place = f"params/{name}/report.yaml"
        there = sorted(path.parent.name for path in (project_root() / "params").glob("*/report.yaml"))
        _check_name(name, there, f"{place}: no such report in {project_root()}")
        self.spec = validate(ReportSpec, read_yaml(self.folder / "report.yaml"), place)
        Study(self.spec.base, seeds=self.spec.seeds, where=place)
        names = [notebook for section in self.spec.sections for notebook in section.notebooks]
        if len({*names}) < len(names):
            raise UserError(f"{place}: sections: {max(names, key=names.count)} stands twice; it is executed once")
        if unused := {p.stem for p in self.folder.glob("*.yaml")} - {"report", "published", *names}:
            raise UserError(f"params/{name}/{min(unused)}.yaml: belongs to no section of report.yaml")
        self.chapters = [Chapter(self, notebook) for notebook in names]
        self.trained = {c.name: c.study for c in self.chapters if c.study and c.kind != "beyond"}
        self.later: dict[str, Study] = {}  # notebook → what it wants beyond `trained`, known once that is trained
        self._read_published()

    def _read_published(self) -> None:
        """Check published.yaml, if there is one; what infers the unsaid from it becomes a study of its chapter."""
        asking = [chapter for chapter in self.chapters if chapter.kind == "replication"]
        studies = {c.name: c.study for c in self.chapters if c.kind in ("study", "recipe")}
        settings = {name: study.settings() for name, study in studies.items()}
        there = asking or (self.folder / "published.yaml").exists()
        self.published = published = replication.read(self.folder, settings) if there else None
        for chapter in asking:
            place, unsaid = f"params/{self.name}/{chapter.name}.yaml", chapter.parameters["unsaid"]
            if unsaid:
                _, variants = replication.protocols(published, studies, unsaid, place)
                chapter.study = Study({}, variants, {}, chapter.parameters["fit_seeds"], place)
                self.trained[chapter.name] = chapter.study

    def parameters(self, name: str, defaults: dict[str, Any]) -> dict[str, Any]:
        """What a notebook is executed with: its defaults, under its YAML, under what the report says."""
        ours = {"contents": f"report/build/{self.name}/contents.json", "device": self.device}
        given = read_yaml(path) if (path := self.folder / f"{name}.yaml").exists() else {}
        fields = {key: (type(value), value) for key, value in defaults.items() if key not in ours}
        validate(create_model(name, __base__=Strict, **fields), given, f"params/{self.name}/{name}.yaml")
        ours["base"] = defaults.get("base", {}) | self.spec.base | given.get("base", {})
        ours["seeds"] = given.get("seeds", self.spec.seeds)
        return defaults | given | {key: value for key, value in ours.items() if key in defaults}

    def check_prose(self) -> None:
        """Raises `UserError` that names every notebook and cell with a number typed in (the rule is in `prose`)."""
        texts = {"abstract": self.spec.abstract, "notice": self.spec.notice, "found": "\n\n".join(self.spec.found)}
        texts = {f"report.yaml: {key}": text for key, text in texts.items()}
        texts |= {path.name: path.read_text("utf-8") for path in sorted(self.folder.glob("*.md"))}
        found = {f"params/{self.name}/{place}": prose.typed_in(text) for place, text in texts.items()}
        lines = [f"{place}: {', '.join(numbers)}" for place, numbers in found.items() if numbers]
        lines += [line for chapter in self.chapters for line in prose.findings(chapter.source, chapter.name)]
        if lines:
            rule = "Compute it; or, if it is a setting, write it as $0.1$ or in backticks; or cite where it is from."
            raise UserError("\n".join(["a number in the text that nothing computed:", *lines, rule]))

    def train(self, memory: int | None, say: Say, only: str = "") -> None:
        """Train all that the notebooks want, or `only` one of them."""
        chapters = [chapter for chapter in self.chapters if only in ("", chapter.name)]
        configs = [c for chapter in chapters if chapter.name in self.trained for c in chapter.study.configs]
        found = [store.load(run_id, whole=True) for run_id in {config.run_id for config in configs}]
        wanted, there = len(found), sum(run is not None for run in found)
        where, options = self.cluster or self.device, (self.device, memory, self.cluster)
        say(f"{self.name}: {wanted} runs: {there} in the store, {wanted - there} to train on {where}")
        train(configs, *options, self._names)
        self.later = {chapter.name: study for chapter in chapters if (study := chapter.later(*options))}
        train([config for study in self.later.values() for config in study.configs], *options, self._names)

    @property
    def _studies(self) -> list[tuple[str, Study]]:
        """Each with its notebook's name; that of a search, where this is one."""
        return [(n, getattr(each, "study", each)) for n, each in [*self.trained.items(), *self.later.items()]]

    @property
    def _names(self) -> dict[str, str]:
        """Run id → what a cluster's dashboard calls it."""
        return {run_id: trial for name, study in self._studies for run_id, trial in study.names(f"{name}: ").items()}

    def execute(self, say: Say) -> dict[str, NotebookNode]:
        """Run every notebook, several at a time; those that fail are gaps, with what went wrong in their metadata."""
        from fmnist.engine import workers

        workers.processes.cache_clear()  # they end, and with them a gigabyte is free
        contents = {"base": self.spec.base, "sections": [c.contents(self.later.get(c.name)) for c in self.chapters]}
        contents["published"] = self.published and self.published.model_dump(mode="json", exclude_unset=True)
        _write(self.built / "contents.json", json.dumps(contents, indent=1))
        pool = ProcessPoolExecutor(None, get_context("spawn"), _begin, [self.built / "kernels.log"])
        try:
            with apart():
                jobs = {pool.submit(_execute, c.path, c.parameters, self.built / c.path.name): c for c in self.chapters}
            for done, job in enumerate(as_completed(jobs), 1):
                say(f"  {done} of {len(jobs)}: {jobs[job].name}")
        finally:
            pool.shutdown(cancel_futures=True)  # after Ctrl-C, what has not begun does not begin
        executed = {}
        for job, chapter in jobs.items():
            target, error = self.built / chapter.path.name, job.exception()
            if isinstance(error, OSError):  # such as a full disk, which no notebook can mend
                raise UserError(f"{self.built}: notebooks cannot be kept here: {error.strerror or error}")
            executed[chapter.name] = _gap(chapter, target, error) if error else nbformat.read(target, as_version=4)
        return executed

    def merge(self, executed: dict[str, NotebookNode]) -> NotebookNode:
        """The executed notebooks as one, with title, authors and abstract in its metadata."""
        provenance.note(executed, self.folder)
        paper = v4.new_notebook()
        for section in self.spec.sections:
            if section.title:
                paper.cells.append(v4.new_markdown_cell(f"# {section.title} {{#{section.id}}}", id=section.id))
            for name in section.notebooks:
                for cell in self._told(name, executed[name].cells):
                    where = {"notebook": name, "cell": cell.id, "shift": int(bool(section.title))}
                    cell.id, cell.metadata["fmnist"] = f"{name}-{cell.id}"[:64], where
                    paper.cells.append(cell)
        about = self.spec.model_dump(include={"title", "authors", "date", "notice", "acknowledgements"})
        if finished := [mark["facts"]["finished"][1] for mark in marks(paper.cells) if mark["facts"]]:
            newest = pd.Timestamp(max(finished))
            about |= {"timestamp": int(newest.timestamp()), "date": self.spec.date or f"{newest:%B %-d, %Y}"}
        about["gaps"] = {name: each.metadata["gap"] for name, each in executed.items() if "gap" in each.metadata}
        if about["gaps"]:
            lost = joined([f"`{name}`" for name in about["gaps"]])
            about["notice"] += f" **This paper is incomplete.** Missing, because its notebook failed: {lost}."
        about["values"] = {name: values(notebook) for name, notebook in executed.items()}
        about["abstract"] = self._filled("abstract", self.spec.abstract, about)
        about["found"] = [self._filled("found", line, about) for line in self.spec.found]
        about["appendix"] = provenance.appendix(paper.cells)
        paper.metadata["fmnist"] = about
        return paper

    def _told(self, name: str, cells: list[NotebookNode]) -> list[NotebookNode]:
        """The cells of a notebook that this report wants: none on what it does not vary, and its remarks."""
        varied = {field for _, study in self._studies for field in differing(study.configs)}
        varied |= {f"{f}={getattr(c, f)}" for f in varied for _, study in self._studies for c in study.configs}
        kept = [c for c in cells if not varied or varied & {*c.metadata.get("fmnist", {}).get("varies", varied)}]
        own = [v4.new_markdown_cell(p.read_text("utf-8"), id="remarks") for p in self.folder.glob(f"{name}.md")]
        return kept[:1] + own + kept[1:]

    def _filled(self, key: str, text: str, about: dict[str, Any]) -> str:
        named = about["values"].items()
        known = {f"{notebook}.{key}": str(value) for notebook, values in named for key, value in values.items()}
        for name in re.findall(r"\{([A-Za-z][\w-]*\.\w+)\}", text):
            if name.split(".")[0] not in about["gaps"]:
                _check_name(name, known, f"params/{self.name}/report.yaml: {key}: no notebook recorded {{{name}}}")
            text = text.replace(f"{{{name}}}", known.get(name, "**[missing]**"))
        return text

    def render(self, paper: NotebookNode) -> list[Path]:
        """Write report/<name>.html, .pdf, .json and report/index.html, each whole or not at all; their paths."""
        folder, metadata = project_root() / "report", paper.metadata["fmnist"]
        trials: dict[str, dict[str, str]] = {}
        for name, study in self._studies:
            for run_id, trial in study.names().items():
                trials.setdefault(run_id, {})[name] = trial
        shown = ("title", "date", "notice", "found", "values", "gaps")
        about = {"report": self.name} | {key: metadata[key] for key in shown}
        place = {"metadata": {"name": self.name, "path": f"{project_root()}/notebooks"}}  # where pictures lie
        html, pdf = (form().from_notebook_node(paper, place)[0] for form in (HomeworkHTML, HomeworkPDF))
        bodies = {"html": html, "pdf": pdf, "json": provenance.written(about | provenance.record(paper.cells, trials))}
        written = [_write(folder / f"{self.name}.{suffix}", body) for suffix, body in bodies.items()]
        return [*written, _write(folder / "index.html", index(folder))]


def build(names: Sequence[str], device: str, memory: int | None, keep_going: bool, say: Say, cluster: str = "") -> bool:
    """Check all, then train, execute and render each; whether a section is missing, which only `keep_going` allows."""
    reports = [Report(name, device, cluster) for name in names]
    for report in reports:
        report.check_prose()
    incomplete = False
    for report in reports:
        _write(report.built / "kernels.log", "")  # where nothing can be written, nothing need be trained
        report.train(memory, say)
        lock = FileLock(report.built / ".lock")  # builds of one report take turns, as each writes the same files
        try:
            turn = lock.acquire(blocking=False)
        except Timeout:
            say(f"waiting for another build of {report.name}")
            turn = lock.acquire()
        with turn:
            say(f"executing {len(report.chapters)} notebooks")
            paper = report.merge(report.execute(say))
            gaps = paper.metadata["fmnist"]["gaps"]
            if gaps and not keep_going:
                raise UserError("\n".join(f"notebook {name}: {problem}" for name, problem in sorted(gaps.items())))
            for name, problem in gaps.items():
                say(f"notebook {name} failed, and the paper has a gap: {problem}")
            for path in report.render(paper):
                say(f"wrote {path.relative_to(project_root())} ({path.stat().st_size / 1e6:.1f} MB)")
        incomplete |= bool(gaps)
    return incomplete


def index(folder: Path) -> str:
    """report/index.html: the HTML and PDF files in `folder`, by title, or by name where there is no JSON file of it."""
    lines = []
    for name in {path.stem for form in ("html", "pdf") for path in folder.glob(f"*.{form}")} - {"index"}:
        about = {"title": name.replace("_", " "), "date": ""}
        with suppress(OSError, ValueError, LookupError, TypeError):  # no JSON, or somebody else's
            record = json.loads((folder / f"{name}.json").read_text("utf-8"))
            about = {key: record[key] for key in about}
        title, date = (re.sub(r"([!-/:-@[-`{-~])", r"\\\1", text) for text in about.values())  # which are no Markdown
        forms = [form for form in ("html", "pdf") if (folder / f"{name}.{form}").exists()]
        links = " ".join(f"[{form.upper()}[ of {title}]{{.unseen}}](<{name}.{form}>)" for form in forms)
        lines.append(f"- {title}{', ' * bool(date)}{date}: {links}")
    page = v4.new_notebook(cells=[v4.new_markdown_cell("\n".join(["# Reports", "", *sorted(lines)]))])
    return HomeworkHTML().from_notebook_node(page)[0]


def new(name: str, title: str, author: str) -> None:
    """Make params/`name`, a report of one's own to edit, from templates/new; raises `UserError` where it cannot."""
    folder = project_root() / "params" / name
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", name) or name == "index":
        raise UserError(f"{name!r}: a report's name is lower-case letters, digits and hyphens, and not index")
    if folder.exists():
        raise UserError(f"params/{name} is there already; take another name, or edit what is in it")
    about = {key: json.dumps(text, ensure_ascii=False) for key, text in (("title", title), ("author", author))}
    with aside(folder) as part:
        part.mkdir(parents=True)
        for template in (TEMPLATES / "new").glob("*.yaml"):
            (part / template.name).write_text(template.read_text("utf-8").format(name=name, **about), encoding="utf-8")


def _check_name(name: str, known: Iterable[str], problem: str) -> None:
    if name not in known:
        raise UserError(f"{problem}{nearest(name, list(known))}")


def _notebook(path: Path) -> tuple[NotebookNode, dict[str, Any]]:
    """A notebook, and the names and default values in its cell tagged `parameters`."""
    try:
        source = nbformat.read(path, as_version=4)
        cells = [cell.source for cell in source.cells if "parameters" in cell.metadata.get("tags", [])]
        named = [(name, line.value) for line in ast.parse("\n".join(cells)).body for name in line.targets]
        return source, {name.id: ast.literal_eval(value) for name, value in named if isinstance(name, ast.Name)}
    except Exception as error:  # no JSON, no notebook, no literal: they have no one class
        needs = "not a notebook with its parameters in a cell of literals only, one name a line"
        raise UserError(f"{path}: {needs}: {error}") from None


def _begin(log: Path) -> None:
    """For a process that executes notebooks: they may not train; its kernel ends with it, and it by Ctrl-C at once."""
    follow_parent(interrupted=True)
    os.environ["FMNIST_READ_ONLY"] = "1"
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), sys.stderr.fileno())  # what kernels print


def _execute(notebook: Path, parameters: dict[str, Any], target: Path) -> None:
    """Run a notebook in a kernel of its own and keep it as `target`, failed or not. Raises what papermill does."""
    options = {"kernel_name": "python3", "language": "python", "cwd": notebook.parent, "progress_bar": False}
    execute = partial(papermill.execute_notebook, notebook, target, parameters, start_timeout=600, **options)
    try:
        execute()
    except RuntimeError:  # the kernel died, as some do on a loaded machine when they start
        execute()


def _gap(chapter: Chapter, target: Path, error: BaseException) -> NotebookNode:
    """What stands in for a notebook that failed: its heading, that it is missing, and the first line of why."""
    problem = f"the kernel failed: {type(error).__name__}: {error}"
    if isinstance(error, papermill.exceptions.PapermillExecutionError):
        number = [cell.source for cell in chapter.source.cells].index(error.source) + 1
        arrow = re.search(r"^-+> ?(\d+) (.*)$", str(error), flags=re.M)  # its own frame
        line = f", line {arrow[1]}: {arrow[2].strip()}" if arrow else ""
        problem = f"cell {number}{line}: {error.ename}: {error.evalue}"
    title = chapter.source.cells[0].source.partition("\n")[0]
    text = f"{title}\n\n**This section is missing**: its notebook, `{chapter.path.name}`, failed."
    output = v4.new_output("error", ename="", evalue="", traceback=problem.splitlines()[:1])
    cells = [v4.new_markdown_cell(text, id="title"), v4.new_code_cell("", id="gap", outputs=[output])]
    problem += f"\n  see it:   {target}\n  mend it:  jupyter lab {chapter.path}"
    return v4.new_notebook(cells=cells, metadata={"gap": problem})


def _write(path: Path, body: str | bytes) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside(path) as part:
            part.write_bytes(body if isinstance(body, bytes) else body.encode())
    except OSError as error:
        raise UserError(f"{path.parent}: the report cannot be written here: {error.strerror or error}") from None
    return path
