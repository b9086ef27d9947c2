"""What a run measured, for people: a table for the terminal, and the results in docs/performance.md between their markers.

``python -m benchmarks.page`` (``make performance``) writes page and charts anew from docs/benchmarks/results.json; ``--check`` compares.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks import charts, record
from benchmarks.goals import GOALS, TITLES, Goal
from benchmarks.record import ENGINE, LIMITS, Record, Series, Verdict, number

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "performance.md"
FOLDER = ROOT / "docs" / "benchmarks"
RESULTS = "results.json"
BEGIN = "<!-- results: begin. Written by `make performance`, never by hand. -->"
END = "<!-- results: end -->"
NOTHING = "No results are recorded yet: `make bench` on a quiet machine writes them here."

_SIGN = {"less": "≤", "more": "≥", "same": "="}


def text() -> str:
    """The page with the results that are recorded. Raises ValueError if it has lost its markers."""
    page = PAGE.read_text(encoding="utf-8")
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"{PAGE.name} needs the lines {BEGIN!r} and {END!r}, once each")
    above, _, rest = page.partition(BEGIN)
    _, _, below = rest.partition(END)
    recorded = record.read(FOLDER / RESULTS)
    body = NOTHING if recorded is None else results(recorded)
    return f"{above}{BEGIN}\n\n{body}\n\n{END}{below}"


def publish(result: Record, folder: Path) -> None:
    """Write results and charts."""
    record.write(result, folder / RESULTS)
    charts.draw(result, folder)


def results(result: Record) -> str:
    """Markdown: what was measured where, all verdicts, all figures, the charts."""
    return "\n\n".join([_head(result), table(result), _contestants(result), _failures(result), _pictures(result)]).strip()


def table(result: Record) -> str:
    """Every figure of this engine, and what it is held against."""
    lines = [
        "| | figure | this engine | limit of the machine | of the limit | best rival | times better | on disk | goals |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for goal in GOALS:
        verdict = record.judge(result, goal)
        if verdict is not None:
            lines.append("| " + " | ".join(_row(verdict)) + " |")
    return "\n".join(lines)


def _row(verdict: Verdict) -> list[str]:
    goal, ours = verdict.goal, verdict.ours
    return [
        goal.group,
        goal.name,
        _joined(_series(ours), _wanted(goal, goal.goal)),
        "" if verdict.limit is None else f"{verdict.limit.name}: {_series(verdict.limit)}",
        _joined(_spread(verdict.to_limit, "x"), _wanted(goal, goal.times_limit)),
        "" if verdict.rival is None else f"{verdict.rival.contestant}: {_series(verdict.rival)}{_unless_durable(verdict.rival)}",
        _joined(_spread(verdict.to_rival, "x"), "" if goal.times_rival is None else f"≥ {goal.times_rival:g}"),
        ours.durable,
        _said(verdict),
    ]


def _said(verdict: Verdict) -> str:
    goal = verdict.goal
    if verdict.missed:
        return f"**misses** {', '.join(verdict.missed)}"
    judged = (
        goal.goal is not None or (goal.times_limit is not None and verdict.to_limit) or (goal.times_rival is not None and verdict.to_rival)
    )
    return "met" if judged else ""


def _wanted(goal: Goal, wanted: float | None) -> str:
    return "" if wanted is None else f"{_SIGN[goal.better]} {number(wanted)}"


def _joined(found: str, wanted: str) -> str:
    return f"{found}; goal {wanted}" if found and wanted else found


def _series(series: Series) -> str:
    return _spread(series.measured, series.unit)


def _spread(values: list[float] | None, unit: str) -> str:
    """Median, and in brackets the least and the most, where they differ."""
    if not values:
        return ""
    ordered = sorted(values)
    half = len(ordered) // 2
    middle = ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
    least, median, most = (number(value) for value in (ordered[0], middle, ordered[-1]))
    told = f"{median} {unit}".strip()
    return told if least == most else f"{told} ({least} to {most})"


def _unless_durable(series: Series) -> str:
    return "" if series.durable in ("durable", "no data") else f", {series.durable}"


def _head(result: Record) -> str:
    machine = ", ".join(f"{name} {value}" for name, value in result.machine.items())
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    return (
        f"Measured {result.began} (UTC) at commit `{result.commit}` in {result.seconds / 60:.0f} minutes, {result.rounds} rounds, by "
        f"`{result.command}`; load before it began: {result.load:g}.\n\nMachine: {machine}.\n\nVersions: {versions}.\n\n"
        "Durability: " + "; ".join(f"{name}: {setting}" for name, setting in result.settings.items()) + "."
    )


def _contestants(result: Record) -> str:
    """All that was measured of the machine and the rivals, and what of this engine is held against nothing."""
    known = {(goal.group, goal.name) for goal in GOALS}
    lines = ["What else was measured:", "", "| | figure | of | | on disk |", "|---|---|---|---|---|"]
    for each in result.series:
        if each.measured and not (each.contestant == ENGINE and (each.group, each.name) in known):
            of = "the machine" if each.contestant == LIMITS else each.contestant
            lines.append(f"| {each.group} | {each.name} | {of} | {_series(each)} | {each.durable} |")
    return "\n".join(lines)


def _failures(result: Record) -> str:
    if not result.failures:
        return ""
    return "Not measured:\n\n" + "\n".join(f"- {failure.replace('|', '/')}" for failure in result.failures)


def _pictures(result: Record) -> str:
    groups = {series.group for series in result.series}
    return "\n\n".join(f"![{group}: {title}](benchmarks/{charts.file_of(group)})" for group, title in TITLES.items() if group in groups)


def main(arguments: list[str]) -> None:
    """Write the page and the charts, or with ``--check`` compare the page."""
    if "--check" in arguments:
        if PAGE.read_text(encoding="utf-8") != text():
            sys.exit("docs/performance.md is not what its results say; run `make performance`")
        return
    PAGE.write_text(text(), encoding="utf-8")
    recorded = record.read(FOLDER / RESULTS)
    if recorded is not None:
        charts.draw(recorded, FOLDER)


if __name__ == "__main__":
    main(sys.argv[1:])
