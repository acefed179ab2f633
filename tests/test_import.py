"""What importing costs: `import pellucid` loads no numeric library, and `pellucid --help` loads no torch.

Each test looks at `sys.modules` of a fresh Python, since this one has long since loaded everything.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HEAVY = {"torch", "numpy", "scipy", "sklearn", "pandas", "pyarrow", "matplotlib", "PIL"}

HELP = """
import json, runpy, sys
sys.argv = ["pellucid", "--help"]
code = None
try:
    runpy.run_module("pellucid", run_name="__main__", alter_sys=True)
except SystemExit as stop:
    code = stop.code
print(json.dumps({"code": code or 0, "loaded": sorted(sys.modules)}))
"""


def fresh_python(code: str, folder: Path) -> str:
    """Standard output of a new interpreter that runs `code` in `folder`, with the same environment."""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_loads_no_numeric_library(tmp_path: Path) -> None:
    loaded = json.loads(fresh_python("import json, sys, pellucid; print(json.dumps(sorted(sys.modules)))", tmp_path))
    assert "pellucid" in loaded
    assert set(loaded) & HEAVY == set()


def test_help_loads_no_torch(tmp_path: Path) -> None:
    *text, last = fresh_python(HELP, tmp_path).splitlines()
    seen = json.loads(last)
    assert seen["code"] == 0
    assert "Usage" in "\n".join(text)
    assert "torch" not in seen["loaded"]
