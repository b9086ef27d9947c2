"""Who is answered, and when, once writes are durable."""

from __future__ import annotations

import pytest

from exoflow.runtime.commit import GroupCommitter
from exoflow.runtime.threads import SYSTEM_THREADS
from exoflow.store.base import Write


class Obedient:
    """A store that says what it is told to."""

    def __init__(self, verdicts):
        self.verdicts = verdicts

    def commit(self, writes):
        assert len(writes) == len(self.verdicts)
        return self.verdicts


def told(*writes):
    """The answers to (workflow, verdict), given in one transaction, in the order in which they came."""
    answers = []
    committer = GroupCommitter(Obedient([verdict for _, verdict in writes]), SYSTEM_THREADS)
    for number, (workflow, _) in enumerate(writes):
        committer.put(Write(workflow_id=workflow, epoch=1), lambda verdict, number=number: answers.append((number, verdict)))
    assert answers == []
    committer.flush(may_block=True)
    committer.close()
    return answers


def test_the_last_write_of_a_workflow_speaks_for_those_before_it():
    a, b = ("a", "applied"), ("b", "applied")
    assert told(a) == [(0, "applied")]
    assert told(a, b, a, a, b) == [(3, "applied"), (4, "applied")]


@pytest.mark.parametrize("refusal", ["fenced", "exists", "missing"])
def test_nobody_speaks_for_what_was_refused(refusal):
    a, b, no = ("a", "applied"), ("b", "applied"), ("a", refusal)
    assert told(a, a, no, b, no) == [(1, "applied"), (2, refusal), (3, "applied"), (4, refusal)]
    assert told(no, a) == [(0, refusal), (1, "applied")]


def test_the_loop_is_never_held_up_by_all_that_a_large_transaction_brought():
    assert [number for number, _ in told(*[("a", "applied")] * 450)] == [199, 399, 449]
