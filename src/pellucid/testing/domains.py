"""Laws that every kind of data keeps, whoever wrote its domain.

    from pellucid.testing import check_domain
    check_domain(Images(), pictures)

learns a codec from the items and asks it to write and read them, also one by one, after being stored, and for events
that no item was ever encoded to, as a model may draw them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pellucid.core.blocks import Block
from pellucid.core.codec import Codec, Domain, Measures
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.settings import from_plain, to_plain
from pellucid.core.space import Mixed, Real, Space, Tokens
from pellucid.domains.frames import TableData
from pellucid.domains.pictures import Pictures
from pellucid.domains.text_files import TextData
from pellucid.testing.subject import Broken, LawBroken, largest_gap, made_up, require, what_was_seen

__all__ = ["LAWS", "Rowwise", "check_domain"]


class Rowwise(Protocol):
    """What laws ask of items besides their codec: a length, and rows by position."""

    def __len__(self) -> int: ...

    def take(self, index: Sequence[int]) -> Any: ...


Items = TypeVar("Items", bound=Rowwise)


@dataclass(frozen=True, eq=False)
class Learned:
    """A domain, the items it was shown and the codec it learned. x: (N, *event)."""

    domain: Domain[Any]
    items: Any
    codec: Codec[Any]
    x: Tensor

    def rows(self, many: int | None = None) -> Rows:
        return Rows(5, torch.arange(len(self.items) if many is None else many)).fork("law")


def check_domain(domain: Domain[Items], items: Items) -> None:
    """Hold a domain to its laws, on some items of its kind.

    Args:
        items: three or more, with everything the kind can carry: classes, missing values, extremes.

    Raises:
        LawBroken: names every broken law, what it says and what was seen.
    """
    if len(items) < 3:
        raise BadInput(f"there are {len(items)} items", accepted="3 or more", why="laws compare rows with one another")
    codec = domain.learn(items)
    subject = Learned(domain, items, codec, codec.encode(items))
    seen = {check.__name__: what_was_seen(check, subject) for check in LAWS}
    broken = {name: text for name, text in seen.items() if text is not None}
    if broken:
        raise LawBroken(f"domain '{domain.kind}'", broken)


def codec_is_of_its_kind(learned: Learned) -> None:
    """The codec carries its domain's kind, and the domain's settings survive JSON."""
    require(learned.codec.kind == learned.domain.kind, f"kinds '{learned.domain.kind}' and '{learned.codec.kind}'")
    again = from_plain(type(learned.domain), json.loads(json.dumps(to_plain(learned.domain))))
    require(again == learned.domain, f"{learned.domain} was read back as {again}")


def events_lie_in_their_space(learned: Learned) -> None:
    """Encoded items are events of the codec's space, in its shape, dtype and alphabet or grid."""
    x, space = learned.x, learned.codec.space
    require(x.shape == (len(learned.items), *space.shape), f"shape {tuple(x.shape)} for events {space.shape}")
    lies_in(space, x, "an event")


def rows_are_encoded_by_themselves(learned: Learned) -> None:
    """An item has the same event alone, among others and after learning is over; no items give no events."""
    for i in (0, len(learned.items) - 1):
        alone = learned.codec.encode(learned.items.take([i]))
        require(largest_gap(alone, learned.x[i : i + 1]) == 0.0, f"item {i} alone is another event")
    none = learned.codec.encode(learned.items.take([]))
    require(none.shape == (0, *learned.codec.space.shape), f"no items gave {tuple(none.shape)}")


def decoding_undoes_encoding(learned: Learned) -> None:
    """Items come back within the codec's tolerance, and as the same events."""
    codec = learned.codec
    back = codec.decode(learned.x, codec.known(learned.items), learned.rows())
    gap = apart(learned.items, back)
    require(gap is None or gap <= codec.tolerance(), f"an item came back {gap} away, {codec.tolerance()} is allowed")
    again = codec.encode(back)
    moved = largest_gap(again, learned.x)
    require(moved <= max(1e-5, 10 * codec.tolerance()), f"an event came back {moved:.1e} of the largest away")


