"""The routes by which the parts of an item are measured: one for each capability, in the order of preference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Decodes, Denoises, Encodes, Predicts, Scores, Unmasks
from pellucid.core.errors import MissingCapability
from pellucid.core.rows import Rows
from pellucid.core.space import Mixed, Real, Tokens
from pellucid.explain.places import Places
from pellucid.explain.residual import DRAWS, LEVELS, Residuals, errors_of
from pellucid.explain.surprise import GRID, ROUNDS, by_alternatives, by_grid, chain, given

if TYPE_CHECKING:
    from pellucid.model import Fitted

__all__ = ["Route", "Way", "way_of"]

Route = Literal["rest", "before", "residual"]

MOST_EVENTS = 2_000_000  # scored for one item and its comparisons
CHEAP = 200_000  # of them that are scored without being asked for
NOTHING = 1e-6  # squared distance that is rounding
PLANTS = 75  # items that the check adds, about


@dataclass(eq=False)
class Way:
    """One route to numbers for each part.

    route, capability: how, and what of the engine serves it. exactness, means, unit: what the numbers are, in words.
    amounts: events (B, *event) and their conditions to (B, P). events: how many went through the network so far.
    """

    route: Route
    capability: str
    exactness: str
    means: str
    amounts: Callable[[Tensor, Condition], Tensor]
    unit: str = "nats"
    events: int = 0


def way_of(model: Fitted, route: Route | None, places: Places, others: Tensor, told: Condition, rows: Rows) -> Way:
    """The first route that the engine offers and the user wants.

    Args:
        others: (N, *event), events of real items, with what is `told` of each. rows: N rows.

    Raises MissingCapability when there is none.
    """
    engine = model.engine
    refused: list[str] = []

    def wanted(name: Route) -> bool:
        return route in (None, name)

    if wanted("rest") and isinstance(engine, Unmasks):
        way = Way("rest", "Unmasks", "exact", "-log p(part | all other parts), in nats", lambda y, c: y)

        def filled(y: Tensor, condition: Condition) -> Tensor:
            way.events += len(y) * len(places)
            known = ~torch.eye(len(places), dtype=torch.bool, device=y.device)
            out = []
            for k in range(len(y)):
                tokens = y[k : k + 1].expand(len(places), -1)
                found = given(engine, tokens, condition.take(slice(k, k + 1)).repeat(len(places)), known,
                              places.groups, y.shape[1])  # fmt: skip
                out.append(found.diagonal())
            return torch.stack(out)

        way.amounts = filled
        return way
    if wanted("rest") and isinstance(engine, Scores) and isinstance(model.bridge.target, Tokens):
        # dearer than the chain rule, but a wrong cell then shows where it is and not where the model stumbles over it
        few = places.kind == "column" and sum(model.bridge.target.sizes) * (len(others) + PLANTS) <= CHEAP
        if route == "rest" or few:
            try:
                return _scored(model, engine, places, others, told, rows)
            except MissingCapability as refusal:
                refused.append(str(refusal))
    if wanted("before") and isinstance(engine, Predicts):
        way = Way("before", "Predicts", "exact", "-log p(part | the parts before it), in nats", lambda y, c: y)

        def read(y: Tensor, condition: Condition) -> Tensor:
            way.events += len(y)
            return places.sums(chain(engine, y, condition))

        way.amounts = read
        return way
    if wanted("residual") and isinstance(engine, Denoises):
        levels = ", ".join(f"{s:g}" for s in LEVELS)
        means = f"squared distance from what the model makes of it under noise {levels}, in standard deviations of that"
        return _residual(model, places, others, told, rows, "Denoises", means)
    if wanted("rest") and isinstance(engine, Scores) and not isinstance(model.bridge.target, Tokens):
        try:
            return _scored(model, engine, places, others, told, rows)
        except MissingCapability as refusal:
            refused.append(str(refusal))
    if wanted("residual") and isinstance(engine, Encodes) and isinstance(engine, Decodes):
        means = "squared distance from its reconstruction, in standard deviations of that on real items"
        try:
            return _residual(model, places, others, told, rows, "Encodes and Decodes", means)
        except MissingCapability as refusal:
            refused.append(str(refusal))
    raise MissingCapability(
        f"'{model.name}' cannot say what is unusual about a part" + (f" by the route '{route}'" if route else ""),
        accepted="an engine that Unmasks (rest), Predicts (before), Denoises, or Encodes and Decodes (residual), or "
        "knows log p exactly (rest)",
        why=" ".join([f"It offers {', '.join(model.offers())}.", *refused]),
    )


def _residual(
    model: Fitted, places: Places, others: Tensor, told: Condition, rows: Rows, capability: str, means: str
) -> Way:
    space = model.bridge.target
    if isinstance(space, Mixed) and places.kind != "column":
        raise MissingCapability("errors of mixed events are read by column", accepted="a table")
    way = Way("residual", capability, "approximate", means, lambda y, c: y, unit="standard deviations")
    errors = errors_of(model.engine, space, others, told, rows)
    if float(errors.mean()) < NOTHING:
        raise MissingCapability(
            "every item is rebuilt as it is", accepted="a model whose reconstructions lose something"
        )
    usual = Residuals.of(errors)
    way.events += len(others) * (len(LEVELS) * DRAWS if capability == "Denoises" else 2)
    sizes = torch.tensor([len(group) for group in places.groups])

    def off(y: Tensor, condition: Condition) -> Tensor:
        way.events += len(y) * (len(LEVELS) * DRAWS if capability == "Denoises" else 2)
        stream = Rows(rows.seed, torch.zeros(len(y), dtype=torch.int64, device=y.device), rows.key)
        return places.sums(usual.score(errors_of(model.engine, space, y, condition, stream))) / sizes.to(y.device)

    way.amounts = off
    return way


def _scored(model: Fitted, engine: Scores, places: Places, others: Tensor, told: Condition, rows: Rows) -> Way:
    space = model.bridge.target
    by_chain = "-log p(part | all other parts), in nats, from log p with every alternative in the part's place"
    way = Way("rest", "Scores", "exact", by_chain, lambda y, c: y)
    if any(len(group) > 1 for group in places.groups) or not isinstance(space, (Real, Tokens)):
        raise MissingCapability("a part has several numbers", accepted="one number or symbol for each part")
    each = sum(space.sizes) if isinstance(space, Tokens) else GRID * ROUNDS * space.size
    if each * (len(others) + 1) > MOST_EVENTS:
        raise MissingCapability(f"{each * len(others):,} events would have to be scored", accepted="fewer parts")
    low, high = others.flatten(1).amin(0), others.flatten(1).amax(0)

    def tried(y: Tensor, condition: Condition) -> Tensor:
        way.events += len(y) * each
        stream = Rows(rows.seed, torch.zeros(len(y), dtype=torch.int64, device=y.device), rows.key)
        if isinstance(space, Tokens):
            return places.sums(by_alternatives(engine, space, y, condition, stream))
        return places.sums(by_grid(engine, y, condition, stream, low, high))

    tried(others[:1], told.take(slice(0, 1)))  # refuses engines that know a bound only
    way.amounts = tried
    return way
