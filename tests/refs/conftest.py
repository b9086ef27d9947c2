"""A store in a file."""

from __future__ import annotations

import pytest


@pytest.fixture
def url(tmp_path):
    return f"sqlite:{tmp_path}/store/x.db"
