"""A report of one's own: a folder of parameters to edit, made from ``templates/new/``."""

import contextlib
import json
import re
import sys
from pathlib import Path

from fmnist.config import UserError, project_root

TEMPLATES = Path(__file__).parents[1] / "templates" / "new"


def new(name: str, title: str | None = None, author: str | None = None) -> Path:
    """Make params/`name` with a report.yaml and a file for each study; returns the folder.

    Asks for title and author where they are not given and there is a terminal to ask at. Raises `UserError` for a name
    that cannot be a folder's or is taken, and where there is nobody to ask.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", name) or name == "index":
        raise UserError(
            f"{name!r}: a report's name is lower-case letters, digits, hyphens, such as homework-1, and not index"
        )
    folder = project_root() / "params" / name
    if not folder.parent.is_dir():
        raise UserError(f"{project_root()} is not in a project: there is no folder params/")
    if folder.exists():
        raise UserError(f"params/{name} is there already; take another name, or edit what is in it")
    about = {"name": name, "title": _asked("title", title), "author": _asked("author", author)}
    about |= {
        key: json.dumps(about[key], ensure_ascii=False) for key in ("title", "author")
    }  # quoted, as YAML takes it
    try:
        folder.mkdir()
        for template in sorted(TEMPLATES.glob("*.yaml")):
            (folder / template.name).write_text(template.read_text("utf-8").format(**about), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from None
    return folder


def _asked(what: str, given: str | None) -> str:
    if given is None and sys.stdin.isatty():
        with contextlib.suppress(EOFError):
            given = input(f"{what.capitalize()}: ")
    if given is None or not given.strip():
        raise UserError(f'--{what} is missing: fmnist new mine --title "Homework 1" --author "Your Name"')
    return " ".join(given.split())
