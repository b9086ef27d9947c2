"""A chart for each group of figures: bars of all contestants, or for growth lines over the number of tasks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")  # no display is needed

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from benchmarks.goals import GOALS, TITLES, Goal
from benchmarks.record import ENGINE, LIMITS, Record, Series, number

_COLOURS = {ENGINE: "#c4501b", LIMITS: "#4a4a4a"}
_RIVAL = "#7d97b5"
_SETTINGS: Any = {"svg.hashsalt": "exoflow", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}


def file_of(group: str) -> str:
    return f"{group}.svg"


def draw(record: Record, folder: Path) -> None:
    """Write the chart of every group that was measured. The same record gives the same files."""
    for group in dict.fromkeys(series.group for series in record.series):
        with plt.rc_context(_SETTINGS):
            panels = _growth(record) if group == "P13" else _bars(record, group)
            panels.suptitle(f"{group}: {TITLES[group]}", fontsize=10)
            panels.savefig(folder / file_of(group), metadata={"Date": None})
            plt.close(panels)


def _bars(record: Record, group: str) -> Figure:
    """One panel for each figure of the engine, with what it is compared with."""
    panels = [(goal, bars) for goal in GOALS if goal.group == group and (bars := _compared(record, goal))]
    heights = [len(bars) for _, bars in panels]
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(8, 1 + sum(0.32 * height + 0.75 for height in heights)), height_ratios=[height + 1 for height in heights],
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for (goal, bars), axis in zip(panels, axes[:, 0], strict=True):
        _panel(axis, goal, bars)
    return figure


def _compared(record: Record, goal: Goal) -> list[Series]:
    found = [record.find(LIMITS, goal.group, goal.limit) if goal.limit else None, record.find(ENGINE, goal.group, goal.name)]
    return [each for each in found if each is not None] + [
        each for each in record.series if each.contestant not in (LIMITS, ENGINE) and (each.group, each.name) == (goal.group, goal.name)
    ]


def _panel(axis: Axes, goal: Goal, bars: list[Series]) -> None:
    labels = [f"{each.name if each.contestant == LIMITS else each.contestant} ({each.durable})" for each in bars]
    medians = [each.median for each in bars]
    errors = [
        [median - min(each.measured) for each, median in zip(bars, medians, strict=True)],
        [max(each.measured) - median for each, median in zip(bars, medians, strict=True)],
    ]
    positive = min(medians) > 0
    axis.barh(labels, medians, xerr=errors, color=[_COLOURS.get(each.contestant, _RIVAL) for each in bars], height=0.6, ecolor="#999999")
    axis.invert_yaxis()
    if positive and max(medians) / min(medians) > 10:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
    for place, each in enumerate(bars):
        axis.annotate(f"  {number(each.median)}", (max(each.measured), place), va="center", fontsize=8)
    if goal.goal is not None:
        axis.axvline(goal.goal, color="#2a7a2a", linestyle="--", linewidth=1)
    unit = next((each.unit for each in bars if each.contestant == ENGINE), bars[0].unit)
    better = {"less": "less is better", "more": "more is better", "same": "exact"}[goal.better]
    wanted = "" if goal.goal is None else f"; green: the goal, {number(goal.goal)}"
    axis.set_title(f"{goal.name}{f', {unit}' if unit else ''} ({better}{wanted})", fontsize=9, loc="left")
    axis.margins(x=0.15)


def _growth(record: Record) -> Figure:
    """Cost of a task over the number of tasks."""
    figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
    for label, pattern in (("a task of one DAG", r"one DAG of ([\d,]+)"), ("a one-task workflow", r"([\d,]+) workflows")):
        points = sorted(
            (int(match[1].replace(",", "")), series)
            for series in record.series
            if series.group == "P13" and series.measured and (match := re.fullmatch(pattern, series.name))
        )
        counts, medians = [count for count, _ in points], [series.median for _, series in points]
        errors = [
            [series.median - min(series.measured) for _, series in points],
            [max(series.measured) - series.median for _, series in points],
        ]
        axis.errorbar(counts, medians, yerr=errors, marker="o", capsize=3, label=f"{label} (durable)")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("tasks")
    axis.set_ylabel("µs each")
    axis.legend()
    return figure
