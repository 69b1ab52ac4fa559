"""What a notebook hands to the report: figures, tables, sentences and values.

Each call is one rich display, so JupyterLab shows it at once, plus output metadata under the key ``fmnist`` from
which `document` builds the numbered, captioned and cross-referenced paper. Captions, table cells and sentences are
Pandoc Markdown: ``@fig-x`` refers, ``[@key]`` cites, ``$x$`` is mathematics. Figures and tables take their data along
as CSV, and the ids of the runs that the notebook had read by then, for `provenance` to make a note of.
"""

import base64
import io
import re
from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image
from tabulate import tabulate

from fmnist.config import UserError
from fmnist.store import READ

SVG_STYLE = {"svg.fonttype": "path", "svg.hashsalt": "fmnist"}


def show(figure: Figure, label: str, caption: str, alt: str, data: pd.DataFrame | None = None) -> None:
    """Publish a figure as SVG and close it.

    `label` (``fig-…``) is what ``@fig-…`` refers to, `caption` says what the figure shows (Markdown), and `alt` says
    it to those who cannot see it (plain text). `data` is what readers of the report can save as CSV; the functions of
    `figures` know it themselves. The SVG of equal figures is equal byte by byte.
    Raises UserError for a malformed label, or without caption or alt text.
    """
    _check(label, "fig", caption=caption, alt=alt)
    _publish(
        {"image/svg+xml": svg(figure), "text/plain": alt},
        {"role": "figure", "label": label, "caption": caption, "alt": alt, **_origin(_behind(figure, data))},
    )
    _caption("Figure", caption)


def animate(frames: Sequence[Figure], label: str, caption: str, alt: str, seconds: float = 0.6) -> None:
    """Publish figures of one size as an animation, each shown so many `seconds`, the last four times as long.

    JupyterLab and the HTML report play it (a PNG that moves; no script); the PDF, print and readers who ask for less
    motion have the last frame. Otherwise as `show`, which also says what is raised.
    """
    _check(label, "fig", caption=caption, alt=alt)
    if not frames:
        raise UserError(f"{label} has no frames: give one figure or more")
    pictures = [_pixels(frame) for frame in frames]
    colors = pictures[-1].quantize(64)  # one palette for all, without dither: small, and still where nothing moves
    colors.putpalette([255 if value > 245 else value for value in colors.getpalette()])  # white stays white
    pictures = [picture.quantize(palette=colors, dither=Image.Dither.NONE) for picture in pictures]
    waits = [round(1000 * seconds)] * (len(frames) - 1) + [round(4000 * seconds)]
    png = io.BytesIO()
    pictures[0].save(png, "PNG", save_all=True, append_images=pictures[1:], duration=waits, loop=0, optimize=True)
    about = {"role": "figure", "label": label, "caption": caption, "alt": alt, "still": svg(frames[-1])}
    _publish(
        {"image/png": base64.b64encode(png.getvalue()).decode(), "text/plain": alt},
        about | _origin(_behind(frames[-1])),
    )
    _caption("Figure", caption)


def svg(figure: Figure) -> str:
    """The figure as SVG, equal for equal figures, which is then closed."""
    text = io.StringIO()
    with plt.rc_context(SVG_STYLE):
        figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return text.getvalue()


def _pixels(figure: Figure) -> Image.Image:
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=144)
    plt.close(figure)
    return Image.open(png).convert("RGB")


def table(frame: pd.DataFrame, label: str, caption: str, formats: dict | None = None, align: str | None = None) -> None:
    """Publish a DataFrame as a table; cells may hold Markdown.

    `label` is ``tbl-…``; `formats` maps a column to a format string such as ``"{:.2f}"`` or to a function; `align` is
    one letter a column, ``l``, ``r`` or ``c``, by default left for the first column and text, right for numbers. A
    named index becomes the first column or columns.

    Raises UserError for a malformed label, an unknown column or a wrong `align`.
    """
    _check(label, "tbl", caption=caption)
    frame = frame.reset_index() if any(name is not None for name in frame.index.names) else frame
    align = align or "".join("r" if i and _numeric(frame[column]) else "l" for i, column in enumerate(frame))
    if len(align) != frame.shape[1] or set(align) - set("lrc"):
        raise UserError(f"table {label}: align {align!r} needs one of l, r, c for each of its {frame.shape[1]} columns")
    if unknown := set(formats or {}) - set(frame.columns):
        raise UserError(f"table {label}: formats names {sorted(unknown)}; its columns are {list(frame.columns)}")
    cells = pd.DataFrame({column: _cells(frame[column], (formats or {}).get(column)) for column in frame})
    sides = {"l": "left", "r": "right", "c": "center"}
    look = dict(headers=list(cells.columns), showindex=False, disable_numparse=True)
    markdown = tabulate(cells, tablefmt="pipe", colalign=[sides[a] for a in align] if len(cells) else None, **look)
    _publish(
        {"text/html": tabulate(cells, tablefmt="html", **look), "text/markdown": markdown, "text/plain": markdown},
        {"role": "table", "label": label, "caption": caption, "align": align, **_origin(frame)},
    )
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


def _numeric(column: pd.Series) -> bool:
    """Numbers, or text that reads as numbers ("1 234", "+0.3 ± 0.1", "97 %", "–"), stand right."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return True
    texts = column.astype(str)
    return bool(len(texts)) and texts.str.fullmatch(r"[\s\d.,+\-−±×%*$~<>=–—e()\[\]]*|nan|\$10\^.*").all()


def _cells(column: pd.Series, form) -> list[str]:
    if form is None:
        form = "{:.4g}" if pd.api.types.is_float_dtype(column) else "{}"
    write = form if callable(form) else form.format
    return ["–" if pd.isna(value) else _cell(str(write(value))) for value in column]


def _cell(text: str) -> str:
    """A line that ends no cell of a Markdown table."""
    return re.sub(r"(?<!\\)\|", r"\|", " ".join(text.split("\n")))


def _behind(figure: Figure, data: pd.DataFrame | None = None) -> pd.DataFrame | None:
    """What a figure shows: as given, or as the function that drew it noted (`style.drawn`)."""
    return getattr(figure, "fmnist_data", None) if data is None else data


def _origin(frame: pd.DataFrame | None) -> dict:
    """The data as CSV, floats to six digits ("" where there are none), and the runs read so far, in order."""
    csv = "" if frame is None else frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    return {"data": csv, "runs": sorted(READ)}


def _caption(kind: str, caption: str) -> None:
    _publish({"text/markdown": f"**{kind}** · {caption}", "text/plain": f"{kind}: {caption}"}, {"role": "caption"})


def _publish(data: dict, mark: dict) -> None:
    display(data, metadata={"fmnist": mark}, raw=True)
