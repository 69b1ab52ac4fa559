"""What a reader of the rendered paper relies on: numbers, references, alternatives, one file, the same bytes again."""

import io
import re

import matplotlib.pyplot as plt
import nbformat.v4 as nbf
import pandas as pd
import pypdf
import pytest
from foreign import hostile
from reference import pdf_text

from fmnist.config import UserError
from fmnist.paper import publish
from fmnist.paper.exporters import TEMPLATES, HomeworkHTML, HomeworkPDF

FILES = ("homework.js", "d3.js", "figures.js")
SCRIPTS = [f"<script>{(TEMPLATES / name).read_text('utf-8')}</script>" for name in FILES]
REFERENCES = "MARK @fig-curve, @fig-second, @tbl-scores, @eq-loss, @sec-first and @sec-second END"


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
    publish.show(curve("C1"), label="fig-second", caption="Another, see @fig-curve.", alt="It does the same.")
    equation = "$$ L = \\sum_i \\log p_i $$ {#eq-loss}"
    cells = [
        nbf.new_markdown_cell(f"# First {{#sec-first}}\n\n{REFERENCES}\n\n{equation}"),
        nbf.new_code_cell("HIDDEN = 'in PDF'", outputs=published[:-2]),
        nbf.new_markdown_cell("# Second {#sec-second}\n\nSee @sec-first."),
        nbf.new_code_cell("x = 1", outputs=published[-2:]),
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


def test_references_say_the_same_in_html_and_pdf(report):
    expected = "MARK Figure 1, Figure 2, Table 1, Equation (1), Section 1 and Section 2 END"
    assert expected in words(html(report))
    assert expected in pdf_text(pdf(report))


@pytest.mark.parametrize("kind", [HomeworkHTML, HomeworkPDF])
def test_a_reference_to_nothing_is_named_with_its_place(report, kind):
    report.cells[2].source += " And @fig-nothing."
    with pytest.raises(UserError, match=r"@fig-nothing \(in notebook two, cell two-text\)"):
        kind().from_notebook_node(report)
    report.metadata["fmnist"]["abstract"] = "See @tbl-nothing."
    with pytest.raises(UserError, match=r"@tbl-nothing \(in report.yaml\)"):
        kind().from_notebook_node(report)


def test_no_line_ends_within_a_number_and_its_sign(report):
    report.cells[0].source += "\n\nOf 95 % it is p < 0.05, for 28 × 28 pixels; lr = 0.1 and not so."
    shown = html(report).replace("&nbsp;", "~").replace("\N{NO-BREAK SPACE}", "~")
    assert "Of 95~% it is p~&lt;~0.05, for 28~×~28 pixels; lr~=~0.1 and not so." in shown


def test_a_label_that_stands_twice_and_a_missing_bibliography_are_named(report):
    report.cells[3].outputs[0].metadata["fmnist"]["label"] = "fig-curve"
    with pytest.raises(UserError, match="twice.*fig-curve"):
        html(report)
    report.metadata["fmnist"]["bibliography"] = "nowhere.bib"
    with pytest.raises(UserError, match="nowhere.bib"):
        html(report)


def test_citations_become_numbers_with_links_and_a_list(report):
    for text in (words(html(report)), pdf_text(pdf(report))):
        assert "Table 1 and [1]" in text
        assert re.search(r"\[1\] ?A\. Other, Steps, 2014\.", text)

    def links() -> int:
        return sum(len(page.get("/Annots") or []) for page in pdf(report).pages)

    assert 'href="#ref-kingma"' in html(report)
    cited = links()
    for output in report.cells[3].outputs + report.cells[1].outputs:
        if "[@kingma]" in output.get("data", {}).get("text/markdown", ""):
            output.data["text/markdown"] = output.data["text/markdown"].replace("[@kingma]", "a book")
    assert links() == cited - 1


def test_html_is_one_file_that_loads_nothing(report):
    for nb, needed in ((report, 3), (hostile(), 1)):  # without figures to draw there is nothing that draws
        page = html(nb)
        assert [page.count(script) for script in SCRIPTS] == [1, 1, 1][:needed] + [0, 0][: 3 - needed]
        for script in SCRIPTS:  # ours; test_reading and test_answers see that they ask for nothing
            page = page.replace(script, "")
        assert not re.search(r"""(?:src|srcset|poster|data)\s*=\s*["']?(?:https?:)?//""", page)
        assert not re.search(r"<script|<iframe|<link|@import|url\(\s*[\"']?(?!data:|[\"']?data:)", page)
        assert '<html lang="en">' in page and "<main" in page


@pytest.mark.parametrize("kind", [HomeworkHTML, HomeworkPDF])
def test_equal_notebooks_give_equal_bytes(report, kind):
    for notebook in (report, hostile()):
        assert kind().from_notebook_node(notebook)[0] == kind().from_notebook_node(notebook)[0]


def test_equal_figures_give_equal_svg():
    assert publish.svg(curve()) == (text := publish.svg(curve())) and "<text" not in text


def test_pdf_is_us_letter_with_title_author_and_no_code(report):
    reader = pdf(report)
    assert {(float(page.mediabox.width), float(page.mediabox.height)) for page in reader.pages} == {(612.0, 792.0)}
    assert (reader.metadata.title, reader.metadata.author) == ("A Paper", "Ann Author")
    first = reader.pages[0].extract_text()
    assert "A PAPER" in first and "A smoke run." in first and "HIDDEN" not in pdf_text(pdf(report))
    assert "HIDDEN" in html(report)


@pytest.mark.parametrize("label", ["curve", "fig-Curve", "tbl-curve", "fig-"])
def test_malformed_labels_are_refused(published, label):
    with pytest.raises(UserError, match="label"):
        publish.show(curve(), label=label, caption="c", alt="a")


def test_table_aligns_numbers_right_and_refuses_unknown_columns(published):
    frame = pd.DataFrame({"name": ["a|b", "c"], "x": [1.5, None], "share": ["12 %", "3.0 ± 0.1"]})
    publish.table(frame, label="tbl-x", caption="c")
    table = published[0]
    assert re.search(r"^\|:-+\|-+:\|-+:\|$", table.data["text/markdown"], re.M)
    assert r"a\|b" in table.data["text/markdown"] and "–" in table.data["text/markdown"]
    with pytest.raises(UserError, match="'y'"):
        publish.table(frame, label="tbl-x", caption="c", formats={"y": "{}"})
