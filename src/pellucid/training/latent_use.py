"""How much of its latent space a model uses: directions of a vector, or codes of an alphabet.

A decoder that is strong enough may learn to ignore what it is told, and the encoder then tells it nothing (posterior
collapse); an alphabet may end with most of its codes never written. Neither shows in the loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pellucid.core.capabilities import Encodes, Quantises, Weighs
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.rows import Rows
from pellucid.core.run import Alarmed
from pellucid.training.watch import Seen, Watch

__all__ = ["LatentUse", "active_units", "codes_used"]

ACTIVE = 0.01  # Burda et al. 2016, https://arxiv.org/abs/1509.00519, section 5: the variance that counts as activity


def active_units(mean: Tensor) -> int:
    """How many directions of a latent vector tell items apart: those whose posterior means vary.

    A_u = Var_x E_q(z|x)[z_u] > 0.01                    Burda et al. 2016, https://arxiv.org/abs/1509.00519, section 5

    Args:
        mean: (N, D) posterior means of N items, in units of the prior's spread.

    >>> active_units(torch.tensor([[1.0, 0.01], [-1.0, -0.01], [0.5, 0.0]]))
    1
    """
    return int((mean.double().var(0) > ACTIVE).sum()) if len(mean) > 1 else 0


def codes_used(codes: Tensor, count: int) -> tuple[int, float]:
    """How many of `count` codes are written at all, and how many used equally would be as varied (the perplexity).

    2^H of van den Oord et al. 2017, https://arxiv.org/abs/1711.00937: exp(-sum_k p_k log p_k), p the share of each code

    Args:
        codes: (N, T) int64.

    >>> codes_used(torch.tensor([[0, 1], [0, 1]]), 8)
    (2, 2.0)
    """
    share = torch.bincount(codes.flatten(), minlength=count).double()
    share = share[share > 0] / share.sum()
    return len(share), round(float((-(share * share.log()).sum()).exp()), 6)


@dataclass(frozen=True, kw_only=True)
class LatentUse(Watch):
    """Says at the end how much of the latent space is used, and alarms when nothing is.

    Looks at engines with a posterior (those that offer Encodes and Weighs) or an alphabet (Quantises).
    """

    rows: int = 1000
    """Rows of the data that are looked at, evenly taken."""
    looks: int = 4
    """Looks, spread evenly over training; no alarm in its first half, when little is learned yet."""

    @staticmethod
    def suits(engine: nn.Module) -> bool:
        """Has this engine a latent space that can be looked at?"""
        return isinstance(engine, Quantises) or (isinstance(engine, Encodes) and isinstance(engine, Weighs))

    def __post_init__(self) -> None:
        if self.rows < 2 or self.looks < 1:
            raise BadInput(f"{self}", accepted="two rows and one look at least")

    def due(self, step: int, steps: int) -> bool:
        return step * self.looks // steps > (step - 1) * self.looks // steps

    def look(self, seen: Seen) -> float | None:
        used, text = self.measure(seen)
        if used == 0 and 2 * seen.step >= seen.steps:
            seen.run.emit(Alarmed(topic="latent", step=seen.step, text=f"{text}: the decoder ignores what it is told."))
        elif used and seen.step == seen.steps:
            seen.run.notice("latent", f"{text}.", count=used)
        return None

    @torch.no_grad()
    def measure(self, seen: Seen) -> tuple[int, str]:
        """What is used (0: nothing), and how that is said."""
        n = len(seen.examples)
        ids = torch.arange(min(n, self.rows)) * n // min(n, self.rows)
        batch = seen.examples.take(ids)
        if seen.bridge is not None:
            batch = batch.with_x(seen.bridge.there(batch.x, Rows(seen.seed, ids).fork("latent use")))
        batch = batch.to(seen.run.device)
        if isinstance(seen.engine, Quantises):
            count = seen.engine.symbols().symbols
            used, worth = codes_used(seen.engine.quantise(batch.x).cpu(), count)
            return (
                0 if used == 1 else used,
                f"{used} of {count} codes are written in {len(ids):,} items, as varied as {worth:.0f} used equally",
            )
        if not (isinstance(seen.engine, Encodes) and self.suits(seen.engine)):
            raise MissingCapability(
                f"{type(seen.engine).__name__} has no latent space to look at",
                accepted="an engine that offers Quantises, or Encodes and Weighs",
            )
        mean = seen.engine.encode(batch.x, batch.condition).flatten(1).cpu()
        used = active_units(mean)
        return used, f"{used} of {mean.shape[1]} latent directions tell the items apart"
