"""What holds for the project as a whole: how its parts depend on each other, and that it can be installed."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from functools import cache
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "fmnist"

# A module imports only modules that come before it.
MODULES = """config words statistics data model store use engine.stack engine.optim engine.train
    engine.workers engine.cluster study search replication tables plots.style plots.figures
    paper.publish paper.exporters paper.prose paper.provenance paper.report paper.verify
    lab.widgets lab.network lab.browse lab.explore cli"""
ORDER = MODULES.split()
PARTS = ("engine", "plots", "paper", "lab")
PACKAGES = ["__init__", *(f"{part}.__init__" for part in PARTS)]
FRAMES = [name for name in ORDER if name.split(".")[0] in ("words", "statistics", "tables", "replication", "plots")]
FRAMES += [name for name in ORDER if name.startswith("paper.") and name != "paper.verify"]  # which trains
ROOMS = {  # lines of Python that a room may have: one line in, one line out
    "config data store use study search cli __init__": 1_769,
    "model engine": 1_415,
    "words statistics replication tables": 811,
    "plots": 412,
    "paper": 973,
    "lab": 620,
}
PINNED = {"torch": "2.14.1", "torchvision": "0.29.1"}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(path(module).read_text("utf-8"))


def path(module: str) -> Path:
    return (PACKAGE / module.replace(".", "/")).with_suffix(".py")


def imports(module: str) -> set[str]:
    """Dotted names of all that a module imports, inside functions too; `from package import x` as `package.x`."""
    found = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            inside = {f"{node.module}.{name.name}" for name in node.names}
            found |= inside if node.module in ("fmnist", *(f"fmnist.{part}" for part in PARTS)) else {node.module}
    return found


@cache
def project_files() -> list[str]:
    """Every file that belongs to the project, as git sees it, relative to the root."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    if not shutil.which("git") or subprocess.run(command, cwd=ROOT, capture_output=True).returncode:
        pytest.skip("this is not a git checkout")
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [name for name in names if name and (ROOT / name).is_file()]


