"""The kit. For users: :func:`crash_everywhere` runs their workflows with a crash at every place (``crashes``); an :class:`Effects` is the
outside world then (``effects``). For authors of backends: what any Executor or Store must pass (``executor_suite``, ``store_suite``,
``blob_suite``). For the engine itself: an outside world that remembers what tasks did to it, kills them on request, and judges what came
of it (``ledger``), and what is built on that."""

from exoflow.testing.crashes.report import Finding, Report
from exoflow.testing.crashes.search import crash_everywhere
from exoflow.testing.effects import Effects, SimulatedCrash

__all__ = ["Effects", "Finding", "Report", "SimulatedCrash", "crash_everywhere"]
