"""From parameters to paper: the smoke report as a user makes it, a first homework, and notebooks that fail."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import nbformat.v4 as nbf
import pypdf
import pytest
from reference import page_text, pdf_figures, pdf_text
from test_project import NOTEBOOKS, ROOT, kind

from fmnist.cli import main
from fmnist.config import UserError
from fmnist.paper import report
from fmnist.paper.report import Report

KERNEL = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
NEW = ["--title", 'Deep: "Homework" {1}', "--author", "Ann O'Hara"]


IN_REPORTS = [path for path in NOTEBOOKS if kind(path) in report.KINDS]


def make_project(folder: Path, *names: str) -> Path:
    """A project with all notebooks and reports of ours, and nothing that was trained or rendered."""
    (folder / "params").mkdir(parents=True)
    for name in names:
        shutil.copytree(ROOT / "params" / name, folder / "params" / name)
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".*"))
    (folder / "report").mkdir()
    shutil.copy(ROOT / "report" / "references.bib", folder / "report")
    return folder


def project(folder: Path, notebooks: dict[str, list], abstract: str = "Short.", name: str = "mine") -> Path:
    """A project with one report of hand-made notebooks: name → cells, a string being a code cell."""
    for part in ("notebooks", f"params/{name}", "report"):
        (folder / part).mkdir(parents=True)
    shutil.copy(ROOT / "report" / "references.bib", folder / "report")
    for stem, sources in notebooks.items():
        cells = [nbf.new_markdown_cell(f"# {stem.title()} {{#sec-{stem}}}", id="title")]
        cells += [nbf.new_code_cell("lr = 0.1", id="parameters", metadata={"tags": ["parameters"]})]
        for i, each in enumerate(sources):
            cells.append(nbf.new_code_cell(each, id=f"c-{i}") if isinstance(each, str) else each)
        nbformat.write(nbf.new_notebook(cells=cells, metadata=KERNEL), folder / "notebooks" / f"{stem}.ipynb")
    about = {"title": "Mine", "authors": [{"name": "A"}], "abstract": abstract, "sections": [*notebooks]}
    (folder / "params" / name / "report.yaml").write_text(json.dumps(about))
    return folder


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "FMNIST_RUNS": str(folder / "runs"), "JUPYTER_PREFER_ENV_PATH": "1"}


def fmnist(folder: Path, *words: str) -> tuple[int, str]:
    """The exit code of the command, here without a process of its own, and what it says."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as said:
        patch.chdir(folder)
        for name, value in environment(folder).items():
            patch.setenv(name, value)
        return main([*words]), said.getvalue()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, data_set):
    """The project after `fmnist report smoke`, and what the command said."""
    folder = make_project(tmp_path_factory.mktemp("smoke"), "smoke")
    path = folder / "params" / "smoke" / "report.yaml"
    tiny = "{epochs: 1, val_size: 59000, hidden_sizes: [16, 16]}"  # under what a study says of itself
    path.write_text(path.read_text().replace("{epochs: 1}", tiny))
    (path.parent / "search.yaml").write_text("trials: 12\nagain: [1, 2]\n")
    command = [sys.executable, "-m", "fmnist.cli", "report", "smoke", "--device", "cpu"]
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return folder, done.stderr


def test_the_command_says_what_it_does_and_trains_everything_itself(smoke, monkeypatch):
    folder, said = smoke
    monkeypatch.chdir(folder)
    wanted = {config.run_id for study in Report("smoke", "cpu").trained.values() for config in study.configs}
    assert f"{len(wanted)} runs: 0 in the store, {len(wanted)} to train on cpu" in said
    assert wanted < {path.name for path in (folder / "runs").glob("[!.]*")}
    assert all(f": {path.stem}\n" in said for path in IN_REPORTS)
    assert re.search(r"wrote report/smoke\.html \(.*wrote report/smoke\.pdf \(", said, re.S)
    assert "Warning" not in said and "Traceback" not in said
    there = {path.name for path in (folder / "report").iterdir()}  # no half paper
    assert there == {"references.bib", "build", "smoke.html", "smoke.pdf", "smoke.json", "index.html"}


def test_the_paper_has_all_sections_and_nothing_that_failed(smoke):
    reader = pypdf.PdfReader(smoke[0] / "report" / "smoke.pdf")
    firsts = [nbformat.read(path, as_version=4).cells[0].source.splitlines()[0] for path in IN_REPORTS]
    titles = [re.match(r"# (.+?)( (<!-- )?\{#.*)?$", first)[1] for first in firsts]
    for text in (page_text((smoke[0] / "report" / "smoke.html").read_text("utf-8")), pdf_text(reader)):
        assert [title for title in titles if title.lower() not in text.lower()] == []
        assert re.findall(r"Traceback|\bnan\b|\bNaN\b|Error\b|\{\w+\.\w+\}|@(?:fig|tbl|sec|eq)-|\?\?", text) == []
        first = text.lower().split("a shirt, a pullover")[0]
        assert "this is a smoke run" in first and re.search(r"\d+ short trainings with two seeds", first)
    heads = [page.extract_text().split("\n")[0].split() for page in reader.pages]  # whose numbers are the pages'
    assert len(heads) > 10 and all(str(n) in head for n, head in enumerate(heads[1:], 2))


