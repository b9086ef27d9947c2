"""The house rules, one small test each. A failure lists every offence with its place and what to do instead."""

from __future__ import annotations

from pathlib import Path

import pytest

import exoflow
from exoflow import errors
from tests.architecture import promises, rules
from tests.architecture.house import House


@pytest.fixture(scope="module")
def house() -> House:
    house = House(Path(__file__).parents[2])
    assert len(house.src) > 5, "the rules look into an empty folder"
    return house


def none_of(offences: list[str]) -> None:
    if offences:
        pytest.fail("\n".join([f"{len(offences)} to repair:", *offences]), pytrace=False)


# --- sizes -----------------------------------------------------------------------------------------------------------------------


def test_functions_are_short(house: House) -> None:
    none_of(rules.long_functions(house))


def test_files_are_short(house: House) -> None:
    none_of(rules.long_files(house))


def test_folders_can_be_overlooked(house: House) -> None:
    none_of(rules.crowded_folders(house))


def test_the_whole_stays_small(house: House) -> None:
    none_of(rules.heavy_package(house))


def test_seams_are_narrow(house: House) -> None:
    none_of(rules.wide_seams(house))


# --- calls that have a better place ------------------------------------------------------------------------------------------------


def test_time_comes_from_the_clock(house: House) -> None:
    none_of(rules.clocks(house))


def test_chance_comes_from_one_place(house: House) -> None:
    none_of(rules.chance(house))


def test_the_runtime_gets_its_concurrency_from_one_seam(house: House) -> None:
    none_of(rules.concurrency(house))


def test_nothing_prints_but_the_command_line(house: House) -> None:
    none_of(rules.prints(house))


def test_no_text_is_run_as_code(house: House) -> None:
    none_of(rules.evaluation(house))


def test_no_shell_is_started(house: House) -> None:
    none_of(rules.shells(house))


def test_pickles_are_opened_in_one_place(house: House) -> None:
    none_of(rules.unpickling(house))


def test_no_error_is_swallowed(house: House) -> None:
    none_of(rules.swallowed_errors(house))


def test_no_notes_for_later(house: House) -> None:
    none_of(rules.notes_for_later(house))


# --- structure -----------------------------------------------------------------------------------------------------------------------


def test_every_module_is_used(house: House) -> None:
    none_of(rules.unused_modules(house))


def test_one_file_commits(house: House) -> None:
    none_of(rules.commits_elsewhere(house))


def test_names_say_something(house: House) -> None:
    none_of(rules.empty_names(house))


def test_core_is_pure(house: House) -> None:
    none_of(rules.impure_core(house))


# --- what the project says about itself ----------------------------------------------------------------------------------------------


def test_error_codes_are_unique() -> None:
    none_of(promises.shared_codes(errors))


def test_errors_are_explained() -> None:
    none_of(promises.silent_errors(errors))


def test_errors_have_messages_and_survive_pickling() -> None:
    assert len(promises.error_classes(errors)) > 30
    none_of(promises.broken_messages(errors))


def test_public_names_are_listed(house: House) -> None:
    if (house.root / "src/exoflow/client/__init__.py").exists():
        assert getattr(exoflow, "__all__", None), "exoflow/__init__.py has no __all__; list what users import"


def test_public_names_are_in_order() -> None:
    none_of(promises.unordered_names(exoflow))


def test_public_names_are_explained() -> None:
    none_of(promises.unexplained_names(exoflow))


def test_dependencies_have_reasons(house: House) -> None:
    none_of(promises.unexplained_dependencies(house))


def test_locks_agree_with_pyproject(house: House) -> None:
    none_of(promises.stale_locks(house))


def test_locks_hold_hashed_pins_only(house: House) -> None:
    none_of(promises.unhashed_pins(house))


def test_nothing_names_a_machine_or_a_registry(house: House) -> None:
    none_of(promises.machine_traces(house))
