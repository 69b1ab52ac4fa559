"""A mistake costs seconds, not a night of training: it is refused at once, in one line that says where and what else.

Everything here goes through the command, in a project of its own, with training forbidden and the store out of sight.
"""

import copy
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from test_report import ROOT
from test_report import project as handmade

from fmnist import cli
from fmnist.config import UserError, read_yaml
from fmnist.engine import workers
from fmnist.paper.report import Report, values
from fmnist.study import Study

PLACE = "params/smoke/"
LINE = r"(, line \d+)?[,:]"
FIELDS = r"Allowed: dataset, hidden_sizes, activation, dropout, .*, precision$"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A copy of params/smoke beside the notebooks, as working directory."""
    shutil.copytree(ROOT / "params" / "smoke", tmp_path / "params" / "smoke")
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FMNIST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(workers, "train", lambda *_: pytest.fail("training has begun"))
    return tmp_path


@pytest.fixture
def refused(project, capsys):
    """The command's one message; the test fails unless it exits with 2, says one thing, and leaves the store alone."""

    def call(*arguments: str) -> str:
        arguments = arguments or ("report", "smoke", "--device", "cpu")
        assert cli.main(list(arguments)) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.startswith("fmnist: ")
        assert printed.err.count("\n") == 1 and len(printed.err) < 600
        assert not re.search("Traceback|pydantic|Input should|dictionary|None, None", printed.err)
        assert not (project / "runs").exists()
        return printed.err.removeprefix("fmnist: ").rstrip("\n")

    return call


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


OPTIMIZER = [
    # keys
    ("base: {hiden_sizes: [4]}", r"base\.hiden_sizes: unknown key; did you mean 'hidden_sizes'\? " + FIELDS),
    ("grids: {lr: [0.1]}", r"grids: unknown key; did you mean 'grid'\? Allowed: "),
    ("base: {seed: 1}", "base.seed: unknown key; seeds are listed under `seeds`"),
    # values, also where the grid overrides them
    ("base: {lr: -0.1}", r"base: lr: should be greater than 0 \(got -0.1\)"),
    ("base: {lr: .nan}", r"base: lr: should be a finite number \(got nan\)"),
    ("base: {lr: '0.1'}", r"base: lr: should be a valid number \(got '0.1'\)"),
    ("grid: {lr: [0.1, -1]}", r"grid: lr: should be greater than 0 \(got -1\)"),
    ("base: {hidden_sizes: 128}", r"base: hidden_sizes: should be a list of widths, such as \[400, 400\] \(got 128\)"),
    ("base: {teachers: [{}, {lr: -1}]}", r"variants\.SGD: teachers\.1: lr: should be greater than 0 \(got -1\)"),
    ("base: {teachers: [{val_size: 5}]}", r"variants\.SGD: teachers\.0\.val_size: teachers have the images of the run"),
    ("base: {batch_norm: yes}", r"base: batch_norm: should be true or false \(got 'yes'\)"),
    ("base: {dataset: Fashion}", "base: dataset: 'Fashion' is not allowed; did you mean 'FashionMNIST'. Allowed: "),
    # values that do not go together
    ("variants: {A: {optimizer: Adam, momentum: 0.9}}", "variants.A: momentum: only with SGD or RMSprop, not Adam"),
    ("variants: {SGD: {nesterov: true}}", "variants.SGD: nesterov: only with SGD and momentum > 0"),
    ("base: {residual: true}", "variants.SGD: residual: only with two neighbouring hidden layers of one width"),
    ("variants: {SGD: {batch_norm: true, layer_norm: true}}", "variants.SGD: layer_norm: not beside batch_norm"),
    ("base: {schedule: one_cycle, warmup_epochs: 1}", "variants.SGD: warmup_epochs: not with schedule one_cycle"),
    ("variants: {SGD: {init_std: 0.1}}", "variants.SGD: init_std: only with init or bias_init: normal"),
    ("variants: {SGD: {batch_norm: true, batch_size: 1}}", "variants.SGD: batch_size: batch norm needs two images"),
    # shapes
    ("base: [lr]", r"base: should be keys with values \(got \['lr'\]\)"),
    ("variants: {SGD: }", r"variants\.SGD: should be keys with values \(got None\)"),
    ("variants: {1: {lr: 1}}", r"variants\.1.*: should be text; put it in quotes \(got 1\)"),
    ("grid: {lr: 0.1}", r"grid\.lr: should be a valid list \(got 0.1\)"),
    ("grid: {lr: []}", r"grid\.lr: should not be empty \(got \[\]\)"),
    ("grid: {lr: [0.1, 0.1]}", "two trials would have the same name: SGD, lr 0.1; remove or rename one"),
    ("variants: {a: {}, b: {lr: 0.01}}\ngrid: {}\nbaseline: a", "two trials have the same config: a = b; remove one"),
    ("seeds: [0, 1, 0]", r"seeds: a seed stands twice in \[0, 1, 0\]"),
    ("variants: {a: {seeds: [0, 0]}}", "variants.a: seeds: a seed stands twice"),
    ("variants: {a: {seeds: []}}", "variants.a: seeds: "),
    ("baseline: SDG", r"baseline: no trial is called 'SDG'; did you mean 'SGD'\? Allowed: SGD, SGD \+ momentum, "),
    ("shared_lr: high", r"shared_lr: should be a valid number \(got 'high'\)"),
    # YAML
    ("base: {lr: 0.1", r"line \d: not readable as YAML: expected ',' or '}'"),
    ("base: {lr: 0.1}\nbase: {lr: 0.2}", 'line 2: not readable as YAML: found duplicate key "base"$'),
    ("base:\n\tlr: 0.1", "line 2: not readable as YAML: found character .* that cannot start any token"),
    ("base: !!python/object:os.system {}", "line 1: not readable as YAML: .*a tag"),
    ("\0", "not readable as YAML: "),
    ("- base", r"expected keys with values, got \['base'\]"),
    ("1: 2", "1: unknown key"),
]


