"""Fréchet distance on Fashion-MNIST after equal CPU time: `pellucid.fit` against diffusers' UNet2DModel (2.7 M).

    make peers
    PELLUCID_DATA=... .venv/bin/python benchmarks/peers/fashion_quality.py --minutes 5 --seeds 3
    PELLUCID_DATA=... .venv/bin/python benchmarks/peers/fashion_quality.py --minutes 20 --seeds 1 --resume

Every run is a process of one thread whose budget is CPU time of that process: preparation, training, everything that a
fit does after the imports and a calibration of seconds a step on the same machine right before. Ours is `pellucid.fit`
with its own defaults, sampled with its own defaults. The peer learns (a) noise prediction, sampled by DDIM, (b) flow
matching, sampled by its Euler scheduler; each in float32 and bfloat16; at the best of three learning rates in runs of
60 CPU seconds; the best of the four at `--pick-minutes` with one seed goes on. With classes it is given an embedding of
the class, forgotten in a tenth of the rows, and the better of guidance 1 and 1.5. Which pictures are whose, and the
judge: fashion.py.

A run whose budget was passed by more than 1% is made again with fewer steps. All runs are kept in `--work` as they
end, so `--resume` repeats none. Two processes run at a time (`--jobs`), ours beside a peer or a run beside a sampling,
so all have a busy neighbour; the load is kept with each run.
Writes benchmarks/results/fashion_quality.json and a sheet of 100 samples for each run to WORK/grids.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import torch  # noqa: E402
from machine import about_this_machine  # noqa: E402
from peers.fashion import CLASSES, Judge, grid, held_out_of, read_fashion, write_training  # noqa: E402
from peers.worker import OURS, PEER, peers_python, run_job  # noqa: E402

import pellucid  # noqa: E402

RATES = (1e-4, 3e-4, 1e-3)
VARIANTS = ("ddpm-float32", "ddpm-bfloat16", "flow-float32", "flow-bfloat16")
GUIDANCES = (1.0, 1.5)
PARTS = (1 / 8, 1 / 4, 1 / 2)
BARS = {False: 0.25, True: 0.1}  # of the peer's distance above the floor: unconditional, class-conditional
TIME_BAR = 0.25
OVER = 1.01


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One run. `detail`: our settings as JSON, or the peer's method, precision and rate."""

    side: str
    classes: bool
    seconds: float
    seed: int
    detail: str = ""

    @property
    def name(self) -> str:
        kind = "classes" if self.classes else "plain"
        tail = hashlib.sha256(self.detail.encode()).hexdigest()[:8] if self.detail.startswith("{") else self.detail
        return "-".join(x for x in (self.side, kind, f"{self.seconds:g}s", f"seed{self.seed}", tail) if x)


