"""Kill real fits with SIGKILL at drawn moments, resume them, and compare with the unbroken run bit by bit.

    python benchmarks/kill_and_resume.py [--kills 20] [--seed 0]

Every engine of the catalogue is fitted once without a break and then killed at least three times, each in a run of
its own: at a step drawn over the run, or while a checkpoint is being written. The process must be seen alive before
the kill. `pellucid fit --resume` then has to give the same weights and the same loss at every step, bit for bit.
Writes benchmarks/results/kill_and_resume.json; exits with 1 if a single run differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import about_this_machine

from pellucid.catalog import family_class
from pellucid.core.bundle import sha256_of
from pellucid.core.capabilities import Counts
from pellucid.training.journal import read_losses

STEPS = 60
EVERY = 7


def command(out: Path, family: str) -> list[str]:
    words = [sys.executable, "-m", "pellucid", "fit", "digits", "--family", family, "--out", str(out), "--quiet"]
    return [*words, "--steps", str(STEPS), "--checkpoint-every", str(EVERY), "--seed", "3"]


def resume(out: Path) -> None:
    words = [sys.executable, "-m", "pellucid", "fit", "--resume", str(out), "--quiet", "--checkpoint-every", str(EVERY)]
    subprocess.run(words, check=True)


def outcome(out: Path) -> tuple[dict[str, str], dict[int, dict[str, float]]]:
    """Hashes of the weights, and the losses of every step."""
    weights = {p.name: sha256_of(p) for p in sorted((out / "weights").iterdir())}
    return weights, read_losses(out / "events.jsonl")


def position(out: Path, counts: bool) -> int:
    """Steps (or shards) that the run has written so far."""
    if counts:
        found = [int(p.name.split(".")[0]) for p in (out / "checkpoints").glob("[0-9]*.safetensors")]
        return max(found, default=0)
    try:
        lines = (out / "events.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return 0
    return max(
        (json.loads(line)["step"] for line in lines if line.startswith('{"step":') and line.endswith("}")), default=0
    )


def kill_once(out: Path, family: str, at: int, during_checkpoint: bool) -> dict[str, object]:
    """Start a fit and kill it once it has passed step `at` (and, if asked, has a temp file of a checkpoint open)."""
    counts = issubclass(family_class(family).engine, Counts)
    process = subprocess.Popen(command(out, family))
    seen = 0
    temps = 0
    try:
        while process.poll() is None:
            seen = position(out, counts)
            temps = len(list((out / "checkpoints").glob(".*"))) if (out / "checkpoints").is_dir() else 0
            if seen >= at and (temps or not during_checkpoint):
                break
            if not during_checkpoint:
                time.sleep(0.001)
        alive = process.poll() is None
        if alive:
            os.kill(process.pid, signal.SIGKILL)
    finally:
        process.wait()
    return {"alive": alive and process.returncode == -signal.SIGKILL, "seen_step": seen, "temp_files": temps}


def main() -> int:
    words = argparse.ArgumentParser()
    words.add_argument("--kills", type=int, default=20)
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--families", default="vae,gan,flow,autoregressive,diffusion,ngram")
    asked = words.parse_args()
    names = asked.families.split(",")
    draw = random.Random(asked.seed)
    kills = []
    with tempfile.TemporaryDirectory() as folder:
        truth = {}
        for name in names:
            out = Path(folder, f"{name}-whole")
            subprocess.run(command(out, name), check=True)
            truth[name] = outcome(out)
        for k in range(asked.kills):
            name = names[k % len(names)]
            during = k // len(names) == 1 or k >= 3 * len(names)
            limit = 15 if name == "ngram" else STEPS - 2
            for _ in range(5):  # a process that ended before the moment came is no kill: draw again
                at = draw.randrange(1, limit)
                out = Path(folder, f"{name}-{k}-{at}-{time.monotonic_ns()}")
                found = kill_once(out, name, at, during)
                if found["alive"]:
                    break
            resume(out)
            weights, losses = outcome(out)
            equal = weights == truth[name][0] and losses == truth[name][1]
            kills.append({"family": name, "asked_step": at, "during_checkpoint": during, **found, "equal": equal})
            print(json.dumps(kills[-1]), flush=True)
    good = all(k["equal"] and k["alive"] for k in kills)
    result = {
        "machine": about_this_machine(),
        "steps": STEPS,
        "every": EVERY,
        "seed": asked.seed,
        "kills": kills,
        "all_equal": good,
    }
    Path(__file__).with_name("results").joinpath("kill_and_resume.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"{sum(bool(k['equal']) for k in kills)} of {len(kills)} resumed runs equal the unbroken run bit for bit")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
