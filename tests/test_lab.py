"""JupyterLab as `make lab` starts it, used as a person would: train, stop, compare, copy, look inside, export a PDF."""

import io
import json
import re
import socket
import subprocess
import sys
import time
import urllib.request

import pypdf
import pytest
from reference import pdf_text, until
from ruamel.yaml import YAML
from test_report import ROOT, environment, make_project

from fmnist.plots.style import COLORS
from fmnist.study import Study

HARMLESS = re.compile(r"favicon|ResizeObserver loop")

sync_api = pytest.importorskip("playwright.sync_api")
sync_api.expect.set_options(timeout=60_000)


@pytest.fixture(scope="module")
def lab(tmp_path_factory, data_set):
    """The address of a JupyterLab in a project of its own with an empty store, and that project's folder."""
    folder = tmp_path_factory.mktemp("lab")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    make_project(folder, "smoke")
    own = environment(folder) | {"HOME": str(folder / "home")}
    own |= {"JUPYTER_CONFIG_DIR": str(folder / "config"), "JUPYTER_RUNTIME_DIR": str(folder / "runtime")}
    command = [sys.executable, "-m", "jupyterlab", f"--config={ROOT / 'jupyter_server_config.py'}", "--no-browser"]
    command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=secret"]
    (folder / "home").mkdir()
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([*command, "--allow-root"], cwd=folder, env=own, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status?token=secret", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}", folder
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def page(chromium, lab):
    """A page on the notebook with which JupyterLab opens; afterwards nothing may be in the console."""
    address, _ = lab
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1180, "height": 1500}, accept_downloads=True)
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address)
        page, errors = context.new_page(), []
        page.set_default_timeout(60_000)
        page.on("console", lambda m: errors.append(f"{m.text} {m.location['url']}") if m.type == "error" else None)
        page.on("dialog", lambda dialog: dialog.accept())  # leaves a notebook that is not saved
        page.on("pageerror", lambda error: errors.append(str(error)))
        news = page.get_by_text("official Jupyter news")
        page.add_locator_handler(news, lambda: page.get_by_role("button", name="No", exact=True).click())
        page.goto(f"{address}/?token=secret")
        yield page
        browser.close()
    assert [error for error in errors if not HARMLESS.search(error)] == []


def menu(page, *names: str) -> None:
    """Choose an entry of the menu bar."""
    page.locator(".lm-MenuBar-itemLabel", has_text=re.compile(f"^{names[0]}$")).click()
    for name in names[1:]:
        page.locator(".lm-Menu-itemLabel", has_text=re.compile(f"^{name}$")).last.click()


def shown(page):
    """The notebook in view."""
    return page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")


def run_all(page, seconds: int = 120) -> None:
    """Run All Cells, and wait until all have run; none may have failed. Cells out of view need not be in the page."""
    status = shown(page).locator(".jp-Notebook-ExecutionIndicator")
    sync_api.expect(status).to_have_attribute("data-status", "idle")
    menu(page, "Run", "Run All Cells")
    sync_api.expect(shown(page).locator(".jp-InputPrompt", has_text=re.compile(r"^\[1\]:$"))).to_be_attached()
    sync_api.expect(status).to_have_attribute("data-status", "idle", timeout=1_000 * seconds)
    sync_api.expect(shown(page).locator(".jp-InputPrompt", has_text="[*]:")).to_have_count(0)
    assert shown(page).locator("[data-mime-type='application/vnd.jupyter.stderr']").all_inner_texts() == []
    assert shown(page).locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0


def colors(page) -> set[str]:
    """Of the lines in the plot."""
    plot = shown(page).locator("img.widget-image").first  # its address ends when it is drawn anew: one step reads both
    svg = plot.evaluate("(image) => fetch(image.src).then((answer) => answer.text())")
    return {color for color in COLORS if color.lower() in svg.lower()}


