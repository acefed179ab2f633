"""Mixtures of fitted models: what several models say, averaged with weights that held-out items decide.

    p(x)         = sum_m w_m p_m(x)                                             by item
    p(x_t | ...) = sum_m w_m p_m(x_t | x_1, ..., x_{t-1})                       by symbol

Both are exact where their members are: no weight is lost, and drawing asks one member, drawn by its weight, for the
item, or the mixture of all of them for each symbol. The weights that make held-out items likeliest are found by
expectation and maximisation, w_m <- mean of w_m p_m / p, which climbs to the one best point there is, since the
logarithm of a sum is concave in the weights (Dempster, Laird & Rubin 1977; Jelinek & Mercer 1980 for symbols).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from pellucid.catalog import family_class
from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import (
    Blends,
    Counts,
    Family,
    How,
    LogProb,
    Part,
    Predicts,
    Refusal,
    Samples,
    Scores,
    Spells,
    Surveys,
    Training,
)
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.rows import Rows
from pellucid.core.settings import from_plain, to_plain
from pellucid.core.space import Space, Tokens, space_to_plain
from pellucid.core.trace import Silent, Trace
from pellucid.drawing.sampler import device_of
from pellucid.families.next_symbol import SymbolHow, draw_symbols
from pellucid.fitting import halves
from pellucid.model import Data, Fitted

__all__ = [
    "ItemMixture",
    "ItemMixtureEngine",
    "Member",
    "MixtureHow",
    "SymbolMixture",
    "SymbolMixtureEngine",
    "mix",
    "responsibilities",
    "best_weights",
]

NAME = re.compile(r"[A-Za-z0-9_-]{1,60}")
LEAST = 20  # held-out items that weights are found from, at least
ROUNDS, NEAR = 2000, 1e-6  # of expectation and maximisation at most; nats an item from the best that end it


@dataclass(frozen=True, kw_only=True)
class Member:
    """One model of a mixture: its name there, its family with its settings, and its weight."""

    name: str
    family: str
    settings: Mapping[str, Any]
    weight: float


@dataclass(frozen=True)
class MixtureHow(How):
    """Each member draws in its own way."""


@dataclass(frozen=True, kw_only=True)
class ItemMixture(Family):
    """A mixture of whole models. It is made of fitted models by `pellucid.mix`, and not fitted itself."""

    name: ClassVar[str] = "mixture"
    title: ClassVar[str] = "mixture of models"
    engine: ClassVar[type[nn.Module]]

    members: tuple[Member, ...] = ()

    def __post_init__(self) -> None:
        check_members(self.members)

    def accepts(self, space: Space, conditions: Mapping[str, Space]) -> Refusal | None:
        return accepted_by_all(self.members, space, conditions)

    def parts(self) -> tuple[Part, ...]:
        return (*parts_of_members(self.members), Part(
            "mixture", "An item is as likely as the members say on average, each by its weight. To draw one, a member "
            "is drawn by its weight and asked.", "p(x) = sum over m of w_m p_m(x)",
            "Dempster, Laird & Rubin 1977"))  # fmt: skip

    def training(self, space: Space, items: int) -> Training:
        return Training()

    def build(
        self, space: Space, conditions: Mapping[str, Space], rows: Rows, base: nn.Module | None = None
    ) -> ItemMixtureEngine:
        return ItemMixtureEngine(self, space, built(self.members, space, conditions, rows))


@dataclass(frozen=True, kw_only=True)
class SymbolMixture(Family):
    """A mixture of what models say of each next symbol. It is made of fitted models by `pellucid.mix`."""

    name: ClassVar[str] = "symbol_mixture"
    title: ClassVar[str] = "mixture of models, symbol by symbol"
    engine: ClassVar[type[nn.Module]]

    members: tuple[Member, ...] = ()

    def __post_init__(self) -> None:
        check_members(self.members)

    def accepts(self, space: Space, conditions: Mapping[str, Space]) -> Refusal | None:
        if not isinstance(space, Tokens):
            return Refusal("models are mixed symbol by symbol, and the space has real numbers", instead="mix by item")
        return accepted_by_all(self.members, space, conditions)

    def parts(self) -> tuple[Part, ...]:
        return (*parts_of_members(self.members), Part(
            "mixture", "A next symbol is as likely as the members say on average, each by its weight.",
            "p(x_t | ...) = sum over m of w_m p_m(x_t | ...)", "Jelinek & Mercer 1980"))  # fmt: skip

    def training(self, space: Space, items: int) -> Training:
        return Training()

    def build(
        self, space: Space, conditions: Mapping[str, Space], rows: Rows, base: nn.Module | None = None
    ) -> SymbolMixtureEngine:
        if not isinstance(space, Tokens):
            raise BadInput(f"the space is {space}", accepted="Tokens")
        return SymbolMixtureEngine(self, space, built(self.members, space, conditions, rows))


def check_members(members: tuple[Member, ...]) -> None:
    """BadInput unless names can be kept and weights are shares."""
    names, weights = [m.name for m in members], [m.weight for m in members]
    if len(set(names)) != len(names) or not all(NAME.fullmatch(name) for name in names):
        raise BadInput(f"members are named {names}", accepted="different names of letters, digits, _ and -")
    if members and not (min(weights) >= 0.0 and math.isclose(sum(weights), 1.0, abs_tol=1e-6)):
        raise BadInput(f"weights are {weights}", accepted="shares from 0 to 1 that sum to 1")


def accepted_by_all(members: tuple[Member, ...], space: Space, conditions: Mapping[str, Space]) -> Refusal | None:
    """The first refusal of a member."""
    if not members:
        return Refusal("a mixture is made of fitted models and not fitted itself", instead="pellucid.mix")
    refusals = (_family(m).accepts(space, conditions) for m in members)
    return next((refusal for refusal in refusals if refusal is not None), None)


def parts_of_members(members: tuple[Member, ...]) -> tuple[Part, ...]:
    """What each member is, and its share."""
    return tuple(
        Part(m.name, f"A model of the family '{m.family}', which has a weight of {m.weight:.1%} in what is said.",
             f"w = {m.weight:.4f}")
        for m in members
    )  # fmt: skip


def built(
    members: tuple[Member, ...], space: Space, conditions: Mapping[str, Space], rows: Rows
) -> dict[str, nn.Module]:
    """Fresh engines of the members."""
    refusal = accepted_by_all(members, space, conditions)
    if refusal is not None:
        raise BadInput(f"the space is {space}", accepted="one that all members take", why=refusal.reason)
    return {m.name: _family(m).build(space, conditions, rows.fork(m.name)) for m in members}


def _family(member: Member) -> Family:
    return from_plain(family_class(member.family), member.settings)


# ------------------------------------------------------------------------------------------------------- the engines


class ItemMixtureEngine(nn.Module, Surveys, Samples, Scores):
    """p(x) = sum_m w_m p_m(x)."""

    def __init__(self, family: ItemMixture, space: Space, engines: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.family, self.space = family, space
        self.members = nn.ModuleDict(engines)
        self.weight = nn.Buffer(torch.tensor([m.weight for m in family.members], dtype=torch.float64), persistent=False)

    def survey(self, rows: Callable[[Tensor], Batch], items: int) -> None:
        survey_members(self.members, rows, items)

    def surveyed(self) -> dict[str, Tensor]:
        return tables_of(self.members)

    def restore_surveyed(self, tables: Mapping[str, Tensor]) -> None:
        restore_members(self.members, tables)

    def log_prob(self, batch: Batch, rows: Rows) -> LogProb:
        each, kinds = scores(self.members, batch, rows)
        return LogProb(mixed(each, self.weight), "exact" if kinds == {"exact"} else "lower_bound")

    def settings(self) -> MixtureHow:
        return MixtureHow()

    @torch.no_grad()
    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        """(B, *event), each row by the member that its own number chose."""
        upto = self.weight.cumsum(0)
        u = rows.fork("member").uniform(dtype=torch.float64).to(upto.device)
        chosen = (upto[None] <= u[:, None] * upto[-1]).sum(1)
        out: Tensor | None = None
        for m, (name, engine) in enumerate(self.members.items()):
            here = (chosen == m).nonzero()[:, 0]
            assert isinstance(engine, Samples)
            x = engine.sample(rows.take(here).fork(name), condition.take(here), engine.settings(), Silent())
            out = x.new_zeros(len(rows), *x.shape[1:]) if out is None else out
            out[here] = x
        assert out is not None
        return out

    def responsibility(self, batch: Batch, rows: Rows) -> Tensor:
        """(B, M) how probable it is that each member made each item: w_m p_m(x) / p(x)."""
        each, _ = scores(self.members, batch, rows)
        return (each + self.weight.log()).softmax(-1)


class SymbolMixtureEngine(nn.Module, Surveys, Samples, Scores, Spells, Blends, Predicts):
    """p(x_t | ...) = sum_m w_m p_m(x_t | ...)."""

    def __init__(self, family: SymbolMixture, space: Tokens, engines: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.family, self.space = family, space
        self.members = nn.ModuleDict(engines)
        self.weight = nn.Buffer(torch.tensor([m.weight for m in family.members], dtype=torch.float64), persistent=False)

    def survey(self, rows: Callable[[Tensor], Batch], items: int) -> None:
        survey_members(self.members, rows, items)

    def surveyed(self) -> dict[str, Tensor]:
        return tables_of(self.members)

    def restore_surveyed(self, tables: Mapping[str, Tensor]) -> None:
        restore_members(self.members, tables)

    def log_prob(self, batch: Batch, rows: Rows) -> LogProb:
        return LogProb(self.spell(batch, rows).sum(1), "exact")

    def spell(self, batch: Batch, rows: Rows) -> Tensor:
        return mixed(spellings(self.members, self.space, batch, rows), self.weight)

    def blend(self, batch: Batch, rows: Rows) -> dict[str, Tensor]:
        """What the mixture added to each symbol, shared out by who is likely to have said it, w_m p_m / p."""
        each = spellings(self.members, self.space, batch, rows)
        whole = mixed(each, self.weight)
        even = torch.tensor(self.space.sizes, device=whole.device).log().expand(whole.shape)
        if self.space.ends:
            ended = (batch.x == 0).long().cumsum(1) - (batch.x == 0).long() > 0
            even = torch.where(ended, 0.0, even)
        shares = (each + self.weight.log()).softmax(-1) * (whole + even)[..., None]
        return {name: shares[..., m] for m, name in enumerate(self.members)}

    def responsibility(self, batch: Batch, rows: Rows) -> Tensor:
        """(B, M) how much of an item's symbols each member is likely to have said, on average over them."""
        each = spellings(self.members, self.space, batch, rows)
        counts = torch.ones_like(each[..., 0])
        if self.space.ends:
            counts = ((batch.x == 0).long().cumsum(1) - (batch.x == 0).long() == 0).to(each.dtype)
        shares = (each + self.weight.log()).softmax(-1) * counts[..., None]
        return shares.sum(1) / counts.sum(1, keepdim=True)

    def settings(self) -> SymbolHow:
        return SymbolHow()

    @torch.no_grad()
    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        """(B, T)."""
        if not isinstance(how, SymbolHow):
            raise BadInput(f"how is {type(how).__name__}", accepted="SymbolHow", next="Start from engine.settings()")
        device = self.weight.device
        u = rows.fork("symbols").uniform(self.space.length, dtype=torch.float64).to(device)
        cache = self.begin(condition, len(rows))
        tokens = torch.zeros(len(rows), self.space.length, dtype=torch.int64, device=device)
        for t in range(self.space.length):
            logits, cache = self.step(cache, tokens[:, max(0, t - 1) : t])
            tokens[:, t] = draw_symbols(logits, u[:, t], how, tokens[:, :t])
            if trace.wants("logits"):
                trace.keep("logits", t, logits)
            if trace.wants("token"):
                trace.keep("token", t, tokens[:, t])
            if self.space.ends and bool((tokens[:, t] == 0).all()):
                break
        return tokens

    def next_logits(self, tokens: Tensor, condition: Condition, at: int | None = None) -> Tensor:
        said = [_predicting(e).next_logits(tokens, condition, at) for e in self.members.values()]
        return self._mixed_logits(said)

    def begin(self, condition: Condition, batch: int) -> tuple[Any, ...]:
        return tuple(_predicting(e).begin(condition, batch) for e in self.members.values())

    def step(self, cache: tuple[Any, ...], tokens: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
        pairs = [_predicting(e).step(c, tokens) for e, c in zip(self.members.values(), cache, strict=True)]
        return self._mixed_logits([logits for logits, _ in pairs]), tuple(c for _, c in pairs)

    def _mixed_logits(self, said: list[Tensor]) -> Tensor:
        """Log-probabilities (..., V); where no symbol is possible all stay -inf."""
        each = torch.stack([s.double() for s in said], dim=-1)  # (..., V, M)
        none = each.isneginf().all(-2, keepdim=True)
        logs = torch.where(none, 0.0, each).log_softmax(-2)
        found = mixed(logs, self.weight)
        return torch.where(none.any(-1), -math.inf, found).to(said[0].dtype)


ItemMixture.engine, SymbolMixture.engine = ItemMixtureEngine, SymbolMixtureEngine


def _predicting(engine: nn.Module) -> Predicts:
    assert isinstance(engine, Predicts)
    return engine


def mixed(each: Tensor, weight: Tensor) -> Tensor:
    """(..., M) logarithms to (...) log sum_m w_m exp(each_m).

    >>> mixed(torch.tensor([[0.5, 0.1]]).log(), torch.tensor([0.25, 0.75])).exp()
    tensor([0.2000])
    """
    return (each + weight.to(each).log()).logsumexp(-1)


def scores(members: nn.ModuleDict, batch: Batch, rows: Rows) -> tuple[Tensor, set[str]]:
    """(B, M) log p_m of each item in float64, and the kinds of number they are."""
    values, kinds = [], set[str]()
    for name, engine in members.items():
        assert isinstance(engine, Scores)
        found = engine.log_prob(batch, rows.fork(name))
        values.append(found.value.double())
        kinds.add(found.kind)
    return torch.stack(values, dim=-1), kinds


def spellings(members: nn.ModuleDict, space: Tokens, batch: Batch, rows: Rows) -> Tensor:
    """(B, T, M) log p_m of each symbol given those before it, 0 after an end."""
    out = []
    for name, engine in members.items():
        if isinstance(engine, Spells):
            out.append(engine.spell(batch, rows.fork(name)).double())
            continue
        logits = _predicting(engine).next_logits(batch.x[:, :-1], batch.condition).double()
        each = logits.log_softmax(-1).gather(-1, batch.x[..., None]).squeeze(-1)
        if space.ends:
            each = torch.where((batch.x == 0).long().cumsum(1) - (batch.x == 0).long() > 0, 0.0, each)
        out.append(each)
    return torch.stack(out, dim=-1)


def survey_members(members: nn.ModuleDict, rows: Callable[[Tensor], Batch], items: int) -> None:
    """Those that look at all rows do."""
    for engine in members.values():
        if isinstance(engine, Surveys):
            engine.survey(rows, items)


def tables_of(members: nn.ModuleDict) -> dict[str, Tensor]:
    """What members have counted, which is no part of a `state_dict`, each under its member's name."""
    out: dict[str, Tensor] = {}
    for name, engine in members.items():
        found = engine.tables() if isinstance(engine, Counts) else {}
        found = engine.surveyed() if isinstance(engine, Surveys) else found
        out |= {f"{name}.{key}": table for key, table in found.items()}
    return out


def restore_members(members: nn.ModuleDict, tables: Mapping[str, Tensor]) -> None:
    """The inverse of `tables_of`."""
    if odd := [key for key in tables if key.partition(".")[0] not in members]:
        raise BadInput(f"a table is named '{odd[0][:80]}'", accepted=f"members: {', '.join(members)}")
    for name, engine in members.items():
        own = {key.partition(".")[2]: t for key, t in tables.items() if key.partition(".")[0] == name}
        if isinstance(engine, Counts):
            engine.restore(own)
        elif isinstance(engine, Surveys):
            engine.restore_surveyed(own)
        elif own:
            raise BadInput(f"member '{name}' has tables", accepted="weights alone")


# ---------------------------------------------------------------------------------------------------------- the task


def mix(
    models: Mapping[str, Fitted],
    weights: Mapping[str, float] | None = None,
    *,
    held_out: Data | None = None,
    by: Literal["auto", "item", "symbol"] = "auto",
    seed: int = 0,
) -> Fitted:
    """One model of several that were fitted on the same kind of items, written the same way.

    Args:
        models: name -> fitted model; all with the same codec and bridge, as fits on the same data with the same seed
            and held-out share have. Each knows how likely an item is.
        weights: name -> weight, scaled to sum to one; found on held-out items when None.
        held_out: items that no member has learned from; those that all of them held out while fitting, when None.
        by: whole items or each next symbol; "auto" is by symbol where every member predicts symbols.

    Raises BadInput where models cannot be mixed or nothing was held out, MissingCapability where one knows no
    likelihood.
    """
    if len(models) < 2:
        raise BadInput(f"{len(models)} models came", accepted="two or more, by name")
    first = next(iter(models.values()))
    for name, model in models.items():
        if model.family is None:
            raise BadInput(f"'{name}' is an adopted model", accepted="models of the catalogue's families")
        model.need(Scores, "say how likely an item is, which a mixture needs")
        model.need(Samples, "draw samples")
        _require_alike(name, model, next(iter(models)), first)
    symbolic = isinstance(first.bridge.target, Tokens) and all(isinstance(m.engine, Predicts) for m in models.values())
    if by not in ("auto", "item", "symbol"):
        raise BadInput(f"by is '{by}'", accepted="auto, item, symbol")
    if by == "symbol" and not symbolic:
        odd = next(name for name, m in models.items() if not isinstance(m.engine, Predicts))
        raise MissingCapability(f"'{odd}' does not predict the next symbol", accepted="by='item'")
    kind: type[ItemMixture | SymbolMixture] = SymbolMixture if symbolic and by != "item" else ItemMixture
    if weights is None:
        items = _held_out(models) if held_out is None else held_out
        weights = dict(zip(models, _fitted_weights(models, items, kind, seed), strict=True))
    elif held_out is not None:
        raise BadInput("weights came with held_out", accepted="one of them")
    shares = _shares(models, weights)
    members = tuple(
        Member(name=name, family=m.name, settings=to_plain(m.family), weight=shares[name]) for name, m in models.items()
    )
    family, space = kind(members=members), first.bridge.target
    engines = {name: m.engine for name, m in models.items()}
    engine = (
        SymbolMixtureEngine(family, space, engines)
        if isinstance(family, SymbolMixture) and isinstance(space, Tokens)
        else ItemMixtureEngine(ItemMixture(members=members), space, engines)
    )
    recipe = {
        "family": family.name,
        "settings": to_plain(family),
        "seed": seed,
        "space": space_to_plain(space),
        "conditions": {k: space_to_plain(s) for k, s in first.codec.conditions.items()},
        "data": first.recipe.get("data"),
        "held_out": first.recipe.get("held_out", 0.0),
    }
    return Fitted(family, engine.eval(), first.codec, first.bridge, recipe, data=first.data, source=first.source)


def responsibilities(model: Fitted, items: Data, *, seed: int = 0, batch: int = 500) -> dict[str, Tensor]:
    """Member -> (B,) how much of each item it is likely to have said, w_m p_m / p; over the members this sums to 1."""
    engine = model.engine
    if not isinstance(engine, (ItemMixtureEngine, SymbolMixtureEngine)):
        raise BadInput(f"the model is of the family '{model.name}'", accepted="a mixture, as pellucid.mix makes")
    found = [torch.zeros(0, len(engine.members), dtype=torch.float64)]
    for piece, rows in _pieces(model, items, seed, batch):
        with torch.no_grad():
            found.append(engine.responsibility(piece, rows).double().cpu())
    shares = torch.cat(found)
    return {name: shares[:, m] for m, name in enumerate(engine.members)}


def best_weights(each: Tensor) -> Tensor:
    """(M,) shares that make a mixture of M models likeliest, from log-probabilities (N, M) of what was seen.

    Expectation and maximisation, until no other weights can be better by a millionth of a nat, or 2,000 rounds.

    >>> best_weights(torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9]]).log()).round(decimals=3)
    tensor([0.7080, 0.2920], dtype=torch.float64)
    """
    each = each.double()
    weight = torch.full((each.shape[1],), 1.0 / each.shape[1], dtype=torch.float64, device=each.device)
    for _ in range(ROUNDS):
        ratio = (each - mixed(each, weight)[:, None]).exp().mean(0)  # mean of p_m / p
        weight = weight * ratio
        # no weights are better by more than log max_m mean(p_m / p), since the mean of logarithms is concave
        if math.log(float(ratio.max())) < NEAR:
            break
    return weight / weight.sum()


def _require_alike(name: str, model: Fitted, first_name: str, first: Fitted) -> None:
    """BadInput unless both write items as the same events."""
    for what, own, other in (("codec", model.codec, first.codec), ("bridge", model.bridge, first.bridge)):
        tensors, theirs = own.tensors(), other.tensors()
        same = type(own) is type(other) and own.plain() == other.plain() and set(tensors) == set(theirs)
        if not same or not all(torch.equal(t, theirs[key]) for key, t in tensors.items()):
            raise BadInput(
                f"'{name}' and '{first_name}' have different {what}s",
                accepted="models that write items as the same events",
                why="A mixture averages what its members say of the same event.",
                next="Fit both on the same data, with the same seed and held-out share.",
            )


def _held_out(models: Mapping[str, Fitted]) -> Data:
    """The items that every member held out."""
    aside: set[int] | None = None
    data = next((m.data for m in models.values() if m.data is not None), None)
    for name, model in models.items():
        if model.data is None or data is None or model.data.fingerprint() != data.fingerprint():
            raise BadInput(
                f"'{name}' does not carry the data that the others were fitted on",
                accepted="held_out=... or weights=...",
            )
        _, own = halves(model.data, float(model.recipe.get("held_out", 0.0)), int(model.recipe["seed"]))
        aside = set(own.tolist()) if aside is None else aside & set(own.tolist())
    assert data is not None
    if aside is None or len(aside) < LEAST:
        raise BadInput(
            f"all members held out {len(aside or ())} of the same items",
            accepted=f"{LEAST} or more",
            why="Weights must not be found on items that a member has learned from.",
            next="Give held_out=... or weights=...",
        )
    return data.take(sorted(aside))


def _fitted_weights(
    models: Mapping[str, Fitted], items: Data, kind: type[ItemMixture | SymbolMixture], seed: int
) -> list[float]:
    if len(items) < LEAST and kind is ItemMixture:
        raise BadInput(f"{len(items)} items are held out", accepted=f"{LEAST} or more")
    first = next(iter(models.values()))
    members, space = nn.ModuleDict({name: m.engine for name, m in models.items()}).eval(), first.bridge.target
    found = []
    for batch, rows in _pieces(first, items, seed, 500):
        with torch.no_grad():
            if kind is SymbolMixture and isinstance(space, Tokens):
                each = spellings(members, space, batch, rows).cpu()
                real = torch.ones(each.shape[:2], dtype=torch.bool)
                if space.ends:
                    real = ((batch.x == 0).long().cumsum(1) - (batch.x == 0).long() == 0).cpu()
                found.append(each[real])
                continue
            each, kinds = scores(members, batch, rows)
        if "estimate" in kinds:
            raise MissingCapability("a member only estimates how likely an item is", accepted="exact values or bounds")
        found.append(each.cpu())
    return [float(w) for w in best_weights(torch.cat(found))]


def _pieces(model: Fitted, items: Data, seed: int, batch: int) -> Any:
    """(Batch, Rows) of the items as events, so many at a time, where the engine lies."""
    device = device_of(model.engine)
    model.engine.eval()
    for at in range(0, len(items), batch):
        ids = torch.arange(at, min(at + batch, len(items)))
        rows = Rows(seed, ids)
        y, condition = model.event(items.take(ids.numpy()), rows.fork("bridge"))
        yield Batch(y, ids, condition).to(device), rows.fork("score").to(device)


def _shares(models: Mapping[str, Fitted], weights: Mapping[str, float]) -> dict[str, float]:
    if set(weights) != set(models):
        raise BadInput(f"weights are for {', '.join(weights)}", accepted=", ".join(models))
    total = sum(weights.values())
    if not math.isfinite(total) or total <= 0.0 or min(weights.values()) < 0.0:
        raise BadInput(f"weights are {dict(weights)}", accepted="numbers from 0 on, not all 0")
    return {name: weights[name] / total for name in models}
