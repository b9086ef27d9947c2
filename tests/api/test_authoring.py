"""How a user writes workflows: what may be passed to tasks, in what order they run, what they are called."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import threading
from typing import NamedTuple

import pytest

import exoflow
from exoflow import InputNode, task, workflow
from exoflow.errors import (
    CycleError,
    DuplicateRegistrationError,
    DuplicateTaskNameError,
    InvalidOptionError,
    RemoteTaskError,
    SignatureError,
    TaskFailed,
    TaskTimeoutError,
    UnsafeWorkflowError,
    WrongContextError,
)
from tests.api.scene import ROOT, run_python


@task
def add(a, b=10, *, c=0):
    return a + b + c


@task
def one():
    return 1


@task
def two():
    return 2


@task
def same(value):
    return value


@task
def note(folder, name):
    """Leaves a mark in order of execution."""
    with open(f"{folder}/order", "a") as file:
        file.write(name + "\n")
    return name


@task
async def later(value):
    await asyncio.sleep(0)
    return value, threading.current_thread().name


@task(executor="process")
def elsewhere(value):
    return value, os.getpid()


@dataclasses.dataclass(frozen=True)
class Order:
    item: object
    count: object = 1


class Pair(NamedTuple):
    left: object
    right: object


# --- what may be an argument -------------------------------------------------------------------------------------------------


def test_nodes_are_found_wherever_they_are_in_arguments(engine):
    """A node deep in lists, tuples, named tuples, dicts and dataclasses is replaced by its output, and the containers keep their types."""
    argument = {"a": [one.bind(), (two.bind(), 3)], "b": Pair(one.bind(), [two.bind()]), "c": Order(one.bind(), {"n": two.bind()}), 4: None}
    got = engine.run(same.bind(argument))
    assert got == {"a": [1, (2, 3)], "b": Pair(1, [2]), "c": Order(1, {"n": 2}), 4: None}
    assert type(got["b"]) is Pair


def test_nodes_are_found_in_keyword_arguments(engine):
    assert engine.run(add.bind(one.bind(), b=two.bind(), c=5)) == 8


def test_a_node_given_twice_runs_once(engine):
    node = one.bind()
    assert engine.run(add.bind(node, node), name="twice") == 2
    assert [t.task for t in engine.get_metadata("twice").tasks] == ["one", "add"]


def test_what_holds_no_node_is_handed_over_as_it_is(memory):
    """Arguments are not copied on their way to a task of the same process."""
    values = [object.__new__(Order), [1, 2], {"k": (1,)}]
    object.__setattr__(values[0], "item", 1)
    assert memory.run(is_same.bind(values, id(values)))


@task
def is_same(value, identity):
    return id(value) == identity


def test_a_dataclass_that_computes_a_field_may_hold_nodes(memory):
    got = memory.run(same.bind(Area(two.bind())))
    assert got.side == 2
    assert got.size == 4


@dataclasses.dataclass
class Area:
    side: object
    size: object = dataclasses.field(init=False, default=None)

    def __post_init__(self):
        self.size = self.side * self.side if isinstance(self.side, int) else None


def test_the_outputs_of_tasks_are_not_known_while_the_dag_is_built():
    """if node:, for x in node, node[0], len(node), node() are refused with what to do instead."""
    node = one.bind()
    for use in (bool, iter, len, int, float, lambda n: n[0], lambda n: n(), lambda n: 1 in n):
        with pytest.raises(WrongContextError, match="'one' is not known while the DAG is being built; pass the node to a task"):
            use(node)


# --- order without data ------------------------------------------------------------------------------------------------------


def test_order_without_data(engine, tmp_path):
    """a >> b, b << a and [a, b] >> c: c runs after a and b have finished, though it reads nothing of them."""
    a, b, c, d = (note.options(name=name).bind(str(tmp_path), name) for name in "abcd")
    assert (a >> b) is b
    assert (c << b) is c
    assert ([c, a] >> d) is d
    engine.run(d)
    assert (tmp_path / "order").read_text().split() == ["a", "b", "c", "d"]


def test_a_task_may_both_read_and_follow_another(engine):
    first = one.bind()
    second = add.bind(first)
    _ = first >> second
    assert engine.run(second) == 11


def test_order_is_for_nodes_only():
    for make in (lambda: one.bind() >> 3, lambda: 3 >> one.bind(), lambda: one.bind() << "x", lambda: [one.bind(), 3] >> two.bind()):
        with pytest.raises(TypeError):
            make()


def test_a_circle_is_shown(memory):
    a, b, c = (same.options(name=name).bind(0) for name in "abc")
    _ = a >> b >> c >> a
    with pytest.raises(CycleError, match=r"a -> b -> c -> a|b -> c -> a -> b|c -> a -> b -> c"):
        memory.run(a)


# --- inputs ------------------------------------------------------------------------------------------------------------------


def test_inputs_by_position_keyword_and_attribute(engine):
    with InputNode() as inp:
        dag = same.bind([inp[0], inp["x"], inp.y, {"last": inp[-1]}])
    assert engine.run(dag, 1, 2, x=3, y=4) == [1, 3, 4, {"last": 2}]


def test_the_only_input(engine):
    assert engine.run(add.bind(InputNode(), 1), 41) == 42


def test_a_dag_can_be_run_again_with_other_inputs(engine):
    dag = add.bind(InputNode(), 1)
    assert [engine.run(dag, n) for n in (1, 2)] == [2, 3]


@pytest.mark.parametrize(
    ("make", "args", "kwargs", "text"),
    [
        (lambda inp: inp[1], (1,), {}, r"the DAG uses InputNode\(\)\[1\], but run\(\) was given 1 positional"),
        (lambda inp: inp.x, (), {"y": 1}, r"the DAG uses InputNode\(\)\['x'\], but run\(\) was given y; use"),
        (lambda inp: inp, (1, 2), {}, r"use InputNode\(\) alone only for a single argument"),
        (lambda inp: inp[0], (1, 2), {}, "argument 1"),
        (lambda inp: inp.x, (), {"x": 1, "xx": 2}, "'xx'"),
        (lambda inp: 5, (1,), {}, "argument 0"),
    ],
)
def test_inputs_that_do_not_fit(memory, make, args, kwargs, text):
    """Missing, unknown and superfluous inputs are refused before anything is written."""
    with pytest.raises(SignatureError, match=text):
        memory.run(same.bind(make(InputNode())), *args, **kwargs)
    assert memory.list_all() == []


def test_an_input_is_taken_apart_in_a_task():
    with pytest.raises(SignatureError, match="takes one index or keyword"):
        _ = InputNode()[0]["x"]
    with pytest.raises(WrongContextError):
        list(InputNode())


def test_a_node_is_not_an_input(memory):
    """run(dag, node): a node is part of a DAG, its output is not known when the inputs are put in."""
    with pytest.raises(exoflow.ExoflowError, match="one"):
        memory.run(same.bind(InputNode()), one.bind())
    assert memory.list_all() == []


# --- @workflow ---------------------------------------------------------------------------------------------------------------


@workflow
def order_of(count, *, extra=None):
    """Ordinary-looking code: calls of tasks make nodes."""
    price = add(one(), two())
    prices = [add(price, n) for n in range(count)]
    return {"prices": prices, "extra": extra}


def test_a_workflow_function_builds_a_dag(engine):
    assert engine.run(order_of, 3, extra="x") == {"prices": [3, 4, 5], "extra": "x"}
    assert engine.run(order_of, 0) == {"prices": [], "extra": None}


def test_a_workflow_function_without_an_engine_is_an_ordinary_function():
    assert order_of(2) == {"prices": [3, 4], "extra": None}
    assert order_of.__doc__.startswith("Ordinary")


@workflow
def outer(n):
    return add(order_of_first(n), inner_total(n))


@workflow
def inner_total(n):
    return add(n, n)


def order_of_first(n):
    """A plain function that calls a task: part of the DAG too."""
    return add(n, 100)


def test_workflow_functions_may_call_each_other(engine):
    assert engine.run(outer, 1) == 103


def test_a_workflow_function_may_return_a_plain_value(engine):
    @workflow
    def nothing():
        return 7

    assert engine.run(nothing) == 7


def test_a_workflow_function_is_called_with_its_signature():
    with pytest.raises(SignatureError, match=r"workflow 'order_of': missing a required argument: 'count'"):
        order_of.bind()
    with pytest.raises(SignatureError, match="order_of"):
        order_of.bind(1, colour="red")


def test_what_a_workflow_function_raises_comes_out_unchanged(memory):
    @workflow
    def broken():
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        memory.run(broken)
    assert one() == 1  # and nothing is being built any more


def test_only_functions_are_workflows():
    with pytest.raises(InvalidOptionError, match="is for functions, got 3"):
        workflow(3)
    with pytest.raises(InvalidOptionError, match="async"):

        @workflow
        async def coroutine():
            return one()


# --- a task that is run by itself --------------------------------------------------------------------------------------------


def test_run_takes_a_task_with_its_arguments(engine):
    assert engine.run(add, 1, 2) == 3
    assert engine.run(add, 1, b=5, c=6) == 12


# --- fan-out over lists known at run time ------------------------------------------------------------------------------------


@task(deterministic=True)
def up_to(n):
    return list(range(n))


@task(deterministic=True)
def square(n, plus=0):
    return n * n + plus


@task(executor="process")
def square_elsewhere(n):
    return n * n


def test_map_over_a_list_that_a_task_makes(engine):
    """One task for each item; the outputs come in the order of the items."""
    assert engine.run(square.map(up_to.bind(5), plus=1), name="m") == [1, 2, 5, 10, 17]
    names = [t.task for t in engine.get_metadata("m").tasks if "/square" in t.task]
    assert len(names) == 5


def test_map_over_nothing(engine):
    assert engine.run(square.map(up_to.bind(0))) == []


def test_map_over_one_over_many_and_over_a_plain_list(engine):
    assert engine.run(square.map(up_to.bind(1))) == [0]
    assert engine.run(square.map([1, 2, 3])) == [1, 4, 9]
    assert engine.run(square.map(up_to.bind(200))) == [n * n for n in range(200)]


def test_map_of_nodes_and_map_of_a_map(engine):
    assert engine.run(square.map([one.bind(), two.bind()])) == [1, 4]
    assert engine.run(square.map(square.map(up_to.bind(3)))) == [0, 1, 16]


def test_map_with_a_node_as_further_argument(engine):
    assert engine.run(square.map(up_to.bind(3), two.bind())) == [2, 3, 6]


def test_map_with_other_options(engine):
    flaky = square.options(name="sq", retries=2)
    assert engine.run(flaky.map(up_to.bind(2)), name="o") == [0, 1]
    assert {t.task for t in engine.get_metadata("o").tasks} >= {"up_to", "sq"}


def test_map_inside_a_workflow_function(engine):
    @workflow
    def total(n):
        return sum_of(square.map(up_to(n)))

    assert engine.run(total, 4) == 14


@task
def sum_of(numbers):
    return sum(numbers)


def test_map_over_what_is_no_list_fails_like_python_does(engine):
    with pytest.raises(TaskFailed, match=r"TypeError.*not iterable"):
        engine.run(square.map(one.bind()))


@pytest.mark.slow
def test_map_on_processes(engine):
    """Starts worker processes."""
    assert engine.run(square_elsewhere.map(up_to.bind(4))) == [0, 1, 4, 9]


def test_map_checks_the_signature_when_it_is_written():
    with pytest.raises(SignatureError, match="square"):
        square.map(up_to.bind(3), colour="red")


# --- sub-workflows -----------------------------------------------------------------------------------------------------------


@task
def factorial(n, product=1):
    return product if n <= 1 else factorial.bind(n - 1, product * n)


@task
def fibonacci(n):
    return n if n < 2 else add.bind(fibonacci.bind(n - 1), fibonacci.bind(n - 2))


@task
def several(kind):
    nodes = {"list": [one.bind(), 5, two.bind()], "tuple": (one.bind(), two.bind()), "dict": {"a": one.bind(), "b": 6}}
    return nodes[kind]


@task
def nothing_yet():
    return same.bind(same.bind(one.bind()))


@task(executor="process")
def elsewhere_dag(n):
    return add.bind(elsewhere_dag.bind(n - 1), 1) if n else os.getpid()


@task
async def async_dag(n):
    return add.bind(n, two.bind())


def test_a_task_may_return_a_dag(engine):
    assert engine.run(nothing_yet.bind()) == 1
    assert engine.run(add.bind(nothing_yet.bind(), async_dag.bind(5))) == 8


def test_recursion(engine):
    assert engine.run(factorial.bind(10)) == 3628800
    assert engine.run(fibonacci.bind(7)) == 13


def test_a_loop_of_hundreds_of_turns(memory):
    """Tail recursion: no turn is a level deeper than the one before."""
    assert memory.run(count_down.bind(500), name="loop") == "done"
    assert max(len(t.task) for t in memory.get_metadata("loop").tasks) < 40


@task(deterministic=True)
def count_down(n):
    return count_down.bind(n - 1) if n else "done"


def test_a_task_may_return_a_list_tuple_or_dict_of_nodes(engine):
    assert engine.run(several.bind("list")) == [1, 5, 2]
    assert engine.run(several.bind("tuple")) == (1, 2)
    assert engine.run(several.bind("dict")) == {"a": 1, "b": 6}


def test_a_dag_hidden_deeper_in_a_result_is_refused_with_a_hint(engine):
    with pytest.raises(TaskFailed, match="directly inside a list, tuple or dict"):
        engine.run(hidden.bind())


@task
def hidden():
    return {"deep": [[one.bind()]]}


@pytest.mark.slow
def test_sub_workflows_returned_from_a_process(engine):
    """Starts worker processes; a DAG made in a worker goes on in the engine, recursion included."""
    assert engine.run(elsewhere_dag.bind(2)) not in (os.getpid(), os.getpid() + 2)


def test_a_workflow_function_may_be_returned_from_a_task(engine):
    @task
    def chooses(n):
        return inner_total.bind(n)

    with exoflow.Engine("memory:") as memory:
        assert memory.run(chooses.bind(4)) == 8


def test_a_sub_workflow_that_could_break_exactly_once_is_refused_when_it_appears(engine):
    """The task that returned it fails; nothing of the sub-workflow ran."""
    charged.clear()
    with pytest.raises(TaskFailed, match="/charge' commits, but what it depends on could change"):
        engine.run(unsafe_growth.bind())
    assert charged == []


charged: list[int] = []


@task(checkpoint=False, can_rollback=True)
def draw():
    return 4


@task
def charge(amount):
    charged.append(amount)
    return amount


@task
def unsafe_growth():
    return charge.bind(draw.bind())


def test_auto_mode_repairs_a_sub_workflow_too(engine):
    charged.clear()
    assert engine.run_async(unsafe_growth.bind(), mode="auto").result() == 4
    assert charged == [4]
    charged.clear()


# --- where tasks run ---------------------------------------------------------------------------------------------------------


def test_async_tasks_run_on_one_loop(engine):
    first, second = engine.run(same.bind([later.bind(1), later.bind(2)]))
    assert (first[0], second[0]) == (1, 2)
    assert first[1] == second[1] == "exoflow-loop"


@pytest.mark.slow
def test_process_tasks_run_elsewhere(engine):
    """Starts a worker process."""
    value, pid = engine.run(elsewhere.bind({"k": [1]}))
    assert value == {"k": [1]}
    assert pid != os.getpid()


def test_sync_tasks_run_in_threads(engine):
    assert engine.run(thread_name.bind()).startswith("exoflow-thread")
    assert engine.run(thread_name.options(executor="inline").bind())


@task
def thread_name():
    return threading.current_thread().name


def test_an_executor_that_does_not_exist_is_refused_before_anything_is_written(engine):
    with pytest.raises(InvalidOptionError, match="there is no executor 'spark'"):
        engine.run(one.options(executor="spark").bind(), name="x")
    assert engine.list_all() == []


def test_an_executor_that_does_not_exist_in_a_sub_workflow_fails_its_task(engine):
    """The workflow ends; it does not hang half-way."""
    with pytest.raises(TaskFailed, match="there is no executor 'spark'"):
        engine.run(wrong_place.bind(), name="x")
    assert engine.get_status("x") == "FAILED"


@task
def wrong_place():
    return one.options(executor="spark").bind()


def test_only_async_tasks_run_on_the_loop():
    with pytest.raises(InvalidOptionError, match="executor='loop' is for 'async def'"):
        one.options(executor="loop")


# --- tasks are functions -----------------------------------------------------------------------------------------------------


def test_a_task_stays_callable():
    assert add(1) == 11
    assert add(1, 2, c=3) == 6
    assert asyncio.run(later("x"))[0] == "x"
    assert note.__doc__.startswith("Leaves a mark")
    assert add.__name__ == "add"


def test_a_task_in_a_class_is_not_a_method(engine):
    class Shop:
        @task
        def price(item):  # noqa: N805 - not a method
            return len(item)

    assert Shop.price("abc") == 3
    assert Shop().price("abc") == 3


def test_signatures_are_checked_at_bind():
    for make, text in (
        (add.bind, "task 'add': missing a required argument: 'a'"),
        (lambda: add.bind(1, 2, 3), "task 'add': too many positional arguments"),
        (lambda: add.bind(1, d=2), "task 'add': got an unexpected keyword argument 'd'"),
        (lambda: add.bind(1, a=2), "task 'add': multiple values for argument 'a'"),
    ):
        with pytest.raises(SignatureError, match=text):
            make()


def test_partial_functions_and_callable_objects_are_told_apart(memory):
    """Two of them have no name of their own; each runs what it is."""
    import functools

    plus_one, plus_two = (task(functools.partial(add.function, n)) for n in (1, 2))
    assert memory.run(same.bind([plus_one.bind(10), plus_two.bind(10)])) == [11, 12]

    class Times:
        def __init__(self, factor):
            self.factor = factor

        def __call__(self, n):
            return self.factor * n

    double, triple = task(Times(2)), task(Times(3))
    assert memory.run(same.bind([double.bind(5), triple.bind(5)])) == [10, 15]


def test_two_functions_of_one_name_are_not_mixed_up(memory):
    """The name under which the first was registered means the second now: running the first would run the wrong code."""
    namespace: dict[str, object] = {"task": task, "__name__": "made_up"}
    exec("@task\ndef f(n=1): return n", namespace)  # as a cell of a notebook would
    first = namespace["f"]
    exec("@task\ndef f(n=2): return n", namespace)
    second = namespace["f"]
    assert memory.run(second.bind()) == 2
    with pytest.raises(DuplicateRegistrationError, match="made_up:f"):
        memory.run(first.bind())


def test_the_same_function_defined_again_is_the_same(memory):
    """A notebook cell that is run twice, a module that is reloaded."""
    namespace: dict[str, object] = {"task": task, "__name__": "made_up_too"}
    code = compile("@task\ndef f(n=1): return n", "<cell>", "exec")
    exec(code, namespace)
    first = namespace["f"]
    exec(code, namespace)
    assert memory.run(first.bind()) == 1


def test_tasks_of_a_store_that_lives_on_must_be_found_again(sqlite):
    from exoflow.errors import UnresumableTaskError

    nested = task(lambda: 1)
    with pytest.raises(UnresumableTaskError, match=r"task '.*<lambda>' at .*test_authoring.py:\d+ has no importable name"):
        sqlite.run(nested.bind())
    with pytest.raises(UnresumableTaskError, match="<lambda>"):
        sqlite.run(task(lambda n: n).map([1]))
    with pytest.raises(TaskFailed, match="<lambda>"):
        sqlite.run(grows_nested.bind(), name="grown")
    assert [head.workflow_id for head in sqlite.list_all()] == ["grown"]


@task
def grows_nested():
    return task(lambda: 1).bind()


def test_nested_tasks_work_in_memory(memory):
    @task
    def half(n):
        return n / 2

    assert memory.run(half.map(up_to.bind(3))) == [0, 0.5, 1]


# --- names -------------------------------------------------------------------------------------------------------------------


def names_of(engine, workflow_id):
    return [t.task for t in engine.get_metadata(workflow_id).tasks]


def test_automatic_names_count(engine):
    engine.run(same.bind([one.bind(), one.bind(), two.bind(), one.bind()]), name="w")
    assert sorted(names_of(engine, "w")) == ["one", "one_2", "one_3", "same", "two"]


def test_explicit_names_stand_and_automatic_ones_give_way(engine):
    engine.run(same.bind([one.bind(), two.options(name="one").bind()]), name="w")
    assert sorted(names_of(engine, "w")) == ["one", "one_2", "same"]
    assert engine.get_output("w", task="one") == 2


def test_one_explicit_name_for_two_tasks_is_refused(memory):
    with pytest.raises(DuplicateTaskNameError, match=r"two tasks are named 'x' \(.*test_authoring.py:\d+ and .*test_authoring.py:\d+\)"):
        memory.run(same.bind([one.options(name="x").bind(), two.options(name="x").bind()]))


def test_one_node_used_twice_under_an_explicit_name_is_one_task(memory):
    node = one.options(name="x").bind()
    assert memory.run(same.bind([node, node])) == [1, 1]


STABLE = """
import dataclasses, json
import exoflow
from exoflow import codec
from exoflow.define.plan import encode_plan, make_plan

