"""The judge: the outside world as somebody who is not the engine sees it, and what must hold of it.

A run is exactly-once if its result and the external outputs that stand are those of *some* run without failures: one draw of each
nondeterministic task, seen alike by everyone, each external output applied once. Every simulated value says which draws it has seen, so
this needs no search. The checks, by the names that reports use:

I1 agreement, I2 reference, I3 count, I4 order, I5 output commit, I6 stability, I7 fencing, I8 durability, I9 liveness, I10 bounded work,
I11 no leaks, I12 determinism. What can be checked while the run goes on is (the cause is nearer then). I9, I11 and I12 are for whoever
drives the run to notice; they report here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Protocol

import msgspec

from exoflow.testing.simulation import situations

Draw = int | str
"""Of a nondeterministic task a fresh number, of others 0; ``!Name`` for a failure of that type that was caught, ``~`` for no output."""
Seen = dict[str, Draw]


class Spec(Protocol):
    """What the judge must know of a task."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def deterministic(self) -> bool: ...
    @property
    def on_unknown(self) -> str: ...
    @property
    def checkpoint(self) -> bool | str: ...
    @property
    def does(self) -> str: ...
    @property
    def timeout_s(self) -> float | None: ...


class Value(msgspec.Struct, frozen=True, array_like=True):
    """An output. ``digest`` is a function of the task, its draw and its inputs; ``seen`` holds the draws of all that led to it and its
    own. ``cargo`` is whatever else it holds."""

    path: str
    draw: Draw
    digest: str
    seen: Seen
    cargo: Any = None


def digest_of(path: str, draw: Draw, inputs: Iterable[str]) -> str:
    """What a task makes of its inputs."""
    return blake2b(f"{path} {draw} {' '.join(inputs)}".encode(), digest_size=9).hexdigest()


class Execution(msgspec.Struct):
    """One time that a function was called. ``unsettled``: a task whose value it rests on, and which was neither on record then nor can be
    made again exactly."""

    path: str
    epoch: int
    attempt: int
    inputs: tuple[str, ...]
    seen: Seen
    unsettled: str = ""


class Effect(msgspec.Struct):
    """An external output that was applied."""

    path: str
    epoch: int
    attempt: int
    key: str
    inputs: tuple[str, ...]
    seen: Seen
    times: int = 1


class Violation(msgspec.Struct, frozen=True):
    """``invariant`` does not hold: ``story`` says how, in the words of whoever looks from outside."""

    invariant: str
    workflow: str
    story: str

    def __str__(self) -> str:
        return f"{self.invariant} {NAMES[self.invariant]}: {self.workflow}: {self.story}"


NAMES = {
    "I1": "agreement",
    "I2": "reference",
    "I3": "count",
    "I4": "order",
    "I5": "output commit",
    "I6": "stability",
    "I7": "fencing",
    "I8": "durability",
    "I9": "liveness",
    "I10": "bounded work",
    "I11": "no leaks",
    "I12": "determinism",
    "bug": "a fault in the engine",
}


class StaleAttempt(Exception):
    """The outside has heard of a later owner of the workflow, and refuses an attempt of an earlier one, as the epoch lets it."""


