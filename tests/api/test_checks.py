"""What is refused because a crash at the wrong moment would break exactly-once, and how it is repaired."""

from __future__ import annotations

import pytest

import exoflow
from exoflow import task
from exoflow.errors import UnsafeWorkflowError


def release(txn):
    """Gives back the lock."""


@task(can_rollback=True)
def begin():
    return "txn-1"


@task(rollback=release)
def acquire(txn):
    return "lock"


@task(deterministic=True, can_rollback=True, checkpoint=False)
def reserve(txn, lock):
    return "shadow"


@task(checkpoint=False)
def commit_or_abort(txn, lock, shadow):
    return "committed"


def transaction(begin_saved=True, acquire_saved=True):
    """The transaction of the paper: begin, acquire, reserve, commit or abort."""
    txn = begin.options(checkpoint=begin_saved).bind()
    lock = acquire.options(checkpoint=acquire_saved).bind(txn)
    return commit_or_abort.bind(txn, lock, reserve.bind(txn, lock))


def found(dag):
    return [(finding.code, finding.task, finding.culprit) for finding in exoflow.check(dag)]


def repairs(dag):
    return {str(repair) for finding in exoflow.check(dag) for repair in finding.repairs}


def test_a_transaction_as_it_should_be(engine):
    assert exoflow.check(transaction()) == []
    assert engine.run(transaction()) == "committed"


def test_a_lock_that_is_not_saved(engine):
    """After the commit, a crash would acquire another lock under it."""
    dag = transaction(acquire_saved=False)
    assert found(dag) == [("unstable_input", "commit_or_abort", "acquire")]
    assert repairs(dag) == {"checkpoint=True on 'acquire'"}
    with pytest.raises(UnsafeWorkflowError, match="'commit_or_abort' commits"):
        engine.run(dag)
    assert engine.list_all() == []


def test_a_transaction_number_that_is_not_saved(engine):
    """After a crash nobody would know which lock to give back."""
    dag = transaction(begin_saved=False)
    assert ("unrecoverable_input", "acquire", "begin") in found(dag)
    assert repairs(dag) == {"checkpoint=True on 'begin'"}
    with pytest.raises(UnsafeWorkflowError, match="'acquire' has a rollback, whose arguments could be lost"):
        engine.run(dag)
    future = engine.run_async(dag, name="w", mode="auto")
    assert future.turned_on == ("begin",)
    assert future.result() == "committed"


@task(can_rollback=True, checkpoint=False)
def chance(*_):
    return 4


@task(can_rollback=True)
def kept(*values):
    return values


@task(can_rollback=True, deterministic=True, checkpoint=False)
def derived(*values):
    return values


@task
def commits(*values):
    return values


def first_counter_example():
    """The path from a to c has a cut, but a may still be wanted, by d, when c has committed."""
    a = chance.options(name="a").bind()
    c = commits.options(name="c").bind(kept.options(name="b").bind(a))
    return derived.options(name="end").bind(c, derived.options(name="d").bind(a))


def second_counter_example():
    """None of y's ancestors is wanted when y commits; what brings u back is another task that saw it."""
    u, u2 = (chance.options(name=name).bind() for name in ("u", "u2"))
    w = kept.options(name="w").bind(u, u2)
    y = commits.options(name="y").bind(kept.options(name="a").bind(u))
    c = commits.options(name="c").bind(u2)
    return derived.options(name="end").bind(w, y, c)


@pytest.mark.parametrize("make", [first_counter_example, second_counter_example])
def test_the_cut_alone_is_not_enough(engine, make):
    """Both satisfy the two invariants of the paper and are unsafe all the same: refused in strict mode, repaired in auto mode."""
    with pytest.raises(UnsafeWorkflowError) as caught:
        engine.run(make(), name="w")
    assert caught.value.findings
    assert all(finding.repairs for finding in caught.value.findings)
    assert engine.list_all() == []
    future = engine.run_async(make(), name="w", mode="auto")
    assert future.turned_on
    assert future.result()
    durable = {t.task: t.durable for t in engine.get_metadata("w").tasks}
    assert all(durable[name] for name in future.turned_on)


def test_repairs_that_are_offered_work():
    """Each finding names the change; with it there is none left."""
    for make in (first_counter_example, second_counter_example):
        names = {repair.task for finding in exoflow.check(make()) for repair in finding.repairs}
        assert names
        assert exoflow.check(with_saved(make(), names)) == []


def with_saved(node, names):
    """The same DAG with these tasks saved."""
    from exoflow.define.plan import make_plan

    seen = set()

    def walk(at):
        if at in seen:
            return
        seen.add(at)
        if at.label in names:
            at.task = at.task.options(checkpoint=True)
        for up in (*at.args, *at.kwargs.values(), *at.after):
            if isinstance(up, exoflow.Node):
                walk(up)

    walk(node)
    assert make_plan(node)
    return node


def test_a_deterministic_pipeline_needs_no_checkpoint(engine):
    """Nothing of it is saved but the result."""
    dag = derived.bind(derived.bind(derived.bind(1)), 2)
    assert exoflow.check(dag) == []
    engine.run(dag, name="w")
    assert [t.durable for t in engine.get_metadata("w").tasks] == [False, False, True]


def test_deterministic_would_do():
    finding = exoflow.check(commits.bind(chance.bind()))[0]
    assert finding.path == ("chance", "commits")
    assert "(or deterministic=True on 'chance', if it is)" in str(finding)


def test_order_without_data_counts_as_dependency():
    """a >> c: c commits because of a."""
    a, c = chance.options(name="a").bind(), commits.options(name="c").bind()
    _ = a >> c
    assert found(c) == [("unstable_input", "c", "a")]


def test_findings_are_the_same_in_every_process():
    """Also after a trip through pickle: the error is the same on the other side."""
    import pickle

    with pytest.raises(UnsafeWorkflowError) as caught, exoflow.Engine("memory:") as engine:
        engine.run(first_counter_example())
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value)
    assert copy.findings == caught.value.findings
