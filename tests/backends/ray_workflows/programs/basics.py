"""Building DAGs and running them: values, nesting, inputs, running again under the same id."""

import json
import os
import time

import ray
from ray import workflow
from ray.dag import InputNode


def show(what, value):
    print(json.dumps([what, value]), flush=True)


def outcome(call):
    """The result of a call, or that it failed."""
    try:
        return call()
    except workflow.WorkflowExecutionError:
        return "WorkflowExecutionError"


def kind_of(call):
    try:
        call()
    except Exception as error:
        return [each.__name__ for each in (TypeError, ValueError, RuntimeError, KeyError, IndexError) if isinstance(error, each)]
    return "no error"


def note(name):
    with open(name, "a", encoding="utf-8") as file:
        file.write("x")


def count(name):
    return os.path.getsize(name) if os.path.exists(name) else 0


FOLDER = os.getcwd()


@ray.remote
def stock(item):
    note(f"{FOLDER}/stock")
    return {"bolts": 40, "nuts": 25}[item]


@ray.remote
def total(*amounts, bonus=0):
    return sum(amounts) + bonus


@ray.remote
def kinds(plain, in_list, in_dict):
    return [type(plain).__name__, type(in_list[0]).__name__, type(in_dict["deep"][0]).__name__, ray.get(in_list[0])]


@ray.remote
class Shelf:
    def size(self):
        return 3


@ray.remote
def price(amount, *, factor):
    return amount * factor


@ray.remote
def echo(value):
    return value


class Crate:
    def __init__(self, content):
        self.content = content


@ray.remote
def unpack(crate):
    inside = crate.content
    return ray.get(inside) if isinstance(inside, ray.ObjectRef) else inside


if __name__ == "__main__":
    workflow.init()
    bolts = stock.bind("bolts")
    show("one task", workflow.run(bolts))
    show("positional and keyword", workflow.run(total.bind(bolts, stock.bind("nuts"), 1, bonus=stock.bind("nuts"))))

    shared = stock.bind("nuts")
    before = count("stock")
    show("diamond", workflow.run(total.bind(shared, total.bind(shared, 1), shared)))
    show("a shared node runs once", count("stock") - before)
    show("what a task is given", workflow.run(kinds.bind(bolts, [shared], {"deep": (shared,)})))
    show("a node in an object", workflow.run(unpack.bind(Crate(echo.bind("inside")))))

    with InputNode() as order:
        dag = price.bind(order, factor=2)
    show("one input", outcome(lambda: workflow.run(dag, 21)))
    with InputNode() as order:
        dag = total.bind(order[0], order[1], bonus=order.extra)
    show("inputs by place and by name", workflow.run(dag, 1, 2, extra=30))
    show("a missing input", kind_of(lambda: workflow.run(dag, 1)))
    with InputNode() as order:
        dag = price.bind(echo.bind(order["amount"]), factor=order["factor"])
    show("inputs by key", workflow.run(dag, amount=4, factor=5))

    before = count("stock")
    show("named", workflow.run(stock.bind("bolts"), workflow_id="named"))
    show("the same id again", workflow.run(stock.bind("bolts"), workflow_id="named"))
    show("the same id, another DAG", workflow.run(echo.bind("another"), workflow_id="named"))
    show("ran once", count("stock") - before)

    show("not a DAG", kind_of(lambda: workflow.run(stock)))
    show("a plain value", kind_of(lambda: workflow.run(41)))
    show("an actor method", kind_of(lambda: workflow.run(Shelf.bind().size.bind())))
    show("an actor inside", kind_of(lambda: workflow.run(echo.bind(Shelf.bind().size.bind()))))
    show("two returns", kind_of(lambda: workflow.run(echo.options(num_returns=2).bind(1))))
    show("bad metadata", kind_of(lambda: workflow.run(echo.bind(1), metadata={"a": {1, 2}})))
    show("metadata that is no dict", kind_of(lambda: workflow.run(echo.bind(1), metadata=[1])))

    items = [1, 2]
    node = echo.bind(items)
    items.append(3)
    show("changed after bind", workflow.run(node))
    show("None", workflow.run(echo.bind(None)))
    ref = workflow.run_async(echo.bind("later"), workflow_id="later")
    show("a reference", type(ref).__name__)
    show("its value", ray.get(ref))
    show("status", workflow.get_status("later"))
    show("a closure", workflow.run((lambda n: ray.remote(lambda: n + 1))(41).bind()))
    started = time.time()
    show("a generated id works", workflow.run(echo.bind(5)) == 5 and time.time() - started < 60)
