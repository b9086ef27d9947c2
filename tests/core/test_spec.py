"""What a workflow is made of: names, versions, back-off, order; and the bytes of its journal."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exoflow.core import journal
from exoflow.core.spec.annotations import ENGINE_TASK, Annotations, Checkpoint, Kind
from exoflow.core.spec.graph import Graph, TaskSpec, ordered
from exoflow.core.spec.ids import ID_LENGTH_MAX, UNEXECUTED, UNKNOWN, basis_of, check_id, child_scope, derived_version, drawn_version
from exoflow.core.spec.retry import RetryPolicy, delay_s, may_retry
from exoflow.errors import CycleError, InvalidIdError

# --- names -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("good", ["a", "A9", "order-17", "etl.2024:day_1", "0", "x" * ID_LENGTH_MAX])
def test_a_well_formed_id_is_returned_as_it_is(good: str) -> None:
    assert check_id(good) == good


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (17, "must be str, got int"),
        (None, "must be str, got NoneType"),
        ("", "is empty"),
        ("  ", "is empty"),
        ("x" * (ID_LENGTH_MAX + 1), "has 201 characters; the limit is 200"),
        ("a b", r"contains ' ' \(SPACE\) at position 1"),
        ("a/b", r"contains '/' \(SOLIDUS\) at position 1"),
        ("über", r"contains U\+00FC \(LATIN SMALL LETTER U WITH DIAERESIS\) at position 0"),
        ("a\n", r"contains U\+000A \(a control character\) at position 1"),
        ("-a", "is malformed"),
        (".a", "is malformed"),
        ("a..b", "is malformed"),
    ],
)
def test_a_bad_id_is_refused_and_the_first_bad_character_named(bad: object, why: str) -> None:
    with pytest.raises(InvalidIdError, match=why):
        check_id(bad)


def test_the_message_names_the_parameter() -> None:
    with pytest.raises(InvalidIdError, match="task name is empty"):
        check_id("", "task name")


def test_tasks_of_a_sub_workflow_are_called_after_their_parent() -> None:
    assert child_scope("f", tail=False) == "f"
    assert child_scope("f/g", tail=False) == "f/g"


def test_a_task_in_tail_position_counts_generations_instead_of_growing() -> None:
    assert child_scope("f/f", tail=True) == "f~2"
    assert child_scope("f~2/f", tail=True) == "f~3"
    assert child_scope("f~9/f", tail=True) == "f~10"
    assert child_scope("f~x/f", tail=True) == "f~x~2"


def test_very_deep_names_become_short_and_stay_distinct() -> None:
    deep, other = "a/" * 100 + "b", "a/" * 100 + "c"
    assert child_scope(deep, tail=False).startswith("deep.")
    assert len(child_scope(deep, tail=False)) < 40
    assert child_scope(deep, tail=False) == child_scope(deep, tail=False) != child_scope(other, tail=False)


# --- versions --------------------------------------------------------------------------------------------------------------------

versions = st.lists(st.integers(-(2**62), 2**62), max_size=5)


@given(versions, versions)
def test_a_basis_is_equal_exactly_when_all_versions_are(one: list[int], other: list[int]) -> None:
    assert (basis_of(one) == basis_of(other)) == (one == other)


@given(versions, st.text(max_size=20))
def test_a_derived_version_depends_on_the_task_and_its_basis_and_fits_63_bits(ups: list[int], name: str) -> None:
    basis = basis_of(ups)
    version = derived_version(name, basis)
    assert version == derived_version(name, basis)
    assert 0 < version < 2**63
    assert version != derived_version(name + "x", basis)
    assert version != derived_version(name, basis ^ 2)
    assert version not in (UNEXECUTED, UNKNOWN)


def test_versions_are_the_same_in_every_release() -> None:
    """They are in journals."""
    assert basis_of([]) == 6510301506637419379
    assert drawn_version("a", 1, 1) == 4948394648637683883


@given(st.integers(1, 2**20), st.integers(1, 2**20), st.integers(1, 2**20), st.integers(1, 2**20))
def test_no_two_attempts_draw_the_same_version(epoch: int, attempt: int, epoch2: int, attempt2: int) -> None:
    assert (drawn_version("a", epoch, attempt) == drawn_version("a", epoch2, attempt2)) == ((epoch, attempt) == (epoch2, attempt2))
    assert drawn_version("a", epoch, attempt) != drawn_version("b", epoch, attempt)


# --- retries ---------------------------------------------------------------------------------------------------------------------

policies = st.builds(
    RetryPolicy,
    retries=st.integers(0, 10),
    backoff_s=st.floats(0, 100),
    factor=st.floats(1, 10),
    backoff_max_s=st.floats(0, 1000),
    jitter=st.floats(0, 1),
)


@given(policies, st.integers(1, 10**6), st.floats(0, 1, exclude_max=True))
def test_a_pause_is_never_negative_nor_longer_than_its_limit(policy: RetryPolicy, failures: int, chance: float) -> None:
    assert 0 <= delay_s(policy, failures, chance) <= policy.backoff_max_s
    assert delay_s(policy, failures, chance) <= delay_s(policy, failures, 0.0)


@given(policies, st.integers(1, 100))
def test_pauses_do_not_get_shorter(policy: RetryPolicy, failures: int) -> None:
    assert delay_s(policy, failures, 0.0) <= delay_s(policy, failures + 1, 0.0)


def test_back_off_doubles_up_to_its_limit() -> None:
    policy = RetryPolicy(retries=9, backoff_s=1.0, backoff_max_s=5.0)
    assert [delay_s(policy, n, 0.0) for n in (1, 2, 3, 4)] == [1.0, 2.0, 4.0, 5.0]
    assert delay_s(policy, 1, 0.5) == 0.75
    assert delay_s(RetryPolicy(factor=1e9), 10**6, 0.0) == 300.0


@given(policies, st.integers(1, 20))
def test_as_many_retries_as_the_policy_says(policy: RetryPolicy, failures: int) -> None:
    assert may_retry(policy, failures, ["ValueError"]) == (failures <= policy.retries)


def test_only_the_named_exceptions_count() -> None:
    policy = RetryPolicy(retries=1, retry_on=("OSError",))
    assert may_retry(policy, 1, ["ConnectionError", "OSError"])
    assert not may_retry(policy, 1, ["ValueError"])
    assert not may_retry(policy, 2, ["OSError"])


# --- annotations and order ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotations", "kind", "intent"),
    [
        (Annotations(), Kind.COMMITTING, False),
        (Annotations(on_unknown="fail"), Kind.COMMITTING, True),
        (Annotations(can_rollback=True), Kind.INTERNAL, False),
        (Annotations(can_rollback=True, has_rollback=True), Kind.UNDOABLE, True),
        (ENGINE_TASK, Kind.INTERNAL, False),
    ],
)
def test_the_kind_of_a_task_follows_from_what_it_says(annotations: Annotations, kind: Kind, intent: bool) -> None:
    assert annotations.kind is kind
    assert annotations.leaves_intent is intent


def test_the_order_is_upstream_first_and_stable() -> None:
    specs = [TaskSpec(id="c", reads=("a",), after=("b",)), TaskSpec(id="b"), TaskSpec(id="a")]
    graph = ordered(specs, "c")
    assert [spec.id for spec in graph.tasks] == ["b", "a", "c"]
    assert graph.root == "c"
    assert ordered(specs, "c") == graph


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=20))
def test_any_graph_is_ordered_or_its_circle_shown(pairs: list[tuple[int, int]]) -> None:
    ups: dict[int, set[int]] = {n: set() for n in range(8)}
    for down, up in pairs:
        ups[down].add(up)
    specs = [TaskSpec(id=str(n), reads=tuple(map(str, sorted(ups[n])))) for n in ups]
    try:
        order = [int(spec.id) for spec in ordered(specs, "0").tasks]
    except CycleError as error:
        circle = [int(name) for name in error.fields["path"].split(" -> ")]
        assert circle[0] == circle[-1]
        assert all(up in ups[down] for up, down in itertools.pairwise(circle))
    else:
        assert sorted(order) == list(range(8))
        assert all(order.index(up) < order.index(down) for down in ups for up in ups[down])


def test_a_circle_is_shown_as_a_path_that_closes() -> None:
    specs = [TaskSpec(id="x", reads=("c",)), TaskSpec(id="a", reads=("c",)), TaskSpec(id="b", reads=("a",)), TaskSpec(id="c", after=("b",))]
    with pytest.raises(CycleError, match="a -> b -> c -> a"):
        ordered(specs, "x")


# --- the journal's bytes -----------------------------------------------------------------------------------------------------------

FAILURE = journal.Failure(kind="raised", types=("ValueError", "Exception"), text="no", traceback="tb", pickled=b"\x80")
STORED = journal.Stored(3, b"digest", blob="ab/cd", meaning="m")
GRAPH = Graph((TaskSpec(id="a", annotations=Annotations(checkpoint=Checkpoint.SYNC, on_unknown="ask"), timeout_s=1.5, catch=True),), "a")

RECORDS: list[journal.Record] = [
    journal.WorkflowBegan(version=1, graph=GRAPH, plan=STORED, auto=True, undo_on_failure=True),
    journal.OutputSaved(task="a", attempt=1, epoch=2, version=2**62, basis=7, stored=STORED, growth=GRAPH, caught=True),
    journal.OutputSaved(task="p/a", attempt=1, epoch=2, version=3, basis=7, stored=STORED, parent="p", parent_version=9, started_ms=1),
    journal.GraphReturned(task="p/a", parent="p", parent_version=9),
    journal.AttemptIntended(task="a", attempt=1, epoch=2, basis=7),
    journal.AttemptFailed(task="a", attempt=1, failures=1, failure=FAILURE),
    journal.WorkerDied(task="a", attempt=1, deaths=2, reason="signal 9"),
    journal.UndoIntended(task="a", attempt=1),
    journal.EffectUndone(task="a", attempt=1),
    journal.EffectSettled(task="a"),
    journal.TasksWithdrawn(tasks=("a", "b")),
    journal.RoundsDropped(task="a~9/a", spec=GRAPH.tasks[0], parent="a", past=("a~8/a", "a~8/b")),
    journal.OutputSpoiled(task="a"),
    journal.UnwindDecided(task="a", attempt=1, failure=FAILURE),
    journal.CancelDecided(undo=True),
    journal.WorkflowResumed(),
    journal.WorkflowEnded(status="FAILED", task="a", attempt=1, failure=FAILURE, undone=True, standing=("b",)),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_survives_its_bytes(record: journal.Record) -> None:
    assert journal.decode(journal.encode(record)) == record


def test_each_sort_of_record_was_tried() -> None:
    tried = {type(record) for record in RECORDS}
    assert tried == set(journal.Record.__args__)


@pytest.mark.parametrize(
    "body", [b"", b"\x00", b"\xff" * 20, b"\x81\xa1r\xa5nonce", msgspec.msgpack.encode({"r": "settled"}), b"PK\x03\x04"]
)
def test_bytes_that_are_no_record_are_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="not a journal record"):
        journal.decode(body)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_record_or_refused(body: bytes) -> None:
    try:
        journal.decode(body)
    except ValueError:
        pass


@given(st.sampled_from(RECORDS), st.data())
def test_a_truncated_record_is_refused(record: journal.Record, data: st.DataObject) -> None:
    whole = journal.encode(record)
    with pytest.raises(ValueError, match="not a journal record"):
        journal.decode(whole[: data.draw(st.integers(0, len(whole) - 1))])
