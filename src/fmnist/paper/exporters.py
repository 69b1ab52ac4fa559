"""nbconvert exporters that render a notebook, ours or anybody's, as a paper: one self-contained HTML file, or a PDF.

The notebook becomes a list of *pieces* in Pandoc's JSON: code blocks whose first class tells ``templates/pieces.lua``
how to parse each by itself, so that nothing a cell contains, such as an unclosed fence, reaches beyond the cell. A
second filter numbers and cross-references, and Pandoc writes HTML with MathML, or Typst source, which Typst sets. No
TeX, browser or network takes part; equal notebooks give equal bytes. Entry points make them known to ``jupyter
nbconvert --to homework_html`` (or ``_pdf``) and to JupyterLab.
"""

import json
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote

import pypandoc
import typst
from nbconvert.exporters import Exporter
from nbconvert.filters import strip_ansi
from nbformat import NotebookNode
from traitlets import Unicode

from fmnist.config import TEMPLATES, UserError

API_VERSION = [1, 23, 1]  # of Pandoc's JSON syntax tree
IMAGES = ("image/svg+xml", "image/png", "image/jpeg", "image/gif", "image/webp")
FORMS = ("text/latex", *IMAGES, "text/markdown", "text/html", "text/plain")  # richest first
WIDGET = "application/vnd.jupyter.widget-view+json"


class HomeworkExporter(Exporter):
    """What both have in common; each has a `render` of its own, from the document in a folder to the paper."""

    def from_notebook_node(self, nb: NotebookNode, resources=None, **kwargs):
        """Raises UserError where labels, references or the bibliography are wrong, or Pandoc or Typst fail."""
        nb, resources = super().from_notebook_node(nb, resources, **kwargs)
        document = read(nb, resources["metadata"].get("name", ""), resources["metadata"].get("path"))
        tree = {"pandoc-api-version": API_VERSION, "meta": {}, "blocks": document.blocks}
        metadata = json.dumps(document.metadata, ensure_ascii=False)  # Pandoc reads YAML, which has no surrogate pairs
        with TemporaryDirectory() as name:
            (folder := Path(name)).joinpath("metadata.json").write_text(metadata, encoding="utf-8")
            (folder / "document.json").write_text(json.dumps(tree), encoding="utf-8")
            return self.render(folder, document.metadata), resources


class HomeworkHTML(HomeworkExporter):
    """One HTML file: MathML, figures, style, fonts and one small script inside, nothing to load."""

    export_from_notebook = "Homework paper (HTML)"
    output_mimetype = "text/html"
    file_extension = Unicode(".html")

    def render(self, folder: Path, about: dict) -> str:
        look = [f"--template={TEMPLATES / 'homework.html'}", f"--css={TEMPLATES / 'homework.css'}"]
        options = ["--to=html5", "--mathml", "--embed-resources", "--toc", "--toc-depth=3", *look]
        page = _pandoc(folder, *options, f"--variable=templates:{TEMPLATES}").decode()
        return re.sub(r'<th( style="[^"]*")?></th>', r"<td\1></td>", page)  # pandas leaves such a head above an index


class HomeworkPDF(HomeworkExporter):
    """A PDF in the look of an AMS article, on US letter paper. A report is accessible (PDF/UA-1) and, with runs,
    archival: PDF/A-3a wants a date, that of its newest run, and allows attachments.
    """

    export_from_notebook = "Homework paper (PDF)"
    output_mimetype = "application/pdf"
    file_extension = Unicode(".pdf")

    def render(self, folder: Path, about: dict) -> bytes:
        source, dated = folder / "document.typ", "timestamp" in about
        source.write_bytes(_pandoc(folder, "--to=typst-citations", f"--template={TEMPLATES / 'homework.typ'}"))
        standards = ["a-3a"] * dated + ["ua-1"] if about["report"] else []  # others may lack what these ask for
        setting = dict(root=folder, ignore_system_fonts=True, timestamp=about.get("timestamp", 0))
        try:
            return typst.compile(source, pdf_standards=standards, **setting)
        except typst.TypstError as error:
            raise UserError(f"Typst cannot set the PDF: {error.message}") from error


def _pandoc(folder: Path, *options: str) -> bytes:
    command = [pypandoc.get_pandoc_path(), "document.json", f"--defaults={TEMPLATES / 'pandoc.yaml'}", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True)
    if done.returncode:  # 70, with "USER: ", is from filter.lua: a mistake in the text
        complaint = done.stderr.decode(errors="replace").strip()
        said = complaint.partition("USER: ")[2]
        raise UserError(said or f"Pandoc cannot render the paper: {complaint}".splitlines()[0])
    return done.stdout


# ---- a notebook as a document


@dataclass
class Document:
    """`blocks` (Pandoc JSON) and `metadata` (strings are Markdown)."""

    metadata: dict
    blocks: list = field(default_factory=list)

    def piece(self, kind: str, text: str, **attributes) -> None:
        self.blocks.append(_code(text, kind, attributes))

    def fold(self, code: list) -> None:
        """Add code cells and empty `code`; those that nothing separates fold together."""
        if code and self.blocks and self.blocks[-1]["t"] == "Div":
            self.blocks[-1]["c"][1].extend(code)
        elif code:
            self.blocks.append({"t": "Div", "c": [["", ["fmnist-code"], []], list(code)]})
        code.clear()


