"""Programs for Ray Workflows: running one, on Ray's own or on ours, and what it says of itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
NAMES = sorted(path.stem for path in (HERE / "programs").glob("*.py"))
TIME_MAX_S = 120
_IMPORT = re.compile(r"^(from|import) ray(?=( import workflow|\.workflow\b))", re.MULTILINE)

Observables = dict[str, object]
"""What a program prints as ``["what", value]``, in order."""


def for_exoflow(source: str) -> str:
    """The program with nothing changed but its imports of ray.workflow."""
    return _IMPORT.sub(r"\1 exoflow.ray", source)


def observe(name: str, source: str, python: str | Path, folder: Path) -> Observables:
    """Run a program in an empty ``folder``, where it keeps everything."""
    script = folder / f"{name}.py"
    script.write_text(source, "utf-8")
    environment = {
        **os.environ,
        "TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT))),
    }
    environment = {key: value for key, value in environment.items() if not key.startswith(("EXOFLOW_", "RAY_ADDRESS"))}
    done = subprocess.run([python, script], cwd=folder, env=environment, capture_output=True, text=True, timeout=TIME_MAX_S, check=False)
    if done.returncode:
        raise AssertionError(f"{name} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    found: Observables = {}
    for line in done.stdout.splitlines():
        if line.startswith('["'):
            what, value = json.loads(line)
            assert what not in found, f"{name} shows {what!r} twice"
            found[what] = value
    return found


def source_of(name: str) -> str:
    return (HERE / "programs" / f"{name}.py").read_text("utf-8")


def recorded(name: str) -> Observables:
    """What the program showed on Ray 2.40."""
    return json.loads((HERE / "recorded" / f"{name}.json").read_text("utf-8"))
