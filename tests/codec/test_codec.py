"""Values to bytes and back, whole and damaged."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import threading

import cloudpickle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exoflow import codec
from exoflow.codec import Encoded
from tests.api.scene import run_python
from tests.codec.values import Plain, values

settings.register_profile("deterministic", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("deterministic")


def joined(encoded: Encoded) -> bytes:
    return b"".join(codec.frame(encoded))


@given(values)
def test_values_come_back(value):
    encoded = codec.encode(value)
    framed = joined(encoded)
    assert codec.decode(codec.parse(framed)) == value
    assert type(codec.decode(encoded)) is type(value)
    assert encoded.size <= len(framed)


@given(st.lists(st.binary(max_size=300), max_size=6), st.binary(max_size=100))
def test_buffers_come_back_aligned(buffers, header):
    """Whatever their number and size, and however the frame itself lies in memory."""
    encoded = Encoded(header, tuple(memoryview(buffer) for buffer in buffers))
    framed = joined(encoded)
    for lead in (0, 1, 63):
        view = memoryview(bytearray(lead) + framed)[lead:]
        parsed = codec.parse(view)
        assert parsed.header == header
        assert [bytes(buffer) for buffer in parsed.buffers] == buffers
    offsets = [framed.index(bytes(buffer)) % 64 for buffer in buffers if len(buffer) > 40]
    assert len(offsets) <= len(buffers)


@given(st.lists(st.binary(max_size=100), max_size=3), st.binary(max_size=50), st.data())
def test_a_frame_that_is_cut_off_is_refused(buffers, header, data):
    """ValueError, whatever is missing. (Bytes behind the end are not looked at: the digest covers them.)"""
    framed = joined(Encoded(header, tuple(map(memoryview, buffers))))
    end = data.draw(st.integers(0, max(0, len(framed) - 1)))
    try:
        parsed = codec.parse(framed[:end])
    except ValueError:
        return
    assert parsed.header == header, "only empty buffers at the end may be missing"
    assert [bytes(b) for b in parsed.buffers] == buffers


@given(st.binary(max_size=200))
def test_no_bytes_at_all_can_do_harm_as_a_frame(noise):
    for framed in (noise, b"XF1\0" + noise):
        try:
            codec.parse(framed)
        except ValueError:
            continue


def test_frames_that_lie_about_sizes():
    for prefix in (
        b"XF1\0" + b"\xff" * 12,
        b"XF1\0" + (2**32 - 1).to_bytes(4, "little") + bytes(8),
        b"XF1\0" + bytes(4) + (2**63).to_bytes(8, "little"),
        b"XF1\0" + (1).to_bytes(4, "little") + bytes(8) + (2**64 - 1).to_bytes(8, "little"),
    ):
        with pytest.raises(ValueError, match="not a framed value"):
            codec.parse(prefix)


DAMAGE = """
import random, resource
from exoflow import codec
from tests.codec.values import SAMPLES
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))  # what a damaged length asks for must not be had
chance = random.Random(7)
outcomes = {"value": 0, "unreadable": 0}
for value in SAMPLES:
    header = codec.encode(value).header
    for _ in range(40):
        damaged = bytearray(header)
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        cut = bytes(damaged[: chance.choice([len(damaged), chance.randrange(len(damaged))])])
        try:
            codec.decode(codec.Encoded(cut))
            outcomes["value"] += 1
        except codec.Unreadable:
            outcomes["unreadable"] += 1
