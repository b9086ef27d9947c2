"""The state machine in the documentation is the one in the code."""

from __future__ import annotations

from exoflow.core.state import Phase
from tools import state_diagram


def test_the_page_is_what_the_tool_writes() -> None:
    assert state_diagram.TARGET.read_text(encoding="utf-8") == state_diagram.text(), "run `make diagram`"


def test_every_phase_is_drawn() -> None:
    assert [phase.name for phase in Phase if phase.name not in state_diagram.STRAIGHT] == []
