"""The peer of the text benchmark: the small GPT of nanoGPT's README for a CPU, in plain PyTorch.

Runs in the peers' environment and knows nothing of Pellucid:

    python nanogpt_worker.py fit job.json         a text -> validation loss after so many CPU seconds
    python nanogpt_worker.py turns job.json       steps on command, CPU seconds back
    python nanogpt_worker.py generate job.json    CPU seconds of writing

Written here from the published description of that recipe (4 layers, 4 heads, 128 wide, context 64, 12 windows a step,
dropout 0, no biases, GELU, learned positions, one table for both ends, fused attention, AdamW 1e-3 with betas .9 and
.99 and decay .1 on matrices, 100 steps of warm-up, a cosine to 1e-4, clip at 1); nothing is copied, and the code that
is measured is this file, not theirs. Generation has no cache, as theirs has none: every symbol is a pass over the last
64. In `fit` the cosine follows the clock and ends with the budget.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from on_command import steps_on_command
from torch import Tensor, nn
from torch.nn import functional

LAYERS, HEADS, WIDTH, CONTEXT, BATCH = 4, 4, 128, 64, 12
RATE, LEAST, WARMUP, DECAY, BETAS = 1e-3, 1e-4, 100, 0.1, (0.9, 0.99)


class Block(nn.Module):
    """x + attention(norm(x)), then x + W2 gelu(W1 norm(x))."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, bias=False), nn.LayerNorm(WIDTH, bias=False)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.inner, self.outer = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (
            part.view(b, t, HEADS, WIDTH // HEADS).transpose(1, 2) for part in self.qkv(self.norm1(x)).split(WIDTH, 2)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(b, t, WIDTH))
        return x + self.outer(functional.gelu(self.inner(self.norm2(x))))


class GPT(nn.Module):
    """Symbols (B, T) to logits (B, T, V)."""

    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.symbol, self.position = nn.Embedding(symbols, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                last = name.endswith(("out.weight", "outer.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * LAYERS) if last else 0.02)

    def forward(self, x: Tensor, last: bool = False) -> Tensor:
        h = self.symbol(x) + self.position.weight[: x.shape[1]]
        for block in self.blocks:
            h = block(h)
        h = self.norm(h[:, -1:] if last else h)
        return functional.linear(h, self.symbol.weight)


class Trainer:
    """The model on a text, and one step of its training; `part` says how much of the budget is spent."""

    def __init__(self, job: dict[str, Any], part: Callable[[], float]) -> None:
        torch.manual_seed(job["seed"])
        with np.load(job["data"]) as codes:
            self.train, self.held = (torch.from_numpy(codes[part]) for part in ("train", "held"))
            symbols = int(codes["symbols"])
        self.model, self.part, self.k = GPT(symbols), part, 0
        self.batch, self.bfloat = job.get("batch", BATCH), job.get("precision") == "bfloat16"
        matrices = [p for p in self.model.parameters() if p.ndim >= 2]
        others = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=RATE, betas=BETAS)

    def step(self) -> None:
        starts = torch.randint(len(self.train) - CONTEXT, (self.batch,))
        window = self.train[starts[:, None] + torch.arange(CONTEXT + 1)]
        fallen = LEAST + (RATE - LEAST) * 0.5 * (1 + math.cos(math.pi * min(1.0, self.part())))
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * (self.k + 1) / (WARMUP + 1) if self.k < WARMUP else fallen
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bfloat):
            logits = self.model(window[:, :-1])
            loss = functional.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.k += 1

    @torch.no_grad()
    def loss(self) -> float:
        """Nats a symbol of the held-out text, cut into consecutive windows of the context; the first symbol is read."""
        count = (len(self.held) - 1) // CONTEXT
        x = self.held[: count * CONTEXT].view(count, CONTEXT)
        y = self.held[1 : count * CONTEXT + 1].view(count, CONTEXT)
        total = 0.0
        for a, b in zip(x.split(64), y.split(64), strict=True):
            total += float(functional.cross_entropy(self.model(a).flatten(0, 1), b.flatten(), reduction="sum"))
        return total / y.numel()


def fit(job: dict[str, Any]) -> dict[str, Any]:
    """Train for the job's CPU seconds; the cosine follows the clock, so that it ends with the budget."""
    began = time.process_time()
    trainer = Trainer(job, lambda: (time.process_time() - began) / job["seconds"])
    while time.process_time() - began < job["seconds"]:
        trainer.step()
    used = time.process_time() - began
    return {"nats": trainer.loss(), "steps": trainer.k, "cpu_seconds": used, **about(trainer.model)}


def turns(job: dict[str, Any]) -> None:
    """Answer each line {"steps": n} with the CPU seconds that n steps took; an empty line ends."""
    trainer = Trainer(job, lambda: 0.0)
    steps_on_command(about(trainer.model), lambda _: trainer.step())


@torch.no_grad()
def generate(job: dict[str, Any]) -> dict[str, Any]:
    """CPU seconds of each round: so many symbols after a newline for so many texts at once, temperature .8."""
    torch.manual_seed(0)
    model, times = GPT(int(job["symbols"])).eval(), []
    for _ in range(job["rounds"]):
        began, x = time.process_time(), torch.zeros(job["batch"], 1, dtype=torch.int64)
        for _ in range(job["tokens"]):
            p = (model(x[:, -CONTEXT:], last=True)[:, -1] / 0.8).softmax(-1)
            x = torch.cat((x, torch.multinomial(p, 1)), dim=1)
        times.append(time.process_time() - began)
    return {"seconds": times, **about(model)}


def about(model: nn.Module) -> dict[str, Any]:
    return {"parameters": sum(p.numel() for p in model.parameters()), "torch": version("torch")}


def main() -> None:
    what, path = sys.argv[1:]
    job = json.loads(Path(path).read_text())
    torch.set_num_threads(1)
    if what == "turns":
        turns(job)
    else:
        Path(job["result"]).write_text(json.dumps({"fit": fit, "generate": generate}[what](job)))


if __name__ == "__main__":
    main()
