"""Why this symbol? Which of the other symbols of an item the model's choice of one of them rests on.

The answer by which all others are judged is leave-one-out: a symbol is taken away, and the log-probability of the one
in question is asked for again. An engine that reads from left to right cannot be told that a symbol is unknown; there
it is replaced by others that the model itself would have put in its place. Gradients and attention are cheaper and are
shown beside it, with how far they agree: attention is where a network looks, not what it uses.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import Attends, How, Predicts, Spells, Unmasks
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.interval import Interval, paired_difference, wilson
from pellucid.core.report import Block, Cell, Data, Details, Heading, Json, Prose, Report, Table, Verdict
from pellucid.core.rows import Rows
from pellucid.core.space import Tokens
from pellucid.explain.faithfulness import Faithfulness
from pellucid.explain.places import Places, places_of
from pellucid.explain.surprise import chain

if TYPE_CHECKING:
    from pellucid.model import Data as Items
    from pellucid.model import Fitted

__all__ = ["SaliencyReport", "gradient", "left_out", "rolled_out", "saliency", "swapped", "unknown"]

DRAWS = 8  # replacements for each symbol
TARGETS = 48  # symbols on which the check asks
ENOUGH = 24  # symbols, below which other items are asked about too
SHOWN = 12
BATCH = 256
PROBES = 100  # items that tell which symbols belong to which column


@dataclass(frozen=True)
class SaliencyReport(Report):
    """What one symbol rests on.

    Args:
        at: place of the symbol in question. chance: its probability, given what the model was told.
        effect: (P,) nats that it loses when another symbol is taken away, NaN where none may count.
        error: (P,) standard error of that over draws; 0 where nothing was drawn.
        slope: (P,) gradients' first-order guess of the same, or None. looks: (P,) attention roll-out, or None.
    """

    subject: str
    places: Places
    item: Block
    at: int
    chance: float
    effect: Tensor
    error: Tensor
    slope: Tensor | None
    looks: Tensor | None
    route: str
    taken: str
    check: Faithfulness
    seed: int
    events: int
    seconds: float

    @property
    def title(self) -> str:
        return f"Why {self.places.said(self.at)} in {self.subject}"

    @property
    def order(self) -> list[int]:
        """Places that can count, the one that matters most first."""
        known = [k for k in range(len(self.places)) if not bool(self.effect[k].isnan())]
        return sorted(known, key=lambda k: -float(self.effect[k]))

    def blocks(self) -> tuple[Block, ...]:
        out: list[Block] = [Prose(self._opening())]
        if not self.check.passed:
            out.insert(0, Verdict("fail", "The check of this explanation failed; what follows is not to be relied on."))
        out += [self.item, Heading("What it rests on", 3), self._table(), Heading("Can this be trusted?", 3)]
        out += self.check.blocks()
        out.append(Details("Method, cost and assumptions", (self._facts(), Prose(self._assumptions()))))
        out.append(Data(self._numbers(), "saliency"))
        return tuple(out)

    def _opening(self) -> str:
        said = f"The model gave **{self.places.said(self.at)}** a chance of {self.chance:.0%}."
        if not self.order:
            return f"{said} Nothing stands before it that it could rest on."
        first = self.order[0]
        lost, error = float(self.effect[first]), float(self.error[first])
        if lost <= 2.0 * error or lost < 0.01:
            return f"{said} It rests on no single one of the others: taking any one away changes next to nothing."
        factor = float(np.exp(min(lost, 30.0)))
        times = "more than a million times" if factor > 1e6 else f"{factor:.{1 if factor >= 2.0 else 2}f} times"
        return (
            f"{said} It rests most on **{self.places.said(first)}**: without that it would be {times} less likely "
            f"({lost:.2f} nats{f', give or take {1.96 * error:.2f}' if error else ''})."
        )

    def _table(self) -> Table:
        columns = [self.places.kind, "nats lost without it"]
        columns += ["by gradients"] * (self.slope is not None) + ["attention"] * (self.looks is not None)
        rows: list[tuple[Cell, ...]] = []
        for k in self.order[:SHOWN]:
            more = [float(found[k]) for found in (self.slope, self.looks) if found is not None]
            rows.append((self.places.said(k), float(self.effect[k]), *more))
        caption = f"The {SHOWN} that matter most of {len(self.order)}. " if len(self.order) > SHOWN else ""
        return Table(columns, rows, caption + self._agreement())

    def _agreement(self) -> str:
        """How far the cheaper answers put the places in the same order."""
        said = []
        for name, found in (("gradients", self.slope), ("attention", self.looks)):
            if found is not None and len(self.order) > 2:
                same = int(max(self.order, key=lambda k, f=found: float(f[k])) == self.order[0])  # type: ignore[misc]
                rank = _ranks_agree(self.effect[self.order], found[self.order])
                said.append(f"{name}: rank correlation {rank:.2f}, {'the same' if same else 'another'} place first")
        return f"Agreement with leaving out: {'; '.join(said)}." if said else ""

    def _facts(self) -> Table:
        rows = [
            ("method", "leave-one-out as the judge; gradient times difference of embeddings; attention roll-out, "
                       "Abnar & Zuidema 2020, arXiv:2005.00928, section 3"),
            ("route", self.route),
            ("taken away", self.taken),
            ("seed", str(self.seed)),
            ("cost", f"{self.events:,} events through the network, {self.seconds:.1f} s"),
        ]  # fmt: skip
        return Table(("", ""), rows)

    def _assumptions(self) -> str:
        return (
            "One symbol is taken away at a time: where two say the same, neither seems to matter.\n\n"
            "This says what this model used, not what makes the symbol right."
        )

    def _numbers(self) -> dict[str, Json]:
        def plain(found: Tensor | None) -> list[Json] | None:
            return None if found is None else [None if v != v else v for v in found.tolist()]

        return {
            "at": self.at,
            "chance": self.chance,
            "places": list(self.places.names),
            "effect": plain(self.effect),
            "error": plain(self.error),
            "gradient": plain(self.slope),
            "attention": plain(self.looks),
            "order": self.order,
            "faithful": self.check.passed,
        }


def saliency(
    model: Fitted,
    *,
    data: Items | None = None,
    seed: int = 0,
    index: int = 0,
    where: Mapping[str, object] | None = None,
    how: How | None = None,
    items: Items | None = None,
    at: int | None = None,
) -> SaliencyReport:
    """Explain why one symbol of an item is what it is.

    Args:
        data: the items the model was fitted on; those it carries, when None.
        seed, index, where, how: name the sample, as in `model.sample`.
        items: items of your own to explain instead of a sample; `index` is then one of them.
        at: which part: a symbol, pixel or column, counted from 0; the last one, when None.

    Raises:
        MissingCapability: the engine neither predicts nor fills gaps, or its symbols are not parts of the item.
        BadInput: no such item or part.
    """
    began = time.monotonic()
    engine, space = model.engine, model.bridge.target
    if not isinstance(engine, (Predicts, Unmasks)) or not isinstance(space, Tokens):
        model.need(Predicts if not isinstance(engine, Unmasks) else Unmasks, "say why a symbol is what it is")
        raise MissingCapability("the model's events are no symbols", accepted="a model of symbols")
    data = model.data if data is None else data
    if data is None:
        raise BadInput("the model carries no data", accepted="data=..., the items it was fitted on")
    if index < 0 or (items is not None and index >= len(items)):
        raise BadInput(f"index is {index}", accepted=f"0 to {len(items) - 1}" if items is not None else "0 or more")
    engine.eval()
    if items is None:
        subject = f"sample {index} of seed {seed}"
        item: Items = model.sample(index + 1, seed=seed, where=where, how=how).items.take([index])
    else:
        subject, item = f"item {index}", items.take([index])
    device = next((p.device for p in engine.parameters()), torch.device("cpu"))
    rows = Rows(seed, torch.zeros(1, dtype=torch.int64)).fork("saliency")
    y, condition = model.event(item, rows.fork("event"))
    y, condition = y.to(device), condition.to(device)
    places = places_of(model, item, y, data.take(np.arange(min(PROBES, len(data)))))
    if any(len(group) != 1 for group in places.groups):
        raise MissingCapability("a part has several symbols", accepted="items of which each part is one symbol")
    where_is = torch.cat(places.groups)  # (P,) position of each part
    last = len(places) - 1 if at is None else at
    if not 0 <= last < len(places):
        raise BadInput(f"at is {at}", accepted=f"0 to {len(places) - 1}")
    target = int(where_is[last])
    asked = _targets(engine, where_is, target, seed)
    with torch.no_grad():
        if isinstance(engine, Unmasks):
            route, taken = "Unmasks, exact", "the symbol is unknown to the model"
            table = unknown(engine, y, condition, asked)
            second = swapped(engine, y, condition, asked, rows.fork("second"))
            events = 3 * len(asked) * space.length
            error = torch.zeros_like(table)
            known = torch.ones_like(y, dtype=torch.bool)
            known[0, target] = False
            log_p = engine.fill_logits(y, known, condition)[0, target].double().log_softmax(-1)[y[0, target]]
        else:
            route = "Predicts, by draws"
            taken = f"it is replaced by {DRAWS} other symbols, drawn from the model's own chances for its place"
            table, error = left_out(engine, space, y, condition, rows.fork("first"))
            second, _ = left_out(engine, space, y, condition, rows.fork("second"))
            events = 2 * DRAWS * space.length
            log_p = -chain(engine, y, condition)[0, target]
        measured = [(table, second, asked)]
        for other in _further(model, data, len(asked), seed):
            measured.append(_again(engine, space, *other, rows, where_is, seed))
        events *= len(measured)
        attends = isinstance(engine, Attends) and isinstance(engine, Predicts)
        looks = rolled_out(engine, y, condition) if attends else None
    slope = gradient(engine, space, y, condition, target) if isinstance(engine, Predicts) else None
    allowed = _allowed(engine, where_is, target)
    blank = torch.full((len(places),), torch.nan, dtype=torch.float64)

    def read(found: Tensor) -> Tensor:
        return torch.where(allowed, found.cpu().double()[where_is], blank)

    return SaliencyReport(
        subject=subject,
        places=places,
        item=model.codec.show(item),
        at=last,
        chance=float(log_p.exp()),
        effect=read(table[:, target]),
        error=read(error[:, target]),
        slope=None if slope is None else read(slope),
        looks=None if looks is None else read(looks[target]),
        route=route,
        taken=taken,
        check=_check(engine, measured, where_is),
        seed=seed,
        events=events,
        seconds=time.monotonic() - began,
    )


def left_out(
    engine: Predicts, space: Tokens, tokens: Tensor, condition: Condition, rows: Rows, draws: int = DRAWS
) -> tuple[Tensor, Tensor]:
    """What every symbol loses when an earlier one is another: (T, T) nats, row j the one replaced, and their errors.

    effect[j, t] = log p(x_t | x_<t) - log mean over v of p(x_t | x_<t with v at j),   v ~ p(. | x_<j), v not x_j

    Args:
        tokens: (1, T). rows: one row.
    """
    length = tokens.shape[1]
    own = -chain(engine, tokens, condition)[0]  # (T,)
    ahead = engine.next_logits(tokens, condition)[0, :-1].double()  # (T, V)
    if space.ends:
        ahead[:, 0] = -torch.inf  # an end in the middle would take everything behind it away
    ahead = ahead.scatter(1, tokens[0, :, None], -torch.inf)
    effect = torch.zeros(length, length, dtype=torch.float64)
    error = torch.zeros_like(effect)
    ended = (tokens[0] == 0).nonzero()[:, 0].tolist() if space.ends else []
    for j in range(ended[0] if ended else length):
        if not bool(ahead[j].isfinite().any()):
            continue  # the only symbol there is
        u = rows.fork("replaced", j).uniform(draws, dtype=torch.float64)[0]
        upto = ahead[j].softmax(-1).cumsum(-1).cpu()
        drawn = torch.searchsorted(upto, u * upto[-1]).clamp(max=len(upto) - 1)
        tried = tokens.repeat(draws, 1)
        tried[:, j] = drawn.to(tokens.device)
        found = -chain(engine, tried, condition.repeat(draws))  # (draws, T)
        p = found[:, j + 1 :].exp()
        mean = p.mean(0).clamp_min(1e-30)
        effect[j, j + 1 :] = (own[j + 1 :] - mean.log()).cpu()
        if draws > 1 and j + 1 < length:
            error[j, j + 1 :] = (p.std(0) / draws**0.5 / mean).cpu()  # of a logarithm, to first order
    return effect, error


def unknown(engine: Unmasks, tokens: Tensor, condition: Condition, targets: list[int]) -> Tensor:
    """(T, T) nats: what symbol t, hidden, loses when symbol j is hidden as well; exact, nothing is drawn.

    effect[j, t] = log p(x_t | all others) - log p(x_t | all others but x_j)

    Args:
        tokens: (1, T). targets: places t that are asked about; 0 elsewhere.
    """
    length = tokens.shape[1]
    out = torch.zeros(length, length, dtype=torch.float64)
    for t in targets:
        known = ~torch.eye(length, dtype=torch.bool, device=tokens.device)
        known[:, t] = False  # row t hides t alone
        log_p = _filled(engine, tokens.expand(length, -1), known, condition, t)
        out[:, t] = log_p[t] - log_p
    return out


def swapped(
    engine: Unmasks, tokens: Tensor, condition: Condition, targets: list[int], rows: Rows, draws: int = 2
) -> Tensor:
    """The same with symbol j not hidden but replaced by others that the model finds likely there: the check's answer.

    effect[j, t] = log p(x_t | all others) - log mean over v of p(x_t | all others, v at j),   v ~ p(. | rest), not x_j
    """
    length = tokens.shape[1]
    alone = ~torch.eye(length, dtype=torch.bool, device=tokens.device)
    each = tokens.expand(length, -1)
    said = torch.cat([engine.fill_logits(each[k : k + BATCH], alone[k : k + BATCH],
                                         condition.repeat(len(each[k : k + BATCH]))).double().diagonal(k).mT
                      for k in range(0, length, BATCH)])  # fmt: skip
    said = said.scatter(1, tokens[0, :, None], -torch.inf)
    can = said.isfinite().any(1)
    stream = Rows(rows.seed, torch.arange(length, device=tokens.device), rows.key)
    out = torch.zeros(length, length, dtype=torch.float64)
    tried = []
    for k in range(draws):
        other = stream.fork("swapped", k).categorical(torch.where(can[:, None], said, 0.0))
        tried.append(torch.where(torch.eye(length, dtype=torch.bool, device=tokens.device), other, each))
    for t in targets:
        known = torch.ones(length, length, dtype=torch.bool, device=tokens.device)
        known[:, t] = False
        own = _filled(engine, each[:1], known[:1], condition, t)
        found = torch.stack([_filled(engine, x, known, condition, t) for x in tried])
        effect = own - found.exp().mean(0).clamp_min(1e-30).log()
        out[:, t] = torch.where(can.cpu(), effect, 0.0)
        out[t, t] = 0.0
    return out


def _filled(engine: Unmasks, tokens: Tensor, known: Tensor, condition: Condition, t: int) -> Tensor:
    """(M,) log p of symbol t, hidden in `known` (M, T), in each row of tokens (M, T)."""
    out = []
    for at in range(0, len(tokens), BATCH):
        x = tokens[at : at + BATCH]
        logits = engine.fill_logits(x, known[at : at + BATCH], condition.repeat(len(x)), t).double()
        out.append(logits.log_softmax(-1).gather(1, x[:, t, None])[:, 0])
    return torch.cat(out).cpu()


def gradient(engine: nn.Module, space: Tokens, tokens: Tensor, condition: Condition, target: int) -> Tensor | None:
    """First-order guess of what symbol `target` loses when another becomes one of those the model expects there.

    g_j = grad of log p(x_t) by e_j, times (e_j - sum over v of p(v | x_<j) e_v),    e_j the embedding of symbol j

    (T,) nats, 0 from the target on; None where the engine embeds its symbols in no table that can be listened to.
    """
    assert isinstance(engine, Predicts)
    seen: list[tuple[nn.Embedding, Tensor, Tensor]] = []

    def listen(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
        if seen or given[0].shape[:1] != (1,) or out.ndim != 3 or not isinstance(module, nn.Embedding):
            return None
        leaf = out.detach().requires_grad_()
        seen.append((module, given[0].detach(), leaf))
        return leaf

    tables = [m for m in engine.modules() if isinstance(m, nn.Embedding)]
    hooks = [m.register_forward_hook(listen) for m in tables]
    try:
        with torch.enable_grad():
            if isinstance(engine, Spells):
                ids = torch.zeros(1, dtype=torch.int64, device=tokens.device)
                log_p = engine.spell(Batch(tokens, ids, condition), Rows(0, ids))[0, target]
            else:
                log_p = engine.next_logits(tokens, condition)[0, target].log_softmax(-1)[tokens[0, target]]
            if not seen or not log_p.requires_grad:
                return None
            module, asked, leaf = seen[0]
            (g,) = torch.autograd.grad(log_p, leaf, allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    if g is None or asked.shape[1] not in (tokens.shape[1], tokens.shape[1] + 1):
        return None
    with torch.no_grad():
        expected = engine.next_logits(tokens, condition)[0, :-1].softmax(-1)  # (T, V)
        out = torch.zeros(tokens.shape[1], dtype=torch.float64)
        rows_of = getattr(engine, "symbol_rows", None)  # where its table has another order
        for j in range(min(target, asked.shape[1] - 1)):
            slot = j + 1  # slot 0 holds the start
            first = int(asked[0, slot]) - int(tokens[0, j])  # where the alphabet of place j begins in the table
            own = module.weight[first : first + space.sizes[j]] if rows_of is None else module.weight[rows_of]
            away = leaf[0, slot] - expected[j, : len(own)].to(own.dtype) @ own
            out[j] = float(g[0, slot] @ away)
    return out


def rolled_out(engine: nn.Module, tokens: Tensor, condition: Condition) -> Tensor:
    """Attention followed through all layers: (T, T), row t the share that each symbol has in the guess of symbol t.

    R = product over layers of (A + 1) / 2, A the mean over heads        Abnar & Zuidema 2020, arXiv:2005.00928, eq. 1
    """
    assert isinstance(engine, Attends)
    length = tokens.shape[1]
    total = torch.eye(length, dtype=torch.float64)
    for site in engine.sites():
        weights = engine.attention(site, tokens, condition)[0].double().mean(0).cpu()  # (T, T)
        total = (0.5 * weights + 0.5 * torch.eye(length, dtype=torch.float64)) @ total
    # column s is slot s, which holds symbol s - 1; column 0 is the start
    return torch.cat((total[:, 1:], total.new_zeros(length, 1)), dim=1)


def _allowed(engine: object, where_is: Tensor, target: int) -> Tensor:
    return where_is != target if isinstance(engine, Unmasks) else where_is < target


def _targets(engine: object, where_is: Tensor, target: int, seed: int) -> list[int]:
    """Places that the check asks about: this one and others, at random where there are many."""
    random = np.random.default_rng([abs(seed), 11])
    could = [int(t) for t in where_is if int(_allowed(engine, where_is, int(t)).sum()) >= 2]
    most = TARGETS if len(where_is) <= 64 else TARGETS // 4 if isinstance(engine, Unmasks) else TARGETS
    chosen = {could[k] for k in random.permutation(len(could))[:most].tolist()}
    return sorted(chosen | {target})


def _further(model: Fitted, data: Items, asked: int, seed: int) -> list[tuple[Tensor, Condition]]:
    """Real items that the check asks about too where one item has too few symbols."""
    if asked >= ENOUGH:
        return []
    random = np.random.default_rng([abs(seed), 13])
    count = min(len(data), -(-ENOUGH // max(1, asked)))
    items = data.take(np.sort(random.permutation(len(data))[:count]))
    y, condition = model.event(items, Rows(seed, torch.arange(count)).fork("further"))
    device = next((p.device for p in model.engine.parameters()), torch.device("cpu"))
    y, condition = y.to(device), condition.to(device)
    return [(y[k : k + 1], condition.take(slice(k, k + 1))) for k in range(count)]


def _again(
    engine: object, space: Tokens, y: Tensor, condition: Condition, rows: Rows, where_is: Tensor, seed: int
) -> tuple[Tensor, Tensor, list[int]]:
    """What `left_out` or `unknown` says of another item, and what the check's own measurement says."""
    asked = _targets(engine, where_is, int(where_is[-1]), seed)
    if isinstance(engine, Unmasks):
        return unknown(engine, y, condition, asked), swapped(engine, y, condition, asked, rows.fork("again")), asked
    assert isinstance(engine, Predicts)
    first, second = (left_out(engine, space, y, condition, rows.fork(name))[0] for name in ("first", "second"))
    return first, second, asked