def field(page, name: str):
    return shown(page).locator(".widget-inline-hbox", has_text=re.compile(f"^{name}")).locator("input, select").first


def says(page, text: str, seconds: int = 120) -> None:
    sync_api.expect(shown(page).get_by_text(re.compile(text)).first).to_be_visible(timeout=1_000 * seconds)


def test_it_opens_on_the_welcome_notebook_with_a_kernel_and_saved_it_stays_as_it_was(page, lab):
    sync_api.expect(shown(page).locator("h1", has_text="Welcome")).to_be_visible()
    sync_api.expect(page.locator(".jp-Notebook-ExecutionIndicator[data-status='idle']").first).to_be_attached()
    path = lab[1] / "notebooks" / "welcome.ipynb"
    before, begin = path.read_bytes(), path.stat().st_mtime_ns
    page.wait_for_timeout(5_000)  # JupyterLab puts into it what its kernel says of itself
    menu(page, "File", "Save Notebook")
    while path.stat().st_mtime_ns == begin:
        page.wait_for_timeout(200)
    assert path.read_bytes() == before


def test_two_trials_are_trained_live_one_is_stopped_and_both_are_compared(page, lab):
    shown(page).get_by_role("link", name="explore").click()
    sync_api.expect(shown(page).locator("h1", has_text="Explore")).to_be_visible()
    page.locator(".jp-SideBar.jp-mod-left .lm-TabBar-tab.lm-mod-current").click()  # folds the list of files away
    run_all(page)
    button = shown(page).get_by_role("button", name="Train")
    field(page, "epochs").fill("4")
    plot = shown(page).locator("img.widget-image").first
    button.click()
    says(page, r"^epoch \d+ of 4")
    first = plot.get_attribute("src")
    says(page, "^finished")
    assert plot.get_attribute("src") != first  # one picture, updated in place
    field(page, "optimizer").select_option("Adam")
    field(page, "lr").fill("0.001")
    field(page, "epochs").fill("300")
    field(page, "epochs").press("Tab")
    button.click()
    says(page, r"^epoch [2-9] of 300")
    shown(page).get_by_role("button", name="Stop").click()
    says(page, r"^stopped; kept as runs of")
    table = shown(page).locator(".widget-html table").first
    sync_api.expect(table.locator("tbody tr")).to_have_count(2)
    records = [json.loads(path.read_text()) for path in (lab[1] / "runs").glob("[!.]*/run.json")]
    assert len(records) == 6 and {r["config"]["optimizer"] for r in records} == {"SGD", "Adam"}
    assert all(r["config"]["epochs"] < 300 for r in records)


def test_train_is_in_sight_and_the_curves_stand_beside_the_form(page):
    tall = page.viewport_size
    page.set_viewport_size({"width": 1280, "height": 800})
    train, plot = shown(page).get_by_role("button", name="Train"), shown(page).locator("img.widget-image").first
    train.evaluate("(button) => button.closest('.jp-OutputArea-output').scrollIntoView()")
    page.wait_for_timeout(500)
    (button, form, curves) = (each.bounding_box() for each in (train, field(page, "epochs"), plot))
    assert button["y"] > 0 and button["y"] + button["height"] < 800
    assert curves["x"] > form["x"] + form["width"] and curves["y"] > 0 and curves["y"] + curves["height"] < 800
    assert curves["x"] + curves["width"] < 1280
    page.set_viewport_size(tall)


def test_a_trial_keeps_its_color_while_it_is_shown_and_is_copied_with_the_others_as_a_study(page):
    rows = shown(page).locator(".dt-scroll-body tbody tr")
    sync_api.expect(rows).to_have_count(2)
    assert colors(page) == {*COLORS[:2]}
    rows.nth(0).click()  # the newest, which came second
    says(page, "three runs picked")
    until(lambda: colors(page) == {COLORS[1]}, 60)  # the picture comes after the words
    rows.nth(1).click(modifiers=["Control"])
    says(page, "six runs picked")
    shown(page).get_by_role("button", name="Copy as study").click()
    sync_api.expect(shown(page).get_by_role("button", name="Copied")).to_be_visible()
    text = page.evaluate("navigator.clipboard.readText()")
    study = Study(**YAML(typ="safe").load(text))
    assert len(study.trials) == 2 and len(study.configs) == 6


