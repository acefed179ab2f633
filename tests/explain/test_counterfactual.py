"""What would have made it different: known causes give known effects, edits flip, and red is shown as red."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from pellucid.core.batch import Condition
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.report import Verdict
from pellucid.core.rows import Rows
from pellucid.domains.frames import TableData
from pellucid.domains.pictures import Pictures
from pellucid.domains.teaching.causal import CausalTable, causal_table
from pellucid.domains.teaching.shapes import Thing, draw_things
from pellucid.explain.counterfactual import counterfactual, paired_effects
from pellucid.explain.factors import Factors, factors_for
from pellucid.explain.flipping import smallest_flips
from pellucid.explain.redraw import redrawn
from pellucid.families.flow_matching import FlowMatching
from pellucid.fitting import fit
from pellucid.model import Fitted
from pellucid.solvers.denoiser import Denoiser


@pytest.fixture(scope="module")
def linear() -> CausalTable:
    return causal_table("linear", n=1500, seed=1)


@pytest.fixture(scope="module")
def linear_model(linear: CausalTable) -> Fitted:
    """Told x, which causes m and y and is caused by nothing: here a request is an intervention."""
    return fit(replace(linear.data, target="x"), FlowMatching(width=64, depth=2), steps=500, held_out=0.1)


class TestPairs:
    def test_the_effect_of_a_cause_is_as_well_known_as_an_oracle_knows_it(
        self, linear: CausalTable, linear_model: Fitted
    ) -> None:
        """Root mean square error of 12 effects of x on m and y, against an oracle that draws as many rows of the
        true graph on each side, but cannot keep their noise."""
        pairs = 64
        wrong, oracle = [], []
        for k, (low, high) in enumerate([(-1.0, 1.0), (0.0, 1.0), (-1.0, 0.0), (-0.5, 1.5), (0.5, -0.5), (1.0, -1.5)]):
            ids = torch.arange(pairs) + pairs * k
            sides = []
            for value in (low, high):
                condition = linear_model.codec.asked({"x": value}, 1).repeat(pairs)
                items, _ = redrawn(linear_model, 0, ids, condition, linear_model.how())
                assert isinstance(items, TableData)
                sides.append(items.frame)
            fresh = [
                linear.graph.evaluate(linear.graph.noise(Rows(9 + side, ids)), {"x": value})
                for side, value in enumerate((low, high))
            ]
            for name, slope in (("m", 0.5), ("y", 1.1)):
                truth = slope * (high - low)
                wrong.append(float((sides[1][name] - sides[0][name]).mean()) - truth)
                oracle.append(float((fresh[1][name] - fresh[0][name]).mean()) - truth)
        assert np.sqrt(np.square(wrong).mean()) <= 1.1 * np.sqrt(np.square(oracle).mean())

    def test_the_report_names_the_strongest_effect(self, linear: CausalTable, linear_model: Fitted) -> None:
        report = counterfactual(
            linear_model, data=linear.data, where={"x": -1.0}, instead={"x": 1.0}, column="y", pairs=32, edited=4
        )
        effects = {e.factor: e for e in report.effects}
        assert effects["y"].value.value == pytest.approx(2.2, abs=0.35)
        assert effects["m"].value.value == pytest.approx(1.0, abs=0.25)
        assert effects["y"].decided
        assert effects["y"].shared > 0.8, "the noise of a pair means the same"
        text = report.to_text()
        for word in ("instead of", "pairing", "network evaluations", "what causes what"):
            assert word in text, word

    def test_equal_pairs_have_no_effect(self) -> None:
        values = np.random.default_rng(0).normal(size=(40, 2))
        factors = Factors(("a", "b"), lambda items: values, np.ones(2))
        assert all(not e.decided and e.value.value == 0.0 for e in paired_effects(values, values, factors))
        moved = values + np.array([0.0, 0.5])
        first, second = paired_effects(values, moved, factors)
        assert (first.factor, round(first.value.value, 9), first.shared) == ("b", 0.5, 1.0)
        assert second.value.value == 0.0

    def test_digits_become_what_was_asked_instead(self, digits: Pictures, digits_model: Fitted) -> None:
        report = counterfactual(digits_model, data=digits, where={"class": "0"}, instead={"class": "1"}, edited=6)
        assert report.pairs_check is not None
        assert report.pairs_check.score.value >= 0.8
        assert report.route == "pairs of equal noise and partial noising"
        assert report.to == "1"
        assert report.flips is not None
        assert report.noise is not None
        assert report.edit_check is not None
        assert report.edit_check.score.value > report.edit_check.baseline.value
        assert report.to_html()
        assert '"edit_noise"' in report.to_json()

    def test_a_model_that_ignores_the_request_is_shown_in_red(self, digits: Pictures) -> None:
        model = fit(digits.take(range(300)), FlowMatching(width=8, depth=1), steps=1, held_out=0.1)
        report = counterfactual(model, data=digits, where={"class": "0"}, instead={"class": "1"}, pairs=16, edited=2)
        assert report.pairs_check is not None
        assert not report.pairs_check.passed
        assert any(isinstance(b, Verdict) and b.level == "fail" for b in report.blocks())


class TestFlips:
    @staticmethod
    def guide(condition: Condition, rows: Rows) -> Denoiser:
        """The exact denoiser of two points, -1 and 1, asked for 1 with a push: D = tanh((x + sigma) / sigma^2)."""
        return lambda x, sigma: torch.tanh((x + sigma[:, None]) / sigma[:, None].square())

    @staticmethod
    def flipped(y: Tensor, source: Tensor) -> Tensor:
        return y[:, 0] > 0

    def test_the_smallest_noise_is_found(self) -> None:
        x = torch.full((20, 1), -1.0, dtype=torch.float64)
        levels = np.geomspace(0.1, 10.0, 12).tolist()
        rows = Rows(0, torch.arange(20))
        found = smallest_flips(self.guide, self.flipped, x, Condition(), levels, rows, branches=8, every=True)
        shares = [s.value for s in found.shares]
        assert shares[0] == 0.0
        assert shares[-1] > 0.6
        assert bool((found.at < len(levels)).all())
        assert bool((found.edits > 0).all())
        again = smallest_flips(self.guide, self.flipped, x, Condition(), levels, rows, branches=8)
        assert torch.equal(again.at, found.at), "trying all levels changes no answer"
        assert again.evaluations < found.evaluations

    def test_a_row_does_not_depend_on_the_others(self) -> None:
        x = torch.full((5, 1), -1.0, dtype=torch.float64)
        rows, levels = Rows(3, torch.arange(5)), [0.3, 1.0, 3.0]
        all_ = smallest_flips(self.guide, self.flipped, x, Condition(), levels, rows)
        one = smallest_flips(self.guide, self.flipped, x[2:3], Condition(), levels, rows.take(slice(2, 3)))
        torch.testing.assert_close(one.edits[0], all_.edits[2])
        assert int(one.at[0]) == int(all_.at[2])

    def test_what_never_flips_is_said(self) -> None:
        x = torch.full((2, 1), -1.0, dtype=torch.float64)
        never = lambda y, source: torch.zeros(len(y), dtype=torch.bool)  # noqa: E731
        found = smallest_flips(self.guide, never, x, Condition(), [0.5, 1.0], Rows(0, torch.arange(2)))
        assert found.at.tolist() == [2, 2]
        assert torch.equal(found.edits, x)
        with pytest.raises(BadInput, match="branches"):
            smallest_flips(self.guide, never, x, Condition(), [0.5], Rows(0, torch.arange(2)), branches=0)

    def test_a_model_told_nothing_is_edited_only(self, people: TableData, people_model: Fitted) -> None:
        report = counterfactual(people_model, data=people, column="group", edited=4)
        assert report.route == "partial noising"
        assert not report.effects
        assert "told nothing" in report.to_text()


class TestFactors:
    def test_moments_of_a_picture_are_the_things_own(self) -> None:
        """Place, size and colour of generated shapes are read back."""
        steps = np.linspace(0.3, 0.7, 9)
        things = [[Thing(form="circle", colour="red", size="small", x=float(u), y=0.5)] for u in steps]
        pixels, _ = draw_things(things, 32)
        data = Pictures(pixels=pixels)
        factors = factors_for(data)
        found = dict(zip(factors.names, factors.measure(data).T, strict=True))
        assert np.abs(found["place across"] - steps).max() < 0.02
        assert np.abs(found["place down"] - 0.5).max() < 0.01
        assert bool((found["redness"] > 0.4).all())
        assert float(np.ptp(found["size"])) < 0.02

    def test_a_sheared_bar_is_slanted(self) -> None:
        pixels = np.zeros((2, 12, 12, 1), np.uint8)
        for y in range(2, 10):
            pixels[0, y, 5:7] = 255
            pixels[1, y, 9 - y // 2 : 11 - y // 2] = 255
        slant = factors_for(Pictures(pixels=pixels)).measure(Pictures(pixels=pixels))[:, 7]
        assert slant[0] == pytest.approx(0.0, abs=1e-9)
        assert slant[1] == pytest.approx(0.5, abs=0.1)

    def test_columns_are_read(self, people: TableData) -> None:
        factors = factors_for(people)
        assert factors.names == ("group = a", "group = b", "group = c", "height", "weight") or set(factors.names) == {
            "group = a",
            "group = b",
            "group = c",
            "height",
            "weight",
        }
        assert factors.measure(people).shape == (600, 5)
        with pytest.raises(MissingCapability, match="no simple factors"):
            factors_for("text")  # type: ignore[arg-type]


def test_wrong_wishes_are_refused(digits: Pictures, digits_model: Fitted) -> None:
    with pytest.raises(BadInput, match="pairs"):
        counterfactual(digits_model, data=digits, pairs=2)
    with pytest.raises(BadInput, match="to is 'x'"):
        counterfactual(digits_model, data=digits, where={"class": "0"}, to="x", pairs=8, edited=2)
    with pytest.raises(BadInput, match="no data"):
        counterfactual(replace(digits_model, data=None))