print(outcomes["unreadable"] > 200, outcomes["value"] > 0)
"""


@pytest.mark.slow
def test_damaged_pickles_are_unreadable_and_nothing_else():
    """Whatever unpickling raises is told as Unreadable. (In a process of its own, with little memory.)"""
    assert run_python(DAMAGE).split() == ["True", "True"]


def test_what_cannot_be_made_here_is_unreadable():
    header = cloudpickle.dumps(Plain(1)).replace(b"Plain", b"Plane")
    with pytest.raises(codec.Unreadable, match="Plane"):
        codec.decode(Encoded(header))
    with pytest.raises(codec.Unreadable, match="no_such_module_at_all"):
        codec.decode(Encoded(b"cno_such_module_at_all\nX\n."))


def test_large_arrays_are_not_copied():
    np = pytest.importorskip("numpy")
    array = np.arange(1000.0)
    encoded = codec.encode({"a": array})
    assert len(encoded.buffers) == 1
    assert len(encoded.header) < 500
    pieces = codec.frame(encoded)
    assert any(isinstance(piece, memoryview) and np.shares_memory(np.frombuffer(piece), array) for piece in pieces)
    framed = memoryview(bytearray(b"".join(pieces)))
    back = codec.decode(codec.parse(framed))["a"]
    assert np.shares_memory(back, np.frombuffer(framed, dtype=np.uint8))
    assert back.ctypes.data % 8 == 0


def test_arrays_that_are_not_contiguous():
    np = pytest.importorskip("numpy")
    array = np.arange(100).reshape(10, 10)
    for view in (array[:, ::2], array.T, array[::-1], np.zeros((0, 3))):
        back = codec.decode(codec.parse(joined(codec.encode(view))))
        assert np.array_equal(back, view)
        assert back.dtype == view.dtype


def test_functions_and_classes_without_a_name_go_by_value():
    add = 5

    class Local:
        def double(self):
            return add * 2

    function, instance = codec.decode(codec.parse(joined(codec.encode((lambda x: x + add, Local())))))
    assert function(1) == 6
    assert instance.double() == 10


@pytest.mark.parametrize(
    ("value", "path", "type_name"),
    [
        (threading.Lock(), "the value itself", "_thread.lock"),
        ([1, threading.Lock()], "[1]", "_thread.lock"),
        ({"a": {"b": (0, threading.Lock())}}, "['a']['b'][1]", "_thread.lock"),
        (Plain({"k": threading.Lock()}), ".value['k']", "_thread.lock"),
        ({1, threading.Lock()}, "{…}", "_thread.lock"),
        ((n for n in "x"), "the value itself", "builtins.generator"),
        (lambda lock=threading.Lock(): lock, "the value itself", "builtins.function"),  # noqa: B008 - the point of it
    ],
)
def test_the_way_to_what_cannot_be_pickled(value, path, type_name):
    with pytest.raises(codec.NotSerializable) as caught:
        codec.encode(value)
    assert (caught.value.path, caught.value.type_name) == (path, type_name)
    assert caught.value.reason
    assert str(caught.value).startswith(f"at {path} (")


def test_open_files_are_refused():
    """cloudpickle would read them, and make something else of them."""
    with open("/dev/null") as text, open("/dev/null", "rb") as binary:
        for file in (text, binary):
            with pytest.raises(codec.NotSerializable, match=r"at \['log'\]"):
                codec.encode({"log": file})
    assert codec.decode(codec.encode(io.StringIO("x"))).read() == "x"


def test_whatever_a_reduce_raises_is_told():
    class Refuses:
        def __reduce__(self):
            raise ZeroDivisionError("not me")

    with pytest.raises(codec.NotSerializable, match=r"at \[0\] .*Refuses\): not me"):
        codec.encode([Refuses()])


@given(st.binary(max_size=100), st.integers(0, 200), st.integers(1, 255))
def test_a_sealed_record_shows_any_change(body, at, change):
    sealed = codec.seal(body)
    assert codec.unseal(sealed) == body
    damaged = bytearray(sealed)
    damaged[at % len(damaged)] ^= change
    for wrong in (bytes(damaged), sealed[:-1] if body else b"", b"", sealed[:10]):
        with pytest.raises(ValueError, match="fails its digest"):
            codec.unseal(wrong)


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_a_digest_is_of_the_bytes_however_they_are_cut(pieces):
    whole = codec.digest([b"".join(pieces)])
    assert codec.digest(pieces) == whole
    assert codec.digest(map(memoryview, pieces)) == whole
    assert len(whole) == codec.DIGEST_BYTES


def test_plain_pickles_are_what_it_writes():
    """Values of ordinary classes need no cloudpickle to be read."""
    assert pickle.loads(codec.encode(Plain([1])).header) == Plain([1])


def test_by_value_nothing_of_the_main_script_is_needed_to_load_it(tmp_path):
    """A worker of somebody else's has another main script."""
    (tmp_path / "script.py").write_text(
        "from exoflow import codec\nclass Thing:\n    size = 3\nopen('thing', 'wb').write(codec.encode([Thing()], by_value=True).header)\n",
        "utf-8",
    )
    subprocess.run([sys.executable, "script.py"], cwd=tmp_path, check=True)
    assert codec.decode(Encoded((tmp_path / "thing").read_bytes()))[0].size == 3
