"""The step by hand against the same step of the framework, slot by slot, and where it may not be taken."""

from __future__ import annotations

import pytest
import torch

from pellucid.core.rows import Rows
from pellucid.nets import transformer
from pellucid.nets.single_slot import fits
from pellucid.nets.transformer import Cache, Transformer


def body(shift: bool, rotary: bool) -> Transformer:
    with Rows(0, torch.arange(1)).seeding():
        net = Transformer(32, 4, 3, rotary=rotary, shift=shift)
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.2 * torch.randn_like(p))
    return net


def walked(net: Transformer, x: torch.Tensor, prompt: int) -> tuple[torch.Tensor, Cache]:
    cache = net.begin(1, x.shape[1], x)
    first, cache = net.step(x[:, :prompt], cache)
    found = [first]
    for t in range(prompt, x.shape[1]):
        h, cache = net.step(x[:, t : t + 1], cache)
        found.append(h)
    return torch.cat(found, dim=1), cache


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("prompt", [1, 5])
def test_a_step_by_hand_is_the_frameworks_step(
    shift: bool, rotary: bool, prompt: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x = body(shift, rotary), Rows(1, torch.arange(1)).normal(12, 32)
    with torch.no_grad():
        ours, cache = walked(net, x, prompt)
        assert cache.single is not None
        whole = net(x)
        monkeypatch.setattr(transformer, "fits", lambda x: False)
        theirs, plain = walked(net, x, prompt)
    assert plain.single is None
    torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(ours, whole, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(cache.keys, plain.keys, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(cache.values, plain.values, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(cache.last, plain.last, rtol=2e-5, atol=2e-5)


def test_only_single_slots_without_gradient_are_taken() -> None:
    x = torch.zeros(1, 1, 32)
    assert not fits(x), "a gradient may be asked for"
    with torch.no_grad():
        assert fits(x)
        assert not fits(torch.zeros(2, 1, 32))
        assert not fits(torch.zeros(1, 2, 32))
        assert not fits(x.double())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not fits(x)


def test_weights_that_changed_are_read_anew_by_the_next_text() -> None:
    net, x = body(True, True), Rows(1, torch.arange(1)).normal(6, 32)
    with torch.no_grad():
        walked(net, x, 1)
        for p in net.parameters():
            p.data = p.data * 1.5  # other memory, as when a module moves
        torch.testing.assert_close(walked(net, x, 1)[0], net(x), rtol=2e-5, atol=2e-5)
