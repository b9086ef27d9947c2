"""The kit. For users: :func:`crash_everywhere` runs their workflows with a crash at every place (``crashes``); an :class:`Effects` is the
outside world then (``effects``); :func:`simulate` tries their shape and annotations in simulated engines (``simulation``); :func:`audit`
asks whether deterministic tasks are. For authors of backends: what any Executor or Store must pass (``executor_suite``,
``store_suite``, ``blob_suite``). For the engine itself: an outside world that remembers what tasks did to it, kills them on request, and
judges what came of it (``ledger``), and what is built on that."""

from exoflow.testing.auditor import Audited, audit
from exoflow.testing.crashes.report import Finding, Report
from exoflow.testing.crashes.search import crash_everywhere
from exoflow.testing.effects import Effects, SimulatedCrash
from exoflow.testing.simulation.study import SimulationReport, simulate

__all__ = ["Audited", "Effects", "Finding", "Report", "SimulatedCrash", "SimulationReport", "audit", "crash_everywhere", "simulate"]
