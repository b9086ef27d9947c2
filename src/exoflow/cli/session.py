"""What every command shares: the options that may stand anywhere on the line, the store they name, the modules to import first."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exoflow.cli.output import Output
from exoflow.errors import UsageError

if TYPE_CHECKING:
    from exoflow.client.engine import Engine

StoreOption = Annotated[
    str | None, typer.Option("--store", metavar="URL", help="Where workflows are kept: sqlite:PATH or a path. [default: EXOFLOW_STORE]")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, errors included.")]
ModuleOption = Annotated[
    list[str] | None, typer.Option("--module", "-m", metavar="MODULE", help="Import this module, or FILE.py, first. Repeatable.")
]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Show tracebacks of errors.")]


@dataclasses.dataclass
class Session:
    """One invocation of ``exoflow``."""

    store: str | None = None
    modules: list[str] = dataclasses.field(default_factory=list)
    verbose: bool = False
    output: Output = dataclasses.field(default_factory=Output)

    def take(self, *, store: str | None, as_json: bool, module: list[str] | None, verbose: bool) -> None:
        """Options given at one place of the line; a later place wins, flags and modules add up."""
        self.store = store if store is not None else self.store
        self.output.as_json |= as_json
        self.modules += module or []
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


def with_session(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the shared options, and its ``session`` made of them."""
    own = inspect.signature(function, eval_str=True)
    shared = {"store": StoreOption, "as_json": JsonOption, "module": ModuleOption, "verbose": VerboseOption}

    def command(ctx: typer.Context, **given: Any) -> None:
        session = session_of(ctx)
        session.take(**{name: given.pop(name) for name in shared})
        function(session, **given)

    defaults = {"store": None, "as_json": False, "module": None, "verbose": False}
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("ctx", keyword, annotation=typer.Context)]
    parameters += [parameter.replace(kind=keyword) for name, parameter in own.parameters.items() if name != "session"]
    parameters += [inspect.Parameter(name, keyword, default=defaults[name], annotation=kind) for name, kind in shared.items()]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__name__, command.__doc__ = function.__name__, function.__doc__
    return command


def session_of(ctx: typer.Context) -> Session:
    """The session of this invocation."""
    session = ctx.find_root().obj
    if not isinstance(session, Session):
        raise UsageError(message="a command of exoflow was called without its root")
    return session


def is_interactive() -> bool:
    """Whether a person can be asked something."""
    return os.isatty(0) and sys.stdin is not None and sys.stdin.isatty()
