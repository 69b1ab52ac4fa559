"""Figures that answer, on a desk and on a phone, in both themes: what they say is what the CSV beside them says."""

import csv
import io
import re
from pathlib import Path
from unittest import mock
from urllib.parse import unquote

import matplotlib.image
import nbformat.v4 as nbf
import numpy as np
import pytest
from nbformat import NotebookNode
from test_figures import NAMES, simulated_study
from test_reading import browser, opened, violations  # noqa: F401, fixtures

from fmnist.paper import publish
from fmnist.paper.exporters import HomeworkHTML
from fmnist.plots import figures

ROOT = Path(__file__).parents[1]
WIDE = "$$L = a_1 + a_2 + a_3 + a_4 + a_5 + a_6 + a_7 + a_8 + a_9 + a_{10} + a_{11} + a_{12} + a_{13}$$ {#eq-long}"
COLUMNS = ("Trial of the study", *(f"measured {i}" for i in range(6)))
TABLE = "\n".join(f"| {' | '.join(row)} |" for row in [COLUMNS, ["--"] * 7, *[["1 × 128, lr 0.1", *["88.75"] * 6]] * 3])
SGD = "SGD, lr 0.01"


def report() -> NotebookNode:
    """Curves and dots of one study in its section, the curves again in another, a heat map, a table, an equation."""
    runs, history = simulated_study()
    outputs: list = []

    def display(data, metadata, raw):
        outputs.append(nbf.new_output("display_data", data, metadata=metadata))

    with mock.patch.object(publish, "display", display):
        publish.show(figures.curves(history), "fig-curves", "Curves.", "Curves.")
        publish.show(figures.against(runs, by="trial"), "fig-dots", "Dots.", "Dots.")
        publish.show(figures.against(runs), "fig-against", "Against.", "Against.")
        publish.show(figures.confusion_matrix(np.eye(10) * 90 + 1, NAMES), "fig-heat", "Heat.", "Heat.")
        publish.show(figures.curves(history), "fig-other", "Others.", "Others.")
        publish.show(figures.image_grid(np.zeros((8, 28, 28)), NAMES[:8]), "fig-grid", "Pictures.", "Pictures.")
        sizes = figures.log_lines(runs[:2].assign(n=[1e5, 7e5]), "n", "test_loss", "variant", "trial", "log")
        publish.show(sizes, "fig-sizes", "Sizes.", "Sizes.")
    marks = {"role": "table", "label": "tbl-wide", "caption": "A wide table."}
    outputs.append(nbf.new_output("display_data", {"text/markdown": TABLE}, metadata={"fmnist": marks}))
    text = f"# A section whose title is as long as titles are {{#sec-one}}\n\n{WIDE}"
    cells = [nbf.new_markdown_cell(text), nbf.new_code_cell("1", outputs=outputs[:8])]
    cells += [nbf.new_markdown_cell("# Two {#sec-two}"), nbf.new_code_cell("2", outputs=outputs[8:])]
    for cell in cells:
        cell.metadata["fmnist"] = {"shift": 0, "notebook": "one", "cell": "x"}
    about = {"title": "Answers", "authors": [{"name": "Ann"}], "abstract": "Short.", "date": "May 4, 2026"}
    return nbf.new_notebook(cells=cells, metadata={"fmnist": about})


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    path = tmp_path_factory.mktemp("answers") / "paper.html"
    path.write_text(HomeworkHTML().from_notebook_node(report())[0], "utf-8")
    return {"paper": path}


@pytest.fixture
def drawn(opened):  # noqa: F811
    def visit(**options):
        page = opened(**options)
        page.locator("#fig-other .plot svg").first.wait_for()
        return page

    return visit


def rows(page, figure: str) -> list[dict[str, str]]:
    """The CSV that a reader can save."""
    link = page.locator(f"#{figure} + .origin a.data").get_attribute("href")
    return list(csv.DictReader(io.StringIO(unquote(link.split(",", 1)[1]))))


