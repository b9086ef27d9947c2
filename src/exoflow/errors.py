"""Every exception that ExoFlow raises on purpose.

The first cut is who is at fault::

    ExoflowError
    ├── UsageError             your call
    │   ├── InvalidIdError, InvalidOptionError, SignatureError, ArgumentNotSerializableError, ArgumentNotJsonError
    │   ├── CycleError, ForeignNodeError, DuplicateTaskNameError, DuplicateRegistrationError
    │   ├── UnresumableTaskError, WrongContextError, SelfWaitError, ClosedError, ForkedHandleError
    │   ├── WorkflowNotFoundError, WorkflowIdConflictError, WorkflowAlreadyExistsError
    │   └── InvalidStateError, CodeChangedError, PayloadTooLargeError, ArgumentsTooLargeError, StoreConfigError, MissingExtraError
    ├── CheckFailed            your graph
    │   └── UnsafeWorkflowError                       carries .findings
    ├── WorkflowFailed         your workflow ended without a result
    │   ├── TaskFailed                                the task's exception is the cause
    │   ├── WorkflowCancelledError, WorkflowInDoubtError, WorkflowBlockedError
    ├── TaskError              why an attempt failed when the function itself did not say
    │   ├── TaskTimeoutError, PoisonTaskError, WorkerDiedError, ResultNotSerializableError
    │   ├── RemoteTaskError, DeterminismViolationError, RollbackFailedError
    │   ├── InputMutatedError, UnknownOutcomeError, FunctionError, FunctionRefusedError
    │   └── RefLostError, CheckpointFailedError
    ├── EnvironmentFault       the world; may pass when tried again
    │   ├── StoreUnavailable, StoreOpenError, StorageFullError, StoreCorruptError
    │   └── CheckpointCorruptError, PayloadUnreadableError, ExecutorUnavailable, FunctionUnavailable
    ├── Fenced                 another owner
    │   └── LeaseLost
    └── EngineBug              us; please report

Each class has keyword fields, a stable ``code`` (HTTP status and exit code hang on it), and a message made from the fields: what,
which, why, what next. All of them survive pickling.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self


class ExoflowError(Exception):
    """Root of all errors raised by ExoFlow. Fields given as keywords become attributes."""

    code: ClassVar[str] = "error"
    template: ClassVar[str] = "{message}"

    def __init__(self, **fields: Any) -> None:
        super().__init__()
        self.fields = fields
        self.__dict__.update(fields)

    @classmethod
    def retold(cls, text: str) -> Self:
        """The error as another process, or an earlier life of this one, put it into words; the words are all there is."""
        return cls(message=text)

    def __str__(self) -> str:
        is_retold = self.fields.keys() == {"message"}
        return str(self.fields["message"]) if is_retold else self.template.format(**self.fields)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.fields)


def _rebuild(cls: type[ExoflowError], fields: dict[str, Any]) -> ExoflowError:
    return cls(**fields)


def named(name: str) -> type[ExoflowError] | None:
    """The class of this module that ``exoflow.errors.X`` names, or None."""
    module, _, last = name.rpartition(".")
    found = globals().get(last) if module == __name__ else None
    return found if isinstance(found, type) and issubclass(found, ExoflowError) else None


# --- your call ---------------------------------------------------------------------------------------------------------------


class UsageError(ExoflowError):
    """The call was wrong; nothing was written."""

    code = "usage"


class InvalidIdError(UsageError, ValueError, TypeError):
    """A workflow id or task name that is empty, too long, or holds a character that is not allowed."""

    code = "invalid_id"


class InvalidOptionError(UsageError, ValueError):
    """An annotation or option with a value that means nothing, or that contradicts another."""

    code = "invalid_option"


class SignatureError(UsageError, TypeError):
    """Arguments that do not fit the task's signature, found when the task is bound."""

    code = "signature"


class ArgumentNotSerializableError(UsageError, TypeError):
    """An argument that cannot be saved; ``path`` leads to the culprit."""

    code = "argument_not_serializable"
    template = "argument of task '{task}' cannot be pickled: at {path} ({type_name}): {reason}; make it inside the task"


class ArgumentNotJsonError(ArgumentNotSerializableError):
    """An argument of a function elsewhere that JSON cannot hold; ``path`` leads to the culprit."""

    code = "argument_not_json"
    template = "argument of task '{task}' is not JSON: at {path} ({type_name}): {reason}; make it of such values"


