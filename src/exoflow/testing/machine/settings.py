"""What kind of trouble a world is in. A seed stands for a setting, a workflow, and a schedule of faults."""

from __future__ import annotations

from dataclasses import dataclass

from exoflow.testing.machine.graphs import drawn_graph
from exoflow.testing.machine.schedules import Knobs
from exoflow.testing.machine.world import World

_NO_FAULTS = Knobs(crash=0, lose=0, fail=0, die=0, undo_fails=0, timeout=0)
_SCHEDULES_PER_GRAPH = 8
_CHECKED_EVERY = 8


@dataclass(frozen=True)
class Setting:
    """Knobs, and the options of the workflow."""

    knobs: Knobs
    auto: bool = False
    undo_on_failure: bool = False


SETTINGS: dict[str, Setting] = {
    "a few faults of each sort": Setting(Knobs()),
    "no fault at all": Setting(_NO_FAULTS),
    "crash upon crash": Setting(Knobs(crash=0.15, lose=0.1, faults_max=40)),
    "outputs are lost all the time": Setting(Knobs(lose=0.2, crash=0, miss=0.1, faults_max=30)),
    "lost outputs, crashes, and sub-workflows": Setting(Knobs(crash=0.04, lose=0.1, grow=0.3, miss=0.02, resume=0.3)),
    "tasks fail and workers die": Setting(Knobs(fail=0.15, die=0.1, unstorable=0.01, resume=0.5, faults_max=25)),
    "somebody cancels": Setting(Knobs(cancel=0.02, lose=0.05, crash=0.05)),
    "tasks return workflows": Setting(Knobs(grow=0.5, unsafe=0.05)),
    "a failure undoes what was done": Setting(Knobs(fail=0.1, lose=0.05, resume=0.3), undo_on_failure=True),
    "auto mode turns on what is missing": Setting(Knobs(grow=0.3, unsafe=0.5), auto=True),
    "saved bytes are damaged": Setting(Knobs(spoil=0.03, resume=0.8, crash=0.05)),
    "rollbacks fail, and people resume": Setting(
        Knobs(undo_fails=0.4, fail=0.1, cancel=0.005, resume=0.8, faults_max=30), undo_on_failure=True
    ),
    "everything at once": Setting(
        Knobs(crash=0.06, lose=0.06, spoil=0.01, miss=0.05, cancel=0.003, unstorable=0.005, unsafe=0.05, resume=0.6, faults_max=25)
    ),
}
"""Worlds by the sort of trouble in them."""


def drawn_world(seed: int, setting: str = "", *, checked: bool | None = None) -> World | None:
    """The world of a seed; None if the workflow it draws is unsafe (half of the unsafe ones are repaired and used).

    Without ``setting``, the seed chooses that too. The laws of the core's state are checked in each eighth world, or as ``checked`` says.
    """
    chosen = SETTINGS[setting] if setting else _ALL[seed % len(_ALL)]
    graph = drawn_graph(seed // _SCHEDULES_PER_GRAPH)
    if graph is None:
        return None
    if checked is None:
        checked = seed % _CHECKED_EVERY == 0
    return World(graph, seed, chosen.knobs, auto=chosen.auto, undo_on_failure=chosen.undo_on_failure, checked=checked)


_ALL = list(SETTINGS.values())
