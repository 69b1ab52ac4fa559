"""What a reader of a paper relies on: from disk, in Chromium, without network, in both themes, without script; and
numbers, references, alternatives, one file, the same bytes again.
"""

import copy
import io
import json
import re
from pathlib import Path

import foreign
import nbformat.v4 as nbf
import pandas as pd
import pypdf
import pytest
from nbformat import NotebookNode
from reference import page_text, pdf_figures, pdf_text

from fmnist.config import UserError
from fmnist.paper import publish
from fmnist.paper.exporters import HomeworkHTML, HomeworkPDF
from fmnist.paper.report import index

THEMES = ["light", "dark"]
REFERENCES = "See @fig-curve, @tbl-scores, @eq-loss, @sec-second and [@bishop2006].\n\n$$L = \\sum_i x_i$$ {#eq-loss}"
SCORES = """| Trial | Test (%) [95 %] | p | Steps |
|:--|--:|--:|--:|
| 3 × 42 | 87.7 [87.2, 88.1] | < 0.001 | 1,200 |
| 1 × 128 | 9.8 ± 0.1 | – | $10^{-3}$ |
| 12 × 7 | −1.5 | 0.02 | 900 |
| 2 × 64 | diverged (2 of 6) | 0.3 | 1,100.5 |
"""
LONG = "\n\n".join(f"Paragraph {i} says something at some length, so that there is text to scroll." for i in range(40))


def marked(form: str, data: str, **mark) -> NotebookNode:
    return nbf.new_output("display_data", data={form: data}, metadata={"fmnist": mark})


def paper() -> NotebookNode:
    """A small report of ours: two notebooks merged."""
    about = {"label": "fig-curve", "caption": "A *curve*.", "alt": "It falls, then rises."}
    curve = marked("image/svg+xml", foreign.picture("svg"), role="figure", **about)
    scores = marked("text/markdown", SCORES, role="table", label="tbl-scores", caption="The scores.")
    cells = [
        nbf.new_markdown_cell(f"# First {{#sec-first}}\n\n{REFERENCES}\n\n{LONG}", id="one-title"),
        nbf.new_code_cell("from x import y", id="one-imports"),
        nbf.new_code_cell("z = 1", id="one-9f3", metadata={"tags": ["injected-parameters"]}),
        nbf.new_code_cell("show(curve)", id="one-curve", outputs=[curve]),
        nbf.new_markdown_cell(f"# Second {{#sec-second}}\n\nThe second section.\n\n{LONG}", id="two-title"),
        nbf.new_code_cell("table(scores)", id="two-table", outputs=[scores]),
        nbf.new_markdown_cell(LONG, id="two-end"),
    ]
    for cell in cells:
        notebook, name = cell.id.split("-")
        cell.metadata["fmnist"] = {"shift": 0, "notebook": notebook, "cell": name}
    authors = [{"name": "Ann Author", "email": "ann@example.org"}]
    about = {"title": "A Paper", "authors": authors, "abstract": "Short, see @fig-curve."}
    about |= {"date": "May 4, 2026", "timestamp": 1777852800}
    return nbf.new_notebook(cells=cells, metadata={"fmnist": about})


PLACE = {"metadata": {"path": Path(__file__).parents[1] / "notebooks"}}  # report/references.bib is near


def html(nb: NotebookNode) -> str:
    return HomeworkHTML().from_notebook_node(nb, PLACE)[0]


def pdf(nb: NotebookNode) -> pypdf.PdfReader:
    return pypdf.PdfReader(io.BytesIO(HomeworkPDF().from_notebook_node(nb, PLACE)[0]))


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """Pages on disk by name: the paper, the foreign notebooks, and the page that lists reports."""
    folder = tmp_path_factory.mktemp("pages")
    notebooks = {"paper": paper()} | {name: make() for name, make in foreign.NOTEBOOKS.items()}
    for name, notebook in notebooks.items():
        (folder / f"{name}.html").write_text(html(notebook), "utf-8")
    (folder / "paper.pdf").write_bytes(b"%PDF")
    (folder / "paper.json").write_text(json.dumps({"title": "A <Paper>", "date": "May 4, 2026"}))
    (folder / "other.json").write_text("{}")  # no report
    (folder / "index.html").write_text(index(folder), "utf-8")
    return {path.stem: path for path in folder.glob("*.html")}


