"""The programs in the pages about backends work."""

from __future__ import annotations

import pytest

from tests.examples import pages

PROGRAMS = [program for name in pages.OF_BACKENDS for program in pages.programs_of(pages.ROOT / "docs" / name)]

pytestmark = pytest.mark.slow  # each starts a backend of its own


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_page_of_a_backend(program, tmp_path):
    pages.run(program, tmp_path)