def test_the_network_is_opened_up(page):
    for name in ("Most confused", "First-layer weights", "Layers"):
        shown(page).locator(".lm-TabBar-tabLabel", has_text=re.compile(f"^{name}$")).click()
        sync_api.expect(shown(page).locator(".widget-tab-contents img:visible")).to_have_count(1)
    shown(page).locator(".lm-TabBar-tabLabel", has_text="Draw or pick").click()
    says(page, "^It is:")
    canvas = shown(page).locator("canvas.fmnist-sketch")
    shown(page).get_by_role("button", name="Clear").last.click()
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 40)
    page.mouse.down()
    for x, y in ((160, 40), (160, 180), (60, 180), (60, 40), (110, 100)):
        page.mouse.move(box["x"] + x, box["y"] + y, steps=5)
    page.mouse.up()
    says(page, "^Drawn by hand")


def test_the_runs_are_listed_compared_and_opened(page, lab):
    page.goto(f"{lab[0]}/lab/tree/notebooks/runs.ipynb?token=secret")
    sync_api.expect(shown(page).locator("h1", has_text="Runs")).to_be_visible()
    run_all(page)
    rows = shown(page).locator(".dt-scroll-body tbody tr")
    sync_api.expect(rows).to_have_count(6)
    sync_api.expect(shown(page).get_by_role("button", name="Copy as study")).to_be_disabled()  # nothing is picked
    heads = shown(page).locator(".dt-scroll-head th .dt-column-title")
    names = heads.all_inner_texts()
    assert names[:3] == ["run id", "test (%)", "validation (%)"] and "batch size" not in names  # they have one
    assert rows.nth(0).locator(".dtfc-fixed-start").count() == 3
    heads.nth(1).click()  # on its text
    head = shown(page).locator(".dt-scroll-head th").nth(1)
    sync_api.expect(head).to_have_attribute("aria-sort", "ascending")
    scores = [float(text) for text in rows.locator("td:nth-child(2)").all_inner_texts()]
    assert scores == sorted(scores)
    rows.nth(0).click()
    rows.nth(5).click(modifiers=["Shift"])
    says(page, "six runs picked")
    shown(page).get_by_role("button", name="Compare").click()
    sync_api.expect(shown(page).locator(".widget-html table tbody tr")).to_have_count(2)
    shown(page).get_by_role("button", name="Open network").click()
    says(page, "^Inside")


def test_a_study_is_run_and_exported_to_pdf_by_the_menu(page, lab):
    path = lab[1] / "notebooks" / "shape.ipynb"
    quick = '\\"epochs\\": 1, \\"val_size\\": 59000'
    path.write_text(path.read_text("utf-8").replace('\\"epochs\\": 10', quick), "utf-8")
    page.goto(f"{lab[0]}/lab/tree/notebooks/shape.ipynb?token=secret")
    sync_api.expect(shown(page).locator("h1", has_text="Network shape")).to_be_visible()
    run_all(page, 600)
    menu(page, "File", "Save Notebook")
    with page.context.expect_event("request", lambda request: "/nbconvert/" in request.url) as asked:
        menu(page, "File", "Save and Export Notebook As", "Homework_pdf")
    # The tab that asked closes with its download, so that the test asks again.
    answer = page.context.request.get(f"{asked.value.url}&token=secret", timeout=120_000)
    assert answer.ok and "shape.pdf" in answer.headers["content-disposition"]
    text = pdf_text(pypdf.PdfReader(io.BytesIO(answer.body())))
    assert "NETWORK SHAPE" in text and "Figure 1" in text
