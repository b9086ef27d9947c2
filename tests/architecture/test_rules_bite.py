"""Each rule finds what it is there to find, and leaves alone what is allowed. The files here are planted in an empty repository."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path

import pytest

from exoflow.errors import ExoflowError
from tests.architecture import promises, rules
from tests.architecture.house import House

Rule = Callable[[House], list[str]]

LONG_FUNCTION = "def f():\n" + "    x = 1\n" * 70
LONG_DOCSTRING = 'def f():\n    """' + "text\n" * 90 + '"""\n    return 1\n'
WIDE_SEAM = "from typing import Protocol\nclass Store(Protocol):\n" + "".join(f"    def m{n}(self) -> None: ...\n" for n in range(11))
LATER = "TO" + "DO"
HOME, REGISTRY = "/ho" + "me/me/x", "py" + "pi.org"
LOCK = (
    "apsw==3.54.1.0 \\\n    --hash=sha256:00\n    # via exoflow-engine\nrich==15.0.0 ; sys_platform == 'win32' \\\n    --hash=sha256:00\n"
)
PROJECT = '[project]\ndependencies = ["apsw>=3.51.3", "rich>=14"]\n'
LOCKED = {"pyproject.toml": PROJECT, **{f"requirements/{name}.txt": LOCK for name in ("runtime", "demo", "dev")}}

BITES: list[tuple[Rule, dict[str, str], str]] = [
    (rules.long_functions, {"store/a.py": LONG_FUNCTION}, "store/a.py:1: f() has 71 lines"),
    (rules.long_functions, {"store/a.py": "class A:\n    async " + LONG_FUNCTION.replace("\n", "\n    ")}, "f() has 71 lines"),
    (rules.long_files, {"core/a.py": "x = 1\n" * 401}, "401 lines"),
    (rules.long_files, {"store/a.py": "x = 1\n" * 601}, "601 lines"),
    (rules.crowded_folders, {f"store/a{n}.py": "" for n in range(17)}, "17 files"),
    (rules.heavy_package, {f"core/a{n}.py": "x = 1\n" * 400 for n in range(11)}, "src/exoflow/core: 4400 lines"),
    (rules.heavy_package, {f"store/a{n}.py": "x = 1\n" * 600 for n in range(31)}, "the rest of src/exoflow: 18600 lines"),
    (
        rules.heavy_package,
        {f"ray/a{n}.py": "x = 1\n" * 600 for n in range(14)},
        "what runs elsewhere: backends, functions, ray and refs in src",
    ),
    (rules.heavy_package, {f"testing/a{n}.py": "x = 1\n" * 600 for n in range(26)}, "src/exoflow/testing: 15600 lines"),
    (rules.wide_seams, {"store/base.py": WIDE_SEAM}, "Store has 11 methods"),
    (rules.clocks, {"runtime/a.py": "import time\nx = time.time()"}, "runtime/a.py:2: time.time"),
    (rules.clocks, {"runtime/a.py": "from time import monotonic as now\nx = now()"}, "time.monotonic"),
    (rules.clocks, {"runtime/a.py": "import time\ndef f(clock=time.monotonic_ns): ..."}, "time.monotonic_ns"),
    (rules.clocks, {"store/a.py": "from datetime import datetime, UTC\nx = datetime.now(UTC)"}, "datetime.datetime.now"),
    (rules.clocks, {"store/a.py": "import datetime as dt\nx = dt.datetime.now()"}, "datetime.datetime.now"),
    (rules.chance, {"runtime/a.py": "import uuid\nx = uuid.uuid4().hex"}, "uuid.uuid4"),
    (rules.chance, {"define/a.py": "from random import random\nx = random()"}, "random.random"),
    (rules.chance, {"executors/a.py": "import os\nx = os.urandom(8)"}, "os.urandom"),
    (rules.chance, {"client/a.py": "import secrets\nx = secrets.token_hex()"}, "secrets.token_hex"),
    (rules.chance, {"testing/a.py": "import random\nx = random.random()"}, "random.random"),
    (rules.concurrency, {"runtime/a.py": "import threading\nx = threading.Lock()"}, "runtime/a.py:2: threading.Lock"),
    (rules.concurrency, {"client/a.py": "from time import sleep\nsleep(1)"}, "time.sleep"),
    (rules.concurrency, {"runtime/a.py": "from concurrent.futures import ThreadPoolExecutor\nx = ThreadPoolExecutor()"}, "ThreadPool"),
    (rules.prints, {"store/a.py": "print(1)"}, "print"),
    (rules.evaluation, {"cli/a.py": "eval('1')"}, "eval"),
    (rules.evaluation, {"cli/a.py": "exec('1')"}, "exec"),
    (rules.shells, {"cli/a.py": "import subprocess\nsubprocess.run('ls', shell=True)"}, "shell="),
    (rules.shells, {"cli/a.py": "import os\nos.system('ls')"}, "os.system"),
    (rules.unpickling, {"store/a.py": "import pickle\nx = pickle.loads(b'')"}, "pickle.loads"),
    (rules.unpickling, {"cli/a.py": "from cloudpickle import loads\nx = loads(b'')"}, "cloudpickle.loads"),
    (rules.swallowed_errors, {"store/a.py": "try: f()\nexcept: raise"}, "bare except"),
    (rules.swallowed_errors, {"store/a.py": "try: f()\nexcept Exception: pass"}, "caught and dropped"),
    (rules.swallowed_errors, {"store/a.py": "try: f()\nexcept (ValueError, BaseException): ..."}, "caught and dropped"),
    (rules.swallowed_errors, {"store/a.py": "import contextlib\nwith contextlib.suppress(Exception): f()"}, "suppressed"),
    (rules.notes_for_later, {"store/a.py": f"x = 1  # {LATER}: later"}, "store/a.py:1"),
    (rules.unused_modules, {"store/a.py": ""}, "store/a.py"),
    (rules.unused_modules, {"store/a.py": "", "../../tests/test_a.py": "from exoflow.store import a"}, "store/a.py"),
    (rules.commits_elsewhere, {"runtime/engine.py": "def f(store): store.commit([])"}, "runtime/engine.py:1"),
    (rules.commits_elsewhere, {"client/a.py": "class A:\n    def f(self): return self._store.commit"}, "client/a.py:2"),
    (rules.commits_elsewhere, {"runtime/commit.py": "def f(thing): thing.commit([])"}, "does not call store.commit"),
    (rules.empty_names, {"store/utils.py": ""}, "'utils'"),
    (rules.empty_names, {"../../tests/helpers/a.py": ""}, "'helpers'"),
    (rules.impure_core, {"core/a.py": "import sqlite3"}, "core imports sqlite3"),
    (rules.impure_core, {"core/a.py": "def f():\n    from exoflow.store import base"}, "core imports exoflow.store.base"),
    (rules.impure_core, {"core/a.py": "x = sorted([], key=id)"}, "core uses id()"),
    (promises.unexplained_dependencies, {"../../pyproject.toml": PROJECT, "../../docs/adr/1.md": "`apsw`"}, "'rich' is in no"),
    (promises.stale_locks, {"../../pyproject.toml": PROJECT, "../../requirements/runtime.txt": LOCK}, "demo.txt: 'apsw'"),
    (
        promises.stale_locks,
        {**{f"../../{n}": t for n, t in LOCKED.items()}, "../../requirements/dev.txt": LOCK.replace("15", "13")},
        "rich==13",
    ),
    (
        promises.stale_locks,
        {**{f"../../{n}": t for n, t in LOCKED.items()}, "../../requirements/dev.txt": LOCK.replace("15", "16")},
        "not pinned as",
    ),
    (promises.unhashed_pins, {"../../requirements/dev.txt": "apsw==3.54.1.0\n"}, "'apsw==3.54.1.0' is not a pin"),
    (promises.unhashed_pins, {"../../requirements/dev.txt": f"-i https://{REGISTRY}/simple\n{LOCK}"}, "is not a pin"),
    (promises.machine_traces, {"../../README.md": f"\nsee {HOME}"}, "README.md:2: a path"),
    (promises.machine_traces, {"../../docs/a.md": f"https://{REGISTRY}/x"}, "docs/a.md:1: a package registry"),
]

ALLOWED: list[tuple[Rule, dict[str, str]]] = [
    (rules.long_functions, {"store/a.py": LONG_DOCSTRING}),
    (rules.crowded_folders, {"store/__init__.py": "", **{f"store/a{n}.py": "" for n in range(16)}}),
    (
        rules.clocks,
        {"runtime/clock.py": "import time\nx = time.time()", "runtime/a.py": "class A:\n    time: int\ndef f(a): return a.time"},
    ),
    (
        rules.chance,
        {"runtime/host.py": "import os\nx = os.urandom(8)", "testing/a.py": "import random\nx = random.Random(1).random()"},
    ),
    (rules.concurrency, {"runtime/threads.py": "import threading\nx = threading.Lock()", "cli/a.py": "import threading\nthreading.Lock()"}),
    (rules.prints, {"cli/a.py": "print(1)", "testing/a.py": "print(1)", "store/a.py": "def f(log): log.print(1)"}),
    (rules.shells, {"cli/a.py": "import subprocess\nsubprocess.run(['ls'], shell=False)"}),
    (rules.unpickling, {"codec.py": "import pickle\nx = pickle.loads(b'')", "store/a.py": "import pickle\nx = pickle.dumps(1)"}),
    (rules.swallowed_errors, {"store/a.py": "try: f()\nexcept ValueError: pass\ntry: f()\nexcept Exception as e: log(e)"}),
    (
        rules.unused_modules,
        {"store/a.py": "", "wiring.py": "from exoflow.store import a", "cli/b.py": "import exoflow.wiring"}
        | {
            "../../pyproject.toml": "[project.scripts]\nexoflow = 'exoflow.cli.b:app'",
        },
    ),
    (rules.unused_modules, {"store/a.py": "x = 'exoflow.worker.b'", "worker/b.py": "from ..store.a import x"}),
    (rules.unused_modules, {"testing/a.py": "", "../../tests/test_a.py": "from exoflow.testing.a import x"}),
    (rules.commits_elsewhere, {"runtime/commit.py": "def f(store): store.commit([])", "store/a.py": "def f(store): store.commit([])"}),
    (rules.commits_elsewhere, {"runtime/engine.py": "def f(connection): connection.commit()"}),
    (rules.impure_core, {"core/a.py": "import msgspec\nfrom collections.abc import Iterable\nfrom . import b\nclass A:\n    id: str"}),
    (promises.stale_locks, {f"../../{name}": text for name, text in LOCKED.items()}),
    (promises.unhashed_pins, {f"../../{name}": text for name, text in LOCKED.items()}),
]


def plant(root: Path, files: dict[str, str]) -> House:
    for name, text in files.items():
        path = root / name.removeprefix("../../") if name.startswith("../../") else root / "src/exoflow" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return House(root)


@pytest.mark.parametrize(("rule", "files", "offence"), BITES)
def test_a_planted_offence_is_found(tmp_path: Path, rule: Rule, files: dict[str, str], offence: str) -> None:
    found = rule(plant(tmp_path, files))
    assert any(offence in line for line in found), found


@pytest.mark.parametrize(("rule", "files"), ALLOWED)
def test_what_is_allowed_is_left_alone(tmp_path: Path, rule: Rule, files: dict[str, str]) -> None:
    assert rule(plant(tmp_path, files)) == []


# --- errors and public names -----------------------------------------------------------------------------------------------------------


class Good(ExoflowError):
    """It is raised here."""

    code = "good"
    template = "task '{task}' took {seconds:.1f} s"


class Twin(ExoflowError):
    code = "good"


class Loses(ExoflowError):
    """Its data does not come back from a pickle."""

    code = "loses"
    template = "{task}"

    def __init__(self, **fields: object) -> None:
        super().__init__(**{name: str(value) + "!" for name, value in fields.items()})


class Mute(ExoflowError):
    """Its message leaves a field out."""

    code = "mute"

    def __str__(self) -> str:
        return "it failed" if self.fields["findings"] else "it did not"


def module_of(**names: object) -> types.ModuleType:
    module = types.ModuleType("planted", "A module.")
    vars(module).update(names)
    return module


def test_planted_errors_are_found() -> None:
    errors = module_of(ExoflowError=ExoflowError, Good=Good, Twin=Twin, Loses=Loses, Mute=Mute)
    assert [line.partition(":")[0] for line in promises.shared_codes(errors)] == ["Twin"]
    assert [line.partition(":")[0] for line in promises.silent_errors(errors)] == ["Twin"]
    assert [line.partition(":")[0] for line in promises.broken_messages(errors)] == ["Loses", "Mute"]


def test_planted_public_names_are_found() -> None:
    def run() -> None:
        """Run it."""

    def bare() -> None: ...

    package = module_of(__all__=["run", "bare", "gone", "LIMIT"], run=run, bare=bare, LIMIT=3)
    assert "['LIMIT', 'bare', 'gone', 'run']" in promises.unordered_names(package)[0]
    assert [line.partition(":")[0] for line in promises.unexplained_names(package)] == ["planted.bare", "planted.gone"]
