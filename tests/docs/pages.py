"""Reads the documentation: its pages and what is in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = (
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "applications").glob("*.md")),
)
ALL_PAGES = (
    *PAGES,
    *(ROOT / name for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs" / "adr").glob("*.md")),
)

_BLOCK = re.compile(r"(?:^<!-- file: (?P<copy_of>\S+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
_PROMPT = "$ "


class Block(NamedTuple):
    """A fenced block.

    Attributes:
      copy_of: the file that it is a copy of; empty for none.
    """

    language: str
    text: str
    copy_of: str


def blocks(page: Path, *languages: str) -> list[Block]:
    found = (Block(m["language"], m["text"], m["copy_of"] or "") for m in _BLOCK.finditer(page.read_text()))
    return [block for block in found if not languages or block.language in languages]


def commands(page: Path) -> list[str]:
    """List what a page has people type, in its order."""
    lines = [line for block in blocks(page, "console") for line in block.text.splitlines()]
    return [line.removeprefix(_PROMPT) for line in lines if line.startswith(_PROMPT)]


def prose(page: Path) -> str:
    """Return a page without its blocks."""
    return _BLOCK.sub("", page.read_text())


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))