def rows_are_decoded_by_themselves(learned: Learned) -> None:
    """An event is the same item alone and among others; no events give no items."""
    codec, known, rows = learned.codec, learned.codec.known(learned.items), learned.rows()
    whole = codec.decode(learned.x, known, rows)
    for i in (0, len(learned.items) - 1):
        part = slice(i, i + 1)
        alone = codec.decode(learned.x[part], known.take(part), rows.take(part))
        gap = apart(whole.take([i]), alone)
        require(gap is None or gap == 0.0, f"event {i} alone is another item, {gap} away")
    none = codec.decode(learned.x[:0], known.take(slice(0, 0)), rows.take(slice(0, 0)))
    require(len(none) == 0, f"no events gave {len(none)} items")


def whatever_is_drawn_can_be_read(learned: Learned) -> None:
    """Events that no item was encoded to, also far-off ones, are read as items that can be written again."""
    codec = learned.codec
    drawn = made_up(codec.space, {}, 50, seed=3).x
    far = drawn if isinstance(codec.space, Tokens) else stretched(codec.space, drawn)
    prior = codec.prior(learned.rows(50))
    for x in (drawn, far):
        items = codec.decode(x, prior, learned.rows(50))
        require(len(items) == 50, f"50 events gave {len(items)} items")
        lies_in(codec.space, codec.encode(items), "the event of a drawn item")


def conditions_are_values_of_their_spaces(learned: Learned) -> None:
    """What items carry, and what is drawn for lack of it, are values of the codec's condition spaces."""
    codec, spaces = learned.codec, learned.codec.conditions
    many = len(learned.items)
    for what, condition in {"known": codec.known(learned.items), "prior": codec.prior(learned.rows())}.items():
        require(set(condition.values) == set(spaces), f"{what} names {sorted(condition.values)}")
        for name, space in spaces.items():
            value, given = condition.values[name], condition.given[name]
            require(value.shape == (many, *space.shape), f"{what} '{name}' has shape {tuple(value.shape)}")
            require(given.shape == (many,) and given.dtype == torch.bool, f"{what} '{name}': flags are {given.dtype}")
            lies_in(space, value[given], f"{what} '{name}'")
            require(what != "prior" or given.all(), f"'{name}' was drawn and is not given")


def drawn_conditions_ignore_the_batch(learned: Learned) -> None:
    """A condition drawn for a row is the same in any batch."""
    rows = learned.rows(40)
    whole, some = learned.codec.prior(rows), learned.codec.prior(rows.take(torch.tensor([7, 3])))
    for name, value in whole.values.items():
        require(largest_gap(some.values[name], value[[7, 3]]) == 0.0, f"'{name}' was drawn otherwise")
    require(len(learned.codec.prior(rows.take(slice(0, 0))).given) == len(whole.given), "no rows lost a name")


def unknown_words_are_refused(learned: Learned) -> None:
    """Words that name nothing are BadInput; no words ask for nothing."""
    for ask in (lambda w: learned.codec.asked(w, 3), lambda w: learned.codec.meets(learned.items, w)):
        refused_as_bad_input(ask, {"no such name": 1}, "a name that does not exist")
    nothing = learned.codec.asked({}, 3)
    require(set(nothing.values) == set(learned.codec.conditions), f"asking for nothing names {sorted(nothing.values)}")
    require(not any(bool(flag.any()) for flag in nothing.given.values()), "asking for nothing gave something")
    met = learned.codec.meets(learned.items, {})
    require(met.shape == (len(learned.items),) and bool(met.all()), "no words were not met by all")
    for name in learned.codec.conditions:
        refused_as_bad_input(lambda w: learned.codec.asked(w, 3), {name: "no such value"}, f"a value '{name}' has not")


