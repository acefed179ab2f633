"""N-grams on books: perplexity of a held-out book, training time and query rate.

    PELLUCID_DATA=/path/to/data python benchmarks/ngram.py

Words of order 3 and characters of order 6, trained on all books but one. Beside it, interleaved, runs a dictionary of
counters as people write it (counts of every context, absolute discount, interpolated), and every probability is checked
on a part of the held-out book against modified Kneser-Ney with dictionaries, written here from the paper. KenLM's
trainer is not part of this environment, so its figures are not repeated here: the check against the paper stands in.
Times are CPU seconds of one thread, medians of interleaved rounds.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from machine import about_this_machine

from pellucid.core.batch import Batch
from pellucid.core.rows import Rows
from pellucid.core.space import Tokens
from pellucid.domains.pieces import cut
from pellucid.families.ngram import NGram, NGramEngine

HELD = "frankenstein.txt"
WORK = (("words", 3), ("characters", 6))
ROUNDS = 3
CHECKED = 20_000  # symbols of the held-out book that are checked one by one
SLOW = 60_000  # symbols that the dictionary scores
RESULTS = Path(__file__).parent / "results" / "ngram.json"

Ids = list[int]


class Counters:
    """What most people write: a dictionary of counters for each length, one discount, interpolated."""

    def __init__(self, text: Ids, order: int, vocabulary: int) -> None:
        self.order, self.vocabulary = order, vocabulary
        self.after: list[dict[tuple[int, ...], Counter[int]]] = []
        for n in range(order):
            table: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
            for i in range(n, len(text)):
                table[tuple(text[i - n : i])][text[i]] += 1
            self.after.append(table)
        self.totals = [{context: sum(seen.values()) for context, seen in table.items()} for table in self.after]

    def p(self, context: tuple[int, ...], symbol: int) -> float:
        p = 1.0 / self.vocabulary
        for n in range(len(context) + 1):
            short = context[len(context) - n :]
            seen = self.after[n].get(short)
            if seen is None:
                break
            total = self.totals[n][short]
            p = max(seen.get(symbol, 0) - 0.75, 0.0) / total + 0.75 * len(seen) / total * p
        return p


class Paper:
    """Interpolated modified Kneser-Ney with dictionaries (Chen & Goodman), on the same running text."""

    def __init__(self, text: Ids, order: int, vocabulary: int) -> None:
        self.vocabulary = vocabulary
        counts: dict[tuple[int, ...], int] = dict(Counter(zip(*(text[i:] for i in range(order)), strict=False)))
        self.after: dict[int, dict[tuple[int, ...], dict[int, int]]] = {}
        self.off: dict[int, list[float]] = {}
        for n in range(order, 0, -1):
            table: dict[tuple[int, ...], dict[int, int]] = defaultdict(dict)
            for gram, count in counts.items():
                table[gram[:-1]][gram[-1]] = count
            self.after[n] = table
            n1, n2, n3, n4 = (sum(c == k for c in counts.values()) for k in (1, 2, 3, 4))
            if n1 and n2 and n3:
                y = n1 / (n1 + 2 * n2)
                wished = [0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
                self.off[n] = [min(max(d, 0.1 * (k > 0)), k) for k, d in enumerate(wished)]  # the engine's bounds
            else:
                self.off[n] = [0.0, 0.5, 1.0, 1.5]  # too few to estimate, as in the engine
            shorter: Counter[tuple[int, ...]] = Counter(gram[1:] for gram in counts)  # different left neighbours
            shorter[tuple(text[: n - 1])] += 1  # the text's beginning is one more place
            counts = dict(shorter)

    def p(self, context: tuple[int, ...], symbol: int) -> float:
        n = len(context) + 1
        shorter = 1.0 / self.vocabulary if n == 1 else self.p(context[1:], symbol)
        seen = self.after[n].get(context)
        if not seen:
            return shorter
        off, total, count = self.off[n], sum(seen.values()), seen.get(symbol, 0)
        left = sum(off[min(c, 3)] for c in seen.values()) / total
        return (count - off[min(count, 3)]) / total + left * shorter


def books() -> tuple[str, str]:
    """All books but one, and the one that is held out."""
    if "PELLUCID_DATA" not in os.environ:
        sys.exit("PELLUCID_DATA is not set; it names the folder that holds gutenberg_books/")
    folder = Path(os.environ["PELLUCID_DATA"]) / "gutenberg_books"
    train = "\n".join(p.read_text(encoding="utf-8") for p in sorted(folder.glob("*.txt")) if p.name != HELD)
    return train, (folder / HELD).read_text(encoding="utf-8")


def numbered(unit: str, train: str, held: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Symbols of both texts; 0 for what the training text has not, and the size of the alphabet."""
    codes, pieces = cut(train, unit)  # type: ignore[arg-type]
    other, names = cut(held, unit)  # type: ignore[arg-type]
    known = {piece: k + 1 for k, piece in enumerate(pieces)}
    table = np.array([known.get(name, 0) for name in names])
    return codes.astype(np.int64) + 1, table[other], len(pieces) + 1