def run(*command, **options) -> str:
    """What a command prints; the test fails with it where the command does."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, **{"cwd": ROOT, **options}
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


# Code


def test_every_module_has_its_place():
    there = {".".join(found.relative_to(PACKAGE).with_suffix("").parts) for found in PACKAGE.rglob("*.py")}
    assert {*ORDER, *PACKAGES} == there and len(there) <= 40


@pytest.mark.parametrize("module", ORDER)
def test_imports_flow_one_way(module):
    ours = {name.removeprefix("fmnist.") for name in imports(module) if name.startswith("fmnist.")}
    assert ours <= set(ORDER[: ORDER.index(module)])


HEAVY = {  # what comes with none of these modules
    "fmnist": {"torch", "pandas", "numpy", "matplotlib", "pydantic"},
    "fmnist.cli, fmnist.engine.cluster": {"dask", "distributed"},
    ", ".join(f"fmnist.{name}" for name in FRAMES): {"torch"},
    "fmnist.plots.figures": {"matplotlib.pyplot"},
}


@pytest.mark.parametrize("modules", HEAVY)
def test_importing_costs_no_more_than_it_must(modules):
    run(sys.executable, "-c", f"import sys, {modules}; assert not {HEAVY[modules]} & {{*sys.modules}}")


def length(*files: Path) -> int:
    return sum(file.read_text("utf-8").count("\n") for file in files)


@pytest.mark.parametrize(("rooms", "budget"), ROOMS.items())
def test_rooms_keep_their_budgets(rooms, budget):
    lines = {module: length(path(module)) for module in [*ORDER, *PACKAGES] if module.split(".")[0] in rooms.split()}
    assert sum(lines.values()) <= budget, lines


def test_the_house_stays_small():
    assert length(*PACKAGE.rglob("*.py")) <= 6_000
    assert length(*(ROOT / "tests").rglob("*.py")) <= 5_500


@pytest.mark.parametrize("module", [*PACKAGES, *ORDER])
def test_modules_say_why_they_exist_and_functions_stay_short(module):
    functions = [node for node in ast.walk(tree(module)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [node.name for node in functions if node.end_lineno - node.lineno >= 40] == []
    assert ast.get_docstring(tree(module))


def test_ruff_is_content():
    run(sys.executable, "-m", "ruff", "check", "--no-cache", "--quiet")
    run(sys.executable, "-m", "ruff", "format", "--no-cache", "--check", "--quiet", "--diff")


# Notebooks

KINDS = {"study", "recipe", "search", "replication", "beyond", "text", "panel", "lesson"}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def kind(path: Path) -> str:
    return nbformat.read(path, as_version=nbformat.NO_CONVERT).metadata.get("fmnist", {}).get("kind", "")


STUDIES = [path for path in NOTEBOOKS if kind(path) in ("study", "recipe")]
CELLS = ["title", "predict", "imports", "parameters", "run", "setting", "results", "says", "curves"]
CELLS += ["look-test", "test", "table", "turn", "limits"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stripped_stored_as_jupyterlab_writes_them_and_can_be_executed_by_a_report(path):
    notebook, text = nbformat.read(path, as_version=nbformat.NO_CONVERT), path.read_text("utf-8")
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert text == json.dumps(json.loads(text), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    assert notebook.metadata.kernelspec == kernel
    assert notebook.metadata.language_info == {"name": "python"}  # the rest depends on the machine

    first, code = notebook.cells[0], [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert first.cell_type == "markdown" and re.match(r"# \S", first.source)
    assert sum(cell.metadata.get("tags") == ["parameters"] for cell in code) == 1
    assert kind(path) in KINDS and (len(code) < 5 or kind(path) != "panel")
    # JupyterLab hides comments behind a word, so references and citations are such; at a line's start they break it.
    seen = [re.sub("(?<=.)<!--.*?-->", "", cell.source) for cell in notebook.cells if cell.cell_type == "markdown"]
    assert not re.search(r"<!--|\{#|\[@", "\n".join(seen))

    # Readable names, not a tool's random ones, which would change with every saving.
    assert all(re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", cell.id) for cell in notebook.cells)
    assert [cell.id for cell in code if cell.source.count("\n") >= 15 and not cell.metadata.get("tags")] == []


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_study_notebooks_have_the_same_cells_in_the_same_order(path):
    """Of some cells there may be several, run-…, says-…, table-…; the second look and test may be left out."""
    cells = [cell.id for cell in nbformat.read(path, as_version=4).cells]
    first = [name for name in cells if not re.match("(run|says|table)-", name)]
    assert first == [name for name in CELLS if name in first] and {*CELLS} - {*first} <= {"look-test", "test"}


# Environment


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize(("system", "machine"), [("linux", "x86_64"), ("darwin", "arm64")])
def test_the_lock_pins_all_that_the_project_needs(python, system, machine):
    here = {"python_version": python, "python_full_version": f"{python}.5", "sys_platform": system}
    environment = {**default_environment(), **here, "platform_machine": machine, "os_name": "posix"}
    lines, pins = (ROOT / "requirements.lock").read_text("utf-8").splitlines(), {}
    for pin in [Requirement(line) for line in lines if not line.lstrip().startswith("#")]:
        if pin.marker is None or pin.marker.evaluate(environment):
            assert re.fullmatch(r"==[^=*,]+", str(pin.specifier)) and pin.name not in pins
            pins[canonicalize_name(pin.name)] = str(pin.specifier).removeprefix("==")

    about = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wishes = [*about["project"]["dependencies"], *about["build-system"]["requires"]]
    wishes += [wish for extra in about["project"]["optional-dependencies"].values() for wish in extra]
    for wish in (Requirement(wish) for wish in wishes if "fmnist[" not in wish):
        assert wish.specifier.contains(pins[canonicalize_name(wish.name)]), wish
    assert {name: pins[name] for name in PINNED} == PINNED


def test_no_package_registry_is_named():
    """An installer's own settings say where packages come from; the project does not."""
    hosts = re.compile(r"pypi[.]org|pythonhosted[.]org|download[.]pytorch|anaconda[.](org|com)")
    text = {name: (ROOT / name).read_bytes().decode("utf-8", "replace") for name in project_files()}
    assert {name: hosts.search(content)[0] for name, content in text.items() if hosts.search(content)} == {}


def test_an_installed_package_renders_a_foreign_notebook(tmp_path):
    """With neither the project's folder nor its checkout around: all that rendering reads is inside the package."""
    for name in project_files():
        if name.startswith("src/") or "/" not in name:
            (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / "source" / name)
    build = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    run(sys.executable, "-m", "pip", "wheel", *build, "--wheel-dir", tmp_path, tmp_path / "source", cwd=tmp_path)

    (wheel,) = tmp_path.glob("fmnist-*.whl")
    assert wheel.name.startswith(f"fmnist-{version('fmnist')}-")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    installed = {str(path.relative_to(tmp_path / "installed")) for path in (tmp_path / "installed").rglob("*")}
    assert {name.removeprefix("src/") for name in project_files() if name.startswith("src/")} <= installed

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Foreign\n\n$E = m c^2$")])
    nbformat.write(notebook, tmp_path / "foreign.ipynb")
    code = (
        "from nbconvert.exporters import get_exporter as get; pdf = get('homework_pdf'); import fmnist; "
        "assert 'installed' in fmnist.__file__; print(get('homework_html')().from_filename('foreign.ipynb')[0])"
    )
    page = run(sys.executable, "-c", code, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")})
    assert "Foreign" in page and "<math" in page