OTHERS = [
    ("optimiser", "base: {}", "belongs to no section of report.yaml$"),
    ("shape", "early: soon", r"early: should be a valid integer \(got 'soon'\)"),
    ("theory", "base: {lr: 1}", "base: unknown key"),
    ("errors", "pictures: [0]", r"pictures: should be a valid integer \(got \[0\]\)"),
]
MISTAKES = [*(("optimizer", *row) for row in OPTIMIZER), *OTHERS]


@pytest.mark.parametrize(("name", "text", "message"), MISTAKES, ids=[text for _, text, _ in MISTAKES])
def test_a_notebooks_yaml(name, text, message, project, refused):
    (project / PLACE / f"{name}.yaml").write_text(text)
    assert re.search(rf"{PLACE}{name}\.yaml{LINE} {message}", refused())


def test_yaml_means_what_it_looks_like(tmp_path):
    """YAML 1.2: 1e-4 is a number and `no` is a word; an empty file is no mistake."""
    path = tmp_path / "a.yaml"
    path.write_text("lr: 1e-4\nword: no\nsizes: [0o10, 010]\n")
    assert read_yaml(path) == {"lr": 1e-4, "word": "no", "sizes": [8, 10]}
    path.write_text("# nothing yet\n")
    assert read_yaml(path) == {}
    with pytest.raises(UserError, match=r"b\.yaml: no such file; did you mean 'a\.yaml'\?"):
        read_yaml(tmp_path / "b.yaml")


REPORT = [
    ("{epochs: 1}", "{epochs: 1, hiden_sizes: [4]}", r"base\.hiden_sizes: unknown key; did you mean 'hidden_sizes'\? "),
    ("title: Smoke", "titel: Smoke", r"titel: unknown key; did you mean 'title'\? Allowed: title, authors, "),
    ("title: Smoke", "date: 2026-11-21\ntitle: Smoke", r"date: should be text; put it in quotes \(got datetime.date"),
    ("  - name: The fmnist authors", "  me", r"authors: should be a valid list \(got 'me'\)"),
    ("- name: The", "- nmae: The", r"authors.0.nmae: unknown key; did you mean 'name'\? Allowed: name, affiliation"),
    ("- theory", "- thoery", r"sections: no notebook 'thoery'; did you mean 'theory'\? Allowed: activation, "),
    ("- theory", "- theory\n  - theory", "sections: theory stands twice"),
    ("id: sec-results", "ids: sec-results", r"sections\.3.*ids: unknown key; did you mean 'id'\? Allowed: title, id"),
]


@pytest.mark.parametrize(("old", "new", "message"), REPORT, ids=[f"{old} → {new}" for old, new, _ in REPORT])
def test_report_yaml(old, new, message, project, refused):
    edit(project / PLACE / "report.yaml", old, new)
    assert re.search(rf"^{PLACE}report\.yaml{LINE} .*{message}", refused())


def test_an_empty_report_and_bytes_that_are_no_text(project, refused):
    (project / PLACE / "report.yaml").write_text("")
    wanted = "title: is required; authors: is required; abstract: is required; sections: is required"
    assert refused() == f"{PLACE}report.yaml: {wanted}"
    (project / PLACE / "report.yaml").write_bytes(b"base: {init: \xff}")
    assert re.search(rf"{PLACE}report\.yaml: not readable as YAML", refused())


def test_what_the_reports_base_does_to_a_study(project, refused):
    """The report gives every study momentum, and one of them has Adam."""
    edit(project / PLACE / "report.yaml", "{epochs: 1}", "{epochs: 1, momentum: 0.5}")
    assert re.search(r"optimizer\.yaml: variants\.\w+: momentum: only with SGD or RMSprop, not \w+", refused())


ARGUMENTS = [
    ("report smok", r"params/smok/report.yaml: no such report in .*; did you mean 'smoke'\? Allowed: smoke"),
    ("report", "params/homework/report.yaml: no such report"),
    ("report smoke --device cuda:99", "device: cuda:99: this machine has no such device. Allowed here: auto, cpu"),
    ("train params/smoke --memory 4x", "--memory 4x: not a size; write it as 4GB or 800MB"),
    ("train params/smoke/optimiser.yaml", r"no study of this report; did you mean 'optimizer'\?"),
    ("new Mine/../x --title T --author A", "'Mine/../x': a report's name is lower-case letters"),
    ("new index --title T --author A", "and not index"),
    ("new smoke --title T --author A", "params/smoke is there already"),
]


