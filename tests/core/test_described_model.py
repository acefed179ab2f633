"""A fitted model says which other models it was made with, and by which objective."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import nn

from pellucid.core.described_model import described
from pellucid.domains.bridges.dequantise import Dequantise
from pellucid.domains.images import Images
from pellucid.domains.pictures import Pictures

BASE = {"family": "diffusion", "weights": "0123456789abcdef", "adapt": {"how": "lora", "rank": 4, "alpha": 8.0}}
LAST = {**BASE, "adapt": {"how": "last", "share": 0.25, "rank": 4}}
OBJECTIVE = {"name": "few_steps", "settings": {"steps": 4}}


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({}, {}),
        ({"base": None, "through": None, "objective": None}, {}),
        (
            {"base": BASE},
            {"goes on from": "a model of family diffusion (0123456789ab), adapted: lora, rank 4, alpha 8"},
        ),
        ({"base": LAST}, {"goes on from": "a model of family diffusion (0123456789ab), adapted: last, share 0.25"}),
        ({"through": {"family": "vq"}}, {"learned through": "the latent space of a model of family vq"}),
        ({"objective": OBJECTIVE}, {"trained by": 'few_steps {"steps": 4}'}),
    ],
    ids=["nothing", "none", "lora", "last", "through", "objective"],
)
def test_other_models_are_named(recipe: dict[str, Any], said: dict[str, str]) -> None:
    codec = Images().learn(Pictures(pixels=np.arange(64, dtype=np.uint8).reshape(4, 4, 4, 1)))
    facts = dict(described("half", None, nn.Linear(2, 2), codec, Dequantise(codec.space), recipe).facts)
    assert {k: facts[k] for k in ("goes on from", "learned through", "trained by") if k in facts} == said
