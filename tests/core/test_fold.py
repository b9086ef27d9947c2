"""Folding the journal gives back what the machine knew; and the commands do not depend on hash order."""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec
import pytest

from exoflow.core import journal, replay
from exoflow.core.spec.annotations import Annotations
from exoflow.core.spec.graph import Graph, TaskSpec

SCRIPT = """
from exoflow.testing.machine.world import World
from exoflow.testing.machine.settings import drawn_world
def do(self, event, real=World.do):
    before = self.machine.handle
    def handle(event):
        said = before(event)
        print(event, said)
        return said
    self.machine.handle = handle
    try:
        real(self, event)
    finally:
        del self.machine.handle
World.do = do
for seed in range(40):
    world = drawn_world(seed)
    if world is not None:
        world.run()
"""


@pytest.mark.slow
def test_the_commands_are_the_same_whatever_the_hash_seed() -> None:
    """Slow: two interpreters."""
    logs = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True, timeout=60
        ).stdout
        for seed in ("0", "1")
    ]
    assert len(logs[0]) > 10_000
    assert logs[0] == logs[1]


ONE = Graph((TaskSpec(id="a", annotations=Annotations(deterministic=True)),), "a")
"""One task: the root, and what each round returns."""
STORED = journal.Stored(3, b"digest", blob="ab/cd")


def saved(task: str, parent: str = "", *, is_last: bool = False) -> journal.OutputSaved:
    """Each version is 7, and so is that of each parent."""
    growth = None if is_last else ONE
    version = 7 if parent else 0
    return journal.OutputSaved(
        task=task, attempt=1, epoch=1, version=7, basis=0, stored=STORED, growth=growth, parent=parent, parent_version=version
    )


INNER = journal.RoundsDropped(task="a~4/a", spec=ONE.tasks[0], parent="a~2/a", past=("a~3/a",))
OUTER = journal.RoundsDropped(task="a~2/a", spec=ONE.tasks[0], parent="a", past=("a/a",))
BEGINNING: list[journal.Record] = [
    journal.WorkflowBegan(version=1, graph=ONE, plan=STORED),
    saved("a"),
    saved("a~2/a", "a/a"),
    saved("a~4/a", "a~3/a", is_last=True),
    INNER,
]


@pytest.mark.parametrize(
    ("between", "is_durable"),
    [(None, True), (journal.OutputSpoiled(task="a~2/a"), False), (journal.UndoIntended(task="a~2/a", attempt=1), False)],
    ids=["sound", "damaged", "being undone"],
)
def test_a_loop_is_where_a_record_said_although_the_task_above_was_found_only_later(
    between: journal.Record | None, is_durable: bool
) -> None:
    """The records of ``a/a`` and of ``a~3/a`` are gone: those of dropped rounds are."""
    state = replay.fold("w", 1, [*BEGINNING, *([between] if between is not None else []), OUTER])
    assert not state.orphans
    assert list(state.tasks) == ["a", "a~2/a", "a~4/a"]
    above, last = state.tasks["a~2/a"], state.tasks["a~4/a"]
    assert state.root is last
    assert last.parent is above
    assert last.durable
    assert (above.durable, above.version) == (is_durable, 7)


def test_what_was_said_of_a_loop_does_not_hold_for_another_that_was_drawn_in_its_place() -> None:
    """Of whose first round nothing is on record yet, so that it is to be run again."""
    drawn = msgspec.structs.replace(saved("a~2/a", "a/a"), version=8)
    withdrawn = journal.TasksWithdrawn(tasks=("a~4/a",))
    state = replay.fold("w", 1, [*BEGINNING, withdrawn, drawn, saved("a~4/a", "a~3/a", is_last=True), OUTER])
    assert list(state.tasks) == ["a", "a~2/a", "a~3/a"]
    assert state.root is state.tasks["a~3/a"]
    assert list(state.orphans) == ["a~4/a"]