@pytest.mark.parametrize(("arguments", "message"), ARGUMENTS)
def test_arguments(arguments, message, refused):
    assert re.search(message, refused(*arguments.split()))


@pytest.mark.parametrize("arguments", ["", "reprot", "export xml folder", "train"])
def test_usage(arguments, project, capsys):
    assert cli.main(arguments.split()) == 2
    assert capsys.readouterr().err.startswith("Usage: fmnist")


@pytest.mark.parametrize("place", ["report", "report/build", "report/build/smoke"])
def test_a_report_that_cannot_be_written(place, project, refused):
    (project / place).parent.mkdir(parents=True, exist_ok=True)
    (project / place).write_text("")
    assert re.search("report/build/smoke: the report cannot be written here: (Not a directory|File exists)", refused())


def test_the_command_exits_with_2_within_seconds(project):
    (project / PLACE / "dropout.yaml").write_text("grid: {dropuot: [0.1]}")
    command = [sys.executable, "-m", "fmnist.cli", "report", "smoke", "--device", "cpu"]
    done = subprocess.run(command, cwd=project, env=os.environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(r"fmnist: params/smoke/dropout.yaml, line 1: grid.dropuot: unknown key; .*\n", done.stderr)
    assert not (project / "runs").exists() and not (project / "report").exists()


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A report of one notebook that records two values; (its report.yaml, the executed notebooks)."""
    monkeypatch.chdir(handmade(tmp_path, {"end": []}))
    output = nbformat.v4.new_output("display_data", data={"text/markdown": ""})
    output.metadata["fmnist"] = {"role": "values", "values": {"runs": 3, "best": "SGD"}}
    executed = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=[output], id="record")])
    return tmp_path / "params" / "mine" / "report.yaml", {"end": executed}


def abstract(text: str) -> str:
    return f"title: T\nauthors: [{{name: A}}]\nabstract: '{text}'\nsections: [end]\n"


def test_the_abstract_is_filled_with_what_notebooks_record_and_other_placeholders_are_named(tiny):
    path, executed = tiny
    path.write_text(abstract("{end.runs} runs, $x_{1.5}$ and {end.best}"))
    assert values(executed["end"]) == {"runs": 3, "best": "SGD"}
    paper = Report("mine", "cpu").merge(executed)
    assert paper.metadata["fmnist"]["abstract"] == "3 runs, $x_{1.5}$ and SGD"
    for name in ("end.rums", "End.runs", "ned.runs", "end.RUNS", "no-such.value"):
        path.write_text(abstract(f"{{{name}}} runs"))
        message = rf"^params/mine/report.yaml: abstract: no notebook recorded {{{name}}}.* Allowed: end.runs, end.best$"
        with pytest.raises(UserError, match=message):
            Report("mine", "cpu").merge(copy.deepcopy(executed))


def test_a_paper_says_what_its_report_wants_said(tiny):
    path, executed = tiny
    path.write_text(abstract("") + "found: ['{end.best} wins']\n")
    (path.parent / "end.md").write_text("Others say so [@wood].")
    texts = {"title": "# End", "lr": "On rates.", "two": "On two.", "three": "On three.", "all": "On all."}
    cells = [nbformat.v4.new_markdown_cell(text, id=name) for name, text in texts.items()]
    for cell, field in zip(cells[1:], ["lr", "hidden_sizes=(2,)", "hidden_sizes=(3,)"], strict=False):
        cell.metadata["fmnist"] = {"varies": [field]}
    executed["end"].cells[:0] = cells
    report = Report("mine", "cpu")
    report.trained = {"width": Study({}, {}, {"hidden_sizes": [[1], [2]]})}
    paper = report.merge(executed)
    assert paper.metadata["fmnist"]["found"] == ["SGD wins"]
    told = [cell.source for cell in paper.cells if cell.cell_type == "markdown"]
    assert told == ["# End", "Others say so [@wood].", "On two.", "On all."]
    (path.parent / "end.md").write_text("It gains 1.5 points.")
    with pytest.raises(UserError, match="params/mine/end.md: 1.5"):
        Report("mine", "cpu").check_prose()


def test_a_notebook_that_cannot_be_executed_is_refused(tiny):
    path, _ = tiny
    path.write_text(abstract(""))
    notebook = path.parents[2] / "notebooks" / "end.ipynb"
    notebook.write_text("")
    with pytest.raises(UserError, match="end.ipynb: not a notebook with its parameters"):
        Report("mine", "cpu")
    cell = nbformat.v4.new_code_cell("seeds = list(range(3))", metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), notebook)
    with pytest.raises(UserError, match="end.ipynb: .* literals only, one name a line: .* line 1"):
        Report("mine", "cpu")
