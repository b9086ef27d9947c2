"""The commit rule as docs/semantics.md, section 4, defines it: by shrinking from everything, with no memory of what was asked before.

Too slow to run workflows with, and simple enough to be believed: ``core.stability`` is compared with it.
"""

from __future__ import annotations

from exoflow.core.spec.ids import UNEXECUTED
from exoflow.core.stability import Prop
from exoflow.core.state import State, Task


def by_definition(state: State) -> dict[Prop, set[Task]]:
    """The tasks of which each proposition holds, given the facts in ``state``."""
    tasks = list(state.tasks.values())
    stable = {t for t in tasks if t.version != UNEXECUTED and not t.condemned and (not t.grew or t.durable)}
    settled = {task for task in tasks if task.durable or (task is not state.root and not task.grew and bool(task.readers or task.before))}
    recoverable = set(stable)
    while True:
        size = len(stable), len(settled), len(recoverable)
        stable = {v for v in stable if stable.issuperset(v.ups) and (v.deterministic or v.durable or v in settled)}
        settled = {v for v in settled if v.durable or all(down in stable and down in settled for down in v.downs)}
        recoverable = {
            v
            for v in recoverable
            if (v.durable and (v.parent is None or v.parent in recoverable)) or (v.deterministic and recoverable.issuperset(v.reads))
        }
        if size == (len(stable), len(settled), len(recoverable)):
            return {Prop.STABLE: stable, Prop.SETTLED: settled, Prop.RECOVERABLE: recoverable}
