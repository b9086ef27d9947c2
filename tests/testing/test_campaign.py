"""The numbers that are published go through one file."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from exoflow.testing.campaign import Campaign, append, commit_of, now, read


def test_what_is_appended_is_read_in_order(tmp_path: Path) -> None:
    file = tmp_path / "new" / "campaigns.jsonl"
    first = Campaign(kind="kills", command="a", began=now(), counts={"kills": 3}, violations=1, stories=["twice"])
    append(file, first)
    append(file, Campaign(kind="simulation", command="b", first_seed=0, last_seed=9))
    assert read(file)[0] == first
    assert [campaign.command for campaign in read(file)] == ["a", "b"]


def test_a_line_that_is_no_campaign_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "campaigns.jsonl"
    file.write_text('{"kind": "guesses", "command": "x"}\n')
    with pytest.raises(msgspec.ValidationError):
        read(file)


def test_without_git_there_is_no_commit(tmp_path: Path) -> None:
    assert commit_of(tmp_path) == ""
