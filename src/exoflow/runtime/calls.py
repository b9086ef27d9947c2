"""Putting a call's arguments together, on the executor's side: outputs into slots, and a rollback's share of its task's arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from exoflow import codec
from exoflow.define.dag import Arguments, Slot, substitute
from exoflow.define.plan import Call
from exoflow.errors import RefLostError
from exoflow.runtime.values import Spoiled, Values
from exoflow.worker.attempt import LostInputs


def arguments(values: Values, call: Call, inputs: tuple[str, ...], reader: str | None = None, *, as_they_are: bool = False) -> Arguments:
    """The arguments of a task, for the task ``reader``, which is about to run on them. With ``as_they_are``, outputs that are encoded stay
    so. Raises LostInputs naming the outputs that are not to be had."""
    if not inputs and not codec.identities:
        return call.args, call.kwargs
    outputs, lost, gone, reason = [], [], list[str](), ""
    for task in inputs:
        try:
            outputs.append(values.load(task, reader, as_it_is=as_they_are))
        except (Spoiled, KeyError) as error:
            lost.append(task)
            reason = str(error)
        except RefLostError as error:
            gone.append(task)
            reason = str(error)
    if lost or gone:
        raise LostInputs(tuple(lost or gone), reason, intact=not lost)

    def fill(place: Any) -> Any:
        if isinstance(place, Slot):
            return outputs[place.index]
        return place if reader is None or type(place) not in codec.identities else values.argument(place, reader)

    filled = substitute(call.args, call.kwargs, fill, (Slot, *codec.identities) if codec.identities else (Slot,))
    if reader is not None and values.held is not None:
        values.held.use(inputs, reader)
    return filled


def undo_arguments(
    values: Values,
    call: Call,
    inputs: tuple[str, ...],
    function: Callable[..., Any],
    undo: Callable[..., Any],
    reader: str | None = None,
) -> Arguments:
    """Those arguments of the task ``reader`` that its rollback function takes, by name, as the task got them."""
    args, kwargs = arguments(values, call, inputs, reader)
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
