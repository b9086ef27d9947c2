"""The workflows as the command ``exoflow run`` finds them: ``tests.crash.targets:chain``."""

from __future__ import annotations

from typing import Any

from tests.crash.workflows import CASES


def __getattr__(name: str) -> Any:
    if name not in CASES:
        raise AttributeError(name)
    return CASES[name].build()
