"""The command in processes of its own: Ctrl-C, a terminal, and who prints where."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest

from tests.patience import DEADLINE_S

pytestmark = pytest.mark.slow
"""Slow: starts processes."""

CTRL_C = b"\x03"


class Terminal:
    """``exoflow WORDS`` in a terminal of 100 x 30 characters."""

    def __init__(self, exo: Any, *words: str, **environment: str) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BEGIN, *words],
            cwd=exo.folder,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color", **environment},
        )
        exo.processes.append(self.process)
        os.close(theirs)
        self.raw = b""

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def until(self, text: str) -> None:
        """Read until ``text`` has been shown."""
        deadline = time.monotonic() + DEADLINE_S
        while text not in self.text:
            assert time.monotonic() < deadline, f"never shows {text!r}:\n{self.text}"
            assert self._read(), f"ends without showing {text!r}:\n{self.text}"

    def ended(self) -> int:
        """Read to the end; the exit code."""
        while self._read():
            pass
        os.close(self._ours)
        return self.process.wait(DEADLINE_S)

    def _read(self) -> bool:
        if not select.select([self._ours], [], [], DEADLINE_S)[0]:
            self.process.kill()
            pytest.fail(f"hangs after:\n{self.text}")
        with contextlib.suppress(OSError):  # how a terminal says that nobody is left
            more = os.read(self._ours, 65536)
            self.raw += more
            return bool(more)
        return False

    @property
    def text(self) -> str:
        """What was shown, without colours and movements."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw.decode()).replace("\r\n", "\n")


