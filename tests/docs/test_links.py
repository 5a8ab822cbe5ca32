"""Links inside the repository lead somewhere, and blocks that are copies of files are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs import pages
from tests.docs.pages import ALL_PAGES, ROOT

_LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
# What a page may name in backquotes: paths of the repository.
_PATH = re.compile(
    r"`((?:fededge|components|pipelines|images|manifests|tests|docs|examples|\.ci)/[\w./-]*\w|[A-Z]+\.md|Makefile)`"
)


def _anchors(page: Path) -> set[str]:
    """Name a page's headings as GitHub does."""
    headings = _HEADING.findall(pages.prose(page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ALL_PAGES, ids=pages.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in _LINK.findall(pages.prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in _anchors(target), link


@pytest.mark.parametrize("page", ALL_PAGES, ids=pages.name)
def test_files_that_are_named_exist(page: Path) -> None:
    for path in _PATH.findall(pages.prose(page)):
        assert (ROOT / path).exists(), path


def test_copies_of_files_are_copies() -> None:
    copies = [block for page in ALL_PAGES for block in pages.blocks(page) if block.copy_of]
    assert copies
    for block in copies:
        assert block.text == (ROOT / block.copy_of).read_text(), block.copy_of


@pytest.mark.parametrize("folder", [ROOT / "docs", ROOT / "docs" / "adr"], ids=pages.name)
def test_every_page_is_in_its_index(folder: Path) -> None:
    index = folder / "README.md" if (folder / "README.md").exists() else ROOT / "README.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in _LINK.findall(pages.prose(index))}
    assert {page for page in folder.glob("*.md") if page != index} <= linked
