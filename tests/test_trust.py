"""Why a reader may trust the paper: provenance, data, verification, no typed-in results."""

import io
import json
import os
import re
import subprocess
import urllib.parse
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat.v4 as nbf
import pandas as pd
import pypdf
import pytest
from reference import pdf_text
from test_report import KERNEL, ROOT, project

from fmnist import store, tables
from fmnist.cli import main
from fmnist.config import RunConfig
from fmnist.paper import prose, provenance, publish, verify
from fmnist.paper.exporters import HomeworkHTML, HomeworkPDF
from fmnist.paper.report import Report
from fmnist.plots import figures
from fmnist.study import Study


@pytest.fixture(scope="module")
def stored(tmp_path_factory, data_set):
    """A store with four trained runs: two trials, two seeds."""
    base = {"hidden_sizes": [8], "epochs": 1, "val_size": 50_000}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FMNIST_RUNS", str(tmp_path_factory.mktemp("store")))
        yield Study(base, {'100 % × slow, "<&>#"': {"lr": 0.01}, "fast": {"lr": 0.1}}, {}, [0, 1]).run("cpu")


@pytest.fixture
def paper(stored, published, tmp_path, monkeypatch):
    """A merged report with a figure and a table of the stored runs."""
    monkeypatch.chdir(project(tmp_path, {"shape": []}))
    (tmp_path / "params" / "mine" / "shape.yaml").write_text("lr: 0.2")
    runs, fast = stored.runs(), stored.runs().query("trial == 'fast'")
    publish.show(figures.against(runs, by="trial"), "fig-dots", "Dots.", "A row for each trial.")
    publish.table(fast[["seed", "test_accuracy"]], "tbl-runs", 'Runs, "all" of them: 100 % & more.', runs=fast)
    cells = [
        nbf.new_markdown_cell("# Shape {#sec-shape}\n\nSee @fig-dots and @tbl-runs.", id="title"),
        nbf.new_code_cell("lr = 0.1", id="parameters"),
        nbf.new_code_cell("lr = 0.2", id="injected", metadata={"tags": ["injected-parameters"]}),
        nbf.new_code_cell("show()", id="both", outputs=published),
    ]
    executed = nbf.new_notebook(cells=cells, metadata=KERNEL)
    monkeypatch.setattr(provenance, "code", lambda *_: f"{'ab' * 20} (with changes)")
    return Report("mine", "cpu").merge({"shape": executed})


def test_the_commit_is_of_all_that_a_figure_rests_on(tmp_path, monkeypatch):
    monkeypatch.chdir(project(tmp_path, {"shape": [], "other": []}))
    folder = tmp_path / "params" / "mine"

    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=A", "-c", "user.email=a@b", *words], check=True, capture_output=True)

    git("init")
    assert provenance.code("shape", folder) == "not recorded"
    git("add", ".")
    git("commit", "-m", "first")
    first = provenance.code("shape", folder)
    assert re.fullmatch(r"[0-9a-f]{40} \(clean\)", first)
    (folder / "other.yaml").write_text("lr: 0.2")
    assert provenance.code("shape", folder) == first  # rests on nothing of that
    git("add", ".")
    git("commit", "-m", "second")
    assert provenance.code("shape", folder) == first != provenance.code("other", folder)
    for path in (folder / "report.yaml", tmp_path / "notebooks" / "shape.ipynb", folder / "shape.yaml"):
        path.write_text((path.read_text() if path.exists() else "") + "\n")
        assert provenance.code("shape", folder).endswith(" (with changes)")
        git("add", ".")
        git("commit", "-m", "another")


def test_html_says_below_each_figure_and_table_where_it_comes_from(paper, stored):
    page = HomeworkHTML().from_notebook_node(paper)[0]
    notes = re.findall(r'<details class="provenance">(.*?)</details>', page, re.S)
    record = store.load_run(stored.configs[0].run_id).record
    fast = [config.run_id for config in stored.configs if config.lr == 0.1]
    for note, count, ids in zip(notes, ("Four", "Two"), ([c.run_id for c in stored.configs], fast), strict=True):
        said = " ".join(re.sub("<[^>]+>", "", note).split())
        assert "cell 3 (both) of notebooks/shape.ipynb with params/mine/shape.yaml" in said
        assert "commit abababababab (with changes)" in said
        assert f"{count} runs ({provenance.digest(ids)})" in said
        assert record["data_checksum"][:12] in said and record["code"]["commit"][:12] in said
        assert "device cpu" in said and "precision float32" in said and f"torch {record['versions']['torch']}" in said
        assert "minutes of training" in said


