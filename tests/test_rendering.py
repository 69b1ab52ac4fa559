"""What a reader of the rendered paper relies on: numbers, references, alternatives, one file, the same bytes again."""

import base64
import io
import re

import matplotlib.pyplot as plt
import nbformat.v4 as nbf
import pandas as pd
import pypdf
import pytest

from fmnist.config import UserError
from fmnist.paper import publish
from fmnist.paper.document import values
from fmnist.paper.exporters import TEMPLATES, HomeworkHTML, HomeworkPDF

SCRIPT = f"<script>{(TEMPLATES / 'homework.js').read_text('utf-8')}</script>"
REFERENCES = "MARK @fig-curve, @fig-second, @tbl-scores, @eq-loss, @sec-first and @sec-second END"


@pytest.fixture
def published(monkeypatch):
    """The outputs of what runs between `published()` calls, as a kernel would store them."""
    outputs = []

    def store(data, metadata, raw):
        outputs.append(nbf.new_output("display_data", data=data, metadata=metadata))

    monkeypatch.setattr(publish, "display", store)

    def take():
        taken = outputs[:]
        outputs.clear()
        return taken

    return take


def curve(color="C0"):
    figure, axes = plt.subplots(figsize=(3, 2))
    axes.plot([1, 2, 3], [3, 1, 2], color=color)
    return figure


@pytest.fixture
def report(published, tmp_path):
    """Two notebooks of ours merged, each referring to the other."""
    scores = pd.DataFrame({"Trial": ["Adam, $\\eta = 0.01$", "**SGD**"], "Accuracy (%)": [88.123, 87.5]})
    publish.show(curve(), label="fig-curve", caption="A *curve*.", alt="It falls, then rises.")
    publish.table(scores, label="tbl-scores", caption="Scores.", formats={"Accuracy (%)": "{:.1f}"})
    publish.say("Adam is best, see @tbl-scores and [@kingma].")
    publish.record(best="Adam", accuracy=0.88)
    first = published()
    publish.show(curve("C1"), label="fig-second", caption="Another, see @fig-curve.", alt="It does the same.")
    second = published()
    equation = "$$ L = \\sum_i \\log p_i $$ {#eq-loss}"
    cells = [
        nbf.new_markdown_cell(f"# First {{#sec-first}}\n\n{REFERENCES}\n\n{equation}"),
        nbf.new_code_cell("HIDDEN = 'in PDF'", outputs=first),
        nbf.new_markdown_cell("# Second {#sec-second}\n\nSee @sec-first."),
        nbf.new_code_cell("x = 1", outputs=second),
    ]
    for cell, notebook in zip(cells, ("one", "one", "two", "two"), strict=True):
        cell.metadata["fmnist"] = {"shift": 0, "notebook": notebook, "cell": f"{notebook}-text"}
    about = {"title": "A Paper", "authors": [{"name": "Ann Author", "affiliation": "Somewhere"}], "abstract": "Short."}
    (tmp_path / "some.bib").write_text("@book{kingma, author={Ann Other}, title={Steps}, year={2014}}")
    about |= {"notice": "A smoke run.", "bibliography": str(tmp_path / "some.bib")}
    return nbf.new_notebook(cells=cells, metadata={"fmnist": about})


def html(nb) -> str:
    return HomeworkHTML().from_notebook_node(nb)[0]


def pdf(nb) -> pypdf.PdfReader:
    return pypdf.PdfReader(io.BytesIO(HomeworkPDF().from_notebook_node(nb)[0]))


def words(text: str) -> str:
    return " ".join(re.sub(r"<(annotation|style|script)\b.*?</\1>|<[^>]+>", "", text, flags=re.DOTALL).split())


def pdf_words(nb) -> str:
    return words("\n".join(page.extract_text() for page in pdf(nb).pages))


def test_references_say_the_same_in_html_and_pdf(report):
    expected = "MARK Figure 1, Figure 2, Table 1, Equation (1), Section 1 and Section 2 END"
    assert expected in words(html(report))
    assert expected in pdf_words(report)


@pytest.mark.parametrize("kind", [HomeworkHTML, HomeworkPDF])
def test_a_reference_to_nothing_is_named_with_notebook_and_cell(report, kind):
    report.cells[2].source += " And @fig-nothing."
    with pytest.raises(UserError, match=r"@fig-nothing \(in notebook two, cell two-text\)"):
        kind().from_notebook_node(report)


