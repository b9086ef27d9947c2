"""Blocks of shared memory: who may write to them, and when they are free."""

from __future__ import annotations

import os
import socket

import pytest

from exoflow.codec import Encoded
from exoflow.worker import entrypoint, shared, wire
from exoflow.worker.shared import Spare

LARGE = b"a large value, " * 100_000


@pytest.fixture(autouse=True)
def nothing_is_left():
    files = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == files


def written(*pieces, spare=None):
    block = shared.write(pieces, spare)
    assert block is not None
    return block


def read(block):
    """As another process would: by a descriptor of its own."""
    return shared.opened(os.dup(block.fd))


def test_pieces_are_found_again_each_aligned():
    block = written(b"one", b"", LARGE, b"two")
    view = read(block)
    sizes = (3, 0, len(LARGE), 3)
    assert [bytes(view[at : at + size]) for at, size in zip(block.offsets, sizes, strict=True)] == [b"one", b"", LARGE, b"two"]
    assert all(at % 64 == 0 for at in block.offsets)
    assert view.readonly
    block.sent(None)


def test_a_reader_cannot_write_to_the_file():
    block = written(LARGE)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(block.fd, b"x")
    with pytest.raises(OSError, match="Invalid argument"):
        os.truncate(block.fd, 0)
    block.sent(None)


def test_a_block_that_is_read_already_is_not_mapped_twice():
    block = written(LARGE)
    first, second = read(block), read(block)
    assert first.obj is second.obj
    block.sent(None)


def test_a_buffer_in_a_block_is_recognised_and_one_elsewhere_is_not():
    block = written(LARGE)
    view = read(block)
    found = shared.find(view[1000:2000])
    assert found is not None
    assert found[1] is view.obj
    assert found[2] == 1000
    assert shared.find(memoryview(LARGE)) is None
    block.sent(None)
    del found
    view.release()
    assert shared.find(memoryview(LARGE)) is None


def test_it_is_read_as_long_as_there_is_a_descriptor_or_a_view():
    block = written(LARGE)
    assert block.is_read()  # by whoever gets fd
    fd = os.dup(block.fd)
    os.close(block.fd)
    block.fd = block.own
    assert block.is_read()
    view = shared.opened(fd)
    part = view[10:20]
    view.release()
    assert block.is_read()
    part.release()
    assert not block.is_read()
    block.close()


def test_a_spare_block_is_written_again_when_nobody_reads_it():
    spare = Spare()
    block = written(LARGE, spare=spare)
    view = read(block)
    block.sent(spare)
    other = written(LARGE, spare=spare)
    assert other is not block
    other.sent(None)
    view.release()
    again = written(LARGE[::-1], spare=spare)
    assert again is block
    view = read(again)
    assert view[: len(LARGE)] == LARGE[::-1]
    view.release()
    again.sent(spare)
    assert written(b"small", spare=spare).sent(None) is None  # not into one that is much too large
    spare.clear()


def test_no_more_is_kept_than_may_be(monkeypatch):
    spare = Spare()
    monkeypatch.setattr(shared, "KEPT_BYTES_MAX", 2 * len(LARGE) + 100)
    blocks = [written(LARGE, spare=spare) for _ in range(4)]
    views = [read(block) for block in blocks[:2]]
    for block in blocks[:2]:
        block.sent(spare)
    blocks[2].sent(spare)  # the others are read, so there is no room for it
    assert spare._blocks == blocks[:2]
    views.pop().release()
    blocks[3].sent(spare)
    assert spare._blocks == [blocks[0], blocks[3]]
    monkeypatch.setattr(shared, "KEPT_BYTES_MAX", 100)
    written(LARGE).sent(spare)
    assert spare._blocks == [blocks[0], blocks[3]]
    views.pop().release()
    spare.clear()


