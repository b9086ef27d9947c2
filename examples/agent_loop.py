"""An agent: think, act, think again, until it has an answer. A loop is a task that returns the next step.

Thoughts are a matter of chance and cost money, so each is saved: after a crash the agent goes on where it was. Tools may act on the
world, so each gets a key that is the same for every attempt.
"""

import exoflow


@exoflow.task(can_rollback=True, retries=3)
def think(notes: list[str]) -> str:
    """Ask a model what to do next (here: a very small one)."""
    return ["search ferries", "book ferry", "answer: you sail at nine"][len(notes)]


@exoflow.task
def use_tool(thought: str) -> str:
    key = exoflow.current_task().idempotency_key  # hand it to whatever the tool talks to
    return f"did '{thought}' (key of {len(key)} characters)"


@exoflow.task(deterministic=True, can_rollback=True, checkpoint=False)
def take(notes: list[str], note: str) -> list[str]:
    return [*notes, note]


@exoflow.task(deterministic=True, can_rollback=True, checkpoint=False)
def decide(notes: list[str], thought: str) -> exoflow.Node | str:
    """Go on or stop: a task that returns a DAG continues with it."""
    if thought.startswith("answer: "):
        return f"{thought.removeprefix('answer: ')} (after {len(notes)} steps)"
    return step(take.bind(notes, use_tool.bind(thought)))


def step(notes: exoflow.Node | list[str]) -> exoflow.Node:
    return decide.bind(notes, think.bind(notes))


if __name__ == "__main__":
    with exoflow.Engine("sqlite:agent.db") as engine:
        print(engine.run(step([]), name="island"))
        print(engine.story("island"))