@pytest.mark.parametrize("kind", [HomeworkHTML, HomeworkPDF])
def test_a_reference_to_nothing_in_the_abstract_is_named_with_its_file(report, kind):
    report.metadata["fmnist"]["abstract"] = "See @tbl-nothing."
    with pytest.raises(UserError, match=r"@tbl-nothing \(in report.yaml\)"):
        kind().from_notebook_node(report)


def test_no_line_ends_within_a_number_and_its_sign(report):
    report.cells[0].source += "\n\nOf 95 % it is p < 0.05, for 28 × 28 pixels; lr = 0.1 and not so."
    shown = html(report).replace("&nbsp;", "~").replace("\N{NO-BREAK SPACE}", "~")
    assert "Of 95~% it is p~&lt;~0.05, for 28~×~28 pixels; lr~=~0.1 and not so." in shown


def test_a_label_names_one_thing(report):
    report.cells[3].outputs[0].metadata["fmnist"]["label"] = "fig-curve"
    with pytest.raises(UserError, match="twice.*fig-curve"):
        html(report)


def test_a_missing_bibliography_is_named(report):
    report.metadata["fmnist"]["bibliography"] = "nowhere.bib"
    with pytest.raises(UserError, match="nowhere.bib"):
        html(report)


def test_citations_become_numbers_and_a_list(report):
    for text in (words(html(report)), pdf_words(report)):
        assert "Table 1 and [1]" in text
        assert re.search(r"\[1\] ?A\. Other, Steps, 2014\.", text)


def test_a_citation_is_a_link_in_both(report):
    def links() -> int:
        return sum(len(page.get("/Annots") or []) for page in pdf(report).pages)

    assert 'href="#ref-kingma"' in html(report)
    cited = links()
    for output in report.cells[3].outputs + report.cells[1].outputs:
        if "[@kingma]" in output.get("data", {}).get("text/markdown", ""):
            output.data["text/markdown"] = output.data["text/markdown"].replace("[@kingma]", "a book")
    assert links() == cited - 1


def test_html_is_one_file_that_loads_nothing(report, foreign):
    for nb in (report, foreign):
        page = html(nb)
        assert page.count(SCRIPT) == 1
        page = page.replace(SCRIPT, "")  # ours, without dependencies; test_reading sees that it asks for nothing
        assert not re.search(r"""(?:src|srcset|poster|data)\s*=\s*["']?(?:https?:)?//""", page)
        assert not re.search(r"<script|<iframe|<link|@import|url\(\s*[\"']?(?!data:|[\"']?data:)", page)
        assert '<html lang="en">' in page and "<main" in page


def test_every_figure_has_its_alternative(report, foreign):
    page = html(report)
    assert 'alt="It falls, then rises."' in page and 'alt="It does the same."' in page
    for nb in (report, foreign):
        images = re.findall(r"<img\b[^>]*>", html(nb))
        assert images and all(re.search(r'alt="[^"]+"', image) for image in images)
    assert pdf(report).trailer["/Root"]["/MarkInfo"]["/Marked"]


def test_equal_notebooks_give_equal_bytes(report):
    for kind in (HomeworkHTML, HomeworkPDF):
        assert kind().from_notebook_node(report)[0] == kind().from_notebook_node(report)[0]


def test_equal_figures_give_equal_svg(published):
    for _ in range(2):
        publish.show(curve(), label="fig-x", caption="c", alt="a")
    first, _, second, _ = published()
    assert first.data["image/svg+xml"] == second.data["image/svg+xml"]
    assert "<text" not in first.data["image/svg+xml"]


def test_pdf_is_us_letter_with_title_author_and_no_code(report):
    reader = pdf(report)
    assert {(float(page.mediabox.width), float(page.mediabox.height)) for page in reader.pages} == {(612.0, 792.0)}
    assert (reader.metadata.title, reader.metadata.author) == ("A Paper", "Ann Author")
    first = reader.pages[0].extract_text()
    assert "A PAPER" in first and "A smoke run." in first and "HIDDEN" not in pdf_words(report)
    assert "HIDDEN" in html(report)


def test_recorded_values_are_read_back(report):
    assert values(report) == {"best": "Adam", "accuracy": 0.88}