@dataclasses.dataclass
class Basket:
    items: object
    tags: frozenset

@exoflow.task
def fetch(url, *, tags=frozenset()): ...

@exoflow.task(retries=2, retry_on=(ValueError, KeyError))
def join(parts, table=None): ...

@exoflow.workflow
def everything(names):
    parts = [fetch(name, tags={"x" + name, "y", "z"}) for name in names]
    return join(parts, Basket([parts[0], fetch.map(parts)], frozenset(names)))

plan = make_plan(everything.bind(["a", "b", "c"]))
print(json.dumps([list(plan.calls), plan.meaning(), sorted(plan.code.values())]))
other = make_plan(join.bind([fetch.bind("a"), fetch.bind("b")]))
print(codec.digest(codec.frame(encode_plan(other))).hex())
"""


@pytest.mark.slow
def test_names_are_the_same_in_every_process():
    """Three processes with different hash seeds give the same ids, the same fingerprint of the plan, and the same bytes of it."""
    outputs = {run_python(STABLE, env={"PYTHONHASHSEED": seed}) for seed in ("0", "1", "4711")}
    assert len(outputs) == 1


# --- options -----------------------------------------------------------------------------------------------------------------


def test_options_make_another_task_and_leave_the_first_alone():
    changed = one.options(retries=3, name="uno")
    assert (one.task_options.retries, changed.task_options.retries) == (0, 3)
    assert changed.options(retries=4).task_options.name == "uno"
    assert changed() == 1


def test_a_task_is_not_decorated_twice():
    with pytest.raises(InvalidOptionError, match="'one' is a task already; use "):
        task(one)


# --- exceptions as values, retries, time -------------------------------------------------------------------------------------


class Weather(Exception):
    pass


attempts: list[int] = []


@pytest.fixture(autouse=True)
def _count_anew():
    attempts.clear()


@task
def fails_until(n, error=Weather):
    attempts.append(1)
    if len(attempts) < n:
        raise error(f"attempt {len(attempts)}")
    return len(attempts)


def test_catch_exceptions_gives_the_value_or_the_error(engine):
    caught = fails_until.options(catch_exceptions=True)
    value, error = engine.run(caught.bind(3), name="bad")
    assert value is None
    assert isinstance(error, Weather)
    assert str(error) == "attempt 1"
    assert engine.run(caught.bind(2), name="good") == (2, None)
    assert engine.get_output("bad", task="fails_until")[0] is None


def test_who_reads_a_caught_failure_gets_the_pair(engine):
    @task
    def says(pair):
        return f"{pair[0]} {type(pair[1]).__name__}"

    with exoflow.Engine("memory:") as memory:
        assert memory.run(says.bind(fails_until.options(catch_exceptions=True).bind(9))) == "None Weather"


def test_retries_until_it_works(engine):
    assert engine.run(fails_until.options(retries=2, backoff=0).bind(3), name="r") == 3
    report = {t.task: t for t in engine.get_metadata("r").tasks}["fails_until"]
    assert report.failures == 2


def test_retries_run_out(engine):
    with pytest.raises(TaskFailed, match=r"task 'fails_until' \(attempt 3\) of workflow 'r' failed: Weather: attempt 3") as caught:
        engine.run(fails_until.options(retries=2, backoff=0).bind(9), name="r")
    assert isinstance(caught.value.__cause__, Weather)
    assert len(attempts) == 3


def test_only_the_named_exceptions_are_retried(engine):
    with pytest.raises(TaskFailed):
        engine.run(fails_until.options(retries=5, backoff=0, retry_on=KeyError).bind(9))
    assert len(attempts) == 1
    attempts.clear()
    assert engine.run(fails_until.options(retries=5, backoff=0, retry_on=(KeyError, Exception)).bind(3)) == 3, "a base class counts"


def test_an_exception_of_the_user_that_is_called_like_one_of_ours_is_retried(memory):
    """Whether a failure is final goes by the class, not by what it is called."""
    assert memory.run(fails_until.options(retries=3, backoff=0).bind(3, SignatureError_)) == 3


SignatureError_ = type("SignatureError", (Exception,), {"__module__": "billing"})


def test_waits_grow_between_attempts(clock):
    """1 s, 2 s, 4 s, then no longer than backoff_max; jitter takes away up to half."""
    flaky = fails_until.options(retries=4, backoff=1, backoff_factor=2, backoff_max=5, jitter=0)
    with exoflow.Engine("memory:", clock=clock) as engine:
        future = engine.run_async(flaky.bind(5))
        assert [clock.fire_next() for _ in range(4)] == [1, 2, 4, 5]
        assert future.result(30) == 5
        attempts.clear()
        future = engine.run_async(flaky.options(jitter=0.5).bind(2))
        assert clock.fire_next() == 0.75  # this clock's chance is 0.5
        assert future.result(30) == 2


gates: dict[str, threading.Event] = {}


@task(can_rollback=True)
async def waits_async():
    await asyncio.Event().wait()


@task(can_rollback=True)
def waits_in_thread(name):
    gates[name].wait(30)
    return "late"


@task(can_rollback=True, executor="process")
def waits_in_process():
    import select

    select.select([], [], [])


@pytest.mark.parametrize("kind", ["async", "thread", pytest.param("process", marks=pytest.mark.slow)])
def test_an_attempt_that_takes_too_long(clock, any_url, kind):
    """It fails with TaskTimeoutError: a coroutine is cancelled, a process killed, of a thread the late result is refused."""
    gates["t"] = threading.Event()
    node = {
        "async": waits_async.options(timeout=7).bind(),
        "thread": waits_in_thread.options(timeout=7).bind("t"),
        "process": waits_in_process.options(timeout=7).bind(),
    }[kind]
    with exoflow.Engine(any_url, clock=clock) as engine:
        future = engine.run_async(node, name="slow")
        assert clock.fire_next(7) == 7
        with pytest.raises(TaskFailed, match=r"TaskTimeoutError: attempt 1 .*ran longer than its timeout of 7.0 s") as caught:
            future.result(30)
        gates["t"].set()
        assert isinstance(caught.value.__cause__, TaskTimeoutError)
        assert isinstance(caught.value.__cause__, TimeoutError)
        with pytest.raises(TaskFailed):
            engine.get_output("slow")


def test_a_timeout_is_retried_and_caught_like_an_exception(clock):
    gates["r"] = threading.Event()
    node = waits_in_thread.options(timeout=7, retries=1, backoff=3, jitter=0, catch_exceptions=True, retry_on=TimeoutError).bind("r")
    with exoflow.Engine("memory:", clock=clock) as engine:
        future = engine.run_async(node)
        assert [clock.fire_next() for _ in range(3)] == [7, 3, 7]
        value, error = future.result(30)
        gates["r"].set()
    assert value is None
    assert isinstance(error, TaskTimeoutError)


# --- checkpoints that are left to the engine ---------------------------------------------------------------------------------


def test_auto_checkpoints_are_turned_on_where_they_are_needed(engine):
    """checkpoint="auto": saved if a commit rests on it, not saved otherwise."""
    price = draw.options(checkpoint="auto", name="price").bind()
    colour = draw.options(checkpoint="auto", name="colour").bind()
    final = same.options(can_rollback=True).bind([charge.bind(price), colour])
    assert exoflow.check(final) == []
    assert engine.run(final, name="a") == [4, 4]
    durable = {t.task: t.durable for t in engine.get_metadata("a").tasks}
    assert durable["price"]
    assert not durable["colour"]


def test_auto_checkpoints_do_not_repair_what_others_leave_open(engine):
    unsafe = charge.bind(draw.bind())
    with pytest.raises(UnsafeWorkflowError):
        engine.run(same.bind([unsafe, draw.options(checkpoint="auto").bind()]))


def test_auto_checkpoints_in_a_sub_workflow(engine):
    assert engine.run(grows_auto.bind()) == 4


@task
def grows_auto():
    return charge.bind(draw.options(checkpoint="auto").bind())


def test_strict_mode_refuses_and_auto_mode_repairs(engine):
    dag = charge.bind(draw.bind())
    charged.clear()
    with pytest.raises(UnsafeWorkflowError) as caught:
        engine.run(dag, name="u")
    assert [(f.code, f.task, f.culprit) for f in caught.value.findings] == [("unstable_input", "charge", "draw")]
    assert [str(r) for r in caught.value.findings[0].repairs] == ["checkpoint=True on 'draw'"]
    assert engine.list_all() == []
    assert charged == []
    assert engine.run_async(dag, name="u", mode="auto").result() == 4
    assert {t.task: t.durable for t in engine.get_metadata("u").tasks}["draw"]
    charged.clear()


def test_check_needs_no_inputs():
    """Whether a DAG is safe does not depend on what it is run with."""
    findings = exoflow.check(charge.bind(draw.bind()))
    assert len(findings) == 1
    inp = InputNode()
    assert exoflow.check(add.bind(inp[0], inp.x)) == []
    assert exoflow.check(add, 1) == []
    assert exoflow.check(order_of, 3) == []


def test_the_package_says_its_version():
    assert exoflow.__version__ in run_python("import exoflow; print(exoflow.__version__)", cwd=ROOT)
    assert RemoteTaskError.code == "remote_task_error"
