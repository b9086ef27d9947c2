"""The commit rule (docs/semantics.md, section 4), kept incrementally.

Three propositions about a task, each a plain conjunction once the facts (executed, durable) are given:

* ``STABLE(v)``: v's version can never be replaced. v is executed, all its inputs are stable, and v is deterministic or SETTLED.
* ``SETTLED(v)``: v will never run again. v is durable, or it has consumers and each of them is STABLE and SETTLED.
* ``RECOVERABLE(v)``: v's version can be had again after any loss. v is durable, or deterministic with all inputs recoverable; and so is
  the shape of the sub-workflow that v belongs to.

STABLE and SETTLED lean on each other (v settled needs its consumer stable, which needs v stable), and the *greatest* solution is meant:
a circle of propositions that nothing bad can be reached from holds. So evaluation is a depth-first search for something bad, by strongly
connected components (Tarjan): a component from which nothing bad is reached is good, for ever, because while nothing is lost facts only
improve. A proposition that is not good is *hung* on the next one of the path to something bad. When that improves, only what hangs on
it looks again, from where it had got to: scanning resumes behind the edges that are already good. This makes the cost of a whole run
proportional to the edges (in the shapes that occur), where evaluating from scratch before each commit would be quadratic.

After a loss, a withdrawal or a spoiled checkpoint, ``reset`` forgets everything; those are rare.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from exoflow.core.spec.ids import UNEXECUTED

if TYPE_CHECKING:
    from exoflow.core.state import State, Task


class Prop(enum.IntEnum):
    """What may be asked of a task; see the top of this module."""

    STABLE = 0
    SETTLED = 1
    RECOVERABLE = 2


_SLOT = ("s_prop", "n_prop", "r_prop")


class Blocked:
    """A proposition that is not (yet) known to be good. ``blame`` is what it hangs on, None if it is bad by itself."""

    __slots__ = ("blame", "cursor", "doubtful", "hung", "index", "is_open", "low", "prop", "search", "task", "waiters")

    def __init__(self, prop: Prop, task: Task) -> None:
        self.prop, self.task = prop, task
        self.cursor = 0  # all edges before it are good
        self.doubtful = -1  # first edge that was passed in this search although not known to be good; -1: none
        self.blame: Blocked | None = None
        self.hung: dict[Blocked, None] = {}
        self.waiters: list[Task] = []
        self.is_open = False
        self.index = self.low = 0
        self.search = 0  # the last search in which it was found to hang on something open

    def set_blame(self, blame: Blocked | None) -> None:
        if self.blame is not None:
            self.blame.hung.pop(self, None)
        self.blame = blame
        if blame is not None:
            blame.hung[self] = None

    @property
    def wants_save(self) -> bool:
        """Whether it would be good if the task were saved."""
        return self.prop is not Prop.STABLE or self.task.grew

    def is_bad(self, root: Task | None) -> bool:
        """It does not hold, whatever the other propositions say."""
        task = self.task
        if self.prop is Prop.SETTLED:
            return not task.durable and (task is root or task.grew or not (task.readers or task.before))
        if task.version == UNEXECUTED or task.condemned:
            return True
        if task.grew and not task.durable:  # nothing of a sub-workflow has effects before it is sure to be found again
            return True
        return self.prop is Prop.RECOVERABLE and not task.durable and not task.deterministic

    def edge(self) -> tuple[Prop, Task] | None:
        """The conjunct at the cursor; None behind the last."""
        task, at = self.task, self.cursor
        if self.prop is Prop.SETTLED:
            position, readers = at >> 1, task.readers
            if task.durable or position >= len(readers) + len(task.before):
                return None
            down = readers[position] if position < len(readers) else task.before[position - len(readers)]
            return (Prop.SETTLED if at & 1 else Prop.STABLE), down
        ups = inputs(self.prop, task)
        if self.prop is Prop.RECOVERABLE and task.durable:  # but it takes the shape that it belongs to, to find it again
            ups = ups[:1] if task.parent is not None else ()
        if at < len(ups):
            return self.prop, ups[at]
        if at == len(ups) and self.prop is Prop.STABLE and not task.deterministic and not task.durable:
            return Prop.SETTLED, task
        return None


def inputs(prop: Prop, task: Task) -> tuple[Task, ...]:
    """What ``prop`` of ``task`` follows. For a rollback's arguments only what is read matters, not what merely came before."""
    return task.reads if prop is Prop.RECOVERABLE else task.ups


