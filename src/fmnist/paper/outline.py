"""What report.yaml may hold: title, authors, abstract and the sections; and what a chapter of a report is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import nbformat
from pydantic import Discriminator, Field, Tag

from fmnist.config import Strict
from fmnist.paper.document import heading
from fmnist.search import Search
from fmnist.study import Study


class Author(Strict):
    name: str
    affiliation: str = ""
    email: str = ""


class Group(Strict):
    """A section of the paper made of several notebooks, each a subsection."""

    title: str
    id: str = Field(pattern=r"^sec-[a-z0-9-]+$")
    notebooks: list[str] = Field(min_length=1)


Section = Annotated[  # a notebook's name or a group of them; told apart so that messages speak of one of the two
    Annotated[str, Tag("notebook")] | Annotated[Group, Tag("group")],
    Discriminator(lambda value: "group" if isinstance(value, dict | Group) else "notebook"),
]


class ReportSpec(Strict):
    """report.yaml. `{notebook.name}` in the abstract is what that notebook recorded under that name."""

    title: str
    authors: list[Author]
    date: str = ""  # empty: the day on which the newest run was finished
    abstract: str
    notice: str = ""  # for the first page, such as "this is a smoke run"
    acknowledgements: str = ""
    base: dict[str, Any] = {}  # for every study, under what its own YAML says
    seeds: list[int] = [0]
    sections: list[Section] = Field(min_length=1)


@dataclass(frozen=True)
class Chapter:
    """One notebook of a report with the parameters it will be executed with."""

    name: str
    notebook: Path
    parameters: dict[str, Any]
    study: Study | Search | None

    @property
    def title(self) -> str:
        """The heading that its notebook opens with."""
        return heading(nbformat.read(self.notebook, as_version=4).cells[0].source, self.name)[0]
