"""Steps on command: what each measuring process does between being told and answering."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["steps_on_command"]


def steps_on_command(about: Mapping[str, Any], step: Callable[[int], object]) -> None:
    """Say what is measured, then answer each line {"steps": n} with the CPU seconds that n steps took.

    step: is called with the number of the step, from 0. An empty line, or the end of the input, ends it.
    """
    print(json.dumps(dict(about)), flush=True)
    k = 0
    for line in sys.stdin:
        if not line.strip():
            return
        count = json.loads(line)["steps"]
        began = time.process_time()
        for _ in range(count):
            step(k)
            k += 1
        print(json.dumps({"seconds": time.process_time() - began}), flush=True)
