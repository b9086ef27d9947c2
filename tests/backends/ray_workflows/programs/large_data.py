"""Arrays and references to objects, in arguments and in outputs."""

import json

import numpy as np
import ray
from ray import workflow


def show(what, value):
    print(json.dumps([what, value]), flush=True)


@ray.remote
def make(megabytes):
    return np.ones((megabytes, 1024, 1024), dtype=np.uint8)


@ray.remote
def size(array):
    return int(array.sum())


@ray.remote
def kind(value):
    return type(value).__name__


@ray.remote
def kinds(values):
    return [type(each).__name__ for each in values]


@ray.remote
def fetch(values):
    return [int(np.sum(each)) for each in ray.get(values)]


@ray.remote
def put_one(value):
    return ray.put(value)


@ray.remote
def put_some(count):
    return {"refs": [ray.put(np.full(1000, number)) for number in range(count)]}


@ray.remote
def add_up(data):
    return int(sum(each.sum() for each in ray.get(data["refs"])))


@ray.remote
def beside(number):
    return number * 10


@ray.remote
def ephemeral(count):
    return [beside.remote(number) for number in range(count)]


@ray.remote
def gather(refs):
    return ray.get(refs)


@ray.remote
def change(array):
    try:
        array[0] = 9
    except ValueError:
        return "read-only"
    return "changed"


@ray.remote
def same(pair):
    return pair[0] == pair[1] if isinstance(pair[0], ray.ObjectRef) else pair[0] is pair[1]


if __name__ == "__main__":
    workflow.init()
    show("an array from task to task", workflow.run(size.bind(make.bind(8))))
    show("an array as an argument", workflow.run(size.bind(np.ones(2_000_000, dtype=np.uint8))))
    show("an array as the result", workflow.run(make.bind(4)).nbytes)
    ref = ray.put(np.arange(10))
    show("a reference as an argument", workflow.run(kind.bind(ref)))
    show("references in an argument", workflow.run(kinds.bind([ref, [ref]])))
    show("their values", workflow.run(fetch.bind([ref, ray.put(5)])))
    show("a reference as an output", workflow.run(kind.bind(put_one.bind(3))))
    result = workflow.run(put_one.bind(3), workflow_id="ref")
    show("a reference as the result", [type(result).__name__, ray.get(result) if isinstance(result, ray.ObjectRef) else result])
    result = workflow.get_output("ref")
    show("loaded later", [type(result).__name__, ray.get(result) if isinstance(result, ray.ObjectRef) else result])
    show("references in an output", workflow.run(add_up.bind(put_some.bind(4)), workflow_id="refs"))
    show("tasks started on the way", workflow.run(gather.bind(ephemeral.bind(4))))
    show("references in the result", [type(each).__name__ for each in workflow.run(ephemeral.bind(2))])
    node = make.bind(1)
    show("a node twice in a list", workflow.run(same.bind([node, node])))
    show("may inputs be changed", workflow.run(change.bind(make.bind(1))))
    show("may plain arguments be changed", workflow.run(change.bind(np.zeros(3))))