class Chronicle:
    """What happened to one workflow, seen from outside: executions, external outputs, journal, what clients were told."""

    def __init__(
        self,
        name: str,
        find: Callable[[str], Spec],
        report: Callable[[str, str, str], None],
        reach: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.name, self._find, self._report, self._reach = name, find, report, reach
        self.returned: dict[str, int] = {}  # path -> epoch of the last value
        self.counts: dict[str, int] = {}  # of calls, by path
        self.rollbacks = Counter[str]()
        self.made: dict[str, Execution] = {}  # by digest of the value
        self.standing: dict[str, Effect] = {}  # of undoable tasks
        self.commits: dict[str, Effect] = {}  # of committing tasks
        self.revoked: set[tuple[str, int, int]] = set()  # task, epoch and attempt of outputs that were on record until they were undone
        self.undone: dict[str, tuple[Seen, int]] = {}  # of rollbacks since something was applied: what they had seen, how deep they were
        self.fence: dict[str, int] = {}
        self.ids: dict[str, str] = {}  # path -> id of the task in the engine
        self.saved: dict[str, tuple[dict[str, Any], bytes | None]] = {}  # id -> record, payload: durable and not void
        self.suspects: dict[str, Execution] = {}
        self.intents: set[tuple[str, int, int]] = set()  # id, attempt and epoch of those on record
        self.granted = 0
        self.status = ""
        self.shown: str | None = None
        self.cancelled = False  # and a client knows

    def violated(self, invariant: str, story: str) -> None:
        self._report(invariant, self.name, story)

    # --- told by tasks -------------------------------------------------------------------------------------------------------

    def begins(self, path: str, task: str, epoch: int, attempt: int, values: Sequence[Value], durable: Callable[[], set[str]]) -> Execution:
        """A function was called with these values. ``durable`` gives the digests of all values that are on record."""
        spec = self._find(path)
        self.ids[path] = task
        seen = self._merged(path, values)
        self._fence(path, epoch)
        if epoch >= self.granted and task in self.saved and self._attempt_saved(task) < (epoch, attempt):
            self.suspects[task] = Execution(path, epoch, attempt, (), seen)
        execution = Execution(path, epoch, attempt, tuple(value.digest for value in values), seen)
        if spec.kind == "committing":
            execution.unsettled = self._unsettled(execution.inputs, durable())
        if epoch < self.granted:
            self._reach(situations.ZOMBIE)
        if any(str(value.draw).startswith("!") for value in values):
            self._reach(situations.CAUGHT)
        self.counts[path] = self.counts.get(path, 0) + 1
        if spec.kind == "undoable" and path in self.standing and self.standing[path].epoch == epoch == self.granted:
            self.violated("I3", f"'{path}' runs again while its external output stands, without a rollback")
        return execution

    def _attempt_saved(self, task: str) -> tuple[int, int]:
        record = self.saved[task][0]
        return record["epoch"], record["attempt"]

    def _merged(self, path: str, values: Sequence[Value]) -> Seen:
        seen: Seen = {}
        for value in values:
            for name, draw in value.seen.items():
                if seen.setdefault(name, draw) != draw:
                    self.violated("I1", f"'{path}' sees two versions of '{name}' ({seen[name]} and {draw})")
        return seen

    def _fence(self, path: str, epoch: int) -> None:
        if epoch < self.fence.get(path, 0):
            self._reach(situations.ZOMBIE_REFUSED)
            raise StaleAttempt(f"'{path}' was touched by epoch {self.fence[path]}, this is {epoch}")
        self.fence[path] = epoch

    def returns(self, execution: Execution, digest: str) -> None:
        """The function made a value."""
        path, spec = execution.path, self._find(execution.path)
        if path in self.returned:
            self._reach(situations.MADE_AGAIN if spec.deterministic else situations.DREW_AGAIN)
            if spec.checkpoint and self.returned[path] < execution.epoch:
                self._reach(situations.LOST_SAVE)
        self.returned[path] = execution.epoch
        self.made[digest] = execution

    def applies(self, execution: Execution, key: str) -> bool:
        """The function has its external output now. False if it was there already (equal key).

        I5 looks at what was on record when the function began: while it runs, bytes may be damaged, and what it rests on undone."""
        path, spec = execution.path, self._find(execution.path)
        self._fence(path, execution.epoch)
        effect = Effect(path, execution.epoch, execution.attempt, key, execution.inputs, execution.seen)
        self.undone.clear()
        if spec.kind == "undoable":
            if path in self.standing:
                self.violated(
                    "I3",
                    f"the external output of '{path}' was applied while it stands (epochs {self.standing[path].epoch}, {effect.epoch})",
                )
            self.standing[path] = effect
            return True
        known = self.commits.get(path)
        if known is None:
            self.commits[path] = effect
            if execution.unsettled:
                story = f"'{path}' committed, and began before '{execution.unsettled}', which it depends on and which draws, was durable"
                self.violated("I5", story)
            return True
        known.times += 1
        if known.inputs != effect.inputs or known.key != key:
            self.violated("I1", f"'{path}' committed on {_short(known.seen)} and then on {_short(effect.seen)}")
        elif spec.on_unknown != "retry":
            self.violated("I3", f"'{path}' committed twice (epochs {known.epoch}, {effect.epoch}), and it is not idempotent")
        return False

    def _unsettled(self, inputs: Sequence[str], durable: set[str]) -> str:
        """A task that made one of these values, or one that it was made from, and whose value would be lost in a crash for good. Not one
        that was on record until it was undone: an attempt that was given up before its function was called may begin after that, and what
        it saw was on record when it was sent out."""
        waiting, known = list(inputs), set[str]()
        while waiting:
            digest = waiting.pop()
            made = self.made.get(digest)
            if digest in known or digest in durable or made is None or (self.ids[made.path], made.epoch, made.attempt) in self.revoked:
                continue
            known.add(digest)
            if not self._find(made.path).deterministic:
                return made.path
            waiting += made.inputs
        return ""

    def undoes(self, path: str, epoch: int, values: Sequence[Value]) -> None:
        """The rollback function does its work."""
        self._fence(path, epoch)
        effect = self.standing.get(path)
        if effect is None:
            return
        if effect.inputs != tuple(value.digest for value in values):
            self.violated("I4", f"the rollback of '{path}' got other values than the task")
        if not self._find(path).deterministic:
            for other in self.standing.values():
                if path in other.seen:
                    self.violated("I4", f"'{path}' was rolled back before '{other.path}', which rests on it")
        del self.standing[path]
        self.rollbacks[path] += 1
        depth = 1 + max((deep for seen, deep in self.undone.values() if path in seen), default=0)
        self.undone[path] = (effect.seen, depth)
        if depth >= 3:
            self._reach(situations.UNDO_DEEP)

    def happened(self, path: str, epoch: int) -> bool:
        """Whether a committing task had its effect, for whoever has to know; no attempt of an earlier owner may have it afterwards."""
        self._fence(path, epoch)
        return path in self.commits

    # --- told by the store ---------------------------------------------------------------------------------------------------

    def granted_to(self, epoch: int) -> None:
        """An owner got the workflow."""
        if epoch <= self.granted:
            self.violated("I7", f"epoch {epoch} was granted after {self.granted}")
        self.granted = epoch
        self.suspects.clear()

    def written(self, epoch: int, status: str | None, entries: Iterable[tuple[bytes, bytes | None]]) -> None:
        """A write was applied."""
        if epoch != self.granted:
            self.violated("I7", f"a write of epoch {epoch} was accepted, and {self.granted} was granted")
        for body, payload in entries:
            self._record(epoch, msgspec.msgpack.decode(body), payload)
        if status is not None:
            self._status(status)

    def _record(self, epoch: int, record: dict[str, Any], payload: bytes | None) -> None:
        failure = record.get("failure")
        if failure is not None:
            if failure[0] == "timeout":
                self._reach(situations.TIMED_OUT)
            if "exoflow.errors.DeterminismViolationError" in failure[1]:
                self._reach(situations.LIE)
            if "exoflow.errors.PoisonTaskError" in failure[1]:
                self._reach(situations.POISON)
        match record["r"]:
            case "saved":
                if record["epoch"] > epoch:
                    self.violated("I7", f"an output of epoch {record['epoch']} was written under {epoch}")
                self.saved[record["task"]] = (record, payload)
            case "intent":
                attempt = (record["task"], record["attempt"], record["epoch"])
                if attempt in self.intents:
                    self.violated("I8", f"the intent of {attempt} was written twice")
                self.intents.add(attempt)
            case "withdrawn":
                self._reach(situations.WITHDRAWN)
                for task in record["tasks"]:
                    self._void(task)
            case "undoing":
                if record["task"] in self.saved:
                    self.revoked.add((record["task"], *self._attempt_saved(record["task"])))
                self._void(record["task"])
            case "spoiled":
                self._void(record["task"])
            case "resumed":
                self.cancelled = False

    def _void(self, task: str) -> None:
        self.saved.pop(task, None)
        self.suspects.pop(task, None)

    def _status(self, status: str) -> None:
        if self.status in ("SUCCEEDED", "CANCELLED") and status != self.status:
            self.violated("I6", f"it was {self.status}, and then {status}")
        self.status = status

    # --- told by clients -----------------------------------------------------------------------------------------------------

    def tell(self, outcome: str) -> None:
        """A client was told how the workflow ended: ``STATUS digest``."""
        status = outcome.partition(" ")[0]
        if status in ("SUCCEEDED", "CANCELLED"):
            if status != self.status:
                self.violated("I8", f"a client was told {status} when the store said {self.status or 'nothing'}")
            if self.shown is not None and self.shown != outcome:
                self.violated("I6", f"a client was told {outcome} after {self.shown}")
            self.shown = outcome

    # --- the verdict ---------------------------------------------------------------------------------------------------------

    def judge(self, result: Sequence[Value] | None, dag: Any, *, said_to_stand: Collection[str] | None, lies: bool, calm: bool) -> None:
        """Exactly-once, at the end. ``result`` holds the values of the result if the workflow SUCCEEDED; otherwise ``said_to_stand`` are
        the ids of the tasks whose external outputs stand, or may, by what the engine says. ``calm``: nothing went wrong around it."""
        if calm and result is not None and self.granted == 1:
            self._check_thrift()
        for task, execution in self.suspects.items():
            self.violated(
                "I10", f"'{task}' ran again (attempt {execution.attempt} of epoch {execution.epoch}) although its output was saved"
            )
        if said_to_stand is not None:
            for path in self.standing:
                if self.ids[path] not in said_to_stand:
                    self.violated("I3", f"the external output of '{path}' stands, and the engine does not know")
        if lies:
            return
        truth = self._agreement(result)
        if truth is None:
            return
        reference = Reference(dag, truth)
        for effect in (*self.standing.values(), *self.commits.values()):
            expected = reference.inputs(effect.path)
            if expected is None:
                if result is not None:
                    self.violated("I3", f"'{effect.path}' had an external output that stands, and no run without failures reaches it")
            elif expected != effect.inputs and "?" not in expected:
                self.violated("I2", f"'{effect.path}' acted on {effect.inputs}, a run without failures gives {expected}")
        if result is not None:
            self._judge_success(result, reference)

    def _check_thrift(self) -> None:
        """I10: nobody but who raises, hangs or dies was called twice when nothing else went wrong. (Who raised after it was given what it
        could change gets that anew, and so others may be called again; and who hangs on the loop holds up others, whose time runs out.)"""
        if any(self._find(path).does == "hold" for path in self.counts):
            return
        held_up = any(self._find(path).does == "hang" for path in self.counts)
        for path, calls in self.counts.items():
            spec = self._find(path)
            if calls > 1 and spec.does not in ("raise", "hang", "die") and not (held_up and spec.timeout_s):
                self.violated("I10", f"'{path}' was called {calls} times, and nothing had gone wrong")

    def _agreement(self, result: Sequence[Value] | None) -> Seen | None:
        """I1: the draw of each task that all survivors share; None if they do not."""
        truth: Seen = {}
        survivors: list[tuple[str, Seen]] = [("the result", value.seen) for value in result or ()]
        survivors += [(f"the external output of '{effect.path}'", effect.seen) for effect in self.standing.values()]
        survivors += [(f"the commit of '{effect.path}'", effect.seen) for effect in self.commits.values()]
        saw: dict[str, str] = {}
        for who, seen in survivors:
            for name, draw in seen.items():
                if truth.setdefault(name, draw) != draw:
                    self.violated("I1", f"{who} has seen draw {draw} of '{name}', but {saw[name]} has seen {truth[name]}")
                    return None
                saw.setdefault(name, who)
        return truth

    def _judge_success(self, result: Sequence[Value], reference: Reference) -> None:
        expected = reference.result()
        got = tuple(value.digest for value in result)
        if "?" not in expected and got != expected:
            self.violated("I2", f"the result is {got}, a run without failures gives {expected}")
        for path, spec in reference.reached():
            if spec.kind == "undoable" and path not in self.standing and not reference.failed(path):
                self.violated("I3", f"the external output of '{path}' does not stand")
            if spec.kind == "committing" and path not in self.commits and not reference.failed(path):
                self.violated("I3", f"'{path}' never had its effect")


class Reference:
    """A workflow without failures, given the draw of each task. Knows nothing of engines."""

    def __init__(self, dag: Any, draws: Mapping[str, Draw]) -> None:
        self._draws = draws
        self._specs: dict[str, tuple[Any, str, str]] = {}  # path -> spec, prefix of its siblings, path of its parent
        self._root = self._enter(dag, "", "")
        self._outputs: dict[str, tuple[str, ...]] = {}

    def _enter(self, dag: Any, prefix: str, parent: str) -> str:
        for spec in dag.tasks:
            path = prefix + spec.name
            self._specs[path] = (spec, prefix, parent)
            draw = self._draws.get(path)
            if isinstance(draw, int):
                for name, inner in grown(spec, draw):
                    self._enter(inner, f"{path}/{name}", path)
        return f"{prefix}{dag.tasks[-1].name}"

    def reached(self) -> Iterable[tuple[str, Any]]:
        """Every task that runs."""
        return ((path, spec) for path, (spec, _, _) in self._specs.items())

    def failed(self, path: str) -> bool:
        """Whether its failure was caught, or may have been and nobody has seen it."""
        draw = self._draws.get(path)
        return bool(self._specs[path][0].catch) if draw is None else str(draw).startswith("!")

    def result(self) -> tuple[str, ...]:
        return self.output(self._root)

    def inputs(self, path: str) -> tuple[str, ...] | None:
        """Digests of all values that the task gets; ``?`` for one that is not known. None if it does not run."""
        found = self._specs.get(path)
        if found is None:
            return None
        spec, prefix, parent = found
        own = (self._own(parent),) if parent else ()
        return own + tuple(digest for up in spec.reads for digest in self.output(prefix + up))

    def _own(self, path: str) -> str:
        """What the function itself made, be it a value or a sub-workflow."""
        draw = self._draws.get(path)
        inputs = self.inputs(path)
        if draw is None or inputs is None or "?" in inputs:
            return "?"
        return digest_of(path, draw, inputs)

    def output(self, path: str) -> tuple[str, ...]:
        """Digests of the values that consumers get."""
        known = self._outputs.get(path)
        if known is not None:
            return known
        spec, draw = self._specs[path][0], self._draws.get(path)
        inner = list(grown(spec, draw)) if isinstance(draw, int) else []
        if isinstance(draw, str):
            output: tuple[str, ...] = (digest_of(path, draw, ()),)
        elif inner:
            output = tuple(digest for name, dag in inner for digest in self.output(f"{path}/{name}{dag.tasks[-1].name}"))
        else:
            output = (self._own(path),)
        self._outputs[path] = output
        return output


def grown(spec: Any, draw: int) -> Iterable[tuple[str, Any]]:
    """The sub-workflows that a task returns when it draws that: a prefix for the names of their tasks, and the DAG."""
    if spec.does == "grow":
        number = (draw + spec.times) % len(spec.grows)
        yield f"{number}.", spec.grows[number]
    elif spec.does == "map":
        for number in range(1 + (draw + spec.times) % 3):
            yield f"{number}.", spec.grows[0]


def _short(seen: Seen) -> str:
    return ", ".join(f"{name}={draw}" for name, draw in sorted(seen.items()) if draw != 0) or "nothing that draws"
