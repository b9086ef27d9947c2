"""Write docs/state_machine.md anew from the transition table. ``--check`` only compares."""

from __future__ import annotations

import sys
from pathlib import Path

from exoflow.core.state import ACTIVE, AT_REST, Phase
from exoflow.core.transitions import DOUBT_EVENTS, DURABLE, TASK_EVENTS

TARGET = Path(__file__).resolve().parent.parent / "docs" / "state_machine.md"

STRAIGHT = """stateDiagram-v2
    [*] --> IDLE
    IDLE --> WAITING: wanted
    WAITING --> HELD: inputs are there, the commit rule says not yet
    WAITING --> STARTING: intent is written
    WAITING --> RUNNING: no intent needed
    HELD --> STARTING
    HELD --> RUNNING
    STARTING --> RUNNING: intent is durable
    RUNNING --> DONE: TaskSucceeded
    RUNNING --> PAUSED: TaskFailed, another attempt follows
    PAUSED --> WAITING: TimerFired
    RUNNING --> STOPPING: timeout, cancel or withdrawal, and it may have effects
    STOPPING --> IDLE: it ended
    RUNNING --> FAILED: TaskFailed for good
    RUNNING --> UNDO_WAITING: failed for good, effect stands
    UNDO_WAITING --> UNDO_STARTING: that it will be undone is written
    UNDO_STARTING --> UNDOING: and durable
    UNDO_WAITING --> UNDOING: nothing to write
    UNDOING --> UNDO_PAUSED: UndoFailed
    UNDO_PAUSED --> UNDO_WAITING: TimerFired
    UNDOING --> WAITING: UndoSucceeded, to run again
    UNDOING --> IDLE: UndoSucceeded, withdrawn
    WAITING --> ASKING: effect unknown
    WAITING --> IN_DOUBT: effect unknown, a person must say
    ASKING --> DONE: it happened
    ASKING --> WAITING: it did not
    DONE --> WAITING: output lost and needed
    DONE --> [*]"""

IRREGULAR = """## Irregular paths

- **Late news**: an event about an attempt that is not the current one, or in a phase not named above, is refused.
- **Loss**: an output that is neither in memory nor durable is made again if it is needed. A nondeterministic task makes a new version;
  whatever saw the old one is *condemned*, stopped, undone downstream first, and dropped (IDLE) before the new one is made.
- **Inputs gone while starting**: the attempt did not begin; an intent on record is void, and the task waits again.
- **End in sight** (failure, cancel, doubt): nothing starts any more; what runs is awaited and kept, or, after a cancel, stopped.
- **Damaged checkpoint**: the output counts as lost, unless a commit may rest on it: then the workflow is BLOCKED."""


def text() -> str:
    lines = ["# State machine of a task", "", "Written by `make diagram` from the transition table; do not edit.", ""]
    lines += ["```mermaid", STRAIGHT, "```", "", "## Phases", "", "| phase | sort |", "|---|---|"]
    for phase in Phase:
        sort = "active: ends with an event of its own" if phase in ACTIVE else "at rest" if phase in AT_REST else "on its way"
        lines.append(f"| {phase.name} | {sort} |")
    lines += ["", "## What may happen to an attempt, and when", "", "| event | in phase | handler |", "|---|---|---|"]
    for event, rows in TASK_EVENTS.items():
        for phases, handler in rows:
            lines.append(f"| {event.__name__} | {', '.join(phase.name for phase in sorted(phases))} | `{handler.__name__}` |")
    for event, handler in DOUBT_EVENTS.items():
        lines.append(f"| {event.__name__} | whenever the effect is in doubt | `{handler.__name__}` |")
    lines += ["", "## What follows when a record is durable", "", "| record | handler |", "|---|---|"]
    lines += [f"| {record.__name__} | `{handler.__name__}` |" for record, handler in DURABLE.items()]
    return "\n".join([*lines, "", IRREGULAR, ""])


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        return int(TARGET.read_text(encoding="utf-8") != text())
    TARGET.write_text(text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
