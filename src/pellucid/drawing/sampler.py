"""Drawing items from an engine: as it comes, under conditions, around known parts, or again until enough fit.

What is asked for is met on the first of these routes that serves it:

    condition    the model was fitted with it as a condition                                         exact
    completion   the engine fills what is unknown around what is known (solvers/known.py)            exact
    rejection    candidates are drawn and those that fit are kept: slow where they are rare          exact
    completion   a denoiser walks around what is known, where too few candidates fit                 approximate

The draw says which it was, how many candidates it took and what the route promises.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Denoises, How, Predicts, Samples, Unmasks
from pellucid.core.codec import Bridge, Carries, Codec, Completes, Constrains, Fills, Part, Remarks
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.rows import Rows
from pellucid.core.run import Noticed, Run
from pellucid.core.space import zeros
from pellucid.core.trace import Silent, Trace
from pellucid.domains.kinds import Data
from pellucid.domains.wishes import Others
from pellucid.drawing.drawn import Draw, Promise
from pellucid.drawing.shares import groups_of
from pellucid.drawing.words import Where, condition_of, in_words, listed, names_of, refuse_lists
from pellucid.solvers.known import complete
from pellucid.training.allocator import keep_freed_memory

__all__ = ["Sampler", "device_of"]

Drawn = tuple[Tensor, Condition, Tensor]  # x (B, *event), their conditions, and their names

CANDIDATES = 200  # rejection gives up after this many candidates for each asked row (and 20,000 in all)
LARGE = 2000  # candidates in one batch, at most, where few of them fit
PILOT = 2000  # candidates after which a denoiser goes round what is known, when the rest would be too many
WATCHED = (1000, 10)  # candidates that constraints alone may cost: so many, and so many for each row
POOL = 500  # rows that missing cells are filled from
POOL_FROM = 2**40  # their names, far from those of any draw
RANGED = re.compile(r"\s*(!=|[<>]=?|.*\.\.)")


@dataclass(frozen=True)
class _Wish:
    """What all rows of one job shall be.

    asked, against: conditions, each one value or a list with one a row. other: words that are no condition.
    part: what of each event is known from the start. watch: are constraints to be watched?
    """

    asked: Where
    against: Where
    other: Where
    part: Part | None
    watch: bool


@dataclass(frozen=True, eq=False)
class Sampler:
    """An engine with its codec and bridge, ready to draw.

    name: of the family, for errors. seed, how, batch, run: as in `Fitted.sample`.
    """

    name: str
    engine: nn.Module
    codec: Codec[Any]
    bridge: Bridge
    seed: int
    how: How
    batch: int
    run: Run

    def draw(
        self,
        n: int | None,
        where: Where | None,
        against: Where | None,
        ids: Tensor | Sequence[int] | None,
        trace: Trace | None,
        *,
        missing: bool = True,
        balance: str | None = None,
        shares: Mapping[str, Mapping[str, float]] | None = None,
    ) -> Draw:
        """Samples as `Fitted.sample` says."""
        names = names_of(n, ids)
        keep_freed_memory()
        if self.batch < 1:
            raise BadInput(f"batch is {self.batch}", accepted="a whole number of at least 1")
        words, unlike = listed("where", where, len(names)), listed("against", against, len(names))
        if unlike and not hasattr(self.how, "against"):
            raise MissingCapability(f"'{self.name}' cannot draw against something", accepted="diffusion, edm, ddpm")
        if not missing and not isinstance(self.codec, Fills):
            raise BadInput(f"missing=False came for {self.codec.kind}", accepted="tables, which have missing cells")
        if balance is not None or shares:
            if ids is not None:
                raise BadInput("ids were given together with shares", accepted="one of them")
            found = self._shared(len(names), words, unlike, balance, shares or {})
        else:
            found = self._one(names, words, unlike, trace, chosen=ids is not None)
        return found if missing else self._filled(found)

    # ---------------------------------------------------------------------------------------------- one kind of rows

    def _one(self, names: Tensor, words: Where, unlike: Where, trace: Trace | None, *, chosen: bool) -> Draw:
        """Rows of one wish; candidates are named from names[0] on, unless the names were chosen."""
        codec = self.codec
        asked = {k: v for k, v in words.items() if k in codec.conditions and not self._ranged(k, v)}
        other = {k: v for k, v in words.items() if k not in asked}
        remarks = (*codec.remarks(asked), *codec.remarks(unlike)) if isinstance(codec, Remarks) else ()
        for notice in remarks:
            self.run.emit(notice)
        if other and chosen:
            raise BadInput(
                f"ids were given together with where {in_words(other)}",
                accepted="one of them",
                why="This name is no condition of the model, so rows are drawn until enough meet it.",
            )
        watch = isinstance(codec, Constrains) and bool(codec.watched())
        if other:
            refuse_lists({**unlike, **asked, **other}, unlike, other)
            # refuses wrong words before any work
            codec.meets(self._items(*self._none()), other)
        if isinstance(codec, Completes):
            codec.possible({k: v for k, v in words.items() if not isinstance(v, (list, tuple))})
        wish = _Wish(asked, unlike, other, self._completed_by(other), watch)
        if not other and (chosen or not watch):
            return self._straight(names, wish, remarks, trace)
        found = self._kept(names, wish)
        if found is None:  # too few candidates fit, and the engine can denoise around what is known
            assert isinstance(codec, Completes)
            found = self._kept(names, replace(wish, part=_merged(codec.part(other))), approximate=True)
            assert found is not None
        return replace(found, notices=(*remarks, *found.notices), against=unlike)

    def _ranged(self, name: str, word: object) -> bool:
        """Is the word about a condition more than one of its values?"""
        if isinstance(word, Others):
            return True
        if not isinstance(self.codec, Completes) or not isinstance(word, str) or not RANGED.match(word):
            return False
        try:
            self.codec.asked({name: word}, 1)  # a class may be called ">50K"
        except BadInput:
            return True
        return False

    def _straight(self, names: Tensor, wish: _Wish, remarks: tuple[Noticed, ...], trace: Trace | None) -> Draw:
        """Each named row once; with a trace all in one batch."""
        step = self.batch if trace is None else max(1, len(names))
        parts = [self._none()]
        for i in range(0, len(names), step):
            go_on(self.run, i, len(names), tell=len(names) > step)
            some = names[i : i + step]
            parts.append((*self._draw(some, _cut(wish, range(i, i + len(some))), trace or Silent()), some))
        go_on(self.run, len(names), len(names), tell=len(names) > step)
        x, condition, _ = _joined(parts)
        items = self._items(x, condition, names)
        self._check(items)
        route = "condition" if wish.asked else "free"
        return Draw(
            items, x, condition, names, self.seed, self.how, route, self.codec, remarks, wish.against, tried=len(names)
        )

    def _check(self, items: Data) -> None:
        """No row leaves that breaks a constraint."""
        if isinstance(self.codec, Constrains) and self.codec.watched():
            bad = int(self.codec.broken(items).sum())
            if bad:
                raise BadInput(
                    f"{bad:,} of {len(items):,} rows break a constraint and cannot be moved to where it holds",
                    accepted=f"rows that keep {', '.join(self.codec.watched())}",
                    why="A computed column stands in it.",
                    next="Ask for n rows instead of ids, which draws such rows again, or train for longer.",
                )

    def _draw(self, names: Tensor, wish: _Wish, trace: Trace) -> tuple[Tensor, Condition]:
        """Events in the codec's space, and the conditions they were drawn for."""
        rows, how = Rows(self.seed, names), self.how
        condition = self._condition(rows, wish.asked)
        if wish.against:
            how = replace(how, against=self._condition(rows, wish.against))  # type: ignore[call-arg]
        engine, device = self.engine, device_of(self.engine)
        assert isinstance(engine, Samples)
        engine.eval()
        with torch.no_grad():
            at, given = rows.fork("sample").to(device), condition.to(device)
            if wish.part is None:
                y = engine.sample(at, given, how, trace)
                return self.bridge.back(y.cpu(), rows.fork("bridge")), condition
            assert isinstance(self.bridge, Carries)
            part = wish.part.x.expand(len(rows), *wish.part.x.shape)
            known = self.bridge.there(part, rows.fork("bridge")).to(device)
            mask = self.bridge.carry(wish.part.known)[None].expand(known.shape).to(device)
            y = complete(engine, known, mask, given, at, how, trace).x
            x = self.bridge.back(y.cpu(), rows.fork("bridge"))
            return torch.where(wish.part.known, part, x), condition

    def _condition(self, rows: Rows, asked: Where) -> Condition:
        condition = self.codec.prior(rows.fork("condition")) if self.codec.conditions else Condition()
        # a class that was drawn for itself would contradict a caption that was asked for: what is not said is left out
        condition = condition.nothing() if asked else condition
        for name, value in asked.items():
            said = condition_of(self.codec, name, value, len(rows))
            condition = Condition(
                {**condition.values, name: said.values[name]}, {**condition.given, name: said.given[name]}
            )
        for name, value in condition.values.items():
            if value.is_floating_point() and not bool(torch.isfinite(value[condition.given[name]]).all()):
                raise BadInput(f"condition '{name}' holds NaN or an infinite number", accepted="finite numbers")
        return condition

    def _none(self) -> Drawn:
        """No rows."""
        return zeros(self.codec.space, 0), Condition.blank(self.codec.conditions, 0), torch.arange(0)

    def _items(self, x: Tensor, condition: Condition, names: Tensor) -> Data:
        found: Data = self.codec.decode(x, condition, Rows(self.seed, names).fork("decode"))
        return found

    # --------------------------------------------------------------------------------------- completing and rejecting

    def _completed_by(self, other: Where) -> Part | None:
        """What the engine can take as known and still draw the rest exactly."""
        if not other or not isinstance(self.codec, Completes) or not isinstance(self.bridge, Carries):
            return None
        parts = self.codec.part(other)
        if isinstance(self.engine, Unmasks):
            return _merged(parts)
        if not isinstance(self.engine, Predicts):
            return None
        while parts:  # only a beginning can be known to an engine that reads from left to right
            mask = self.bridge.carry(_merged(parts).known)  # type: ignore[union-attr]
            length = int(mask.long().cummin(dim=0).values.sum())
            fitting = tuple(p for p in parts if not bool(self.bridge.carry(p.known)[length:].any()))
            fitting = tuple(p for p in fitting if bool(self.bridge.carry(p.known).any()))
            if len(fitting) == len(parts):
                return _merged(parts)
            parts = fitting
        return None

    def _can_denoise(self, wish: _Wish) -> bool:
        able = isinstance(self.engine, Denoises) and isinstance(self.bridge, Carries) and wish.part is None
        return able and isinstance(self.codec, Completes) and len(self.codec.part(wish.other)) > 0

    def _kept(self, names: Tensor, wish: _Wish, *, approximate: bool = False) -> Draw | None:
        """Candidates that meet the words and keep the constraints.

        Candidate i is the sample of id i, so the rows kept depend neither on n nor on the batch. Candidates that
        merely broke a constraint are moved to where it holds, once too many were drawn.

        None when so few meet the words that a denoiser should go round what is known.
        """
        if any(isinstance(v, (list, tuple)) for v in (*wish.asked.values(), *wish.against.values())):
            return self._kept_one_by_one(names, wish)
        n, first = len(names), int(names[0]) if len(names) else 0
        most = max(20_000, CANDIDATES * n) if wish.other else WATCHED[0] + WATCHED[1] * n
        start, kept, spare, found, met = 0, [self._none()], [self._none()], 0, dict.fromkeys(wish.other, 0)
        while found < n and start < most:
            if not approximate and start >= PILOT and found * most < n * start and self._can_denoise(wish):
                return None
            go_on(self.run, found, n, tell=start > 0)
            size = self.batch if start == 0 else self._enough(n - found, found / start)
            ids = first + torch.arange(start, min(start + size, most))
            x, condition = self._draw(ids, wish, Silent())
            good = torch.from_numpy(self._good(x, condition, ids, wish, met))
            kept.append((x[good], condition.take(good), ids[good]))
            spare.append((x[~good], condition.take(~good), ids[~good]))
            found, start = found + int(good.sum()), start + len(ids)
        if found < n and wish.other:
            raise self._too_rare(found, start, met, wish)
        go_on(self.run, n, n, tell=start > self.batch)
        drawn = _joined([*kept, *spare] if found < n else kept)
        x, condition, ids = drawn[0][:n], drawn[1].take(slice(0, n)), drawn[2][:n]
        tried = start if found < n or not n else int(ids[-1]) - first + 1
        return self._made(x, condition, ids, wish, tried, max(0, n - found), approximate)

    def _enough(self, rows: int, share: float) -> int:
        """Candidates of a next batch: as many as the rows that are left should take; rows of a table are small."""
        if not isinstance(self.codec, Completes):
            return self.batch
        return int(min(max(LARGE, self.batch), max(self.batch, 1.1 * rows / max(share, 1e-6))))

    def _kept_one_by_one(self, names: Tensor, wish: _Wish) -> Draw:
        """The same where words differ from row to row: the k-th candidate for row i has the id i + k n."""
        n, tried = len(names), 0
        parts: dict[int, Drawn] = {}
        open_ = list(range(n))
        for turn in range(WATCHED[1]):
            left = []
            for i in range(0, len(open_), self.batch):
                go_on(self.run, n - len(open_), n, tell=turn > 0)
                some = open_[i : i + self.batch]
                ids = names[some] + turn * n
                cut = _cut(wish, some)
                x, condition = self._draw(ids, cut, Silent())
                good = self._good(x, condition, ids, cut, {})
                parts |= {
                    row: (x[k : k + 1], condition.take(slice(k, k + 1)), ids[k : k + 1]) for k, row in enumerate(some)
                }
                left += [row for row, fits in zip(some, good, strict=True) if not fits]
                tried += len(some)
            open_ = left
            if not open_:
                break
        x, condition, ids = _joined([self._none(), *(parts[row] for row in range(n))])
        return self._made(x, condition, ids, wish, tried, len(open_), False)

    def _made(
        self, x: Tensor, condition: Condition, ids: Tensor, wish: _Wish, tried: int, moved: int, approximate: bool
    ) -> Draw:
        """The draw of these rows, with what they cost; `moved` of them break a constraint until they are decoded."""
        items = self._items(x, condition, ids)
        self._check(items)
        notices = self._cost(len(ids), tried, moved, wish, approximate)
        route = "completion" if wish.part is not None else "rejection" if wish.other else "free"
        route = "condition" if route == "free" and wish.asked else route
        promise: Promise = "approximate" if approximate else "exact"
        return Draw(
            items, x, condition, ids, self.seed, self.how, route, self.codec, notices, promise=promise, tried=tried
        )

    def _good(
        self, x: Tensor, condition: Condition, names: Tensor, wish: _Wish, met: dict[str, int]
    ) -> NDArray[np.bool_]:
        """(B,) bool: candidates that fit."""
        good = np.ones(len(x), dtype=np.bool_)
        if wish.other:
            items = self._items(x, condition, names)
            for name, word in wish.other.items():
                one = self.codec.meets(items, {name: word})
                met[name] += int(one.sum())
                good &= one
        if wish.watch:
            assert isinstance(self.codec, Constrains)
            good &= ~self.codec.moved(x, condition, Rows(self.seed, names).fork("decode"))
        return good

    def _too_rare(self, found: int, tried: int, met: Mapping[str, int], wish: _Wish) -> BadInput:
        """The error for words that hardly any candidate meets; with several, what each of them costs."""
        each = "; ".join(f"{k}={wish.other[k]} {count:,}" for k, count in met.items())
        alone = f" Met one by one: {each}." if len(met) > 1 else ""
        return BadInput(
            f"only {found} of {tried:,} candidates met {in_words(wish.other)}",
            why=f"The model makes such rows too rarely to wait for them.{alone}",
            next=f"Ask for fewer rows, for less, or fit with --target {next(iter(wish.other))}.",
        )

    def _cost(self, n: int, tried: int, moved: int, wish: _Wish, approximate: bool) -> tuple[Noticed, ...]:
        """What a user should know of how the rows came about."""
        said = []
        share = f"{(n - moved) / max(1, tried):.1%}"
        if wish.part is not None:
            how = "approximate: denoised around what is known" if approximate else "exact: the rest is drawn given them"
            said.append(Noticed(topic="route", text=f"{', '.join(wish.part.names)} known from the start ({how})."))
        if wish.other and tried > n:
            text = f"{n:,} of {tried:,} candidates kept ({share}), which met {in_words(wish.other)}."
            said.append(Noticed(topic="where", text=text, count=tried))
        elif wish.watch and tried > n:
            assert isinstance(self.codec, Constrains)
            text = (
                f"{n - moved:,} of {tried:,} rows drawn ({share}) kept {', '.join(self.codec.watched())} by themselves"
            )
            text += f"; {moved:,} others were moved to where it holds." if moved else "; the others were drawn again."
            said.append(Noticed(topic="constraints", text=text, count=tried - n + moved))
        for notice in said:
            self.run.emit(notice)
        return tuple(said)

    # ------------------------------------------------------------------------------------------- shares, missing cells

    def _shared(
        self, n: int, words: Where, unlike: Where, balance: str | None, shares: Mapping[str, Mapping[str, float]]
    ) -> Draw:
        """Rows of each value in their share, in an order drawn from the seed."""
        name, groups = groups_of(self.codec, n, balance, shares)
        if name in words:
            raise BadInput(f"'{name}' is asked for and shared out", accepted="one of both")
        refuse_lists({**words, **unlike}, unlike, {name: ""})
        parts, first = [], 0
        for word, count in groups:
            ids = torch.arange(first, first + count)
            part = self._one(ids, {**words, name: word}, unlike, None, chosen=False)
            parts.append(part)
            first = max([first + count, first + part.tried, *(part.ids + 1).tolist()])
        x, condition, ids = _joined([self._none(), *((p.x, p.condition, p.ids) for p in parts)])
        order = torch.from_numpy(np.random.default_rng([abs(self.seed), n]).permutation(n))
        x, condition, ids = x[order], condition.take(order), ids[order]
        counts = ", ".join(f"{word} {count:,}" for word, count in groups[:8]) + (", ..." if len(groups) > 8 else "")
        said = Noticed(topic="shares", text=f"Rows of each '{name}': {counts}.", count=n)
        self.run.emit(said)
        notices = tuple(dict.fromkeys(notice for p in parts for notice in p.notices))
        promise: Promise = "approximate" if any(p.promise == "approximate" for p in parts) else "exact"
        routes = {p.route for p in parts}
        route = routes.pop() if len(routes) == 1 else "rejection"
        tried = sum(p.tried for p in parts)
        items = self._items(x, condition, ids)
        return Draw(
            items,
            x,
            condition,
            ids,
            self.seed,
            self.how,
            route,
            self.codec,
            (*notices, said),
            unlike,
            promise=promise,
            tried=tried,
        )

    def _filled(self, draw: Draw) -> Draw:
        """Missing cells filled from the most similar of other rows that the model draws.

        These rows are the same for every draw of the seed, so that a row depends on its name alone as before.
        """
        assert isinstance(self.codec, Fills)
        gone = int(self.codec.lacks(draw.x).sum())
        if not gone:
            return draw
        wish, pool = _Wish({}, {}, {}, None, False), [self._none()]
        for i in range(0, POOL, self.batch):
            names = POOL_FROM + torch.arange(i, min(POOL, i + self.batch))
            pool.append((*self._draw(names, wish, Silent()), names))
        x = self.codec.filled(draw.x, _joined(pool)[0])
        items = self._items(x, draw.condition, draw.ids)
        self._check(items)
        text = (
            f"{gone:,} of {len(draw):,} rows had missing cells, filled from the most similar of {POOL} more rows drawn."
        )
        said = Noticed(topic="missing", text=text, count=gone)
        self.run.emit(said)
        return replace(draw, items=items, x=x, notices=(*draw.notices, said))


