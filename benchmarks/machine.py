"""What a figure was measured on: goes into every file of results."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

__all__ = ["about_this_machine"]


def about_this_machine() -> dict[str, object]:
    """Processor, cores, load, versions and date."""
    names = [line.split(":")[1].strip() for line in _read("/proc/cpuinfo").splitlines() if line.startswith("model name")]
    family = {
        key: line.split(":")[1].strip()
        for line in _read("/proc/cpuinfo").splitlines()
        for key in ("cpu family", "model")
        if line.split(":")[0].strip() == key
    }
    return {
        "processor": names[0] if names else platform.processor(),
        **family,
        "cores": os.cpu_count(),
        "load": [round(x, 2) for x in os.getloadavg()],
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("pellucid", "torch", "numpy", "scikit-learn")},
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }


def _read(path: str) -> str:
    file = Path(path)
    return file.read_text() if file.is_file() else ""
