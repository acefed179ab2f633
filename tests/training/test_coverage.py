"""Coverage: silent over models that make every kind of item, loud over one that has collapsed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pellucid.core.batch import Condition, Examples, TensorExamples
from pellucid.core.capabilities import How, Samples
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.rows import Rows
from pellucid.core.run import Alarmed, Event, Measured, Run
from pellucid.core.space import Field, Mixed, Real, Tokens
from pellucid.core.trace import Trace
from pellucid.domains.teaching.mixtures import mixture_table, ring
from pellucid.families.gan import GAN
from pellucid.fitting import fit
from pellucid.training.balance import Balance
from pellucid.training.coverage import Coverage, k_means, nearest
from pellucid.training.loop import train
from pellucid.training.watch import Seen, rows_of
from tests.training.toys import Tally


def points(n: int, seed: int, modes: int = 8) -> Tensor:
    """(n, 2) points of the first modes of eight Gaussians on a ring."""
    drawn = ring(8).sample(Rows(seed, torch.arange(10 * n)))
    return drawn.x[drawn.component < modes][:n].float()


class Modes(nn.Module, Samples):
    """Draws from some of the eight Gaussians."""

    def __init__(self, modes: int) -> None:
        super().__init__()
        self.modes = modes

    def settings(self) -> How:
        return How()

    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        which = rows.fork("mode").integers(self.modes)
        return ring(8).means[which].float() + 0.2 * rows.normal(2)


def seen(engine: nn.Module, events: list[Event], step: int = 40, seed: int = 0) -> Seen:
    known, aside = TensorExamples(points(900, 1)), TensorExamples(points(300, 2))
    return Seen(engine, step, 40, seed, known, aside, None, Run(listeners=[events.append]))


def alarms(events: list[Event]) -> list[Alarmed]:
    return [e for e in events if isinstance(e, Alarmed) and e.topic == "collapse"]


def test_a_model_of_all_kinds_is_not_suspected() -> None:
    for seed in range(6):
        events: list[Event] = []
        Coverage().look(seen(Modes(8), events, seed=seed))
        (told,) = events
        assert isinstance(told, Measured)
        assert told.topic == "coverage"
        assert 0.9 < told.values["ratio"] < 1.1


@pytest.mark.parametrize("modes", [1, 2, 4])
def test_a_collapsed_model_is_named(modes: int) -> None:
    for seed in range(3):
        events: list[Event] = []
        Coverage().look(seen(Modes(modes), events, seed=seed))
        (alarm,) = alarms(events)
        assert alarm.step == 40
        assert "collapsed" in alarm.text


def test_early_in_training_only_a_collapse_to_very_few_is_named() -> None:
    for modes, expected in ((1, 1), (5, 0)):
        events: list[Event] = []
        Coverage().look(seen(Modes(modes), events, step=10))
        assert len(alarms(events)) == expected


def test_what_real_items_would_hit_is_what_they_hit() -> None:
    """The expectation in closed form against draws of held-out rows."""
    watch, view = Coverage(clusters=30), seen(Modes(8), [])
    found = watch.measure(view)
    known = rows_of(view.examples, 900, view, "known").x
    spread = known.std(0, correction=0)
    centres = k_means(known / spread, 30, Rows(0, torch.zeros(1, dtype=torch.int64)).fork("clusters"))
    homes = nearest(points(300, 2) / spread, centres)
    hits = [len(homes[Rows(seed, torch.arange(192)).integers(300)].unique()) / 30 for seed in range(200)]
    assert found.real == pytest.approx(sum(hits) / 200, abs=0.01)


def test_k_means_finds_clusters_that_are_apart() -> None:
    x = points(800, 3)
    centres = k_means(x, 8, Rows(5, torch.arange(1)))
    gap = torch.cdist(ring(8).means.float(), centres).min(1).values
    assert (gap < 0.1).all()
    assert len(k_means(x[:1], 1, Rows(0, torch.arange(1)))) == 1


def test_symbols_and_pictures_have_features() -> None:
    space = Mixed((Field("size", Real((1,))), Field("kind", Tokens(4, 1))))
    watch = Coverage(space=space)
    x = torch.tensor([[0.1, 0.0], [0.1, 1.0], [0.1, 1.0]])
    features = watch._features(x, watch._spread(x))
    assert torch.equal(features[1], features[2])
    assert (features[0] - features[1]).norm() > 0.5, "another symbol is another direction"
    pictures = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    projected = Coverage(space=Real((1, 8, 8)))._features(pictures, None)
    assert projected.shape == (5, 32)
    near, far = torch.pdist(projected), torch.pdist(pictures.flatten(1))
    assert ((near / far) > 0.5).all()
    assert ((near / far) < 1.6).all()


def test_samples_that_are_no_numbers_reach_nothing() -> None:
    class Broken(Modes):
        def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
            return torch.full((len(rows), 2), torch.nan)

    events: list[Event] = []
    Coverage().look(seen(Broken(1), events))
    assert len(alarms(events)) == 1


def test_time_bounds_the_look_and_what_it_needs_is_said() -> None:
    assert Coverage().look(replace(seen(Modes(8), []), seconds=0.0)) is not None
    with pytest.raises(MissingCapability, match="Tally does not draw"):
        Coverage().measure(seen(Tally(), []))
    with pytest.raises(BadInput, match="no rows were held out"):
        Coverage().measure(replace(seen(Modes(8), []), held_out=None))
    with pytest.raises(BadInput):
        Coverage(threshold=1.0)
    with pytest.raises(MissingCapability, match="no two players"):
        Balance().look(seen(Modes(8), []))
    with pytest.raises(BadInput):
        Balance(looks=0)


def trained(cripple: bool) -> list[Event]:
    """What was told while a small GAN learned the eight Gaussians."""
    events: list[Event] = []
    rows = Rows(0, torch.arange(1))
    family = GAN(latent=4, width=32, depth=1)
    engine = family.build(Real((2,)), {}, rows)
    examples: Examples = TensorExamples(points(1500, 1))
    settings = replace(family.training(Real((2,)), 1500), batch=128, rate=3e-3, ema=0.99)
    if cripple:  # the noise does not reach the generator, so it has one item to make
        first = dict(engine.generator.named_parameters())["first.weight"]
        with torch.no_grad():
            first.zero_()
        first.register_hook(torch.zeros_like)
    train(
        engine,
        examples,
        settings=settings,
        steps=400,
        seed=0,
        run=Run(listeners=[events.append]),
        held_out=TensorExamples(points(300, 2)),
        watch=[Balance(looks=4), Coverage(looks=4)],
    )
    return events


def test_a_planted_collapse_raises_the_alarm_and_a_healthy_run_does_not() -> None:
    healthy, broken = trained(cripple=False), trained(cripple=True)
    assert alarms(healthy) == []
    assert len(alarms(broken)) >= 2
    last = [e for e in healthy if isinstance(e, Measured) and e.topic == "coverage"][-1]
    assert last.step == 400
    assert last.values["ratio"] > 0.75
    told = [e for e in healthy if isinstance(e, Measured) and e.topic == "balance"]
    assert [e.step for e in told] == [100, 200, 300, 400]
    assert all(0.0 <= e.values["accuracy"] <= 1.0 and set(e.values) == {"real", "fake", "accuracy"} for e in told)


def test_a_fit_watches_coverage_and_balance_unless_told_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pellucid.fitting.SHARE", math.inf)  # else a fit so short earns no time to look
    data = mixture_table(400, seed=1).data
    for watch in (True, False):
        events: list[Event] = []
        fit(data, GAN(latent=3, width=8), steps=12, watch=watch, run=Run(listeners=[events.append]), seed=3)
        topics = {e.topic for e in events if isinstance(e, Measured)}
        assert topics == ({"balance", "coverage"} if watch else set())
