"""Maps of words and conditions: a planted truth is found, attention rebuilds what it made, and red is shown as red."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pellucid.core.batch import Condition
from pellucid.core.capabilities import How, Samples
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.report import Verdict
from pellucid.core.rows import Rows
from pellucid.core.trace import Trace
from pellucid.domains.frames import TableData
from pellucid.domains.images import Images
from pellucid.domains.pictures import Pictures
from pellucid.domains.teaching.shapes import shapes
from pellucid.explain.ablation import ablate, agreement, changes_of, different, overlap, region
from pellucid.explain.attention import attention
from pellucid.explain.looking import cross_sites, grid_of_places, head_maps, looking, maps_of, sites_of
from pellucid.explain.named import words_for
from pellucid.explain.redraw import redrawn, told
from pellucid.families.flow_matching import FlowMatching
from pellucid.fitting import fit
from pellucid.model import Data, Fitted, adopt

SIDE = 8


@dataclass(frozen=True)
class NoHow(How):
    """Nothing to set."""


class Lamps(nn.Module, Samples):
    """A square of 2 x 2 pixels for each of four classes, at a place that class and noise decide; noise elsewhere."""

    def settings(self) -> How:
        return NoHow()

    def corner(self, rows: Rows, label: Tensor) -> Tensor:
        """(B, 2): row and column of the lamp, in the class's own quarter of the picture."""
        return rows.fork("corner").integers(3, 2) + torch.stack((label // 2, label % 2), dim=-1) * (SIDE // 2)

    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        x = 0.02 * rows.fork("ground").uniform(1, SIDE, SIDE) - 1.0
        for i, (r, c) in enumerate(self.corner(rows, condition.values["class"].flatten()).tolist()):
            x[i, :, r : r + 2, c : c + 2] = 1.0
        return x


@pytest.fixture(scope="module")
def lamps() -> Fitted:
    pixels = np.zeros((8, SIDE, SIDE, 1), np.uint8)
    return adopt(Lamps(), Images().learn(Pictures(pixels=pixels, labels=tuple("abcd" * 2))))


@pytest.fixture(scope="module")
def captions() -> Fitted:
    data = shapes(300, 0, size=8).captioned()
    model = fit(data, FlowMatching(width=8, depth=1), steps=30, held_out=0.1)
    for site in cross_sites(model.engine).values():  # a short training leaves it near zero
        nn.init.normal_(site.out.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    return model


def pixels_of(items: Data) -> NDArray[np.uint8]:
    assert isinstance(items, Pictures)
    return items.pixels


def test_a_planted_place_is_found_exactly(lamps: Fitted) -> None:
    for index, label in enumerate("abcdabcd"):
        found = ablate(lamps, 3, [index], lamps.codec.asked({"class": label}, 1), lamps.how())
        truth = np.asarray(pixels_of(found.own)[0, :, :, 0] > 200)
        assert truth.sum() == 4
        assert overlap(region(found.maps()[0]), truth) == 1.0, "the other classes' lamps are not the work of this one"


def test_the_planted_report_is_green_and_names_the_class(lamps: Fitted) -> None:
    report = attention(lamps, seed=1, index=2, where={"class": "c"})
    assert report.route == "ablation alone"
    assert report.check is not None
    assert report.check.passed
    assert report.parts == ("class = c",)
    assert report.moved[0].low <= 4 / SIDE**2 <= report.moved[0].high
    text = report.to_text()
    for word in ("class = c", "changes 6%", "ablation alone", "no attention to words", "seed, sample"):
        assert word in text, word
    assert report.to_html()
    assert report.to_markdown()
    assert '"faithful"' in report.to_json()


def test_noise_that_hears_nothing_is_shown_in_red() -> None:
    """Each class is other noise, so that one change says nothing of where the next one acts."""

    class Deaf(Lamps):
        def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
            each = [rows.fork(f"noise {k}").normal(1, SIDE, SIDE) for k in range(4)]
            return torch.stack(each)[condition.values["class"].flatten(), torch.arange(len(rows))]

    pixels = np.zeros((8, SIDE, SIDE, 1), np.uint8)
    model = adopt(Deaf(), Images().learn(Pictures(pixels=pixels, labels=tuple("abcd" * 2))))
    report = attention(model, where={"class": "a"})
    assert report.check is not None
    assert not report.check.passed
    assert any(isinstance(b, Verdict) and b.level == "fail" for b in report.blocks())


def test_redrawn_is_the_sample(digits_model: Fitted) -> None:
    draw = digits_model.sample(4, seed=2, where={"class": "3"})
    items, x = redrawn(digits_model, 2, draw.ids, draw.condition, draw.how)
    assert torch.equal(x, draw.x)
    assert np.array_equal(pixels_of(items), pixels_of(draw.items))
    subject = told(digits_model, 2, 3, {"class": "3"}, None)
    assert subject.given == {"class": "3"} == words_for(digits_model, draw.condition, 3)
    assert np.array_equal(pixels_of(subject.items)[0], pixels_of(draw.items)[3])


def test_a_class_is_changed_to_every_other(digits_model: Fitted) -> None:
    (changes,) = changes_of(digits_model, digits_model.codec.asked({"class": "3"}, 1))
    assert {c.now for c in changes} == set("012456789")
    report = attention(digits_model, where={"class": "0"}, samples=6)
    assert report.check is not None
    assert report.route == "ablation alone"
    assert report.moved[0].value > 0.1


class TestWords:
    def test_words_are_changed_to_words_of_the_same_place(self, captions: Fitted) -> None:
        condition = captions.codec.asked({"caption": "a small red circle at the top left"}, 1)
        groups = {g[0].part: {c.now for c in g} for g in changes_of(captions, condition, most=9)}
        assert groups["red"] == {"green", "blue", "yellow"}
        assert groups["circle"] == {"square", "triangle", "cross"}
        assert groups["small"] == {"large", ""}, "one other word only: it is left out as well"
        assert groups["the"] == {""}

    def test_attention_rebuilds_the_output_and_changes_nothing(self, captions: Fitted) -> None:
        condition = captions.codec.asked({"caption": "a red cross at the top"}, 1).repeat(3)
        ids = torch.tensor([0, 1, 2])
        _, plain = redrawn(captions, 4, ids, condition, captions.how())
        with looking(captions.engine, rows=3) as looks:
            _, watched = redrawn(captions, 4, ids, condition, captions.how())
        assert torch.equal(plain, watched)
        assert looks.largest < 1e-6
        (site,) = sites_of(captions.engine)
        weights = looks.weights[site.name][0]
        assert weights.shape[:2] == (3, site.heads)
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
        assert bool((weights[..., 6:] == 0).all()), "the caption has six words; what pads it is not seen"
        assert looks.calls == captions.how().steps  # type: ignore[attr-defined]
        assert not any(m._forward_hooks for m in cross_sites(captions.engine).values())

    def test_wrong_weights_do_not_rebuild_it(self, captions: Fitted) -> None:
        site = next(iter(cross_sites(captions.engine).values()))
        condition = captions.codec.asked({"caption": "a red cross at the top"}, 1)
        handle = site.register_forward_hook(lambda m, a, out: out + 0.05 * out.abs().mean())
        with looking(captions.engine) as looks:
            redrawn(captions, 4, torch.tensor([0]), condition, captions.how())
        handle.remove()
        assert looks.largest > 1e-3

    def test_maps_share_out_what_was_brought(self, captions: Fitted) -> None:
        condition = captions.codec.asked({"caption": "a red cross at the top"}, 1)
        with looking(captions.engine) as looks:
            redrawn(captions, 4, torch.tensor([0]), condition, captions.how())
        maps = maps_of(looks, (8, 8))
        assert maps.shape == (1, 8, 8, 8)
        pieces = head_maps(looks, (8, 8))
        assert pieces.shape[2] == 4 * sites_of(captions.engine)[0].heads
        live = pieces[0, :6].std(dim=(-2, -1), unbiased=False)
        torch.testing.assert_close(live, torch.ones_like(live), atol=1e-3, rtol=0.0)

    def test_the_report_shows_both_with_their_agreement(self, captions: Fitted) -> None:
        report = attention(captions, where={"caption": "a red cross at the top"}, samples=3)
        assert report.route == "ablation and cross-attention"
        assert report.parts == ("a", "red", "cross", "at", "the", "top")
        assert report.attention is not None
        assert all(-1 <= r <= 1 for r in report.rank)
        text = report.to_text()
        for word in ("2210.04885", "rank agreement", "rebuilding", "another sample's attention"):
            assert word in text, word


class TestTables:
    def test_the_column_that_hangs_on_the_target_moves(self, people: TableData) -> None:
        from dataclasses import replace

        data = replace(people, target="group")
        model = fit(data, FlowMatching(width=64, depth=2), steps=300, held_out=0.2)
        found = ablate(model, 0, range(20), model.codec.asked({"group": "a"}, 1), model.how(), data=data)
        moved = dict(zip((c.name for c in data.columns), found.maps(0)[0], strict=True))
        assert found.each[0].shape == (2, 20, 3)
        assert moved["height"] > 4 * moved["weight"]
        report = attention(model, data=data, where={"group": "a"}, samples=20)
        assert "group = a" in report.to_text()
        assert report.unit == "the columns"


def test_agreement_and_overlap() -> None:
    assert agreement(np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0])) == -1.0
    assert agreement(np.ones(3), np.arange(3.0)) == 0.0
    assert overlap(np.zeros(3, bool), np.zeros(3, bool)) == 0.0
    assert grid_of_places(12, (9, 16)) == (3, 4)


def test_wrong_wishes_are_refused(digits: Pictures, digits_model: Fitted, people_model: Fitted) -> None:
    with pytest.raises(BadInput, match="samples"):
        attention(digits_model, samples=1)
    with pytest.raises(BadInput, match="index"):
        attention(digits_model, index=-1)
    with pytest.raises(MissingCapability, match="nothing"):
        attention(people_model)
    with pytest.raises(MissingCapability, match="looks at no words"), looking(digits_model.engine):
        raise AssertionError("it must not get here")
    with pytest.raises(MissingCapability, match="no places"):
        different("abc", "abd")  # type: ignore[arg-type]
