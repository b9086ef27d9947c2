"""The smallest program with a durable result, run in a process of its own: prints when it has it, and waits for a line."""

import sys

import exoflow


@exoflow.task
def add_one(x: int) -> int:
    return x + 1


if __name__ == "__main__":
    with exoflow.Engine(sys.argv[1]) as engine:
        print(engine.run(add_one, 1), flush=True)
        sys.stdin.readline()
