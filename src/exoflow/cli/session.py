"""What every command shares: the options that may stand anywhere on the line, the store they name, the modules to import first."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import click

from exoflow.cli.output import Output

if TYPE_CHECKING:
    from exoflow.client.engine import Engine

F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")


@dataclasses.dataclass
class Session:
    """One invocation of ``exoflow``."""

    store: str | None = None
    modules: list[str] = dataclasses.field(default_factory=list)
    verbose: bool = False
    output: Output = dataclasses.field(default_factory=Output)

    def take(self, *, store: str | None = None, as_json: bool = False, module: Sequence[str] = (), verbose: bool = False) -> None:
        """Options given at one place of the line; a later place wins, flags and modules add up."""
        self.store = store if store is not None else self.store
        self.output.as_json |= as_json
        self.modules += module
        self.verbose |= verbose

    @contextlib.contextmanager
    def engine(self, *, may_create: bool = False) -> Iterator[Engine]:
        """An engine on the store, closed afterwards. Commands that only look do not create a store where there is none."""
        from exoflow.client.engine import Engine

        if not may_create:
            self._refuse_absent()
        with Engine(store=self.store) as engine:
            yield engine

    def store_file(self) -> Path | None:
        """The file that the store is, if it is one."""
        from exoflow import settings

        return sqlite_path(self.store if self.store is not None else settings.load().store)

    def import_modules(self) -> None:
        """Import what ``-m`` names, and put the working directory where imports look."""
        from exoflow.cli.loading import find_module, import_from_here

        import_from_here()
        for name in self.modules:
            find_module(name)

    def command(self, *words: str) -> str:
        """``exoflow WORDS`` as a person would have to type it now."""
        options = ["--store", self.store] if self.store is not None else []
        for module in self.modules:
            options += ["-m", module]
        return shlex.join(["exoflow", *words, *options])

    def _refuse_absent(self) -> None:
        from exoflow.errors import StoreOpenError

        path = self.store_file()
        if path is not None and not path.exists():
            raise StoreOpenError(
                store=f"sqlite:{path}",
                reason="there is no such file; exoflow run makes it. If you expected one, look at --store, EXOFLOW_STORE and the directory",
            )


def sqlite_path(url: str) -> Path | None:
    """The file that a store URL names, or None for other stores."""
    scheme, colon, rest = url.partition(":")
    if not colon or "/" in scheme:
        return Path(url)
    if scheme != "sqlite":
        return None
    return Path(rest.removeprefix("///"))


def _take(ctx: click.Context, option: click.Parameter, value: Any) -> None:
    ctx.ensure_object(Session).take(**{option.name: value})


_option = functools.partial(click.option, callback=_take, expose_value=False)
_OPTIONS = (
    _option("--store", metavar="URL", help="Where workflows are kept: sqlite:PATH or a path. [default: EXOFLOW_STORE]"),
    _option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout, errors included."),
    _option("--module", "-m", metavar="MODULE", multiple=True, help="Import this module, or FILE.py, first. Repeatable."),
    _option("--verbose", is_flag=True, help="Show tracebacks of errors."),
)


def with_shared_options(function: F) -> F:
    """Give the root, or a command, the options that make up the session."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def with_session(function: Callable[Concatenate[Session, P], None]) -> Callable[P, None]:
    """Give a command the shared options, and the session made of them as its first argument."""
    return click.make_pass_decorator(Session)(with_shared_options(function))


class Span(click.FloatRange):
    """Of time: a number from 0 (or ``inf``), which ``nan`` is not."""

    name = "number"

    def __init__(self) -> None:
        super().__init__(min=0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See the class."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not in the range x>=0.", param, ctx)
        return number


def is_interactive() -> bool:
    """Whether a person can be asked something."""
    return os.isatty(0) and sys.stdin is not None and sys.stdin.isatty()
