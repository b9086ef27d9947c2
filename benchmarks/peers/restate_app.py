"""The service that the Restate server calls. Runs under hypercorn, where Restate's SDK is installed."""

from __future__ import annotations

import time
from pathlib import Path

import restate

from benchmarks.killing import mark

bench = restate.Service("bench")


async def add_one(x: int) -> int:
    return x + 1


def slow_step(before: int, folder: str, step_s: float) -> int:
    mark(Path(folder), before + 1)
    time.sleep(step_s)
    return before + 1


@bench.handler()
async def one_task(ctx: restate.Context, x: int) -> int:
    return await ctx.run_typed("add_one", add_one, x=x)


@bench.handler()
async def chain(ctx: restate.Context, length: int) -> int:
    value = 0
    for _ in range(length):
        value = await ctx.run_typed("add_one", add_one, x=value)
    return value


@bench.handler()
async def fan_out(ctx: restate.Context, count: int) -> int:
    steps = [ctx.run_typed("add_one", add_one, x=i) for i in range(count)]
    await restate.gather(*steps)
    return sum([await step for step in steps])


@bench.handler()
async def slow_chain(ctx: restate.Context, order: dict[str, str]) -> int:
    value = 0
    for _ in range(int(order["steps"])):
        value = await ctx.run_typed("slow_step", slow_step, before=value, folder=order["folder"], step_s=float(order["step_s"]))
    return value


app = restate.app([bench])
