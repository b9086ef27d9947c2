"""What the judge of simulated runs calls a breach, and what it lets pass."""

from __future__ import annotations

import msgspec
import pytest

from exoflow.testing.oracle import Chronicle, Value, digest_of


class Spec(msgspec.Struct):
    name: str
    kind: str = "internal"
    deterministic: bool = False
    on_unknown: str = "retry"
    checkpoint: bool | str = True
    does: str = "return"
    timeout_s: float | None = None


class Court:
    """One workflow before the judge."""

    def __init__(self, *specs):
        self.breaches = []
        known = {spec.name: spec for spec in specs}
        self.chronicle = Chronicle("w", known.__getitem__, lambda invariant, _workflow, _story: self.breaches.append(invariant))
        self.chronicle.granted_to(1)
        self.known = known

    def call(self, path, *values, attempt=1, durable=()):
        return self.chronicle.begins(path, path, 1, attempt, values, lambda: set(durable))

    def run(self, path, *values, draw=1):
        """It runs to its end, with its effect if it has one."""
        execution = self.call(path, *values)
        digest = digest_of(path, draw, execution.inputs)
        if self.known[path].kind != "internal":
            self.chronicle.applies(execution, path)
        self.chronicle.returns(execution, digest)
        return Value(path, draw, digest, {**execution.seen, path: draw})

    def record(self, kind, task, **fields):
        self.chronicle.written(1, None, [(msgspec.msgpack.encode({"r": kind, "task": task, "attempt": 1, "epoch": 1, **fields}), None)])


@pytest.mark.parametrize("was_on_record", [True, False])
def test_a_commit_on_an_output_that_was_undone(was_on_record):
    """An attempt that was sent out when its input was on record may begin late, when that has been undone. Nothing else may."""
    court = Court(Spec("books", "undoable"), Spec("pays", "committing"))
    booked = court.run("books")
    if was_on_record:
        court.record("saved", "books")
    court.record("undoing", "books")
    court.chronicle.undoes("books", 1, ())
    court.chronicle.applies(court.call("pays", booked), "key")
    assert court.breaches == ([] if was_on_record else ["I5"])


def test_a_commit_on_what_is_on_record_and_on_what_is_not():
    for durable in (True, False):
        court = Court(Spec("draws"), Spec("pays", "committing"))
        drawn = court.run("draws")
        court.chronicle.applies(court.call("pays", drawn, durable=[drawn.digest] if durable else ()), "key")
        assert court.breaches == ([] if durable else ["I5"])


@pytest.mark.parametrize(("timeout_s", "beside", "breaches"), [(None, "hang", ["I10"]), (1.0, "return", ["I10"]), (1.0, "hang", [])])
def test_who_may_be_called_twice_in_peace(timeout_s, beside, breaches):
    """Only who runs out of time, and only where somebody hangs and may hold it up."""
    court = Court(Spec("works", timeout_s=timeout_s), Spec("beside", does=beside))
    court.call("beside")
    court.call("works")
    court.call("works", attempt=2)
    court.chronicle.judge((), None, said_to_stand=None, lies=True, calm=True)
    assert court.breaches == breaches
