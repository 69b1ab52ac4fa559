"""From parameters to paper: the smoke report as a user makes it, made again, and made with a notebook that fails."""

import html
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pypdf
import pytest

from fmnist.paper.report import Report

ROOT = Path(__file__).parents[1]
KERNEL = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}


def make_project(folder: Path) -> Path:
    """A project with the report `smoke` and nothing that was trained or rendered."""
    shutil.copytree(ROOT / "params" / "smoke", folder / "params" / "smoke")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".*"))
    (folder / "report").mkdir()
    shutil.copy(ROOT / "report" / "references.bib", folder / "report")
    return folder


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "FMNIST_RUNS": str(folder / "runs"), "JUPYTER_PREFER_ENV_PATH": "1"}


def report(folder: Path, name: str, limit: int) -> tuple[subprocess.CompletedProcess, float]:
    """`fmnist report name` in a project, and how many seconds it took."""
    begin = time.monotonic()
    command = [sys.executable, "-m", "fmnist.cli", "report", name, "--device", "cpu"]
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=limit)
    return done, time.monotonic() - begin


# --- the smoke report -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, data_set):
    """The project after `fmnist report smoke`, and what the command printed."""
    folder = make_project(tmp_path_factory.mktemp("smoke"))
    done, _ = report(folder, "smoke", limit=900)
    assert done.returncode == 0, done.stderr
    return folder, done


def report_of(folder: Path) -> Report:
    here = Path.cwd()
    os.chdir(folder)
    try:
        return Report("smoke", "cpu")
    finally:
        os.chdir(here)


def in_reports(folder: Path) -> list[Path]:
    """The notebooks but those that are for JupyterLab alone."""
    return [p for p in (folder / "notebooks").glob("*.ipynb") if p.stem not in ("welcome", "explore", "runs")]


def titles() -> list[str]:
    firsts = [nbformat.read(path, as_version=4).cells[0].source for path in in_reports(ROOT)]
    return [re.match(r"# (.+?)( \{#.*)?$", text.splitlines()[0])[1] for text in firsts]


