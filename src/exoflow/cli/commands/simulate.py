"""``exoflow simulate``: the engine itself, in a world where everything goes wrong, from a seed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from exoflow.cli.session import Session, Span, with_session

if TYPE_CHECKING:
    from exoflow.testing.campaign import Campaign
    from exoflow.testing.simulation.many import Tally
    from exoflow.testing.simulation.scenario import Scenario


@click.command("simulate")
@click.option("--seed", metavar="N", type=int, help="Run this one, and say what happened in it.")
@click.option("--seeds", metavar="A:B", help="Run those from A to B, both included.")
@click.option("--minutes", metavar="M", type=Span(), help="Run fresh seeds for so long.")
@click.option("--jobs", "-j", metavar="N", type=click.IntRange(min=1), default=1, help="Processes at once.")
@click.option("--scenario", metavar="FILE", type=click.Path(path_type=Path), help="Run a saved scenario.")
@click.option("--shrink", is_flag=True, help="Make what broke smaller, and write it to scenario-N.json.")
@click.option("--record", metavar="FILE", type=click.Path(path_type=Path), help="Append the numbers to a file of campaigns.")
@click.option("--log", is_flag=True, help="Print all that happened, in order (--seed or --scenario).")
@with_session
def simulate(
    session: Session,
    seed: int | None,
    seeds: str | None,
    minutes: float | None,
    jobs: int,
    scenario: Path | None,
    shrink: bool,
    record: Path | None,
    log: bool,
) -> None:
    """Try the engine in a simulated world full of faults.

    Exit code 1 if exactly-once was broken, with the command that repeats it. Needs the extra 'sim'.
    """
    from exoflow.errors import UsageError

    if seed is not None or scenario is not None:
        _one(session, _given(seed, scenario), shrink=shrink, log=log)
    elif seeds is not None or minutes is not None:
        _many(session, seeds, minutes, jobs, record)
    else:
        raise UsageError(message="say what to run: --seed N, --seeds A:B, --minutes M or --scenario FILE")


def _given(seed: int | None, path: Path | None) -> Scenario:
    from exoflow.errors import UsageError
    from exoflow.testing.simulation import generate, scenario

    if path is None:
        return generate.scenario(seed or 0)
    try:
        return scenario.read(path)
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(message=f"'{path}' is no scenario: {error}") from None


def _one(session: Session, given: Scenario, *, shrink: bool, log: bool) -> None:
    from exoflow.testing.simulation.driver import simulate_one
    from exoflow.testing.simulation.scenario import write
    from exoflow.testing.simulation.shrink import shrink as smaller

    output = session.output
    outcome = simulate_one(given, log=log)
    if outcome.violations and shrink:
        given = smaller(given, told=output.note)
        outcome = simulate_one(given, log=log)
        write(Path(f"scenario-{given.seed}.json"), given)
        output.note(f"wrote scenario-{given.seed}.json; again: exoflow simulate --scenario scenario-{given.seed}.json --log")
    if output.as_json:
        output.document({"scenario": msgspec.to_builtins(given), **msgspec.to_builtins(outcome)})
    else:
        for line in outcome.log:
            output.line(line)
        for violation in outcome.violations:
            output.line(f"VIOLATION {violation}")
        ends = ", ".join(f"{name} {status}" for name, status in outcome.statuses.items()) or "no workflow began"
        output.line(
            f"seed {given.seed}: {ends}; {outcome.steps} steps, {outcome.lives} lives of engines, {outcome.virtual_s:.1f} virtual s"
        )
        output.line(f"trace {outcome.trace}")
    if outcome.violations:
        raise click.exceptions.Exit(1)


def _many(session: Session, seeds: str | None, minutes: float | None, jobs: int, record: Path | None) -> None:
    from exoflow.testing import campaign
    from exoflow.testing.simulation.many import run_many

    output = session.output
    first, last = _range(seeds)
    began = campaign.now()
    total = run_many(first, last, minutes=minutes, jobs=jobs)
    if record is not None:
        command = f"exoflow simulate --seeds {first}:{total.last_seed} --jobs {jobs}"
        campaign.append(record, _campaign(total, command, began, first, jobs))
    if output.as_json:
        output.document({"first_seed": first, **msgspec.to_builtins(total), "never": total.never})
    else:
        for found in total.found:
            output.line(f"VIOLATION {found}")
        ends = ", ".join(f"{count} {status}" for status, count in sorted(total.statuses.items()))
        output.line(
            f"{total.schedules} schedules, seeds {first} to {total.last_seed}: {len(total.found)} broke something; workflows: {ends}"
        )
        rate = total.schedules / total.cpu_s if total.cpu_s else 0.0
        output.line(
            f"{total.seconds:.0f} s, {rate:.0f} schedules a second of a processor, {total.steps} steps, {total.lives} lives of engines"
        )
        output.line(f"situations never reached: {', '.join(total.never) or 'none'}")
    if total.found:
        raise click.exceptions.Exit(1)


def _range(seeds: str | None) -> tuple[int, int | None]:
    from exoflow.errors import UsageError

    if seeds is None:
        from exoflow.runtime.host import SYSTEM_HOST

        return int(SYSTEM_HOST.new_id(), 16) % 10**12, None
    first, colon, last = seeds.partition(":")
    if not (first.isdigit() and colon and last.isdigit() and int(first) <= int(last)):
        raise UsageError(message=f"--seeds takes two whole numbers, the smaller first, as in 0:999; got {seeds!r:.60}")
    return int(first), int(last)


def _campaign(total: Tally, command: str, began: str, first: int, jobs: int) -> Campaign:
    from exoflow.testing.campaign import Campaign, commit_of

    return Campaign(
        kind="simulation",
        command=command,
        commit=commit_of(Path.cwd()),
        began=began,
        seconds=round(total.seconds, 1),
        cores=jobs,
        first_seed=first,
        last_seed=total.last_seed,
        counts={"schedules": total.schedules, "steps": total.steps, "lives": total.lives, **total.statuses},
        situations=total.reached,
        violations=len(total.found),
        stories=[str(found) for found in total.found],
    )
