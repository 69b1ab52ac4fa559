"""What a notebook hands to the report: figures, tables, sentences and values.

Each call is one rich display, so JupyterLab shows it at once, plus output metadata under the key ``fmnist`` from
which `document` builds the numbered, captioned and cross-referenced paper. Captions, table cells and sentences are
Pandoc Markdown: ``@fig-x`` refers, ``[@key]`` cites, ``$x$`` is mathematics. Figures and tables take along their data
as CSV and the ids of the runs that they rest on, for `provenance` to make a note of.
"""

import hashlib
import io
import json
import re
from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import display
from matplotlib.figure import Figure
from tabulate import tabulate

from fmnist.config import UserError, project_root
from fmnist.tables import Table

SVG_STYLE = {"svg.fonttype": "path", "svg.hashsalt": "fmnist"}
Runs = pd.DataFrame | Iterable[pd.DataFrame] | None  # frames with a column `run_id`


def show(figure: Figure, label: str, caption: str, alt: str, data: pd.DataFrame | None = None, runs: Runs = None):
    """Publish a figure as SVG and close it.

    `label` (``fig-…``) is what ``@fig-…`` refers to, `caption` says what the figure shows (Markdown), and `alt` says
    it to those who cannot see it (plain text). `data` is what readers of the report can save as CSV, `runs` what the
    figure rests on; the functions of `plots` know both. The SVG of equal figures is equal byte by byte.
    Raises UserError for a malformed label, or without caption or alt text.
    """
    _check(label, "fig", caption=caption, alt=alt)
    data = getattr(figure, "fmnist_data", None) if data is None else data
    ids = getattr(figure, "fmnist_runs", _ids(data)) if runs is None else _ids(runs)
    mark = {"role": "figure", "label": label, "caption": caption, "alt": alt, "data": _csv(data), "runs": list(ids)}
    _publish({"image/svg+xml": svg(figure), "text/plain": alt}, mark)
    _caption("Figure", caption)


def svg(figure: Figure) -> str:
    """The figure as SVG, equal for equal figures, which is then closed."""
    text = io.StringIO()
    with plt.rc_context(SVG_STYLE):
        figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return text.getvalue()


def table(
    frame: pd.DataFrame | Table,
    label: str,
    caption: str,
    formats: dict | None = None,
    align: str | None = None,
    runs: Runs = None,
    reports: Sequence[str] = (),
) -> None:
    """Publish a DataFrame, or a `Table`, which has its numbers and its print; cells may hold Markdown.

    `label` is ``tbl-…``; `formats` maps a column to a format string such as ``"{:.2f}"`` or to a function; `align` is
    one letter a column, ``l``, ``r`` or ``c``, by default left for the first column and text, right for numbers. A
    named index becomes the first column or columns. `runs` is what the table rests on, by default those in the frame's
    own column `run_id`; `reports` names other reports of whose JSON files it is made.

    Raises UserError for a malformed label, an unknown column or a wrong `align`.
    """
    _check(label, "tbl", caption=caption)
    ids = _ids(runs) if runs is not None else list(frame.run_ids) if isinstance(frame, Table) else _ids(frame)
    data, frame = (frame.data, frame.printed) if isinstance(frame, Table) else (_flat(frame), _flat(frame))
    align = align or "".join("r" if i and _numeric(frame[column]) else "l" for i, column in enumerate(frame))
    if len(align) != frame.shape[1] or set(align) - set("lrc"):
        raise UserError(f"table {label}: align {align!r} needs one of l, r, c for each of its {frame.shape[1]} columns")
    if unknown := set(formats or {}) - set(frame.columns):
        raise UserError(f"table {label}: formats names {sorted(unknown)}; its columns are {list(frame.columns)}")
    cells = pd.DataFrame({column: _cells(frame[column], (formats or {}).get(column)) for column in frame})
    sides = {"l": "left", "r": "right", "c": "center"}
    look = dict(headers=list(cells.columns), showindex=False, disable_numparse=True)
    markdown = tabulate(cells, tablefmt="pipe", colalign=[sides[a] for a in align] if len(cells) else None, **look)
    mark = {"role": "table", "label": label, "caption": caption, "align": align, "data": _csv(data), "runs": ids}
    forms = {"text/html": tabulate(cells, tablefmt="html", **look), "text/markdown": markdown, "text/plain": markdown}
    _publish(forms, mark | {"reports": _reports(reports)})
    _caption("Table", caption)


def say(text: str) -> None:
    """Publish a computed sentence or paragraph (Markdown)."""
    _publish({"text/markdown": text, "text/plain": text}, {"role": "text"})


def record(**values) -> None:
    """Publish values (numbers or strings) for the abstract and for other notebooks; shows nothing."""
    plain = {name: value.item() if hasattr(value, "item") else value for name, value in values.items()}
    _publish({"text/markdown": "", "text/plain": ""}, {"role": "values", "values": plain})


def _check(label: str, prefix: str, **texts: str) -> None:
    if not re.fullmatch(rf"{prefix}-[a-z0-9-]+", label):
        raise UserError(f"label {label!r}: write {prefix}- and then lower-case letters, digits and hyphens")
    for name, text in texts.items():
        if not text.strip():
            raise UserError(f"{label} has no {name}: say what it shows")


def _flat(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.reset_index() if any(name is not None for name in frame.index.names) else frame


def _numeric(column: pd.Series) -> bool:
    """Numbers, or text that reads as numbers ("1 234", "+0.3 ± 0.1", "97 %", "–"), stand right."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return True
    texts = column.astype(str)
    return bool(len(texts)) and texts.str.fullmatch(r"[\s\d.,+\-−±×%*$~<>=–—e()\[\]]*|nan|\$10\^.*").all()


def _cells(column: pd.Series, form) -> list[str]:
    """What is printed; lines and bars would end a cell of a Markdown table."""
    form = form or ("{:.4g}" if pd.api.types.is_float_dtype(column) else "{}")
    write = form if callable(form) else form.format
    texts = ["–" if pd.isna(value) else str(write(value)) for value in column]
    return [re.sub(r"(?<!\\)\|", r"\|", text.replace("\n", " ")) for text in texts]


def _csv(frame: pd.DataFrame | None) -> str:
    """Floats to six digits; "" where there are no data."""
    return "" if frame is None else frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def _ids(runs: Runs) -> list[str]:
    """Ids of the runs in these frames, each once, sorted."""
    frames = [runs] if isinstance(runs, pd.DataFrame) else list(runs or [])
    return sorted({run_id for frame in frames if "run_id" in frame for run_id in frame["run_id"].dropna()})


def _reports(names: Sequence[str]) -> list[dict]:
    """Name, date and SHA-256 of the JSON files of other reports, as they are now; none of those not yet written."""
    paths = [project_root() / "report" / f"{name}.json" for name in names]
    bodies = {path.stem: path.read_bytes() for path in paths if path.is_file()}
    return [
        {"name": name, "date": json.loads(body).get("date", ""), "sha256": hashlib.sha256(body).hexdigest()}
        for name, body in bodies.items()
    ]


def _caption(kind: str, caption: str) -> None:
    _publish({"text/markdown": f"**{kind}** · {caption}", "text/plain": f"{kind}: {caption}"}, {"role": "caption"})


def _publish(data: dict, mark: dict) -> None:
    display(data, metadata={"fmnist": mark}, raw=True)
