"""What annotations buy: the same chain of 20 tasks, each 20 ms of work and 10 MB of output, said in four ways.

The default is the safe worst case, and what other systems do for every task. The more a task says of itself, the less is waited for.
"""

import os
import tempfile
import time

import exoflow

TASKS, SIZE = 20, 10 * 1024 * 1024


@exoflow.task
def work(given: bytes) -> bytes:
    time.sleep(0.02)
    return given[1:] + given[:1]  # bytes that no store has seen yet


@exoflow.task(deterministic=True, can_rollback=True, checkpoint=False)
def result(given: bytes) -> int:
    return len(given)


WAYS = {
    "nothing (may act, so its inputs must be safe)": {},
    "no effects, but wait for each save": {"can_rollback": True, "checkpoint": "sync"},
    "no effects (saved beside the next tasks)": {"can_rollback": True},
    "no effects, deterministic, not saved": {"can_rollback": True, "deterministic": True, "checkpoint": False},
}


def chain(**annotations: object) -> exoflow.Node:
    node = work.options(**annotations).bind(os.urandom(SIZE))
    for _ in range(TASKS - 1):
        node = work.options(**annotations).bind(node)
    return result.bind(node)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, exoflow.Engine(f"sqlite:{folder}/store.db") as engine:
        engine.run(chain(), name="warm-up")
        for number, (said, annotations) in enumerate(WAYS.items()):
            dag = chain(**annotations)
            began = time.perf_counter()
            engine.run(dag, name=f"way-{number}")
            print(f"{said:46} {time.perf_counter() - began:6.2f} s")
