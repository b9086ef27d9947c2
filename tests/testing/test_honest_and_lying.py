"""Random workflows of tasks that keep their promises are safe; if one task breaks one of its, it is found, and nobody else is blamed."""

from __future__ import annotations

import random

import pytest

import exoflow
from exoflow import current_task
from exoflow.testing import Effects, crash_everywhere

LIES = {
    "think": {"not_deterministic", "internal_effect"},
    "draw": {"internal_effect"},
    "hold": {"rollback_left", "rollback_failed"},
    "pay": {"no_key"},
    "wire": {"guess"},
}
"""What a task of that kind may do wrong. Two of the lies show as something else: without a key it happens twice, and a guess is wrong."""
SHOWS_AS = {"no_key": "twice", "guess": "on_unknown"}


def tasks(effects: Effects, chance: random.Random, lie: str):
    """One task of each kind; ``lie`` is what it does wrong, if anything."""

    @exoflow.task(deterministic=True, can_rollback=True, checkpoint=False)
    def think(*inputs):
        if lie == "internal_effect":
            effects.apply("thought", key="always")
        return (inputs, chance.random()) if lie == "not_deterministic" else (inputs,)

    @exoflow.task(can_rollback=True, checkpoint="auto")
    def draw(*inputs):
        if lie == "internal_effect":
            effects.apply("drawn", key="always")
        return inputs, chance.random()

    def let_go(*inputs):
        if lie == "rollback_failed" and not effects.stands("hold"):
            raise LookupError("there is nothing to undo")
        if lie != "rollback_left":
            effects.undo("hold")

    @exoflow.task(rollback=let_go)
    def hold(*inputs):
        effects.apply("hold", value=inputs)
        return inputs, chance.random()

    @exoflow.task
    def pay(*inputs):
        effects.apply("pay", value=inputs, key=None if lie == "no_key" else current_task().idempotency_key)
        return inputs, "paid"

    @exoflow.task(on_unknown=lambda *inputs: (inputs, "wired") if lie != "guess" and effects.stands("wire") else False)
    def wire(*inputs):
        effects.apply("wire", value=inputs)
        return inputs, "wired"

    return {"think": think, "draw": draw, "hold": hold, "pay": pay, "wire": wire}


def workflow(effects: Effects, seed: int, *, lie: str = "", of: str = "") -> exoflow.Node:
    """A DAG of up to six tasks, each reading any of those before it."""
    chance = random.Random(seed)
    draws = random.Random(seed + 1)
    honest, lying = tasks(effects, draws, ""), tasks(effects, draws, lie)
    nodes: list[exoflow.Node] = []
    kinds = [chance.choice(list(LIES)) for _ in range(chance.randrange(2, 6))]
    if of:
        kinds[chance.randrange(len(kinds))] = of
    lied = False
    for number, kind in enumerate(kinds):
        made = honest
        if kind == of and not lied:
            made, lied = lying, True
        ups = [node for node in nodes if chance.random() < 0.6]
        nodes.append(made[kind].options(name=f"{'liar' if made is lying else kind}-{number}").bind(*ups))
    return exoflow.task(can_rollback=True, deterministic=True)(lambda *outputs: outputs).bind(*nodes)


@pytest.mark.slow  # each is some hundred runs
@pytest.mark.parametrize("seed", range(6))
def test_the_honest_are_safe(seed):
    report = crash_everywhere(workflow(Effects(), seed), mode="auto", pairs=10, runs_max=150)
    assert report.ok, str(report)


@pytest.mark.slow  # each is some hundred runs
@pytest.mark.parametrize(("kind", "lie"), [(kind, lie) for kind, lies in LIES.items() for lie in sorted(lies)])
def test_the_liar_is_found_and_nobody_else_is_blamed(kind, lie):
    report = crash_everywhere(workflow(Effects(), 1, lie=lie, of=kind), mode="auto", pairs=10, runs_max=150)
    assert SHOWS_AS.get(lie, lie) in {finding.kind for finding in report.findings}, str(report)
    assert {finding.task.partition("-")[0] for finding in report.findings} <= {"liar", ""}, str(report)
