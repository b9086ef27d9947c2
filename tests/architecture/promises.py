"""What the project says about itself, checked against what it is: errors, public names, dependencies, lock files."""

from __future__ import annotations

import inspect
import pickle
import re
import string
import types
from collections.abc import Iterator
from typing import Any

from packaging.requirements import Requirement

from exoflow.errors import MissingExtraError
from tests.architecture.house import House, distribution

# --- errors --------------------------------------------------------------------------------------------------------------------------


def error_classes(errors: types.ModuleType) -> list[type[Any]]:
    return [cls for cls in vars(errors).values() if inspect.isclass(cls) and issubclass(cls, errors.ExoflowError)]


def shared_codes(errors: types.ModuleType) -> list[str]:
    first: dict[str, str] = {}
    found = []
    for cls in error_classes(errors):
        owner = first.setdefault(cls.code, cls.__name__)
        if owner != cls.__name__:
            found.append(
                f"{cls.__name__}: has the code '{cls.code}' of {owner}; give it one of its own, HTTP status and exit code hang on it"
            )
    return found


def silent_errors(errors: types.ModuleType) -> list[str]:
    return [f"{cls.__name__}: has no docstring; say when it is raised" for cls in error_classes(errors) if not vars(cls).get("__doc__")]


def broken_messages(errors: types.ModuleType) -> list[str]:
    """Given the fields that its template names, an error has a message that holds each of them, and survives pickling whole."""
    found = []
    for cls in error_classes(errors):
        fields = sample_fields(cls)
        try:
            error = cls(**fields)
            text = str(error)
            again = pickle.loads(pickle.dumps(error))
        except Exception as problem:  # whatever it is, it is what this rule is about
            found.append(
                f"{cls.__name__}: {type(problem).__name__}: {problem}; it must work with the fields {sorted(fields)} of its template"
            )
            continue
        if type(again) is not cls or again.fields != error.fields or str(again) != text:
            found.append(f"{cls.__name__}: comes back from pickle as {again!r}; keep all its data in fields")
        missing = [name for name, value in fields.items() if str(value) not in text]
        if not text.strip() or missing:
            found.append(f"{cls.__name__}: the message lacks {missing}; __str__ must hold every field of the template")
    return found


def sample_fields(cls: type[Any]) -> dict[str, Any]:
    """A value for each field that the message of ``cls`` needs."""
    if "__str__" not in vars(cls):
        names = [name for _, name, _, _ in string.Formatter().parse(cls.template) if name]
        return {re.split(r"[.\[]", name)[0]: number for number, name in enumerate(names, 101)}
    fields: dict[str, Any] = {}
    while True:  # it builds its text without the template: ask it what it misses
        try:
            str(cls(**fields))
        except KeyError as missing:
            fields[missing.args[0]] = "ABCDEFGH"[len(fields)]  # one letter is a sequence of one too
        else:
            return fields


# --- public names --------------------------------------------------------------------------------------------------------------------


