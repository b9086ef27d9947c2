"""Fingerprints of code: the same for the same code wherever it stands, another for code that does something else."""

from __future__ import annotations

import functools
import sys

import pytest

from exoflow import codec, task
from tests.api.scene import run_python

BASE = "def f(a, b=1, *rest, c=2, **more):\n    x = a + 10\n    return [x for x in (b, c) if x != 'no']\n"


def mark(source: str, name: str = "f") -> str:
    namespace: dict[str, object] = {}
    exec(compile(source, f"<{len(source)}>", "exec"), namespace)
    return codec.code_fingerprint(namespace[name])


@pytest.mark.parametrize(
    "source",
    [
        "\n\n# a comment\n" + BASE,
        BASE.replace("    x =", "    # why\n    x  ="),
        BASE.replace("a + 10", "(a\n         + 10)"),
        BASE.replace("'no'", '"no"'),
        "import os\n" + BASE,
        BASE.replace("a + 10", "a + 5 + 5").replace("a + 5 + 5", "a + (5 + 5)"),
        BASE.replace("def f(a, b=1", "def f(a: int, b: int = 1"),
    ],
    ids=["lines", "comment", "parentheses", "quotes", "import", "folded", "annotations"],
)
def test_what_means_the_same_is_the_same(source):
    assert mark(source) == mark(BASE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a + 10", "a + 11"),
        ("a + 10", "a - 10"),
        ("a + 10", "a + 10.0"),
        ("b=1", "b=2"),
        ("b=1", "b=True"),
        ("c=2", "c=3"),
        ("'no'", "'yes'"),
        ("x != ", "x == "),
        ("(b, c)", "(c, b)"),
        ("return [", "return ["[:-1] + "*0, ["),
        (", **more", ""),
        ("*rest", "*others"),
        ("x = a", "x = max(a)"),
        ("def f", "async def f"),
        ("    x = a + 10\n", "    x = a + 10\n    global g\n    g = 1\n"),
        ("    x = a + 10\n", "    try:\n        x = a + 10\n    except ValueError:\n        x = 0\n"),
    ],
)
def test_what_does_something_else_is_another(old, new):
    changed = BASE.replace(old, new)
    assert changed != BASE
    assert mark(changed) != mark(BASE)


def test_code_within_the_function_counts():
    outer = "def f():\n    def inner():\n        return {constant}\n    return inner\n"
    assert mark(outer.format(constant=1)) != mark(outer.format(constant=2))
    nested = "def f():\n    return lambda: [n for n in range({constant})]\n"
    assert mark(nested.format(constant=1)) != mark(nested.format(constant=2))


def test_the_function_behind_a_decorator_counts():
    def wrapped(n):
        def f():
            return n

        @functools.wraps(f)
        def wrapper():
            return f()

        return wrapper

    assert codec.code_fingerprint(wrapped(1)) == codec.code_fingerprint(wrapped(2)), "what a closure holds is data, not code"
    source = "import functools\ndef deco(g):\n    @functools.wraps(g)\n    def w(): return g()\n    return w\n@deco\ndef f(): return {}\n"
    assert mark(source.format(1)) != mark(source.format(2))


@pytest.mark.slow
def test_sets_among_the_constants_have_no_order():
    """(Starts processes with different hash seeds.)"""
    source = "def f(x):\n    return x in {'a', 'b', 'c', 'd', 'e', 'f'}\n"
    code = f"from exoflow import codec\nn = {{}}\nexec({source!r}, n)\nprint(codec.code_fingerprint(n['f']))"
    assert len({run_python(code, env={"PYTHONHASHSEED": seed}) for seed in ("0", "1", "2")}) == 1


def test_defaults_that_cannot_be_looked_at_do_no_harm():
    import threading

    class Refuses:
        def __reduce__(self):
            raise ZeroDivisionError("not me")

    def f(lock=threading.Lock()):  # noqa: B008 - the point of it
        return lock

    def g(refuses=Refuses()):  # noqa: B008
        return refuses

    assert codec.code_fingerprint(f)
    assert codec.code_fingerprint(g)


def test_functions_without_code_go_by_their_name():
    assert codec.code_fingerprint(len) == codec.code_fingerprint(len) != codec.code_fingerprint(max)


def test_it_says_which_python_made_it():
    """Byte code of another Python cannot be compared, so nobody is told that code changed when only Python did."""
    assert mark(BASE).startswith(f"cp{sys.version_info[0]}{sys.version_info[1]}:")


def test_a_task_and_its_function_are_the_same_code():
    def f():
        return 1

    assert codec.code_fingerprint(task(f)) == codec.code_fingerprint(f)