def page_text(path: Path) -> str:
    """What the page says, without the notebooks' code, which is folded away."""
    page = re.sub(r"<(style|script|pre)\b.*?</\1>", " ", path.read_text("utf-8"), flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def pdf_text(reader: pypdf.PdfReader) -> str:
    return " ".join(" ".join(page.extract_text() for page in reader.pages).split())


def test_the_command_says_what_it_does(smoke):
    folder, done = smoke
    wanted = len(report_of(folder).configs)
    assert f"{wanted} runs: 0 in the store, {wanted} to train on cpu" in done.stderr
    assert {config.run_id for config in report_of(folder).configs} < {p.name for p in (folder / "runs").glob("[!.]*")}
    assert all(f": {path.stem}\n" in done.stderr for path in in_reports(folder))
    assert re.search(r"wrote report/smoke\.html \(.*wrote report/smoke\.pdf \(", done.stderr, re.S)
    assert "Warning" not in done.stderr and "Traceback" not in done.stderr


def test_the_paper_has_all_sections_and_nothing_that_failed(smoke):
    folder, _ = smoke
    reader = pypdf.PdfReader(folder / "report" / "smoke.pdf")
    page, paper = page_text(folder / "report" / "smoke.html"), pdf_text(reader)
    for text in (page, paper):
        lowered = text.lower()
        assert [title for title in titles() if title.lower() not in lowered] == []
        assert re.findall(r"Traceback|\bnan\b|\bNaN\b|Error\b|\{\w+\.\w+\}|@(?:fig|tbl|sec|eq)-|\?\?", text) == []
    assert len(reader.pages) > 10


def test_the_first_page_says_that_it_is_a_smoke_run(smoke):
    folder, _ = smoke
    first = " ".join(pypdf.PdfReader(folder / "report" / "smoke.pdf").pages[0].extract_text().split())
    header = page_text(folder / "report" / "smoke.html").split("Introduction and Overview")[0]
    for text in (first, header):
        assert "This is a smoke run" in text
        assert re.search(r"\d+ short trainings with two seeds", text)


def test_every_figure_has_a_text_for_those_who_cannot_see_it(smoke):
    folder, _ = smoke
    page = (folder / "report" / "smoke.html").read_text("utf-8")
    images = re.findall(r"<img\b[^>]*>", page)
    moving = [image for image in images if 'class="moving"' in image]
    assert len(images) > 10 and len(moving) == 1  # of the search, beside its last picture
    assert all(len(re.search(r'(?:alt|aria-label)="([^"]*)"', image)[1]) > 30 for image in images)

    texts = []

    def walk(element) -> None:
        element = element.get_object()
        if isinstance(element, dict):
            texts.extend([element.get("/Alt")] if element.get("/S") == "/Figure" else [])
            walk(element.get("/K", pypdf.generic.NullObject()))
        elif isinstance(element, list):
            for child in element:
                walk(child)

    walk(pypdf.PdfReader(folder / "report" / "smoke.pdf").trailer["/Root"]["/StructTreeRoot"])
    assert len(texts) == len(images) - len(moving) and all(text and len(text) > 30 for text in texts)


def test_made_again_it_trains_nothing_and_is_the_same_byte_for_byte(smoke):
    folder, _ = smoke
    papers = [folder / "report" / name for name in ("smoke.html", "smoke.pdf", "smoke.json", "index.html")]
    before = [paper.read_bytes() for paper in papers]
    done, seconds = report(folder, "smoke", limit=600)
    assert done.returncode == 0, done.stderr
    assert re.search(r"(\d+) runs: \1 in the store, 0 to train", done.stderr)
    assert [paper.read_bytes() for paper in papers] == before
    minute_for_nine = 60 / 9 * len(in_reports(folder))  # as many as the homework report has
    assert seconds < minute_for_nine or os.getloadavg()[0] > 1.5 * os.cpu_count(), f"took {seconds:.0f} s"


def test_rendering_leaves_no_half_paper(smoke):
    folder, _ = smoke
    there = {path.name for path in (folder / "report").iterdir()}
    assert there == {"references.bib", "build", "smoke.html", "smoke.pdf", "smoke.json", "index.html"}


# --- notebooks that fail ----------------------------------------------------------------------------------------------

GOOD = [("title", "# Good {#sec-good}"), ("code", "print('finished')")]
BAD = {
    "divides": (["x = 1\n1/0"], r"cell 3, line 2: 1/0: ZeroDivisionError: division by zero"),
    "late": (
        ["x = 1", "x", "x = 2\n\nx.y"],
        r"cell 5, line 3: x\.y: AttributeError: 'int' object has no attribute 'y'",
    ),
    "says": (
        ["from fmnist import UserError\nraise UserError('use fewer')"],
        r"cell 3, line 2: .*: UserError: use fewer",
    ),
    "dies": (["import os\nos._exit(1)"], r"the kernel failed: DeadKernelError: Kernel died"),
}


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """The project after a report of which one notebook is good and the others fail."""
    folder = make_project(tmp_path_factory.mktemp("failing"))
    shutil.rmtree(folder / "notebooks")
    (folder / "notebooks").mkdir()
    new = nbformat.v4
    for name, sources in {"good": ["print('finished')"], **{name: cells for name, (cells, _) in BAD.items()}}.items():
        cells = [new.new_markdown_cell(f"# {name.title()} {{#sec-{name}}}", id="title")]
        cells += [new.new_code_cell("lr = 0.1", id="parameters", metadata={"tags": ["parameters"]})]
        cells += [new.new_code_cell(source, id=f"code-{i}") for i, source in enumerate(sources)]
        nbformat.write(new.new_notebook(cells=cells, metadata=KERNEL), folder / "notebooks" / f"{name}.ipynb")
    (folder / "params" / "mixed").mkdir()
    text = f"title: Mixed\nauthors: [{{name: A}}]\nabstract: None.\nsections: [good, {', '.join(BAD)}]\n"
    (folder / "params" / "mixed" / "report.yaml").write_text(text)
    (folder / "params" / "mixed" / "late.yaml").write_text("lr: 0.2")
    return folder, report(folder, "mixed", limit=300)[0]


@pytest.mark.parametrize("name", BAD)
def test_a_failing_notebook_is_named_with_cell_and_line(name, failed):
    folder, done = failed
    assert done.returncode == 2 and "Traceback" not in done.stderr
    about = done.stderr[done.stderr.index(f"notebook {name}: ") :].split("\nnotebook ")[0]
    assert re.match(rf"notebook {name}: {BAD[name][1]}", about)
    assert f"see it:   {folder}/report/build/mixed/{name}.ipynb" in about
    assert f"mend it:  jupyter lab {folder}/notebooks/{name}.ipynb" in about
    assert "rerun it: make report REPORT=mixed" in about


def test_what_the_others_have_done_is_kept(failed):
    folder, done = failed
    assert "notebook good" not in done.stderr
    good = nbformat.read(folder / "report" / "build" / "mixed" / "good.ipynb", as_version=4)
    assert [output.text for cell in good.cells for output in cell.get("outputs", [])] == ["finished\n"]
    for name in BAD:
        assert (folder / "report" / "build" / "mixed" / f"{name}.ipynb").is_file()
    assert not (folder / "report" / "mixed.html").exists() and not (folder / "report" / "mixed.pdf").exists()


# --- each notebook by itself, as someone who opens it in JupyterLab has it --------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb")))
def test_a_notebook_alone_with_its_defaults(name, tmp_path, data_set):
    folder = make_project(tmp_path)
    if name in ("introduction", "implementation", "conclusions"):  # they sum up a report, which they name
        shutil.copytree(ROOT / "params" / "homework", folder / "params" / "homework")
    command = [sys.executable, "-m", "papermill", f"notebooks/{name}.ipynb", "out.ipynb", "--cwd", "notebooks"]
    begin = time.monotonic()
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2_000:]
    assert time.monotonic() - begin < 120 or os.getloadavg()[0] > 1.5 * os.cpu_count()
