"""The only door to the core: ``Machine.handle(event)`` → commands. It also keeps the story of what happened."""

from __future__ import annotations

from collections.abc import Sequence

from exoflow.core import demand, ending, growth, invariants, journal, readiness, replay, transitions
from exoflow.core import events as ev
from exoflow.core.commands import Announce, Append, Command
from exoflow.core.journal import Record
from exoflow.core.readiness import GATE
from exoflow.core.spec.annotations import Kind
from exoflow.core.spec.graph import Graph
from exoflow.core.spec.ids import UNEXECUTED
from exoflow.core.state import Phase, State, Status, Task
from exoflow.errors import EngineBug

_STORY_LENGTH = 2000  # at least; at most twice as long


class Machine:
    """One workflow. Deterministic: the commands depend on the sequence of events and on nothing else."""

    def __init__(self, state: State, graph: Graph | None = None, *, checked: bool = False) -> None:
        """``state`` folded from a journal; or a new one, and the ``graph`` of a workflow that is to begin. With ``checked``, the laws of
        ``invariants`` are checked after every turn, which takes time in proportion to the size of the workflow."""
        self.state = state
        self._checked = checked
        self._graph = graph
        self._ticket = 0
        self._durable = 0  # the last ticket that was answered
        self._on_the_way: dict[int, tuple[Record, ...]] = {}
        self._turn = 0
        self._story: list[tuple[int, str, str]] = []

    def handle(self, event: ev.Event) -> list[Command]:
        """Take one event in; return what must be done about it. Raises EngineBug, with the story, if a law of the core is broken; the
        machine must not be used after that."""
        self._turn += 1
        if len(self._story) > 2 * _STORY_LENGTH:
            del self._story[:-_STORY_LENGTH]
        try:
            self._note(event)
            self._settle()
            if self._checked:
                invariants.check(self.state)
        except EngineBug as bug:
            bug.fields["story"] = self.story(getattr(event, "task", None))
            raise
        commands = self.state.commands
        self.state.commands = []
        return commands

    def _note(self, event: ev.Event) -> None:
        kind = type(event)
        if self.state.outcome is not None and kind not in (ev.Appended, ev.Recovered):
            self._story.append((self._turn, getattr(event, "task", ""), f"{kind.__name__}, after the end: refused"))
            return
        table = transitions.TASK_EVENTS.get(kind)
        if table is not None:
            self._note_attempt(event, table)
        elif kind is ev.Appended:
            self._appended(event.ticket)  # type: ignore[union-attr]
        elif kind in transitions.DOUBT_EVENTS:
            task = self.state.tasks.get(event.task)  # type: ignore[union-attr]
            if task is not None:
                transitions.DOUBT_EVENTS[kind](self.state, task, event)
        elif isinstance(event, ev.OutputsLost):
            self._outputs_lost(event)
        elif isinstance(event, ev.CancelAsked):
            self._cancel_asked(event)
        elif isinstance(event, ev.Began):
            self._began(event)
        elif isinstance(event, ev.Recovered):
            self._recovered(event)

    def _note_attempt(self, event: ev.Event, table: list[tuple[frozenset[Phase], transitions.Handler]]) -> None:
        name: str = event.task  # type: ignore[union-attr]
        task = self.state.tasks.get(name)
        what = type(event).__name__
        if task is not None and task.attempt == event.attempt:  # type: ignore[union-attr]
            for phases, handler in table:
                if task.phase in phases:
                    self._story.append((self._turn, name, what))
                    handler(self.state, task, event)
                    return
        self._story.append((self._turn, name, f"{what}, late: refused"))

    def _settle(self) -> None:
        state = self.state
        agenda = state.agenda
        while True:
            for task in agenda:  # grows while it is walked
                readiness.review(state, task)
            agenda.clear()
            ending.review(state)
            if not agenda:
                break
        if state.records:
            self._ticket += 1
            records = tuple(state.records)
            state.records = []
            self._on_the_way[self._ticket] = records
            status = Status(state.outcome.status) if state.outcome is not None else Status.RUNNING
            state.commands.append(Append(ticket=self._ticket, records=records, status=status))

    # --- events about the whole workflow -------------------------------------------------------------------------------------

    def _appended(self, ticket: int) -> None:
        while self._durable < min(ticket, self._ticket):
            self._durable += 1
            for record in self._on_the_way.pop(self._durable):
                handler = transitions.DURABLE.get(type(record))
                if handler is not None:
                    handler(self.state, record)

    def _began(self, event: ev.Began) -> None:
        if self._graph is None:
            raise EngineBug(message="a workflow began without a graph", story="")
        record = journal.WorkflowBegan(
            version=journal.RECORD_VERSION,
            graph=self._graph,
            plan=event.plan,
            auto=event.auto,
            undo_on_failure=event.undo_on_failure,
        )
        self._graph = None
        replay.begin(self.state, record)
        self.state.status = Status.PENDING
        self.state.records.append(record)

    def _recovered(self, event: ev.Recovered) -> None:
        state = self.state
        state.lossy = True
        if state.status.ended:
            if not event.resumed:
                state.commands.append(Announce(status=state.status))
                return
            replay.apply(state, journal.WorkflowResumed())
            state.records.append(journal.WorkflowResumed())
        growth.shorten_all(state)
        if state.unwind is not None:
            ending.unwind(state, state.unwind)
        if state.cancelling:
            ending.cancel(state, undo=state.undo_cancelled)
        transitions.start(state)
        for answer in event.answers:
            self._note(answer)

    def _outputs_lost(self, event: ev.OutputsLost) -> None:
        saving = self.state.tasks.get(event.unsaved)
        if saving is not None and transitions.lost_unsaved_too_often(self.state, saving, event.reason):
            return
        for name in event.tasks:
            task = self.state.tasks.get(name)
            if task is not None:
                self._story.append((self._turn, name, "OutputsLost"))
                demand.lose(self.state, task)
        self.state.agenda.extend(task for task in self.state.tasks.values() if task.phase is Phase.HELD)

    def _cancel_asked(self, event: ev.CancelAsked) -> None:
        if not self.state.cancelling:
            self.state.cancelling = True
            self.state.records.append(journal.CancelDecided(undo=event.undo))

    # --- looking in ----------------------------------------------------------------------------------------------------------

    def inputs_of(self, task: str) -> Sequence[str]:
        """Whose outputs a task reads, in the order of its specification; behind its parent, if it has one."""
        return [up.id for up in self.state.tasks[task].reads]

    def story(self, task: str | None = None) -> str:
        """What happened to a task (or to all), where it is now, and what it waits for."""
        lines = [f"turn {turn}: {name}: {what}" for turn, name, what in self._story if task in (None, name)]
        state = self.state
        if task is None:
            lines.append(f"workflow {state.workflow_id} is {state.status}, epoch {state.epoch}")
        elif task in state.tasks:
            lines.append(self._where(state.tasks[task]))
        return "\n".join(lines)

    def _where(self, task: Task) -> str:
        facts = [word for word in ("present", "durable", "effect", "condemned") if getattr(task, word)]
        text = f"now: {task.phase.name}, attempt {task.attempt}, {', '.join(facts) or 'nothing at hand'}"
        if task.phase is Phase.WAITING:
            missing = [up.id for up in task.ups if up.version == UNEXECUTED or not up.at_hand]
            text += f"; waits for {', '.join(missing[:10])}"
        elif task.phase is Phase.HELD and task.kind is not Kind.INTERNAL:
            path = [f"{why.prop.name.lower()}({why.task.id})" for why in self.state.stability.blame_path(GATE[task.kind], task)]
            text += f"; the commit rule holds it back: {' needs '.join(path[:10])}"
        return text
