"""No typed-in results: finds decimal numbers and percentages in a report's prose that no computation produced.

They may not be typed into Markdown cells, strings handed to `say`, `show` or `table`, or report.yaml's abstract and
notice. Free are mathematics (`$0.05$`), code, a paragraph that cites its source (`[@key]`), "95 %" (every interval's
level), whole numbers, and what is computed: `{number(value)}` in an f-string, `{notebook.name}` in the abstract.
"""

import ast
import re
from collections.abc import Iterator

from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

SPOKEN = ("say", "show", "table")
NUMBER = re.compile(r"(?<![\w.\uffff])(?:\d[\d,]*)?\.\d+(?:\s?\\?%)?(?![\w.]*\w)|(?<![\w.])\d[\d,]*\s?\\?%")
EXCEPTED = (  # fenced code, code spans, mathematics, links' targets and addresses, labels in braces, HTML, level
    r"^(```|~~~).*?^\1", r"(`+)[^`].*?\1", r"\$\$.*?\$\$", r"(?<!\\)\$[^$]+\$", r"\\begin\{(\w+\*?)\}.*?\\end\{\1\}",
    r"\]\([^)]*\)", r"https?://\S+", r"\{[^{}]*\}", r"</?(?!!-- \[@)[A-Za-z!][^<>]*>", r"(?<![\w.,])95\s?%",
)  # fmt: skip
CITES = re.compile(r"(?<![\w.])@(?!(?:fig|tbl|sec|eq)-)[A-Za-z][\w:-]*")


def typed_in(text: str) -> list[str]:
    """The numbers in a Markdown text that the rule refuses."""
    for form in EXCEPTED:
        text = re.sub(form, " ", text, flags=re.DOTALL | re.MULTILINE)
    paragraphs = [part for part in re.split(r"\n\s*\n", text) if not CITES.search(part)]
    return [" ".join(found.split()) for part in paragraphs for found in NUMBER.findall(part)]


def findings(notebook: NotebookNode, name: str) -> list[str]:
    """One line for each cell of a notebook with numbers typed in: notebook, cell and the numbers."""
    lines = []
    for count, cell in enumerate(notebook.cells, 1):
        texts = [cell.source] if cell.cell_type == "markdown" else _spoken(cell.source)
        if found := [number for text in texts for number in typed_in(text)]:
            lines.append(f"notebook {name}: cell {count} ({cell.get('id', '')}): {', '.join(found)}")
    return lines


def _spoken(source: str) -> Iterator[str]:
    """The texts that a code cell hands to the report, each call's as one, without what f-strings compute."""
    try:
        tree = ast.parse(TransformerManager().transform_cell(source))  # magics become calls
    except SyntaxError:  # its execution will show it
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in SPOKEN:
            yield " ".join(text for part in [*node.args, *node.keywords] for text in _literals(part))


def _literals(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):  # one text; the mark keeps "{x}.5" and "{x} %" from reading as numbers
        yield "".join(part.value if isinstance(part, ast.Constant) else "\uffff" for part in node.values)
    else:
        for child in ast.iter_child_nodes(node):
            yield from _literals(child)
