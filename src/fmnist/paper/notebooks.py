"""Notebooks as functions: the parameters that one takes, and one execution of it by papermill."""

import ast
import os
import re
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import nbformat

from fmnist.config import UserError
from fmnist.paper import failure


def parameters_of(notebook: Path) -> dict[str, Any]:
    """Names and default values in the notebook's cell tagged `parameters`; they must be literals."""
    import papermill

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = papermill.inspect_notebook(str(notebook))
    except ValueError as error:  # no JSON, no cells, no kernel
        raise UserError(f"{notebook}: not a notebook that can be executed: {error}") from None
    if nbformat.read(notebook, as_version=nbformat.NO_CONVERT).get("nbformat_minor", 0) < 5:
        raise UserError(f"{notebook}: its cells have no ids to refer to; open it in JupyterLab and save it")
    try:
        return {name: ast.literal_eval(item["default"]) for name, item in found.items()}
    except (ValueError, SyntaxError):
        raise UserError(f"{notebook}: its parameters cell must hold literals only, one name a line") from None


def check_parameter(value: Any, default: Any, where: str) -> None:
    """Raises `UserError` unless `value` has the type of the notebook's default; a whole number is a float, too."""
    allowed = (int, float) if type(default) is float else (type(default),)
    if type(value) not in allowed:
        kind = {dict: "keys with values", list: "a list", str: "text", bool: "true or false", int: "a whole number"}
        example = textwrap.shorten(repr(default), 60, placeholder=" …")
        raise UserError(f"{where}: should be {kind.get(type(default), 'a number')}, such as {example} (got {value!r})")


def execute(notebook: Path, parameters: dict[str, Any], target: Path) -> str:
    """Run a notebook in a kernel of its own and keep it as `target`; returns what went wrong, "" if nothing did.

    For a process of its own: its stderr goes into a log beside the target.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    with target.with_suffix(".log").open("w") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())  # what the kernel prints, kept from the terminal
    options = {"kernel_name": "python3", "cwd": str(notebook.parent), "progress_bar": False, "log_output": False}
    lines, index = [], None
    target.with_suffix(".html").unlink(missing_ok=True)  # of an earlier failure
    try:
        papermill.execute_notebook(str(notebook), str(target), parameters, **options)
        return ""
    except KeyboardInterrupt:
        return "interrupted"
    except PapermillExecutionError as error:
        plain = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
        arrow = re.findall(r"^-+> ?(\d+) (.*)$", plain, flags=re.M)
        line = f", line {arrow[0][0]}: {arrow[0][1].strip()}" if arrow else ""
        where = f"cell {_cell(notebook, error.cell_index)}{line}: {error.ename}: {error.evalue}"
        lines, index = error.traceback, _failing(target)
    except Exception as error:  # the kernel did not start, or died
        where = f"the kernel failed: {type(error).__name__}: {error}"
    page = failure.page(notebook, target, parameters, where, lines, index)
    return (
        f"{where}\n"
        + f"  read it:  {page}\n" * bool(page)
        + f"  see it:   {target}\n  mend it:  jupyter lab {notebook}\n"
        f"  rerun it: make report REPORT={target.parent.name} (finished runs are kept)"
    )


def _cell(notebook: Path, index: int) -> int:
    """Number of a cell, from 1, in the notebook as it was before papermill put the given parameters in."""
    cells = nbformat.read(notebook, as_version=4).cells
    tagged = [i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", [])]
    return index if tagged and index > tagged[0] else index + 1


def _failing(target: Path) -> int | None:
    """Index of the cell that failed in the executed notebook, where papermill has put notes between the cells."""
    failing = nbformat.read(target, as_version=4).cells
    wrong = [i for i, cell in enumerate(failing) for out in cell.get("outputs", []) if out.output_type == "error"]
    return wrong[0] if wrong else None