def a_stored_codec_is_the_same(learned: Learned) -> None:
    """Written as JSON and tensors and read back, the codec writes and reads as before."""
    codec = learned.codec
    again = reread(codec, json.loads(json.dumps(codec.plain())), codec.tensors())
    require(again.space == codec.space, f"the space became {again.space}")
    require(dict(again.conditions) == dict(codec.conditions), f"the conditions became {dict(again.conditions)}")
    require(largest_gap(again.encode(learned.items), learned.x) == 0.0, "items became other events")
    require(again.plain() == codec.plain(), "it is stored otherwise the second time")
    known = codec.known(learned.items)
    gap = apart(codec.decode(learned.x, known, learned.rows()), again.decode(learned.x, known, learned.rows()))
    require(gap is None or gap == 0.0, f"events became other items, {gap} away")


def a_damaged_codec_is_refused(learned: Learned) -> None:
    """A stored codec that lacks something, or holds something strange, is BadInput and nothing else."""
    plain, tensors = learned.codec.plain(), learned.codec.tensors()
    for key in plain:
        without = {k: v for k, v in plain.items() if k != key}
        refused_as_bad_input(lambda p: reread(learned.codec, p, tensors), without, f"'{key}' missing")
    refused_as_bad_input(lambda p: reread(learned.codec, p, tensors), {**plain, "strange": 1}, "a strange name")
    for name, tensor in tensors.items():
        fewer = {k: t for k, t in tensors.items() if k != name}
        refused_as_bad_input(lambda t: reread(learned.codec, plain, t), fewer, f"tensor '{name}' missing")
        if tensor.is_floating_point() and tensor.numel():
            damaged = {**tensors, name: torch.full_like(tensor, torch.nan)}
            refused_as_bad_input(lambda t: reread(learned.codec, plain, t), damaged, f"tensor '{name}' of NaN")


def volumes_are_one_a_row(learned: Learned) -> None:
    """A lossless codec says for each row how much it stretches: finite numbers (B,), a row at a time."""
    codec = learned.codec
    if not isinstance(codec, Measures):
        return
    volume = codec.log_volume(learned.x)
    require(volume.shape == (len(learned.x),), f"shape {tuple(volume.shape)}")
    require(volume.isfinite().all(), "a volume is not finite")
    require(largest_gap(codec.log_volume(learned.x[:1]), volume[:1]) <= 1e-9, "a row alone has another volume")
    require(codec.log_volume(learned.x[:0]).shape == (0,), "no rows gave rows")
    require(codec.dimensions() >= 1, f"{codec.dimensions()} dimensions")
    if isinstance(codec.space, Tokens) or (isinstance(codec.space, Real) and codec.space.levels is not None):
        require(not volume.any(), "symbols and levels have probabilities, not densities, and are not stretched")


def items_can_be_shown(learned: Learned) -> None:
    """Items become a report's block: all of them, one, and no more than asked for."""
    for many in (len(learned.items), 1):
        block = learned.codec.show(learned.items.take(list(range(many))), limit=2)
        require(isinstance(block, Block), f"showing gave a {type(block).__name__}")


def lies_in(space: Space, x: Tensor, what: str) -> None:
    """Raise `Broken` unless x (B, *event) holds events of the space."""
    if isinstance(space, Mixed):
        parts = space.split(x)
        require(largest_gap(space.join(parts), x) == 0.0, f"{what} holds symbols that are no whole numbers")
        for f in space.fields:
            lies_in(f.space, parts[f.name], f"{what}, field '{f.name}',")
            absent = ~space.present(parts, f)
            require(not parts[f.name][absent].any(), f"{what} has a number in '{f.name}' where none exists")
    elif isinstance(space, Tokens):
        require(x.dtype == torch.int64, f"{what} is {x.dtype}")
        require(((x >= 0) & (x < torch.tensor(space.sizes))).all(), f"{what} has symbols beyond the alphabet")
        after = (x == 0).long().cumsum(1) - (x == 0).long() > 0
        require(not (space.ends and x[after].any()), f"{what} goes on after symbol 0")
    else:
        require(x.is_floating_point() and bool(x.isfinite().all()), f"{what} is not finite")
        if space.levels is not None:
            level = (x.double() - space.low) / space.step
            require(((level - level.round()).abs() < 1e-3).all(), f"{what} lies between levels")
            require(((level > -0.5) & (level < space.levels - 0.5)).all(), f"{what} lies beyond the levels")