def middle(locator) -> tuple[float, float]:
    box = locator.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


@pytest.mark.parametrize(
    ("width", "panel", "column", "times"), [(1280, 0, "train_loss", 1), (390, 1, "val_accuracy", 100)]
)
def test_a_curve_says_value_seed_and_run_as_the_csv_has_them(drawn, width, panel, column, times):
    page = drawn(width=width, has_touch=width < 400)
    own = page.locator("#fig-curves .panel").nth(panel).locator(f"[data-group='{SGD}'] .symbol").last  # of epoch 4
    own.scroll_into_view_if_needed()
    (page.mouse.move if width > 400 else page.touchscreen.tap)(*middle(own))
    lines = page.locator("#fig-curves .tip li").all_inner_texts()
    behind = [row for row in rows(page, "fig-curves") if (row["trial"], row["epoch"]) == (SGD, "4")]
    expected = [f"seed {r['seed']} · {times * float(r[column]):#.4g} · run {r['run_id']}" for r in behind]
    assert len(lines) == 3 and lines == expected
    mean = np.mean([times * float(row[column]) for row in behind])
    said = page.locator("#fig-curves .tip").inner_text()
    assert SGD in said and "epoch 4" in said and f"{mean:#.4g} [" in said


def test_dots_and_means_say_their_seeds(drawn):
    page = drawn()
    for figure, marks in (("fig-dots", f"[data-group='{SGD}'] .symbol"), ("fig-against", "[data-group='SGD'] .symbol")):
        for mark in page.locator(f"#{figure}").locator(marks).all()[:2]:
            mark.scroll_into_view_if_needed()
            page.mouse.move(*middle(mark))
            lines = page.locator(f"#{figure} .tip li").all_inner_texts()
            known = {row["run_id"]: row for row in rows(page, figure)}
            assert len(lines) == 3
            for line in lines:
                seed, value, run = re.fullmatch(r"seed (\d) · ([\d.]+|–) · run (.+)", line).groups()
                row = known[run]
                assert row["seed"] == seed and (value == "–") == (row["test_accuracy"] == "")
                assert value == "–" or float(value) == pytest.approx(100 * float(row["test_accuracy"]), abs=0.006)


def test_a_figure_is_read_by_the_keyboard(drawn):
    page = drawn()
    page.locator("#fig-curves .panel > svg").nth(1).focus()
    tip, seen = page.locator("#fig-curves .tip"), []
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
        seen.append(tip.locator("p").first.inner_text())
    assert len({*seen}) == 3 and all("epoch" in text for text in seen)
    page.keyboard.press("Escape")
    assert tip.is_hidden()


def test_a_legends_entry_stands_out_everywhere_in_its_section(drawn):
    page = drawn()
    entry = page.locator("#fig-curves button.entry", has_text=SGD)
    entry.click()
    page.mouse.move(0, 0)
    assert entry.get_attribute("aria-pressed") == "true"
    for figure, dimmed in (("fig-curves", True), ("fig-dots", True), ("fig-other", False)):
        assert bool(page.locator(f"#{figure} [data-group='Adam, lr 0.01'].dim").count()) == dimmed
        assert page.locator(f"#{figure} [data-group='{SGD}'].dim").count() == 0
    entry.click()
    page.mouse.move(0, 0)
    assert page.locator(".dim").count() == 0


def test_a_phone_gets_figures_of_its_width_with_readable_text(drawn):
    page = drawn(width=390)
    for picture in page.locator(".panel > svg").all():
        assert 300 < picture.bounding_box()["width"] <= 390
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    sizes = page.locator(".plot text").evaluate_all("all => all.map((t) => parseFloat(getComputedStyle(t).fontSize))")
    assert min(sizes) >= 13
    wide = page.locator("#fig-dots text").evaluate_all("all => all.map((t) => t.getBoundingClientRect().right)")
    assert max(wide) <= 390
    ends = "all => all.map((t) => t.getBoundingClientRect()).map((box) => [box.left, box.right])"
    ticks = page.locator("#fig-sizes .plot g > text[text-anchor=middle]").evaluate_all(ends)
    assert len(ticks) > 2 and all(a[1] < b[0] for a, b in zip(ticks, ticks[1:], strict=False))


