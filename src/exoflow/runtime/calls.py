"""Putting a call's arguments together, on the executor's side: outputs into slots, and a rollback's share of its task's arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from exoflow.define.dag import Arguments, Slot, substitute
from exoflow.define.plan import Call
from exoflow.runtime.values import Spoiled, Values
from exoflow.worker.attempt import LostInputs


def arguments(values: Values, call: Call, inputs: tuple[str, ...]) -> Arguments:
    """The arguments of a task. Raises LostInputs naming the outputs that are not to be had."""
    if not inputs:
        return call.args, call.kwargs
    outputs, lost, reason = [], [], ""
    for task in inputs:
        try:
            outputs.append(values.load(task))
        except (Spoiled, KeyError) as error:
            lost.append(task)
            reason = str(error)
    if lost:
        raise LostInputs(tuple(lost), reason)

    def fill(slot: Slot) -> Any:
        return outputs[slot.index]

    return substitute(call.args, call.kwargs, fill, (Slot,))


def undo_arguments(
    values: Values, call: Call, inputs: tuple[str, ...], function: Callable[..., Any], undo: Callable[..., Any]
) -> Arguments:
    """Those arguments of the task that its rollback function takes, by name."""
    args, kwargs = arguments(values, call, inputs)
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    given: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            given.update(bound.arguments[name])
        else:
            given[name] = bound.arguments[name]
    return _fitted(given, inspect.signature(undo).parameters)


def _fitted(given: dict[str, Any], wanted: Mapping[str, inspect.Parameter]) -> Arguments:
    """``given`` as ``wanted`` takes it: by name where that is possible, in order where it must be."""
    in_order = any(parameter.kind is parameter.VAR_POSITIONAL and name in given for name, parameter in wanted.items())
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for name, parameter in wanted.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            kwargs.update((other, value) for other, value in given.items() if other not in wanted)
        elif parameter.kind is parameter.VAR_POSITIONAL:
            args += given.get(name, ())
        elif parameter.kind is parameter.POSITIONAL_ONLY or (in_order and parameter.kind is parameter.POSITIONAL_OR_KEYWORD):
            args.append(given.get(name, parameter.default))
        elif name in given:
            kwargs[name] = given[name]
    return tuple(args), kwargs