class CycleError(UsageError, ValueError):
    """The tasks depend on each other in a circle."""

    code = "cycle"
    template = "task graph has a cycle: {path}"


class ForeignNodeError(UsageError, ValueError):
    """A node was used in a place to which it does not belong."""

    code = "foreign_node"


class DuplicateTaskNameError(UsageError, ValueError):
    """Two tasks of one workflow were given the same explicit name."""

    code = "duplicate_task_name"
    template = "two tasks are named '{name}' ({first} and {second}); give one of them another name="


class DuplicateRegistrationError(UsageError, ValueError):
    """Two different functions claim one registered name."""

    code = "duplicate_registration"
    template = "the name '{name}' is registered by {first} and again by {second}; give one of them another name="


class UnresumableTaskError(UsageError, ValueError):
    """A task whose function another process could not find again."""

    code = "unresumable_task"
    template = (
        "task '{task}' at {location} has no importable name, so a crashed workflow could not find it again; "
        "move the function to the top level of a module, or use Engine(store='memory:')"
    )


class WrongContextError(UsageError, RuntimeError):
    """A call in a place where it cannot work; the message says what to call instead."""

    code = "wrong_context"


class SelfWaitError(UsageError, RuntimeError):
    """A task waits for the workflow that it belongs to, which would wait for ever."""

    code = "self_wait"
    template = "a task of workflow '{workflow_id}' waits for that same workflow; return a DAG from the task instead"


class ClosedError(UsageError, RuntimeError):
    """An engine or store was used after close()."""

    code = "closed"
    template = "{what} is closed; open a new one"


class ForkedHandleError(UsageError, RuntimeError):
    """An engine or store was used in a process forked from the one that opened it."""

    code = "forked_handle"
    template = (
        "{what} was opened in process {opened_in} and used in {used_in}, a fork of it; fork first and open then, or start a new process"
    )


class WorkflowNotFoundError(UsageError, LookupError):
    """No workflow has this id in this store."""

    code = "not_found"
    template = "no workflow '{workflow_id}' in store {store}"


class TaskNotFoundError(UsageError, LookupError):
    """The workflow has no such task, or the task has no saved output."""

    code = "task_not_found"
    template = "workflow '{workflow_id}' has no {what} '{task}'{hint}"


class WorkflowIdConflictError(UsageError, ValueError):
    """The id belongs to a workflow with another definition or other arguments."""

    code = "id_conflict"
    template = (
        "workflow '{workflow_id}' exists with another definition or other arguments ({changed}); "
        "choose a new name, or read the old one with exoflow.get_output('{workflow_id}')"
    )


class WorkflowAlreadyExistsError(UsageError, ValueError):
    """The id is taken and the caller asked for a new workflow (``on_existing="fail"``)."""

    code = "already_exists"
    template = "workflow '{workflow_id}' already exists with status {status}"


class InvalidStateError(UsageError, RuntimeError):
    """The workflow is in a state in which this cannot be done."""

    code = "invalid_state"
    template = "workflow '{workflow_id}' is {status}; {reason}"


class CodeChangedError(UsageError, RuntimeError):
    """Task code changed between the crash and the resume."""

    code = "code_changed"
    template = (
        "since workflow '{workflow_id}' began, code of unfinished tasks changed: {changed}; finished tasks are kept; "
        "restore the code, or pass on_code_change='accept'"
    )


class PayloadTooLargeError(UsageError, ValueError):
    """A value is larger than the limit, found before it is written."""

    code = "payload_too_large"
    template = "{what} is {size_bytes} bytes; the limit is {limit_bytes} (payload_limit); write it to your own storage and pass its name"


class ArgumentsTooLargeError(PayloadTooLargeError):
    """The arguments of a function elsewhere are more than it takes in one request; nothing was sent."""

    code = "arguments_too_large"
    template = "{what} are {size_bytes} bytes of JSON; the limit is {limit_bytes}; put them into a bucket and pass the name"


class StoreConfigError(UsageError, ValueError):
    """A store URL that names nothing known; passwords in it are masked."""

    code = "store_config"


class MissingExtraError(UsageError, ImportError):
    """A feature needs an optional dependency that is not installed."""

    code = "missing_extra"
    template = "{feature} needs the extra '{extra}': pip install 'exoflow-engine[{extra}]'"


