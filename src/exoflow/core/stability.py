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

Most answers take no search. What follows from what is known already is *plainly* good. A task that has not run is not settled, and so
neither is what it reads unless that is saved; so STABLE inputs of such a task are RECOVERABLE, and it is asked for that first: the reason
for a no is then always a save that has not landed. And where a version is neither saved nor would be made again alike, it is stable if and
only if it is settled (its consumers are stable only if it is), so STABLE stands for both.

After a loss, a withdrawal or a spoiled checkpoint, ``reset`` forgets everything; those are rare.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal

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

    __slots__ = ("blame", "cursor", "doubtful", "hung", "index", "is_open", "low", "prop", "task", "waiters")

    def __init__(self, prop: Prop, task: Task) -> None:
        self.prop, self.task = prop, task
        self.cursor = 0  # all edges before it are good
        self.doubtful = -1  # first edge that was passed in this search although not known to be good; -1: none
        self.blame: Blocked | None = None
        self.hung: list[Blocked] = []  # whose blame is this, or was
        self.waiters: list[Task] = []
        self.is_open = False
        self.index = self.low = 0

    @property
    def wants_save(self) -> bool:
        """Whether it would be good if the task were saved."""
        task = self.task
        return self.prop is not Prop.STABLE or task.grew or (not task.deterministic and self.cursor < len(task.readers) + len(task.before))

    def is_bad(self, root: Task | None) -> bool:
        """It does not hold, whatever the other propositions say."""
        task = self.task
        if task.version == UNEXECUTED or task.condemned:
            return True
        if task.durable:
            return False
        if task.grew:  # nothing of a sub-workflow has effects before it is sure to be found again
            return True
        if self.prop is Prop.RECOVERABLE:
            return not task.deterministic
        if self.prop is Prop.STABLE and task.deterministic:
            return False
        return task is root or not (task.readers or task.before)

    def go_on(self, there: Blocked) -> None:
        """Look behind the edge to ``there`` next, which is good, or is good if this is."""
        if there.is_open:
            self.low = min(self.low, there.low)
            if self.doubtful < 0:
                self.doubtful = self.cursor
        self.cursor += 1

    def edge(self) -> tuple[Prop, Task, Blocked | None] | None:
        """The first conjunct that is not known to be good, from the cursor on, which goes there, and what is known of it; None if all are
        good. Consumers come first: more often than inputs they have not even run."""
        task, at, prop = self.task, self.cursor, self.prop
        first = 0
        if prop is Prop.SETTLED or (prop is Prop.STABLE and not task.deterministic):
            readers, before = task.readers, task.before
            split = len(readers)
            first = split + len(before)
            if task.durable:
                at = max(at, first)
            while at < first:
                down = readers[at] if at < split else before[at - split]
                wanted = _as_consumer(down)
                known = getattr(down, _SLOT[wanted])
                if known is not True:
                    self.cursor = at
                    return wanted, down, known
                at += 1
        if prop is not Prop.SETTLED:
            slot, ups = _SLOT[prop], inputs(prop, task)
            if prop is Prop.RECOVERABLE and task.durable:  # but it takes the shape that it belongs to, to find it again
                ups = ups[:1] if task.parent is not None else ()
            last = first + len(ups)
            while at < last:
                up = ups[at - first]
                known = getattr(up, slot)
                if known is not True:
                    self.cursor = at
                    return prop, up, known
                at += 1
        self.cursor = at
        return None


def inputs(prop: Prop, task: Task) -> tuple[Task, ...]:
    """What ``prop`` of ``task`` follows. For a rollback's arguments only what is read matters, not what merely came before."""
    return task.reads if prop is Prop.RECOVERABLE else task.ups


def _as_consumer(task: Task) -> Prop:
    """What says that ``task`` is STABLE and SETTLED: if it is saved, the former is enough; a stable one that is settled by others is
    settled by something stable downstream, and so is stable itself."""
    return Prop.SETTLED if task.deterministic and not task.durable else Prop.STABLE


def _is_plain(prop: Prop, task: Task) -> bool:
    """Whether ``prop`` holds by what is known already."""
    if task.version == UNEXECUTED or task.condemned:
        return False
    if prop is Prop.RECOVERABLE:
        if task.durable:
            return task.parent is None or task.parent.r_prop is True
        return task.deterministic and not task.grew and all(up.r_prop is True for up in task.reads)
    if not task.durable and (prop is Prop.SETTLED or task.grew or not task.deterministic):
        return False
    return all(up.s_prop is True for up in task.ups)


def position(gate: Prop, task: Task) -> tuple[Prop, int]:
    """Which of its inputs ``ask`` has to look at next, and what must hold for that one."""
    if gate is not Prop.STABLE:
        return gate, task.asked
    behind = task.asked - len(task.reads)
    return (Prop.STABLE, behind) if behind >= 0 else (Prop.RECOVERABLE, task.asked)


