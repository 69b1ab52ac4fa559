"""What a reader of the rendered paper relies on: numbers, references, alternatives, one file, the same bytes again."""

import copy
import io
import re

import matplotlib.pyplot as plt
import pandas as pd
import pypdf
import pytest
from foreign import hostile
from reference import page_text, pdf_text
from test_reading import paper

from fmnist.config import UserError
from fmnist.paper import publish
from fmnist.paper.document import PAPER
from fmnist.paper.exporters import TEMPLATES, HomeworkHTML, HomeworkPDF

FILES = ("homework.js", "d3.js", "figures.js")
SCRIPTS = [f"<script>{(TEMPLATES / name).read_text('utf-8')}</script>" for name in FILES]


def curve():
    figure, axes = plt.subplots(figsize=(3, 2))
    axes.plot([1, 2, 3], [3, 1, 2])
    return figure


@pytest.fixture
def report(tmp_path):
    """Two notebooks of ours merged, the first of which refers to the other."""
    return paper(tmp_path)


def html(nb) -> str:
    return HomeworkHTML().from_notebook_node(nb)[0]


def pdf(nb) -> pypdf.PdfReader:
    return pypdf.PdfReader(io.BytesIO(HomeworkPDF().from_notebook_node(nb)[0]))


def test_references_and_citations_say_the_same_in_html_and_pdf(report):
    for text in (page_text(html(report)), pdf_text(pdf(report))):
        assert "See Figure 1, Table 1, Equation (1), Section 2 and [1]." in text
        assert re.search(r"\[1\] ?A\. Other, Steps, 2014\.", text)

    def links() -> int:
        return sum(len(page.get("/Annots") or []) for page in pdf(report).pages)

    assert 'href="#ref-kingma"' in html(report)
    cited = links()
    report.cells[0].source = report.cells[0].source.replace("[@kingma]", "a book")
    assert links() == cited - 1


@pytest.mark.parametrize("kind", [HomeworkHTML, HomeworkPDF])
def test_a_reference_to_nothing_is_named_with_its_place(report, kind):
    report.cells[4].source += " And @fig-nothing."
    with pytest.raises(UserError, match=r"@fig-nothing \(in notebook two, cell title\)"):
        kind().from_notebook_node(report)
    report.metadata["fmnist"]["abstract"] = "See @tbl-nothing."
    with pytest.raises(UserError, match=r"@tbl-nothing \(in report.yaml\)"):
        kind().from_notebook_node(report)


def test_no_line_ends_within_a_number_and_its_sign(report):
    report.cells[0].source += "\n\nOf 95 % it is p < 0.05, for 28 × 28 pixels; lr = 0.1 and not so."
    shown = html(report).replace("&nbsp;", "~").replace("\N{NO-BREAK SPACE}", "~")
    assert "Of 95~% it is p~&lt;~0.05, for 28~×~28 pixels; lr~=~0.1 and not so." in shown


def test_a_label_that_stands_twice_and_a_missing_bibliography_are_named(report):
    report.cells.append(copy.deepcopy(next(cell for cell in report.cells if "fig-curve" in str(cell.get("outputs")))))
    with pytest.raises(UserError, match="twice.*fig-curve"):
        html(report)
    report.metadata["fmnist"]["bibliography"] = "nowhere.bib"
    with pytest.raises(UserError, match="nowhere.bib"):
        html(report)


def test_a_notebook_hides_references_and_its_paper_has_them(monkeypatch):
    shown, text = [], "It is so (@fig-a), or [@wood]; see (@sec-b and @eq-c)."
    monkeypatch.setattr(publish, "display", lambda data, **_: shown.append(data["text/markdown"]))
    publish.say(text)
    assert re.sub("<!--.*?-->", "", shown[0]) == "It is so, or; see."
    assert PAPER.sub(r" \1", shown[0]) == text


def test_html_is_one_file_that_loads_nothing(report, tmp_path):
    (drawn := paper(tmp_path)).cells[3].outputs[0].metadata["fmnist"]["drawing"] = "{}"
    for nb, needed in ((drawn, 3), (report, 1), (hostile(), 1)):  # without figures to draw there is nothing that draws
        page = html(nb)
        assert [page.count(script) for script in SCRIPTS] == [1, 1, 1][:needed] + [0, 0][: 3 - needed]
        for script in SCRIPTS:  # ours; test_reading and test_answers see that they ask for nothing
            page = page.replace(script, "")
        assert not re.search(r"""(?:src|srcset|poster|data)\s*=\s*["']?(?:https?:)?//""", page)
        assert not re.search(r"<script|<iframe|<link|@import|url\(\s*[\"']?(?!data:|[\"']?data:)", page)
        assert '<html lang="en">' in page and "<main" in page


@pytest.mark.parametrize("kind", [HomeworkHTML, HomeworkPDF])
def test_equal_notebooks_and_figures_give_equal_bytes(kind):
    """Those of ours are made again in test_report."""
    assert kind().from_notebook_node(hostile())[0] == kind().from_notebook_node(hostile())[0]
    assert publish.svg(curve()) == (text := publish.svg(curve())) and "<text" not in text


def test_pdf_is_us_letter_with_title_author_date_and_outline_and_no_code(report):
    report.metadata["fmnist"]["notice"] = "A smoke run."
    reader = pdf(report)
    assert {(float(page.mediabox.width), float(page.mediabox.height)) for page in reader.pages} == {(612.0, 792.0)}
    assert (reader.metadata.title, reader.metadata.author) == ("A Paper", "Ann Author")
    assert f"{reader.metadata.creation_date:%Y-%m-%d}" == "2026-05-04"
    assert [entry.title for entry in reader.outline] == ["1. First", "2. Second", "References"]
    first = reader.pages[0].extract_text()
    assert "A PAPER" in first and "A smoke run." in first and "show(curve)" not in pdf_text(reader)
    assert "show(curve)" in html(report)


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
