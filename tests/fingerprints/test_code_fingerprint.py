"""Fingerprints of code: the same for the same code wherever it stands, another for code that does something else."""

from __future__ import annotations

import sys
import types

import pytest

from exoflow import fingerprints, task
from tests.api.scene import run_python

BASE = "def f(a, b=1, *rest, c=2, **more):\n    x = a + 10\n    return [x for x in (b, c) if x != 'no']\n"


def mark(source: str, name: str = "f", **given: object) -> str:
    """The fingerprint of ``name`` in a module with this text."""
    module = types.ModuleType("flow")
    namespace = module.__dict__
    namespace.update(given)
    sys.modules["flow"] = module  # dataclasses look there
    exec(compile(source, f"<{len(source)}>", "exec"), namespace)
    del sys.modules["flow"]
    return fingerprints.code_fingerprint(namespace[name])


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
    source = "import functools\ndef deco(g):\n    @functools.wraps(g)\n    def w(): return g()\n    return w\n@deco\ndef f(): return {}\n"
    assert mark(source.format(1)) != mark(source.format(2))
    assert mark(source.format(1)) != mark(source.format(1).replace("return g()", "return g() or 1")), "so does the decorator"


def test_what_a_decorator_of_a_library_does_is_not_code_of_the_task():
    """Another version of the library is no change of the workflow."""
    library = "import functools\ndef deco(g):\n    @functools.wraps(g)\n    def w(*a): return {}g(*a)\n    return w\n"
    prints = []
    for text in (library.format(""), library.format("0 or ")):
        namespace: dict[str, object] = {"__name__": "library"}
        exec(text, namespace)
        prints.append(mark("def f(x):\n    return x\nf = deco(f)\n", deco=namespace["deco"]))
    assert prints[0] == prints[1] == mark("def f(x):\n    return x\n")


# --- docstrings ------------------------------------------------------------------------------------------------------------------

DOCUMENTED = """
def f(x):
    '{one}'
    class Inner:
        '{two}'
        def g(self):
            '{three}'
            return 'a constant', 1
    def h():
        return Inner
    if x:
        return None
"""


def test_docstrings_do_not_count():
    base = mark(DOCUMENTED.format(one="a", two="b", three="c"))
    assert mark(DOCUMENTED.format(one="other", two="words", three="a constant")) == base
    assert mark(DOCUMENTED.replace(" '{one}'", " ").format(two="b", three="c")) == base
    assert mark(DOCUMENTED.replace(" '{three}'", " ").format(one="a", two="b")) == base
    assert mark("\n" * 9 + DOCUMENTED.format(one="a", two="b", three="c")) == base, "nor do lines"
    assert mark(DOCUMENTED.format(one="a", two="b", three="c").replace("'a constant'", "'another'")) != base


# --- closures --------------------------------------------------------------------------------------------------------------------

CLOSED = "def make(value, helper=len):\n    def f():\n        return helper(value)\n    return f\n"


@pytest.mark.parametrize(("one", "other"), [("1", "2"), ("1", "1.0"), ("'a'", "'b'"), ("(1, (2, None))", "(1, (3, None))")])
def test_plain_data_that_a_closure_holds_counts(one, other):
    prints = {mark(f"{CLOSED}f = make({value})\n") for value in (one, one, other)}
    assert len(prints) == 2


def test_functions_that_a_closure_holds_count():
    base = mark(CLOSED + "f = make(1, lambda x: x + 1)\n")
    assert mark(CLOSED + "f = make(1, lambda x: x + 1)  # again\n") == base
    assert mark(CLOSED + "f = make(1, lambda x: x + 2)\n") != base


def test_what_else_a_closure_holds_does_not_count():
    """It has no value that would be the same in the next process."""
    for value in ("[1]", "{'a': 1}", "object()", "__import__('threading').Lock()"):
        assert mark(f"{CLOSED}f = make({value})\n") == mark(f"{CLOSED}f = make([2])\n")


def test_a_variable_that_the_function_changes_is_not_code():
    source = "def make(n):\n    def f():\n        nonlocal n\n        n += 1\n        return n\n    return f\nf = make({})\n"
    assert mark(source.format(0)) == mark(source.format(7))


def test_a_variable_that_has_no_value_yet_is_passed_over():
    early = "def make():\n    def f():\n        return later\n    early.append(f)\n    yield\n    later = 1\nnext(make())\nf = early[0]\n"
    assert mark(early, early=[])


# --- what it calls ---------------------------------------------------------------------------------------------------------------