class Stability:
    """The propositions of one workflow. ``ask`` answers and remembers who asked; ``touch`` wakes them when the answer changes."""

    def __init__(self, state: State) -> None:
        self._state = state

    def ask(self, gate: Prop, task: Task) -> bool:
        """Whether ``gate`` holds for every input of ``task``. If not, the task is put on the agenda when that may have changed."""
        if gate is not Prop.STABLE:
            return self._ask(gate, task, 0)
        if task.version == UNEXECUTED and not self._ask(Prop.RECOVERABLE, task, 0):
            return False
        task.asked = max(task.asked, len(task.reads))
        return self._ask(gate, task, len(task.reads))

    def _ask(self, prop: Prop, task: Task, first: int) -> bool:
        ups = inputs(prop, task)
        while task.asked - first < len(ups):
            known = self._find(prop, ups[task.asked - first])
            if known is not True:
                known.waiters.append(task)
                return False
            task.asked += 1
        return True

    def holds(self, prop: Prop, tasks: Iterable[Task]) -> bool:
        """Whether ``prop`` holds for all of ``tasks`` now."""
        for task in tasks:
            if prop is Prop.SETTLED and task.durable:
                continue
            if self._find(_as_consumer(task) if prop is Prop.SETTLED else prop, task) is not True:
                return False
        return True

    def _find(self, prop: Prop, task: Task) -> Literal[True] | Blocked:
        """Whether ``prop`` of ``task`` holds, or what is in its way."""
        slot = _SLOT[prop]
        known: Literal[True] | Blocked | None = getattr(task, slot)
        if known is not None:
            return known
        if _is_plain(prop, task):
            setattr(task, slot, True)
            return True
        freed: list[Blocked] = []
        self._search(Blocked(prop, task), freed)
        self._work(freed)
        found: Literal[True] | Blocked = getattr(task, slot)
        return found

    def touch(self, task: Task) -> None:
        """Facts about ``task`` (executed, durable, its neighbours) have improved."""
        work = []
        for slot in _SLOT:
            known = getattr(task, slot)
            if known is not None and known is not True:
                if known.hung or known.waiters:
                    work.append(known)
                else:  # nobody waits for the answer: it is found when somebody asks
                    setattr(task, slot, None)
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

    def blame_path(self, gate: Prop, task: Task) -> Iterator[Blocked]:
        """Why ``ask(gate, task)`` was last answered no: the chain of propositions from the input to what is bad."""
        prop, at = position(gate, task)
        ups = inputs(prop, task)
        known = getattr(ups[at], _SLOT[prop]) if at < len(ups) else None
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
            above = {each for each in here.hung if each.blame is here} - seen
            stack += above
            seen |= above
        return False

    # --- the search ----------------------------------------------------------------------------------------------------------

    def _work(self, work: list[Blocked]) -> None:
        for top in work:  # grows while it is walked
            known = getattr(top.task, _SLOT[top.prop])
            if known is None or known is top:
                if _is_plain(top.prop, top.task):  # two of five that are touched: 0.9 of the time
                    self._settle(top, work)
                else:
                    self._search(top, work)

    def _search(self, top: Blocked, freed: list[Blocked]) -> None:
        """Find out about ``top``. What hung on a proposition that turns out good is added to ``freed``."""
        top.blame = None
        root = self._state.root
        path: list[Blocked] = []
        component: list[Blocked] = []
        walked: set[Blocked] = set()
        here = top
        following: Blocked | None = top
        while True:
            if following is not None:
                here = following
                setattr(here.task, _SLOT[here.prop], here)
                here.is_open, here.doubtful = True, -1
                here.index = here.low = len(component)
                path.append(here)
                component.append(here)
                if here.is_bad(root):
                    self._hang(path, component, None)
                    return
                following = None
            edge = here.edge()
            if edge is None:
                path.pop()
                if here.low == here.index:
                    self._close(here, component, freed)
                if not path:
                    return
                there, here = here, path[-1]
                here.go_on(there)
                continue
            prop, task, known = edge
            if known is None:
                if _is_plain(prop, task):
                    setattr(task, _SLOT[prop], True)
                else:
                    following = Blocked(prop, task)
            elif known.is_open:
                here.go_on(known)
            elif top.hung and _ends_open(known, walked):  # it hangs on what is being looked at: look into it too
                following = known
            else:
                self._hang(path, component, known)
                return

    def _close(self, here: Blocked, component: list[Blocked], freed: list[Blocked]) -> None:
        """Nothing bad can be reached from the component of ``here``: all of it is good."""
        while True:
            good = component.pop()
            good.is_open = False
            self._settle(good, freed)
            if good is here:
                return

    def _settle(self, good: Blocked, freed: list[Blocked]) -> None:
        """It holds, for ever."""
        good.blame = None
        setattr(good.task, _SLOT[good.prop], True)
        if good.hung:
            freed.extend(hung for hung in good.hung if hung.blame is good and not hung.is_open)
        if good.waiters:
            self._state.agenda.extend(good.waiters)

    def _hang(self, path: list[Blocked], component: list[Blocked], culprit: Blocked | None) -> None:
        """The end of ``path`` is bad (or blocked by ``culprit``), and so is all of the path."""
        for below in reversed(path):
            below.blame = culprit
            if culprit is not None:
                culprit.hung.append(below)
            culprit = below
        if self._state.lossy:
            while culprit is not None:
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


def _ends_open(known: Blocked, walked: set[Blocked]) -> bool:
    """Whether ``known`` hangs on what is being looked at. What was found to is remembered in ``walked``, so that a search walks each blame
    once."""
    way = []
    here: Blocked | None = known
    while here is not None and not here.is_open and here not in walked:
        way.append(here)
        here = here.blame
    if here is None:
        return False
    walked.update(way)
    return True