class Bench:
    """Runs, samples and distances, each made once and kept."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked, self.folder = asked, asked.work
        self.fashion = read_fashion(asked.data)
        self.judge = Judge(self.fashion, self.folder)
        self.data = self.folder / "training.npz"
        if not self.data.exists():
            write_training(self.fashion, self.data)
        (self.folder / "grids").mkdir(exist_ok=True)
        self.kept = self.folder / "state.json"
        self.state: dict[str, Any] = json.loads(self.kept.read_text()) if self.kept.exists() else {}
        self.lock, self.pool = threading.RLock(), ThreadPoolExecutor(asked.jobs)
        self.code = _code()

    def keep(self, key: str, value: Any) -> None:
        """Write the state and the result as they are now."""
        with self.lock:
            self.state[key] = value
            temporary = self.kept.with_suffix(".tmp")
            temporary.write_text(json.dumps(self.state, indent=1))
            temporary.replace(self.kept)
            result = summary(self.state, self.judge, self.asked)
            self.asked.result.write_text(json.dumps(result, indent=1) + "\n")

    def say(self, text: str) -> None:
        with self.lock:
            print(text, flush=True)

    def weights(self, fit: Fit) -> Path:
        return self.folder / (fit.name + (".safetensors" if fit.side == "peer" else ""))

    def fit(self, fit: Fit) -> dict[str, Any]:
        """Make the run unless it is there; wait for it."""
        key = f"fit {fit.name}"
        if key not in self.state:
            self.keep(key, self.pool.submit(self._fit, fit).result())
            found = self.state[key]
            self.say(f"{fit.name}: {found['steps']} steps in {found['cpu_seconds']:.1f} CPU s")
        return dict(self.state[key])

    def _fit(self, fit: Fit) -> dict[str, Any]:
        job = {"data": str(self.data), "classes": CLASSES if fit.classes else 0, "seconds": fit.seconds}
        job |= {"seed": fit.seed, "out": str(self.weights(fit)), "calibration": self.asked.calibration}
        job |= {"settings": json.loads(fit.detail or "{}")} if fit.side == "ours" else _peer_job(fit.detail)
        script = OURS if fit.side == "ours" else PEER
        if fit.side == "peer":  # its steps are longer, and it stops by its own clock
            few, many = self.asked.calibration
            job["calibration"] = [max(1, few // 2), max(2, many // 2)]
        tries: list[dict[str, float]] = []
        while True:
            found = run_job(script, "fit", job, self.folder, fit.name)
            if found["cpu_seconds"] <= OVER * fit.seconds or found["steps"] < 2 or len(tries) == 2:
                break
            tries.append({"steps": found["steps"], "cpu_seconds": found["cpu_seconds"]})
            job["steps"] = max(1, int(found["steps"] * 0.985 * fit.seconds / found["cpu_seconds"]))
        found |= {"over_budget": found["cpu_seconds"] > OVER * fit.seconds, "too_long_before": tries}
        return {**asdict(fit), **found, "code": self.code if fit.side == "ours" else ""}

    def draw(self, fit: Fit, n: int, steps: int = 0, guidance: float = 1.0) -> Future[dict[str, Any]]:
        """Samples of a run and their distance, in the pool. steps 0: the family's own way."""
        key = f"draw {fit.name} n{n}" + (f" steps{steps} w{guidance:g}" if steps else "")
        return self.pool.submit(self._draw, fit, key, n, steps, guidance)

    def _draw(self, fit: Fit, key: str, n: int, steps: int, guidance: float) -> dict[str, Any]:
        if key not in self.state:
            name = key.removeprefix("draw ").replace(" ", "-")
            out = self.folder / f"{name}.npz"
            job = {"model": str(self.weights(fit)), "n": n, "seed": 1000 + fit.seed, "out": str(out)}
            job |= {"classes": CLASSES if fit.classes else 0}
            if fit.side == "peer":
                job |= {**_peer_job(fit.detail), "steps": steps, "guidance": guidance}
            found = run_job(OURS if fit.side == "ours" else PEER, "sample", job, self.folder, name)
            grid(out, self.folder / "grids" / f"{name}.png")
            with self.lock:
                held_out = held_out_of(self.state[f"fit {fit.name}"])
            measured = self.judge.measure(out, fit.seed, held_out)
            self.keep(key, {"fit": fit.name, "steps": steps, "guidance": guidance, **found, **measured})
            self.say(f"{name}: distance {measured['distance']:.3f}, floor {self.judge.floor(n):.3f}")
        return dict(self.state[key])


def _peer_job(detail: str) -> dict[str, Any]:
    method, precision, rate = detail.split("-", 2)
    return {
        "method": method,
        "precision": precision,
        "rate": float(rate),
        "channels": [32, 64, 128],
        "batch": 64,
        "lean": True,
    }


