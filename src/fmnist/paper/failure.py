"""When a notebook fails: a page that says where and with which parameters, and the gap in a paper made without it."""

import re
import shlex
import textwrap
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from fmnist.config import UserError, project_root
from fmnist.words import joined

MISSING = "**[missing]**"  # in the abstract, for what a notebook that failed would have recorded
FRAMES = 3  # of a traceback: the notebook's own and the last ones
FRAME = re.compile(r"(Cell In|Input In|File) ?")


def gap(notebook: Path, problem: str) -> NotebookNode:
    """What stands in for a notebook that failed: its heading, that it is missing, and the first line of why."""
    source = nbformat.read(notebook, as_version=4)
    heading = source.cells[0].source.splitlines()[0] if source.cells and source.cells[0].source.startswith("#") else ""
    text = f"{heading or '# ' + notebook.stem}\n\n**This section is missing**: its notebook, `{notebook.name}`, failed."
    first = problem.splitlines()[0]
    error = nbformat.v4.new_output("error", ename="", evalue="", traceback=[first])
    cells = [
        nbformat.v4.new_markdown_cell(text, id="title"),
        nbformat.v4.new_code_cell("", id="gap", outputs=[error]),
    ]
    return nbformat.v4.new_notebook(cells=cells, metadata={**source.metadata, "gap": first})


def gaps(executed: dict[str, NotebookNode]) -> dict[str, str]:
    """Notebooks that failed → why."""
    return {name: notebook.metadata["gap"] for name, notebook in executed.items() if "gap" in notebook.metadata}


def notice(missing: dict[str, str]) -> str:
    """What the first page says of them; "" when nothing is missing."""
    if not missing:
        return ""
    names = joined([f"`{name}`" for name in missing])
    many = "notebooks failed, and their sections are" if len(missing) > 1 else "notebook failed, and its section is"
    return f"**This paper is incomplete.** The {names} {many} missing."


def traceback(lines: list[str]) -> str:
    """An IPython traceback without colours: the notebook's own frame and the last ones, and the message."""
    parts = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip("\n") for line in lines]
    frames = [i for i, part in enumerate(parts) if FRAME.match(part)]
    kept = {*[i for i in frames if not parts[i].startswith("File")][-1:], *frames[1 - FRAMES :]}
    dropped = [i for i in frames if i not in kept]
    for i in frames:
        head, *rest = parts[i].splitlines()
        parts[i] = "\n".join([head, *(line for line in rest if re.match("-+> ", line))])
    for i in dropped:
        parts[i] = f"… {len(dropped)} more …" if i == dropped[0] else ""
    return "\n".join(part for part in parts if part and not re.fullmatch("-+", part))


def open_command(target: Path) -> str:
    """The command that opens an executed notebook in JupyterLab (which takes no cell to go to)."""
    root = project_root()
    jupyter = ".venv/bin/jupyter" if (root / ".venv/bin/jupyter").exists() else "jupyter"
    place = target.resolve()
    path = place.relative_to(root) if place.is_relative_to(root) else Path(place.name)
    top = root if place.is_relative_to(root) else place.parent
    start = shlex.quote(f"--LabApp.default_url=/lab/tree/{path}")
    return f"cd {shlex.quote(str(top))} && {jupyter} lab --ServerApp.root_dir=. {start}"


def page(
    notebook: Path, target: Path, parameters: dict[str, Any], where: str, lines: list[str], index: int | None
) -> Path | None:
    """Write `target`'s page: what failed (`where`), the cell, its traceback, the parameters, and how to open it.

    `index` is the failing cell's in the executed notebook, None where no cell is to blame. None if it cannot be made.
    """
    cell = nbformat.read(target, as_version=4).cells[index] if index is not None else None
    values = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    parts = [
        f"# Notebook {notebook.stem} failed",
        f"In {_code(where)}" if cell else _code(where),
        f"## The cell\n\n{_block(cell.source, 'python')}" if cell else "",
        f"## The notebook's parameters\n\n{_block(values or 'none', 'python')}",
        f"## Traceback\n\n{_block(traceback(lines))}" if lines else "",
        "## To open it\n\nThis opens the notebook as executed, with these parameters"
        f"{'; a red line marks the cell' * bool(cell)}:",
        _block(open_command(target)),
        f"What is to be mended is `notebooks/{notebook.name}` or its parameters; then repeat "
        f"`make report REPORT={target.parent.name}`. Finished runs are kept.",
    ]
    paper = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("\n\n".join(filter(None, parts)))])
    try:
        from fmnist.paper.exporters import HomeworkHTML

        body, _ = HomeworkHTML().from_notebook_node(paper)
        target.with_suffix(".html").write_text(body, encoding="utf-8")
    except (UserError, OSError):
        return None
    return target.with_suffix(".html")


def _block(text: str, language: str = "") -> str:
    fence = "`" * max([4, *(len(ticks) + 1 for ticks in re.findall("`+", text))])
    return f"{fence}{language}\n{text}\n{fence}"


def _code(text: str) -> str:
    return "`` " + textwrap.shorten(text, 400, placeholder=" …").replace("``", "′′") + " ``"
