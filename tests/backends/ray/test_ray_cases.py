"""The paper's recovery cases on a real Ray: the workflows of tests/crash, whose tasks all run on Ray's workers, killed by the ledger at the
very moment that a case is about. R1 and R8 are in test_ray_losses.py, where nodes and actors die.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray

import exoflow
from exoflow.backends.ray import objects
from exoflow.backends.ray.far_end import actor
from exoflow.testing import ledger
from exoflow.wiring import Parts, executor_for
from tests.backends.ray.asking import Pause, engine_on, kill_node, pauses
from tests.crash.test_recovery_cases import MOMENTS
from tests.crash.workflows import CASES
from tests.patience import until

pytestmark = pytest.mark.slow  # processes are started and killed

PATIENCE_S = 120


def on_ray(name, settings, inherit_fds):
    return executor_for("ray" if name == "thread" else name, settings, inherit_fds)


def live(folder, workflow, name, *traps):
    """A life of the driver. Gives the result."""
    case = CASES[workflow]
    case.prepare(Path(folder))
    ledger.enter(name, tuple(ledger.Trap(**{"life": 0, "pid": os.getpid(), "hit": 1} | trap) for trap in traps))
    with engine_on(folder, parts=Parts(executor_for=on_ray)) as engine:
        return engine.run_async(case.build(), *case.args(Path(folder)), name=name, **case.options).result(PATIENCE_S)


def judge(books, folder, workflow, name, result, kills):
    """What of exactly-once is not so."""
    case, book = CASES[workflow], books.book(name)
    found = [*book.violations(result), *case.judge(Path(folder), result, book)]
    if book.counts() != case.effects:
        found.append(f"effects {book.counts()} stand, {case.effects} should")
    assert not found, "\n".join([*found, book.story()])
    assert sum(entry.op == "killed" for entry in book.entries) == kills


def told(cluster, books, folder, workflow, *traps):
    """Workers are killed: nothing but the workflow goes on."""
    name = folder.name
    result = live(folder, workflow, name, *({"victim": "worker"} | trap for trap in traps))
    judge(books, folder, workflow, name, result, len(traps))


def told_in_two_lives(cluster, books, folder, workflow, trap):
    """The driver is killed, and another goes on. A worker of the first may act until Ray ends it."""
    name = folder.name
    first = run_life(cluster, folder, workflow, name, trap)
    assert first.returncode == -signal.SIGKILL, first.stderr
    second = run_life(cluster, folder, workflow, name)
    assert second.returncode == 0, second.stderr
    judge(books, folder, workflow, name, pickle.loads(bytes.fromhex(second.stdout.split()[-1])), 1)


def run_life(cluster, folder, *arguments):
    program = f"from test_ray_cases import live; print(__import__('pickle').dumps(live(*{(str(folder), *arguments)!r})).hex())"
    return in_another_driver(cluster, program)


def in_another_driver(cluster, program):
    environment = os.environ | {"RAY_ADDRESS": cluster.address, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("moment", MOMENTS)
def test_r2_a_transaction_is_killed(cluster, books, tmp_path, moment):
    """One order, one room less, no lock left, though a worker dies there twice."""
    told(cluster, books, tmp_path, "e2_transaction", MOMENTS[moment], MOMENTS[moment])


@pytest.mark.parametrize("moment", ["after the lock is written", "between the two writes of the commit"])
def test_r2_the_driver_is_killed(cluster, books, tmp_path, moment):
    told_in_two_lives(cluster, books, tmp_path, "e2_transaction", MOMENTS[moment])


@pytest.mark.parametrize("workflow", ["counter_example_other_consumer", "counter_example_closure"])
def test_r4_right_after_the_commit(cluster, books, tmp_path, workflow):
    told_in_two_lives(cluster, books, tmp_path, workflow, {"op": "apply", "what": "charge"})


@pytest.mark.parametrize("step", ["slow 0", "after 9"])
def test_r5_killed_in_the_same_rollback_three_times(cluster, books, tmp_path, step):
    in_the_rollback = {"what": step, "task": "book_slow"}
    told(cluster, books, tmp_path, "rollback_that_is_slow", {"op": "apply", "what": "slow"}, *[in_the_rollback] * 3)


@pytest.mark.parametrize("when", ["before", "after"])
def test_r6_the_driver_is_killed_while_an_undoable_task_runs(cluster, books, tmp_path, when):
    told_in_two_lives(cluster, books, tmp_path, "saga", {"op": "apply", "task": "book_2", "when": when})


# --- R3: the save never arrives --------------------------------------------------------------------------------------------------

INTERNAL = {"executor": "ray", "can_rollback": True}


def count(marks, what):
    with Path(marks, what).open("a") as file:
        file.write(".")


@exoflow.task(**INTERNAL, executor_options={"resources": {"far": 0.1}})
def draw_far(marks):
    count(marks, "draws")
    return np.random.default_rng().random(40_000)


@exoflow.task(**INTERNAL, deterministic=True, checkpoint=False, executor_options={"resources": {"far": 0.1}})
def first_of(array):
    return float(array[0])


@exoflow.task(**INTERNAL, deterministic=True, checkpoint=False)
def pass_on(marks, number):
    count(marks, "passed on")
    return number


@exoflow.task(executor="ray")
def send(marks, number):
    with Path(marks, "sent").open("a") as file:
        file.write(f"{number}\n")
    return number


def test_r3_the_object_is_lost_before_it_is_saved(cluster, tmp_path, monkeypatch):
    """D1: all that is in between has run, and the node with the object dies while its save has not begun. The commit had better wait."""
    pause = pauses["save"] = Pause()
    real = objects.OBJECTS.checkpoint

    def checkpoint(ref, version):
        return objects.beside(lambda: (pause.over.is_set() or pause(), real(ref, version).result())[-1], "slow-save")

    monkeypatch.setattr(objects.OBJECTS, "checkpoint", checkpoint)
    node = cluster.add_node(num_cpus=1, resources={"far": 1}, object_store_memory=80_000_000)
    with engine_on(tmp_path) as engine:
        dag = send.bind(tmp_path, pass_on.bind(tmp_path, first_of.bind(draw_far.bind(tmp_path))))
        future = engine.run_async(dag)
        assert pause.reached.wait(60)
        until(Path(tmp_path, "passed on").exists)
        kill_node(cluster, node)
        node = cluster.add_node(num_cpus=1, resources={"far": 1}, object_store_memory=80_000_000)
        assert not Path(tmp_path, "sent").exists()
        pause.over.set()
        result = future.result(PATIENCE_S)
    cluster.remove_node(node)
    assert Path(tmp_path, "sent").read_text() == f"{result}\n"
    assert Path(tmp_path, "draws").read_text() == ".."


# --- R7: an attempt that does not know that it is over ---------------------------------------------------------------------------


@ray.remote(num_cpus=0)
class Teller:
    """Outlives the driver, and so does what it is doing."""


@exoflow.task(executor="ray", executor_options={"actor": "teller", "namespace": "bank"})
def transfer(marks):
    count(marks, "began")
    assert actor()
    attempt = len(Path(marks, "began").read_text())
    if attempt == 1:
        until(Path(marks, "second life").exists)
    return attempt, ledger.apply("transfer", (), once=True)


def live_with_a_teller(folder, name):
    with engine_on(folder) as engine:
        print(*engine.run(transfer.bind(folder), name=name))


def test_r7_an_attempt_goes_on_after_its_driver(cluster, books, tmp_path):
    """It acts when the next life waits behind it already, and what it returns reaches nobody. With one key, the effect stands once."""
    teller = Teller.options(name="teller", namespace="bank", lifetime="detached").remote()
    program = f"from test_ray_cases import live_with_a_teller; live_with_a_teller({str(tmp_path)!r}, {tmp_path.name!r})"
    environment = os.environ | {"RAY_ADDRESS": cluster.address, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    with subprocess.Popen([sys.executable, "-c", program], env=environment) as first:
        until(Path(tmp_path, "began").exists)
        first.kill()
    second = in_another_driver(cluster, f"open({str(tmp_path / 'second life')!r}, 'w'); {program}")
    ray.kill(teller)
    assert second.stdout.split() == ["2", "False"], second.stderr
    book = books.book(tmp_path.name)
    assert book.counts() == {"transfer": 1}
    assert not book.violations()
