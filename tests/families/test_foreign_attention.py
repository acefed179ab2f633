"""Attention of networks made elsewhere: recording changes nothing, and what is recomputed is what was computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pellucid.core.errors import MissingCapability
from pellucid.families.foreign_attention import places_in, recording
from tests.families.foreign_models import language, unet

IMPLEMENTATIONS = {
    "unet": ("AttnProcessor", "AttnProcessor2_0"),
    "gpt2": ("eager", "sdpa"),
    "llama": ("eager", "sdpa"),
    "opt": ("eager", "sdpa"),
}
EACH = [(kind, by) for kind, several in IMPLEMENTATIONS.items() for by in several]


def network(kind: str, by: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """A network that computes attention so, and what to call it with: a batch of 3."""
    draw = torch.Generator().manual_seed(0)
    if kind != "unet":
        return language(kind, 20, by), {"input_ids": torch.randint(20, (3, 7), generator=draw)}
    from diffusers.models import attention_processor

    net = unet().eval()
    for module in net.modules():
        if hasattr(module, "set_processor"):
            module.set_processor(getattr(attention_processor, by)())
    asked = {"sample": torch.randn(3, 1, 8, 8, generator=draw), "timestep": torch.tensor([1, 50, 90])}
    return net, {**asked, "class_labels": torch.tensor([3, 10, 7])}


def answer(net: nn.Module, asked: dict[str, Tensor]) -> Tensor:
    out: Any = net(**asked)
    found: Tensor = out.sample if hasattr(out, "sample") else out.logits
    return found


@pytest.mark.parametrize(("kind", "by"), EACH)
def test_recording_changes_no_bit_and_rebuilds_the_output(kind: str, by: str) -> None:
    net, asked = network(kind, by)
    with torch.no_grad():
        plain = answer(net, asked)
        with recording(places_in(net)) as seen:
            watched = answer(net, asked)
        assert torch.equal(plain, watched)
        assert torch.equal(plain, answer(net, asked))  # and nothing is left behind
    assert seen.require().gap < 2e-6
    assert set(seen.weights) == {place.name for place in places_in(net)}
    for place in places_in(net):
        (weights,) = seen.weights[place.name]
        assert weights.shape[:2] == (3, place.heads)
        assert torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_weights_are_those_that_the_model_itself_shows(kind: str) -> None:
    net, asked = network(kind, "eager")
    with torch.no_grad(), recording(places_in(net)) as seen:
        shown = net(**asked, output_attentions=True).attentions
    for ours, theirs in zip(seen.weights.values(), shown, strict=True):
        assert torch.allclose(ours[0], theirs, atol=1e-6)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_with_a_cache_each_step_is_a_row_of_the_whole(kind: str) -> None:
    net, asked = network(kind, "sdpa")
    x = asked["input_ids"]
    with torch.no_grad(), recording(places_in(net)) as whole:
        net(x)
    with torch.no_grad(), recording(places_in(net), rows=2) as steps:
        past = net(x[:, :4], use_cache=True).past_key_values
        for t in range(4, 7):
            past = net(x[:, t : t + 1], past_key_values=past, use_cache=True).past_key_values
    assert steps.require().gap < 2e-6
    for name, several in steps.weights.items():
        assert [tuple(w.shape[2:]) for w in several] == [(4, 4), (1, 5), (1, 6), (1, 7)]
        for w in several[1:]:
            assert torch.allclose(w[:, :, 0], whole.weights[name][0][:2, :, w.shape[-1] - 1, : w.shape[-1]], atol=1e-5)


def test_a_recording_that_begins_in_the_middle_is_refused() -> None:
    net, asked = network("gpt2", "sdpa")
    past = net(asked["input_ids"], use_cache=True).past_key_values
    with recording(places_in(net)), pytest.raises(MissingCapability, match="were not recorded"):
        net(asked["input_ids"][:, :1], past_key_values=past, use_cache=True)
    assert torch.isfinite(net(**asked).logits).all()  # the hooks are gone


class Capped(nn.Module):
    """Looks like Llama's attention, and squeezes its scores before the softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(8, 8, bias=False) for _ in range(4))
        self.head_dim, self.scaling = 4, 1.0

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (2, 4)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        scores = 0.1 * torch.tanh(5 * q @ k.transpose(-1, -2))
        hidden = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        out: Tensor = self.o_proj((scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v).transpose(1, 2).flatten(2))
        return out


def test_attention_that_cannot_be_rebuilt_is_refused() -> None:
    net = nn.Sequential(Capped())
    with recording(places_in(net)) as seen:
        net(torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(MissingCapability, match="cannot be rebuilt from its queries and keys"):
        seen.require()


def test_an_unknown_processor_and_a_net_without_attention_are_refused() -> None:
    from diffusers.models.attention_processor import SlicedAttnProcessor

    net, _ = network("unet", "AttnProcessor")
    attention: Any = next(m for m in net.modules() if hasattr(m, "set_processor"))
    attention.set_processor(SlicedAttnProcessor(1))
    with pytest.raises(MissingCapability, match="is computed by SlicedAttnProcessor. Accepted: AttnProcessor, Attn"):
        places_in(net)
    with pytest.raises(MissingCapability, match="Linear has no attention that is known here"):
        places_in(nn.Linear(2, 2))
