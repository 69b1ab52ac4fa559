"""One executed notebook, ours or anybody's, as one Pandoc document.

A document is a list of *pieces* in Pandoc's JSON syntax tree. What has to be parsed (Markdown, HTML, mathematics)
travels as a code block whose first class tells its kind; ``templates/pieces.lua`` parses each piece by itself. So
nothing a cell contains, be it an unclosed fence, ``:::`` or a lone ``$``, reaches beyond the cell.

Outputs that `publish` made carry their role in the metadata (figure, table, text, caption, values), their data and a
note of their provenance. Of any other output the richest form that prints is taken; stderr, widgets and progress bars
do not print.

Code of our notebooks stands folded beneath the figures and tables that it made, with the code of cells before it that
made text or nothing; each cell with a link to its notebook. Code of a foreign notebook stands where it does in Jupyter:
above its output.
"""

import base64
import binascii
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from nbconvert.filters import strip_ansi
from nbformat import NotebookNode

from fmnist.config import UserError

API_VERSION = [1, 23, 1]  # of Pandoc's JSON syntax tree
IMAGES = {"image/svg+xml": "svg", "image/png": "png", "image/jpeg": "jpg", "image/gif": "gif", "image/webp": "webp"}
FORMS = ("text/latex", *IMAGES, "text/markdown", "text/html", "text/plain")  # richest first
WIDGET = "application/vnd.jupyter.widget-view+json"
DATA_URI = re.compile(r"data:(image/[a-z+]+);base64,([A-Za-z0-9+/=\s]+)")


@dataclass
class Document:
    """`blocks` (Pandoc JSON), `metadata` (strings are Markdown) and `resources` (file name to bytes)."""

    metadata: dict
    blocks: list = field(default_factory=list)
    resources: dict = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write ``document.json``, ``metadata.json`` and the resources into `folder`."""
        tree = {"pandoc-api-version": API_VERSION, "meta": {}, "blocks": self.blocks}
        (folder / "document.json").write_text(json.dumps(tree), encoding="utf-8")
        metadata = json.dumps(self.metadata, ensure_ascii=False)  # Pandoc reads YAML, which has no surrogate pairs
        (folder / "metadata.json").write_text(metadata, encoding="utf-8")
        for name, data in self.resources.items():
            (folder / name).write_bytes(data)

    def piece(self, kind: str, text: str, **attributes) -> None:
        self.blocks.append(_code(text, [kind], attributes))

    def resource(self, data: bytes, suffix: str) -> str:
        name = f"{hashlib.sha256(data).hexdigest()[:16]}.{suffix}"
        self.resources[name] = data
        return name

    def unpack(self, text: str) -> str:
        """`text` with its data URIs of images turned into resources (Typst reads files, not URIs)."""

        def store(match):
            try:
                return self.resource(base64.b64decode(match[2]), IMAGES[match[1]])
            except (KeyError, binascii.Error):
                return match[0]

        return DATA_URI.sub(store, text)


def read(nb: NotebookNode, name: str = "", folder: Path | None = None) -> Document:
    """The document of notebook `nb`, called `name`, lying in `folder`.

    Metadata come from ``nb.metadata["fmnist"]``; a notebook without them is *foreign*: its first heading is its title,
    its sections keep their own numbers, its code is printed. Raises UserError where the bibliography is missing.
    """
    folder = Path(folder or ".").resolve()
    metadata = {key: value for key, value in nb.metadata.get("fmnist", {}).items() if value}
    ours = bool(metadata) or any(_mark(output) for cell in nb.cells for output in cell.get("outputs", []))
    document = Document(metadata | {"ours": ours, "report": "title" in metadata, "folder": str(folder), "lang": "en"})
    appendix, _ = document.metadata.pop("appendix", ""), document.metadata.pop("values", {})
    document.metadata["gaps"] = bool(document.metadata.get("gaps"))  # then references may lead to what is missing
    document.metadata["bibliography"] = _bibliography(metadata.get("bibliography"), folder)
    if "title" not in metadata:
        document.metadata["title"] = name.replace("_", " ") or "Notebook"
    language = nb.metadata.get("kernelspec", {}).get("language") or "python"
    waiting = []  # code whose place is not yet known
    for number, cell in enumerate(nb.cells):
        tags = {tag.replace("-", "_") for tag in cell.metadata.get("tags", [])}
        if "remove_cell" in tags:
            continue
        where = {"shift": 0, "notebook": name, "cell": cell.get("id", "")} | dict(cell.metadata.get("fmnist", {}))
        if cell.cell_type == "markdown":
            _add_code(document, waiting)
            text = _attachments(document, cell)
            if number == 0 and "title" not in metadata:
                document.metadata["title"], text = heading(text, document.metadata["title"])
            document.piece("markdown", document.unpack(text), **where)
        elif cell.cell_type == "code":
            hidden = "remove_input" in tags or cell.get("transient", {}).get("remove_source")
            if cell.source.strip() and not hidden:
                waiting.append(_code(cell.source.strip("\n"), [language], _place(cell, tags)))
            made = Document({})
            for output in cell.outputs if "remove_output" not in tags else []:
                _add_output(made, output, where)
            if made.blocks and not ours:
                _add_code(document, waiting)
            document.blocks += made.blocks
            document.resources |= made.resources
            if ours and any(block["c"][0][1] != ["markdown"] for block in made.blocks):
                _add_code(document, waiting)
    _add_code(document, waiting)
    if appendix:
        document.piece("appendix", appendix)
    return document


def values(nb: NotebookNode) -> dict:
    """What the notebook's `record` calls published, the last value of a name winning."""
    marks = [_mark(output) for cell in nb.cells for output in cell.get("outputs", [])]
    return {name: value for mark in marks for name, value in mark.get("values", {}).items()}


