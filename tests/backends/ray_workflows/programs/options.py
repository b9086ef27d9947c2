"""Options of tasks: ids, checkpoints, decorators."""

import json

import ray
from ray import workflow


def show(what, value):
    print(json.dumps([what, value]), flush=True)


def kind_of(call):
    try:
        return call()
    except Exception as error:
        names = (TypeError, ValueError, RuntimeError, KeyError)
        return ["raises", *(each.__name__ for each in names if isinstance(error, each))]


@ray.remote
def leaf(value):
    return value


@ray.remote
def join(*values):
    return "+".join(map(str, values))


@workflow.options(task_id="decorated")
@ray.remote
def decorated():
    return "d"


@workflow.options(catch_exceptions=True)
@ray.remote
def cautious():
    return 1


@ray.remote(**workflow.options(task_id="in_the_decorator"), num_cpus=0.5)
def in_the_decorator():
    return "i"


def local():
    @ray.remote
    def inner():
        return "local"

    return inner


if __name__ == "__main__":
    workflow.init()
    named = leaf.options(**workflow.options(task_id="first")).bind("a")
    workflow.run(join.bind(named, leaf.options(**workflow.options(task_id="second"), num_cpus=0.5).bind("b")), workflow_id="ids")
    show("whole", workflow.get_output("ids"))
    show("first", workflow.get_output("ids", task_id="first"))
    show("second", workflow.get_output("ids", task_id="second"))
    show("default id", kind_of(lambda: workflow.get_output("ids", task_id="__main__.join")))
    show("no such task", kind_of(lambda: workflow.get_output("ids", task_id="third")))
    show("no such workflow", kind_of(lambda: workflow.get_output("nobody")))

    workflow.run(join.bind(*[leaf.bind(number) for number in range(3)]), workflow_id="numbered")
    show("numbered", [workflow.get_output("numbered", task_id=f"__main__.leaf{end}") for end in ("", "_1", "_2")])

    again = leaf.options(**workflow.options(task_id="same"))
    workflow.run(join.bind(again.bind(1), again.bind(2)), workflow_id="same-ids")
    show("the same id twice", [workflow.get_output("same-ids", task_id=name) for name in ("same", "same_1")])

    show("decorator", workflow.run(join.bind(decorated.bind(), in_the_decorator.bind()), workflow_id="decorators"))
    show("its id", workflow.get_output("decorators", task_id="decorated"))
    show("its id, in ray.remote", workflow.get_output("decorators", task_id="in_the_decorator"))
    show("caught by the decorator", workflow.run(cautious.bind()))
    show("switched off", workflow.run(cautious.options(**workflow.options(catch_exceptions=False)).bind()))
    show("replaced options", workflow.run(cautious.options(**workflow.options(task_id="other")).bind()))
    show("a call beside workflows", ray.get(decorated.remote()))
    show("a call with options", ray.get(leaf.options(**workflow.options(task_id="x")).remote(3)))

    workflow.run(local().bind(), workflow_id="local")
    show("a local function", workflow.get_output("local", task_id="__main__.local.locals.inner"))

    unsaved = leaf.options(**workflow.options(task_id="unsaved", checkpoint=False))
    show("not saved", workflow.run(join.bind(unsaved.bind("u")), workflow_id="unsaved"))
    show("its output", kind_of(lambda: workflow.get_output("unsaved", task_id="unsaved")))
    show("the last one not saved", workflow.run(unsaved.bind("v"), workflow_id="unsaved-root"))

    show("unknown option", kind_of(lambda: workflow.options(colour="red")))
    show("metadata that is no dict", kind_of(lambda: workflow.options(metadata=3)))
    show("metadata that is not JSON", kind_of(lambda: workflow.options(metadata={"f": open})))
    show("options on a function", kind_of(lambda: workflow.options(task_id="x")(len)))
    show("odd ids", workflow.run(leaf.options(**workflow.options(task_id="step 1: größe/w")).bind(1), workflow_id="odd"))
    show("found by an odd id", kind_of(lambda: workflow.get_output("odd", task_id="step 1: größe/w")))
