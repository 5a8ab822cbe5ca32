"""What the page promises is held by tests that exist."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "reliability.md").read_text()
ROWS = re.findall(r"^\| (\d+) \| (.+) \| (.+) \|$", PAGE, re.MULTILINE)
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)


def test_each_invariant_has_a_row() -> None:
    assert [int(number) for number, *_ in ROWS] == list(range(1, 15))


@pytest.mark.parametrize(("number", "tests"), [(int(number), tests) for number, _, tests in ROWS])
def test_each_invariant_has_a_test_of_its_name(number: int, tests: str) -> None:
    assert f"::test_invariant_{number:02d}_" in tests


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_the_tests_that_are_named_exist(path: str, name: str) -> None:
    assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE)


def test_no_invariant_is_tested_and_not_named() -> None:
    found = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_invariant_\w+)\(", path.read_text(), re.MULTILINE)
    }
    assert found == {(path, name) for path, name in NAMED if name.startswith("test_invariant_")}