def test_every_figure_has_a_text_for_those_who_cannot_see_it(smoke):
    images = re.findall(r"<img\b[^>]*>", (smoke[0] / "report" / "smoke.html").read_text("utf-8"))
    assert len(images) > 10 and all(len(re.search(r'(?:alt|aria-label)="([^"]*)"', image)[1]) > 30 for image in images)
    texts = pdf_figures(pypdf.PdfReader(smoke[0] / "report" / "smoke.pdf"))
    assert len(texts) == len(images) and all(text and len(text) > 30 for text in texts)


def test_a_first_homework_from_nothing_to_paper_and_again_byte_for_byte(tmp_path, data_set):
    """From `fmnist new`; made again, by another process, nothing is trained."""
    folder = make_project(tmp_path / "homework")
    assert fmnist(folder, "new", "mine", *NEW)[0] == 0
    path, papers = folder / "params" / "mine" / "report.yaml", folder / "report"
    text = path.read_text().replace("epochs: 20", "epochs: 1, val_size: 59000").replace("[0, 1, 2, 3, 4, 5]", "[0, 1]")
    path.write_text(text)
    code, said = fmnist(folder, "report", "mine", "--device", "cpu")
    assert code == 0, said
    page = page_text(made := (papers / "mine.html").read_text("utf-8"))
    assert "Deep: “Homework” {1}" in page and "Ann O’Hara" in page.replace("'", "’") and str(tmp_path) not in made
    about = json.loads((papers / "mine.json").read_text())
    # One of the shapes is SGD at one of the learning rates: trained once.
    assert len(about["runs"]) == 2 * (3 + 6 - 1) and all(item["runs"] in about["run_sets"] for item in about["shown"])
    before = {path.name: path.read_bytes() for path in papers.glob("*.*")}
    command = [sys.executable, "-m", "fmnist.cli", "report", "mine", "--device", "cpu"]
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0 and re.search(r"(\d+) runs: \1 in the store, 0 to train", done.stderr), done.stderr
    assert {path.name: path.read_bytes() for path in papers.glob("*.*")} == before and len(before) == 5


BAD = {
    "divides": (["x = 1\n1/0"], r"cell 3, line 2: 1/0: ZeroDivisionError: division by zero"),
    "late": (["x = 1", "x", "x = 2\n\nx.y"], r"cell 5, line 3: x\.y: AttributeError: 'int' object has no attribute"),
    "trains": (
        ["from fmnist import Study\nStudy().run('cpu')"],
        r"cell 3, line 2: .*UserError: one run not in the",
    ),
    "dies": (["import os\nos._exit(1)"], r"the kernel failed: DeadKernelError: Kernel died"),
}


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """The project after a report, made with --keep-going, of which one notebook is good and the others fail."""
    good = "from fmnist import record, say\nrecord(x=1)\nsay('See @sec-late and @fig-late, {}.'.format(40 + 2))"
    notebooks = {"good": [good], **{name: cells for name, (cells, _) in BAD.items()}}
    folder = project(tmp_path_factory.mktemp("failing"), notebooks, abstract="Got {good.x} and {late.y}.")
    (folder / "params" / "mine" / "late.yaml").write_text("lr: 0.2")
    return folder, fmnist(folder, "report", "mine", "--device", "cpu", "--keep-going")


@pytest.mark.parametrize("name", BAD)
def test_a_failing_notebook_is_named_with_cell_and_line(name, failed):
    folder, (code, said) = failed
    assert code == 1 and "Traceback" not in said
    about = said[said.index(f"notebook {name} failed") :].split("\nnotebook ")[0]
    assert re.match(rf"notebook {name} failed, and the paper has a gap: {BAD[name][1]}", about)
    assert f"see it:   {folder}/report/build/mine/{name}.ipynb" in about
    assert f"mend it:  jupyter lab {folder}/notebooks/{name}.ipynb" in about
    assert (folder / "report" / "build" / "mine" / f"{name}.ipynb").is_file()


def test_with_keep_going_the_paper_has_marked_gaps(failed):
    folder, _ = failed
    page, pdf = (folder / "report" / f"mine.{form}" for form in ("html", "pdf"))
    for text in (page_text(page.read_text("utf-8")), pdf_text(pypdf.PdfReader(pdf))):
        text = " ".join(re.sub(r" +([,.])", r"\1", text).split())
        assert "This paper is incomplete" in text and "This section is missing" in text
        assert "Got 1 and [missing]" in text and "See Section 3 and fig-late, 42." in text
    assert json.loads((folder / "report" / "mine.json").read_text())["gaps"].keys() == {*BAD}


def test_without_it_there_is_no_paper(tmp_path, monkeypatch):
    monkeypatch.chdir(project(tmp_path, {"one": [], "two": []}))
    gap = nbf.new_notebook(metadata={"gap": "cell 3: Error: no"})
    monkeypatch.setattr(Report, "execute", lambda self, say: {"one": nbf.new_notebook(), "two": gap})
    with pytest.raises(UserError, match="^notebook two: cell 3: Error: no$"):
        report.build(["mine"], "cpu", None, False, say=lambda text: None)
    assert not list((tmp_path / "report").glob("mine.*"))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb")))
def test_a_notebook_alone_with_its_defaults(name, tmp_path, data_set):
    folder = make_project(tmp_path / "project")
    command = [sys.executable, "-m", "papermill", f"notebooks/{name}.ipynb", "out.ipynb", "--cwd", "notebooks"]
    begin = time.monotonic()
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2_000:]
    assert time.monotonic() - begin < 120 or os.getloadavg()[0] > 1.5 * os.cpu_count()