@pytest.mark.parametrize("label", ["curve", "fig-Curve", "tbl-curve", "fig-"])
def test_malformed_labels_are_refused(published, label):
    with pytest.raises(UserError, match="label"):
        publish.show(curve(), label=label, caption="c", alt="a")


def test_table_aligns_numbers_right_and_refuses_unknown_columns(published):
    frame = pd.DataFrame({"name": ["a|b", "c"], "x": [1.5, None], "share": ["12 %", "3.0 ± 0.1"]})
    publish.table(frame, label="tbl-x", caption="c")
    table = published()[0]
    assert table.metadata["fmnist"]["align"] == "lrr"
    assert r"a\|b" in table.data["text/markdown"] and "–" in table.data["text/markdown"]
    with pytest.raises(UserError, match="'y'"):
        publish.table(frame, label="tbl-x", caption="c", formats={"y": "{}"})


@pytest.fixture
def foreign():
    """A notebook that knows nothing of this package, and tries to break out of its cells."""
    buffer = io.BytesIO()
    curve().savefig(buffer, format="png")
    plt.close("all")
    png = base64.b64encode(buffer.getvalue()).decode()
    frame = pd.DataFrame({"name": ["ann", "bob"], "x": [1.5, -2.0]})
    tricky = 's = """\n```\n:::\n$raw$ #import <label> @nobody\n"""'

    def show(kind="display_data", **data):
        extra = {"execution_count": 1} if kind == "execute_result" else {}
        return nbf.new_output(kind, data={key.replace("_", "/", 1): value for key, value in data.items()}, **extra)

    widget = nbf.new_output(
        "display_data", data={"application/vnd.jupyter.widget-view+json": {}, "text/plain": "WIDGET"}
    )
    remote = (
        "![far](https://example.org/a.png) <img src='//example.org/b.png'> <script src='https://x.org/c.js'></script>"
    )
    cells = [
        nbf.new_markdown_cell("# An exploration\nwith @property and [a link](https://example.org)\n- and a list"),
        nbf.new_markdown_cell(f"## Data\n```python\nunclosed\n::: {{.x}}\n\n{remote}"),
        nbf.new_markdown_cell("## Data\n\\begin{align}x &= 1\\end{align} costs $5", attachments={}),
        nbf.new_markdown_cell("![here](attachment:a%20b.png)", attachments={"a b.png": {"image/png": png}}),
        nbf.new_code_cell(
            tricky, outputs=[nbf.new_output("stream", name="stdout", text="50%\r100%\x1b[31m done\x1b[0m")]
        ),
        nbf.new_code_cell("frame", outputs=[show("execute_result", text_html=frame._repr_html_(), text_plain="PLAIN")]),
        nbf.new_code_cell("plot", outputs=[show(image_png=png, text_plain="FIGURE")]),
        nbf.new_code_cell("tex", outputs=[show("execute_result", text_latex="$\\frac{x}{2}$", text_plain="TEXPLAIN")]),
        nbf.new_code_cell("warn", outputs=[nbf.new_output("stream", name="stderr", text="STDERR"), widget]),
        nbf.new_code_cell(
            "1/0", outputs=[nbf.new_output("error", ename="E", evalue="v", traceback=["\x1b[31mZeroDivision\x1b[0m"])]
        ),
        nbf.new_code_cell("NEVER", metadata={"tags": ["remove_cell"]}),
        nbf.new_code_cell("NOINPUT", metadata={"tags": ["remove_input"]}, outputs=[show(text_plain="kept")]),
        nbf.new_code_cell("noout", metadata={"tags": ["remove-output"]}, outputs=[show(text_plain="NOOUTPUT")]),
    ]
    return nbf.new_notebook(cells=cells)


def test_a_foreign_notebook_becomes_a_paper(foreign):
    for text in (words(html(foreign)), pdf_words(foreign)):
        assert "an exploration" in text.lower()
        for kept in ("@property", "$raw$ #import", "100% done", "ann", "1.5", "ZeroDivision", "kept", "costs $5"):
            assert kept in text.replace("&lt;", "<"), kept
        for dropped in ("50%", "PLAIN", "FIGURE", "STDERR", "WIDGET", "NEVER", "NOINPUT", "NOOUTPUT", "TEXPLAIN"):
            assert dropped not in text, dropped
    assert html(foreign).count("<img") == 2 and "<table" in html(foreign)
