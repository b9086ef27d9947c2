"""``exoflow wait``: the result of a workflow, whoever drives it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import click

from exoflow.cli.commands.run import print_result
from exoflow.cli.commands.show import name_argument
from exoflow.cli.session import Session, Span, with_session

if TYPE_CHECKING:
    from exoflow.client.engine import Engine


@click.command("wait")
@name_argument
@click.option("--timeout", metavar="SECONDS", type=Span(), help="Give up after so long (exit code 124).")
@with_session
def wait(session: Session, name: str, timeout: float | None) -> None:
    """Wait for a workflow and print its result.

    If its owner is dead, it goes on here. A workflow that failed is not resumed.
    """
    from exoflow.cli.following import follow
    from exoflow.cli.loading import adopt_script

    began_s = time.monotonic()
    with session.output.reserved(), session.engine() as engine:
        session.import_modules()
        engine.get_status(name)  # an unknown name is known at once
        adopt_script(engine, name)
        _, result = follow(session, engine, lambda: _waiting(engine, name, timeout), name)
    print_result(session, name, result, took_s=time.monotonic() - began_s)


def _waiting(engine: Engine, name: str, timeout_s: float | None) -> Future[Any]:
    """``engine.wait`` on a thread, so that Ctrl-C is still seen."""
    future: Future[Any] = Future()

    def work() -> None:
        try:
            result = engine.wait(name, timeout_s)
        except Exception as error:
            future.set_exception(_timed_out(name, timeout_s) if isinstance(error, TimeoutError) else error)
        else:
            future.set_result(result)

    threading.Thread(target=work, name="exoflow-wait", daemon=True).start()
    return future


def _timed_out(name: str, timeout_s: float | None) -> TimeoutError:
    return TimeoutError(f"workflow '{name}' has not ended within {timeout_s} s; wait longer, or look at it with: exoflow show {name}")