def unordered_names(package: types.ModuleType) -> list[str]:
    """Constants, then classes, then the rest, each by the alphabet: the order that `make format` gives."""
    names = list(getattr(package, "__all__", []))
    right = sorted(set(names), key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    return [] if names == right else [f"{package.__name__}.__all__ is not in order or names one twice; it should be {right}"]


def unexplained_names(package: types.ModuleType) -> list[str]:
    """Classes, functions and modules need a docstring of their own; a constant is explained where it stands."""
    found = []
    for name in getattr(package, "__all__", []):
        try:
            thing = getattr(package, name)
        except MissingExtraError:  # what it is for is told where it can be had
            continue
        except AttributeError as problem:
            found.append(f"{package.__name__}.{name}: {problem}; __all__ may only name what can be imported")
            continue
        if inspect.isclass(thing) or callable(thing) or inspect.ismodule(thing):
            own = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
            if not own or own.startswith(f"{name}("):  # the second is what dataclasses invent
                found.append(f"{package.__name__}.{name}: has no docstring; say what it is for and show one call")
    return found


# --- dependencies ----------------------------------------------------------------------------------------------------------------------

LOCKS = {
    "runtime": ("runtime", "demo", "dev"),
    "demo": ("demo", "demo-ray", "dev"),
    "dev": ("dev",),
    "build": ("dev",),
    "ray": ("backends", "demo-ray"),
    "refs": ("backends",),
    "spark": ("backends", "demo-spark"),
}
"""Which lock files must hold the requirements of which part of pyproject.toml."""


def unexplained_dependencies(house: House) -> list[str]:
    records = "\n".join(path.read_text(encoding="utf-8") for path in sorted((house.root / "docs/adr").glob("*.md")))
    return [
        f"pyproject.toml: '{name}' is in no decision record; write down in docs/adr why it is needed and what else was looked at"
        for name in sorted({distribution(text) for _, text in house.requirements()})
        if not re.search(rf"`{re.escape(name)}`", records)
    ]


def stale_locks(house: House) -> list[str]:
    """Every direct dependency is pinned, within its bounds, in each lock file that should hold it; all files agree on versions."""
    names = {name for locks in LOCKS.values() for name in locks}
    locks = {name: dict(_pins(house, name)) for name in names if (house.root / f"requirements/{name}.txt").exists()}
    found = []
    for part, text in house.requirements():
        requirement = Requirement(text)
        name = distribution(text)
        for lock in LOCKS.get(part, ("dev",)):
            pins = {version for (pin, _), version in locks.get(lock, {}).items() if pin == name}
            if not pins:
                found.append(f"requirements/{lock}.txt: '{name}' of pyproject.toml is missing; run make lock")
            found += [
                f"requirements/{lock}.txt: {name}=={version} is not what pyproject.toml asks for ({text}); run make lock"
                for version in pins
                if not requirement.specifier.contains(version, prereleases=True)
            ]
    for smaller, larger in (("runtime", "demo"), ("demo", "dev")):
        pinned = locks.get(larger, {})
        found += [
            f"requirements/{larger}.txt: {name} is not pinned as in {smaller}.txt ({version}); run make lock"
            for (name, marker), version in locks.get(smaller, {}).items()
            if pinned.get((name, marker), pinned.get((name, ""))) != version  # what needs it everywhere needs no marker
        ]
    return found


def _pins(house: House, lock: str) -> Iterator[tuple[tuple[str, str], str]]:
    """((name, environment marker), version) of each pin."""
    for entry in _entries(house, lock):
        match = re.match(r"([A-Za-z0-9._-]+)==([^\s;\\]+)\s*(?:;\s*([^\\]*?))?\s*(?:\\|$)", entry)
        if match:
            yield (distribution(match[1]), (match[3] or "").strip()), match[2]


def _entries(house: House, lock: str) -> list[str]:
    """The requirements of a lock file, each with its hashes, without comments."""
    text = (house.root / f"requirements/{lock}.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return re.split(r"\n(?=\S)", "\n".join(lines))


def unhashed_pins(house: House) -> list[str]:
    """Nothing but pins with SHA-256 hashes: no options, no addresses, no editable installs."""
    return [
        f"requirements/{lock}.txt: '{entry.splitlines()[0]}' is not a pin with hashes; run make lock, do not edit by hand"
        for lock in ("runtime", "demo", "dev", "backends")
        if (house.root / f"requirements/{lock}.txt").exists()
        for entry in _entries(house, lock)
        if not re.match(r"[A-Za-z0-9._-]+==\S+", entry) or "--hash=sha256:" not in entry or "://" in entry
    ]


# --- what must not be written down -----------------------------------------------------------------------------------------------------


def machine_traces(house: House) -> list[str]:
    """Brackets in the patterns keep this file from finding itself."""
    traces = {
        "a path of one machine": re.compile(r"/(?:wor[k]|roo[t]|hom[e])/"),
        "a package registry's address": re.compile(
            r"py[p]i\.org|python[h]osted|np[m]js\.|registry\.yar[n]pkg|crate[s]\.io|ana[c]onda\.org|ruby[g]ems\.org|index[-_]ur[l]",
            re.IGNORECASE,
        ),
    }
    return [
        f"{name}:{number}: {what}; write a relative path, tmp_path or nothing"
        for name, text in house.tracked()
        for what, trace in traces.items()
        if trace.search(text)
        for number, line in enumerate(text.splitlines(), 1)
        if trace.search(line)
    ]
