"""Who decides what happens next in a world: chance (``RandomSchedule``), a list of steps (``Script``), or nobody, so that things take
their undisturbed course (``calm``)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from exoflow.core.spec.annotations import Kind
from exoflow.core.state import Status
from exoflow.testing.machine.graphs import drawn_growth
from exoflow.testing.machine.scenario import (
    Answer,
    Cancel,
    Crash,
    End,
    Fail,
    Fire,
    Haunt,
    Land,
    Lines,
    Lose,
    Miss,
    Resume,
    Return,
    RollBack,
    Spoil,
    Step,
    Store,
)

if TYPE_CHECKING:
    from exoflow.testing.machine.parts import Attempt
    from exoflow.testing.machine.world import World


class Schedule(Protocol):
    """Chooses the next step of a world; None if nothing can happen any more."""

    def next(self, world: World) -> Step | None:
        """The step to take now."""
        ...


@dataclass
class Knobs:
    """What may go wrong, each as a probability: per step for ``crash``, ``lose``, ``spoil`` and ``cancel``; per attempt for ``fail``,
    ``die``, ``miss`` (it cannot load an input) and ``grow`` (it returns a DAG); per rollback or question for ``undo_fails``; per save for
    ``unstorable``; per timer for ``timeout``; per stop for ``resume``. After ``faults_max`` faults nothing goes wrong any more."""

    crash: float = 0.03
    lose: float = 0.03
    spoil: float = 0.0
    fail: float = 0.05
    die: float = 0.03
    miss: float = 0.0
    grow: float = 0.04
    unsafe: float = 0.0
    cancel: float = 0.0
    undo_fails: float = 0.1
    unstorable: float = 0.0
    timeout: float = 0.3
    resume: float = 0.0
    haunt: float = 0.5
    steps_max: int = 5000
    faults_max: int = 12


class RandomSchedule:
    """All by chance, from one seed."""

    def __init__(self, seed: int, knobs: Knobs) -> None:
        self.rng = random.Random(seed)
        self.knobs = knobs
        self.faults = 0

    def next(self, world: World) -> Step | None:
        if world.status.ended:
            return self._after_the_end(world)
        if self.faults < self.knobs.faults_max:
            fault = self._disturbance(world)
            if fault is not None:
                self.faults += 1
                return fault
        lanes: list[int] = []
        if world.appends:
            lanes.append(0)
        if world.running:
            lanes += (1, 1)
        if world.saves:
            lanes.append(2)
        if world.timers:
            lanes.append(3)
        if not lanes:
            return None
        lane = self.rng.choice(lanes)
        if lane == 0:
            return Land(count=self.rng.randint(1, len(world.appends)))
        if lane == 1:
            return self._outcome(world, self.rng.choice(world.running))
        if lane == 2:
            save = self.rng.choice(world.saves)
            return Store(task=save.task, attempt=save.attempt, fails=self._fault(self.knobs.unstorable))
        timer = self.rng.choice(world.timers)
        late = timer.key == "timeout" and not self._fault(self.knobs.timeout)
        return Fire(task=timer.task, attempt=timer.attempt, key=timer.key, late=late)

    def _fault(self, probability: float) -> bool:
        if not probability or self.faults >= self.knobs.faults_max or self.rng.random() >= probability:
            return False
        self.faults += 1
        return True

    def _after_the_end(self, world: World) -> Step | None:
        if world.zombies and self.rng.random() < 0.5:
            return Haunt(task=self.rng.choice(world.zombies).task)
        if world.may_resume and self._fault(self.knobs.resume):
            return Resume(answers=self.rng.random() < 0.8)
        return None

    def _disturbance(self, world: World) -> Step | None:
        """Something that breaks in from outside, or None."""
        rng, knobs = self.rng, self.knobs
        if rng.random() < knobs.crash:
            return self._crash(world)
        if knobs.cancel and rng.random() < knobs.cancel:
            return Cancel(undo=rng.random() < 0.5)
        if world.memory and rng.random() < knobs.lose:
            names = [name for name in world.memory if world.is_present(name)]
            if names:
                lost = rng.sample(names, rng.randint(1, len(names)))
                return Lose(tasks=tuple(lost), saving=tuple(save.task for save in world.saves if save.task in lost and rng.random() < 0.3))
        if knobs.spoil and rng.random() < knobs.spoil:
            names = world.spoilable()
            if names:
                return Spoil(task=rng.choice(names))
        if world.zombies and rng.random() < 0.1:
            return Haunt(task=rng.choice(world.zombies).task)
        return None

    def _crash(self, world: World) -> Crash:
        rng = self.rng
        arrived = rng.randint(0, len(world.appends)) if world.appends else 0
        acted = tuple(each.task for each in world.running if each.kind != "ask" and rng.random() < 0.5)
        zombies = tuple(each.task for each in world.running if each.may_haunt and rng.random() < self.knobs.haunt)
        return Crash(arrived=arrived, acted=acted, zombies=zombies)

    def _outcome(self, world: World, attempt: Attempt) -> Step:
        rng, knobs, task, number = self.rng, self.knobs, attempt.task, attempt.number
        if attempt.kind == "ask":
            return Answer(task=task, attempt=number, fails=self._fault(knobs.undo_fails))
        if attempt.broken:
            return Miss(task=task, attempt=number)
        if attempt.in_memory and self._fault(knobs.miss):
            began = attempt.kind == "run" and rng.random() < 0.5
            acted = began and rng.random() < 0.5
            return Miss(task=task, attempt=number, lost=(rng.choice(attempt.in_memory),), began=began, acted=acted)
        if attempt.kind == "undo":
            fails = self._fault(knobs.undo_fails)
            return RollBack(task=task, attempt=number, fails=fails, acted=not fails or rng.random() < 0.5)
        if self._fault(knobs.fail):
            acts = attempt.spec.annotations.kind is not Kind.COMMITTING  # an exception says that the work was not done
            how = "final" if rng.random() < 0.3 else "raised"
            return Fail(task=task, attempt=number, how="final" if how == "final" else "raised", acted=acts and rng.random() < 0.5)
        if self._fault(knobs.die):
            return Fail(task=task, attempt=number, how="stranded" if number % 3 == 0 else "died", acted=rng.random() < 0.5)
        if attempt.stopping and rng.random() < 0.7:
            return End(task=task, attempt=number, acted=rng.random() < 0.5)
        growth: Lines = ()
        if knobs.grow and rng.random() < knobs.grow and task.count("/") < 2 and len(world.machine.state.tasks) < 30:
            growth = drawn_growth(rng.randrange(4000), unsafe=rng.random() < knobs.unsafe)
        return Return(task=task, attempt=number, stored=attempt.save and rng.random() < 0.5, growth=growth)


def calm(world: World, *, eager: bool = True) -> Step | None:
    """What happens next if nothing goes wrong: everything in the order in which it began. ``eager``: acknowledgements come at once;
    otherwise only when nothing else can happen."""
    if world.status.ended:
        return None
    if world.appends and eager:
        return Land()
    if world.running:
        attempt = world.running[0]
        task, number = attempt.task, attempt.number
        if attempt.kind == "ask":
            return Answer(task=task, attempt=number)
        if attempt.broken:
            return Miss(task=task, attempt=number)
        if attempt.kind == "undo":
            return RollBack(task=task, attempt=number)
        if attempt.stopping:
            return End(task=task, attempt=number)
        return Return(task=task, attempt=number, stored=attempt.save)
    if world.saves:
        return Store(task=world.saves[0].task, attempt=world.saves[0].attempt)
    if world.timers:
        timer = world.timers[0]
        return Fire(task=timer.task, attempt=timer.attempt, key=timer.key, late=timer.key == "timeout")
    if world.appends:
        return Land()
    return None


class Script:
    """The steps of a scenario, without those that cannot be taken when their turn comes; then the undisturbed course."""

    def __init__(self, steps: Iterable[Step]) -> None:
        self.steps: Sequence[Step] = tuple(steps)
        self.at = 0
        self.taken: list[Step] = []

    def next(self, world: World) -> Step | None:
        while self.at < len(self.steps):
            step = self.steps[self.at]
            self.at += 1
            if world.can(step):
                self.taken.append(step)
                return step
        return calm(world)


STOPPED = frozenset({Status.FAILED, Status.IN_DOUBT, Status.BLOCKED})
"""Ends after which a person may resume a workflow (unless it was rolled back)."""