def test_a_tap_enlarges_a_picture_to_its_natural_size_to_be_moved_about(drawn):
    page = drawn(width=390, has_touch=True)
    page.locator("#fig-grid .enlarge").tap()
    view, image = page.locator("dialog .view"), page.locator("dialog img")
    natural = image.evaluate("(image) => image.naturalWidth")
    assert image.bounding_box()["width"] == pytest.approx(natural, abs=1) and natural > 400
    view.evaluate("(view) => view.scrollBy(150, 0)")
    assert view.evaluate("(view) => view.scrollLeft") == pytest.approx(min(150, natural - 358), abs=2)
    image.tap()
    assert page.locator("dialog").is_hidden()


def test_a_wide_table_keeps_its_rows_names_and_shows_that_it_goes_on(drawn):
    page = drawn(width=390)
    box, name = page.locator("#tbl-wide .scroll"), page.locator("#tbl-wide tbody td").first
    assert "gradient" in box.evaluate("(box) => getComputedStyle(box).backgroundImage")
    before = name.bounding_box()["x"]
    box.evaluate("(box) => box.scrollBy(120, 0)")
    assert box.evaluate("(box) => box.scrollLeft") > 100 and name.bounding_box()["x"] == pytest.approx(before, abs=1)
    head = page.locator("#tbl-wide th").first
    head.scroll_into_view_if_needed()
    on_top = "(head, [x, y]) => head.contains(document.elementFromPoint(x, y))"
    assert name.bounding_box()["width"] < 180 and head.evaluate(on_top, [*middle(head)])


def test_an_equation_never_overprints_its_number(drawn):
    page = drawn(width=390)
    math, number = page.locator("#eq-long math"), page.locator("#eq-long .number")
    last = math.locator("mi, mn").last.bounding_box()
    assert number.bounding_box()["x"] >= last["x"] + last["width"]


@pytest.mark.parametrize("figure", ["fig-curves", "fig-dots", "fig-heat"])
def test_no_figure_is_a_white_card_in_the_dark(drawn, figure):
    page = drawn(theme="dark")
    shot = matplotlib.image.imread(io.BytesIO(page.locator(f"#{figure}").screenshot()), format="png")[..., :3]
    assert (shot.min(-1) > 0.9).mean() < 0.01
    paper = np.array([22, 23, 26]) / 255
    assert (np.abs(shot - paper).max(-1) < 0.03).mean() > 0.4  # the page itself shows through


def test_print_and_no_script_have_the_pictures(drawn, opened):  # noqa: F811
    page = drawn(theme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator("#fig-curves > img").is_visible() and page.locator("#fig-curves .plot").is_hidden()
    plain = opened(java_script_enabled=False)
    assert plain.locator(".plot").count() == 0 and all(image.is_visible() for image in plain.locator("img").all())


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_wrong_with_figures(drawn, theme):
    for width in (1280, 390):
        page = drawn(theme=theme, width=width)
        page.locator("#fig-curves .panel > svg").first.focus()
        page.keyboard.press("ArrowRight")
        assert violations(page) == []


def test_script_and_page_keep_their_budgets(pages):
    page = pages["paper"].read_text("utf-8")
    scripts = re.findall(r"<script\b[^>]*>(.*?)</script>", page, re.S)
    assert sum(map(len, scripts)) < 100_000 and page.count("d3js.org") == 1
    for path in (ROOT / "report").glob("*.html"):
        page = path.read_text("utf-8")
        assert (
            len(page.encode()) < 4e6 and sum(map(len, re.findall(r"<script\b[^>]*>(.*?)</script>", page, re.S))) < 3e5
        )