# --- your graph --------------------------------------------------------------------------------------------------------------


class CheckFailed(ExoflowError):
    """The graph was refused before anything ran."""

    code = "check_failed"


class UnsafeWorkflowError(CheckFailed, ValueError):
    """Some crash would break exactly-once. ``findings`` say where, by which path, and the cheapest repair."""

    code = "unsafe_workflow"
    findings: Any = ()

    def __str__(self) -> str:
        if "findings" not in self.fields:
            return super().__str__()
        lines = [f"{len(self.fields['findings'])} task(s) could break exactly-once in a crash:"]
        lines += [f"  {finding}" for finding in self.fields["findings"]]
        lines.append("change the annotations as said, or pass mode='auto' to turn the missing checkpoints on")
        return "\n".join(lines)


# --- your workflow -----------------------------------------------------------------------------------------------------------


class WorkflowFailed(ExoflowError):
    """The workflow ended, or stopped, without a result."""

    code = "workflow_failed"


class TaskFailed(WorkflowFailed):
    """A task failed for good. ``__cause__`` is its exception (or :class:`RemoteTaskError` with its type, text and traceback)."""

    code = "task_failed"
    template = "task '{task}' (attempt {attempt}) of workflow '{workflow_id}' failed: {error}. Resume it with: exoflow resume {workflow_id}"


class WorkflowCancelledError(WorkflowFailed):
    """The workflow was cancelled. ``standing`` names the tasks whose external outputs stand."""

    code = "cancelled"
    template = "workflow '{workflow_id}' was cancelled; external outputs that stand: {standing}"


class WorkflowInDoubtError(WorkflowFailed):
    """A committing task died, nobody knows whether its effect happened, and it asked for a person to decide."""

    code = "in_doubt"
    template = (
        "workflow '{workflow_id}' is IN_DOUBT: nobody knows whether task '{task}' (attempt {attempt}) had its effect. "
        "Look, then say so: exoflow resume {workflow_id} --happened {task}  (or --not-happened {task})"
    )


class WorkflowBlockedError(WorkflowFailed):
    """The workflow cannot go on until something outside is repaired; nothing is lost and resume continues it."""

    code = "blocked"
    template = "workflow '{workflow_id}' is BLOCKED: {reason}. Repair that, then: exoflow resume {workflow_id}"


# --- why an attempt failed ---------------------------------------------------------------------------------------------------


class TaskError(ExoflowError):
    """An attempt failed for a reason that is not an exception of the function."""

    code = "task_error"


class TaskTimeoutError(TaskError, TimeoutError):
    """An attempt ran longer than the task's ``timeout``."""

    code = "task_timeout"
    template = "attempt {attempt} of task '{task}' ran longer than its timeout of {timeout_s} s"


class PoisonTaskError(TaskError):
    """A task killed its worker too often to be tried again."""

    code = "poison_task"
    template = "task '{task}' killed its worker {deaths} times ({reason}); it is not tried again"


class WorkerDiedError(TaskError):
    """The process that ran the attempt died."""

    code = "worker_died"
    template = "the worker of task '{task}' died: {reason}"


class ResultNotSerializableError(TaskError, TypeError):
    """A result that cannot be saved; not retried. ``path`` leads to the culprit."""

    code = "result_not_serializable"
    template = "result of task '{task}' cannot be pickled: at {path} ({type_name}): {reason}"


class InputMutatedError(TaskError, ValueError):
    """With ``check_inputs``: a task changed an argument in place, which others hold as well."""

    code = "input_mutated"
    template = "task '{task}' changed its argument '{argument}' in place, where other tasks and its rollback see it; copy it first"


class UnknownOutcomeError(TaskError):
    """Raised by a task that cannot know whether it had its effect: a request was sent and no answer came. The engine goes on as after the
    death of a worker: what the task's annotations allow, after a pause, eight times at most."""

    code = "unknown_outcome"
    template = "nobody knows whether it had its effect: {reason}"


class FunctionError(TaskError):
    """A function elsewhere ran and failed: its own ``error_type``, ``error_message`` and ``stack_trace`` (lines)."""

    code = "function_error"
    template = "function '{function}' failed: {error_type}: {error_message}"
    stack_trace: tuple[str, ...] = ()


