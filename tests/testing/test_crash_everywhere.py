"""Each lie that an annotation can tell is planted once, found, and blamed on the right task; the honest twin of each is safe."""

from __future__ import annotations

import copy
import inspect
import random
import sys
import uuid
from pathlib import Path

import pytest

import exoflow
from exoflow import current_task
from exoflow.errors import InvalidOptionError, UnsafeWorkflowError
from exoflow.executors.base import Executor
from exoflow.store.base import BlobStore, Store
from exoflow.testing import Effects, Report, crash_everywhere
from exoflow.testing.crashes.points import WORDS
from exoflow.testing.crashes.trial import Subject, Trial


@pytest.fixture
def effects():
    return Effects()


def kinds(report: Report) -> list[tuple[str, str]]:
    return [(finding.kind, finding.task) for finding in report.findings]


def key() -> str:
    return current_task().idempotency_key


# --- effects of tasks ----------------------------------------------------------------------------------------------------------------


def test_a_charge_that_says_it_has_no_effect_happens_twice(effects):
    @exoflow.task(can_rollback=True)
    def charge(amount):
        effects.apply("charge", value=amount)

    report = crash_everywhere(charge.bind(100), pairs=10)
    assert kinds(report) == [("twice", "charge")]
    (finding,) = report.findings
    assert [(point.kind, point.when) for point in finding.deaths] == [("effect", "after")]
    assert "can_rollback=True" in finding.why
    assert "leave can_rollback out" in finding.repair
    with pytest.raises(AssertionError, match="'charge' happened twice"):
        report.raise_if_unsafe()


def test_an_effect_of_a_task_without_effects_is_told_even_if_nothing_doubles(effects):
    @exoflow.task(can_rollback=True)
    def charge(amount):
        effects.apply("charge", key="order-1", value=amount)

    assert kinds(crash_everywhere(charge.bind(100), pairs=10)) == [("internal_effect", "charge")]


def test_a_commit_without_a_key_happens_twice(effects):
    @exoflow.task
    def charge(amount):
        effects.apply("charge", value=amount)

    report = crash_everywhere(charge.bind(100), pairs=10)
    assert kinds(report) == [("twice", "charge")]
    assert "current_task().idempotency_key" in report.findings[0].repair


def test_a_key_drawn_anew_is_no_key(effects):
    @exoflow.task
    def charge(amount):
        effects.apply("charge", key=str(uuid.uuid4()), value=amount)

    report = crash_everywhere(charge.bind(100), pairs=10)
    assert kinds(report) == [("twice", "charge")]
    assert "two keys" in report.findings[0].why


def test_a_commit_with_the_key_of_the_task_is_safe(effects):
    @exoflow.task
    def charge(amount):
        effects.apply("charge", key=key(), value=amount)

    report = crash_everywhere(charge.bind(100), pairs=50)
    assert report.ok, str(report)
    report.raise_if_unsafe()
    assert (report.points, report.single, report.paired) == (10, 10, 50)


def test_one_key_for_two_amounts_is_not_idempotent(effects):
    @exoflow.task
    def charge():
        effects.apply("charge", key=key(), value=random.random())

    assert kinds(crash_everywhere(charge.bind(), pairs=10)) == [("not_idempotent", "charge")]


def test_three_mails_of_one_task_are_no_mail_thrice(effects):
    @exoflow.task
    def mail(names):
        for name in names:
            effects.apply("mail", key=f"{key()}/{name}", value=name)

    assert crash_everywhere(mail.bind(["ada", "grace", "mary"]), pairs=10).ok


def test_what_a_dying_task_does_in_finally_does_not_happen(effects):
    @exoflow.task
    def charge():
        try:
            effects.apply("charge", key=key())
        finally:
            effects.apply("log", key=key())

    assert crash_everywhere(charge.bind(), pairs=10).ok


# --- determinism -----------------------------------------------------------------------------------------------------------------


def test_a_draw_that_calls_itself_deterministic_is_found(effects):
    @exoflow.task(deterministic=True, can_rollback=True, checkpoint=False)
    def draw():
        return random.random()

    @exoflow.task
    def publish(number):
        effects.apply("publish", key=key(), value=number)

    report = crash_everywhere(publish.bind(draw.bind()), pairs=10)
    assert kinds(report) == [("not_deterministic", "draw")]
    assert "deterministic=False on 'draw'" in report.findings[0].repair


