"""What it takes to have the engine: packages, room, import, memory, and the time to a first durable result (P12)."""

from __future__ import annotations

import statistics
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

import exoflow
from benchmarks.engine.proof import require_stored
from benchmarks.reading import Reading, Readings, Sizes
from benchmarks.starting import MB, first_result, import_s

DISTRIBUTION = "exoflow-engine"


def footprint(folder: Path, sizes: Sizes) -> Readings:
    packages = installed(DISTRIBUTION)
    stores = [folder / f"{number}.db" for number in range(sizes.starts)]
    starts = [first_result([sys.executable, "-m", "benchmarks.engine.smallest", str(path)]) for path in stores]
    for path in stores:
        require_stored(path, workflows=1, records=3)
    return {
        "packages": Reading(len(packages), "", "no data"),
        "room on disk": Reading(sum(_size_bytes(name) for name in packages) / MB, "MB", "no data"),
        "import": Reading(import_s("exoflow", sizes.starts), "s", "no data"),
        "idle memory": Reading(statistics.median(resident for _, resident in starts), "MB", "durable"),
        "start to first result": Reading(statistics.median(taken for taken, _ in starts), "s", "durable"),
    }


def installed(distribution: str) -> set[str]:
    """What an ordinary install brings: ``distribution`` and whatever it requires here, without extras."""
    found, left = set[str](), [distribution]
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            needs = [Requirement(text) for text in metadata.requires(name) or ()]
            left += [need.name.lower().replace("_", "-") for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


def _size_bytes(name: str) -> int:
    """Of the files of a package, those that Python compiled included."""
    if name == DISTRIBUTION:  # which development installs by a link
        files = list(Path(exoflow.__file__).parent.rglob("*"))
    else:
        files = [Path(str(file.locate())) for file in metadata.files(name) or ()]
    return sum(file.stat().st_size for file in files if file.is_file())
