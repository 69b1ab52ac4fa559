"""report/index.html: all papers of a project on one page, each with its first page in small and its main numbers.

The page is made from what lies in the folder (``<name>.json`` beside ``.html`` and ``.pdf``), whenever a report was
rendered. Typst, which sets the papers, also draws their first pages. Equal reports give equal bytes.
"""

import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import typst
from PIL import Image

from fmnist.paper.document import Document
from fmnist.paper.exporters import write_page

PIXELS = 600  # width of a first page: twice what is shown, for fine screens
FIRST_PAGE = '#set page(width: auto, height: auto, margin: 0pt)\n#image("paper.pdf", page: 1, width: 300pt)'
NUMBERS = {  # (notebook, recorded name) → what the page calls it
    ("conclusions", "best_test_accuracy"): "Test accuracy of the best",
    ("conclusions", "best_trial"): "Best on validation",
    ("search", "best"): "Best of the search",
    ("search", "test_accuracy"): "Its test accuracy",
    ("reproduction", "numbers"): "Published numbers",
    ("reproduction", "claims"): "Published claims",
    ("conclusions", "runs"): "Trainings",
    ("conclusions", "seeds"): "Seeds",
}
FEW = 6


def landing(folder: Path) -> str:
    """The page that lists the reports in `folder`, by title."""
    document = Document({"title": "Reports", "lang": "en", "report": False, "ours": True, "folder": str(folder)})
    papers = [paper for path in sorted(folder.glob("*.json")) if (paper := _paper(document, path))]
    document.metadata["reports"] = sorted(papers, key=lambda paper: (paper["title"], paper["name"]))
    with TemporaryDirectory() as place:
        document.write(Path(place))
        return write_page(Path(place), "index.html")


def _paper(document: Document, path: Path) -> dict | None:
    """What the page says of the report whose JSON file is `path`; None where it is no report or lacks its papers."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(about, dict) or "title" not in about or not path.with_suffix(".html").is_file():
            return None
        picture, height = _first_page(path.with_suffix(".pdf"))
    except (OSError, ValueError, typst.TypstError):
        return None
    shown = {"name": path.stem, "picture": document.resource(picture, "png"), "width": PIXELS // 2, "height": height}
    numbers = [{"name": name, "value": value} for name, value in _numbers(about.get("values", {}))]
    return shown | {key: about.get(key, "") for key in ("title", "date", "notice")} | {"numbers": numbers}


def _numbers(values: dict) -> list[tuple[str, str]]:
    """The main ones among the values that the notebooks recorded; of a report of other notebooks, the first ones."""
    flat = {(notebook, name): value for notebook, found in values.items() for name, value in found.items()}
    flat = {key: str(value) for key, value in flat.items() if isinstance(value, str | int | float) and value != ""}
    known = [(text, flat[key]) for key, text in NUMBERS.items() if key in flat]
    return known or [(f"{notebook}: {name.replace('_', ' ')}", flat[notebook, name]) for notebook, name in flat][:FEW]


def _first_page(pdf: Path) -> tuple[bytes, int]:
    """A PDF's first page as a PNG of few greys, and the height at which it is shown."""
    with TemporaryDirectory() as place:
        (Path(place) / "paper.pdf").write_bytes(pdf.read_bytes())
        (Path(place) / "page.typ").write_text(FIRST_PAGE)
        ppi = 72 * PIXELS / 300
        png = typst.compile(Path(place) / "page.typ", root=place, format="png", ppi=ppi, ignore_system_fonts=True)
    small = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(32, dither=Image.Dither.NONE)
    image.save(small, "PNG", optimize=True)
    return small.getvalue(), round(image.height / 2)