def test_an_honest_draw_is_safe_whatever_it_draws(effects):
    @exoflow.task(can_rollback=True)
    def draw():
        return random.random()

    @exoflow.task
    def publish(number):
        if number < 0.5:
            effects.apply("publish", key=key(), value=number)
        return number

    report = crash_everywhere(publish.bind(draw.bind()), pairs=10)
    assert report.ok, str(report)


def test_an_unsafe_dag_is_refused_as_ever():
    @exoflow.task(can_rollback=True, checkpoint=False)
    def draw():
        return random.random()

    publish = exoflow.task(lambda number: number)
    with pytest.raises(UnsafeWorkflowError):
        crash_everywhere(publish.bind(draw.bind()))
    assert crash_everywhere(publish.bind(draw.bind()), mode="auto", pairs=10).ok


def test_a_workflow_that_builds_another_dag_each_time_cannot_go_on():
    tell = exoflow.task(lambda number: None)

    @exoflow.workflow
    def told():
        return tell(random.random())

    report = crash_everywhere(told, pairs=0)
    assert kinds(report) == [("ended", "")]
    assert "WorkflowIdConflictError" in report.findings[0].said


# --- rollbacks ---------------------------------------------------------------------------------------------------------------------


class Seats:
    """An outside of the user's own."""

    def __init__(self) -> None:
        self.free = ["1A", "1B"]

    def reserve(self, seat):
        self.free.remove(seat)
        return seat

    def release(self, seat):
        if seat not in self.free:
            self.free.append(seat)


class CarelessSeats(Seats):
    def release(self, seat):
        self.free.append(seat)


class StrictSeats(Seats):
    def release(self, seat):
        if seat in self.free:
            raise KeyError(seat)
        self.free.append(seat)


def trip(effects: Effects, seats: Seats) -> exoflow.Node:
    client = effects.wrap(seats, undo={"release": "reserve"})

    @exoflow.task(rollback=client.release)
    def reserve(seat):
        return client.reserve(seat)

    @exoflow.task
    def charge(seat):
        effects.apply("charge", key=key(), value=seat)
        return seat

    return charge.bind(reserve.bind("1A"))


def test_a_saga_whose_rollback_is_idempotent_is_safe(effects):
    seats = Seats()
    report = crash_everywhere(trip(effects, seats), pairs=10)
    assert report.ok, str(report)
    assert report.rollbacks > 10, "second crashes inside rollbacks were tried"


def test_a_rollback_that_gives_back_what_was_not_taken_is_found(effects):
    report = crash_everywhere(trip(effects, CarelessSeats()), pairs=10)
    assert kinds(report) == [("rollback_not_idempotent", "reserve")]
    assert "CarelessSeats.free" in report.findings[0].said


@pytest.mark.slow  # a rollback that fails is tried five times
def test_a_rollback_that_raises_when_there_is_nothing_to_undo_is_found(effects):
    report = crash_everywhere(trip(effects, StrictSeats()), pairs=10)
    assert ("rollback_failed", "reserve") in kinds(report)
    assert "BLOCKED" in report.findings[0].said


def test_a_rollback_that_forgets_something_is_found(effects):
    @exoflow.task(rollback=lambda room: effects.undo("reserve"))
    def reserve(room):
        effects.apply("reserve", value=room)
        effects.apply("note", value=room)

    report = crash_everywhere(reserve.bind("blue"), pairs=10)
    assert [(finding.kind, finding.what) for finding in report.findings] == [("rollback_left", "note")]


def test_a_rollback_that_undoes_too_much_is_found(effects):
    @exoflow.task(rollback=lambda room: effects.undo("reserve", value="a room"))
    def reserve(room):
        effects.apply("reserve", value="a room")

    report = crash_everywhere(reserve.bind(reserve.bind("blue")), pairs=10)
    assert kinds(report) == [("missing", "reserve")]


@pytest.mark.slow  # many places in rollbacks, each tried after many others
def test_a_rollback_that_acts_twice_is_found_without_any_crash_before_it(effects):
    def refund(amount):
        effects.undo("charge")
        effects.apply("apology", value=amount)

    @exoflow.task(rollback=refund)
    def charge(amount):
        effects.apply("charge", value=amount)

    refuse = exoflow.task(lambda _: 1 / 0)
    report = crash_everywhere(refuse.bind(charge.bind(5)), on_failure="rollback", pairs=10)
    assert [(finding.kind, finding.what) for finding in report.findings] == [("twice", "apology")]
    assert "ended FAILED" in report.notes[0]


