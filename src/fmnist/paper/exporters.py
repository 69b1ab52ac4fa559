"""nbconvert exporters that render a notebook as a paper: one self-contained HTML file, or a PDF.

Pandoc reads the `document`, two Lua filters in ``templates/`` parse, number and cross-reference it, and Pandoc writes
HTML with MathML, or Typst source, which Typst sets. No TeX, browser or network takes part; equal notebooks give equal
bytes. Entry points make them known to ``jupyter nbconvert --to homework_html`` (or ``_pdf``) and to JupyterLab.
"""

import base64
import json
import re
import subprocess
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

import pypandoc
import typst
from nbconvert.exporters import Exporter
from nbformat import NotebookNode
from traitlets import Unicode

from fmnist.config import UserError
from fmnist.paper.document import read

TEMPLATES = Path(__file__).parents[1] / "templates"
FUNCTION = re.compile("(<m(?:sub|sup|under|over)+>)?<mrow><mi[^>]*>\\w+</mi><mo>(?:\u2061|&#8289;)</mo></mrow>(<mo)?")
PICTURE = re.compile("data:image/svg\\+xml;base64,([A-Za-z0-9+/=]+)")
OPERAND = re.compile(r"</m(?:i|n|sub|sup|subsup|frac)>$")
PRIME = re.compile(r"<msup>(<mi>.</mi>)(<mo>[′″]</mo>|<mrow>(?:<mi>′</mi>)+</mrow>)</msup>")
ACCENT = re.compile('<mover>(<mi[^>]*>.</mi><mo) accent="true">([\u0302\u0303\u0307\u0308])')
SPACING = {"\u0302": "ˆ", "\u0303": "˜", "\u0307": "˙", "\u0308": "¨"}


class HomeworkExporter(Exporter):
    """What both have in common; each has a `render` of its own, from the document in a folder to the paper."""

    def from_notebook_node(self, nb: NotebookNode, resources=None, **kwargs):
        """Raises UserError where labels, references or the bibliography are wrong, or Pandoc or Typst fail."""
        nb, resources = super().from_notebook_node(nb, resources, **kwargs)
        document = read(nb, resources["metadata"].get("name", ""), resources["metadata"].get("path"))
        with TemporaryDirectory() as folder:
            document.write(Path(folder))
            return self.render(Path(folder)), resources


class HomeworkHTML(HomeworkExporter):
    """One HTML file: MathML, figures, style, fonts and one small script inside, nothing to load."""

    export_from_notebook = "Homework paper (HTML)"
    output_mimetype = "text/html"
    file_extension = Unicode(".html")

    def render(self, folder: Path) -> str:
        return _mathematics(write_page(folder, "homework.html", "--mathml", "--toc", "--toc-depth=3"))


class HomeworkPDF(HomeworkExporter):
    """A PDF in the look of an AMS article, on US letter paper: accessible (PDF/UA-1) and, with runs, archival: PDF/A-3a
    wants a date, a report's being that of its newest run, and allows attachments.
    """

    export_from_notebook = "Homework paper (PDF)"
    output_mimetype = "application/pdf"
    file_extension = Unicode(".pdf")

    def render(self, folder: Path) -> bytes:
        source = folder / "document.typ"
        about = json.loads((folder / "metadata.json").read_text("utf-8"))
        source.write_bytes(_pandoc(folder, "--to=typst-citations", f"--template={TEMPLATES / 'homework.typ'}"))
        setting = dict(root=folder, ignore_system_fonts=True, timestamp=about.get("timestamp", 0))
        standards = ["a-3a", "ua-1"] if "timestamp" in about else ["ua-1"]
        if not about["report"]:  # notebooks that are no report of ours may lack what the standards ask for
            with suppress(typst.TypstError):
                return typst.compile(source, pdf_standards=standards, **setting)
            standards = []
        try:
            return typst.compile(source, pdf_standards=standards, **setting)
        except typst.TypstError as error:
            raise UserError(f"Typst cannot set the PDF: {error.message}") from error


def write_page(folder: Path, template: str, *options: str) -> str:
    """The document in `folder` as one HTML file in the look of all our pages."""
    look = [f"--template={TEMPLATES / template}", f"--css={TEMPLATES / 'homework.css'}"]
    place = f"--variable=templates:{TEMPLATES}"
    page = _pandoc(folder, "--to=html5", "--embed-resources", place, *look, *options).decode()
    page = PICTURE.sub(lambda found: "data:image/svg+xml," + _plain(base64.b64decode(found[1]).decode()), page)
    return re.sub(r'<th( style="[^"]*")?></th>', r"<td\1></td>", page)  # pandas leaves such a head above an index


def _plain(svg: str) -> str:
    """An SVG for a data URI in double quotes: three quarters of what base64 takes."""
    return quote(re.sub(r"\s+", " ", svg).replace('"', "'"), safe=" =:/;,.'*!?@+$-_~")


def _mathematics(page: str) -> str:
    """What TeX does and browsers do not: a thin space in "log x", hats as narrow as their letter, plain norm bars."""
    thin = '<mspace width="0.167em"></mspace>'

    def spaced(match: re.Match) -> str:
        before = match.string[max(0, match.start() - 12) : match.start()]
        return (thin if OPERAND.search(before) else "") + match[0] + ("" if match[1] or match[2] else thin)

    page = FUNCTION.sub(spaced, page)
    page = PRIME.sub(lambda m: f"<mrow>{m[1]}<mo>{re.sub('<.*?>', '', m[2]).replace('″', '′′')}</mo></mrow>", page)
    page = ACCENT.sub(lambda m: f'<mover accent="true">{m[1]} stretchy="false">{SPACING[m[2]]}', page)
    return re.sub('<mo stretchy="true"( form="[a-z]+")>‖', r'<mo stretchy="false"\1>‖', page)


def _pandoc(folder: Path, *options: str) -> bytes:
    command = [pypandoc.get_pandoc_path(), "document.json", f"--defaults={TEMPLATES / 'pandoc.yaml'}", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True)
    complaint = done.stderr.decode(errors="replace").strip()
    if done.returncode == 70:  # from filter.lua: a mistake in the text
        raise UserError(complaint.split("USER: ", 1)[-1])
    if done.returncode:
        raise UserError(f"Pandoc cannot render the paper: {complaint}".splitlines()[0])
    return done.stdout
