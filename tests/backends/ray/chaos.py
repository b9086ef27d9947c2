"""Random workflows on a real Ray cluster of three nodes, whose parts are killed at random, with the ledger as the judge.

    python -m tests.backends.ray.chaos --schedules 100 --seed 1 --jobs 2

A schedule kills one or two of: a worker, an actor, a node with all that runs and lies on it, the driver, everything. At the end the
workflow must have succeeded, each effect must stand once, and all that survives must have seen the same draws. A seed repeats what is done;
when exactly is up to the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.cluster_utils import Cluster

import exoflow
from exoflow.testing.campaign import Campaign, append, commit_of, now
from exoflow.testing.ledger import Ledger
from tests.backends.ray.chaos_tasks import drawn

ROOT = Path(__file__).parents[3]
FAULTS = ("worker", "actor", "node", "driver", "everything")
WEIGHTS = (8, 4, 4, 3, 1)
NODES = 3
PATIENCE_S = 120


class World:
    """A cluster and a ledger, until :meth:`close`. Call everything from the main thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = Ledger(folder / "books", flush=False)
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        self.start()

    def start(self) -> None:
        quick = {
            "health_check_initial_delay_ms": 0,
            "health_check_period_ms": 500,
            "health_check_failure_threshold": 8,
            "idle_worker_killing_time_threshold_ms": 600_000,  # to start one takes 0.6 s of a processor
        }
        room = {"include_dashboard": False, "object_store_memory": 80_000_000}
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": quick, **room})
        self.nodes = [self._node() for _ in range(NODES)]
        ray.init(self.cluster.address, log_to_driver=False, logging_level="FATAL")

    def _node(self) -> Any:
        return self.cluster.add_node(num_cpus=1, object_store_memory=80_000_000)

    def end(self) -> None:
        ray.shutdown()
        self.cluster.shutdown()

    def close(self) -> None:
        self.end()
        self.ledger.close()

    def kill_worker(self, chance: random.Random, wanted: str = "") -> None:
        """A process that runs tasks, or an actor."""
        found = [each for node in self.nodes for each in processes_of(node) if name_of(each).startswith(f"ray::{wanted}")]
        found = [each for each in found if not name_of(each).endswith("Agent")]  # with those dies their node
        busy = [each for each in found if "IDLE" not in name_of(each)] or found
        if busy:
            with contextlib.suppress(psutil.NoSuchProcess):
                chance.choice(busy).kill()

    def kill_node(self, chance: random.Random) -> None:
        """As if its plug had been pulled, and another in its place."""
        node = self.nodes.pop(chance.randrange(NODES))
        for each in reversed(processes_of(node)):  # workers first: none must outlive its node
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        self.cluster.remove_node(node, allow_graceful=False)
        self.nodes.append(self._node())


def processes_of(node: Any) -> list[psutil.Process]:
    """Of a node, with what they started."""
    found = []
    for infos in node.all_processes.values():
        for info in infos:
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(info.process.pid)
                found += [process, *process.children(recursive=True)]
    return found


def name_of(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error, IndexError):
        return str(process.cmdline()[0])
    return ""


def live(store: str, seed: int, name: str) -> Any:
    """Drive the workflow of a seed to its end."""
    with exoflow.Engine(store) as engine:
        return engine.run(drawn(seed).dag, name=name, mode="auto")


