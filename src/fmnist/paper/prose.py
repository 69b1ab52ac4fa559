"""No typed-in results: finds numbers in a report's prose that no computation produced.

The rule. A decimal number or a percentage ("0.87", "12 %") may not be typed into the text of a Markdown cell, into a
string handed to `say`, `show` or `table` (outside the braces of an f-string), or into the abstract or notice
of report.yaml. It may stand where it is visibly something else:
    a setting or a formula      as mathematics, `$0.05$`, or as code, `lr 0.1` in backticks
    somebody else's number      in a paragraph that cites its source, `[@key]`
    the level of every interval "95 %"
Whole numbers without a percent sign, years among them, are free. What is computed is written `{number(value)}` and so
on inside an f-string, or `{notebook.name}` in the abstract.
"""

import ast
import re
import warnings
from collections.abc import Iterator

from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

SPOKEN = ("say", "show", "table")
LEVEL = "95 %"
NUMBER = re.compile(r"(?<![\w.\uffff])(?:\d[\d,]*)?\.\d+(?:\s?\\?%)?(?![\w.]*\w)|(?<![\w.])\d[\d,]*\s?\\?%")
EXCEPTED = (  # fenced code, code spans, mathematics, links' targets and addresses, labels in braces, HTML tags
    r"^(```|~~~).*?^\1", r"(`+)[^`].*?\1", r"\$\$.*?\$\$", r"(?<!\\)\$[^$]+\$", r"\\begin\{(\w+\*?)\}.*?\\end\{\1\}",
    r"\]\([^)]*\)", r"https?://\S+", r"\{[^{}]*\}", r"</?[A-Za-z!][^<>]*>",
)  # fmt: skip
CITES = re.compile(r"(?<![\w.])@(?!(?:fig|tbl|sec|eq)-)[A-Za-z][\w:-]*")


def typed_in(text: str) -> list[str]:
    """The numbers in a Markdown text that the rule refuses."""
    for form in EXCEPTED:
        text = re.sub(form, " ", text, flags=re.DOTALL | re.MULTILINE)
    paragraphs = [part for part in re.split(r"\n\s*\n", text) if not CITES.search(part)]
    found = [" ".join(match.split()) for part in paragraphs for match in NUMBER.findall(part)]
    return [number for number in found if number.replace("%", " %").replace("  ", " ") != LEVEL]


def findings(notebook: NotebookNode, name: str) -> list[str]:
    """One line for each cell of a notebook with numbers typed in: notebook, cell and the numbers."""
    lines = []
    for count, cell in enumerate(notebook.cells, 1):
        texts = [cell.source] if cell.cell_type == "markdown" else spoken(cell.source)
        if found := [number for text in texts for number in typed_in(text)]:
            lines.append(f"notebook {name}: cell {count} ({cell.get('id', '')}): {', '.join(found)}")
    return lines


def spoken(source: str) -> Iterator[str]:
    """The texts that a code cell hands to the report, each call's as one, without what f-strings compute."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as of "\\l": Python says so again when the cell is executed
            tree = ast.parse(TransformerManager().transform_cell(source))  # magics become calls
    except SyntaxError:  # its execution will show it
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in SPOKEN:
            parts = [*node.args, *(keyword.value for keyword in node.keywords)]
            yield " ".join(text for part in parts for text in _literals(part))


def _literals(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):  # one text; the mark keeps "{x}.5" and "{x} %" from reading as numbers
        yield "".join(part.value if isinstance(part, ast.Constant) else "\uffff" for part in node.values)
    else:
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.FormattedValue):
                yield from _literals(child)
