"""Sparse features: planted ones are recovered, seeds agree, and names hold on items that they were not given on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from pellucid.core.errors import BadInput, MissingCapability
from pellucid.domains.pictures import Pictures
from pellucid.explain.concepts import activations, concepts, layers_of
from pellucid.explain.sparse import learn_features, matched
from pellucid.fitting import fit
from pellucid.model import Fitted


def superposed(count: int, size: int, k: int, n: int) -> tuple[Tensor, Tensor]:
    """Directions (count, size), more than dimensions, and sums (n, size) of k of them each."""
    generator = torch.Generator().manual_seed(0)
    plan = torch.nn.functional.normalize(torch.randn(count, size, generator=generator), dim=1)
    places = torch.rand(n, count, generator=generator).topk(k).indices
    strength = torch.zeros(n, count).scatter_(1, places, 1 + torch.rand(n, k, generator=generator))
    return plan, strength @ plan + 0.01 * torch.randn(n, size, generator=generator)


def test_planted_features_are_recovered_by_two_seeds() -> None:
    """Nine of ten at least: two features that wake together now and then are still taken for one."""
    plan, a = superposed(32, 20, 2, 4000)
    one, two = (learn_features(a, 32, 2, seed=seed, steps=1500) for seed in (0, 1))
    cosines = matched(plan, one.write)
    assert (cosines >= 0.95).mean() >= 0.9, np.sort(cosines)[:5]
    assert (matched(one.write, two.write) >= 0.9).mean() >= 0.8
    assert one.explained(a) > 0.9
    z = one.active(a[:50])
    assert int((z > 0).sum(1).max()) <= 2
    torch.testing.assert_close(one.write.norm(dim=1), torch.ones(32))


def test_what_has_no_features_is_not_explained_by_few() -> None:
    noise = torch.randn(2000, 20, generator=torch.Generator().manual_seed(1))
    assert learn_features(noise, 24, 2, steps=300).explained(noise) < 0.5


def test_the_same_seed_gives_the_same_features() -> None:
    _, a = superposed(8, 6, 2, 300)
    one, two = (learn_features(a, 8, 2, seed=3, steps=20) for _ in range(2))
    assert torch.equal(one.write, two.write)


def test_the_report_names_features_on_one_half_and_checks_them_on_the_other(
    digits: Pictures, digits_model: Fitted
) -> None:
    report = concepts(digits_model, data=digits, items=300, features=48, steps=300)
    assert report.layer == "network.net.after"
    assert len(report.concepts) == 48
    assert np.mean([c.auc for c in report.concepts[:8]]) > 0.7
    text = report.to_text()
    for word in ("2406.04093", "detectors", "found again by another seed", "single channels"):
        assert word in text, word
    assert report.to_html()
    assert '"found_again"' in report.to_json()


def test_layers_that_can_be_read(digits: Pictures, digits_model: Fitted) -> None:
    a = activations(digits_model, digits.take(range(5)), "network.net.first")
    assert a.shape[0] == 5
    assert a.shape[1] == 64
    model = fit(digits.take(range(120)), "vae", steps=2, settings={"width": 8, "latent": 4}, watch=False)
    assert activations(model, digits.take(range(5)), layers_of(model)[0]).shape[0] == 5


def test_wrong_wishes_are_refused(digits: Pictures, digits_model: Fitted) -> None:
    with pytest.raises(BadInput, match="layer is 'nowhere'"):
        concepts(digits_model, data=digits, layer="nowhere")
    with pytest.raises(BadInput, match="100 or more"):
        concepts(digits_model, data=digits, items=10)
    with pytest.raises(BadInput, match="no data"):
        concepts(replace(digits_model, data=None))
    with pytest.raises(BadInput, match="features"):
        learn_features(torch.zeros(3, 2), 8, 2)
    model = fit(digits.take(range(120)), "ngram")
    with pytest.raises(MissingCapability, match="reads no whole item"):
        concepts(model, data=digits)
