"""``python -m tests.backends.ray_workflows.record [NAME…]``: run the programs on Ray 2.40's own workflows and write down what they show.

Makes an environment with that Ray in ``.venv-ray-2.40`` (half a gigabyte) unless it is there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from tests.backends.ray_workflows.running import HERE, NAMES, ROOT, observe, source_of

RAY = "2.40.0"
ENVIRONMENT = ROOT / ".venv-ray-2.40"


def python() -> Path:
    """The interpreter of that environment."""
    there = ENVIRONMENT / "bin" / "python"
    if not there.exists():
        venv.create(ENVIRONMENT, with_pip=True)
        packages = (f"ray[default,serve]=={RAY}", "pyarrow<18", "numpy<2", "fastapi<0.111", "starlette<0.38", "uvloop<0.18")
        subprocess.run([there, "-m", "pip", "install", "--quiet", *packages], check=True)
    return there


def main(names: list[str]) -> None:
    for name in names or NAMES:
        with tempfile.TemporaryDirectory() as folder:
            found = observe(name, source_of(name), python(), Path(folder))
        (HERE / "recorded").mkdir(exist_ok=True)
        (HERE / "recorded" / f"{name}.json").write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", "utf-8")
        print(f"{name}: {len(found)} observables of Ray {RAY}")


if __name__ == "__main__":
    main(sys.argv[1:])