class FunctionRefusedError(TaskError):
    """A function elsewhere did not run and never will as it was called: unknown, not allowed, not understood. Not retried."""

    code = "function_refused"
    template = "function '{function}' did not run: {reason}"


class RefLostError(TaskError, LookupError):
    """The data behind a Ref is gone. In a task, it is a loss of the output that held the Ref: what is needed of it is loaded or made again,
    and then the task runs again. ``kind`` and ``ref`` say which Ref."""

    kind: str
    ref: str
    code = "ref_lost"
    template = "the data behind Ref '{ref}' ({kind}) is gone: {reason}"


class CheckpointFailedError(TaskError):
    """The checkpoint of a Ref raised, so what holds it cannot be saved: an output, or the arguments of a workflow, which is then not
    begun. That error is the cause where it is at hand."""

    code = "checkpoint_failed"
    template = "{what} cannot be saved, because the checkpoint of Ref '{ref}' failed: {reason}"


class RemoteTaskError(TaskError):
    """Stands for an exception of another process or of an earlier run: type, text and traceback as data, never unpickled."""

    code = "remote_task_error"
    template = "{type_name}: {text}"


class DeterminismViolationError(TaskError):
    """A task annotated deterministic gave another output for the same inputs."""

    code = "determinism_violation"
    template = (
        "task '{task}' is annotated deterministic, but a second run on the same inputs gave another output "
        "({first} before, {second} now); find the source of chance in it, or drop deterministic=True"
    )


class RollbackFailedError(TaskError):
    """A rollback function failed as often as it was allowed to."""

    code = "rollback_failed"
    template = "rollback of task '{task}' failed {tries} times: {error}; its external output still stands"


# --- the world ---------------------------------------------------------------------------------------------------------------


class EnvironmentFault(ExoflowError):
    """Something outside failed; the same call may go through later."""

    code = "environment"


class StoreUnavailable(EnvironmentFault):
    """The store does not answer."""

    code = "store_unavailable"
    template = "store {store} is unavailable: {reason}"


class StoreOpenError(EnvironmentFault):
    """The store cannot be opened: not a store, newer schema, read-only, no permission."""

    code = "store_open"
    template = "store {store} cannot be opened: {reason}"


class StorageFullError(EnvironmentFault):
    """The disk or quota of the store is full. Nothing half-written is visible; work goes on when there is room."""

    code = "storage_full"
    template = "store {store} is full: {reason}"


class StoreCorruptError(EnvironmentFault):
    """A record of the store fails its digest."""

    code = "store_corrupt"
    template = "store {store} is damaged: {what} fails its digest; restore it from a backup"


class CheckpointCorruptError(EnvironmentFault):
    """A saved output fails its digest and must not be made again; ``why`` says what rests on it."""

    code = "checkpoint_corrupt"
    template = (
        "the saved output of task '{task}' of workflow '{workflow_id}' is damaged, and {why}, so it was not made again; "
        "restore {what} from a backup"
    )


class PayloadUnreadableError(EnvironmentFault):
    """Saved bytes are sound but cannot be turned into a value here (a class moved, a module is missing)."""

    code = "payload_unreadable"
    template = "the saved value of '{what}' cannot be loaded: {reason}; restore the class or module it names, then resume"


class ExecutorUnavailable(EnvironmentFault):
    """The executor cannot take tasks."""

    code = "executor_unavailable"
    template = "executor '{executor}' is unavailable: {reason}"


class FunctionUnavailable(EnvironmentFault):
    """A function elsewhere did not run: it was throttled, or could not be reached. Trying again is safe, whatever the task is."""

    code = "function_unavailable"
    template = "function '{function}' did not run: {reason}"


# --- another owner, and us ---------------------------------------------------------------------------------------------------


class Fenced(ExoflowError):
    """A write was refused because another process owns the workflow now."""

    code = "fenced"
    template = "workflow '{workflow_id}' belongs to another owner now (this one held epoch {epoch})"


class LeaseLost(Fenced):
    """This engine could not renew its lease in time and stopped by itself."""

    code = "lease_lost"
    template = "this engine could not renew its lease on workflow '{workflow_id}' (epoch {epoch}) and stopped driving it"


class EngineBug(ExoflowError):
    """A law of the engine does not hold. Nothing was guessed; please report this text."""

    code = "engine_bug"
    template = "ExoFlow found a fault in itself: {message}\n{story}\nPlease report this text."
