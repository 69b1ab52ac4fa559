"""Notebooks by others: three styles that we would not use, and that the exporters have to render well all the same."""

import base64
import io

import nbformat.v4 as nbf
import pandas as pd
from matplotlib.figure import Figure
from nbformat import NotebookNode


def curve() -> Figure:
    figure = Figure(figsize=(4, 2.5))
    figure.subplots().plot([1, 2, 3], [3, 1, 2])
    return figure


def picture(form: str = "png") -> str:
    curve().savefig(buffer := io.BytesIO(), format=form)
    return buffer.getvalue().decode() if form == "svg" else base64.b64encode(buffer.getvalue()).decode()


def output(kind: str = "display_data", metadata: dict | None = None, **data) -> NotebookNode:
    """``image_png=…`` is what a kernel stores as image/png."""
    extra = {"execution_count": 1} if kind == "execute_result" else {}
    forms = {key.replace("_", "/", 1): value for key, value in data.items()}
    return nbf.new_output(kind, data=forms, metadata=metadata or {}, **extra)


def stream(text: str, name: str = "stdout") -> NotebookNode:
    return nbf.new_output("stream", name=name, text=text)


def notebook(*cells: str | tuple | NotebookNode, **metadata) -> NotebookNode:
    """Text is a Markdown cell; (source, *outputs) is a code cell."""
    kinds = {str: nbf.new_markdown_cell, tuple: lambda cell: nbf.new_code_cell(cell[0], outputs=list(cell[1:]))}
    return nbf.new_notebook(cells=[kinds.get(type(cell), lambda cell: cell)(cell) for cell in cells], metadata=metadata)


def competition() -> NotebookNode:
    """Centred HTML titles, inline styles, styled and wide tables, a chart by script, progress bars, warnings."""
    frame = pd.DataFrame({"model": ["tree", "boosting"], "score": [0.71, 0.86], "rows": [900, 12000]})
    wide = pd.DataFrame({f"feature_{i}": [i, -i * 1.5] for i in range(14)})
    pivot = frame.pivot_table(values=["score", "rows"], index="model", aggfunc=["mean", "max"])
    styled = "<style>#T_1 td {color: yellow}</style>" + frame.to_html(index=False, table_id="T_1")
    bars = stream("  0%|    | 0/9\r100%|####| 9/9", "stderr")
    return notebook(
        "<h1 style='color:#fa0; text-align:center'>🔥 Beating the Baseline 🔥</h1><hr>\n<a id='top'></a>",
        "**Contents**\n1. [Data](#1)\n2. [Models](#Models-and-more)\n\n<a id='1'></a>\n### Data",
        ("!pip install -q x\nimport warnings; warnings.filterwarnings('ignore')\n%matplotlib inline",),
        ("df.head()", output("execute_result", text_html=wide._repr_html_(), text_plain="WIDEPLAIN")),
        ("df.pivot_table(…)", output("execute_result", text_html=pivot._repr_html_(), text_plain="PIVOTPLAIN")),
        '## Models and more\n<div class="alert alert-info">Leaks <b>ahead</b></div>\n\n[up](#top)',
        ("fit()", stream("\n".join(f"epoch {i}" for i in range(60)) + "\n"), bars),
        ("style(df)", output("execute_result", text_html=styled, text_plain="STYLEDPLAIN")),
        ("px.line(df)", output(text_html="<div></div><script>require(['plotly'])</script>", text_plain="INTERACTIVE")),
        ("plt.show()", output(image_png=picture(), text_plain="PLOTPLAIN")),
    )


