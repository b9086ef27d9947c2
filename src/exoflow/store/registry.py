"""From a URL to an open store. The one place that knows which stores there are."""

from __future__ import annotations

from collections.abc import Callable

from exoflow.errors import StoreConfigError
from exoflow.store.base import Store

ENTRY_POINTS = "exoflow.stores"
"""Group of entry points for stores of other packages: name = scheme, value = a function from the URL to a Store."""

_FILE_ENDINGS = (".db", ".sqlite", ".sqlite3")


def open_store(url: str) -> Store:
    """Open the store that ``url`` names.

    ``memory:``, ``sqlite:<path>`` (or, as in SQLAlchemy, ``sqlite:///relative`` and ``sqlite:////absolute``), a path that ends in
    ``.db``, ``.sqlite`` or ``.sqlite3``, or a scheme that an installed package provides. Raises StoreConfigError, StoreOpenError.
    """
    scheme, colon, _ = url.partition(":")
    if "/" in scheme or not colon:
        if not url.endswith(_FILE_ENDINGS):
            raise StoreConfigError(message=f"'{masked(url)}' names no store; use {_known()}, or a path that ends in {_FILE_ENDINGS[0]}")
        return _open_sqlite(url)
    builtin = {"memory": _open_memory, "sqlite": _open_sqlite_url}.get(scheme)
    if builtin:
        return builtin(url)
    from importlib.metadata import entry_points  # not cheap, and rarely needed

    for point in entry_points(group=ENTRY_POINTS, name=scheme):
        opener: Callable[[str], Store] = point.load()
        return opener(url)
    raise StoreConfigError(message=f"unknown scheme '{scheme}' in '{masked(url)}'; use {_known()}")


def masked(url: str) -> str:
    """``url`` without what may be secret: everything between the scheme and the host, and the values behind the ``?``."""
    before, at, host = url.rpartition("@")
    if at:
        url = f"{before.partition(':')[0]}:***@{host}"
    path, mark, _ = url.partition("?")
    return path + (mark and "?***")


def _known() -> str:
    from importlib.metadata import entry_points

    schemes = sorted({"memory", "sqlite", *entry_points(group=ENTRY_POINTS).names})
    return " or ".join(f"{scheme}:" for scheme in schemes)


def _open_memory(url: str) -> Store:
    from exoflow.store.memory import MemoryStore  # only who asks for a backend pays for it

    if url.removeprefix("memory:").strip("/"):
        raise StoreConfigError(message=f"'{masked(url)}': a store in memory has no name; use memory:")
    return MemoryStore()


def _open_sqlite_url(url: str) -> Store:
    path = url.removeprefix("sqlite:")
    if path.startswith("///"):
        path = path[3:]
    elif path.startswith("//"):
        raise StoreConfigError(message=f"'{masked(url)}': SQLite has no host; use sqlite:///relative/path or sqlite:////absolute/path")
    if path in {"", ":memory:"}:
        raise StoreConfigError(message=f"'{url}' names no file; use sqlite:<path>, or memory: for a store that is not kept")
    if "?" in path:
        raise StoreConfigError(message=f"'{masked(url)}': this store has no options; leave out the '?' and what follows")
    return _open_sqlite(path)


def _open_sqlite(path: str) -> Store:
    from exoflow.store.sqlite import SqliteStore

    return SqliteStore(path)
