"""What it costs to index ten million symbols and to look up every copied run of an output.

    .venv/bin/python benchmarks/provenance.py [--symbols 10000000]

Bodies: random symbols of 65 kinds; words after Zipf's law, a tenth of the text repeated from elsewhere in it; one
symbol over and over (the worst case of prefix doubling) at a tenth of the size; and, with PELLUCID_DATA, the real texts
and strings there (books, Shakespeare, recipes, molecules). Outputs have 512 symbols: half of them new, half copied
from the body in pieces. What is timed is `Body.copies`: all maximal runs, their counts, sources and surprise. Bars are
in CPU time of one thread, as the machine is shared; the clock's is beside it. Every planted piece must be found, and a
run that is named must stand where it is said to stand. Writes benchmarks/results/provenance.json; exits with 1 when a
bar is missed.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import about_this_machine
from numpy.typing import NDArray

from pellucid.explain.copies import Body

SEED, QUERIES, LENGTH, PIECES = 0, 200, 512, 4
BARS = {"index_cpu_seconds": 60.0, "query_p95_ms": 50.0}
BODIES = ("random", "words", "one symbol", "real")

Whole = NDArray[np.int64]


def body_of(name: str, n: int, random: np.random.Generator) -> list[Whole]:
    """Sequences of about n symbols together."""
    if name == "random":
        return [part.astype(np.int64) for part in np.array_split(random.integers(0, 65, n), 1000)]
    if name == "one symbol":
        return [np.zeros(n // 10, np.int64)]
    if name == "words":
        words = ["".join(random.choice(list("etaoinshrdlucmfwyp"), int(k))) for k in random.integers(1, 9, 20_000)]
        rank = np.minimum(random.zipf(1.3, n // 4), len(words)) - 1
        text = np.frombuffer(" ".join(words[k] for k in rank)[:n].encode(), np.uint8).astype(np.int64)
        for _ in range(n // 100_000):
            size = min(10_000, len(text) // 4)
            a, b = random.integers(0, len(text) - size, 2)
            text[a : a + size] = text[b : b + size]
        return list(np.array_split(text, 1000))
    folder = Path(os.environ["PELLUCID_DATA"])
    files = [*sorted((folder / "gutenberg_books").glob("*.txt")), folder / "tinyshakespeare" / "input.txt"]
    texts = [file.read_text("utf-8") for file in files]
    with gzip.open(folder / "moses_100k" / "moses_100k.csv.gz", "rt") as file:
        texts += [line.split(",")[0] for line in file.read().splitlines()[1:]]
    texts += [json.loads(line)["text"] for line in (folder / "recipes" / "recipes.jsonl").read_text().splitlines()]
    return [np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.int64) for text in texts if text]


def measured(name: str, n: int) -> dict[str, Any]:
    random = np.random.default_rng(SEED)
    sequences = body_of(name, n, random)
    resting = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    body = Body.of(sequences)
    index = {"index_seconds": time.perf_counter() - wall, "index_cpu_seconds": time.process_time() - cpu}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    held = body.index.text.nbytes + body.index.order.nbytes
    long_enough = [k for k, s in enumerate(sequences) if len(s) >= LENGTH // PIECES // 2] or [0]
    seconds, passed, missed, wrong, spans = [], [], 0, 0, 0
    for _ in range(QUERIES):
        symbols = int(max(s.max() for s in sequences[:10])) + 1
        output = random.integers(0, symbols, LENGTH)
        pieces = []
        for k in range(PIECES):
            sequence = sequences[int(random.choice(long_enough))]
            size = min(LENGTH // PIECES // 2, len(sequence))
            at = int(random.integers(0, len(sequence) - size + 1))
            output[k * LENGTH // PIECES :][:size] = sequence[at : at + size]
            pieces.append((k * LENGTH // PIECES, size))
        start, spent = time.perf_counter(), time.process_time()
        runs = body.copies(output, 4)
        seconds.append(time.process_time() - spent)
        passed.append(time.perf_counter() - start)
        spans += len(runs)
        missed += sum(not any(r.start <= a and r.end >= a + size for r in runs) for a, size in pieces)
        wrong += sum(
            not np.array_equal(sequences[k][p : p + r.length], output[r.start : r.end])
            for r in runs
            for k, p in r.sources
        )
    return {
        "body": name,
        "symbols": body.symbols,
        "sequences": len(sequences),
        **{k: round(v, 2) for k, v in index.items()},
        "peak_MB_above_the_sequences": round((peak - resting) / 1024),
        "held_MB": round(held / 2**20),
        "query_p50_ms": round(1000 * float(np.percentile(seconds, 50)), 2),
        "query_p95_ms": round(1000 * float(np.percentile(seconds, 95)), 2),
        "query_p95_ms_by_the_clock": round(1000 * float(np.percentile(passed, 95)), 2),
        "queries": QUERIES,
        "runs_found": spans,
        "planted_pieces_missed": missed,
        "named_places_wrong": wrong,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--symbols", type=int, default=10_000_000)
    parser.add_argument("--body", choices=BODIES, help="measure one body and print it")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "provenance.json")
    asked = parser.parse_args()
    if asked.body:
        json.dump(measured(asked.body, asked.symbols), sys.stdout)
        return 0
    rows = []
    for name in BODIES:
        if name == "real" and "PELLUCID_DATA" not in os.environ:
            continue
        # a process each, so that the peak of memory is its own
        command = [sys.executable, __file__, "--body", name, "--symbols", str(asked.symbols)]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print(json.dumps(rows[-1]), flush=True)
    passed = all(row[bar] <= most for row in rows for bar, most in BARS.items())
    passed = passed and not any(row["planted_pieces_missed"] or row["named_places_wrong"] for row in rows)
    found = {"bars": BARS, "passed": passed, "seed": SEED, "rows": rows, "machine": about_this_machine()}
    asked.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