@pytest.fixture(scope="module")
def browser(chromium):
    with pytest.importorskip("playwright.sync_api").sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, pages):
    """Opens a page by name with the network cut off; what it asks for or complains about fails the test."""
    contexts, asked, complaints = [], [], []

    def visit(name: str = "paper", theme: str = "light", width: int = 1400, **options):
        size = {"width": width, "height": 900}
        context = browser.new_context(offline=True, color_scheme=theme, viewport=size, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(pages[name].as_uri())
        return page

    yield visit
    for context in contexts:
        context.close()
    assert [url[:80] for url in asked if not url.startswith(("file:", "data:"))] == []
    assert complaints == []


def violations(page) -> list[str]:
    """What axe-core, with all of its rules, finds wrong."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page).response["violations"]
    return [f"{rule['id']}: {node['html'][:200]}" for rule in found for node in rule["nodes"]]


BOTH = [(name, theme) for name in ("paper", "index") for theme in THEMES]


@pytest.mark.parametrize(("name", "theme"), [*BOTH, *zip(foreign.NOTEBOOKS, 2 * THEMES, strict=True)])
def test_axe_finds_nothing_wrong(opened, name, theme):
    for width in (1400, 390):
        page = opened(name, theme, width)
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing sticks out


@pytest.mark.parametrize("theme", THEMES)
def test_axe_finds_nothing_wrong_with_what_opens(opened, theme):
    page = opened(theme=theme)
    page.locator("main a.reference").first.hover()
    page.locator(".preview").wait_for()
    assert violations(page) == []
    page.locator(".enlarge").click()
    assert violations(page) == []


def test_the_contents_mark_the_section_being_read(opened):
    page = opened()
    current = page.locator("nav [aria-current=location]")
    assert current.count() == 0  # the title and the abstract are in no section
    for section in ("sec-second", "sec-first"):
        page.locator(f"nav a[href='#{section}']").click()
        page.wait_for_function(f"document.querySelector('nav [aria-current]')?.hash === '#{section}'")
        assert current.count() == 1
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.wait_for_function("document.querySelector('nav [aria-current]')?.hash === '#references'")


def paper_color(page) -> str:
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_the_theme_is_the_devices_until_the_reader_chooses(opened):
    page = opened(theme="dark")
    dark, button = paper_color(page), page.locator("button.theme")
    assert button.inner_text() == "Light theme"
    button.click()
    light = paper_color(page)
    assert light != dark and button.inner_text() == "Dark theme"
    page.reload()
    assert paper_color(page) == light
    page.locator("button.theme").click()
    page.emulate_media(color_scheme="light")  # chosen what the device had: now as the device again
    assert paper_color(page) == light


def test_pictures_of_others_stand_on_white_in_the_dark_and_ours_do_not(opened):
    background = "getComputedStyle(document.querySelector('main img')).backgroundColor"
    assert opened("lecture", theme="dark").evaluate(background) == "rgb(255, 255, 255)"
    assert opened(theme="dark").evaluate(background) == "rgba(0, 0, 0, 0)"


def test_a_figure_enlarges_by_keyboard_and_focus_comes_back(opened):
    page = opened()
    page.locator(".enlarge").focus()
    small = page.locator("main figure img").bounding_box()["width"]
    page.keyboard.press("Enter")
    dialog = page.locator("dialog")
    assert dialog.is_visible() and dialog.get_attribute("aria-label") == "Figure\u00a01."
    assert dialog.locator("img").get_attribute("alt") == "It falls, then rises."
    assert dialog.locator("img").bounding_box()["width"] > 1.5 * small and "A curve." in dialog.inner_text()
    assert page.evaluate("document.activeElement.textContent") == "Close"
    page.keyboard.press("Escape")
    assert dialog.is_hidden() and page.evaluate("document.activeElement.className") == "enlarge"
    page.locator(".enlarge").click()
    dialog.click()
    assert dialog.is_hidden()


RISING = [
    ["1 × 128", "2 × 64", "3 × 42", "12 × 7"],
    ["12 × 7", "1 × 128", "3 × 42", "2 × 64"],  # 2 × 64 diverged
    ["3 × 42", "12 × 7", "2 × 64", "1 × 128"],  # 1 × 128 has no p
    ["1 × 128", "12 × 7", "2 × 64", "3 × 42"],
]


def test_a_table_sorts_by_value(opened):
    page = opened()
    rows = page.locator("#tbl-scores tbody tr td:first-child")

    def order() -> list[str]:
        return [text.replace("\N{NO-BREAK SPACE}", " ") for text in rows.all_inner_texts()]

    for column, rising in enumerate(RISING):
        head = page.locator("#tbl-scores th").nth(column)
        assert head.get_attribute("aria-sort") is None
        head.locator("button").click()
        assert order() == rising and head.get_attribute("aria-sort") == "ascending"
        head.locator("button").focus()
        page.keyboard.press("Enter")
        last = {1: ["2 × 64"], 2: ["1 × 128"]}.get(column, [])  # words and gaps stay last
        assert order() == [row for row in rising[::-1] if row not in last] + last
        assert head.get_attribute("aria-sort") == "descending" and page.locator("[aria-sort]").count() == 1


SHOWN = {
    "fig-curve": "A curve.",
    "tbl-scores": "87.7 [87.2, 88.1]",
    "eq-loss": "(1)",
    "sec-second": "The second section.",
    "ref-bishop2006": "Pattern",
}


@pytest.mark.parametrize("target", SHOWN)
def test_a_reference_shows_its_target_by_mouse_and_by_keyboard(opened, target):
    page = opened()
    link, preview = page.locator(f"main a[href='#{target}']").first, page.locator(".preview")
    assert preview.is_hidden()
    link.hover()
    preview.wait_for()
    assert SHOWN[target] in preview.inner_text()
    assert preview.locator("a, button, [id], [tabindex]").count() == 0
    page.keyboard.press("Escape")
    assert preview.is_hidden() and link.get_attribute("aria-describedby") is None
    page.keyboard.press("Tab")  # so that focus comes from the keyboard
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    link.focus()
    page.wait_for_timeout(200)  # focus scrolled the page, and what it shows has come along
    assert preview.is_visible() and link.get_attribute("aria-describedby") == "preview"


def test_code_is_folded_beneath_what_it_made_with_a_link_to_its_cell(opened):
    page = opened()
    fold = page.locator("figure#fig-curve + details.code")
    assert fold.get_attribute("open") is None and fold.locator("pre").count() == 3
    links = [link.get_attribute("href") for link in fold.locator(".source a").all()]
    assert links == [f"../notebooks/one.ipynb#cell-id={cell}" for cell in ("imports", "curve")]
    foreign_page = opened("lecture")
    assert foreign_page.locator("details.code .source").count() == 0
    assert foreign_page.locator("details.code + p math").count() > 0  # above its output, as in Jupyter


@pytest.mark.parametrize("name", ["paper", "index", "lecture"])
def test_without_script_all_is_there_and_no_control_is_dead(opened, name):
    page = opened(name, java_script_enabled=False)
    assert page.locator("button, dialog, .preview").count() == 0
    assert all(image.is_visible() for image in page.locator("img").all())
    if name == "paper":
        assert page.get_by_text("The scores.").is_visible() and page.locator("nav a").first.is_visible()
        page.locator("details.code summary").first.click()
        assert page.get_by_text("show(curve)").is_visible()


def test_print_is_the_paper_alone(opened):
    page = opened(theme="dark")
    page.locator("button.theme").click()
    page.locator("button.theme").click()
    page.emulate_media(media="print", color_scheme="dark")
    assert paper_color(page) == "rgb(255, 255, 255)"
    hidden = [*page.locator("nav, .skip, .theme, details.code, dialog").all()]
    assert hidden and not any(each.is_visible() for each in hidden)
    assert page.locator("#tbl-scores").is_visible() and page.locator("figure img").first.is_visible()


def test_the_page_of_reports_is_made_of_what_lies_there(pages):
    folder, page = pages["paper"].parent, pages["index"].read_text("utf-8")
    assert index(folder) == page
    items = re.findall(r"<li>(.*?)</li>", page, re.S)
    assert items[0].startswith("A &lt;Paper&gt;, May 4, 2026:")
    assert re.findall(r'href="(.*?)"', items[0]) == ["paper.html", "paper.pdf"]
    others = {f"{name}:" for name in foreign.NOTEBOOKS}  # rendered by themselves: there is no record
    assert {item.split(" <")[0] for item in items[1:]} == others


KEPT = {
    "competition": ["Beating the Baseline", "Models and more", "boosting", "epoch 59", "feature_13", "INTERACTIVE"],
    "lecture": ["Damped Oscillations", "Solution", "1,234.5", "Exercise", "costs $5 or $6", "foo"],
    "hostile": ["@property", "$raw$ #import", "100% done", "kept", "costs $5"],
    "diary": ["ΔT", "façade", "Ελληνικά", "# not a heading", "[1] 1 2", "nothing  fits", "value value"],
}
DROPPED = ["100%|", "PLAIN", "RAWCELL", "yellow", "50%", "STDERR", "WIDGET", "NEVER", "NOINPUT", "NOOUTPUT"]
PICTURES = {"competition": 1, "lecture": 1, "diary": 3, "hostile": 1}


@pytest.mark.parametrize("name", foreign.NOTEBOOKS)
def test_notebooks_in_other_styles_become_papers(name, pages):
    page = pages[name].read_text("utf-8")
    text = re.sub(r"<(style|script|annotation)\b.*?</\1>|<[^>]+>", "", page, flags=re.S)
    printed = pdf_text(reader := pdf(foreign.NOTEBOOKS[name]()))
    for words in KEPT[name]:
        assert words in text.replace("&lt;", "<"), words
        plain = re.sub(r"\W", "", words).lower()
        assert plain in re.sub(r"\W", "", printed).lower(), words
    assert [words for words in DROPPED if words in text + printed] == []
    assert page.count("<img") == PICTURES[name] == len(list(filter(None, pdf_figures(reader))))
    assert "<script" not in page.replace("<script>", "", 1)


@pytest.fixture
def report():
    return paper()


def test_references_and_citations_say_the_same_in_html_and_pdf(report):
    for text in (page_text(html(report), between=""), pdf_text(pdf(report))):
        assert "See Figure 1, Table 1, Equation (1), Section 2 and [1]." in text
        assert re.search(r"\[1\] ?C\. M\. Bishop, Pattern recognition and machine learning, Springer, 2006\.", text)
    assert 'href="#ref-bishop2006"' in html(report)


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


def test_a_label_that_stands_twice_is_named(report):
    report.cells.append(copy.deepcopy(next(cell for cell in report.cells if "fig-curve" in str(cell.get("outputs")))))
    with pytest.raises(UserError, match="twice.*fig-curve"):
        html(report)


def test_a_notebook_hides_references_and_its_paper_has_those_to_what_is_there(report, published):
    publish.say("So (@fig-curve), or [@bishop2006]; see (@sec-nowhere and @eq-loss) (@tbl-none) (@fig-curve is).")
    shown = published[0].data["text/markdown"]
    assert re.sub("<!--.*?-->", "", shown) == "So, or; see (@fig-curve is)."
    report.cells[0].source += f"\n\n{shown}"
    assert "So (Figure 1), or [1]; see (Equation (1)) (Figure 1 is)." in page_text(html(report), between="")


def test_html_is_one_file_that_loads_nothing(pages):
    """`opened` and test_answers see that the scripts ask for nothing."""
    for path in pages.values():
        page = re.sub("<script>.*?</script>", "", path.read_text("utf-8"), flags=re.S)
        assert not re.search(r"""(?:src|srcset|poster|data)\s*=\s*["']?(?:https?:)?//""", page)
        assert not re.search(r"<script|<iframe|<link|@import|url\(\s*[\"']?(?!data:|[\"']?data:)", page)
        assert '<html lang="en">' in page and "<main" in page


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
        publish.show(foreign.curve(), label=label, caption="c", alt="a")


def test_table_aligns_numbers_right_and_refuses_unknown_columns(published):
    frame = pd.DataFrame({"name": ["a|b", "c"], "x": [1.5, None], "share": ["12 %", "3.0 ± 0.1"]})
    publish.table(frame, label="tbl-x", caption="c")
    table = published[0]
    assert re.search(r"^\|:-+\|-+:\|-+:\|$", table.data["text/markdown"], re.M)
    assert r"a\|b" in table.data["text/markdown"] and "–" in table.data["text/markdown"]
    with pytest.raises(UserError, match="'y'"):
        publish.table(frame, label="tbl-x", caption="c", formats={"y": "{}"})