def test_a_task_that_changes_its_argument_is_found(effects):
    order = exoflow.task(can_rollback=True)(lambda names: names.sort())
    read = exoflow.task(can_rollback=True)(lambda: ["b", "a"])
    report = crash_everywhere(order.bind(read.bind()), pairs=0)
    assert [(finding.kind, finding.what) for finding in report.findings] == [("mutated", "names")]


def test_arguments_for_worker_processes_are_copies():
    order = exoflow.task(can_rollback=True, executor="process")(lambda names: names.sort())
    report = crash_everywhere(order.bind(["b", "a"]), pairs=0)
    assert report.ok, str(report)
    assert "worker processes" in report.notes[0]


class Room:
    """Saving it loses its name."""

    def __init__(self, name):
        self.name = name

    def __reduce__(self):
        return Room, ("?",)


def test_a_value_that_does_not_survive_saving_is_found():
    choose = exoflow.task(can_rollback=True)(lambda: Room("blue"))
    name = exoflow.task(lambda room: room.name)
    report = crash_everywhere(name.bind(choose.bind()), pairs=0)
    assert kinds(report) == [("result", "")]
    assert "'?'" in report.findings[0].said


def test_an_effect_that_a_flag_of_the_users_own_holds_back_is_missing(effects):
    """The flag is set before the mail is sent, and survives the crash that comes between."""
    sent: list[str] = []

    @exoflow.task
    def mail(name):
        if name not in sent:
            sent.append(name)
            effects.apply("mail", key=key(), value=name)

    report = crash_everywhere(mail.bind("ada"), pairs=0, prepare=sent.clear)
    assert [(finding.kind, finding.what) for finding in report.findings] == [("missing", "mail")]


def test_a_read_that_changes_the_fake_is_seen_in_its_attributes(effects):
    seats = Seats()
    client = effects.wrap(seats, reads=["release"])

    @exoflow.task
    def ask():
        client.release(f"seat {len(seats.free)}")

    report = crash_everywhere(ask.bind(), pairs=0)
    assert [(finding.kind, finding.what) for finding in report.findings] == [("state", "Seats.free")]


@pytest.mark.slow  # a thousand retries
def test_a_workflow_that_never_ends_is_told_and_not_waited_for(effects):
    @exoflow.task(retries=1_000_000, backoff=1)
    def send():
        if effects.stands("began"):
            raise ConnectionError
        effects.apply("began")

    report = crash_everywhere(send.bind(), only=(6,))
    assert ("ended", "") in kinds(report)
    assert "STUCK" in report.findings[-1].said


# --- doubt -------------------------------------------------------------------------------------------------------------------------


def paid(effects: Effects, on_unknown) -> exoflow.Node:
    @exoflow.task(on_unknown=on_unknown)
    def pay(amount):
        effects.apply("pay", value=amount)
        return f"paid {amount}"

    return pay.bind(5)


def test_an_on_unknown_that_looks_is_safe(effects):
    report = crash_everywhere(paid(effects, lambda amount: f"paid {amount}" if effects.stands("pay") else False), pairs=10)
    assert report.ok, str(report)


def test_a_person_who_looks_is_safe(effects):
    report = crash_everywhere(paid(effects, "fail"), pairs=10)
    assert report.ok, str(report)


@pytest.mark.parametrize(("answer", "said"), [(False, "had not happened, but"), (True, "but nothing of it stood")])
def test_an_on_unknown_that_guesses_is_found(effects, answer, said):
    report = crash_everywhere(paid(effects, lambda amount: answer), pairs=0)
    (finding,) = [each for each in report.findings if each.kind == "on_unknown"]
    assert said in finding.said


def test_an_on_unknown_that_forgets_the_output_is_found(effects):
    report = crash_everywhere(paid(effects, lambda amount: effects.stands("pay")), pairs=0)
    assert kinds(report) == [("result", "pay")]
    assert report.findings[0].repair == "let on_unknown return the output"