def test_the_data_are_in_the_page_as_csv(paper, stored):
    page = HomeworkHTML().from_notebook_node(paper)[0]
    links = re.findall(r'<a\b[^>]*href="data:text/csv;charset=utf-8,([^"]*)"[^>]*>', page)
    names = re.findall(r'download="([^"]*)"', page)
    assert names == ["fig-dots.csv", "tbl-runs.csv"]
    dots, table = (pd.read_csv(io.StringIO(urllib.parse.unquote(link.replace("&amp;", "&")))) for link in links)
    runs = stored.runs()
    assert list(dots.run_id) == list(runs.run_id) and list(table.seed) == [0, 1]
    assert dots.test_accuracy.tolist() == pytest.approx(runs.test_accuracy.tolist(), rel=1e-5)


def test_the_data_are_attached_to_the_pdf_which_is_archival_and_accessible(paper):
    reader = pypdf.PdfReader(io.BytesIO(HomeworkPDF().from_notebook_node(paper)[0]))
    assert set(reader.attachments) == {"fig-dots.csv", "tbl-runs.csv"}
    assert len(pd.read_csv(io.BytesIO(reader.attachments["tbl-runs.csv"][0]))) == 2
    about = reader.trailer["/Root"]["/Metadata"].get_object().get_data().decode()
    assert re.search(r"pdfaid:part>3<.*pdfaid:conformance>A<", about, re.S) and "pdfuaid:part>1<" in about
    text = pdf_text(reader)
    assert "PROVENANCE" in text.upper() and "params/mine/shape.yaml" in text and "Figure 1 (3), Table 1 (3)" in text


@pytest.fixture
def about(paper, stored, tmp_path) -> Path:
    """The report's JSON file."""
    trials = {c.run_id: {"shape": trial} for trial, (_, configs) in stored.trials.items() for c in configs}
    path = tmp_path / "report.json"
    path.write_text(provenance.written({"report": "mine", "empty": {}} | provenance.record(paper.cells, trials)))
    return path


def test_the_json_lists_what_is_shown_and_every_run(about, stored):
    about = json.loads(about.read_text())
    assert [item["label"] for item in about["shown"]] == ["fig-dots", "tbl-runs"]
    item = about["shown"][0]
    assert (item["notebook"], item["cell"], item["id"]) == ("notebooks/shape.ipynb", 3, "both")
    facts = about["run_sets"][item["runs"]]
    assert facts["ids"] == sorted(config.run_id for config in stored.configs) and facts["count"] == 4
    for run_id, run in about["runs"].items():
        assert RunConfig.model_validate(run["config"]).run_id == run_id
        assert run["test_accuracy"] == store.load_run(run_id).metrics["test_accuracy"]
    assert {run["trials"]["shape"] for run in about["runs"].values()} == set(stored.trials)


def test_a_figure_of_ones_own_may_say_its_data_and_its_runs(published, stored):
    frame = pd.DataFrame({"x": [0.123456789, 2.0]})
    publish.show(plt.figure(), "fig-own", "Own.", "It rises.", data=frame, runs=stored.runs())
    mark = published[0].metadata["fmnist"]
    assert mark["data"] == "x\n0.123457\n2\n" and mark["runs"] == sorted(c.run_id for c in stored.configs)
    publish.show(plt.figure(), "fig-bare", "Bare.", "Nothing.")
    bare = published[2].metadata["fmnist"]
    assert bare["data"] == "" and bare["runs"] == []


def test_a_tables_data_are_its_numbers_not_its_print(published):
    numbers = pd.DataFrame({"trial": ["a", "b"], "mean": [0.87654321, 0.5]})
    printed = pd.DataFrame({"Trial": ["a", "b"], "Test (%)": ["87.7", "50.0"]})
    publish.table(tables.Table(numbers, printed, ("0" * 16,)), "tbl-x", "c")
    mark = published[0].metadata["fmnist"]
    assert mark["data"] == "trial,mean\na,0.876543\nb,0.5\n" and mark["runs"] == ["0" * 16]
    assert "87.7" in published[0].data["text/markdown"] and "0.8765" not in published[0].data["text/markdown"]


