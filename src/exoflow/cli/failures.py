"""Errors as people, scripts and shells get them: a message that says what to do next, a JSON document, an exit code."""

from __future__ import annotations

import traceback
from pathlib import Path
from signal import SIGINT
from typing import Any

from exoflow.cli.output import Output, block, plain
from exoflow.errors import EngineBug, ExoflowError, RemoteTaskError

EXIT_CODES = {
    "usage": 2,
    "check_failed": 3,
    "workflow_failed": 4,
    "task_error": 4,
    "in_doubt": 5,
    "blocked": 6,
    "cancelled": 7,
    "environment": 8,
    "fenced": 9,
    "engine_bug": 70,
    "error": 70,
    "timed_out": 124,  # as timeout(1) has it
    "interrupted": 130,  # by Ctrl-C; by another signal, 128 and its number, as shells have it
}
"""From the ``code`` of an error, or of the nearest class above it that is listed, to the exit code of the command."""

_SAID_HERE = {
    "unsafe_workflow": "on the command line: exoflow run --mode auto ...; exoflow check --mode auto ... shows what that turns on",
    "code_changed": "on the command line: --on-code-change accept. If a task is missing, name what defines it: -m MODULE or -m FILE.py",
    "payload_unreadable": "if it is defined in a script or module that is not imported here, name that: -m MODULE or -m FILE.py",
    "not_found": "exoflow list shows those that are there; --store names another store",
}
"""What the messages say about calls, in the words of the command line."""

_PACKAGE = str(Path(__file__).parents[1])


class Interrupted(Exception):
    """Ctrl-C, or another ``signal``, ended the command. ``outcome`` says what became of the workflow: detached, cancelled, unknown."""

    def __init__(self, message: str, *, outcome: str = "unknown", workflow_ids: tuple[str, ...] = (), signal: int = SIGINT) -> None:
        super().__init__(message)
        self.outcome, self.workflow_ids, self.signal = outcome, workflow_ids, signal
        self.said = False


def report(error: BaseException, output: Output, *, verbose: bool) -> int:
    """Say what went wrong; returns the exit code."""
    if isinstance(error, Interrupted):
        return _interrupted(error, output)
    if not isinstance(error, ExoflowError):
        if isinstance(error, TimeoutError):
            return _timed_out(error, output)
        error = _unexpected(error)
    if output.as_json:
        output.document(document(error))
    else:
        output.note(f"error: {block(str(error))}")
        story = task_traceback(error)
        if story:
            output.note(_indented(story))
        hint = _hint(error)
        if hint:
            output.note(hint)
    if verbose:
        output.note(block("".join(traceback.format_exception(error))))
    return exit_code(error)


def _hint(error: ExoflowError) -> str | None:
    if error.code == "payload_unreadable" and "__main__" in str(error):
        return "it was started by a script, which this process is not: run that script again, and it goes on"
    return _SAID_HERE.get(error.code)


def exit_code(error: ExoflowError) -> int:
    """See EXIT_CODES."""
    codes = (str(vars(cls).get("code")) for cls in type(error).__mro__)
    return next(EXIT_CODES[code] for code in codes if code in EXIT_CODES)


def document(error: ExoflowError) -> dict[str, Any]:
    """An error in JSON: its code, its message, and its fields."""
    fields = {name: plain(value)[0] if name == "findings" else _field(value) for name, value in error.fields.items()}
    story = task_traceback(error)
    extra = {"traceback": story} if story else {}
    return {"error": {**fields, **extra, "code": error.code, "message": str(error)}}


def misuse(message: str, output: Output) -> int:
    """Words that do not fit the command, in JSON."""
    output.document({"error": {"code": "usage", "message": message}})
    return EXIT_CODES["usage"]


def task_traceback(error: BaseException) -> str:
    """Where in the user's code a task failed, as far as that is known; "" for errors that are not a task's."""
    cause = error.__cause__
    if getattr(error, "code", "") != "task_failed" or cause is None:
        return ""
    if isinstance(cause, RemoteTaskError):
        return block(str(cause.fields.get("traceback") or "")).rstrip()
    where = cause.__traceback__
    while where is not None and where.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        where = where.tb_next
    if where is None and not getattr(cause, "__notes__", None):
        return ""
    return block("".join(traceback.format_exception(type(cause), cause, where))).rstrip()


def _field(value: Any) -> Any:
    value, text = plain(value)
    return value if text is None else text


def _interrupted(error: Interrupted, output: Output) -> int:
    if output.as_json:
        ids = list(error.workflow_ids)
        output.document({"error": {"code": "interrupted", "message": str(error), "outcome": error.outcome, "workflow_ids": ids}})
    elif not error.said:
        output.note(block(str(error)))
    return 128 + error.signal


def _timed_out(error: TimeoutError, output: Output) -> int:
    if output.as_json:
        output.document({"error": {"code": "timed_out", "message": str(error)}})
    else:
        output.note(f"error: {block(str(error))}")
    return EXIT_CODES["timed_out"]


def _unexpected(error: BaseException) -> ExoflowError:
    where = "".join(traceback.format_exception(error)).rstrip()
    bug = EngineBug(message=f"{type(error).__name__}: {error}", story=where)
    bug.__cause__ = error
    return bug


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
