"""Dynamic workflows: tasks that return DAGs."""

import json

import ray
from ray import workflow


def show(what, value):
    print(json.dumps([what, value]), flush=True)


def kind_of(call):
    try:
        return call()
    except Exception as error:
        return ["raises", *(each.__name__ for each in (TypeError, ValueError, RuntimeError) if isinstance(error, each))]


@ray.remote
def add(left, right):
    return left + right


@ray.remote
def times(left, right):
    return left * right


@ray.remote
def factorial(n):
    if n <= 1:
        return 1
    return workflow.continuation(times.bind(n, factorial.bind(n - 1)))


@ray.remote
def fibonacci(n):
    if n < 2:
        return n
    return workflow.continuation(add.bind(fibonacci.bind(n - 1), fibonacci.bind(n - 2)))


@ray.remote
def countdown(n, trail):
    if n == 0:
        return trail
    return workflow.continuation(countdown.bind(n - 1, [*trail, n]))


@ray.remote
def plus_one(value):
    return value + 1


@ray.remote
def outer(value):
    return workflow.continuation(middle.options(**workflow.options(task_id="middle")).bind(value))


@ray.remote
def middle(value):
    return workflow.continuation(plus_one.options(**workflow.options(task_id="inner")).bind(value))


@ray.remote
def bare(value):
    return plus_one.bind(value)


@ray.remote
def in_a_list(value):
    return len([plus_one.bind(value)])


@ray.remote
def either(heads):
    return workflow.continuation(add.bind("he", "ads") if heads else add.bind("ta", "ils"))


@ray.remote
def pass_on(value):
    big = ray.put(value)
    return workflow.continuation(plus_one.bind(big))


if __name__ == "__main__":
    workflow.init()
    show("factorial", workflow.run(factorial.bind(6)))
    show("fibonacci", workflow.run(fibonacci.bind(5)))
    show("a loop", workflow.run(countdown.bind(8, [])))
    show("nested", workflow.run(outer.options(**workflow.options(task_id="outer")).bind(1), workflow_id="nested"))
    show("by each id", [workflow.get_output("nested", task_id=name) for name in ("outer", "middle", "inner")])
    show("without continuation()", workflow.run(bare.bind(1)))
    show("in the middle of a DAG", workflow.run(add.bind(factorial.bind(4), outer.bind(10))))
    show("branch", [workflow.run(either.bind(side)) for side in (True, False)])
    show("nodes that are not returned", workflow.run(in_a_list.bind(1)))
    show("with a reference made on the way", workflow.run(pass_on.bind(1)))
    show("outside a workflow", workflow.continuation(plus_one.bind(1)))
    show("not a DAG", kind_of(lambda: workflow.continuation(1)))
    workflow.run(factorial.bind(3), workflow_id="factorial")
    ids = ("__main__.factorial", "__main__.factorial_1", "__main__.factorial_2", "__main__.times", "__main__.times_1")
    show("ids in sub-workflows", [kind_of(lambda name=name: workflow.get_output("factorial", task_id=name)) for name in ids])
