"""How data moves along the edges of a workflow, from what is recorded of it alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

import exoflow
from exoflow import codec
from exoflow.client.movements import movements, recorded
from exoflow.define.plan import Call, plan_of
from exoflow.errors import WorkflowFailed
from exoflow.refs.values import ValueRef

SHOP = """
import exoflow

class Order:
    pass

ask = exoflow.http_function("http://127.0.0.1:9/none", retries=0, name="ask")

@exoflow.task(can_rollback=True, executor="process")
def weigh(order):
    return 3

@exoflow.task(can_rollback=True)
def parts(order):
    return glue.bind(weigh.bind(order), order)

@exoflow.task(can_rollback=True)
def glue(weight, order):
    return {"weight": weight, "ref": exoflow.ValueRef(weight)}

@exoflow.task(can_rollback=True, executor="process")
def look(made):
    return made["weight"]

if __name__ == "__main__":
    import shop
    with exoflow.Engine("store.db", processes=1) as engine:
        try:
            engine.run(shop.ask.bind(x=shop.look.bind(shop.parts.bind(shop.Order()))), name="w")
        except exoflow.WorkflowFailed:
            print("failed")
"""


@pytest.mark.slow  # starts an interpreter and a worker process
def test_none_of_the_users_code_is_needed(tmp_path):
    """The module of the tasks is gone, or not for us to import; and one task returned a DAG, whose last task's output is its own."""
    (tmp_path / "shop.py").write_text(SHOP, "utf-8")
    done = subprocess.run([sys.executable, "shop.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "failed\n", done.stderr
    with exoflow.Engine(tmp_path / "store.db") as engine:
        found = recorded(engine.store, engine.get_metadata("w"))
    assert "shop" not in sys.modules
    worker = "pickled, large arrays as shared memory; a Ref as itself if it can go, else its data"
    of = {(edge["up"], edge["down"]): (edge["from"], edge["to"], edge["how"], edge["refs"]) for edge in found}
    assert of == {
        ("parts", "parts/weigh"): ("here", "process", worker, []),
        ("parts", "parts/glue"): ("here", "here", "the object itself", []),
        ("parts/weigh", "parts/glue"): ("process", "here", worker, []),
        ("parts/glue", "look"): ("here", "process", worker, ["exoflow.refs.values:ValueRef"]),
        ("look", "ask"): ("process", "a function elsewhere", "as JSON; a BucketRef as its address", []),
    }


@exoflow.task(can_rollback=True)
def one():
    return ValueRef(1)


@exoflow.task(can_rollback=True)
def fails(_given):
    raise ValueError("no")


def test_what_is_recorded_says_what_the_dag_says():
    dag = fails.bind(one.bind())
    with exoflow.Engine("memory:") as engine:
        with pytest.raises(WorkflowFailed):
            engine.run(dag, name="w")
        found = recorded(engine.store, engine.get_metadata("w"))
    assert [{**edge, "refs": ["exoflow.refs.values:ValueRef"]} for edge in movements(plan_of(dag))] == found


def test_where_the_definition_cannot_be_read_the_ends_are_unknown(monkeypatch):
    with exoflow.Engine("memory:") as engine:
        with pytest.raises(WorkflowFailed):
            engine.run(fails.bind(one.bind()), name="w")
        monkeypatch.setattr(codec, "sketch", lambda _encoded: None)
        [edge] = recorded(engine.store, engine.get_metadata("w"))
    assert (edge["from"], edge["to"], edge["how"]) == ("unknown", "unknown", "not on record")


class Earlier:
    """Pickled as a call was that had one field less."""

    def __reduce__(self):
        return Call, ("m:f", (), {}, "ray", "", "", False, {})


def test_a_call_of_earlier_days_can_be_read():
    call = codec.sketch(codec.encode(Earlier()))
    assert call == Call("m:f", (), {}, "ray")
