"""The pages of the documentation, the README among them, and what stands in them."""

import re
import shlex
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN = ("", "sh")
"""Languages of the blocks whose lines are commands for this machine."""


class Block(NamedTuple):
    page: str
    language: str
    text: str


class Command(NamedTuple):
    """A `side-ray` command: its page, and its arguments from the verb on."""

    page: str
    arguments: tuple[str, ...]

    @property
    def verb(self) -> str:
        return self.arguments[0]

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.arguments)}"


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@cache
def prose_of(page: Path) -> str:
    """A page without its code blocks."""
    return _FENCE.sub("", text_of(page))


@cache
def blocks() -> list[Block]:
    return [Block(page.name, *found) for page in PAGES for found in _FENCE.findall(text_of(page))]


def lines(language: tuple[str, ...] = RUN) -> list[tuple[str, str]]:
    """(page, command line) of every block in a language, continued lines joined."""
    return [
        (block.page, line)
        for block in blocks()
        if block.language in language
        for line in block.text.replace("\\\n", " ").splitlines()
        if line.strip()
    ]


@cache
def commands() -> list[Command]:
    """Every `side-ray` command line, of the pages' order."""
    found = []
    for page, line in lines():
        words = shlex.split(line)
        if words[0].removeprefix(".venv/bin/") == "side-ray":
            found.append(Command(page, tuple(words[1:])))
    return found


def only(verb: str, page: str = "commands.md") -> list[str]:
    """Arguments, without the verb, of a page's only command with that verb."""
    (found,) = [each for each in commands() if each.verb == verb and each.page == page]
    return list(found.arguments[1:])


def spans(page: Path) -> list[str]:
    """The inline code of a page."""
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose_of(page))


def links(page: Path) -> list[str]:
    """The targets of a page's links and images."""
    inline = re.findall(r"\]\(([^)\s]+)\)", prose_of(page))
    return inline + re.findall(r"^\[\w+\]: (\S+)$", prose_of(page), re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and Python-Markdown make them."""
    headings = re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).strip().replace(" ", "-") for each in headings}