def _mark(output: NotebookNode) -> dict:
    return output.get("metadata", {}).get("fmnist", {})


def _code(text: str, classes: list, attributes: dict | None = None) -> dict:
    pairs = [[key, str(value)] for key, value in (attributes or {}).items()]
    return {"t": "CodeBlock", "c": [["", classes, pairs], text]}


def _place(cell: NotebookNode, tags: set) -> dict:
    """Where a cell of a merged report is to be seen; parameters that papermill put in are in no notebook."""
    where = cell.metadata.get("fmnist", {})
    return {} if "injected_parameters" in tags else {key: where[key] for key in ("notebook", "cell") if key in where}


def _add_code(document: Document, blocks: list) -> None:
    """Put code cells into the document and empty `blocks`; those that nothing separates fold together."""
    last = document.blocks[-1] if document.blocks else {}
    if blocks and last.get("t") == "Div":
        last["c"][1].extend(blocks)
    elif blocks:
        document.blocks.append({"t": "Div", "c": [["", ["fmnist-code"], []], list(blocks)]})
    blocks.clear()


def _add_output(document: Document, output: NotebookNode, where: dict) -> None:
    mark = _mark(output)
    if output.output_type == "stream":
        if output.name == "stdout" and (text := _terminal(output.text)):
            document.piece("output", text)
    elif output.output_type == "error":
        document.piece("error", _terminal("\n".join(output.traceback) or f"{output.ename}: {output.evalue}"))
    elif mark.get("role") in ("caption", "values"):
        return
    elif mark.get("role") == "figure":
        picture = document.resource(_text(output.data["image/svg+xml"]).encode(), "svg")
        about = {"label": mark["label"], "alt": mark["alt"], "src": picture}
        document.piece("figure", mark["caption"], **about, **_beside(document, mark), **where)
    elif mark.get("role") == "table":
        about = {"label": mark["label"], "caption": mark["caption"]}
        document.piece("table", _text(output.data["text/markdown"]), **about, **_beside(document, mark), **where)
    elif WIDGET not in output.data:
        _add_result(document, output, where)


def _beside(document: Document, mark: dict) -> dict:
    """The note below a figure or table (Markdown), and the file with its data; where there are any."""
    found = {"note": mark["note"]} if mark.get("note") else {}
    if mark.get("data"):
        found["data"] = f"{mark['label']}.csv"
        document.resources[found["data"]] = mark["data"].encode()
    return found


def _add_result(document: Document, output: NotebookNode, where: dict) -> None:
    """The richest printable form of a display or an execution result."""
    forms = {form: _text(output.data[form]) for form in FORMS if output.data.get(form)}
    if re.search(r"<(script|iframe)\b", forms.get("text/html", ""), re.IGNORECASE):
        del forms["text/html"]  # interactive: what it shows is made by a browser
    form = next(iter(forms), None)
    if form in IMAGES:
        data = forms[form].encode() if form == "image/svg+xml" else base64.b64decode(forms[form])
        details = output.metadata.get(form, {})
        alt = output.metadata.get("alt") or details.get("alt") or "Figure made by the code above"
        document.piece(
            "image", "", src=document.resource(data, IMAGES[form]), alt=alt, width=details.get("width", ""), **where
        )
    elif form == "text/latex":
        text = re.sub(r"^\s*\$(?!\$)([^$]+)\$\s*$", r"$$\1$$", forms[form])
        document.piece("markdown", text, **where)
    elif form in ("text/markdown", "text/html"):
        document.piece(form.removeprefix("text/"), document.unpack(forms[form]), **where)
    elif form and (text := _terminal(forms[form])):
        document.piece("output", text)


def _text(data) -> str:
    return "".join(data) if isinstance(data, list) else data


def _terminal(text: str) -> str:
    """What a terminal would show in the end: colours off, lines overwritten by carriage returns gone."""
    lines = (line.rstrip("\r").rsplit("\r", 1)[-1].rstrip() for line in strip_ansi(_text(text)).split("\n"))
    return "\n".join(lines).strip("\n")


def _attachments(document: Document, cell: NotebookNode) -> str:
    """The cell's Markdown with ``attachment:`` images as resources."""
    names = {}
    for name, bundle in cell.get("attachments", {}).items():
        form, data = next(iter(bundle.items()))
        if form in IMAGES:
            names[name] = document.resource(base64.b64decode(_text(data)), IMAGES[form])
    return re.sub(r"attachment:([^\s)\"'>]+)", lambda match: names.get(unquote(match[1]), match[1]), cell.source)


def heading(text: str, default: str) -> tuple[str, str]:
    """The heading a notebook opens with, and the text without it."""
    match = re.match(r"\s*#\s+(.+?)\s*#*\s*(?:\n|$)", text)
    match = match or re.match(r"\s*<h1\b[^>]*>\s*([^<]+?)\s*</h1>", text, re.IGNORECASE)
    if not match:
        return default, text
    return re.sub(r"\s*\{[^{}]*\}$", "", match[1]), text[match.end() :]


def _bibliography(path: str | None, folder: Path) -> str:
    """The bibliography's full path; a notebook that names none takes one nearby; else empty."""
    if path:
        found = folder / path
        if not found.is_file():
            raise UserError(f"bibliography {found} does not exist: correct `bibliography` in the report's YAML")
        return str(found)
    nearby = (folder / "references.bib", *(above / "report" / "references.bib" for above in folder.parents))
    return next((str(found) for found in nearby if found.is_file()), "")