def fitted(x: np.ndarray, order: int, vocabulary: int) -> NGramEngine:
    """An engine that has counted a running text, as `fit` does."""
    window = 64
    engine = NGram(order=order).build(Tokens(vocabulary, window, running=True), {}, Rows(0, torch.arange(1)))
    views = torch.from_numpy(x).unfold(0, window, 1)
    fresh = torch.ones(len(views), dtype=torch.int64)
    fresh[0] = window
    engine.absorb(Batch(views, torch.arange(len(views)), fresh=fresh))
    engine.settle()
    return engine


def costs(engine: NGramEngine, x: np.ndarray) -> np.ndarray:
    """(n,) log-probabilities of a text, each symbol after all before it: windows that overlap by the order."""
    size, back = engine.space.length, engine.family.order - 1
    starts = np.arange(0, len(x), size - back)
    padded = np.concatenate((x, np.zeros(size, np.int64)))
    found = engine.spell(Batch(torch.from_numpy(padded[starts[:, None] + np.arange(size)]), torch.arange(len(starts))),
                         Rows(0, torch.arange(len(starts)))).numpy()  # fmt: skip
    return np.concatenate((found[0], found[1:, back:].reshape(-1)))[: len(x)]


def seconds(work: Callable[[], object]) -> tuple[float, object]:
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def contexts(text: Sequence[int], order: int) -> list[tuple[tuple[int, ...], int]]:
    return [(tuple(text[max(0, i - order + 1) : i]), text[i]) for i in range(len(text))]


def measured(unit: str, order: int, rounds: int) -> dict[str, object]:
    train, held = books()
    began = time.process_time()
    x, y, vocabulary = numbered(unit, train, held)
    ids = time.process_time() - began
    times: dict[str, list[float]] = defaultdict(list)
    plain, asked = x.tolist(), contexts(y.tolist()[:SLOW], order)
    for _ in range(rounds):
        spent, engine = seconds(lambda: fitted(x, order, vocabulary))
        times["fit"].append(spent)
        assert isinstance(engine, NGramEngine)
        spent, found = seconds(lambda engine=engine: costs(engine, y))  # type: ignore[misc]
        times["score"].append(spent)
        spent, counters = seconds(lambda: Counters(plain, order, vocabulary))
        times["dictionary fit"].append(spent)
        assert isinstance(counters, Counters)
        spent, _ = seconds(lambda counters=counters: [counters.p(c, s) for c, s in asked])  # type: ignore[misc]
        times["dictionary score"].append(spent)
        del counters
    assert isinstance(found, np.ndarray)
    paper = Paper(plain, order, vocabulary)
    gap = max(abs(math.exp(found[i]) - paper.p(c, s)) for i, (c, s) in enumerate(asked[:CHECKED]))
    known = y != 0
    middle = {name: statistics.median(all_) for name, all_ in times.items()}
    rate, slow = len(y) / middle["score"], len(asked) / middle["dictionary score"]
    return {
        "unit": unit,
        "order": order,
        "training_symbols": len(x),
        "vocabulary": vocabulary,
        "held_out_symbols": len(y),
        "unknown": int((~known).sum()),
        "perplexity": math.exp(-float(found.mean())),
        "perplexity_without_unknown": math.exp(-float(found[known].mean())),
        "largest_gap_to_the_paper": gap,
        "checked": min(CHECKED, len(asked)),
        "cpu_seconds": {**{k: round(v, 3) for k, v in middle.items()}, "numbering both texts": round(ids, 3)},
        "queries_per_second": round(rate),
        "dictionary_queries_per_second": round(slow),
        "fit_times_faster_than_dictionary": round(middle["dictionary fit"] / middle["fit"], 1),
        "queries_times_faster_than_dictionary": round(rate / slow, 1),
    }


def main() -> None:
    torch.set_num_threads(1)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    rows = [measured(unit, order, rounds) for unit, order in WORK]
    result = {
        "what": "n-grams with modified Kneser-Ney on five books, the sixth held out",
        "held_out": HELD,
        "rounds": rounds,
        "not_measured": "KenLM: its trainer needs Boost to be built and is not part of this environment",
        "results": rows,
        "machine": about_this_machine(),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    for row in rows:
        sys.stdout.write(json.dumps(row, indent=2) + "\n")


if __name__ == "__main__":
    main()
