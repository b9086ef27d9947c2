"""URLs of stores: which one opens what, and what the wrong ones are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from exoflow.errors import StoreConfigError
from exoflow.store.memory import MemoryStore
from exoflow.store.registry import masked, open_store
from exoflow.store.sqlite import SqliteStore


@pytest.mark.parametrize("url", ["memory:", "memory://"])
def test_memory(url: str) -> None:
    assert isinstance(open_store(url), MemoryStore)


@pytest.mark.parametrize(
    "url", ["sqlite:{abs}/x.db", "sqlite:///{abs}/x.db", "{abs}/x.db", "sqlite:x.db", "sqlite:///x.db", "x.db", "./x.db", "sqlite:./x.db"]
)
def test_sqlite(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store(url.format(abs=tmp_path))
    assert isinstance(store, SqliteStore)
    assert store.path == tmp_path / "x.db"
    store.close()
    again = open_store(store.url)
    assert isinstance(again, SqliteStore)
    assert again.path == store.path
    again.close()


@pytest.mark.parametrize("name", ["a.sqlite", "a.sqlite3", "b:c.db"])
def test_names_of_files(name: str, tmp_path: Path) -> None:
    store = open_store(f"{tmp_path}/{name}")
    assert isinstance(store, SqliteStore)
    store.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgre://joe:s3cret@host/db", "unknown scheme 'postgre' in 'postgre:***@host/db'; use memory: or sqlite:"),
        ("redis:s3cret@host", "unknown scheme 'redis'"),
        ("foo", "'foo' names no store"),
        ("", "names no store"),
        ("joe:s3cret@host/x", "unknown scheme 'joe'"),
        ("/some/folder", "names no store"),
        ("//joe:s3cret@host/x", "names no store"),
        ("sqlite:", "names no file"),
        ("sqlite::memory:", "or memory: for a store that is not kept"),
        ("sqlite:///:memory:", "or memory: for a store that is not kept"),
        ("sqlite:///", "names no file"),
        ("sqlite://joe:s3cret@host/x.db", "SQLite has no host"),
        ("sqlite:x.db?key=s3cret", "no options"),
        ("memory:name", "use memory:"),
        ("memory://joe:s3cret@x", "use memory:"),
    ],
)
def test_wrong_urls(url: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreConfigError) as caught:
        open_store(url)
    assert said in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_secrets_are_masked() -> None:
    assert masked("s3://key:s3@cret@host:1/b?token=s3cret&x=1") == "s3:***@host:1/b?***"
    assert masked("sqlite:/a/b.db") == "sqlite:/a/b.db"


def test_stores_of_other_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[exoflow.stores]\nother = other_store:connect\n")
    (tmp_path / "other_store.py").write_text("def connect(url):\n    return 'opened ' + url\n")
    monkeypatch.syspath_prepend(tmp_path)
    opened: object = open_store("other://host/x")
    assert opened == "opened other://host/x"
    with pytest.raises(StoreConfigError, match=r"use memory: or other: or sqlite:$"):
        open_store("another:")
