"""What the API tests share: a clock that a test moves, a ledger outside the engine, and other Python processes."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

PATIENCE_S = 30.0
"""How long a test waits for what must come; only a failing test ever waits that long."""

ROOT = Path(__file__).parents[2]


class ManualClock:
    """A clock that stands still until a test moves it. Timers fire on a thread of its own, as those of the real one do."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._timers: list[tuple[float, float, Callable[[], None]]] = []
        self._changed = threading.Condition()
        self._due: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._fire, daemon=True)
        self._thread.start()

    def now_ms(self) -> int:
        return 1_700_000_000_000

    def monotonic_s(self) -> float:
        return self._now

    def chance(self) -> float:
        return 0.5

    def call_later(self, delay_s: float, action: Callable[[], None]) -> None:
        with self._changed:
            self._timers.append((self._now + delay_s, delay_s, action))
            self._changed.notify_all()

    def fire_next(self, delay_s: float | None = None) -> float:
        """Wait until a timer (of this delay) is set, move to its time, fire it; return its delay."""

        def found() -> tuple[float, float, Callable[[], None]] | None:
            return min((timer for timer in self._timers if delay_s in (None, timer[1])), key=lambda timer: timer[0], default=None)

        with self._changed:
            assert self._changed.wait_for(found, PATIENCE_S), f"no timer of {delay_s} s was set; there are {self._timers}"
            timer = found()
            assert timer is not None
            self._timers.remove(timer)
            self._now = max(self._now, timer[0])
        fired = threading.Event()
        self._due.put(timer[2])
        self._due.put(fired.set)
        assert fired.wait(PATIENCE_S)
        return timer[1]

    def _fire(self) -> None:
        while (action := self._due.get()) is not None:
            action()

    def close(self) -> None:
        self._due.put(None)


class Ledger:
    """A file outside the engine to which any process appends lines, each at once and whole."""

    def __init__(self, path: Path | str) -> None:
        self.path = str(path)

    def add(self, line: str) -> None:
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(fd, f"{line}\n".encode())
        finally:
            os.close(fd)

    def lines(self) -> list[str]:
        path = Path(self.path)
        return path.read_text().splitlines() if path.exists() else []

    def count(self, line: str) -> int:
        return self.lines().count(line)


class Child:
    """A Python process that runs ``code``. What it prints can be waited for line by line; it is killed at the end of the test."""

    def __init__(self, code: str, *args: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd or ROOT,
            env=environment(env),
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def line(self) -> str:
        """The next line that it prints."""
        found = self._lines.get(timeout=PATIENCE_S)
        if found is None:
            self.process.wait(PATIENCE_S)
            assert self.process.stderr is not None
            raise AssertionError(f"the process ended with {self.process.returncode}: {self.process.stderr.read()}")
        return found

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """As ``kill -9`` does, and wait for the end."""
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def end(self) -> int:
        """Wait for its end; its exit code."""
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            try:
                stream.close()
            except BrokenPipeError:
                continue


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """Of a child: modules of this repository can be imported, and nothing is set for exoflow."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EXOFLOW_")}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **(extra or {})}


def run_python(code: str, *args: object, cwd: Path | None = None, env: dict[str, str] | None = None, code_wanted: int | None = 0) -> str:
    """What a Python process that runs ``code`` prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        capture_output=True,
        text=True,
        cwd=cwd or ROOT,
        env=environment(env),
        timeout=2 * PATIENCE_S,
        check=False,
    )
    assert code_wanted is None or done.returncode == code_wanted, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
