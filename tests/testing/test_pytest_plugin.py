"""The plugin as users have it: files of tests, run by pytest."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.slow  # each is a run of pytest inside pytest

A_SHOP = """
import pytest
import exoflow

def shop(effects, **annotations):
    @exoflow.task(**annotations)
    def charge(order):
        effects.apply("charge", value=order, key=None if annotations else exoflow.current_task().idempotency_key)
        return order
    return charge.bind("order-17")
"""


@pytest.fixture
def run(pytester, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(tests: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile(A_SHOP + tests)
        return pytester.runpytest_inprocess("-p", "exoflow_pytest", "-p", "no:cacheprovider", *options)

    return run


def test_fixtures_are_there(run):
    result = run("""
def test_all_of_them(exoflow_engine, exoflow_clock, exoflow_effects, crash_everywhere):
    assert exoflow_engine.run(shop(exoflow_effects)) == "order-17"
    assert exoflow_effects.count("charge") == 1
    exoflow_clock.advance(5)
    assert exoflow_clock.now_s == 5
    assert crash_everywhere(shop(exoflow_effects), pairs=0).ok
    assert exoflow_effects.count("charge") == 1

def test_nothing_is_left_of_that(exoflow_engine, exoflow_effects):
    assert exoflow_engine.list_all() == []
    assert exoflow_effects.entries == []
""")
    result.assert_outcomes(passed=2)


TWO_TESTS = """
def test_wrong(exoflow_engine, exoflow_effects):
    assert exoflow_engine.run(shop(exoflow_effects, can_rollback=True), name="seventeen") == "order-17"

def test_right(exoflow_engine, exoflow_effects):
    assert exoflow_engine.run(shop(exoflow_effects), mode="auto") == "order-17"
"""


def test_without_the_option_tests_are_what_they_are(run):
    run(TWO_TESTS).assert_outcomes(passed=2)


def test_with_the_option_a_test_fails_whose_workflow_a_crash_breaks(run):
    result = run(TWO_TESTS, "--exoflow-crash-everywhere")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["crash_everywhere of 'seventeen': 1 finding(s)*", "1. 'charge' happened twice*", "*repair: leave can_rollback out*"]
    )


def test_a_marked_test_and_one_that_fails_anyway_are_left_alone(run):
    result = run(
        """
@pytest.mark.no_crash_everywhere
def test_marked(exoflow_engine, exoflow_effects):
    exoflow_engine.run(shop(exoflow_effects, can_rollback=True))

def test_broken(exoflow_engine, exoflow_effects):
    exoflow_engine.run(shop(exoflow_effects, can_rollback=True))
    assert False, "for a reason of its own"
""",
        "--exoflow-crash-everywhere",
        "--strict-markers",
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*for a reason of its own*"])
    result.stdout.no_fnmatch_line("*crash_everywhere of*")


def test_whoever_merely_has_exoflow_installed_does_not_import_it():
    code = "import sys, pytest, exoflow_pytest; sys.exit(any(name.partition('.')[0] == 'exoflow' for name in sys.modules))"
    subprocess.run([sys.executable, "-c", code], check=True)
