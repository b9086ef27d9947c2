"""What is printed, and where: results on stdout, everything said on the way on stderr; as text, or as one JSON document.

No text of a workflow (ids, errors, results) reaches a terminal with its control characters intact: they could move the cursor, hide or
fake lines. In JSON mode stdout is reserved for the document: what tasks print goes to stderr.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import msgspec

_GAP = "  "


def escaped(text: str, *, keep: str = "") -> str:
    """``text`` without a single character that a terminal would obey: those not printable (and not in ``keep``) are spelt out."""
    if text.isprintable():
        return text
    return "".join(char if char in keep or _is_harmless(char) else _spelt(char) for char in text)


def _is_harmless(char: str) -> bool:
    return char.isprintable() or (unicodedata.category(char) == "Zs")


def _spelt(char: str) -> str:
    return char.encode("unicode_escape", "backslashreplace").decode("ascii")


def block(text: str) -> str:
    """Text of several lines, escaped within them."""
    return escaped(text.expandtabs(4), keep="\n")


def shown(value: Any) -> str:
    """``repr(value)``, escaped; its line breaks stay."""
    try:
        return block(repr(value))
    except Exception as error:
        return f"<{type(value).__name__}, whose repr fails: {type(error).__name__}>"


def when(ms: int | None) -> str:
    """A point in time in this computer's time zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ms / 1000)) if ms else ""


def lasted(seconds: float) -> str:
    """A span of time in the two units that matter."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def size(count: int | None) -> str:
    """A number of bytes."""
    if count is None:
        return ""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} TB"


def plain(value: Any) -> tuple[Any, str | None]:
    """``value`` for a JSON document, and None; or None and its ``repr`` if JSON has no form for it."""
    try:
        text = json.dumps(value, allow_nan=False, default=msgspec.to_builtins)
        return json.loads(text), None
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
        return None, shown(value)


class Output:
    """Where one invocation prints. ``as_json``: one document on stdout and nothing else there."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self._out: TextIO = sys.stdout
        self._documents = 0

    @property
    def is_terminal(self) -> bool:
        """Whether a person sees what is printed on stdout."""
        return not self.as_json and _is_terminal(self._out)

    @property
    def notes_to_terminal(self) -> bool:
        """Whether a person sees what is printed on stderr."""
        return _is_terminal(sys.stderr)

    def line(self, text: str = "") -> None:
        """Part of the result, as text."""
        print(_encodable(text, self._out), file=self._out)

    def note(self, text: str) -> None:
        """Something said on the way. Not part of the result."""
        print(_encodable(text, sys.stderr), file=sys.stderr, flush=True)

    def document(self, value: Any) -> None:
        """The result, as JSON. All of it is ASCII, so no terminal obeys anything in it."""
        indent = 2 if _is_terminal(self._out) else None
        print(json.dumps(msgspec.to_builtins(value), indent=indent, allow_nan=False), file=self._out, flush=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Rows under a heading: fitted to a terminal; whole and aligned elsewhere, for grep and awk."""
        cells = [[escaped(cell) for cell in row] for row in rows]
        if self.is_terminal:
            self._rich_table(columns, cells)
            return
        widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
        for row in (columns, *cells):
            self.line(_GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    def _rich_table(self, columns: Sequence[str], cells: list[list[str]]) -> None:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for number, column in enumerate(columns):
            table.add_column(column, no_wrap=number == 0, overflow="fold")
        for row in cells:
            table.add_row(*(Text(cell, style=style_of(cell)) for cell in row))
        Console(file=self._out, highlight=False).print(table)

    @contextlib.contextmanager
    def reserved(self) -> Iterator[None]:
        """In JSON mode, keep everybody else from stdout: tasks, imported modules, C libraries and worker processes print on stderr."""
        if not self.as_json:
            yield
            return
        kept = self._out
        with contextlib.redirect_stdout(sys.stderr), contextlib.ExitStack() as undo:
            if _is_descriptor_1(kept):
                kept.flush()
                descriptor = os.dup(1)
                undo.callback(os.close, descriptor)
                undo.callback(os.dup2, descriptor, 1)
                os.dup2(2, 1)
                self._out = undo.enter_context(os.fdopen(descriptor, "w", encoding="ascii", closefd=False))
            try:
                yield
            finally:
                self._out.flush()
                self._out = kept


STYLES = {
    "SUCCEEDED": "green",
    "DONE": "green",
    "RUNNING": "cyan",
    "FAILED": "red",
    "BLOCKED": "red",
    "IN_DOUBT": "red",
    "CANCELLED": "yellow",
    "HELD": "yellow",
    "RETRYING": "yellow",
    "ROLLING_BACK": "yellow",
    "ok": "green",
    "warn": "yellow",
    "fail": "red",
}


def style_of(word: str) -> str:
    """The colour of a status, a state or a level; none for other words."""
    return STYLES.get(word, "")


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # replaced by something simpler, or closed
        return False


def _is_descriptor_1(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 1
    except (AttributeError, OSError, ValueError):
        return False


def _encodable(text: str, stream: TextIO) -> str:
    """``text`` in what the stream can encode: an odd locale must not cost the result."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