def stretched(space: Space, x: Tensor) -> Tensor:
    """The same events with numbers far beyond what was seen; symbols and absences stay."""
    if not isinstance(space, Mixed):
        return 30 * x
    parts = space.split(x)
    return space.join(
        {f.name: 30 * parts[f.name] if isinstance(f.space, Real) else parts[f.name] for f in space.fields}
    )


def apart(a: Any, b: Any) -> float | None:
    """How far items are apart: the largest difference, relative to each column's range; infinite where no number.

    None for kinds of items that this page does not know.
    """
    if isinstance(a, Pictures) and isinstance(b, Pictures):
        if a.pixels.shape != b.pixels.shape or (a.labels and b.labels and a.labels != b.labels):
            return float("inf")
        return float(np.abs(a.pixels.astype(float) - b.pixels).max(initial=0.0)) / (a.levels - 1)
    if isinstance(a, TextData) and isinstance(b, TextData):
        return 0.0 if a.texts() == b.texts() else float("inf")
    if isinstance(a, TableData) and isinstance(b, TableData):
        if list(a.frame.columns) != list(b.frame.columns) or len(a.frame) != len(b.frame):
            return float("inf")
        learned = [c.name for c in a.columns if c.kind != "key"]  # identifiers are made anew
        return max((column_apart(a.frame[c], b.frame[c]) for c in learned), default=0.0)
    return None


def column_apart(a: pd.Series, b: pd.Series) -> float:
    """The same for one column: missing cells and texts must agree, numbers and dates may differ by a share."""
    if not bool((a.isna() == b.isna()).all()):
        return float("inf")
    here = a.notna()
    numeric = pd.api.types.is_float_dtype(a.dtype) or pd.api.types.is_integer_dtype(a.dtype)
    if not numeric or pd.api.types.is_bool_dtype(a.dtype):
        return 0.0 if bool((a[here].astype(str) == b[here].astype(str)).all()) else float("inf")
    ours, theirs = a[here].to_numpy(dtype=float), b[here].to_numpy(dtype=float)
    if not len(ours):
        return 0.0
    span = float(ours.max() - ours.min()) or max(1.0, float(np.abs(ours).max()))
    return float(np.abs(ours - theirs).max()) / span


def reread(codec: Codec[Any], plain: dict[str, Any], tensors: dict[str, Tensor]) -> Codec[Any]:
    return type(codec).from_plain(plain, tensors)


def refused_as_bad_input(ask: Callable[[Any], object], value: Any, what: str) -> None:
    """Raise `Broken` unless asking with this value raises BadInput."""
    try:
        ask(value)
    except BadInput:
        return
    except Exception as error:
        raise Broken(f"{what} raised {type(error).__name__}: {error}") from error
    raise Broken(f"{what} was taken")


LAWS: tuple[Callable[[Learned], None], ...] = (
    codec_is_of_its_kind,
    events_lie_in_their_space,
    rows_are_encoded_by_themselves,
    decoding_undoes_encoding,
    rows_are_decoded_by_themselves,
    whatever_is_drawn_can_be_read,
    conditions_are_values_of_their_spaces,
    drawn_conditions_ignore_the_batch,
    unknown_words_are_refused,
    a_stored_codec_is_the_same,
    a_damaged_codec_is_refused,
    volumes_are_one_a_row,
    items_can_be_shown,
)
