"""Going on from a model on other data: what moves, what stays, what grows, and what is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pellucid import catalog
from pellucid.core.batch import Batch
from pellucid.core.bundle import seal, write_json
from pellucid.core.capabilities import Objective, Training, Turn
from pellucid.core.errors import BadBundle, BadInput, Stopped
from pellucid.core.rows import Rows
from pellucid.core.run import Checkpointed, Event, Noticed, Run
from pellucid.domains.frames import read_table
from pellucid.domains.pictures import Pictures
from pellucid.families.flow_matching import FlowMatching, FlowMatchingEngine
from pellucid.families.ngram import NGram
from pellucid.families.realnvp import RealNVP
from pellucid.families.vae import VAE
from pellucid.fitting import fit, resume
from pellucid.model import Fitted, load
from pellucid.nets.lora import attach, merge
from pellucid.training.adapt import Adapt

NET = FlowMatching(width=8, depth=1)
STEADY = Training(batch=8, rate=0.01, ema=0.9, ema_ramp=5.0)


def pictures(n: int = 24, classes: str = "ab", seed: int = 0, shape: tuple[int, int] = (6, 4)) -> Pictures:
    draw = np.random.default_rng(seed)
    return Pictures(
        pixels=draw.integers(0, 256, (n, *shape, 1)).astype(np.uint8),
        labels=tuple(classes[i % len(classes)] for i in range(n)),
    )


def rows(n: int = 40, words: str = "xyz") -> pd.DataFrame:
    draw = np.random.default_rng(n)
    return pd.DataFrame({"height": draw.normal(170, 9, n).round(1), "word": draw.choice(list(words), n)})


@pytest.fixture(scope="module")
def base() -> Fitted:
    return fit(pictures(), NET, steps=3, seed=1, training=STEADY)


def on(base: Fitted, data: Any = None, **words: Any) -> Fitted:
    data = pictures(16, "c", seed=2) if data is None else data
    return fit(data, NET, **{"base": base, "seed": 3, "steps": 4, "training": STEADY, **words})


def labels(items: object) -> list[str]:
    assert isinstance(items, Pictures)
    return list(items.labels or ())


def moved(before: nn.Module, after: nn.Module) -> set[str]:
    ours, theirs = before.state_dict(), after.state_dict()
    return {k for k, v in theirs.items() if k in ours and ours[k].shape == v.shape and not torch.equal(ours[k], v)}


def same_weights(left: nn.Module, right: nn.Module) -> bool:
    a, b = left.state_dict(), right.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# ------------------------------------------------------------------------------------------------------ classes grow


def test_a_new_class_joins_those_that_were_known(base: Fitted, tmp_path: Path) -> None:
    told: list[Event] = []
    model = on(base, out=tmp_path / "run", run=Run(listeners=[told.append]), training=Training(rate=1e-12, ema=None))
    assert model.codec.plain()["classes"] == ["a", "b", "c"]
    assert model.recipe["base"]["new"] == {"class": ["c"]}
    (name,) = model.recipe["base"]["grown"]
    old, new = base.engine.state_dict()[name], model.engine.state_dict()[name]
    assert torch.allclose(new[:2], old, atol=1e-6), "the old rows stay"
    assert torch.allclose(new[2], old.mean(0), atol=1e-6), "the new one starts at their mean"
    assert any(isinstance(e, Noticed) and e.text == "New to the model: class c." for e in told)
    again = load(tmp_path / "run")
    assert labels(again.sample(6, seed=1).items) == ["c"] * 6, (
        "unasked, it draws as often as the new data has each class"
    )
    assert labels(again.sample(2, where={"class": "a"}).items) == ["a", "a"]
    asked = base.sample(4, seed=5, where={"class": "b"})
    kept = again.sample(4, seed=5, where={"class": "b"})
    assert torch.allclose(asked.x, kept.x, atol=1e-3), "and what it knew it still knows"


def test_groups_of_the_base_are_drawn_beside_a_new_class() -> None:
    net = replace(NET, groups=3)
    older = fit(pictures(110), net, steps=1)
    model = fit(pictures(16, "c", seed=2), net, base=older, steps=1, training=STEADY)
    was, share = older.engine.state_dict()["groups.share"], model.engine.state_dict()["groups.share"]
    assert (was > 0).sum(1).tolist() == [3, 3, 3], "there are groups to be kept"
    assert torch.equal(share[:2], was[:2]), "classes that are not in the new data keep theirs"
    engine = model.engine
    assert isinstance(engine, FlowMatchingEngine)
    assert engine.groups is not None
    group = engine.groups.of(
        engine.guard(model.examples(pictures(16, "c", seed=2)).take(torch.arange(16)).x).flatten(1)
    )
    assert set(share[2].nonzero().flatten().tolist()) <= set(group.tolist()), "a new class has those it is met with"
    assert float(share[2].sum()) == pytest.approx(1.0)
    assert torch.equal(share[3], share[2]), "and all of the new data is of that class"
    narrow = fit(pictures(16, "c", seed=2), net, base=older, adapt="lora", steps=1, training=STEADY)
    assert torch.equal(narrow.engine.state_dict()["groups.share"], share), "what grows without being learned rests"


def test_what_the_base_does_not_take_of_pictures_is_said(base: Fitted) -> None:
    told: list[Event] = []
    bare = fit(replace(pictures(), labels=None), NET, steps=1)
    on(bare, pictures(), run=Run(listeners=[told.append]))
    assert any(isinstance(e, Noticed) and e.text.startswith("Each picture's class is not used") for e in told)
    red = replace(pictures(), captions=tuple("a red thing" for _ in range(24)))
    older = fit(red, NET, steps=1)
    told.clear()
    on(older, replace(red, captions=tuple("a blue thing" for _ in range(24))), run=Run(listeners=[told.append]))
    assert any(isinstance(e, Noticed) and "'blue'" in e.text and "left out" in e.text for e in told)


def test_a_recipe_that_does_not_say_what_moved_is_refused(base: Fitted, tmp_path: Path) -> None:
    run = Run()
    run.listeners.append(lambda e: run.stop() if isinstance(e, Checkpointed) else None)
    with pytest.raises(Stopped):
        on(base, out=tmp_path / "part", run=run, steps=6, checkpoint_every=2, adapt="last")
    recipe = json.loads((tmp_path / "part" / "recipe.json").read_text())
    facts = json.loads((tmp_path / "part" / "resume.json").read_text())
    wrongs: list[dict[str, object]] = [{"moving": [[]]}, {"moving": 3}, {"grown": None}, {"adapt": []}, {"strange": 1}]
    for wrong in wrongs:
        write_json(tmp_path / "part" / "recipe.json", {**recipe, "base": {**recipe["base"], **wrong}})
        seal(tmp_path / "part", {"versions": facts["versions"]}, "resume.json", only=list(facts["files"]))
        with pytest.raises(BadBundle):
            resume(tmp_path / "part", data=pictures(16, "c", seed=2))


def test_what_was_prepared_once_is_not_prepared_anew(base: Fitted) -> None:
    model = on(base, training=Training(rate=1e-12, ema=None))
    assert torch.equal(model.engine.state_dict()["gauss.mean"], base.engine.state_dict()["gauss.mean"])
    flow = fit(rows(), RealNVP(width=8, depth=1), steps=2)
    still = fit(rows(60), RealNVP(width=8, depth=1), base=flow, steps=1, training=Training(rate=1e-12, ema=None))
    for name, weight in flow.engine.state_dict().items():
        assert torch.allclose(still.engine.state_dict()[name], weight, atol=1e-6), name


# -------------------------------------------------------------------------------------------------- what may move

HOW: dict[str, Any] = {
    "whole": "whole",
    "last": Adapt(how="last", share=0.1),
    "lora": Adapt(how="lora", rank=2, alpha=4.0),
}


@pytest.mark.parametrize("how", HOW)
def test_a_stopped_adaptation_goes_on_to_the_same_bits(how: str, base: Fitted, tmp_path: Path) -> None:
    words: dict[str, Any] = {"adapt": HOW[how], "steps": 6, "checkpoint_every": 2}
    whole = on(base, out=tmp_path / "whole", **words)
    run = Run()
    run.listeners.append(lambda e: run.stop() if isinstance(e, Checkpointed) and e.step >= 3 else None)
    with pytest.raises(Stopped):
        on(base, out=tmp_path / "part", run=run, **words)
    part = resume(tmp_path / "part", data=pictures(16, "c", seed=2))
    assert same_weights(whole.engine, part.engine)
    assert whole.raw is not None
    assert part.raw is not None
    assert all(torch.equal(whole.raw[k], part.raw[k]) for k in whole.raw)
    assert whole.recipe["changed"] == part.recipe["changed"]
    for name in ("recipe.json", "weights/engine.safetensors", "weights/raw.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "part" / name).read_bytes()
    again = load(tmp_path / "part")
    assert same_weights(again.engine, whole.engine), "plain weights of the plain family"
    assert torch.equal(again.sample(3).x, whole.sample(3).x)
    assert again.recipe["changed"] == whole.recipe["changed"]


def test_the_last_layers_move_and_the_others_stay(base: Fitted) -> None:
    told: list[Event] = []
    model = on(base, adapt=HOW["last"], run=Run(listeners=[told.append]))
    names = set(model.recipe["base"]["moving"])
    assert moved(base.engine, model.engine) == names - set(model.recipe["base"]["grown"])
    assert names < {n for n, _ in base.engine.named_parameters()}
    changed = model.recipe["changed"]
    assert 0 < changed["trained"] < changed["total"]
    assert changed["total"] == sum(p.numel() for p in model.engine.parameters())
    assert any(isinstance(e, Noticed) and e.topic == "changed" and "weights could move" in e.text for e in told)


def test_adapters_move_matrices_by_their_rank_alone(base: Fitted) -> None:
    model = on(base, adapt=HOW["lora"])
    matrices = {f"{n}.weight" for n, m in base.engine.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    found = moved(base.engine, model.engine)
    assert found
    assert found <= matrices
    for name in found:
        far = (model.engine.state_dict()[name] - base.engine.state_dict()[name]).flatten(1)
        assert int(torch.linalg.matrix_rank(far, rtol=1e-4)) <= 2, name
    assert model.recipe["changed"]["trained"] < model.recipe["changed"]["total"] / 2


@pytest.mark.parametrize("layer", [nn.Linear(5, 3), nn.Conv2d(2, 3, (1, 2)), nn.Conv2d(4, 6, 3, groups=2)])
def test_an_adapter_is_what_its_formula_says(layer: Any) -> None:
    net = nn.Sequential(layer)
    before = layer.weight.detach().clone()
    attach(net, 2, 3.0, seed=4)
    adapter = layer.parametrizations.weight[0]
    assert torch.equal(layer.weight, before), "training starts from the model itself"
    with torch.no_grad():
        adapter.up.copy_(Rows(1, torch.arange(len(adapter.up))).normal(adapter.up.shape[1]))
    by_hand = before.clone()
    for i in range(before.shape[0]):
        for r in range(2):
            by_hand[i] += 3.0 / 2 * adapter.up[i, r].item() * adapter.down[r].detach().view_as(before[0])
    assert torch.allclose(layer.weight, by_hand, atol=1e-6)
    merge(net, 2, 3.0)
    assert type(layer.weight) is nn.Parameter
    assert torch.allclose(layer.weight, by_hand, atol=1e-6)


def test_a_weight_of_two_layers_is_left_whole() -> None:
    one, two, three = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
    two.weight = one.weight
    assert attach(nn.Sequential(one, two, three), 1, 1.0, seed=0) == (
        "2.parametrizations.weight.0.down",
        "2.parametrizations.weight.0.up",
    )
    with pytest.raises(BadInput, match="no linear or convolutional layer"):
        attach(nn.Embedding(2, 2), 1, 1.0, seed=0)


# -------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ({"adapt": "most"}, "Adapt.how is 'most'. Accepted: whole, last, lora"),
        ({"data": pictures(shape=(8, 8))}, r"pictures are \(8, 8, 1\).*as in training"),
    ],
)
def test_what_does_not_fit_the_base_is_refused(base: Fitted, words: dict[str, Any], match: str) -> None:
    with pytest.raises(BadInput, match=match):
        on(base, **words)
    with pytest.raises(BadInput, match="adapt is 'last' without a model to go on from"):
        fit(pictures(), NET, adapt=Adapt(how="last"), steps=1)


def test_settings_of_an_adaptation_have_bounds() -> None:
    for words in ({"share": 0.0}, {"share": 1.5}, {"rank": 0}, {"alpha": 0.0}, {"alpha": float("nan")}):
        with pytest.raises(BadInput):
            Adapt(how="lora", **words)


def test_a_table_must_have_the_columns_and_values_of_the_base(tmp_path: Path) -> None:
    flow = RealNVP(width=8, depth=1)
    first = fit(rows(), flow, steps=1)
    with pytest.raises(BadInput, match="the table has no column 'word'.*The model to go on from was made for these"):
        fit(rows().drop(columns="word"), flow, base=first, steps=1)
    with pytest.raises(BadInput, match="column 'word' holds 'q'.*values of the training table"):
        fit(rows(words="xyq"), flow, base=first, steps=1)
    text = rows().assign(height="tall")
    with pytest.raises(BadInput, match="column 'height'"):
        fit(text.assign(height=[f"t{i % 3}" for i in range(40)]), flow, base=first, steps=1)
    told: list[Event] = []
    fit(rows().assign(more=range(40)), flow, base=first, steps=1, run=Run(listeners=[told.append]))
    assert any(isinstance(e, Noticed) and "not used: more" in e.text for e in told)
    fit(rows(30, words="x"), flow, base=first, steps=1)  # one of the known values alone is no other kind of column
    with pytest.raises(BadInput, match="adapt is 'lora'. Accepted: whole"):
        fit(read_table(rows()), NGram(order=2), base=fit(rows(), NGram(order=2)), adapt="lora")


def test_pictures_of_a_path_are_read_at_the_size_of_the_base(tmp_path: Path) -> None:
    square = fit(pictures(shape=(6, 6)), VAE(latent=3, width=4, depth=1), steps=1)
    for i, picture in enumerate(pictures(12, shape=(9, 9)).pixels):
        (tmp_path / "new" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[..., 0]).save(tmp_path / "new" / "ab"[i % 2] / f"{i}.png")
    run = Run()
    run.listeners.append(lambda e: run.stop() if isinstance(e, Checkpointed) else None)
    words: dict[str, Any] = {"base": square, "steps": 3, "checkpoint_every": 1}
    with pytest.raises(Stopped):
        fit(tmp_path / "new", VAE(latent=3, width=4, depth=1), out=tmp_path / "run", run=run, **words)
    assert resume(tmp_path / "run").codec.space.shape == (1, 6, 6)


# ------------------------------------------------------------------------------------------------------- objectives


@dataclass(frozen=True, kw_only=True)
class Towards(Objective):
    """Draws every weight to a goal, and a little to those of the base."""

    goal: float = 1.0

    def turns(self, engine: nn.Module, base: nn.Module | None) -> tuple[Turn, ...]:
        kept = [] if base is None else [p.detach() for p in base.parameters()]

        def losses(batch: Batch, rows: Rows) -> Tensor:
            far = torch.stack([(p - self.goal).square().mean() for p in engine.parameters()]).sum()
            stay = [(p - q).square().mean() for p, q in zip(engine.parameters(), kept, strict=False)]
            return (far + sum(stay)) * (1.0 + 0.1 * rows.fork("t").uniform())

        return (Turn("towards", tuple(engine.parameters()), losses),)


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalog.OBJECTIVES, "towards", f"{__name__}:Towards")


@pytest.mark.usefixtures("listed")
def test_a_stopped_objective_goes_on_to_the_same_bits(base: Fitted, tmp_path: Path) -> None:
    words: dict[str, Any] = {"objective": "towards", "objective_settings": {"goal": 0.5}}
    words |= {"steps": 6, "checkpoint_every": 2}
    whole = on(base, out=tmp_path / "whole", **words)
    assert whole.recipe["objective"] == {"name": "towards", "settings": {"goal": 0.5}}
    run = Run()
    run.listeners.append(lambda e: run.stop() if isinstance(e, Checkpointed) and e.step >= 3 else None)
    with pytest.raises(Stopped):
        on(base, out=tmp_path / "part", run=run, **words)
    part = resume(tmp_path / "part", data=pictures(16, "c", seed=2))
    assert same_weights(whole.engine, part.engine)
    other = on(base, **{**words, "objective_settings": {"goal": -0.5}})
    assert not same_weights(whole.engine, other.engine)
    narrow = on(base, adapt="last", **words)
    assert moved(base.engine, narrow.engine) <= set(narrow.recipe["base"]["moving"])


@pytest.mark.usefixtures("listed")
def test_an_objective_is_found_by_its_class(base: Fitted) -> None:
    assert on(base, objective=Towards(goal=2.0), steps=1).recipe["objective"] == {
        "name": "towards",
        "settings": {"goal": 2.0},
    }
    with pytest.raises(BadInput, match="'gaol' is no setting of Towards.*Did you mean 'goal'"):
        on(base, objective="towards", objective_settings={"gaol": 1.0})
    with pytest.raises(BadInput, match="objective is 'toward'.*Did you mean 'towards'"):
        on(base, objective="toward")
    with pytest.raises(BadInput, match="objective_settings came without"):
        on(base, objective=replace(Towards()), objective_settings={"goal": 1.0})
    with pytest.raises(BadInput, match="objective is 3. Accepted: a name or an Objective"):
        on(base, objective=3)


# ------------------------------------------------------------------------------------------------------- statistics


def test_statistics_are_renewed_when_asked_and_never_over_what_was_learned(base: Fitted, tmp_path: Path) -> None:
    still = Training(rate=1e-12, ema=None)
    renew = Adapt(statistics="renew")
    model = on(base, adapt=renew, training=still, out=tmp_path / "run")
    ours, theirs = model.engine.state_dict(), base.engine.state_dict()
    assert not torch.equal(ours["gauss.mean"], theirs["gauss.mean"])
    alone = fit(pictures(16, "c", seed=2), NET, seed=3, steps=4, training=still)
    assert torch.allclose(ours["gauss.mean"], alone.engine.state_dict()["gauss.mean"]), "what the new data alone gives"
    network = [k for k in theirs if not k.startswith("gauss.") and ours[k].shape == theirs[k].shape]
    assert all(torch.allclose(ours[k], theirs[k], atol=1e-6) for k in network)
    flow = RealNVP(width=8, depth=1)
    with pytest.raises(BadInput, match=r"would undo what it learned in '.*'. Accepted: statistics='keep'"):
        fit(rows(60), flow, base=fit(rows(), flow, steps=2), adapt=renew, steps=1)
    small = VAE(latent=3, width=4, depth=1)
    with pytest.raises(BadInput, match="takes no statistics before training"):
        fit(pictures(), small, base=fit(pictures(), small, steps=1), adapt=renew, steps=1)