# --- all kinds of workflows ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow  # a few hundred runs
def test_sub_workflows_maps_loops_async_and_process_tasks(effects):
    square = exoflow.task(deterministic=True, can_rollback=True, checkpoint=False)(lambda n: n * n)

    @exoflow.task(executor="process")
    def note(n):
        effects.apply("note", key=key(), value=n)
        return n

    @exoflow.task(can_rollback=True)
    def fan(n):
        return [square.bind(i) for i in range(n)]

    @exoflow.task(can_rollback=True)
    async def countdown(n, numbers):
        return countdown.bind(n - 1, numbers) if n else sum(numbers)

    @exoflow.workflow
    def whole(n, *, loops):
        return countdown(loops, note.map(fan(n)))

    report = crash_everywhere(whole, 3, loops=2, pairs=30)
    assert report.ok, str(report)
    assert report.points > 50


def test_retries_wait_on_virtual_time(effects):
    @exoflow.task(retries=1, backoff=3600)
    def send():
        if current_task().attempt == 1 and not effects.stands("refusal"):
            effects.apply("refusal")
            raise ConnectionError
        effects.apply("mail", key=key())

    assert crash_everywhere(send.bind(), pairs=20).ok


def test_a_run_is_repeated_exactly(effects):
    @exoflow.task
    def charge(amount):
        effects.apply("charge", value=amount)

    first = crash_everywhere(charge.bind(1), pairs=20)
    again = crash_everywhere(charge.bind(1), pairs=20)
    assert str(first) == str(again)
    (finding,) = first.findings
    repeated = crash_everywhere(charge.bind(1), only=finding.crashes, seed=finding.seed)
    assert (repeated.findings[0].said, repeated.findings[0].deaths) == (finding.said, finding.deaths)


def test_large_values_are_blobs_that_may_be_lost(effects):
    make = exoflow.task(can_rollback=True)(lambda: bytes(100_000))
    report = crash_everywhere(exoflow.task(lambda data: data[:9]).bind(make.bind()), pairs=10)
    assert report.ok, str(report)


def test_what_users_keep_beside_effects_is_made_fresh_by_prepare():
    calls: list[int] = []

    @exoflow.task
    def count():
        calls.append(1)
        return len(calls)

    assert not crash_everywhere(count.bind(), pairs=0, prepare=calls.clear).ok, "a second attempt counts on"
    calls.clear()

    @exoflow.task
    def first():
        return not calls and calls.append(1) is None

    assert crash_everywhere(first.bind(), pairs=0, prepare=calls.clear).findings[0].kind == "result"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, pytest.fail.Exception])
def test_who_runs_the_test_can_stop_it(stop):
    @exoflow.task
    def task():
        raise stop("enough")

    with pytest.raises(stop):
        crash_everywhere(task.bind())


def test_a_task_that_exits_has_failed():
    report = crash_everywhere(exoflow.task(lambda: sys.exit(1)).bind(), pairs=0)
    assert "SystemExit" in report.notes[0]


def test_stops_after_so_many_runs(effects):
    report = crash_everywhere(trip(effects, Seats()), runs_max=5)
    assert (report.single, report.paired) == (5, 0)
    assert "5 runs" in report.notes[0]


def test_one_at_a_time(effects):
    inner = exoflow.task(lambda: 1)
    outer = exoflow.task(lambda: crash_everywhere(inner.bind()).ok)
    assert "inside crash_everywhere" in crash_everywhere(outer.bind(), pairs=0).notes[0]


# --- the outside ---------------------------------------------------------------------------------------------------------------------


class Bank:
    def __init__(self) -> None:
        self.booked: list[int] = []

    def charge(self, amount, idempotency_key=None):
        self.booked.append(amount)
        return f"receipt {len(self.booked)}"

    def refund(self, amount):
        self.booked.remove(amount)

    def balance(self):
        return sum(self.booked)

    async def transfer(self, amount):
        self.booked.append(amount)


def test_a_wrapped_fake_honours_keys_and_begins_anew(effects):
    bank = Bank()
    client = effects.wrap(bank, undo={"refund": "charge"}, reads=["balance"])
    assert client.charge(5, idempotency_key="k") == client.charge(5, idempotency_key="k") == "receipt 1"
    assert (bank.booked, effects.count("charge"), client.balance()) == ([5], 1, 5)
    client.refund(5)
    assert (bank.booked, effects.count("charge")) == ([], 0)
    assert client.charge(5, idempotency_key="k") == "receipt 1"
    assert [str(entry) for entry in effects.standing()] == ["charge {'amount': 5}"]
    effects.reset()
    assert (bank.booked, effects.entries) == ([], [])
    assert client.booked == []