HELPED = """
import enum, functools, math
from dataclasses import dataclass

def unused():
    return 1

def deepest(x):
    return x + 1

def helper(x):
    return deepest(x) * 2

@functools.cache
def cached(x):
    return x * 3

class Base:
    def inherited(self):
        return 4

class Tool(Base):
    note = "not code"

    def method(self):
        return 5

    @staticmethod
    def static():
        return 6

    @property
    def looks(self):
        return 7

@dataclass
class Order:
    amount: int = 8

class Colour(enum.Enum):
    RED = 9

RATE = 10

def f(x):
    def inner():
        return [helper(y) for y in (x, cached(x))]
    if x < 0:
        return f(-x)
    return inner(), Tool().method(), Order(), Colour.RED, math.pi, RATE
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("* 2", "* 7"),
        ("x + 1", "x - 1"),
        ("x * 3", "x * 4"),
        ("return 4", "return 5"),
        ("return 5", "return 4"),
        ("return 6", "return 5"),
        ("return 7", "return 5"),
        ("amount: int = 8", "amount: int = 9"),
        ("RED = 9", "RED = 8"),
        ("class Tool(Base)", "class Tool"),
        ("    @staticmethod\n    def static():\n        return 6\n", ""),
    ],
)
def test_functions_and_classes_of_the_module_that_it_refers_to_count(old, new):
    assert old in HELPED
    assert mark(HELPED.replace(old, new)) != mark(HELPED)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return 1\n", "return 2\n"),
        ("def helper(x):\n", "def helper(x):\n    'What it does.'\n"),
        ("RATE = 10", "RATE = 11"),
        ('"not code"', '"data"'),
        ("class Tool(Base):\n", "class Tool(Base):\n    'A tool.'\n"),
        ("import enum, functools, math", "import math, functools, enum"),
    ],
)
def test_what_it_does_not_refer_to_and_data_do_not_count(old, new):
    assert old in HELPED
    assert mark(HELPED.replace(old, new)) == mark(HELPED)


def test_functions_of_other_modules_do_not_count():
    """They are installed, not written here."""
    prints = []
    for constant in (1, 2):
        other: dict[str, object] = {"__name__": "other"}
        exec(f"def helper():\n    return {constant}\n", other)
        prints.append(mark("def f():\n    return helper()\n", helper=other["helper"]))
    assert prints[0] == prints[1]


def test_functions_that_call_each_other_end():
    source = "def f(x):\n    return g(x)\ndef g(x):\n    return f(x) if x else {}\n"
    assert mark(source.format(1)) == mark(source.format(1)) != mark(source.format(2))


def test_so_many_functions_are_followed_and_no_more(monkeypatch):
    monkeypatch.setattr(fingerprints, "_FOLLOWED_MAX", 20)
    source = "".join(f"def f{number}():\n    return f{number + 1}()\n" for number in range(30)) + "def f30(): return {}\n"
    near = source.replace("def f18():\n", "def f18():\n    len('')\n")
    assert mark(source.format(1), "f0") == mark(source.format(2), "f0")
    assert mark(near.format(1), "f0") != mark(source.format(1), "f0")


def test_objects_that_invent_attributes_are_left_alone():
    mock = "import unittest.mock\nanything = unittest.mock.MagicMock()\ndef f():\n    return anything()\n"
    assert mark(mock) == mark(mock)


@pytest.mark.slow
def test_pickling_by_value_changes_nothing():
    """Functions of a script are pickled whole (and the test starts a process): what arrives is the same code, wherever its globals are."""
    code = f"{HELPED}\nimport cloudpickle, pickle\nfrom exoflow import fingerprints\nprint(fingerprints.code_fingerprint(f))\n"
    code += "print(fingerprints.code_fingerprint(pickle.loads(cloudpickle.dumps(f))))\n"
    here, there = run_python(code).split()
    assert here == there


@pytest.mark.slow
def test_sets_among_the_constants_have_no_order():
    """(Starts processes with different hash seeds.)"""
    source = "def f(x):\n    return x in {'a', 'b', 'c', 'd', 'e', 'f'}\n"
    code = f"from tests.fingerprints.test_code_fingerprint import HELPED, mark\nprint(mark({source!r}), mark(HELPED))"
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

    assert fingerprints.code_fingerprint(f)
    assert fingerprints.code_fingerprint(g)


def test_functions_without_code_go_by_their_name():
    assert fingerprints.code_fingerprint(len) == fingerprints.code_fingerprint(len) != fingerprints.code_fingerprint(max)


def test_it_says_which_python_made_it():
    """Byte code of another Python cannot be compared, so nobody is told that code changed when only Python did."""
    assert mark(BASE).startswith(f"cp{sys.version_info[0]}{sys.version_info[1]}:")


def test_a_task_and_its_function_are_the_same_code():
    def f():
        return 1

    assert fingerprints.code_fingerprint(task(f)) == fingerprints.code_fingerprint(f)


# --- looked at again only when something has changed ----------------------------------------------------------------------------------

CHANGING = """
def helper(x):
    return x

class Thing:
    def method(self):
        return 1

def made(held):
    def f(a, b=1, *, c=2):
        return helper(a), Thing().method(), held, b, c
    return f

f = made(3)
"""


@pytest.fixture
def changing():
    module = types.ModuleType("flow")
    exec(compile(CHANGING, "<flow>", "exec"), module.__dict__)
    return module


def test_what_has_not_changed_is_not_looked_at_again(changing, monkeypatch):
    code = fingerprints.Code(changing.f)
    first = code.fingerprint()
    monkeypatch.setattr(fingerprints.Code, "_look", None)
    assert code.fingerprint() == first


@pytest.mark.parametrize(
    "change",
    [
        "def helper(x):\n    return -x",
        "Thing.method = lambda self: 2",
        "Thing.other = lambda self: 2",
        "Thing = type('Thing', (), {'method': lambda self: 2})",
        "f.__code__ = (lambda held: lambda a, b=1, *, c=2: held)(0).__code__",
        "f.__defaults__ = (7,)",
        "f.__kwdefaults__['c'] = 7",
        "f.__closure__[0].cell_contents = 7",
        "helper.__wrapped__ = made",
    ],
)
def test_what_has_changed_is_noticed(changing, change):
    code = fingerprints.Code(changing.f)
    first = code.fingerprint()
    exec(change, changing.__dict__)
    assert code.fingerprint() == fingerprints.code_fingerprint(changing.f)
    assert code.fingerprint() != first


def test_defaults_that_change_within_themselves_are_looked_at_each_time(changing):
    changing.f.__defaults__ = ([1],)
    code = fingerprints.Code(changing.f)
    first = code.fingerprint()
    changing.f.__defaults__[0].append(2)
    assert code.fingerprint() != first
