"""nbconvert exporters that render a notebook as a paper: one self-contained HTML file, or a PDF.

Pandoc reads the `document`, two Lua filters in ``templates/`` parse, number and cross-reference it, and Pandoc writes
HTML with MathML, or Typst source, which Typst sets. No TeX, browser or network takes part; equal notebooks give equal
bytes. Entry points make them known to ``jupyter nbconvert --to homework_html`` (or ``_pdf``) and to JupyterLab.
"""

import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pypandoc
import typst
from nbconvert.exporters import Exporter
from nbformat import NotebookNode
from traitlets import Unicode

from fmnist.config import TEMPLATES, UserError
from fmnist.paper.document import read

FUNCTION = re.compile("(<m(?:sub|sup|under|over)+>)?<mrow><mi[^>]*>\\w+</mi><mo>(?:\u2061|&#8289;)</mo></mrow>(<mo)?")
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
            return self.render(Path(folder), document.metadata), resources


class HomeworkHTML(HomeworkExporter):
    """One HTML file: MathML, figures, style, fonts and one small script inside, nothing to load."""

    export_from_notebook = "Homework paper (HTML)"
    output_mimetype = "text/html"
    file_extension = Unicode(".html")

    def render(self, folder: Path, about: dict) -> str:
        look = [f"--template={TEMPLATES / 'homework.html'}", f"--css={TEMPLATES / 'homework.css'}"]
        options = ["--to=html5", "--mathml", "--embed-resources", "--toc", "--toc-depth=3", *look]
        page = _mathematics(_pandoc(folder, *options, f"--variable=templates:{TEMPLATES}").decode())
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
    if done.returncode:  # 70, with "USER: ", is from filter.lua: a mistake in the text
        complaint = done.stderr.decode(errors="replace").strip()
        said = complaint.partition("USER: ")[2]
        raise UserError(said or f"Pandoc cannot render the paper: {complaint}".splitlines()[0])
    return done.stdout
