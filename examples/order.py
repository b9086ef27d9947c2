"""Order without data: ``a >> b`` says that b starts when a has finished, although it reads nothing from it.

Here: first the backup, then the migration, then the traffic. Without the arrows nothing would tie the three together.
"""

import exoflow

STEPS: list[str] = []


@exoflow.task
def back_up(database: str) -> None:
    STEPS.append(f"back up {database}")


@exoflow.task(timeout=60, retries=2, backoff=0.1)
def migrate(database: str) -> int:
    STEPS.append(f"migrate {database}")
    return 42


@exoflow.task
def open_traffic(version: int) -> str:
    STEPS.append(f"open traffic to version {version}")
    return f"version {version} is live"


def release(database: str) -> exoflow.Node:
    saved, version = back_up.bind(database), migrate.bind(database)
    live = open_traffic.bind(version)
    saved >> version  # or: version << saved
    return live


if __name__ == "__main__":
    with exoflow.Engine("memory:") as engine:
        print(engine.run(release("shop"), name="release-42"))
    print(STEPS)