class Schedule:
    """What happens to the workflow of a seed."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.seed, self.name = world, seed, f"chaos-{seed}"
        self.chance = random.Random(f"schedule {seed}")
        self.workflow = drawn(seed)
        kills = self.chance.choices(FAULTS, WEIGHTS, k=self.chance.randint(1, 2))
        self.faults = [(fault, self.chance.uniform(0.0, 0.6)) for fault in kills]
        self.hits = 0  # faults that came before the end
        self.store = f"sqlite:{world.folder}/{self.name}/flow.db"

    def run(self) -> list[str]:
        """What was wrong."""
        elsewhere = any(fault in ("driver", "everything") for fault, _ in self.faults)
        try:
            result = self._in_lives() if elsewhere else self._here()
        except Exception as error:
            return [f"it did not succeed: {type(error).__name__}: {error} (cause: {error.__cause__!r:.500})"]
        book = self.world.ledger.book(self.name)
        found = book.violations(result)
        if book.counts() != self.workflow.effects:
            found.append(f"effects {book.counts()} stand, {self.workflow.effects} should")
        return found

    def _here(self) -> Any:
        with exoflow.Engine(self.store) as engine:
            future = engine.run_async(self.workflow.dag, name=self.name, mode="auto")
            for fault, delay_s in self.faults:
                time.sleep(delay_s)
                self.hits += not future.done()
                self._do(fault)
            return future.result(PATIENCE_S)

    def _in_lives(self) -> Any:
        command = [sys.executable, "-m", "tests.backends.ray.chaos", "--live", self.store, str(self.seed), self.name]
        for fault, delay_s in self.faults:
            with self._life(command) as life:
                assert life.stdout is not None
                life.stdout.readline()  # it is connected
                time.sleep(delay_s)
                self.hits += life.poll() is None
                if fault in ("driver", "everything"):
                    life.kill()
                self._do(fault)
                if fault not in ("driver", "everything"):
                    life.kill()  # later than that, and so in another moment
        with self._life(command) as life:
            told, error = life.communicate(timeout=PATIENCE_S)
        if life.returncode:
            raise RuntimeError(f"exit code {life.returncode}: {error[-2000:].decode()}")
        return pickle.loads(bytes.fromhex(told.split()[-1].decode()))

    @contextlib.contextmanager
    def _life(self, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
        environment = os.environ | {"RAY_ADDRESS": self.world.cluster.address}
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as life:
            try:
                yield life
            finally:
                life.send_signal(signal.SIGKILL)
                life.communicate()

    def _do(self, fault: str) -> None:
        if fault == "worker":
            self.world.kill_worker(self.chance)
        elif fault == "actor":
            self.world.kill_worker(self.chance, "Log")
        elif fault == "node":
            self.world.kill_node(self.chance)
        elif fault == "everything":
            self.world.end()
            self.world.start()

    def __str__(self) -> str:
        return f"seed {self.seed}: {', '.join(f'{fault} after {delay_s:.2f} s' for fault, delay_s in self.faults)}\n{self.workflow.story}"


def run_schedules(seeds: Sequence[int]) -> tuple[Counter[str], list[str]]:
    """How often each fault was injected, how often in all before the workflow had ended, and the stories of what went wrong. On a cluster
    of its own."""
    with tempfile.TemporaryDirectory(prefix="exoflow-chaos-", ignore_cleanup_errors=True) as folder:
        world = World(Path(folder))
        try:
            return _run_in(world, seeds)
        finally:
            world.close()


def _run_in(world: World, seeds: Sequence[int]) -> tuple[Counter[str], list[str]]:
    faults: Counter[str] = Counter()
    stories = []
    for number in seeds:
        schedule = Schedule(world, number)
        began = time.monotonic()
        wrong = schedule.run()
        faults.update(fault for fault, _ in schedule.faults)
        faults["before the end"] += schedule.hits
        if wrong:
            stories.append("\n".join([str(schedule), *wrong, world.ledger.book(schedule.name).story()]))
            print(stories[-1], flush=True)
        print(f"seed {number}: {'WRONG' if wrong else 'right'} in {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    return faults, stories


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--schedules", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="clusters at once")
    parser.add_argument("--record", action="store_true", help="append the numbers to docs/reliability/campaigns.jsonl")
    parser.add_argument("--live", nargs=3, metavar=("STORE", "SEED", "NAME"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.live:
        store, seed, name = options.live
        ray.init(os.environ["RAY_ADDRESS"], log_to_driver=False, logging_level="FATAL")
        print("connected", flush=True)
        print(pickle.dumps(live(store, int(seed), name)).hex(), flush=True)
        return 0
    began, start = now(), time.monotonic()
    faults, stories = Counter[str](), list[str]()
    shares = [range(options.seed + job, options.seed + options.schedules, options.jobs) for job in range(options.jobs)]
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        for some_faults, some_stories in pool.map(run_schedules, shares):
            faults += some_faults
            stories += some_stories
    print(f"{options.schedules} schedules, {dict(faults)}, {len(stories)} wrong")
    if options.record:
        append(
            ROOT / "docs/reliability/campaigns.jsonl",
            Campaign(
                kind="ray",
                command=f"python -m tests.backends.ray.chaos --schedules {options.schedules} --seed {options.seed} --jobs {options.jobs}",
                commit=commit_of(ROOT),
                began=began,
                seconds=round(time.monotonic() - start, 1),
                cores=os.cpu_count() or 1,
                first_seed=options.seed,
                last_seed=options.seed + options.schedules - 1,
                counts={"schedules": options.schedules},
                situations={f"killed: {name}": count for name, count in sorted(faults.items())},
                violations=len(stories),
                stories=stories[:5],
            ),
        )
    return 1 if stories else 0


if __name__ == "__main__":
    sys.exit(main())
