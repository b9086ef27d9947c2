"""The rings that mutants are hunted with. Each is a function that runs the schedule of a seed: it raises if anything is wrong, and says
whether there was one (a seed may draw a workflow that is refused)."""

from __future__ import annotations

from collections.abc import Callable


def machine(seed: int) -> bool:
    """The core in a random world."""
    from exoflow.testing.machine.settings import drawn_world

    world = drawn_world(seed)
    if world is None:
        return False
    world.run()
    world.judge()
    return True


RINGS: dict[str, tuple[Callable[[int], bool], float]] = {"machine": (machine, 10.0)}
"""By name; and after how many seconds a schedule counts as hanging."""