def test_a_call_that_raises_has_no_effect(effects):
    client = effects.wrap(Bank(), undo={"refund": "charge"})
    with pytest.raises(ValueError, match="not in list"):
        client.refund(5)
    with pytest.raises(TypeError, match="argument"):
        client.charge()
    assert effects.entries == []


def test_async_methods_are_effects_too(effects):
    client = effects.wrap(Bank())

    @exoflow.task
    async def pay(amount):
        await client.transfer(amount)

    assert kinds(crash_everywhere(pay.bind(5), pairs=0)) == [("twice", "pay")]
    assert client.booked == [], "what happened in the runs does not stay"


def test_undo_and_stands_choose_by_task_key_or_value(effects):
    effects.apply("reserve", key="a", value=1)
    effects.apply("reserve", key="b", value=2)
    assert effects.apply("reserve", key="a", value=3) is False
    assert (effects.stands("reserve", key="b"), effects.stands("reserve", value=1), effects.stands("reserve", value=3)) == (
        True,
        True,
        False,
    )
    assert (effects.undo("reserve", value=1), effects.undo("reserve", key="b"), effects.undo("reserve")) == (1, 1, 0)
    assert effects.apply("reserve", key="a", value=3), "what was undone may happen again"


def test_an_effects_object_may_be_an_argument(effects):
    @exoflow.task
    def charge(outside, amount):
        outside.apply("charge", value=amount)

    assert kinds(crash_everywhere(charge.bind(effects, 1), pairs=0)) == [("twice", "charge")]
    client = effects.wrap(Bank())
    assert copy.deepcopy(client) is client


def test_what_happens_in_the_runs_does_not_stay(effects):
    bank = Bank()
    client = effects.wrap(bank)
    client.charge(1, idempotency_key="k")
    pay = exoflow.task(lambda: client.charge(2, idempotency_key="k"))
    assert crash_everywhere(pay.bind(), pairs=0).ok
    assert (bank.booked, [str(entry) for entry in effects.standing()]) == ([1], ["charge {'amount': 1}"])


def test_what_cannot_be_wrapped_is_refused(effects, tmp_path: Path):
    with (tmp_path / "x").open("w") as file:
        holder = Bank()
        holder.file = file
        with pytest.raises(InvalidOptionError, match="cannot be copied"):
            effects.wrap(holder)
    with pytest.raises(InvalidOptionError, match="no method 'give_back'"):
        effects.wrap(Bank(), undo={"give_back": "charge"})


# --- nothing is forgotten ------------------------------------------------------------------------------------------------------------

NO_PLACE_TO_CRASH = {
    "Store": {"head", "heads", "entries", "owners", "close", "delete", "beat", "wish"},
    "BlobStore": {"open", "names", "collect"},
    "Executor": {"stop", "close"},
}
"""What only looks, or what no run of a workflow calls. Everything else has a place to crash before it and one after it."""


@pytest.mark.parametrize(("seam", "kinds"), [(Store, {"commit", "claim"}), (BlobStore, {"put"}), (Executor, {"submit"})])
def test_every_operation_of_a_seam_has_a_place_to_crash_or_a_reason_not_to(seam, kinds):
    operations = {name for name, thing in vars(seam).items() if inspect.isfunction(thing) and not name.startswith("_")}
    assert operations == kinds | NO_PLACE_TO_CRASH[seam.__name__]


def test_all_kinds_of_places_are_reached(effects):
    """With two crashes: in the first life, and where that leads to."""
    hold = exoflow.task(rollback=lambda data: effects.undo("hold"))(lambda data: effects.apply("hold"))
    pay = exoflow.task(on_unknown=lambda held: effects.stands("pay"))(lambda held: effects.apply("pay"))
    dag = pay.bind(hold.bind(bytes(100_000)))
    subject = Subject(dag, (), {}, {})
    places = {(point.kind, point.when) for point in Trial(subject).run().lives[0].trace}
    for number in range(1, len(Trial(subject).run().lives[0].trace) + 1):
        places |= {(point.kind, point.when) for point in Trial(subject, (number,)).run().lives[-1].trace}
    assert places == set(WORDS)