def verified(about: Path, capsys, *words: str) -> tuple[int, list[str], str]:
    """The exit code of `fmnist verify`, its lines about runs, and its last line."""
    code = main(["verify", str(about), "--device", "cpu", *words])
    *lines, last = capsys.readouterr().out.splitlines()
    return code, [line for line in lines if ", again " in line], last


def test_a_sample_is_its_seeds_what_holds_is_said_to_hold_and_nothing_is_stored(about, stored, capsys):
    folder = Path(os.environ["FMNIST_RUNS"])
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    first, again, other = (verified(about, capsys, "--sample", "2", "--seed", seed) for seed in "002")
    assert first[::2] == (0, "2 of 2 hold") and all(line.startswith("holds ") for line in first[1])
    assert first == again and first[1] != other[1]
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_number_that_does_not_hold_is_named(about, capsys):
    read = json.loads(about.read_text())
    wrong = sorted(read["runs"])[0]
    for run in read["runs"].values():
        if run["trials"] == read["runs"][wrong]["trials"]:
            run["test_accuracy"] = 0.05  # of every seed, so that their spread allows nothing
    about.write_text(json.dumps(read))
    code, lines, last = verified(about, capsys, "--sample", "99")
    assert sum(line.startswith("DIFFERS") for line in lines) == 2 and (code, last) == (1, "2 of 4 hold")
    assert any(line.startswith(f"DIFFERS {wrong}") and "stored 5.00 %" in line for line in lines)


@pytest.mark.parametrize("path", sorted((ROOT / "report").glob("*.json")), ids=lambda path: path.stem)
def test_every_committed_report_can_be_verified(path):
    runs, checksums = verify.read(path)
    assert checksums and all(RunConfig(**config).run_id == run_id for run_id, (config, _, _) in runs.items())


@pytest.mark.parametrize("text", ["", "no json", "{}", "[]"])
def test_what_is_no_report_is_refused(text, tmp_path, capsys):
    (tmp_path / "x.json").write_text(text)
    for name in ("x.json", "absent.json"):
        assert main(["verify", str(tmp_path / name), "--device", "cpu"]) == 2
        assert str(tmp_path / name) in capsys.readouterr().err


TYPED = {
    "Adam of 2014 is best of 3 in 12,000 steps. They print 87.5 % [@wood].": [],
    "The level is $0.05$, the rate `0.1`, the interval 95 %.": [],
    "$$\nx = 0.5\n$$ {#eq-x width=0.5}": [],
    "```\n0.5\n```\n\nSee [this](https://example.org/1.2) and @fig-x-1.": [],
    "It reaches 0.87.": ["0.87"],
    "It reaches 89 %, or 88.5 % (@fig-x).": ["89 %", "88.5 %"],
    "Cited [@wood] 1.5.\n\nNot cited: 2.5 points.": ["2.5"],
    "With p < 0.05 and more > 3, by .87 points.": ["0.05", ".87"],
    "Ask ann@example.org about 1.5.": ["1.5"],
}


@pytest.mark.parametrize(("text", "found"), TYPED.items())
def test_what_may_stand_in_the_text_and_what_may_not(text, found):
    assert prose.typed_in(text) == found


def test_strings_handed_to_the_report_are_read_and_what_f_strings_compute_is_not():
    source = (
        'x = "0.1"\nsay(f"It is {100 * 0.5:.1f} %, {x} % and 0.7")\n'
        'show(plot(0.2), "fig-x", "At 0.3." + f"{x}.5", alt="0.4 high")\nother("0.9")'
    )
    cell = nbf.new_code_cell(f"%matplotlib inline\n{source}", id="says")
    assert prose.findings(nbf.new_notebook(cells=[cell]), "shape") == ["notebook shape: cell 1 (says): 0.7, 0.3, 0.4"]


def test_a_typed_in_result_stops_the_report_before_anything_is_done(tmp_path, monkeypatch, capsys):
    told = nbf.new_markdown_cell("It reaches 88.7 % of 1.0.", id="results")
    monkeypatch.chdir(project(tmp_path, {"shape": ["print(1)", told]}, abstract="A gain of 2.5 points."))
    assert main(["report", "mine", "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "notebook shape: cell 4 (results): 88.7 %, 1.0\n" in said and "executing" not in said
    assert "params/mine/report.yaml: abstract: 2.5\n" in said
