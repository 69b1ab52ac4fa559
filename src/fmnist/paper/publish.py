"""What a notebook hands to the report: figures, tables, sentences and values.

Each call is a rich display; `document` makes the paper of its metadata ``fmnist``, which have data (CSV) and run ids.
Captions, table cells and sentences are Pandoc Markdown: ``@fig-x`` refers, ``[@key]`` cites, ``$x$`` is mathematics.
"""

import io
import re
from collections.abc import Iterable

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import display
from matplotlib.figure import Figure
from tabulate import tabulate

from fmnist.config import UserError
from fmnist.plots.style import redrawn, style
from fmnist.tables import Table, run_ids

NUMBERS = re.compile(r"(\(best\))?[\s\d.,+\-−±×%*$~<>=–—e()\[\]]*|nan|\$10\^.*")  # "1 234", "+0.3 ± 0.1", "97 %", "–"
REFERENCE = re.compile(r" ?(\((?:@(?:fig|tbl|sec|eq)-[\w-]+(?:, | and )?)+\)|\[@[^]]*\])")  # a notebook hides it
Runs = pd.DataFrame | Iterable[pd.DataFrame] | None  # frames with a column `run_id`


def show(figure: Figure, label: str, caption: str, alt: str, data: pd.DataFrame | None = None, runs: Runs = None):
    """Publish a figure as SVG and close it.

    `label` (``fig-…``) is what ``@fig-…`` refers to; `caption` (Markdown) says what it shows, `alt` (plain text) to
    those who cannot see it. `data` is what readers can save as CSV, `runs` what the figure rests on; the
    functions of `plots` know both. Raises UserError for a malformed label, or without caption or alt text.
    """
    data = getattr(figure, "fmnist_data", None) if data is None else data
    ids = getattr(figure, "fmnist_runs", run_ids(data)) if runs is None else run_ids(runs)
    more = {"alt": alt, "drawing": redrawn(figure)}
    _numbered("figure", {"image/svg+xml": svg(figure), "text/plain": alt}, label, caption, data, ids, **more)


def svg(figure: Figure) -> str:
    """The figure as SVG, equal byte by byte for equal figures, its paths to 0.01 pt; it is then closed."""
    text = io.StringIO()
    with style():
        figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return re.sub(r'\bd="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), text.getvalue())


def table(frame: pd.DataFrame | Table, label: str, caption: str, formats: dict | None = None, runs: Runs = None):
    """Publish a DataFrame, or a `Table`, which has its numbers and its print; cells may hold Markdown.

    `label` is ``tbl-…``; `formats` maps a column to a format string such as ``"{:.2f}"`` or to a function. A named
    index becomes the first column or columns. `runs` is what the table rests on, by default its own column `run_id`.
    Raises UserError for a malformed label or an unknown column.
    """
    if not isinstance(frame, Table):
        flat = frame.reset_index() if any(frame.index.names) else frame
        frame = Table(flat, flat, run_ids(frame))
    if unknown := set(formats or {}) - set(frame.printed):
        raise UserError(f"table {label}: formats names {sorted(unknown)}; its columns are {list(frame.printed)}")
    cells = {name: _cells(column, (formats or {}).get(name)) for name, column in frame.printed.items()}
    first, *others = cells.values()
    sides = ["left", *("right" if all(map(NUMBERS.fullmatch, texts)) else "left" for texts in others)]
    markdown = tabulate(cells, "keys", "pipe", disable_numparse=True, colalign=sides if first else None)
    forms, ids = {"text/markdown": markdown, "text/plain": markdown}, frame.run_ids if runs is None else run_ids(runs)
    _numbered("table", forms, label, caption, frame.data, ids)


def say(text: str) -> None:
    """Publish a computed sentence or paragraph (Markdown)."""
    _publish({"text/markdown": REFERENCE.sub(r"<!-- \1 -->", text), "text/plain": text}, role="text")


def record(**values) -> None:
    """Publish values (numbers or strings) for the abstract and for other notebooks; shows nothing."""
    plain = {name: value.item() if hasattr(value, "item") else value for name, value in values.items()}
    _publish({"text/markdown": "", "text/plain": ""}, role="values", values=plain)


def _numbered(role: str, forms: dict, label: str, caption: str, data: pd.DataFrame | None, ids: Iterable[str], **more):
    """Publish a figure or table with its data as CSV, floats of six digits, and then its caption."""
    prefix = {"figure": "fig", "table": "tbl"}[role]
    if not re.fullmatch(rf"{prefix}-[a-z0-9-]+", label):
        raise UserError(f"label {label!r}: write {prefix}- and then lower-case letters, digits and hyphens")
    if not caption.strip() or not more.get("alt", caption).strip():
        raise UserError(f"{label}: caption and alt must say what it shows")
    csv = "" if data is None else data.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    _publish(forms, role=role, label=label, caption=caption, data=csv, runs=list(ids), **more)
    shown = f"**{role.capitalize()}** · {REFERENCE.sub('', caption)}"
    _publish({"text/markdown": shown, "text/plain": caption}, role="caption")


def _publish(forms: dict, **mark) -> None:
    display(forms, metadata={"fmnist": mark}, raw=True)


def _cells(column: pd.Series, form) -> list[str]:
    """What is printed; lines and bars would end a cell of a Markdown table."""
    form = form or ("{:.4g}" if pd.api.types.is_float_dtype(column) else "{}")
    write = form if callable(form) else form.format
    texts = ["–" if pd.isna(value) else str(write(value)) for value in column]
    return [re.sub(r"(?<!\\)\|", r"\|", text.replace("\n", " ")) for text in texts]
