"""The gate: fakes are not green, planted truths are, each test fails for its own reason, and the words say so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pellucid.core.batch import Condition
from pellucid.core.capabilities import How, Predicts, Unmasks
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.interval import Interval
from pellucid.core.report import Verdict
from pellucid.core.rows import Rows
from pellucid.domains.frames import TableData
from pellucid.domains.pictures import Pictures
from pellucid.explain.bench.gate import measure
from pellucid.explain.bench.planted_answers import FAKES, WORLDS, fake_of, judged, oracle_of, seed_of
from pellucid.explain.faithfulness import Faithfulness
from pellucid.explain.gate import Attribution, judge, judge_check, not_judged, sign_flips
from pellucid.explain.infill import can_redraw, log_p_given, redrawn_around
from pellucid.explain.likeness import likeness
from pellucid.explain.randomising import randomised, relabelled, shuffled
from pellucid.model import Fitted

Floats = NDArray[np.float64]


@pytest.mark.parametrize("world", list(WORLDS))
def test_fakes_are_not_green_and_the_truth_is(world: str) -> None:
    for trial in range(2):
        for name in ("oracle", *FAKES):
            at = seed_of(world, name, trial)
            badge = judged(WORLDS[world](at), name, at)
            assert (badge.colour == "green") == (name == "oracle"), (name, trial, badge.tests)


def test_the_row_of_the_benchmark_counts_what_it_tried() -> None:
    found = measure(quick=True)
    assert found["oracles"][3] == found["fakes"][3] == sum(n for _, n in found["green"].values()) // 2 == 20
    assert found["met"]


class TestEachTestFailsForItsOwnReason:
    world = WORLDS["symbols"](3)

    def test_what_does_not_hear_the_model_is_amber(self) -> None:
        of = oracle_of(self.world, 0)
        badge = judge(replace(of, forgot=lambda copy: of.scores))
        assert (badge.colour, badge.of("reacts").passed) == ("amber", False)
        assert "does not speak of this one" in badge.sentence()

    def test_what_changes_with_the_seed_is_amber(self) -> None:
        of = oracle_of(self.world, 0)
        badge = judge(replace(of, again=lambda chance: np.random.default_rng(chance).normal(size=of.scores.shape)))
        assert (badge.colour, badge.of("stable").passed) == ("amber", False)
        assert "Asked again" in badge.sentence()

    def test_what_a_cheap_rival_says_as_well_is_red(self) -> None:
        of = oracle_of(self.world, 0)
        badge = judge(replace(of, rival=of.scores))
        assert badge.colour == "red"
        assert "no better than the nearest symbols" in badge.sentence()

    def test_what_is_said_of_the_wrong_item_is_not_green(self) -> None:
        badge = judge(fake_of(self.world, "another item", 1))
        assert badge.of("specific").passed is False
        assert badge.colour == "red"

    def test_one_order_for_all_items_is_not_held_against_it(self) -> None:
        """Where the same places decide for every item, what is said of another item is right here, too."""
        truth = np.zeros((8, 10))
        truth[:, 4] = 1.0
        of = replace(
            oracle_of(self.world, 0),
            scores=truth,
            rival=np.tile(np.arange(10.0), (8, 1)),
            value=lambda item, known: known[:, 4].astype(float),
            again=None,
            forgot=lambda copy: np.roll(truth, 1 + copy, axis=1),
        )
        badge = judge(of)
        assert badge.colour == "green"
        assert "the same of every item" in badge.of("specific").detail

    def test_a_flat_answer_is_red(self) -> None:
        of = oracle_of(self.world, 0)
        assert judge(replace(of, scores=np.zeros_like(of.scores))).colour == "red"

    def test_what_cannot_be_judged_says_why(self) -> None:
        of = oracle_of(self.world, 0)
        badge = judge(replace(of, value="Nothing can be redrawn here."))
        assert badge.colour == "not judged"
        assert badge.sentence() == "Not judged. Nothing can be redrawn here."
        few = judge(replace(of, scores=of.scores[:3], rival=of.rival[:3], again=None, forgot="No weights."))
        assert few.of("faithful").passed is None
        assert "too few" in few.sentence()
        assert judge(replace(of, forgot="It has no weights.")).colour == "amber"
        assert not_judged("No places.").colour == "not judged"

    def test_the_report_has_two_voices(self) -> None:
        first, second = judge(fake_of(self.world, "flipped sign", 0)).blocks()
        assert isinstance(first, Verdict)
        assert first.level == "fail"
        assert "do not rely" in first.text
        assert "p = " not in first.text
        assert "p = " in repr(second)
        assert judge(oracle_of(self.world, 0)).plain()["badge"] == "green"

    def test_wrong_wishes_are_refused(self) -> None:
        of = oracle_of(self.world, 0)
        with pytest.raises(BadInput, match="shapes"):
            replace(of, rival=of.rival[:, :3])
        with pytest.raises(BadInput, match="not finite"):
            replace(of, scores=np.full_like(of.scores, np.nan))
        with pytest.raises(BadInput, match="orders"):
            judge(of, orders=2)
        with pytest.raises(BadInput, match="no test 'brave'"):
            judge(of).of("brave")


def test_a_blind_answer_is_taken_for_a_faithful_one_as_seldom_as_is_said() -> None:
    """Random scores under effects with heavy tails: the test against random orders keeps its level of .01."""
    wrong, tried = 0, 200
    for trial in range(tried):
        random = np.random.default_rng(trial)
        effect = random.standard_cauchy((6, 9))
        of = replace(
            oracle_of(WORLDS["symbols"](0), 0),
            scores=random.normal(size=(6, 9)),
            rival=-effect,
            value=lambda item, known, e=effect: known @ e[item],  # type: ignore[misc]
            again=None,
            forgot="",
        )
        wrong += bool(judge(of).of("faithful").passed)
    assert wrong <= 7, f"{wrong} of {tried}"


class TestOwnChecks:
    good = Faithfulness("Does it hold?", Interval(0.97, 0.9, 0.99, 64), 1.0, Interval(0.1, 0.05, 0.2, 64), "a guess")
    bad = Faithfulness("Does it hold?", Interval(0.2, 0.1, 0.3, 64), 1.0, Interval(0.1, 0.05, 0.2, 64), "a guess")

    def test_a_check_that_holds_only_for_what_learned_is_green(self) -> None:
        assert judge_check(self.good, lambda: self.bad, lambda: self.good).colour == "green"
        assert judge_check(self.good, lambda: None, None).colour == "green"

    def test_a_check_that_holds_for_what_forgot_is_amber(self) -> None:
        badge = judge_check(self.good, lambda: self.good, None)
        assert badge.colour == "amber"
        assert badge.of("reacts").passed is False

    def test_a_check_that_fails_from_another_seed_is_amber(self) -> None:
        assert judge_check(self.good, lambda: self.bad, lambda: self.bad).of("stable").passed is False
        assert judge_check(self.good, lambda: self.bad, lambda: None).colour == "amber"

    def test_a_failed_check_is_red_and_a_missing_one_is_not_judged(self) -> None:
        assert judge_check(self.bad, lambda: self.bad, None).colour == "red"
        assert judge_check(None, "no weights", None).colour == "not judged"


class TestLikeness:
    def test_an_answer_is_like_itself_and_unlike_another(self) -> None:
        a, b = np.random.default_rng(0).normal(size=(2, 30, 49))
        assert likeness(a, a).tolist() == [1.0] * 30
        assert likeness(a, a * 3.0 + 1.0, shape=(7, 7)).min() == 1.0
        assert abs(float(likeness(a, b).mean())) < 0.15
        assert likeness(a, np.zeros_like(a), shape=(7, 7)).tolist() == [0.0] * 30

    def test_two_places_of_light_on_dark_ground_have_nothing_in_common(self) -> None:
        """What a structural similarity with constants would call nearly equal: both are dark almost everywhere."""
        a, b = np.zeros((2, 1, 144))
        a[0, [13, 14, 25, 26]] = 1.0
        b[0, [100, 101, 112, 113]] = 1.0
        assert float(likeness(a, b, shape=(12, 12))[0]) < 0.1

    def test_places_that_cannot_count_are_left_out(self) -> None:
        a, b = np.array([[1.0, 2.0, 3.0, 9.0]]), np.array([[1.0, 2.0, 3.0, -9.0]])
        assert float(likeness(a, b, np.array([[True, True, True, False]]))[0]) == 1.0
        with pytest.raises(BadInput, match="shapes"):
            likeness(a, b[:, :2])


def test_sign_flips_against_enumeration() -> None:
    assert sign_flips(np.ones(6)) == 1 / 64
    assert sign_flips(np.zeros(6)) == 1.0
    assert sign_flips(-np.ones(3)) == 1.0
    many = sign_flips(np.random.default_rng(0).normal(0.5, 1.0, 40))
    assert 0.0 < many < 0.05


def test_what_is_no_number_is_not_judged_and_items_need_places() -> None:
    scores = np.random.default_rng(0).normal(size=(8, 4))
    words: dict[str, Any] = {"what": "places", "scores": scores, "judged": "log-probability", "rival": scores[::-1]}
    words |= {"rival_name": "a rival", "again": None, "forgot": "there is none"}
    badge = judge(Attribution(value=lambda i, known: np.full(len(known), np.nan), **words))
    assert badge.colour == "not judged"
    assert "no number" in badge.sentence()
    allowed = np.ones((8, 4), bool)
    allowed[3] = False
    with pytest.raises(BadInput, match="no place that is allowed"):
        Attribution(value="none", allowed=allowed, **words)


class Listed(Unmasks, Predicts):
    """A table of probabilities over (3, 2, 4, 3) symbols, asked either way; all of it is sums over the table."""

    def __init__(self) -> None:
        table = torch.rand(3, 2, 4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** 3
        self.table = table / table.sum()

    def fill_logits(self, tokens: Tensor, known: Tensor, condition: Condition, at: int | None = None) -> Tensor:
        out = torch.full((len(tokens), 4, 4), -torch.inf, dtype=torch.float64)
        for m, (row, told) in enumerate(zip(tokens.tolist(), known.tolist(), strict=True)):
            part = self.table
            for axis in range(4):
                if told[axis]:
                    only = torch.zeros(part.shape[axis], dtype=torch.float64)
                    only[row[axis]] = 1.0
                    part = part * only.reshape([-1 if k == axis else 1 for k in range(4)])
            for axis in range(4):
                others = [k for k in range(4) if k != axis]
                out[m, axis, : self.table.shape[axis]] = part.sum(others).log()
        return out if at is None else out[:, at]

    def next_logits(self, tokens: Tensor, condition: Condition, at: int | None = None) -> Tensor:
        steps = [self.step(tokens[:, :0], tokens[:, :t])[0] for t in range(tokens.shape[1] + 1)]
        return torch.stack(steps, dim=1) if at is None else steps[at]

    def begin(self, condition: Condition, batch: int) -> Tensor:
        return torch.zeros(batch, 0, dtype=torch.int64)

    def step(self, cache: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        seen = torch.cat((cache, tokens), dim=1)
        t = seen.shape[1]
        padded = torch.nn.functional.pad(seen, (0, 4 - t))
        known = (torch.arange(4) < t).expand(len(seen), -1)
        last = torch.full((len(seen), 4), -torch.inf, dtype=torch.float64)
        return (self.fill_logits(padded, known, Condition())[:, t] if t < 4 else last), seen


class OnlyReads(Predicts):
    """The same table, of which only the beginning can be told."""

    def __init__(self, of: Listed) -> None:
        self.of = of

    def next_logits(self, tokens: Tensor, condition: Condition, at: int | None = None) -> Tensor:
        return self.of.next_logits(tokens, condition, at)

    def begin(self, condition: Condition, batch: int) -> Tensor:
        return self.of.begin(condition, batch)

    def step(self, cache: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self.of.step(cache, tokens)


class TestInfill:
    def test_a_reader_is_told_any_part_by_weighing_its_draws(self) -> None:
        """Likelihood weighting against the sums over the table, for every set of known symbols."""
        engine, tokens = Listed(), torch.tensor([[2, 1, 3, 0]])
        known = torch.tensor([[bool(m >> k & 1) for k in range(4)] for m in range(8)])
        exact = log_p_given(engine, tokens, Condition(), 3, known, Rows(0, torch.arange(1)))
        found = log_p_given(OnlyReads(engine), tokens, Condition(), 3, known, Rows(0, torch.arange(1500)))
        assert float((exact - found).abs().max()) < 0.15
        assert float((exact - found)[7].abs()) < 1e-9, "where all is known nothing is drawn"

    def test_known_places_stay(self) -> None:
        engine, tokens = Listed(), torch.tensor([[2, 1, 3, 0]])
        known = torch.tensor([[True, False, True, False]]).expand(600, -1)
        drawn = redrawn_around(engine, tokens, known, Condition(), How(), Rows(0, torch.arange(600)))
        assert bool((drawn[:, [0, 2]] == tokens[:, [0, 2]]).all())
        assert len(drawn[:, 3].unique()) == 3
        with pytest.raises(MissingCapability, match="neither Unmasks nor Denoises"):
            redrawn_around(OnlyReads(engine), tokens, known, Condition(), How(), Rows(0, torch.arange(600)))
        assert can_redraw(engine) == ""


class TestForgetting:
    def test_numbers_stay_and_their_order_goes(self, digits_model: Fitted) -> None:
        twin = randomised(digits_model, seed=3)
        one, two = digits_model.engine.state_dict(), twin.engine.state_dict()
        learned = {name for name, p in digits_model.engine.named_parameters() if p.requires_grad}
        for name in learned:
            torch.testing.assert_close(one[name].flatten().sort().values, two[name].flatten().sort().values)
        assert any(not torch.equal(one[name], two[name]) for name in learned)
        for name in set(one) - learned:
            assert torch.equal(one[name], two[name]), "what preparing saw is no memory"

    def test_a_cascade_starts_at_the_output(self) -> None:
        net = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))
        half = shuffled(net, share=0.5)
        same = [torch.equal(a, b) for a, b in zip(net.parameters(), half.parameters(), strict=True)]
        assert same[:4] == [True] * 4
        assert not any(same[4:])
        assert net.training, "the model itself is left alone"

    def test_what_counts_has_nothing_to_forget(self) -> None:
        with pytest.raises(MissingCapability, match="no weights"):
            shuffled(nn.Module())
        with pytest.raises(BadInput, match="share"):
            shuffled(nn.Linear(2, 2), share=0.0)

    def test_a_model_of_wrong_labels_is_trained_anew(
        self, digits: Pictures, digits_model: Fitted, people: TableData, people_model: Fitted
    ) -> None:
        short = replace(digits_model, recipe={**digits_model.recipe, "steps": 3, "steps_done": 3})
        found = relabelled(short, digits.take(range(120)))
        assert found.codec is digits_model.codec
        assert found.engine is not digits_model.engine
        with pytest.raises(MissingCapability, match="told nothing"):
            relabelled(people_model, people)
