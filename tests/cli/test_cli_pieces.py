"""The parts of the command line that can be looked at by themselves."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from exoflow import errors
from exoflow.cli.display import summary
from exoflow.cli.failures import EXIT_CODES, exit_code
from exoflow.cli.loading import arguments
from exoflow.cli.main import app
from exoflow.cli.output import block, escaped, lasted, plain, shown, size
from exoflow.cli.session import Session, sqlite_path
from exoflow.client.progress import Progress
from tests.architecture.promises import error_classes, sample_fields

EXPECTED = {
    errors.UsageError: 2,
    errors.CheckFailed: 3,
    errors.WorkflowFailed: 4,
    errors.TaskError: 4,
    errors.WorkflowInDoubtError: 5,
    errors.WorkflowBlockedError: 6,
    errors.WorkflowCancelledError: 7,
    errors.EnvironmentFault: 8,
    errors.Fenced: 9,
    errors.EngineBug: 70,
}


def test_every_error_has_the_exit_code_of_who_is_at_fault() -> None:
    for cls in error_classes(errors):
        nearest = next((base for base in cls.__mro__ if base in EXPECTED), None)
        if nearest is not None:
            assert exit_code(cls(**sample_fields(cls))) == EXPECTED[nearest], cls
    assert EXIT_CODES["interrupted"] == 130
    assert set(EXPECTED.values()) <= set(EXIT_CODES.values())


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain words, ünïcode 漢字", "plain words, ünïcode 漢字"),
        ("two\nlines\r\t", "two\\nlines\\r\\t"),
        ("\x1b[2J\x07\x00\x7f\x9b", "\\x1b[2J\\x07\\x00\\x7f\\x9b"),
        ("\u202egnp\u2066\u200b\ufeff", "\\u202egnp\\u2066\\u200b\\ufeff"),
        ("a\u2028b\u0085c", "a\\u2028b\\x85c"),
        ("half \ud800 a pair", "half \\ud800 a pair"),
        ("a\u00a0space", "a\u00a0space"),
    ],
)
def test_control_characters_are_spelt_out(text: str, safe: str) -> None:
    assert escaped(text) == safe
    assert all(char.isprintable() or char in "\n\u00a0" for char in block(text))


def test_a_repr_that_fails_or_misbehaves() -> None:
    class Rude:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    class Sly:
        def __repr__(self) -> str:
            return "a\x1b[2K\nb"

    assert shown(Rude()) == "<Rude, whose repr fails: RuntimeError>"
    assert shown(Sly()) == "a\\x1b[2K\nb"
    assert plain(Rude()) == (None, "<Rude, whose repr fails: RuntimeError>")


def test_values_in_json() -> None:
    assert plain({"a": (1, None)}) == ({"a": [1, None]}, None)
    assert plain(float("nan")) == (None, "nan")
    assert plain({1, 2}) == ([1, 2], None)
    loop: list[object] = []
    loop.append(loop)
    assert plain(loop) == (None, "[[...]]")


@pytest.mark.parametrize(
    ("words", "args", "kwargs"),
    [
        (["1", "1.5", "null", "true"], (1, 1.5, None, True), {}),
        (["text", "two words", '"1"'], ("text", "two words", "1"), {}),
        (['[1, {"a": 2}]'], ([1, {"a": 2}],), {}),
        (["x=1", "y=a=b", "z="], (), {"x": 1, "y": "a=b", "z": ""}),
        (["NaN", "Infinity", "{broken"], ("NaN", "Infinity", "{broken"), {}),
        (["http://host/?q=1", '"a=b"', "2=3"], ("http://host/?q=1", "a=b", "2=3"), {}),
        (["", "-5"], ("", -5), {}),
    ],
)
def test_arguments(words: list[str], args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    assert arguments(words) == (args, kwargs)


def test_an_argument_with_too_many_digits_stays_text() -> None:
    digits = "9" * (sys.get_int_max_str_digits() + 1)
    assert arguments([digits]) == ((digits,), {})


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:a/b.db", "a/b.db"),
        ("sqlite:///a.db", "a.db"),
        ("sqlite:////a.db", "/a.db"),
        ("a.db", "a.db"),
        ("./a:b.db", "./a:b.db"),
        ("memory:", None),
        ("postgresql://u@h/d", None),
    ],
)
def test_the_file_of_a_store(url: str, path: str | None) -> None:
    found = sqlite_path(url)
    assert (str(found) if found is not None else None) == (path.removeprefix("./") if path else None)


def test_a_command_to_type_is_quoted() -> None:
    session = Session(store="my store.db", modules=["flow"])
    assert session.command("resume", "x") == "exoflow resume x --store 'my store.db' -m flow"


def test_spans_and_sizes() -> None:
    assert [lasted(s) for s in (0, 1.234, 59.94, 60, 3725)] == ["0.00 s", "1.23 s", "59.9 s", "1 min 0 s", "1 h 2 min"]
    assert [size(n) for n in (None, 0, 999, 1500, 2_500_000, 10**13)] == ["", "0 B", "999 B", "1.5 kB", "2.5 MB", "10 TB"]


def test_a_summary_of_progress() -> None:
    now = Progress(
        workflow_id="w", status="RUNNING", ending="FAILED", total=9, saved=1, counts={"DONE": 2, "RUNNING": 3, "IDLE": 4}, tasks=()
    )
    assert summary(now) == "will end FAILED, 2 of 9 tasks done (1 saved), 3 running"


def test_ctrl_c_while_the_words_are_read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A kill in the crash suite came that early, and was told that nothing had been confirmed."""

    def interrupt(*_given: Any, **_options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "make_context", interrupt)
    with pytest.raises(SystemExit) as ended:
        app.main(["list"])
    assert ended.value.code == 130
    assert "interrupted; " in capsys.readouterr().err
