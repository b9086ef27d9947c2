"""``exoflow audit``: which deterministic task is not, with an exit code for scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

LIARS = """
import random
import exoflow

PURE = {"deterministic": True, "can_rollback": True}

@exoflow.task(**PURE)
def price(item):
    print("pricing")
    return {"item": item, "price": random.random()}

@exoflow.task(**PURE)
def label(item):
    return f"a {item}"

@exoflow.task
def sell(price, label):
    return label

sale = sell.bind(price.bind("hat"), label.bind("hat"))
honest = label.bind("hat")
plain = sell.bind(1, "hat")
"""


@pytest.fixture
def sold(exo: Any, folder: Path) -> Any:
    (folder / "liars.py").write_text(LIARS)
    for dag in ("sale", "honest", "plain"):
        exo("run", f"liars:{dag}", "--name", dag)
    return exo


def test_the_liar_is_named(sold: Any) -> None:
    printed = sold("audit", "sale", "-m", "liars", code=1).out
    rows = [line.split() for line in printed.splitlines()]
    assert ["price", "lies", "saved"] in [row[:3] for row in rows]
    assert ["label", "agrees", "saved"] in [row[:3] for row in rows]
    assert "price: ['price']: 0." in printed


def test_as_json_with_what_tasks_print_elsewhere(sold: Any) -> None:
    document = sold.json("audit", "sale", "-m", "liars.py", code=1)
    assert (document["workflow_id"], document["ok"]) == ("sale", False)
    liar = next(each for each in document["tasks"] if each["task"] == "price")
    assert set(liar) == {"task", "verdict", "against", "before", "now", "differs", "reason"}
    assert sold.json("audit", "sale", "--task", "label", "-m", "liars")["tasks"][0]["verdict"] == "agrees"


def test_the_honest_and_those_who_promise_nothing(sold: Any) -> None:
    assert "agrees" in sold("audit", "honest", "-m", "liars").out
    assert "no task of 'plain' is annotated deterministic" in sold("audit", "plain").err
    assert "sell: it is not annotated deterministic" in sold("audit", "plain", "--task", "sell").out


@pytest.mark.slow  # another process, to import another code
def test_code_that_changed_since_is_not_blamed(sold: Any, folder: Path) -> None:
    (folder / "liars.py").write_text(LIARS.replace('f"a {item}"', 'f"an old {item}"'))
    assert "label: its code is not what it was" in sold.finished(sold.start("audit", "honest", "-m", "liars")).out


def test_names_that_do_not_exist(sold: Any) -> None:
    sold("audit", "nobody", code=2)
    sold("audit", "honest", "--task", "nobody", code=2)
