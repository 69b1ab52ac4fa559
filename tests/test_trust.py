"""Why a reader may trust the paper: provenance, data, verification, no typed-in results; how one is begun, or fails."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import nbformat.v4 as nbf
import pandas as pd
import pypdf
import pytest
from test_report import environment

from fmnist import store
from fmnist.cli import main
from fmnist.config import RunConfig
from fmnist.paper import prose, provenance, publish, verify
from fmnist.paper.exporters import HomeworkHTML, HomeworkPDF
from fmnist.paper.new import new
from fmnist.paper.report import Report
from fmnist.plots import figures

ROOT = Path(__file__).parents[1]
KERNEL = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"><rect width="9" height="9"/></svg>'


def project(folder: Path, notebooks: dict[str, list], abstract: str = "Short.", name: str = "mine") -> Path:
    """A project with one report of hand-made notebooks: name → cells, a string being a code cell."""
    (folder / "notebooks").mkdir(parents=True)
    (folder / "params" / name).mkdir(parents=True)
    (folder / "report").mkdir()
    shutil.copy(ROOT / "report" / "references.bib", folder / "report")
    for stem, sources in notebooks.items():
        cells = [nbf.new_markdown_cell(f"# {stem.title()} {{#sec-{stem}}}", id="title")]
        cells += [nbf.new_code_cell("lr = 0.1", id="parameters", metadata={"tags": ["parameters"]})]
        cells += [
            source if not isinstance(source, str) else nbf.new_code_cell(source, id=f"code-{i}")
            for i, source in enumerate(sources)
        ]
        nbformat.write(nbf.new_notebook(cells=cells, metadata=KERNEL), folder / "notebooks" / f"{stem}.ipynb")
    text = (
        f"title: Mine\nauthors: [{{name: A}}]\nabstract: {json.dumps(abstract)}\nsections: [{', '.join(notebooks)}]\n"
    )
    (folder / "params" / name / "report.yaml").write_text(text)
    return folder


def fmnist(folder: Path, *words: str, limit: int = 300) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "fmnist.cli", *words]
    return subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=limit)


@pytest.fixture(scope="module")
def stored(tmp_path_factory, data_set):
    """A store with four trained runs: two trials, two seeds."""
    from fmnist.study import Study

    here = os.environ.get("FMNIST_RUNS")
    os.environ["FMNIST_RUNS"] = str(tmp_path_factory.mktemp("store"))
    base = {"hidden_sizes": [8], "epochs": 1, "val_size": 50_000}
    study = Study(base, {'100 % × slow, "<&>#"': {"lr": 0.01}, "fast": {"lr": 0.1}}, {}, [0, 1]).run("cpu")
    yield study
    os.environ.pop("FMNIST_RUNS") if here is None else os.environ.update(FMNIST_RUNS=here)


@pytest.fixture
def published(monkeypatch):
    """The outputs of what is published, as a kernel would store them."""
    outputs = []
    monkeypatch.setattr(
        publish,
        "display",
        lambda data, metadata, raw: outputs.append(nbf.new_output("display_data", data, metadata=metadata)),
    )
    return outputs


@pytest.fixture
def paper(stored, published, tmp_path, monkeypatch):
    """A merged report with a figure and a table of the stored runs."""
    monkeypatch.setattr(store, "READ", {})
    monkeypatch.setattr(publish, "READ", store.READ)
    monkeypatch.chdir(project(tmp_path, {"shape": []}))
    (tmp_path / "params" / "mine" / "shape.yaml").write_text("lr: 0.2")
    runs = stored.runs()
    publish.show(figures.accuracy_dots(runs), "fig-dots", "Dots.", "A row for each trial with a dot for each seed.")
    publish.table(runs[["trial", "seed", "test_accuracy"]], "tbl-runs", 'Runs, "all" of them: 100 % & more.')
    cells = [
        nbf.new_markdown_cell("# Shape {#sec-shape}\n\nSee @fig-dots and @tbl-runs.", id="title"),
        nbf.new_code_cell("lr = 0.1", id="parameters"),
        nbf.new_code_cell("lr = 0.2", id="injected", metadata={"tags": ["injected-parameters"]}),
        nbf.new_code_cell("show()", id="both", outputs=published),
    ]
    report = Report("mine", "cpu")
    return report, report.merge({"shape": nbf.new_notebook(cells=cells, metadata=KERNEL)})


# --- provenance -------------------------------------------------------------------------------------------------------


def test_a_run_records_the_commit_and_whether_the_code_was_as_committed(stored):
    code = store.load_run(stored.configs[0].run_id).record["code"]
    assert set(code) == {"commit", "clean"}
    assert re.fullmatch(r"[0-9a-f]{40}|", code["commit"]) and (code["clean"] is None) == (code["commit"] == "")


def test_a_record_without_a_commit_is_a_run_all_the_same(stored):
    run = store.load_run(stored.configs[0].run_id)
    text = (run.folder / "run.json").read_text()
    record = json.loads(text)
    del record["code"]
    (run.folder / "run.json").write_text(json.dumps(record))
    assert provenance._facts([run.run_id])["commits"] == ["not recorded"]
    (run.folder / "run.json").write_text(text)


def test_what_was_read_is_remembered_and_what_was_only_looked_up_is_not(stored, monkeypatch):
    monkeypatch.setattr(store, "READ", {})
    ids = [config.run_id for config in stored.configs]
    assert all(store.load(run_id) for run_id in ids) and not store.READ
    store.load(ids[0]).history()
    assert list(store.READ) == ids[:1]
    stored.runs()
    assert sorted(store.READ) == sorted(ids)


def test_html_says_below_each_figure_and_table_where_it_comes_from(paper, stored):
    page = HomeworkHTML().from_notebook_node(paper[1])[0]
    notes = re.findall(r'<details class="provenance">(.*?)</details>', page, re.S)
    assert len(notes) == 2
    record = store.load_run(stored.configs[0].run_id).record
    for note in notes:
        said = " ".join(re.sub("<[^>]+>", "", note).split())
        assert "cell 3 (both) of notebooks/shape.ipynb with params/mine/shape.yaml" in said
        assert "Four runs (" + provenance.digest(c.run_id for c in stored.configs) + ")" in said
        assert record["data_checksum"][:12] in said and record["code"]["commit"][:12] in said
        assert "device cpu" in said and "precision float32" in said and f"torch {record['versions']['torch']}" in said
        assert "minutes of training" in said


def test_the_data_are_in_the_page_as_csv(paper, stored):
    page = HomeworkHTML().from_notebook_node(paper[1])[0]
    links = re.findall(r'<a\b[^>]*href="data:text/csv;charset=utf-8,([^"]*)"[^>]*>', page)
    names = re.findall(r'download="([^"]*)"', page)
    assert names == ["fig-dots.csv", "tbl-runs.csv"]
    dots, table = (pd.read_csv(io.StringIO(urllib.parse.unquote(link.replace("&amp;", "&")))) for link in links)
    runs = stored.runs()
    assert list(dots.run_id) == list(runs.run_id) and list(table.trial) == list(runs.trial)
    assert dots.test_accuracy.tolist() == pytest.approx(runs.test_accuracy.tolist(), rel=1e-5)


def test_the_data_are_attached_to_the_pdf_which_is_archival_and_accessible(paper, stored):
    reader = pypdf.PdfReader(io.BytesIO(HomeworkPDF().from_notebook_node(paper[1])[0]))
    assert set(reader.attachments) == {"fig-dots.csv", "tbl-runs.csv"}
    frame = pd.read_csv(io.BytesIO(reader.attachments["tbl-runs.csv"][0]))
    assert len(frame) == len(stored.configs)
    about = reader.trailer["/Root"]["/Metadata"].get_object().get_data().decode()
    assert re.search(r"pdfaid:part>3<", about) and re.search(r"pdfuaid:part>1<", about)
    text = " ".join(" ".join(page.extract_text() for page in reader.pages).split())
    assert "PROVENANCE" in text.upper() and "params/mine/shape.yaml" in text and "fig-dots.csv" in text


def test_the_json_lists_what_is_shown_and_every_run(paper, stored):
    report, merged = paper
    written = provenance.written({"report": "mine", "empty": {}} | provenance.record(merged, {"shape": stored}))
    about = json.loads(written)
    assert [item["label"] for item in about["shown"]] == ["fig-dots", "tbl-runs"]
    item = about["shown"][0]
    assert (item["notebook"], item["cell"], item["id"]) == ("notebooks/shape.ipynb", 3, "both")
    facts = about["run_sets"][item["runs"]]
    assert facts["ids"] == sorted(config.run_id for config in stored.configs) and facts["count"] == 4
    for run_id, run in about["runs"].items():
        assert RunConfig.model_validate(run["config"]).run_id == run_id
        assert run["test_accuracy"] == store.load_run(run_id).metrics["test_accuracy"]
    assert {run["trials"]["shape"] for run in about["runs"].values()} == set(stored.trials)


def test_a_figure_of_ones_own_may_say_what_its_data_are(published):
    figure, axes = plt.subplots()
    axes.plot([1, 2])
    publish.show(figure, "fig-own", "Own.", "It rises.", data=pd.DataFrame({"x": [0.123456789, 2.0]}))
    assert published[0].metadata["fmnist"]["data"] == "x\n0.123457\n2\n"


def test_pictures_without_data_have_none(published):
    publish.show(figures.network_diagram([8]), "fig-net", "Net.", "Circles joined by lines.")
    assert published[0].metadata["fmnist"]["data"] == ""


# --- verify -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def about(paper, stored, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(provenance.written(provenance.record(paper[1], {"shape": stored})))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_numbers_that_hold_are_said_to_hold_and_nothing_is_stored(about, stored, capsys):
    folder = Path(os.environ["FMNIST_RUNS"])
    before = contents(folder)
    assert main(["verify", str(about), "--sample", "3", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("holds    run") for line in lines) == 3
    assert sum(line.startswith("holds    mean") for line in lines) == 2 and lines[-1] == "5 of 5 hold; all of them"
    assert contents(folder) == before


def test_a_number_that_does_not_hold_is_named(about, capsys):
    read = json.loads(about.read_text())
    wrong = sorted(read["runs"])[0]
    for run in read["runs"].values():
        if run["trials"] == read["runs"][wrong]["trials"]:
            run["test_accuracy"] = 0.05  # of every seed, so that their spread allows nothing
    about.write_text(json.dumps(read))
    assert main(["verify", str(about), "--sample", "99", "--device", "cpu"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("DIFFERS  run") for line in lines) == 2
    assert sum(line.startswith("DIFFERS  mean") for line in lines) == 1 and lines[-1] == "3 of 6 hold"
    assert any(line.startswith(f"DIFFERS  run      {wrong}") and "stored 5.00 %" in line for line in lines)


def test_the_sample_is_the_same_each_time_and_another_with_another_seed():
    runs = dict.fromkeys(f"{i:02d}" for i in range(50))
    assert verify.sample(runs, 5, 0) == verify.sample(dict(reversed(runs.items())), 5, 0) != verify.sample(runs, 5, 1)
    assert verify.sample(runs, 99, 0) == list(runs)


@pytest.mark.parametrize("path", sorted((ROOT / "report").glob("*.json")), ids=lambda path: path.stem)
def test_every_committed_report_can_be_verified(path):
    about = verify.read(path)
    assert all(RunConfig(**run["config"]).run_id == run_id for run_id, run in about["runs"].items())


@pytest.mark.parametrize("text", [None, "no json", "{}", "[]"])
def test_what_is_no_report_is_refused(text, tmp_path, capsys):
    path = tmp_path / "x.json"
    if text is not None:
        path.write_text(text)
    assert main(["verify", str(path), "--device", "cpu"]) == 2
    assert str(path) in capsys.readouterr().err


# --- typed-in results -------------------------------------------------------------------------------------------------

FREE = [
    "Adam of 2014 is best of 3 in 12,000 steps.",
    "The level is $0.05$, the rate `0.1`, the interval 95 %.",
    "They print 87.5 % [@wood].",
    "$$\nx = 0.5\n$$ {#eq-x width=0.5}",
    "```\n0.5\n```",
    "See [this](https://example.org/1.2) and @fig-x-1.",
]
REFUSED = {
    "It reaches 0.87.": ["0.87"],
    "It reaches 89 %, or 88.5 % (@fig-x).": ["89 %", "88.5 %"],
    "Cited [@wood] 1.5.\n\nNot cited: 2.5 points.": ["2.5"],
    "With p < 0.05 and more > 3, by .87 points.": ["0.05", ".87"],
    "Ask ann@example.org about 1.5.": ["1.5"],
}


@pytest.mark.parametrize("text", FREE)
def test_what_may_stand_in_the_text(text):
    assert prose.typed_in(text) == []


@pytest.mark.parametrize("text", REFUSED)
def test_what_may_not(text):
    assert prose.typed_in(text) == REFUSED[text]


def test_strings_handed_to_the_report_are_read_and_what_f_strings_compute_is_not():
    source = (
        'x = "0.1"\nsay(f"It is {100 * 0.5:.1f} %, {x} % and 0.7")\n'
        'show(plot(0.2), "fig-x", "At 0.3." + f"{x}.5", alt="0.4 high")\nother("0.9")'
    )
    cell = nbf.new_code_cell(f"%matplotlib inline\n{source}", id="says")
    assert prose.findings(nbf.new_notebook(cells=[cell]), "shape") == ["notebook shape: cell 1 (says): 0.7, 0.3, 0.4"]


def test_a_typed_in_result_stops_the_report_before_anything_is_done(tmp_path):
    told = nbf.new_markdown_cell("It reaches 88.7 % of 1.0.", id="results")
    folder = project(tmp_path, {"shape": ["print(1)", told]}, abstract="A gain of 2.5 points.")
    done = fmnist(folder, "report", "mine", "--device", "cpu")
    assert done.returncode == 2 and "executing" not in done.stderr
    assert "notebook shape: cell 4 (results): 88.7 %, 1.0\n" in done.stderr
    assert "params/mine/report.yaml: abstract: 2.5\n" in done.stderr


def test_our_own_reports_have_none():
    for path in ROOT.glob("notebooks/*.ipynb"):
        assert prose.findings(nbformat.read(path, as_version=4), path.stem) == []


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """A report with a notebook that fails, made with --keep-going."""
    deep = "import json\nlr = lr + 1\n\njson.loads('{')"
    good = "from fmnist import record, say\nrecord(x=1)\nsay('See @sec-bad and @fig-bad, {}.'.format(40 + 2))"
    folder = project(
        tmp_path_factory.mktemp("gap"), {"good": [good], "bad": ["1", deep]}, abstract="Got {good.x} and {bad.y}."
    )
    (folder / "params" / "mine" / "bad.yaml").write_text("lr: 0.7")
    return folder, fmnist(folder, "report", "mine", "--device", "cpu", "--keep-going")


def test_the_page_of_a_failing_notebook(failed):
    folder, done = failed
    page = folder / "report" / "build" / "mine" / "bad.html"
    text = " ".join(re.sub("<(style|script).*?</\\1>|<[^>]+>", "", page.read_text("utf-8"), flags=re.S).split())
    text = text.replace("&quot;", '"').replace("&#39;", "'").replace("&gt;", ">")
    assert "Notebook bad failed" in text and "cell 4, line 4: json.loads" in text and "JSONDecodeError" in text
    assert "lr = lr + 1" in text and "lr = 0.7" in text  # the cell, and the parameter's value
    assert "more …" in text and "site-packages" not in text  # frames of libraries left out
    assert "jupyter lab --ServerApp.root_dir=." in text
    assert "/lab/tree/report/build/mine/bad.ipynb" in text


def test_with_keep_going_the_paper_has_a_marked_gap(failed):
    folder, done = failed
    assert done.returncode == 1, done.stderr
    assert "notebook bad failed, and the paper has a gap: cell 4, line 4" in done.stderr
    page = (folder / "report" / "mine.html").read_text("utf-8")
    reader = pypdf.PdfReader(folder / "report" / "mine.pdf")
    for text in (re.sub("<[^>]+>", "", page), " ".join(p.extract_text() for p in reader.pages)):
        text = " ".join(text.split())
        assert "This paper is incomplete. The bad notebook failed" in text and "This section is missing" in text
        assert "Got 1 and [missing]" in text and "See Section 2 and fig-bad, 42." in text
    assert json.loads((folder / "report" / "mine.json").read_text())["gaps"].keys() == {"bad"}


def test_without_it_there_is_no_paper(failed, tmp_path):
    folder = shutil.copytree(failed[0], tmp_path / "again", ignore=shutil.ignore_patterns("mine.*"))
    done = fmnist(folder, "report", "mine", "--device", "cpu")
    assert done.returncode == 2 and f"read it:  {folder}/report/build/mine/bad.html" in done.stderr
    assert not list((folder / "report").glob("mine.*"))


# --- a report of one's own -------------------------------------------------------------------------------------------


@pytest.fixture
def empty(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*"))
    (tmp_path / "params").mkdir()
    (tmp_path / "report").mkdir()
    shutil.copy(ROOT / "report" / "references.bib", tmp_path / "report")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_new_report_can_be_made_as_it_is(empty):
    assert main(["new", "mine", "--title", 'Deep: "Homework" {1}', "--author", "Ann O'Hara"]) == 0
    report = Report("mine", "cpu")
    report.check_prose()
    assert (report.spec.title, report.spec.authors[0].name) == ('Deep: "Homework" {1}', "Ann O'Hara")
    assert list(report.studies) == ["shape", "optimizer"]


def test_what_is_not_given_is_asked_for_at_a_terminal(empty, monkeypatch):
    answers = iter(["A Title", "Ann"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: next(answers))
    new("mine")
    assert Report("mine", "cpu").spec.title == "A Title"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["mine"], "--title is missing"),
        (["mine", "--title", "T"], "--author is missing"),
        (["Mine/../x", "--title", "T", "--author", "A"], "lower-case letters"),
        (["taken", "--title", "T", "--author", "A"], "params/taken is there already"),
    ],
)
def test_mistakes_are_said_in_one_line(words, told, empty, capsys):
    (empty / "params" / "taken").mkdir()
    assert main(["new", *words]) == 2
    assert told in capsys.readouterr().err and {path.name for path in (empty / "params").iterdir()} == {"taken"}


def test_a_first_homework_from_nothing_to_paper(empty, data_set):
    assert fmnist(empty, "new", "mine", "--title", "Homework 1", "--author", "Ann Author").returncode == 0
    path = empty / "params" / "mine" / "report.yaml"
    text = path.read_text().replace("epochs: 5", "epochs: 1, val_size: 50000").replace("[0, 1, 2, 3, 4, 5]", "[0, 1]")
    path.write_text(text)
    done = fmnist(empty, "report", "mine", "--device", "cpu", limit=600)
    assert done.returncode == 0, done.stderr
    assert "Homework 1" in (empty / "report" / "mine.html").read_text("utf-8")
    about = json.loads((empty / "report" / "mine.json").read_text())
    # One of the shapes is SGD at one of the learning rates: trained once.
    assert len(about["runs"]) == 2 * (3 + 6 - 1) and all(item["runs"] in about["run_sets"] for item in about["shown"])
