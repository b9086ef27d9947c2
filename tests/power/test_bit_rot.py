"""Changed bytes of stores: the right answer or a clear error, and where nobody checks, the wrong answer is found."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from exoflow.store.blobs import FileBlobs
from exoflow.testing import campaign
from exoflow.testing.power import bitrot
from exoflow.testing.power.bitrot import Specimen
from exoflow.testing.power.losses import folder
from exoflow.testing.power.workloads import STORE


@pytest.fixture
def specimen() -> Iterator[Specimen]:
    outer = folder()
    yield bitrot.make(1, outer / "disk", with_log=False)
    shutil.rmtree(outer)


@pytest.mark.slow
def test_a_changed_byte_never_gives_a_wrong_answer() -> None:
    """Slow because an engine works on each of some hundred stores. The command does it for every byte."""
    found = bitrot.every_byte(2, (0, 1), step=211)
    assert found.violations == []
    assert found.flips > 300
    assert {"right, and the engine got through", "engine: StoreCorruptError", "as it was before"} <= set(found.outcomes)
    more = bitrot.random_bytes(3, 50)
    assert (more.violations, more.flips) == ([], 50)


@pytest.mark.slow
def test_the_header_of_the_file(specimen: Specimen) -> None:
    """Byte by byte: SQLite reads it before any checksum is known. Slow because an engine works on a hundred stores."""
    for at in range(100):
        assert bitrot.judge(specimen, STORE, at, 1 + at % 255).violations == []


@pytest.mark.slow
def test_damaged_blobs_are_made_again_where_the_annotations_allow() -> None:
    """Of unfinished workflows. That results of finished ones or definitions are gone is said. How far each had come is a matter of timing,
    so there may have to be several stores. Slow because an engine works on each."""
    expected = {"a blob is refused, and the engine got through", "engine: CheckpointCorruptError", "engine: StoreCorruptError"}
    outcomes = set()
    for seed in range(1, 10):
        outer = folder()
        specimen = bitrot.make(seed, outer / "disk", with_log=False)
        for path in specimen.tree:
            if specimen.tree[path] and path != STORE:
                findings = bitrot.judge(specimen, path, 100, 1)
                assert findings.violations == []
                outcomes |= findings.outcomes.keys()
        shutil.rmtree(outer)
        if outcomes >= expected:
            break
    assert outcomes == expected


@pytest.mark.slow
def test_a_blob_that_is_not_verified_gives_wrong_answers(specimen: Specimen, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge is judged. Slow because an engine works on each of some stores."""
    monkeypatch.setattr(FileBlobs, "open", lambda blobs, name: memoryview(bytearray(blobs._path(name).read_bytes())))
    found = []
    for path in specimen.tree:
        if specimen.tree[path] and path != STORE:
            found += bitrot.judge(specimen, path, len(specimen.tree[path] or b"") // 2, 1).violations
    assert any("is not what it was" in line or "now it is" in line for line in found), found


@pytest.mark.slow
def test_the_command_for_bit_rot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Slow because it starts processes."""
    monkeypatch.chdir(tmp_path)
    assert bitrot.main(["--flips", "6", "--seed", "4", "--record", "results.jsonl"]) == 0
    assert bitrot.main(["--step", "9001", "--jobs", "2", "--record", "results.jsonl"]) == 0
    assert "0 violations" in capsys.readouterr().out
    random, every = campaign.read(tmp_path / "results.jsonl")
    assert (random.kind, random.violations, random.counts["flips"], random.last_seed) == ("bit-rot", 0, 6, 4)
    assert every.counts["flips"] == sum(every.situations.values()) > 5
