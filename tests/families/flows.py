"""What every normalizing flow owes: the change of variables with autograd's Jacobian, an inverse, a density, rows."""

from __future__ import annotations

import math

import pytest
import torch

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import Family
from pellucid.core.rows import Rows
from pellucid.core.space import Real
from pellucid.core.trace import Silent
from pellucid.families.reversible import FlowEngine, FlowHow
from tests.families.rowwise import CLASS, batch_of, stir


def double(space: Real, count: int) -> Batch:
    """Random rows in float64."""
    batch = batch_of(space, count)
    return Batch(batch.x.double(), batch.ids, batch.condition)


def built(space: Real, family: Family, amount: float) -> FlowEngine:
    """An engine in float64, prepared and then stirred, so that no step is the identity."""
    engine = family.build(space, CLASS, Rows(0, torch.arange(1))).double()
    assert isinstance(engine, FlowEngine)
    engine.prepare(double(space, 64))
    stir(engine, amount)
    return engine


def check_change_of_variables(engine: FlowEngine, batch: Batch) -> None:
    value = engine.log_prob(batch, Rows(0, batch.ids)).value
    for j in range(len(batch.x)):
        condition = batch.condition.take(slice(j, j + 1))
        jacobian = torch.func.jacrev(lambda x, c=condition: engine.encode(x[None], c)[0])(batch.x[j])
        z = engine.encode(batch.x[j : j + 1], condition)[0]
        expected = -0.5 * (z.square().sum() + len(z) * math.log(2 * math.pi))
        expected = expected + torch.linalg.slogdet(jacobian.reshape(len(z), len(z))).logabsdet
        torch.testing.assert_close(value[j], expected, rtol=1e-8, atol=1e-8)


def check_inverse(engine: FlowEngine, batch: Batch, tolerance: float = 1e-8) -> None:
    """Both ways round; from noise the way is longer, so ten times the tolerance."""
    z = engine.encode(batch.x, batch.condition)
    assert z.shape == (len(batch.x), *engine.latent().shape)
    torch.testing.assert_close(engine.decode(z, batch.condition), batch.x, rtol=tolerance, atol=tolerance)
    noise = Rows(5, torch.arange(len(batch.x))).normal(z[0].numel(), dtype=torch.float64).reshape(z.shape)
    x = engine.decode(noise, batch.condition)
    again = engine.encode(x, batch.condition)
    torch.testing.assert_close(again, noise, rtol=10 * tolerance, atol=10 * tolerance)


def check_density(engine: FlowEngine, space: Real, reach: float, points: int, tolerance: float) -> None:
    """The density sums to one on a lattice of so many points a side, from -reach to reach."""
    side = torch.linspace(-reach, reach, points, dtype=torch.float64)
    x = torch.cartesian_prod(*[side] * space.size).reshape(-1, *space.shape)
    with torch.no_grad():
        values = [
            engine.log_prob(Batch(part, torch.arange(len(part)), Condition()), Rows(0, torch.arange(len(part)))).value
            for part in x.split(20_000)
        ]
    total = torch.cat(values).exp().sum() * (2 * reach / (points - 1)) ** space.size
    assert float(total) == pytest.approx(1.0, abs=tolerance)


def check_samples(engine: FlowEngine, condition: Condition, tolerance: float = 1e-10) -> None:
    """A row drawn alone is the row drawn among others."""
    n = len(next(iter(condition.values.values())))
    rows, how = Rows(1, torch.arange(n)), FlowHow(0.8)
    x = engine.sample(rows, condition, how, Silent())
    cuts = [slice(j, j + 1) for j in range(n)]
    alone = [engine.sample(rows.take(cut), condition.take(cut), how, Silent()) for cut in cuts]
    torch.testing.assert_close(x, torch.cat(alone), rtol=tolerance, atol=tolerance)
