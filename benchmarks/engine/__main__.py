"""``python -m benchmarks.engine P4 --folder SCRATCH``: see ``benchmarks/reading.py``."""

import importlib.util

from benchmarks.engine import commit_rule, crowds, footprint, functions, growth, large_data, latency, recovery
from benchmarks.reading import serve

GROUPS = {
    "P1": latency.one_task,
    "P2": latency.chains,
    "P3": crowds.workflows,
    "P4": crowds.saved_tasks,
    "P5": crowds.unsaved_tasks,
    "P6": crowds.process_tasks,
    "P8": large_data.handed_on,
    "P9": large_data.huge,
    "P10": large_data.beside_a_task,
    "P11": recovery.recovery,
    "P12": footprint.footprint,
    "P13": growth.growth,
    "P15": commit_rule.overhead,
    "F1": functions.call,
}

if importlib.util.find_spec("ray"):
    from benchmarks.engine import on_ray

    GROUPS["P7"] = on_ray.tasks

if __name__ == "__main__":
    serve(GROUPS)
