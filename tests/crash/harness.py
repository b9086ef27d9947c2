"""Kills real processes with SIGKILL while they run real workflows on a real store, starts them again, and judges what came of it.

    python -m tests.crash.harness --kills 100000 --jobs 2 --record        a campaign, and its numbers for RELIABILITY.md
    python -m tests.crash.harness --workflow chain --seed 7 --verbose     one run, with its story
    python -m tests.crash.harness --serve                                 runs on request (see test_kills.py)

A *run* is one workflow from its submission to its end, in as many *lives* as its seed says kills. The supervisor (this process) has one
thread and has imported the engine, so a life is a fork; some are fresh interpreters instead. What a run does is drawn from its seed: how
deep, how each life is killed (at a crash point, a random time, an entry of the ledger, a write to the store; told to end; a worker only,
everything at once), who else is there. The times are the system's, so a seed repeats a run closely, not exactly; ``--repeat`` helps.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from exoflow.testing.campaign import Campaign, append, commit_of, now
from tests.crash.plans import told
from tests.crash.plants import PLANTS
from tests.crash.points import POINTS
from tests.crash.runs import ROOT, Outcome, Supervisor
from tests.crash.workflows import CASES, Case

CAMPAIGNS = ROOT / "docs" / "reliability" / "campaigns.jsonl"
_SAY_EVERY = 500


def campaign(supervisor: Supervisor, cases: list[Case], seed: int, kills: int, deadline: float) -> Outcome:
    """All ``cases`` in turn, with one seed after the other, until there were so many kills, or the time is over, or SIGTERM comes."""
    total, said = Outcome(), 0
    told_to_end: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: told_to_end.append(number))

    def is_over() -> bool:
        return bool(told_to_end) or total.kills >= kills or time.monotonic() >= deadline

    while not is_over():
        for case in cases:
            if is_over():
                break
            outcome = supervisor.run(case, seed)
            total.add(outcome)
            for violation in outcome.violations:
                print(violation, flush=True)
        seed += 1
        total.last_seed = max(total.last_seed, seed - 1)
        if total.kills >= said + _SAY_EVERY:
            said = total.kills
            print(f"up to seed {seed - 1}: {said} kills, {len(total.violations)} violations", file=sys.stderr, flush=True)
    return total


def record(arguments: argparse.Namespace, total: Outcome, began: str, seconds: float) -> None:
    """Append the numbers to the file that RELIABILITY.md is made from."""
    command = f"python -m tests.crash.harness --kills {arguments.kills} --seed {arguments.seed} --jobs {arguments.jobs}"
    command += "".join(f" --workflow {name}" for name in arguments.workflow)
    counts = {"kills of engines": total.kills, "kills of workers alone": total.worker_kills, "ends by other signals": total.signals}
    counts |= {
        "lives": total.lives,
        "runs": total.runs,
        "workflows": len(total.workflows),
        "kills at crash points": sum(total.points.values()),
    }
    counts |= {f"kills of {how}": count for how, count in total.hows.items()}
    points = {f"{name}:{when}": 0 for name, point in POINTS.items() for when in point.moments}
    situations = {f"killed while {phase}": count for phase, count in total.phases.items()} | total.situations
    situations |= {f"killed at {moment}": count for moment, count in (points | total.points).items()}
    result = Campaign(
        kind="kills",
        command=command,
        commit=commit_of(ROOT),
        began=began,
        seconds=round(seconds, 1),
        cores=arguments.jobs,
        first_seed=arguments.seed,
        last_seed=total.last_seed,
        counts=counts,
        situations=situations,
        violations=len(total.violations),
        stories=total.violations[:5],
    )
    append(arguments.record, result)


def serve(supervisor: Supervisor) -> Outcome:
    """A line of JSON comes in: ``workflow``, and ``seed`` and ``kills`` or ``traps``, perhaps a ``plant`` or ``pool``; an Outcome goes out.
    Ends with its input, and gives the sum of what was not planted."""
    everything = Outcome()
    for line in sys.stdin:
        asked = json.loads(line)
        case = CASES[asked["workflow"]]
        supervisor.plant = asked.get("plant", "")
        total, seed = Outcome(), asked.get("seed", 1)
        if "traps" in asked:
            total = supervisor.replay(case, [told(**trap) for trap in asked["traps"]], pool=asked.get("pool", False))
        while total.kills < asked.get("kills", 0) and not total.violations:
            total.add(supervisor.run(case, seed))
            seed += 1
        print(msgspec.json.encode(total).decode(), flush=True)
        if not supervisor.plant:
            everything.add(total)
    return everything


def in_parallel(arguments: argparse.Namespace) -> Outcome:
    """The same campaign in several processes, each with seeds of its own."""
    command = [sys.executable, "-m", "tests.crash.harness", "--kills", str(-(-arguments.kills // arguments.jobs)), "--json"]
    command += ["--minutes", str(arguments.minutes), *(f"--workflow={name}" for name in arguments.workflow)]
    processes = [
        subprocess.Popen([*command, "--seed", str(arguments.seed + job * 1_000_000)], stdout=subprocess.PIPE, cwd=ROOT)
        for job in range(arguments.jobs)
    ]
    signal.signal(signal.SIGTERM, lambda *_: [process.terminate() for process in processes])
    total = Outcome()
    for process in processes:
        said = process.communicate()[0].splitlines()
        sys.stdout.write(b"\n".join(said[:-1]).decode())
        total.add(Outcome.from_json(said[-1]))
    return total


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workflow", action="append", default=[], choices=sorted(CASES), help="only this one (may be repeated)")
    parser.add_argument("--seed", type=int, help="the first seed; default: 1, or with --workflow and --repeat 1 just that run")
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=600.0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=1, help="with --seed and --workflow: so many times")
    parser.add_argument("--verbose", action="store_true", help="tell the story of each run")
    parser.add_argument("--keep", action="store_true", help="leave the files of all runs")
    parser.add_argument("--record", type=Path, nargs="?", const=CAMPAIGNS, help=f"append the numbers to a file (default {CAMPAIGNS})")
    parser.add_argument("--json", action="store_true", help="the sum as JSON, in the last line")
    parser.add_argument("--plant", default="", choices=["", *PLANTS], help="put a bug into the engine, to see whether it is found")
    parser.add_argument("--serve", action="store_true", help="read requests from standard input")
    return parser.parse_args(arguments)


def alone(arguments: argparse.Namespace, *, one_run: bool) -> Outcome:
    """Whatever was asked for, in this process."""
    memory = Path("/dev/shm")  # for whoever is killed, no disk is needed
    folder = Path(tempfile.mkdtemp(prefix="exoflow-crash-", dir=memory if memory.is_dir() else None))
    supervisor = Supervisor(folder, verbose=arguments.verbose, keep=arguments.keep, plant=arguments.plant)
    cases = [CASES[name] for name in arguments.workflow] or list(CASES.values())
    total = Outcome()
    try:
        if arguments.serve:
            total = serve(supervisor)
        elif one_run:
            for _ in range(arguments.repeat):
                for case in cases:
                    if not total.violations:
                        total.add(supervisor.run(case, arguments.seed))
            print(*total.violations, sep="\n", flush=True)
        else:
            total = campaign(supervisor, cases, arguments.seed, arguments.kills, time.monotonic() + arguments.minutes * 60)
    finally:
        supervisor.close()
        if not total.violations and not arguments.keep:
            shutil.rmtree(folder)
    return total


def main() -> int:
    arguments = parse()
    one_run = bool(arguments.seed is not None and arguments.workflow and not arguments.json)
    arguments.seed = 1 if arguments.seed is None else arguments.seed
    began, clock = now(), time.monotonic()
    total = in_parallel(arguments) if arguments.jobs > 1 else alone(arguments, one_run=one_run)
    if arguments.record:
        record(arguments, total, began, time.monotonic() - clock)
    if arguments.json:
        print(msgspec.json.encode(total).decode())
    elif not arguments.serve:
        print(total.report())
    return 1 if total.violations and not arguments.serve else 0


if __name__ == "__main__":
    sys.exit(main())