@pytest.mark.parametrize("missing", ["proc", "locks"])
def test_where_nobody_can_tell_who_reads_nothing_is_written_again(monkeypatch, missing):
    spare = Spare()
    with monkeypatch.context() as patch:
        if missing == "proc":
            opens = os.open
            patch.setattr(os, "open", lambda path, *rest: opens(path.replace("/proc/", "/none/"), *rest))
        else:
            patch.setattr(shared.fcntl, "flock", refuse)
        block = written(LARGE, spare=spare)
        assert bytes(read(block)[: len(LARGE)]) == LARGE
        block.sent(spare)
    assert not spare


def refuse(*_):
    raise OSError(37, "No locks available")


def test_memory_that_may_be_written_again_is_given_back_while_no_call_comes(monkeypatch):
    near, far = socket.socketpair()
    spare = Spare()
    written(LARGE, spare=spare).sent(spare)
    near.send(b"a call")
    entrypoint._tidy_up(far, spare)
    assert spare
    far.recv(10)
    monkeypatch.setattr(entrypoint, "SPARE_S", 0)
    entrypoint._tidy_up(far, spare)
    assert not spare
    near.close()
    far.close()


def test_a_message_that_comes_in_parts_and_one_that_follows_it():
    near, far = socket.socketpair()
    for note in (b"first", b"second" * 30_000):
        parcel = wire.Parcel(note, Encoded(b"header", (memoryview(b"buffer"),)))
        data = parcel._data
        for at in (slice(0, 7), slice(7, 30), slice(30, None)):
            near.sendall(data[at])
        parcel.close()
    for note in (b"first", b"second" * 30_000):
        assert wire.receive(far, wire.FIRST) == (note, Encoded(b"header", (memoryview(b"buffer"),)))
    near.close()
    assert wire.receive(far) is None
    far.close()


def test_a_message_whose_file_got_lost_is_an_error_and_leaves_nothing_open():
    near, far = socket.socketpair()
    parcel = wire.Parcel(b"", Encoded(b"", (memoryview(LARGE),)))
    near.sendall(parcel._data)
    with pytest.raises(OSError, match="too many open files"):
        wire.receive(far)
    parcel.close()
    near.close()
    far.close()


# --- one input of many tasks ---


def arrive(parcel):
    """What comes of a message at the other end."""
    near, far = socket.socketpair()
    parcel.send(near)
    near.close()
    received = wire.receive(far)
    far.close()
    assert received is not None
    return received[1].buffers


def block_of(buffer):
    found = shared.find(buffer)
    assert found is not None
    return found[0].file


def test_an_input_of_several_calls_is_written_once():
    data = memoryview(bytearray(LARGE))
    first, second = (wire.Parcel(b"", Encoded(b"", (data, memoryview(b"and more")))) for _ in range(2))
    (there, _), (again, _) = arrive(first), arrive(second)
    assert there == again == data
    assert block_of(there) == block_of(again)
    first.close()  # the second still has it
    third = wire.Parcel(b"", Encoded(b"", (data,)))
    assert block_of(arrive(third)[0]) == block_of(there)
    second.close()
    third.close()
    fourth = wire.Parcel(b"", Encoded(b"", (data,)))
    assert block_of(arrive(fourth)[0]) != block_of(there)
    fourth.close()
    assert not shared._lent


def test_an_input_that_was_changed_meanwhile_is_written_as_it_is_now(monkeypatch):
    monkeypatch.setattr(shared, "_WINDOW", 1 << 20)
    data = memoryview(bytearray(LARGE))
    first = wire.Parcel(b"", Encoded(b"", (data,)))
    before = arrive(first)[0]
    data[-1] = 255
    second = wire.Parcel(b"", Encoded(b"", (data,)))
    assert bytes(before) == LARGE
    assert arrive(second)[0] == data
    first.close()
    third = wire.Parcel(b"", Encoded(b"", (data,)))
    assert block_of(arrive(third)[0]) == block_of(arrive(second)[0])
    second.close()
    third.close()
    assert not shared._lent
