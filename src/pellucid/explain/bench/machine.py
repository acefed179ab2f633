"""What a figure was measured on: goes into every file of results, here and in `benchmarks/`."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

__all__ = ["about_this_machine"]


def about_this_machine() -> dict[str, object]:
    """Processor, cores, load, versions and date."""
    fields = [line.split(":")[:2] for line in _read("/proc/cpuinfo").splitlines() if ":" in line]
    about = {field[0].strip(): field[1].strip() for field in reversed(fields)}  # the first core speaks for all
    family: dict[str, object] = {key: about[key] for key in ("cpu family", "model") if key in about}
    return {
        "processor": about.get("model name", platform.processor()),
        **family,
        "cores": os.cpu_count(),
        "load": [round(x, 2) for x in os.getloadavg()],
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("pellucid", "torch", "numpy", "scikit-learn")},
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _read(path: str) -> str:
    file = Path(path)
    return file.read_text() if file.is_file() else ""