def lecture() -> NotebookNode:
    """Mathematics everywhere: environments, macros, matrices, symbols of sympy; levels of headings skipped."""
    solution = "$\\displaystyle \\left[ - \\frac{c}{2}, \\sqrt{k}\\right]$"
    matrix = "$$\\left[\\begin{matrix}1 & 2\\end{matrix}\\right]$$"
    return notebook(
        "# Lecture 3: Damped Oscillations\n\nLet $m\\ddot x + c\\dot x + kx = 0$, with $c>0$ and $\\omega_0^2 = k/m$.",
        "#### Solution\n\\begin{equation}\nx = e^{-\\gamma t}\\cos(\\omega t)\\tag{3.1}\n\\end{equation}",
        "\\begin{align*}\n\\nabla\\cdot\\vec E &= \\frac{\\rho}{\\varepsilon_0} \\\\\n"
        "\\nabla\\times\\vec B &= \\mu_0\\vec J\n\\end{align*}",
        "As \\\\(a \\ne b\\\\), and\n\n"
        "$$\\begin{pmatrix}1 & 2\\\\ 3 & 4\\end{pmatrix}\\mathbf{v} = \\lambda\\mathbf{v}$$\n\nit costs $5 or $6.",
        "| quantity | value |\n|---|---:|\n| $\\gamma$ | 0.1 |\n| $\\omega$ | 1,234.5 |",
        ("solve(eq)", output("execute_result", text_latex=solution, text_plain="SYMPLAIN")),
        ("Matrix([[1,2]])", output("execute_result", text_latex=matrix, text_plain="MATPLAIN")),
        ("odeint(f)", output(text_plain="SVGPLAIN", **{"image_svg+xml": picture("svg")})),
        "##### Exercise\n> Show that $\\gamma<\\omega_0$.\n\n- [ ] done\n- [x] not done\n\n"
        "Unknown: $\\foo{x}$ and $\\unclosed{",
    )


def diary() -> NotebookNode:
    """No heading anywhere, another language, raw cells, attachments, errors left in, long lines, other scripts."""
    text = "x" * 300 + "\n" + " ".join(["value"] * 60)
    here = "![my plot](attachment:image.png)\n\n<img src='attachment:image.png' width='300'/>"
    trace = ["\x1b[0;31m---------\x1b[0m", "\x1b[0;31mValueError\x1b[0m: nothing  fits"]
    wide = output(metadata={"image/jpeg": {"width": 2000}}, image_jpeg=picture("jpg"), text_plain="JPGPLAIN")
    return notebook(
        "tried again today; ΔT ≈ 3 °C, naïve façade, “quotes”, Ελληνικά & <angle> @home #hash $",
        nbf.new_raw_cell("RAWCELL \\section{x}"),
        ('x <- c(1, 2)\nprint("# not a heading")', stream("[1] 1 2\n")),
        nbf.new_markdown_cell(here, attachments={"image.png": {"image/png": picture()}}),
        ("plot(x)", wide),
        ("stop('x')", nbf.new_output("error", ename="ValueError", evalue="nothing", traceback=trace)),
        ("", stream("")),
        ("cat(text)", stream(text)),
        ("'a'", output("execute_result", text_plain="'a'")),
        kernelspec={"name": "ir", "language": "R", "display_name": "R"},
    )


def hostile() -> NotebookNode:
    """Cells that try to break out, to load from elsewhere or to hide: fences, raw formats, scripts, widgets, tags."""
    tricky = 's = """\n```\n:::\n$raw$ #import <label> @nobody\n"""'
    remote = "![far](https://example.org/a.png) <img src='//x.org/b.png'> <script src='https://x.org/c.js'></script>"
    widget = nbf.new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "WIDGET"})
    hidden = [nbf.new_code_cell(text, metadata={"tags": [tag]}) for tag, text in (
        ("remove_cell", "NEVER"), ("remove_input", "NOINPUT"), ("remove-output", "noout"))]  # fmt: skip
    hidden[1].outputs, hidden[2].outputs = [output(text_plain="kept")], [output(text_plain="NOOUTPUT")]
    return notebook(
        "# An exploration\nwith @property and [a link](https://example.org)\n- and a list",
        f"## Data\n```python\nunclosed\n::: {{.x}}\n\n{remote}",
        "## Data\n\\begin{align}x &= 1\\end{align} costs $5",
        nbf.new_markdown_cell("![here](attachment:a%20b.png)", attachments={"a b.png": {"image/png": picture()}}),
        (tricky, stream("50%\r100%\x1b[31m done\x1b[0m")),
        ("warn", stream("STDERR", "stderr"), widget),
        *hidden,
    )


NOTEBOOKS = {"competition": competition, "lecture": lecture, "diary": diary, "hostile": hostile}