class Stability:
    """The propositions of one workflow. ``ask`` answers and remembers who asked; ``touch`` wakes them when the answer changes."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._searches = 0

    def ask(self, prop: Prop, task: Task) -> bool:
        """Whether ``prop`` holds for every input of ``task``. If not, the task is put on the agenda when that may have changed."""
        slot = _SLOT[prop]
        ups = inputs(prop, task)
        while task.asked < len(ups):
            up = ups[task.asked]
            known = getattr(up, slot)
            if known is None:
                self._work([Blocked(prop, up)])
                known = getattr(up, slot)
            if known is not True:
                known.waiters.append(task)
                return False
            task.asked += 1
        return True

    def holds(self, prop: Prop, tasks: Iterable[Task]) -> bool:
        """Whether ``prop`` holds for all of ``tasks`` now."""
        for task in tasks:
            if getattr(task, _SLOT[prop]) is None:
                self._work([Blocked(prop, task)])
            if getattr(task, _SLOT[prop]) is not True:
                return False
        return True

    def touch(self, task: Task) -> None:
        """Facts about ``task`` (executed, durable, its neighbours) have improved."""
        work = [known for slot in _SLOT if isinstance(known := getattr(task, slot), Blocked)]
        if work:
            self._work(work)

    def rewire(self, task: Task) -> None:
        """The consumers of ``task`` changed: look at all of them again."""
        for slot in _SLOT:
            known = getattr(task, slot)
            if isinstance(known, Blocked):
                known.cursor = 0

    def reset(self) -> None:
        """Facts got worse: forget all answers, and let everybody who waits ask again."""
        from exoflow.core.state import Phase

        for task in self._state.tasks.values():
            task.s_prop = task.n_prop = task.r_prop = None
            task.asked = 0
            if task.phase is Phase.HELD:
                self._state.agenda.append(task)

    def blame_path(self, prop: Prop, task: Task) -> Iterator[Blocked]:
        """Why ``ask(prop, task)`` was last answered no: the chain of propositions from the input to what is bad."""
        ups = inputs(prop, task)
        known = getattr(ups[task.asked], _SLOT[prop]) if task.asked < len(ups) else None
        while isinstance(known, Blocked):
            yield known
            known = known.blame

    def wants_save(self, task: Task) -> bool:
        """Whether a task is held back by a proposition that does not hold, and would if ``task`` were saved."""
        known = (getattr(task, slot) for slot in _SLOT)
        stack = [each for each in known if isinstance(each, Blocked) and each.wants_save]
        seen = set(stack)
        while stack:
            here = stack.pop()
            if any(waiter.is_held for waiter in here.waiters):
                return True
            stack += here.hung.keys() - seen
            seen.update(here.hung)
        return False

    # --- the search ----------------------------------------------------------------------------------------------------------

    def _work(self, work: list[Blocked]) -> None:
        for top in work:  # grows while it is walked
            known = getattr(top.task, _SLOT[top.prop])
            if known is None or known is top:
                self._search(top, work)

    def _search(self, top: Blocked, freed: list[Blocked]) -> None:
        """Find out about ``top``. What hung on a proposition that turns out good is added to ``freed``."""
        top.set_blame(None)
        self._searches += 1
        path: list[Blocked] = []
        component: list[Blocked] = []
        self._open(top, path, component)
        while path:
            here = path[-1]
            if here.is_bad(self._state.root):
                self._hang(path, component, None)
                return
            edge = here.edge()
            if edge is None:
                path.pop()
                if here.low == here.index:
                    self._close(here, component, freed)
                if path:
                    self._pass(path[-1], here)
                continue
            prop, task = edge
            known = getattr(task, _SLOT[prop])
            if known is True:
                here.cursor += 1
            elif known is None:
                self._open(Blocked(prop, task), path, component)
            elif known.is_open:
                self._pass(here, known)
            elif self._ends_open(known):  # it hangs on what is being looked at: look into it too
                self._open(known, path, component)
            else:
                self._hang(path, component, known)
                return

    def _open(self, here: Blocked, path: list[Blocked], component: list[Blocked]) -> None:
        setattr(here.task, _SLOT[here.prop], here)
        here.is_open = True
        here.doubtful = -1
        here.index = here.low = len(component)
        path.append(here)
        component.append(here)

    def _pass(self, here: Blocked, there: Blocked) -> None:
        """Go on behind the edge to ``there``, which is good, or is good if ``here`` is."""
        if there.is_open:
            here.low = min(here.low, there.low)
            if here.doubtful < 0:
                here.doubtful = here.cursor
        here.cursor += 1

    def _close(self, here: Blocked, component: list[Blocked], freed: list[Blocked]) -> None:
        """Nothing bad can be reached from the component of ``here``: all of it is good."""
        while True:
            good = component.pop()
            good.is_open = False
            setattr(good.task, _SLOT[good.prop], True)
            good.set_blame(None)
            freed.extend(hung for hung in good.hung if not hung.is_open)
            self._state.agenda.extend(good.waiters)
            if good is here:
                return

    def _hang(self, path: list[Blocked], component: list[Blocked], culprit: Blocked | None) -> None:
        """The end of ``path`` is bad (or blocked by ``culprit``), and so is all of the path."""
        known = culprit
        for below in reversed(path):
            below.set_blame(culprit)
            culprit = below
        while culprit is not None and (culprit is not known or self._state.lossy):
            if culprit.wants_save and culprit.task.checkpoint_lost:
                culprit.task.pressed = True
                self._state.agenda.append(culprit.task)
            culprit = culprit.blame
        on_path = set(path)
        for open_ in component:
            open_.is_open = False
            if open_.doubtful >= 0:
                open_.cursor = min(open_.cursor, open_.doubtful)
            if open_ not in on_path and open_.blame is None:  # met in this search and undecided: nothing is known of it
                setattr(open_.task, _SLOT[open_.prop], None)

    def _ends_open(self, known: Blocked) -> bool:
        """Whether ``known`` hangs on what is being looked at. What was found to is remembered, so that a search walks each blame once."""
        walked = []
        here: Blocked | None = known
        while here is not None and not here.is_open and here.search != self._searches:
            walked.append(here)
            here = here.blame
        if here is None:
            return False
        for each in walked:
            each.search = self._searches
        return True
