"""Real runs lose power at every flush; nothing that was promised may be lost. And where a flush is missing, the loss is found."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from exoflow.store.sqlite import SqliteStore
from exoflow.testing import campaign
from exoflow.testing.power import __main__ as command
from exoflow.testing.power import log
from exoflow.testing.power.disk import WHOLE, Choice, Disk
from exoflow.testing.power.judge import Truth, examine, lay_out
from exoflow.testing.power.losses import Loss, Tally, folder, repeat, try_losses
from exoflow.testing.power.record import RecordedFiles
from exoflow.testing.power.workloads import STORE, WITHOUT_ENGINE, WORKLOADS, Finished, finish, record


@pytest.fixture
def root() -> Iterator[Path]:
    outer = folder()
    yield outer / "disk"
    shutil.rmtree(outer)


def at_the_end(recorded: log.Log) -> tuple[Disk, Truth]:
    disk, truth = Disk(recorded.disk), Truth(recorded)
    for event in recorded.events:
        disk.follow(event)
        truth.follow(event)
    return disk, truth


# --- the recording is true -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_recording_has_all_that_the_disk_holds(root: Path, workload: str) -> None:
    """Byte by byte, whatever SQLite and the blobs did; and the store answered as the one in memory does. Slow because it runs engines."""
    for seed in range(2):
        recorded = record(workload, seed, root)
        disk, truth = at_the_end(recorded)
        assert msgspec.msgpack.decode(log.encode(recorded), type=log.Log) == recorded
        now = {
            path.relative_to(root).as_posix(): None if path.is_dir() else path.read_bytes()
            for path in root.rglob("*")
            if "locks" not in path.parts
        }
        tree = disk.tree(Choice("everything", (WHOLE,) * len(disk.pending())))
        assert tree == now
        assert truth.known.answered == truth.known.asked > 0
        lay_out(root, tree)
        assert examine(root / STORE, truth, truth.known, twice=True) == ([], truth.known.asked)
        if workload not in WITHOUT_ENGINE:
            lay_out(root, tree)
            assert finish(root / STORE, truth, truth.known) == Finished()
        shutil.rmtree(root)


# --- nothing is lost -----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_that_was_promised_is_lost() -> None:
    """5,000 disks. Slow because each is made, opened, read and judged, and some are worked on to the end."""
    tally = command.run(5_000, jobs=1, first_seed=1, per_moment=8)
    assert tally.stories == []
    assert set(tally.workloads) == set(WORKLOADS)
    assert set(tally.kinds) == {"flushed only", "up to a moment", "subset", "torn"}
    assert len(tally.situations) == 6
    assert tally.finished > 20
    assert tally.recordings > len(WORKLOADS)


@pytest.mark.slow
def test_a_store_that_is_being_made(root: Path) -> None:
    """Every combination of what may be lost while the file, its schema and its folders come into being. Slow because it tries hundreds."""
    tally = try_losses(record("creation", 1, root), 400, 1)
    assert tally.stories == []
    assert tally.situations["no store yet"] >= 3
    assert tally.situations["a database in the making"] > 20


# --- where a flush is missing, the loss is found -------------------------------------------------------------------------------------


class WithoutFolders(RecordedFiles):
    """Does not flush folders."""

    def flush_folder(self, path: Path) -> None: ...


class WithoutContent(RecordedFiles):
    """Does not flush blobs."""

    def flush(self, fd: int) -> None: ...


def relaxed(store: SqliteStore) -> None:
    store._writer.pragma("synchronous", "NORMAL")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "workload", "found"),
    [
        ({"tweak": relaxed}, "one at a time", "is nothing"),
        ({"tweak": relaxed}, "requests", "were answered"),
        ({"files": WithoutFolders}, "with blobs", "was promised and is gone"),
        ({"files": WithoutFolders}, "large blobs", "was promised and is gone"),
        ({"files": WithoutContent}, "with blobs", "fails its digest"),
        ({"files": WithoutContent}, "blob is there", "fails its digest"),
    ],
)
def test_a_missing_flush_is_found(root: Path, fault: dict[str, Any], workload: str, found: str) -> None:
    """The harness is judged. Slow because it runs engines and tries a hundred disks."""
    tally = Tally()
    for seed in range(1, 4):
        tally.add(try_losses(record(workload, seed, root, **fault), 10, 1))
        shutil.rmtree(root)
        if any(found in story for story in tally.stories):
            break
    assert any(found in story for story in tally.stories), tally.stories


@pytest.mark.slow
def test_what_a_lost_commit_leads_to_is_found_by_the_judge_of_effects(root: Path) -> None:
    """An engine that goes on from a journal that lacks what was answered does things twice. Slow because it runs engines."""
    found = []
    for seed in range(1, 4):
        recorded = record("one at a time", seed, root, tweak=relaxed)
        for lost in try_losses(recorded, 3, 1).losses:
            disk, truth = at_the_end(lost.log)
            lay_out(root, disk.tree(lost.choice))
            found += finish(root / STORE, truth, truth.known).violations
        shutil.rmtree(root)
    assert any("was committed under two keys" in line or "saw draw" in line or "and again" in line for line in found), found


# --- what was found can be made again ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_disk_with_a_violation_is_kept_and_can_be_made_again(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Slow because it runs engines."""
    recorded = record("one at a time", 1, root, tweak=relaxed)
    losses = try_losses(recorded, 5, 1).losses
    shutil.rmtree(root)
    (path, *_) = command.keep(losses, tmp_path / "losses")
    assert command.main(["--repeat", str(path)]) == 1
    assert "were answered" in capsys.readouterr().out
    disk, _ = at_the_end(recorded)
    assert repeat(Loss(recorded, Choice("everything", (WHOLE,) * len(disk.pending())))) == []
    assert not root.exists()


@pytest.mark.slow
def test_the_command_tells_and_records(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow because it starts processes."""
    monkeypatch.chdir(tmp_path)
    assert command.main(["--workload", "creation", "--states", "60", "--jobs", "2", "--seed", "7", "--record", "results.jsonl"]) == 0
    assert "0 violations" in capsys.readouterr().out
    (result,) = campaign.read(tmp_path / "results.jsonl")
    assert (result.kind, result.violations, result.cores, result.first_seed) == ("power-loss", 0, 2, 7)
    assert result.counts["states"] >= 60
    assert result.counts["states, creation"] == result.counts["states"]
    assert "--workload 'creation'" in result.command