_BEGIN = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C is a signal
from exoflow.cli.main import app
app()
"""


# --- without a terminal ------------------------------------------------------------------------------------------------------------


def test_ctrl_c_detaches_and_the_workflow_can_be_resumed(exo: Any) -> None:
    process = exo.start("run", "shop:order", "--name", "o")
    exo.began("gated book")
    process.send_signal(signal.SIGINT)
    got = exo.finished(process, code=130)
    assert (
        "detached from o: tasks that run get 0.2 s to finish, what is durable stays; it can be resumed with: exoflow resume o\n" in got.err
    )
    assert got.out == ""
    exo.open_gate()
    assert exo("resume", "o").out == "{'value': 'book'}\n"
    assert exo.ran().count("fetch book") == 1


def test_ctrl_c_in_json(exo: Any) -> None:
    process = exo.start("run", "shop:order", "--name", "o", "--store", "s.db", "--json")
    exo.began("gated book")
    process.send_signal(signal.SIGINT)
    error = json.loads(exo.finished(process, code=130).out)["error"]
    assert (error["code"], error["outcome"], error["workflow_ids"]) == ("interrupted", "detached", ["o"])
    assert "exoflow resume o --store s.db" in error["message"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_when_told_to_end_it_lets_tasks_finish(exo: Any, number: int) -> None:
    process = exo.start("run", "shop:order", "--name", "o", env={**os.environ, "EXOFLOW_DRAIN_S": "30"})
    exo.began("gated book")
    process.send_signal(number)
    assert process.stderr is not None
    told = next(line for line in process.stderr if line.startswith("detached"))  # behind the progress so far
    assert told.startswith("detached from o: tasks that run get 30 s to finish, what is durable stays; it can be resumed with: ")
    exo.open_gate()
    exo.finished(process, code=128 + number)
    assert not list(Path(".exoflow/exoflow.db-blobs/locks").iterdir()), "others may go on at once"
    assert exo("resume", "o").out == "{'value': 'book'}\n"
    assert exo.ran().count("gated book") == 1
    assert exo.ran()[-1] == "finish book", "after it was told to end, it began nothing"


def test_told_twice_it_ends_at_once(exo: Any) -> None:
    process = exo.start("run", "shop:order", "--name", "o", env={**os.environ, "EXOFLOW_DRAIN_S": "1000"})
    exo.began("gated book")
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    assert any(line.startswith("detached from o") for line in process.stderr)
    process.send_signal(signal.SIGTERM)
    exo.finished(process, code=-signal.SIGTERM)
    exo.open_gate()
    assert exo("resume", "o").out == "{'value': 'book'}\n"


def test_it_outlives_its_terminal_if_it_shall(exo: Any) -> None:
    """As nohup starts it."""
    process = exo.start("run", "shop:order", "--name", "o", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    exo.began("gated book")
    process.send_signal(signal.SIGHUP)
    exo.open_gate()
    assert exo.finished(process).out == "{'value': 'book'}\n"


def test_ctrl_c_while_waiting_for_another_process(exo: Any) -> None:
    other = exo.start("run", "shop:order", "--name", "o")
    exo.began("gated book")
    waiting = Terminal(exo, "wait", "o")
    waiting.until("driven by another process")
    waiting.press(CTRL_C)
    waiting.until("Ctrl-C again")
    assert waiting.ended() == 130
    assert "no longer waiting for o, which goes on in another process; look at it with: exoflow show o" in waiting.text
    exo.open_gate()
    assert exo.finished(other).out == "{'value': 'book'}\n"


def test_ctrl_c_while_a_module_is_imported(exo: Any) -> None:
    Path("slow.py").write_text("import pathlib, time\npathlib.Path('ran').write_text('import\\n')\nwhile True: time.sleep(0.01)\n")
    process = exo.start("run", "slow:x")
    exo.began("import")
    process.send_signal(signal.SIGINT)
    got = exo.finished(process, code=130)
    assert got.err.startswith("interrupted; ")


def test_nothing_but_the_document_is_on_stdout(exo: Any) -> None:
    """Not even what tasks print, or processes that they start."""
    got = exo.finished(exo.start("run", "shop:loud", "--json"))
    assert json.loads(got.out)["result"] == "quiet"
    assert "said by a task" in got.err
    assert "said by a child" in got.err
    got = exo.finished(exo.start("run", "shop:loud"))
    assert set(got.out.splitlines()) == {"said by a task", "said by a child", "'quiet'"}


def test_lines_for_logs(exo: Any) -> None:
    process = exo.start("run", "shop:retried", "--name", "r")
    assert process.stderr is not None
    first = process.stderr.readline()
    exo.open_gate()
    assert re.fullmatch(r"r: task 'flaky' failed \(attempt \d+\) and is tried again: not yet\n", first)
    got = exo.finished(process)
    assert "\x1b" not in got.err
    assert got.out == "'at last'\n"


def test_a_reader_that_has_had_enough(exo: Any) -> None:
    exo("run", "shop:total", "300", "--name", "t")
    process = exo.start("show", "t", "--limit", "0")
    process.stdout.close()
    process.stdout = None
    err = process.communicate(timeout=DEADLINE_S)[1]
    assert "Traceback" not in err
    assert process.returncode in (1, 141)


def test_python_m_exoflow_is_the_command(exo: Any) -> None:
    assert exo.finished(exo.start("--version")).out.startswith("exoflow ")


# --- in a terminal -----------------------------------------------------------------------------------------------------------------


def test_progress_is_shown_and_cleared_away(exo: Any) -> None:
    terminal = Terminal(exo, "run", "shop:many", "3", "--name", "m")
    terminal.until("3 running")
    terminal.until("gated_3")
    exo.open_gate()
    assert terminal.ended() == 0
    text = terminal.text
    assert re.search(r"m  \d+\.\d\d s  0 of 4 tasks done \(0 saved\), 3 running, 1 waiting", text)
    assert "├── gated  " in text
    assert terminal.raw.endswith(b"\r\n")
    assert terminal.raw.rindex(b"\x1b[?25h") > terminal.raw.rindex(b"\x1b[?25l"), "the cursor is shown again"
    after = terminal.raw[terminal.raw.rindex(b"\x1b[2K") :].decode()
    assert re.fullmatch(r"\x1b\[2Km: SUCCEEDED after [\d.]+ s\r\n\{'value': \[0, 1, 2\]\}\r\n", after)


def test_why_a_task_is_held_back_is_shown(exo: Any) -> None:
    """``later`` commits, and the draw it rests on is still being saved."""
    Path("held.py").write_text(
        "import exoflow\nfrom shop import wait_for_gate\n"
        "class Slow:\n"
        "    def __reduce__(self):\n        wait_for_gate()\n        return (Slow, ())\n"
        "@exoflow.task\ndef draw(): return [Slow()] * 20_000\n"
        "@exoflow.task\ndef later(x): return len(x)\n"
        "dag = later.bind(draw.bind())\n"
    )
    terminal = Terminal(exo, "run", "held:dag")
    terminal.until("1 held")
    terminal.until("the commit rule needs recoverable(draw)")
    exo.open_gate()
    assert terminal.ended() == 0


def test_what_tasks_print_stays_whole_beside_the_progress(exo: Any) -> None:
    Path("talk.py").write_text(
        "import exoflow, shop\n@exoflow.task\ndef f():\n    print('one'); print('two')\n    shop.wait_for_gate()\n    return 3\n"
    )
    terminal = Terminal(exo, "run", "talk:f")
    terminal.until("1 running")
    terminal.until("two")
    exo.open_gate()
    assert terminal.ended() == 0
    assert "one\n" in terminal.text


def test_ctrl_c_once_detaches(exo: Any) -> None:
    terminal = Terminal(exo, "run", "shop:order", "--name", "o")
    terminal.until("1 running")
    terminal.press(CTRL_C)
    terminal.until("Ctrl-C again within 3 s cancels the workflow; otherwise detached: it can be resumed with: exoflow resume o")
    assert terminal.ended() == 130
    assert "detached from o" in terminal.text
    exo.open_gate()
    assert exo("resume", "o").out == "{'value': 'book'}\n"


def test_ctrl_c_once_and_it_ends_meanwhile(exo: Any) -> None:
    terminal = Terminal(exo, "run", "shop:order", "--name", "o")
    terminal.until("1 running")
    terminal.press(CTRL_C)
    terminal.until("Ctrl-C again")
    exo.open_gate()
    assert terminal.ended() == 0
    assert "{'value': 'book'}" in terminal.text


def test_ctrl_c_twice_cancels(exo: Any) -> None:
    terminal = Terminal(exo, "run", "shop:trip", "--name", "t")
    terminal.until("1 running")
    terminal.press(CTRL_C)
    terminal.until("Ctrl-C again")
    terminal.press(CTRL_C)
    assert terminal.ended() == 130
    assert "cancelled: workflow 't' was cancelled; external outputs that stand: reserve, gated" in terminal.text
    assert exo.json("show", "t")["status"] == "CANCELLED"


def test_tables_fit_the_terminal(exo: Any) -> None:
    exo("run", "shop:fetch", "x", "--name", "f")
    terminal = Terminal(exo, "list")
    assert terminal.ended() == 0
    assert "\x1b[32mSUCCEEDED" in terminal.raw.decode()
    assert max(map(len, terminal.text.splitlines())) <= 100


def test_a_dumb_terminal_gets_lines(exo: Any) -> None:
    exo.open_gate()
    terminal = Terminal(exo, "run", "shop:order", "--name", "o", TERM="dumb")
    assert terminal.ended() == 0
    assert b"\x1b" not in terminal.raw
