"""Processes that measure: one a side, one thread each, spoken to by JSON files or by lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["OURS", "PEER", "Turns", "peers_python", "run_job"]

HERE = Path(__file__).parent
OURS, PEER = "pellucid_worker.py", "diffusers_worker.py"
PEERS = Path(os.environ.get("PELLUCID_PEERS", HERE.parent.parent / ".venv-peers"))


def peers_python() -> Path:
    """The Python of the peers' environment."""
    found = next((p for p in (PEERS / "bin" / "python", PEERS / "Scripts" / "python.exe") if p.exists()), None)
    if found is None:
        sys.exit(f"There is no environment of the peers at {PEERS}. Make it with: make peers")
    return found


def _command(script: str, what: str, job: Path) -> list[str]:
    python = sys.executable if script.startswith("pellucid_") else str(peers_python())
    return [python, str(HERE / script), what, str(job)]


def _one_thread() -> dict[str, str]:
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "PELLUCID_THREADS"), "1")
    return {**os.environ, **one, "HF_HUB_OFFLINE": "1"}


def run_job(script: str, what: str, job: dict[str, Any], folder: Path, name: str) -> dict[str, Any]:
    """Run one job to its end and give what it found, with the load of the machine before and after."""
    path, result = folder / f"{name}.job.json", folder / f"{name}.result.json"
    result.unlink(missing_ok=True)
    path.write_text(json.dumps({**job, "result": str(result)}))
    before = os.getloadavg()[0]
    done = subprocess.run(_command(script, what, path), env=_one_thread(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(result.read_text())
    return {**found, "load": [round(before, 2), round(os.getloadavg()[0], 2)]}


class Turns:
    """A process that takes steps when it is told to and says how much CPU time they took."""

    def __init__(self, script: str, job: dict[str, Any], folder: Path) -> None:
        path = folder / f"{script}.turns.json"
        path.write_text(json.dumps(job))
        self.process = subprocess.Popen(
            _command(script, "turns", path),
            env=_one_thread(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about = self._answer()

    def take(self, steps: int) -> float:
        """CPU seconds a step, over so many steps."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"steps": steps}) + "\n")
        self.process.stdin.flush()
        return float(self._answer()["seconds"]) / steps

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker ended with exit status {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Turns:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
