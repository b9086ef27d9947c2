"""From a seed that breaks something to the smallest scenario that still does: fewer steps, fewer tasks, plainer annotations."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import msgspec

from exoflow.core.checks import check
from exoflow.testing.machine.scenario import Crash, Line, Lines, Return, Scenario, Step, graph_of, lines_of
from exoflow.testing.machine.schedules import Script
from exoflow.testing.machine.world import World

_PLAIN = Line(id="")
_FIELDS = ("timeout", "catch", "retries", "on_unknown", "kind", "save", "deterministic")


def world_of(scenario: Scenario) -> World:
    """A world that goes the way of ``scenario``."""
    return World(
        graph_of(scenario.tasks),
        auto=scenario.auto,
        undo_on_failure=scenario.undo_on_failure,
        schedule=Script(scenario.steps),
        checked=True,
    )


def trouble(scenario: Scenario) -> str:
    """What is wrong with it, in a line; "" if nothing is (or if its workflow is unsafe, and so would be refused)."""
    try:
        graph = graph_of(scenario.tasks)
        if not scenario.auto and check(graph):
            return ""
        world = world_of(scenario)
        world.run()
        world.judge()
    except Exception as error:  # whatever it is, it is what is looked for
        return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"[:300]
    return ""


def scenario_of(world: World, found: str = "") -> Scenario:
    """What has happened in ``world`` so far."""
    return Scenario(
        story="",
        found=found,
        tasks=lines_of(world.graph),
        auto=world.auto,
        undo_on_failure=world.undo_on_failure,
        steps=tuple(world.steps),
    )


def sort_of(story: str) -> str:
    """What two troubles have in common if they are of one sort: the words, without names and numbers."""
    return " ".join(word for word in story.split()[:12] if word.isalpha() or word.endswith(":"))[:60]


def shrunk(scenario: Scenario, *, seconds: float = 60.0, wrong: Callable[[Scenario], str] = trouble) -> Scenario:
    """The smallest scenario found within that time in which the same sort of thing is still ``wrong``; its story says what."""
    until = time.monotonic() + seconds
    best, sort = scenario, sort_of(wrong(scenario))
    again = True
    while again and time.monotonic() < until:
        again = False
        for candidate in _smaller(best):
            if time.monotonic() > until:
                break
            if sort_of(wrong(candidate)) == sort:
                best, again = candidate, True
                break
    return msgspec.structs.replace(best, story=wrong(best))


def _smaller(scenario: Scenario) -> Iterator[Scenario]:
    """Scenarios a little smaller, the boldest first."""
    steps, tasks = scenario.steps, scenario.tasks
    size = len(steps) // 2
    while size >= 1:
        for at in range(0, len(steps), size):
            yield msgspec.structs.replace(scenario, steps=steps[:at] + steps[at + size :])
        size //= 2
    for fewer in _smaller_graphs(tasks):
        yield msgspec.structs.replace(scenario, tasks=fewer)
    for at, step in enumerate(steps):
        for simpler in _simpler(step):
            yield msgspec.structs.replace(scenario, steps=(*steps[:at], simpler, *steps[at + 1 :]))
    if scenario.auto:
        yield msgspec.structs.replace(scenario, auto=False)
    if scenario.undo_on_failure:
        yield msgspec.structs.replace(scenario, undo_on_failure=False)


def _smaller_graphs(tasks: Lines) -> Iterator[Lines]:
    for gone in tasks[:-1]:
        yield tuple(
            msgspec.structs.replace(
                line, reads=tuple(up for up in line.reads if up != gone.id), after=tuple(up for up in line.after if up != gone.id)
            )
            for line in tasks
            if line is not gone
        )
    for at, line in enumerate(tasks):
        for simpler in _simpler_lines(line):
            yield (*tasks[:at], simpler, *tasks[at + 1 :])


def _simpler_lines(line: Line) -> Iterator[Line]:
    for field in _FIELDS:
        if getattr(line, field) != getattr(_PLAIN, field):
            yield msgspec.structs.replace(line, **{field: getattr(_PLAIN, field)})
    for up in line.reads:
        yield msgspec.structs.replace(line, reads=tuple(other for other in line.reads if other != up))
    for up in line.after:
        yield msgspec.structs.replace(line, after=tuple(other for other in line.after if other != up))


def _simpler(step: Step) -> Iterator[Step]:
    if isinstance(step, Return) and step.growth:
        yield msgspec.structs.replace(step, growth=())
        for fewer in _smaller_graphs(step.growth):
            yield msgspec.structs.replace(step, growth=fewer)
    elif isinstance(step, Crash):
        for name in step.acted:
            yield msgspec.structs.replace(step, acted=tuple(other for other in step.acted if other != name))
        if step.zombies:
            yield msgspec.structs.replace(step, zombies=())
