"""What ``doctor`` looks at. Each part gives findings as it makes them; none changes anything (opening a store may bring its schema up to
date, as any use of it would)."""

from __future__ import annotations

import os
import platform
import re
import shutil
import stat
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from exoflow.cli.output import size
from exoflow.cli.session import Session, sqlite_path
from exoflow.core import journal, replay
from exoflow.core.state import Status
from exoflow.errors import ExoflowError
from exoflow.runtime.ownership import life_of
from exoflow.runtime.values import Saved, Spoiled, fetch, fetch_ref
from exoflow.store.base import Head, Store

if TYPE_CHECKING:
    from exoflow.settings import Settings

_SQLITE_NEEDED = (3, 51, 3)
_FREE_BYTES = 1 << 30
_SHOWN_MAX = 5
_VOLATILE = {"tmpfs": "its content is gone when the machine restarts", "ramfs": "its content is gone when the machine restarts"}
_SUSPECT = {
    "overlay": "in a container, its content goes with the container; use a volume",
    "9p": "its flushes may not reach the disk; use a local disk",
    "virtiofs": "its flushes may not reach the disk; use a local disk",
    "fuseblk": "its flushes may not reach the disk; use a local disk",
    "vfat": "it knows no permissions, and a crash can damage it; use another disk",
    "exfat": "it knows no permissions, and a crash can damage it; use another disk",
}


class Check(msgspec.Struct, frozen=True):
    """One line of the report. ``advice``: what to do about it."""

    name: str
    level: Literal["ok", "warn", "fail"]
    text: str
    advice: str = ""


def examine(session: Session) -> Iterator[Check]:
    """All checks, in an order in which the first that fails is the one to look at first."""
    yield from _versions()
    try:
        settings = _settings(session)
    except ExoflowError as error:
        yield Check("settings", "fail", str(error), "correct the setting that is named")
        return
    yield Check("settings", "ok", f"store {_masked(settings.store)}, lease {settings.lease_s:g} s")
    path = sqlite_path(settings.store)
    if path is not None:
        if not path.exists():
            level: Literal["ok", "fail"] = "ok" if session.store is None else "fail"
            advice = "exoflow run makes it" if level == "ok" else "look at --store, or let exoflow run make it"
            yield Check("store", level, f"there is no file {path} yet", advice)
            return
        yield from _disk(path)
    yield from _store(settings.store)


# --- what it runs on -------------------------------------------------------------------------------------------------------------


def _versions() -> Iterator[Check]:
    from exoflow import __version__

    yield Check("exoflow", "ok", f"{__version__} in {Path(__file__).parents[1]}")
    good = sys.version_info >= (3, 11)
    advice = "" if good else "Python 3.11 or newer is needed"
    yield Check("python", "ok" if good else "fail", f"{platform.python_version()} ({sys.executable})", advice)
    try:
        import apsw
    except ImportError as error:
        yield Check("sqlite", "fail", f"apsw cannot be imported: {error}", "pip install apsw")
        return
    text = apsw.sqlite_lib_version()
    good = tuple(map(int, text.split("."))) >= _SQLITE_NEEDED
    advice = "" if good else "pip install 'apsw>=3.51.3': older ones can lose data in WAL mode"
    yield Check("sqlite", "ok" if good else "fail", f"{text} (apsw {apsw.apsw_version()})", advice)


def _settings(session: Session) -> Settings:
    from exoflow import settings

    return settings.load(store=session.store)


def _masked(url: str) -> str:
    from exoflow.store.registry import masked

    return masked(url)


# --- where it lies ---------------------------------------------------------------------------------------------------------------


