"""RELIABILITY.md is made from results and from the table of faults, and names no test that does not exist."""

from __future__ import annotations

from tools import reliability


def test_the_page_is_what_the_tool_writes() -> None:
    assert reliability.TARGET.read_text(encoding="utf-8") == reliability.text(), "run `make reliability`"


def test_every_test_that_it_names_exists() -> None:
    assert reliability.missing_tests() == []