def device_of(engine: nn.Module) -> torch.device:
    """Where its weights lie."""
    return next((p.device for p in engine.parameters()), torch.device("cpu"))


# ---------------------------------------------------------------------------------------------------------- in order


def _cut(wish: _Wish, at: Sequence[int]) -> _Wish:
    """The wish of some of the rows."""

    def some(words: Where) -> Where:
        return {k: [v[i] for i in at] if isinstance(v, (list, tuple)) else v for k, v in words.items()}

    return replace(wish, asked=some(wish.asked), against=some(wish.against))


def _joined(parts: Sequence[Drawn]) -> Drawn:
    """Rows of several draws, one after another."""
    return (
        torch.cat([p[0] for p in parts]),
        Condition.cat([p[1] for p in parts]),
        torch.cat([p[2] for p in parts]),
    )


def _merged(parts: Sequence[Part]) -> Part | None:
    """What several words fix together."""
    if not parts:
        return None
    x, known, names = parts[0].x, parts[0].known, parts[0].names
    for part in parts[1:]:
        x, known, names = torch.where(part.known, part.x, x), known | part.known, (*names, *part.names)
    return Part(x, known, names)


def go_on(run: Run, done: int, total: int, tell: bool) -> None:
    """Stop if asked to; tell how far sampling is, when that takes more than a moment."""
    run.step("sample", done, total, came=f"sampling stopped after {done} of {total} samples", tell=tell)
