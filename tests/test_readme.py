"""README and docs are true: their Python runs, their YAML is accepted, and what they name exists."""

import json
import re
from pathlib import Path

from ruamel.yaml import YAML

from fmnist.config import read_yaml, validate
from fmnist.engine.cluster import JobsSpec

VERDICTS = {"numbers": ["agrees", "differs", "cannot tell"], "claims": ["hold", "fail", "open"]}
PUBLISHED = ["karki", "wood", "lyu", "lybbert", "dewangan"]
ROOT = Path(__file__).parents[1]
TEXTS = {path: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
README, TOGETHER = TEXTS[ROOT / "README.md"], "\n".join(TEXTS.values())
ROWS = [[cell.strip(" *") for cell in line.split("|")[1:-1]] for line in TOGETHER.splitlines()]  # of tables


def test_its_python_runs_as_it_stands(tmp_path, monkeypatch, capsys, data_set):
    monkeypatch.setenv("FMNIST_RUNS", str(tmp_path))
    monkeypatch.chdir(ROOT)
    printed = []
    for code in re.findall(r"```python\n(.*?)```", TOGETHER, flags=re.S):
        exec(code, {})
        printed.append(capsys.readouterr().out)
    assert len(printed) == 2 and printed[0].count("Adam") == 2 and "val_accuracy" in printed[1]
    assert len(list(tmp_path.glob("[!.]*"))) == 6


def test_its_yaml_is_that_of_the_reports():
    blocks = re.findall(r"```yaml\n# (params/\S+)\n(.*?)```", TOGETHER, flags=re.S)
    (jobs,) = re.findall(r"```yaml\n(system: .*?)```", TOGETHER, flags=re.S)
    assert len(blocks) == TOGETHER.count("```yaml") - 1 == 5
    assert validate(JobsSpec, YAML(typ="safe").load(jobs), "docs/cluster.md").system == "SLURM"
    for name, text in blocks:
        shown, there = YAML(typ="safe").load(text), read_yaml(ROOT / name)
        if isinstance(shown, list):
            assert all(any(item.items() <= claim.items() for claim in there["claims"]) for item in shown), name
        else:
            assert set(shown) <= set(there), name


def test_the_readme_is_short_and_links_lead_somewhere():
    assert len(README.split()) <= 900
    for path, text in TEXTS.items():
        links = re.findall(r"\]\((?!https://)([^)#]+)\)", text)
        assert [link for link in links if not (path.parent / link).exists()] == []
        assert path.name == "README.md" or f"docs/{path.name}" in README


def test_every_notebook_is_in_its_table_and_linked_from_welcome():
    names = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert set(re.findall(r"\(notebooks/(\w+)\.ipynb\)", README)) == names
    welcome = (ROOT / "notebooks" / "welcome.ipynb").read_text("utf-8")
    assert {name for name in names if f"]({name}.ipynb)" not in welcome} == {"welcome"}


def test_targets_modules_and_folders_it_names_are_there():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    assert set(re.findall(r"make ([a-z]+)\b(?=[ `\n])", TOGETHER)) <= targets
    layout = re.search(r"src/fmnist/\n(.*?)^\w", TOGETHER, flags=re.S | re.M)[1]
    named = {word for line in layout.splitlines() for word in re.split(r"[\s,/]+", line[:32].strip()) if word}
    assert named and named <= {path.stem for path in (ROOT / "src/fmnist").rglob("*") if path.suffix in ("", ".py")}


def test_its_findings_are_those_of_the_committed_report():
    about = json.loads((ROOT / "report" / "homework.json").read_text("utf-8"))
    findings = re.search(r"worth\.png\).*?\n\n((?:- .*\n)+)", README)[1]
    assert findings.splitlines() == [f"- {line}" for line in about["found"]] and len(about["found"]) == 5
    assert f"{len({*about['runs']})} trainings of 50 epochs" in README
    said = json.loads((ROOT / "report" / "record.json").read_text("utf-8"))["values"]["record"]
    plain, augmented = (said[f"{kind}_accuracy"].partition(" [")[0] for kind in ("plain", "augmented"))
    assert f"(report/record.pdf): {plain} plain, {augmented} augmented" in README


def test_its_table_of_published_reports_is_that_of_the_papers():
    rows = [line for line in ROWS if len(line) == 9 and "](" in line[0]]
    shown = {re.search(r"report/(\w+)\.pdf", line[0])[1]: line[1:] for line in rows}
    assert list(shown) == [name for name in PUBLISHED if (ROOT / "report" / f"{name}.json").exists()]
    for name, cells in shown.items():
        about = json.loads((ROOT / "report" / f"{name}.json").read_text("utf-8"))
        counts = about["values"].get("reproduction", {}).get("counts")
        found = []
        for part, verdicts in VERDICTS.items() if counts else ():
            found += [sum(counts[part].values()), *(counts[part].get(name, 0) for name in verdicts)]
        assert cells == (list(map(str, found)) or ["–"] * 8)


def test_its_timings_are_those_of_the_committed_benchmark():
    (name,) = re.findall(r"/benchmarks/results/([\w-]+)\.json\)", TOGETHER)
    rows = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text("utf-8"))["rows"]
    (header,) = [line for line in ROWS if line[:1] == ["network, batch"]]
    shown = {line[0].split(",")[0]: line[1:] for line in ROWS if re.match(r"784-[\d-]+, \d+$", (line or [""])[0])}
    measured = {}
    for row in rows:
        if row["runs"] == 8:
            column = row["implementation"] + (" bfloat16" if row["precision"] == "bfloat16" else "")
            measured.setdefault(row["network"], {})[column] = f"{1e3 * row['seconds_per_run_epoch']:,.0f}"
    assert len(shown) == 5 and shown == {n: [of[c.split(" (")[0]] for c in header[1:]] for n, of in measured.items()}