def _code() -> str:
    """Hash of our source, which says what a run was made with."""
    digest, root = hashlib.sha256(), Path(pellucid.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def ours(bench: Bench) -> None:
    """The runs of the full time with every seed, then those of parts of it."""
    asked, seconds = bench.asked, bench.asked.minutes * 60
    drawn = []
    plan = [(seconds, seed) for seed in range(asked.seeds)] + [(seconds * part, 0) for part in PARTS]
    for budget, seed in plan:
        for classes in asked.kinds:
            fit = Fit(side="ours", classes=classes, seconds=budget, seed=seed, detail=asked.settings)
            bench.fit(fit)
            drawn.append(bench.draw(fit, asked.samples))
    for future in drawn:
        future.result()


def peer(bench: Bench) -> None:
    """Rates, then the four variants, then the best with every seed."""
    asked, seconds = bench.asked, bench.asked.minutes * 60
    drawn: list[Future[dict[str, Any]]] = []
    for classes in asked.kinds:
        picked_by = classes and asked.pick_each
        detail = _picked(bench, picked_by)
        first = Fit(side="peer", classes=classes, seconds=seconds, seed=0, detail=detail)
        bench.fit(first)
        guidance = _guidance(bench, first) if classes else 1.0
        bench.keep(_pick_key(classes, seconds), {"detail": detail, "guidance": guidance})
        for seed in range(asked.seeds):
            fit = Fit(side="peer", classes=classes, seconds=seconds, seed=seed, detail=detail)
            bench.fit(fit)
            drawn += [bench.draw(fit, asked.samples, n, guidance) for n in asked.peer_steps[: 1 if seed else None]]
    for future in drawn:
        future.result()


def _pick_key(classes: bool, seconds: float) -> str:
    return f"picked {'classes' if classes else 'plain'} {seconds:g}s"


def _picked(bench: Bench, classes: bool) -> str:
    """The best variant and its rate, both by distance, with one seed."""
    asked = bench.asked
    variants = [asked.peer_variant] if asked.peer_variant else list(VARIANTS)
    best = {variant: _best_rate(bench, variant, classes) for variant in variants}
    if len(variants) == 1:
        return best[variants[0]]
    fits = [
        Fit(side="peer", classes=classes, seconds=asked.pick_minutes * 60, seed=0, detail=detail)
        for detail in best.values()
    ]
    drawn = []
    for fit in fits:
        bench.fit(fit)
        drawn.append(bench.draw(fit, asked.pick_samples, asked.peer_steps[0]))
    distances = [future.result()["distance"] for future in drawn]
    return fits[distances.index(min(distances))].detail


def _best_rate(bench: Bench, variant: str, classes: bool) -> str:
    asked = bench.asked
    rates = [asked.rate] if asked.rate else RATES
    fits = [
        Fit(side="peer", classes=classes, seconds=asked.rate_seconds, seed=0, detail=f"{variant}-{rate:g}")
        for rate in rates
    ]
    if len(fits) == 1:
        return fits[0].detail
    drawn = []
    for fit in fits:
        bench.fit(fit)
        drawn.append(bench.draw(fit, asked.pick_samples, 20))
    distances = [future.result()["distance"] for future in drawn]
    return fits[distances.index(min(distances))].detail


def _guidance(bench: Bench, fit: Fit) -> float:
    asked = bench.asked
    drawn = [bench.draw(fit, asked.pick_samples, asked.peer_steps[0], w) for w in GUIDANCES]
    distances = [future.result()["distance"] for future in drawn]
    return GUIDANCES[distances.index(min(distances))]


def summary(state: Mapping[str, Any], judge: Judge, asked: argparse.Namespace) -> dict[str, Any]:
    """What the runs show so far, and the runs."""
    fits = {k.removeprefix("fit "): v for k, v in state.items() if k.startswith("fit ")}
    draws = [v for k, v in state.items() if k.startswith("draw ") and v["n"] == asked.samples]
    floor = judge.floor(asked.samples)
    rows = []
    for classes in (False, True):
        both = [(d, fits[d["fit"]]) for d in draws if fits[d["fit"]]["classes"] == classes]
        mine = [(d, f) for d, f in both if f["side"] == "ours" and f["detail"] == asked.settings]
        for seconds in sorted({f["seconds"] for _, f in both if _pick_key(classes, f["seconds"]) in state}):
            picked = state[_pick_key(classes, seconds)]
            chosen = (picked["detail"], picked["guidance"])
            theirs = [
                (d, f)
                for d, f in both
                if (f["side"], f["seconds"]) == ("peer", seconds) and (f["detail"], d["guidance"]) == chosen
            ]
            rows.append(_row(seconds, classes, mine, theirs, floor, picked, asked))
        if _pick_key(classes, 60 * asked.minutes) not in state:
            rows.append(_row(60 * asked.minutes, classes, mine, [], floor, None, asked))
    return {
        "machine": about_this_machine(),
        "threads": 1,
        "judge": judge.about,
        "floor": round(floor, 4),
        "samples": asked.samples,
        "reference": len(judge.fashion.reference),
        "rows": [row for row in rows if row],
        "runs": fits,
        "draws": [v for k, v in state.items() if k.startswith("draw ")],
        "picked": {k.removeprefix("picked "): v for k, v in state.items() if k.startswith("picked ")},
    }


Pairs = list[tuple[dict[str, Any], dict[str, Any]]]


def _row(
    seconds: float,
    classes: bool,
    mine: Pairs,
    theirs: Pairs,
    floor: float,
    picked: Mapping[str, Any] | None,
    asked: argparse.Namespace,
) -> dict[str, Any]:
    """One line of the table, as far as its runs are there."""
    here = [d for d, f in mine if f["seconds"] == seconds]
    there = [d for d, _ in theirs if d["steps"] == asked.peer_steps[0]]
    row: dict[str, Any] = {"cpu_seconds": seconds, "classes": classes}
    for side, draws in (("ours", here), ("peer", there)):
        if draws:
            row[side] = {
                "distances": [d["distance"] for d in draws],
                "above_floor": round(statistics.mean(d["distance"] for d in draws) - floor, 4),
                "closer_to_training": [d["closer_to_training"] for d in draws],
                "asked_class": [d["asked_class"] for d in draws if "asked_class" in d],
            }
    if picked and there:
        row["peer"] |= {"variant": picked["detail"], "guidance": picked["guidance"], "steps": asked.peer_steps[0]}
        row["peer"]["other_steps"] = {
            d["steps"]: d["distance"]
            for d, f in theirs
            if f["seconds"] == seconds and d["steps"] != asked.peer_steps[0]
        }
    if here and there:
        ratio = row["ours"]["above_floor"] / row["peer"]["above_floor"]
        row |= {"ratio": round(ratio, 4), "bar": BARS[classes], "met": ratio <= BARS[classes]}
        aim = statistics.mean(row["peer"]["distances"])
        early = sorted((f["seconds"], d["distance"]) for d, f in mine if f["seconds"] <= seconds and f["seed"] == 0)
        reached = [s for s, distance in early if distance <= aim]
        row["time_to_peer"] = {
            "peer_distance": round(aim, 4),
            "ours_by_seconds": early,
            "share_of_time": round(reached[0] / seconds, 4) if reached else None,
            "bar": TIME_BAR,
            "met": bool(reached) and reached[0] <= TIME_BAR * seconds,
        }
    return row if here or there else {}


def _asked() -> argparse.Namespace:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--minutes", type=float, default=5.0, help="CPU minutes of each run")
    words.add_argument("--seeds", type=int, default=3)
    words.add_argument("--only", choices=("ours", "peer"))
    words.add_argument("--conditional", action="store_true", help="the runs with classes alone")
    words.add_argument("--unconditional", action="store_true", help="the runs without classes alone")
    words.add_argument("--settings", default="", help="settings of our family as JSON; its defaults when left out")
    words.add_argument("--peer-variant", choices=VARIANTS, help="no picking: this one")
    words.add_argument("--rate", type=float, help="no search: this learning rate of the peer")
    words.add_argument("--rate-seconds", type=float, default=60.0, help="CPU seconds of a run that picks a rate")
    words.add_argument("--pick-minutes", type=float, default=5.0, help="CPU minutes of a run that picks a variant")
    words.add_argument("--pick-each", action="store_true", help="pick with classes anew instead of as without them")
    words.add_argument("--pick-samples", type=int, default=1000)
    words.add_argument("--samples", type=int, default=5000, help="at most 5000, for the floor is that large")
    words.add_argument("--peer-steps", type=_numbers, default=(50, 20), help="the first counts; others with seed 0")
    words.add_argument("--calibration", type=_numbers, default=(15, 45), help="steps of the two short runs")
    words.add_argument("--jobs", type=int, default=2)
    words.add_argument("--resume", action="store_true", help="keep what the work folder holds")
    words.add_argument("--work", type=Path, default=HERE.parent.parent / "runs" / "fashion_quality")
    words.add_argument("--data", type=Path, help="folder of the four idx files; PELLUCID_DATA/fashion_mnist")
    words.add_argument("--result", type=Path, default=HERE.parent / "results" / "fashion_quality.json")
    asked = words.parse_args()
    both = asked.conditional == asked.unconditional
    asked.kinds = [False, True] if both else [asked.conditional]
    if asked.data is None:
        if "PELLUCID_DATA" not in os.environ:
            words.error("say where the data is: --data FOLDER, or PELLUCID_DATA with fashion_mnist in it")
        asked.data = Path(os.environ["PELLUCID_DATA"], "fashion_mnist")
    if len(asked.calibration) != 2 or not 0 < 2 * asked.calibration[0] <= asked.calibration[1]:
        words.error("--calibration takes two numbers of steps, the second at least twice the first")
    if (asked.work / "state.json").exists() and not asked.resume:
        words.error(f"{asked.work} holds runs: add --resume to keep them, or give another --work")
    return asked


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


def _side(work: Callable[[Bench], None], bench: Bench, failures: list[str]) -> None:
    try:
        work(bench)
    except Exception:
        failures.append(traceback.format_exc())


def main() -> int:
    asked = _asked()
    peers_python()
    torch.set_num_threads(1)
    asked.work.mkdir(parents=True, exist_ok=True)
    bench = Bench(asked)
    failures: list[str] = []
    sides = [work for work in (ours, peer) if asked.only in (None, work.__name__)]
    threads = [threading.Thread(target=_side, args=(work, bench, failures)) for work in sides]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result = summary(bench.state, bench.judge, asked)
    for row in result["rows"]:
        print(json.dumps(row))
    print("\n".join(failures), file=sys.stderr)
    good = not failures and bool(result["rows"])
    return 0 if good and all(row.get("met") and row["time_to_peer"]["met"] for row in result["rows"]) else 1


if __name__ == "__main__":
    sys.exit(main())