def _disk(path: Path) -> Iterator[Check]:
    path = path.resolve()
    yield from _permissions(path)
    kind = filesystem_of(path)
    if kind in _VOLATILE:
        yield Check("disk", "warn", f"{path} is on {kind}: {_VOLATILE[kind]}", "keep the store on a disk")
    elif kind in _SUSPECT:
        yield Check("disk", "warn", f"{path} is on {kind}: {_SUSPECT[kind]}")
    else:
        yield Check("disk", "ok", f"{path} is on {kind or 'a file system of unknown type'}")
    usage = shutil.disk_usage(path.parent)
    text = f"{usage.free / 1e9:.1f} GB of {usage.total / 1e9:.1f} GB free"
    low = usage.free < _FREE_BYTES
    yield Check("space", "warn" if low else "ok", text, "make room before the disk is full" if low else "")


def _permissions(path: Path) -> Iterator[Check]:
    """What is in a store is code, in a way: values are pickles. So nobody else may write to it."""
    blobs = path.with_name(path.name + "-blobs")
    wrong = []
    for place, wanted in ((path, 0o600), (blobs, 0o700)):
        try:
            info = place.stat()
        except FileNotFoundError:
            continue
        except OSError as error:
            yield Check("permissions", "fail", f"{place} cannot be looked at: {error}", "run as the user to whom the store belongs")
            return
        mode = stat.S_IMODE(info.st_mode)
        if info.st_uid != os.geteuid():
            wrong.append(("fail", f"{place} belongs to user {info.st_uid}", f"run as that user, or chown it to {os.geteuid()}"))
        elif mode & 0o022:
            wrong.append(("fail", f"others may write to {place} (mode {mode:o})", f"chmod {wanted:o} '{place}'"))
        elif mode & 0o055:
            wrong.append(("warn", f"others may read {place} (mode {mode:o})", f"chmod {wanted:o} '{place}'"))
    parent = path.parent.stat()
    if parent.st_mode & 0o002 and not parent.st_mode & stat.S_ISVTX:
        wrong.append(("fail", f"anybody may replace files in {path.parent}", f"chmod o-w '{path.parent}'"))
    for level, text, advice in wrong:
        yield Check("permissions", "fail" if level == "fail" else "warn", text, advice)
    if not wrong:
        yield Check("permissions", "ok", "only this user can read and write the store")


def filesystem_of(path: Path, mounts: str | None = None) -> str:
    """The type of the file system that holds ``path``, "" if that cannot be told. ``mounts`` is the text of /proc/mounts."""
    if mounts is None:
        try:
            mounts = Path("/proc/mounts").read_text("utf-8", "replace")
        except OSError:  # not Linux
            return ""
    best, kind = Path("/"), ""
    for line in mounts.splitlines():
        _, point, kind_here, *_ = line.split(" ")
        mounted = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), point))
        if path.is_relative_to(mounted) and len(mounted.parts) >= len(best.parts):
            best, kind = mounted, kind_here
    return kind


# --- what is in it ---------------------------------------------------------------------------------------------------------------


def _store(url: str) -> Iterator[Check]:
    from exoflow.store.registry import open_store

    try:
        store = open_store(url)
    except ExoflowError as error:
        yield Check("store", "fail", str(error), "repair what it says; if the file is damaged, restore it from a backup")
        return
    try:
        yield Check("store", "ok", f"{store.url} can be opened")
        yield from _integrity(store)
        heads = _heads(store)
        yield _counts(heads)
        yield from _owners(store, heads)
        yield from _contents(store, heads)
    except ExoflowError as error:
        yield Check("store", "fail", str(error), "restore the store from a backup")
    finally:
        store.close()


def _heads(store: Store) -> list[Head]:
    heads, after = list[Head](), ""
    while page := store.heads(after=after):
        heads += page
        after = page[-1].workflow_id
    return heads


def _integrity(store: Store) -> Iterator[Check]:
    """SQLite's own look at its file, through a connection that reads only."""
    from exoflow.store.sqlite import SqliteStore

    if not isinstance(store, SqliteStore):
        return
    import apsw

    from exoflow.store import sqlite_file

    try:
        db = sqlite_file.connect(store.path, 5.0, read_only=True)
        try:
            lines = [str(row[0]) for row in db.execute("PRAGMA integrity_check(5)")]
            version = db.pragma("user_version")
        finally:
            db.close()
    except apsw.Error as error:
        lines, version = [str(error)], None
    if version is not None:
        yield Check("schema", "ok", f"version {version}")
    if lines == ["ok"]:
        yield Check("integrity", "ok", "every page of the database passes its checksum, and the structure is whole")
    else:
        yield Check("integrity", "fail", "; ".join(lines), "restore the store from a backup")


