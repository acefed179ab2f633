"""How much of a latent space is used: counted by hand, and told as an event."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pellucid.core.batch import TensorExamples
from pellucid.core.errors import MissingCapability
from pellucid.core.rows import Rows
from pellucid.core.run import Alarmed, Event, Noticed, Run
from pellucid.core.space import Real
from pellucid.families.realnvp import RealNVP
from pellucid.families.vae import VAE
from pellucid.families.vq import VQ
from pellucid.nets.mlp import MLP
from pellucid.training.latent_use import LatentUse, active_units, codes_used
from pellucid.training.watch import Seen

FIRST = Rows(0, torch.arange(1))
ITEMS = Rows(1, torch.arange(50)).normal(3)


def told(engine: torch.nn.Module, step: int, items: Tensor = ITEMS) -> list[Event]:
    events: list[Event] = []
    run = Run(listeners=[events.append])
    LatentUse(rows=40).look(Seen(engine, step, 8, 0, TensorExamples(items), None, None, run))
    return events


def test_a_direction_counts_when_its_mean_varies_by_more_than_a_hundredth() -> None:
    spread = torch.tensor([1.0, 0.11, 0.09, 0.0])
    z = Rows(0, torch.arange(2000)).normal(4) * spread
    assert active_units(z) == 2
    assert active_units(z[:1]) == 0


def test_perplexity_counts_codes_as_if_used_equally() -> None:
    assert codes_used(torch.tensor([[0, 1, 2, 3]]), 10) == (4, 4.0)
    used, worth = codes_used(torch.tensor([[0] * 98 + [1, 2]]), 10)
    assert used == 3
    assert 1.0 < worth < 1.2


def test_a_used_latent_is_told_at_the_end_and_an_ignored_one_raises_an_alarm() -> None:
    engine = VAE(latent=5, width=16, depth=1).build(Real((3,)), {}, FIRST)
    assert isinstance(engine.encoder, MLP)
    means = engine.encoder.last.weight[:5].detach()
    means[:2] = Rows(0, torch.arange(2)).normal(16)
    means[2:] = 0.0
    assert told(engine, 4) == []
    (event,) = told(engine, 8)
    assert event == Noticed(topic="latent", text="2 of 5 latent directions tell the items apart.", count=2)
    means[:] = 0.0
    assert told(engine, 2) == [], "no alarm while little is learned"
    (event,) = told(engine, 4)
    assert isinstance(event, Alarmed)
    assert event.text.startswith("0 of 5 latent directions tell the items apart: the decoder ignores")


def test_codes_are_counted_and_a_single_one_raises_an_alarm() -> None:
    engine = VQ(codes=7, size=3, places=4, width=16, depth=1).build(Real((3,)), {}, FIRST)
    (event,) = told(engine, 8)
    used, worth = codes_used(engine.quantise(ITEMS[torch.arange(40) * 50 // 40]), 7)
    text = f"{used} of 7 codes are written in 40 items, as varied as {worth:.0f} used equally."
    assert used > 1
    assert event == Noticed(topic="latent", text=text, count=used)
    with torch.no_grad():
        engine.codes.copy_(engine.codes[:1].expand_as(engine.codes))
    (event,) = told(engine, 8)
    assert isinstance(event, Alarmed)


def test_a_flow_has_no_latent_to_be_ignored() -> None:
    engine = RealNVP().build(Real((3,)), {}, FIRST)
    assert not LatentUse.suits(engine)
    with pytest.raises(MissingCapability, match="Accepted: an engine that offers Quantises"):
        told(engine, 8)