def _check(engine: object, measured: list[tuple[Tensor, Tensor, list[int]]], where_is: Tensor) -> Faithfulness:
    """Many symbols: does the place that is named first cost most when it is taken away anew?

    Args:
        measured: of each item (T, T) nats that symbol t (column) loses without symbol j, measured twice, and the
            places t that are asked about.
    """
    share, near = [], []
    for first, second, targets in measured:
        for t in targets:
            allowed = where_is[_allowed(engine, where_is, t)]
            truth = second[allowed, t]
            if len(allowed) < 2 or float(truth.max()) < 0.05:
                continue  # there is no choice, or it rests on nothing and any answer would do
            named, last = int(first[allowed, t].argmax()), int((allowed - t).abs().argmin())
            share.append(float(truth[named] / truth.max()))
            near.append(float(truth[last] / truth.max()))
    n, whose = len(share), "this item" if len(measured) == 1 else f"{len(measured)} items"
    own, other = np.clip(np.array(share), 0.0, 1.0), np.clip(np.array(near), 0.0, 1.0)
    question = (
        f"For {n} symbols of {whose} that rest on others, the place named as most important was replaced anew, by "
        "other draws. What that costs is counted as a share of the most that any place costs."
    )
    if n < 2:
        none = Interval(0.0, 0.0, 1.0, n)
        return Faithfulness(question, none, 1.0, none, "the nearest symbol")
    gap = paired_difference(lambda k: float(own[k].mean()), lambda k: float(other[k].mean()), n, seed=0)
    return Faithfulness(
        question,
        wilson(float(own.sum()), n),
        1.0,
        wilson(float(other.sum()), n),
        "the nearest symbol",
        margin=Interval(gap.value, gap.low, gap.high, n),
    )


def _ranks_agree(a: Tensor, b: Tensor) -> float:
    """Spearman's correlation of (N,) and (N,); 0 where one is flat."""
    x, y = (v.argsort().argsort().double() for v in (a, b))
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y) / (x.norm() * y.norm()).clamp_min(1e-12))