def _counts(heads: list[Head]) -> Check:
    counts = Counter(head.status for head in heads)
    text = ", ".join(f"{counts[status]} {status}" for status in Status if counts[status]) or "none"
    waiting = counts[Status.IN_DOUBT] + counts[Status.BLOCKED]
    advice = "exoflow list --status IN_DOUBT --status BLOCKED: a person must look at these" if waiting else ""
    return Check("workflows", "warn" if waiting else "ok", text, advice)


def _owners(store: Store, heads: list[Head]) -> Iterator[Check]:
    from exoflow.runtime.clock import SystemClock
    from exoflow.runtime.host import SYSTEM_HOST
    from exoflow.runtime.ownership import Observer

    observer = Observer(store, SystemClock(), SYSTEM_HOST)
    unfinished = [head for head in heads if not Status(head.status).ended]
    dead = [head.workflow_id for head in unfinished if observer.is_dead(head.owner)]
    elsewhere = {row.owner for row in store.owners() if row.host != SYSTEM_HOST.name}
    far = [head.workflow_id for head in unfinished if head.owner in elsewhere]
    if dead:
        yield Check("owners", "warn", f"{len(dead)} unfinished with a dead owner: {_some(dead)}", "exoflow resume --all goes on with them")
    if far:
        yield Check("owners", "ok", f"{len(far)} driven from another host, whose health only its lease can tell: {_some(far)}")
    if not dead and not far:
        yield Check(
            "owners", "ok", f"{len(unfinished)} unfinished, each driven by a living process" if unfinished else "nothing unfinished"
        )


def _contents(store: Store, heads: list[Head]) -> Iterator[Check]:
    """Every journal can be read and folded, and what it names is there and is what was saved."""
    broken, lost, values = [], [], 0
    for head in heads:
        try:
            entries = store.entries(head.workflow_id)
            records = [journal.decode(entry.body) for entry in entries]
            replay.fold(head.workflow_id, life_of(head.epoch), records)
        except (ExoflowError, ValueError) as error:
            broken.append(f"{head.workflow_id} ({error})")
            continue
        for entry, record in zip(entries, records, strict=True):
            stored = getattr(record, "stored", None) or getattr(record, "plan", None)
            if not isinstance(stored, journal.Stored):
                continue
            values += 1
            what = getattr(record, "task", "") or "its definition"
            try:
                fetch(store, head.workflow_id, Saved(stored, entry.seq, entry.payload))
                for ref in stored.refs:
                    fetch_ref(store, ref)
            except (Spoiled, ExoflowError) as error:
                lost.append(f"{head.workflow_id}/{what} ({error})")
    if broken:
        yield Check("journals", "fail", f"{len(broken)} cannot be read: {_some(broken)}", "restore the store from a backup")
    else:
        yield Check("journals", "ok", f"all {len(heads)} can be read")
    if lost:
        advice = "unfinished workflows make such outputs again where that is safe, and are BLOCKED where not; else restore a backup"
        yield Check("outputs", "fail", f"{len(lost)} of {values} are missing or damaged: {_some(lost)}", advice)
    else:
        yield Check("outputs", "ok", f"all {values} saved values are there and pass their digests")
    garbage = store.blobs.collect(grace_s=0, dry_run=True)
    if garbage.removed:
        text = f"{garbage.removed} blobs ({size(garbage.size_bytes)}) belong to no workflow: crashes left them before they were recorded"
        yield Check("blobs", "ok", text, "exoflow gc removes them")
    else:
        yield Check("blobs", "ok", "none left over")


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN_MAX]) + (", …" if len(names) > _SHOWN_MAX else "")
