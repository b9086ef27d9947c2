"""The model of a disk that loses power: what is flushed stays, the rest may go in every way that is allowed, and in no other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

from exoflow.testing.power.disk import LOST, WHOLE, Choice, Disk, Tree, choices
from exoflow.testing.power.log import Event, Flushed, Made, Removed, Renamed, Resized, Wrote

ROOT, FOLDER, FILE = 0, 1, 2
START: Tree = {"d": None, "d/f": b"old"}


def after(*events: Event, start: Tree = START) -> Disk:
    disk = Disk(start)
    for event in events:
        disk.follow(event)
    return disk


def trees(disk: Disk, seeds: Iterable[int] = range(20)) -> Iterator[Tree]:
    for seed in seeds:
        for choice in choices(disk.pending(), seed):
            yield disk.tree(choice)


def contents(disk: Disk, path: str) -> set[bytes | None]:
    """What a file may hold; None if it may be absent."""
    return {tree.get(path) for tree in trees(disk)}


def flushed_only(disk: Disk) -> Tree:
    return disk.tree(Choice("flushed only", (LOST,) * len(disk.pending())))


def everything(disk: Disk) -> Tree:
    return disk.tree(Choice("everything", (WHOLE,) * len(disk.pending())))


def test_what_nobody_touched_stays() -> None:
    assert list(trees(after())) == [START] * 40  # flushed only, and the only subset


def test_a_flushed_write_stays_and_another_may_not() -> None:
    disk = after(Wrote(FILE, 0, b"new"), Flushed(FILE), Wrote(FILE, 3, b"er"))
    assert flushed_only(disk)["d/f"] == b"new"
    assert everything(disk)["d/f"] == b"newer"
    assert all(content is not None and content.startswith(b"new") and len(content) <= 5 for content in contents(disk, "d/f"))
    assert {b"new", b"newer", b"new\0\0"} < contents(disk, "d/f")


def test_a_later_write_may_survive_an_earlier_one() -> None:
    disk = after(Wrote(FILE, 0, b"N"), Wrote(FILE, 2, b"W"))
    assert {b"old", b"Nld", b"olW", b"NlW"} <= contents(disk, "d/f")


def test_a_hole_is_zeros() -> None:
    disk = after(Wrote(FILE, 3, b"a"), Wrote(FILE, 4, b"b"))
    assert disk.tree(Choice("", (LOST, WHOLE)))["d/f"] == b"old\0b"


@pytest.mark.parametrize("offset", [0, 100, 512, 4000])
def test_a_write_tears_in_sectors_and_leaves_the_rest_alone(offset: int) -> None:
    start: Tree = {"d": None, "d/f": b"o" * 10_000}
    disk = after(Wrote(FILE, offset, b"n" * 5000), start=start)
    torn = contents(disk, "d/f")
    assert len(torn) > 20
    for content in torn:
        assert content is not None
        assert len(content) == 10_000
        assert set(content[:offset] + content[offset + 5000 :]) == {ord("o")}
    whole_sectors = [content[512 * 8 : 512 * 9] for content in torn if content]
    assert {bytes(512), b"o" * 512, b"n" * 512} < set(whole_sectors)
    assert any(len(set(sector)) > 50 for sector in whole_sectors)  # garbage


def test_a_truncation_is_an_operation_like_others() -> None:
    disk = after(Resized(FILE, 1), Wrote(FILE, 1, b"x"))
    assert {b"old", b"o", b"ox", b"oxd"} <= contents(disk, "d/f")


def test_a_new_file_is_there_for_good_when_its_folder_is_flushed() -> None:
    made, wrote = Made("d/g", 3, is_folder=False), Wrote(3, 0, b"new")
    assert contents(after(made, wrote, Flushed(3)), "d/g") == {None, b"new"}
    assert contents(after(made, wrote, Flushed(FOLDER)), "d/g") >= {b"", b"new", bytes(3)}
    assert contents(after(made, wrote, Flushed(3), Flushed(FOLDER)), "d/g") == {b"new"}


def test_a_folder_whose_name_is_lost_takes_everything_with_it() -> None:
    disk = after(Made("e", 3, is_folder=True), Made("e/g", 4, is_folder=False), Flushed(4), Flushed(3))
    assert flushed_only(disk) == START
    assert flushed_only(after(Made("e", 3, is_folder=True), Flushed(ROOT), Made("e/g", 4, is_folder=False), Flushed(3))) == {
        **START,
        "e": None,
        "e/g": b"",
    }


def test_a_file_that_is_moved_may_be_at_both_places_or_at_none() -> None:
    disk = after(Made("e", 3, is_folder=True), Flushed(ROOT), Renamed("d/f", "e/f"))
    found = {("d/f" in tree, "e/f" in tree) for tree in trees(disk)}
    assert found == {(True, False), (True, True), (False, True), (False, False)}
    disk.follow(Flushed(3))
    assert all("e/f" in tree for tree in trees(disk))


def test_a_file_that_takes_anothers_name_may_lack_its_content() -> None:
    disk = after(Made("d/g", 3, is_folder=False), Wrote(3, 0, b"new"), Renamed("d/g", "d/f"), Flushed(FOLDER))
    assert contents(disk, "d/f") >= {b"", b"new", bytes(3)}
    assert b"old" not in contents(disk, "d/f")
    disk.follow(Flushed(3))
    assert contents(disk, "d/f") == {b"new"}


def test_a_file_that_is_removed_may_come_back() -> None:
    assert contents(after(Removed("d/f")), "d/f") == {b"old", None}
    assert contents(after(Removed("d/f"), Flushed(FOLDER)), "d/f") == {None}


def test_few_operations_are_lost_in_all_combinations() -> None:
    for count in (0, 1, 5, 10):
        disk = after(*(Wrote(FILE, place, b"n") for place in range(count)))
        subsets = [choice.fates for choice in choices(disk.pending(), 1) if choice.kind == "subset"]
        assert len(set(subsets)) == len(subsets) == 2**count
    disk = after(*(Wrote(FILE, place, b"n") for place in range(11)))
    assert len({choice.fates for choice in choices(disk.pending(), 1) if choice.kind == "subset"}) > 40


def test_the_same_seed_gives_the_same_disks() -> None:
    disk = after(*(Wrote(FILE, place * 300, bytes([place]) * 700) for place in range(12)))
    assert list(trees(disk, [7])) == list(trees(disk, [7]))
    assert list(trees(disk, [7])) != list(trees(disk, [8]))
