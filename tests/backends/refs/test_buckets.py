"""Refs to objects in a bucket, here a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import exoflow
from exoflow import codec
from exoflow.errors import CheckpointFailedError, RefLostError
from exoflow.refs.buckets import BucketRef
from exoflow.testing.ref_suite import RefSuite


class TestBucketRef(RefSuite):
    """A folder as a bucket: its writes are not flushed, so a checkpoint holds the bytes."""

    value = b"some data"
    other = b"other data"

    @pytest.fixture(autouse=True)
    def _bucket(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def make(self, value: Any) -> Any:
        return BucketRef.put(f"file://{self.folder}", value)

    def destroy(self, ref: Any) -> None:
        (self.folder / ref.path).unlink()


def test_what_put_has_stored_goes_when_it_is_released(tmp_path):
    ref = BucketRef.put(f"file://{tmp_path}", b"x")
    assert (tmp_path / ref.path).read_bytes() == b"x"
    BucketRef(ref.url, ref.path).release()  # not owned
    assert ref.get() == b"x"
    ref.release()
    assert not (tmp_path / ref.path).exists()


def test_its_bytes_are_in_its_checkpoint(tmp_path):
    ref = BucketRef.put(f"file://{tmp_path}", b"x" * 100_000)
    assert codec.encode(ref.checkpoint("v").result(10)).size > 100_000


@exoflow.task(can_rollback=True)
def read(given: Any) -> Any:
    return given[0].get()


@pytest.mark.parametrize(("bucket", "error"), [("other", RefLostError), ("none", CheckpointFailedError)])
def test_an_object_of_another_bucket_is_refused_before_anything_is_written(tmp_path, bucket, error):
    (tmp_path / "here").mkdir()
    (tmp_path / "other").mkdir()
    path = BucketRef.put(f"file://{tmp_path}/here", b"x").path
    with exoflow.Engine("memory:") as engine:
        with pytest.raises(error, match=f"{bucket}#"):
            engine.run(read.bind([BucketRef(f"file://{tmp_path}/{bucket}", path)]), name="w")
        assert engine.list_all() == []
