"""Programs that were written for Ray Workflows show on ``exoflow.ray`` what they showed on Ray 2.40, changed in nothing but the import."""

from __future__ import annotations

import json

import pytest

from tests.backends.ray_workflows import differences
from tests.backends.ray_workflows.running import NAMES, for_exoflow, recorded, source_of

FOUND = {
    name: {what: tuple(pair) for what, pair in found.items()} for name, found in json.loads(differences.FOUND.read_text("utf-8")).items()
}


@pytest.mark.slow  # a Ray of its own, real waiting
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", NAMES)
def test_a_program_shows_what_it_showed_on_ray(name):
    ours = differences.run_ours(name)
    assert differences.differences(name, ours) == FOUND[name]
    assert list(ours) == list(recorded(name))


def test_each_difference_has_a_reason_and_each_reason_a_difference():
    assert {(name, what) for name, found in FOUND.items() for what in found} == differences.REASONS.keys()


def test_the_page_holds_the_table_of_differences():
    page = differences.PAGE.read_text("utf-8")
    assert page == differences.page_with(page, differences.table(FOUND))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_but_imports_of_workflow_is_changed(name):
    before, after = source_of(name).splitlines(), for_exoflow(source_of(name)).splitlines()
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert changed
    assert all(old.startswith("from ray") and new == old.replace("from ray", "from exoflow.ray", 1) for old, new in changed)
