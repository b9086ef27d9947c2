"""Write RELIABILITY.md anew from docs/reliability: campaigns.jsonl (results of runs) and faults.toml (which test covers which fault).

``--check`` only compares.
"""

from __future__ import annotations

import ast
import statistics
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from exoflow.testing.campaign import Campaign, read

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "RELIABILITY.md"
CAMPAIGNS = ROOT / "docs" / "reliability" / "campaigns.jsonl"
FAULTS = ROOT / "docs" / "reliability" / "faults.toml"

RINGS = {
    "machine": "The core alone: news in any order, crashes, lost and damaged outputs, deaths, failures, cancels.",
    "exhaustive": "Every DAG of up to three tasks with all annotations, and every single crash or loss.",
    "cross-check": "The commit rule against a brute-force search of all schedules and losses.",
    "simulation": "The whole engine, several at once, on virtual time, with faulty store, blobs, executors and clocks.",
    "kills": "Real processes on SQLite, killed with SIGKILL at crash points and random times.",
    "power-loss": "Disks rebuilt as a power loss may leave them, opened and gone on with.",
    "bit-rot": "Stores in the middle of their work, of which one byte changes.",
    "ray": "Workflows on a Ray cluster of three nodes: workers, actors, nodes, drivers and all of it killed with SIGKILL.",
    "crash-everywhere": "Example workflows with a crash before, inside and after every task, effect and commit.",
}
SCHEDULES_MAX = 50_000
"""Within so many schedules a mutant must be found."""


def text() -> str:
    """The page."""
    campaigns = read(CAMPAIGNS)
    book = tomllib.loads(FAULTS.read_text(encoding="utf-8"))
    parts = [_head(), _tried(campaigns), _found(campaigns), _mutants(campaigns), _situations(campaigns), _faults(book), _limits(book)]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _head() -> str:
    return """# Reliability

What was done to break the claim *the result, and the effects that stand, are those of some run without failures*, and what came of it.
[docs/testing.md](docs/testing.md) says how the rings work and how to use them on your own workflows;
[the decision](docs/adr/0013-proof.md) says why they are what they are.

This page is written by `make reliability` from the results in [docs/reliability](docs/reliability), never by hand. Whoever doubts a
number can make it again by the command beside it."""


def _tried(campaigns: list[Campaign]) -> str:
    lines = ["## What was tried", "", "| ring | counted | core hours | violations in the newest run |", "|---|---|---|---|"]
    for kind, what in RINGS.items():
        runs = [campaign for campaign in campaigns if campaign.kind == kind]
        if not runs:
            lines.append(f"| **{kind}**: {what} | nothing yet | | |")
            continue
        counts = sum((Counter(campaign.counts) for campaign in runs), Counter[str]())
        hours = sum(campaign.seconds * campaign.cores for campaign in runs) / 3600
        said = "<br>".join(f"{count:,} {name}" for name, count in counts.most_common(12))
        lines.append(f"| **{kind}**: {what} | {said} | {hours:.2f} | {runs[-1].violations} |")
    lines += ["", "The runs:", "", "| ring | began (UTC) | commit | seeds | violations | command |", "|---|---|---|---|---|---|"]
    for campaign in campaigns:
        seeds = f"{campaign.first_seed:,} to {campaign.last_seed:,}" if campaign.first_seed >= 0 else ""
        row = (campaign.kind, campaign.began, f"`{campaign.commit}`", seeds, campaign.violations, f"`{campaign.command}`")
        lines.append("| " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines)


def _found(campaigns: list[Campaign]) -> str:
    stories = [
        f"- {campaign.kind}, commit `{campaign.commit}`: {_one_line(story)}"
        for campaign in campaigns
        if campaign.kind != "mutants"
        for story in campaign.stories
    ]
    if not stories:
        return ""
    return "## What these runs found\n\nViolations of earlier commits. Each is a saved scenario or a test by now.\n\n" + "\n".join(stories)


def _mutants(campaigns: list[Campaign]) -> str:
    runs = [campaign for campaign in campaigns if campaign.kind == "mutants"]
    if not runs:
        return "## Bugs put in on purpose\n\nNone were tried yet."
    newest = runs[-1]
    killed = {name: count for name, count in newest.counts.items() if 0 <= count <= SCHEDULES_MAX}
    lines = [
        "## Bugs put in on purpose",
        "",
        "A ring that finds nothing in a broken engine proves nothing about a sound one. So one-line bugs are put into copies of",
        f"the engine's modules as they are imported (commit `{newest.commit}`, `{newest.command}`).",
        "",
        f"Killed: **{len(killed)} of {len(newest.counts)}**, after {statistics.median(killed.values()):,.0f} schedules in the middle.",
        "",
        "| bug | found after schedules |",
        "|---|---|",
    ]
    lines += [
        f"| {name} | {count:,} |" if name in killed else f"| {name} | **survives** |" for name, count in sorted(newest.counts.items())
    ]
    return "\n".join(lines)


def _situations(campaigns: list[Campaign]) -> str:
    lines = ["## Situations reached", "", "What a run must get into now and then, or it proves little. Summed over the runs above."]
    for kind in RINGS:
        counts = sum((Counter(campaign.situations) for campaign in campaigns if campaign.kind == kind), Counter[str]())
        never = {name for campaign in campaigns if campaign.kind == kind for name in campaign.situations if not counts[name]}
        if counts or never:
            lines += ["", f"**{kind}**: {len(counts)} of {len(counts) + len(never)}", "", "| situation | times |", "|---|---|"]
            lines += [f"| {name} | {count:,} |" for name, count in counts.most_common()]
            lines += [f"| {name} | **never** |" for name in sorted(never)]
    return "\n".join(lines)


def _faults(book: dict[str, Any]) -> str:
    lines = ["## Faults, and the tests that cover them", "", "| | fault | what must happen | tests |", "|---|---|---|---|"]
    for fault in book["fault"]:
        tests = "<br>".join(f"[{test.partition('::')[2] or test}]({test.partition('::')[0]})" for test in fault.get("tests", ()))
        said = "<br>".join(part for part in (tests, f"*{fault['missing']}*" if "missing" in fault else "") if part)
        lines.append(f"| {fault['id']} | {fault['what']} | {fault['must']} | {said} |")
    return "\n".join(lines)


def _limits(book: dict[str, Any]) -> str:
    return "\n".join(["## What is not covered", "", *(f"- {limit}" for limit in book["limits"])])


def _one_line(story: str) -> str:
    lines = [line.strip() for line in story.splitlines() if line.strip()]
    return " / ".join(lines)[:300].replace("|", "\\|")


def missing_tests() -> list[str]:
    """Tests that faults.toml names and that do not exist."""
    book = tomllib.loads(FAULTS.read_text(encoding="utf-8"))
    return [f"{fault['id']}: {test}" for fault in book["fault"] for test in fault.get("tests", ()) if not _exists(test)]


def _exists(test: str) -> bool:
    name, _, function = test.partition("::")
    path = ROOT / name
    if not path.exists():
        return False
    names = {node.name for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.FunctionDef)}
    return not function or function in names


def main() -> None:
    """Write the page, or with ``--check`` compare."""
    if "--check" not in sys.argv:
        TARGET.write_text(text(), encoding="utf-8")
    elif TARGET.read_text(encoding="utf-8") != text():
        sys.exit("RELIABILITY.md is not what its sources say; run `make reliability`")


if __name__ == "__main__":
    main()
