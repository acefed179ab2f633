"""The public laws: families without a flaw keep all of them, and every planted flaw is caught by the law it breaks."""

from __future__ import annotations

import ast
import inspect

import pytest
import torch

from pellucid.core.capabilities import CAPABILITIES, Family
from pellucid.core.errors import BadInput
from pellucid.core.space import Field, Mixed, Real, Space, Tokens
from pellucid.testing import LawBroken, Subject, check_family, laws
from pellucid.testing.scoring import visit
from pellucid.testing.subject import SPACES, conditions_for, made_up
from tests.testing import flawed
from tests.testing.flawed import Bell, Line, Pairs

FLAWS: dict[type[flawed.Toy], dict[str, str]] = {
    Bell: {
        "no parts": "tells_its_parts",
        "curt refusal": "answers_for_every_space",
        "error without words": "odd_settings_are_refused_in_words",
        "builds from the global generator": "first_weights_come_from_rows",
        "forgets its base": "building_on_a_base_takes_its_weights",
        "forgets what it prepared": "preparing_is_kept_with_the_weights",
        "divides by zero": "preparing_survives_odd_rows",
        "rows leak": "losses_ignore_other_rows",
        "batch norm": "losses_ignore_other_rows",
        "one loss a batch": "an_engine_can_be_fitted",
        "climbs": "losses_go_down",
        "reads what is not given": "samples_do_not_read_what_is_not_given",
        "mixes conditions": "rows_may_be_given_different_conditions",
        "noise of the place": "samples_ignore_the_batch_size",
        "normalises the batch": "samples_ignore_the_batch_size",
        "global noise": "samples_follow_the_seed",
        "moves when traced": "traces_change_nothing",
        "too likely": "probabilities_sum_to_one",
        "noisy exact value": "exact_probabilities_draw_nothing",
        "estimate without error": "log_probabilities_say_what_they_are",
        "encodes with its own noise": "encoding_draws_only_from_rows",
        "decodes wrongly": "an_exact_map_is_undone",
        "one noise level": "denoising_gives_events",
        "rising noise": "noise_levels_fall",
    },
    Line: {
        "sees the future": "the_future_is_not_seen",
        "forgets its cache": "cached_steps_equal_the_full_pass",
        "goes on after the end": "an_end_is_final",
        "any symbol anywhere": "symbols_a_position_lacks_are_impossible",
        "leaves a symbol out": "probabilities_follow_the_symbols",
        "attends by half": "attention_is_shared_out",
    },
    Pairs: {
        "later shards weigh more": "counting_ignores_order",
        "counts into what it was given": "restored_counts_are_a_copy",
        "restores wrongly": "counting_goes_on_from_a_checkpoint",
        "reads what is unknown": "filling_reads_only_what_is_known",
    },
}
PLANTED = [(family, flaw, law) for family, flaws in FLAWS.items() for flaw, law in flaws.items()]
WHERE: dict[str, Space] = {
    "goes on after the end": Tokens(3, 4, ends=True),
    "any symbol anywhere": Tokens((2, 5, 3), 3),
}


@pytest.mark.parametrize("family", [Bell(), Line(), Pairs()], ids=lambda family: family.name)
def test_a_family_without_a_flaw_keeps_every_law(family: Family) -> None:
    check_family(family)


@pytest.mark.parametrize(("family", "flaw", "law"), PLANTED, ids=[flaw for _, flaw, _ in PLANTED])
def test_a_planted_flaw_is_caught_by_its_law(family: type[flawed.Toy], flaw: str, law: str) -> None:
    space = WHERE.get(flaw, Real((2,)) if family is Bell else Tokens(4, 3))
    with pytest.raises(LawBroken) as caught:
        check_family(family(flaw=flaw), space)
    assert law in caught.value.broken
    assert family.name in str(caught.value)
    assert "Seen:" in caught.value.broken[law]


def test_every_flaw_that_is_written_is_planted() -> None:
    compared = [node for node in ast.walk(ast.parse(inspect.getsource(flawed))) if isinstance(node, ast.Compare)]
    right = [side for node in compared if "flaw" in ast.unparse(node.left) for side in node.comparators]
    assert {ast.literal_eval(side) for side in right} == {flaw for _, flaw, _ in PLANTED}


def test_laws_have_names_and_sentences_of_their_own() -> None:
    found = laws()
    assert len({law.name for law in found}) == len(found)
    for law in found:
        assert law.sentence.endswith(".")
        assert len(law.sentence.split()) > 5
        assert set(law.needs) <= set(CAPABILITIES.values())
    about = {capability for law in found for capability in law.needs}
    assert about == set(CAPABILITIES.values()), "a capability without a law"


def test_a_space_that_is_not_taken_is_refused_in_words() -> None:
    with pytest.raises(BadInput, match="a Gaussian needs continuous numbers"):
        check_family(Bell(), Tokens(3, 2))
    with pytest.raises(BadInput, match="nothing can be given beforehand"):
        check_family(Pairs(), Tokens(3, 2), {"class": Tokens(2, 1)})


def test_conditions_are_the_first_that_the_family_takes() -> None:
    assert set(conditions_for(Bell(), Real((2,)))) == {"class", "hint"}
    assert conditions_for(Pairs(), Tokens(3, 2)) == {}
    assert set(Subject.of(Line(), Tokens(3, 2), {"kind": Tokens(2, 1)}).batch.condition.values) == {"kind"}


@pytest.mark.parametrize("name", SPACES)
def test_made_up_items_are_events_and_depend_on_their_conditions(name: str) -> None:
    space = SPACES[name]
    items = made_up(space, {"class": Tokens(3, 1)}, 600, seed=1)
    assert items.x.shape == (600, *space.shape)
    assert torch.equal(items.x, made_up(space, {"class": Tokens(3, 1)}, 600, seed=1).x)
    last = items.condition.values["class"][:, 0] == 2
    assert (items.x[last].double().mean() - items.x[~last].double().mean()).abs() > 0.1
    if isinstance(space, Mixed):
        assert torch.equal(space.join(space.split(items.x)), items.x)
        absent = ~space.present(space.split(items.x), space.fields[0])
        assert absent.any()
        assert not space.split(items.x)["amount"][absent].any()


def test_visiting_covers_each_event_once() -> None:
    small: list[tuple[Space, int, float]] = [
        (Tokens((2, 3), 2), 6, 6.0),
        (Tokens(3, 3, ends=True), 15, 15.0),
        (Real((2,), levels=3), 9, 9.0),
        (Real((1,)), 2001, 16.0),
        (Mixed((Field("x", Real((1,)), present=("k", 1)), Field("k", Tokens(2, 1)))), 2002, 17.0),
    ]
    for space, events, mass in small:
        found = visit(space)
        assert found is not None
        x, weight = found
        assert len(x) == len(x.unique(dim=0)) == events
        assert float(weight.sum()) == pytest.approx(mass, rel=1e-3)
    assert visit(Tokens(10, 9)) is None
    assert visit(Real((3,))) is None