def read(nb: NotebookNode, name: str = "", folder: Path | None = None) -> Document:
    """The document of notebook `nb`, called `name`, lying in `folder`.

    Code of our notebooks stands folded beneath what it made, with that of cells before it that made text or nothing. A
    notebook without metadata of ours is *foreign*: its first heading is its title, its code stands above its output.
    """
    document = Document(_metadata(nb, name, Path(folder or ".").resolve()))
    language = nb.metadata.get("kernelspec", {}).get("language") or "python"
    waiting = []  # code whose place is not yet known
    for cell in nb.cells:
        tags = {tag.replace("-", "_") for tag in cell.metadata.get("tags", [])}
        merged = cell.metadata.get("fmnist", {})  # where a cell of a report is from
        where = {"shift": 0, "notebook": name, "cell": cell.get("id", "")} | merged
        if cell.cell_type == "markdown" and "remove_cell" not in tags:
            document.fold(waiting)
            document.piece("markdown", _attachments(cell), **where)
        elif cell.cell_type == "code" and "remove_cell" not in tags:
            if cell.source.strip() and "remove_input" not in tags:
                place = {} if "injected_parameters" in tags else merged  # which are in no notebook
                waiting.append(_code(cell.source.strip("\n"), language, place))
            if not document.metadata["ours"]:
                document.fold(waiting)
            before = len(document.blocks)
            for output in cell.outputs if "remove_output" not in tags else []:
                _add_output(document, output, where)
            if any(block["c"][0][1] != ["markdown"] for block in document.blocks[before:]):
                document.fold(waiting)
    document.fold(waiting)
    if appendix := nb.metadata.get("fmnist", {}).get("appendix"):
        document.piece("appendix", appendix)
    return document


def _metadata(nb: NotebookNode, name: str, folder: Path) -> dict:
    about = {key: value for key, value in nb.metadata.get("fmnist", {}).items() if value}
    ours = bool(about or marks(nb.cells, "figure", "table", "text", "values"))
    facts = {"ours": ours, "report": "title" in about, "gaps": "gaps" in about, "folder": str(folder), "lang": "en"}
    nearby = [folder / "references.bib", *(above / "report" / "references.bib" for above in folder.parents)]
    facts["bibliography"] = str(next(filter(Path.is_file, nearby), ""))
    shown = {key: value for key, value in about.items() if key not in ("appendix", "values")}
    return {"title": name.replace("_", " ") or "Notebook", **shown, **facts}


def marks(cells: Iterable[NotebookNode], *roles: str) -> list[dict]:
    """What `publish` wrote at the outputs of cells that have one of the roles, by default at figures and tables."""
    found = (output.get("metadata", {}).get("fmnist", {}) for cell in cells for output in cell.get("outputs", []))
    return [mark for mark in found if mark.get("role") in (roles or ("figure", "table"))]


def values(nb: NotebookNode) -> dict:
    """What the notebook's `record` calls published, the last value of a name winning."""
    return {name: value for mark in marks(nb.cells, "values") for name, value in mark["values"].items()}


def _code(text: str, kind: str, attributes: dict) -> dict:
    return {"t": "CodeBlock", "c": [["", [kind], [[key, str(value)] for key, value in attributes.items()]], text]}


def _add_output(document: Document, output: NotebookNode, where: dict) -> None:
    """An output that prints: stderr, widgets and progress bars do not."""
    mark = output.get("metadata", {}).get("fmnist", {})
    about = where | {key: mark[key] for key in ("label", "note", "alt", "drawing", "data") if mark.get(key)}
    if output.output_type == "stream":
        if output.name == "stdout" and (text := _terminal(output.text)):
            document.piece("output", text)
    elif output.output_type == "error":
        document.piece("error", _terminal("\n".join(output.traceback) or f"{output.ename}: {output.evalue}"))
    elif mark.get("role") == "figure":
        document.piece("figure", mark["caption"], svg=output.data["image/svg+xml"], **about)
    elif mark.get("role") == "table":
        document.piece("table", output.data["text/markdown"], caption=mark["caption"], **about)
    elif mark.get("role") not in ("caption", "values") and WIDGET not in output.data:
        _add_result(document, output, where)


def _add_result(document: Document, output: NotebookNode, where: dict) -> None:
    """The richest printable form of a display or an execution result."""
    forms = {form: output.data[form] for form in FORMS if output.data.get(form)}
    if re.search(r"<(script|iframe)\b", forms.get("text/html", ""), re.IGNORECASE):
        del forms["text/html"]  # interactive: what it shows is made by a browser
    form, data = next(iter(forms.items()), ("", ""))
    if form in IMAGES:
        details = output.metadata.get(form, {})
        alt = output.metadata.get("alt") or details.get("alt") or "Figure made by the code above"
        source = {"svg": data} if "svg" in form else {"src": f"data:{form};base64,{''.join(data.split())}"}
        document.piece("image", "", alt=alt, width=details.get("width", ""), **source)
    elif form == "text/latex":
        document.piece("markdown", re.sub(r"^\s*\$(?!\$)([^$]+)\$\s*$", r"$$\1$$", data), **where)
    elif form in ("text/markdown", "text/html"):
        document.piece(form.removeprefix("text/"), data, **where)
    elif text := _terminal(data):
        document.piece("output", text)


def _terminal(text: str) -> str:
    """What a terminal would show in the end: colours off, lines overwritten by carriage returns gone."""
    lines = (line.rstrip("\r").rsplit("\r", 1)[-1].rstrip() for line in strip_ansi(text).split("\n"))
    return "\n".join(lines).strip("\n")


def _attachments(cell: NotebookNode) -> str:
    """The cell's Markdown with data URIs for ``attachment:…``."""
    attached = [(name, *next(iter(bundle.items()))) for name, bundle in cell.get("attachments", {}).items()]
    uris = {name: f"data:{form};base64,{data}" for name, form, data in attached}
    return re.sub(r"attachment:([^\s)\"'>]+)", lambda match: uris.get(unquote(match[1]), match[1]), cell.source)
