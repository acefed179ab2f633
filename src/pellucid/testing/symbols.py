"""Laws of engines over symbols: what comes next, what is missing, and where attention looked."""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Attends, Blends, Predicts, Scores, Spells, Unmasks
from pellucid.core.space import Tokens
from pellucid.testing.subject import Law, Subject, largest_gap, require

__all__ = ["LAWS"]

CLOSE = 1e-4


def next_logits_cover_every_place(subject: Subject) -> None:
    """T known symbols give logits (B, T + 1, V), for every T from 0 on; `at` gives one place (B, V) of them."""
    x, space = subject.batch.x, tokens_of(subject)
    for known in range(space.length + 1):
        logits = asked(subject, x[:, :known])
        require(logits.shape == (len(x), known + 1, space.symbols), f"{known} symbols gave {tuple(logits.shape)}")
        require(not logits.isnan().any(), f"{known} symbols gave a NaN")
        for at in range(min(known + 1, space.length)):
            gap = largest_gap(asked(subject, x[:, :known], at), logits[:, at])
            require(gap <= CLOSE, f"place {at} asked alone differs by {gap:.1e}")
    require(asked(subject, x[:0]).shape == (0, space.length + 1, space.symbols), "no rows gave rows")


def symbols_a_position_lacks_are_impossible(subject: Subject) -> None:
    """Logits of symbols outside a position's alphabet are -inf, and each position has a possible symbol."""
    space = tokens_of(subject)
    logits = asked(subject, subject.batch.x[:, :-1])
    for t, size in enumerate(space.sizes):
        require(logits[:, t, size:].isneginf().all(), f"position {t} gives symbols beyond its {size} a chance")
        require(logits[:, t, :size].isfinite().any(-1).all(), f"position {t} has no possible symbol")


def the_future_is_not_seen(subject: Subject) -> None:
    """Changing a symbol leaves the logits of its own place and of all before it as they were."""
    x, space = subject.batch.x, tokens_of(subject)
    before = asked(subject, x)
    for t, size in enumerate(space.sizes):
        if size == 1:
            continue
        changed = x.clone()
        changed[:, t] = (x[:, t] + 1) % size
        gap = largest_gap(asked(subject, changed)[:, : t + 1], before[:, : t + 1])
        require(gap <= CLOSE, f"symbol {t} moved logits of places up to {t} by {gap:.1e} of their size")


def cached_steps_equal_the_full_pass(subject: Subject) -> None:
    """Symbols appended one by one, or in pieces, to a cache lead to the logits of the full pass."""
    engine, x, space = subject.engine, subject.batch.x, tokens_of(subject)
    assert isinstance(engine, Predicts)
    full = asked(subject, x)
    for piece in {1, 2, max(1, space.length - 1)}:
        with torch.no_grad():
            logits, cache = engine.step(engine.begin(subject.batch.condition, len(x)), x[:, :0])
        seen = 0
        while True:
            gap = largest_gap(logits, full[:, seen])
            require(gap <= CLOSE, f"after {seen} symbols in pieces of {piece}, logits differ by {gap:.1e}")
            if seen + piece >= space.length:
                break
            with torch.no_grad():
                logits, cache = engine.step(cache, x[:, seen : seen + piece])
            seen += piece


def an_end_is_final(subject: Subject) -> None:
    """Where sequences end, only symbol 0 can follow symbol 0."""
    space = tokens_of(subject)
    if not space.ends or space.symbols == 1:
        return
    x = subject.batch.x.clone()
    x[:, 0] = 0
    logits = asked(subject, x[:, :-1])[:, 1:]
    require(logits.softmax(-1)[..., 0].eq(1.0).all(), "after symbol 0 another symbol has a chance")


def predictions_ignore_other_rows(subject: Subject) -> None:
    """A row has the same logits alone and among others, and unread conditions change nothing."""
    x, condition = subject.batch.x, subject.batch.condition
    whole = asked(subject, x)
    assert isinstance(subject.engine, Predicts)
    for i in (0, len(x) - 1):
        with torch.no_grad():
            alone = subject.engine.next_logits(x[i : i + 1], condition.take(slice(i, i + 1)))
        require(largest_gap(alone, whole[i : i + 1]) <= CLOSE, f"row {i} alone has other logits")
    for name in subject.conditions:
        hidden = condition.without(name)
        lied = Condition({**hidden.values, name: hidden.values[name].flip(0)}, hidden.given)
        with torch.no_grad():
            one, other = (subject.engine.next_logits(x, c) for c in (hidden, lied))
        require(torch.equal(one, other), f"'{name}' was read though it is not given")


def spelling_sums_to_the_whole(subject: Subject) -> None:
    """What the symbols of a row cost (B, T) is what the row costs, and is what the logits of each place say."""
    engine, batch, space = subject.engine, subject.batch, tokens_of(subject)
    assert isinstance(engine, Spells)
    with torch.no_grad():
        each = engine.spell(batch, subject.rows())
    require(each.shape == (len(batch), space.length), f"shape {tuple(each.shape)}")
    if isinstance(engine, Scores):
        with torch.no_grad():
            whole = engine.log_prob(batch, subject.rows()).value
        require(largest_gap(each.sum(1), whole) <= CLOSE, "the symbols of a row do not add up to the row")
    if isinstance(engine, Predicts):
        said = asked(subject, batch.x[:, :-1]).log_softmax(-1).gather(-1, batch.x[..., None]).squeeze(-1)
        require(largest_gap(each, said) <= CLOSE, "a symbol costs something else than its logits say")


def parts_of_a_blend_add_up(subject: Subject) -> None:
    """What the parts add to each symbol (B, T) is what the symbol has over an even chance."""
    engine, batch, space = subject.engine, subject.batch, tokens_of(subject)
    assert isinstance(engine, Blends)
    assert isinstance(engine, Spells)
    with torch.no_grad():
        parts, each = engine.blend(batch, subject.rows()), engine.spell(batch, subject.rows())
    even = torch.tensor(space.sizes).log().expand(each.shape)
    if space.ends:
        ended = torch.cat((torch.zeros(len(each), 1), (batch.x == 0).cumsum(1)[:, :-1]), dim=1) > 0
        even = torch.where(ended, 0.0, even)
    require(largest_gap(sum(parts.values(), torch.zeros_like(each)), each + even) <= CLOSE, "the parts do not add up")


def filling_reads_only_what_is_known(subject: Subject) -> None:
    """Logits of missing symbols (B, T, V) do not depend on what stands at unknown positions."""
    engine, x, space = subject.engine, subject.batch.x, tokens_of(subject)
    assert isinstance(engine, Unmasks)
    for share in (0.0, 0.3, 0.7):
        known = subject.rows(name=f"known {share}").uniform(space.length) < share
        other = torch.where(known, x, torch.zeros_like(x))
        with torch.no_grad():
            logits = engine.fill_logits(x, known, subject.batch.condition)
            hidden = engine.fill_logits(other, known, subject.batch.condition)
            require(logits.shape == (len(x), space.length, space.symbols), f"shape {tuple(logits.shape)}")
            require(not logits.isnan().any(), "a logit is NaN")
            require(largest_gap(logits, hidden) <= CLOSE, "what stands at an unknown position was read")
            for at in range(space.length):
                one = engine.fill_logits(x, known, subject.batch.condition, at=at)
                require(largest_gap(one, logits[:, at]) <= CLOSE, f"position {at} asked alone differs")
        for t, size in enumerate(space.sizes):
            require(logits[:, t, size:].isneginf().all(), f"position {t} gives symbols beyond its {size} a chance")


def attention_is_shared_out(subject: Subject) -> None:
    """Every site's weights (B, heads, queries, keys) are not negative and sum to one over the keys."""
    engine = subject.engine
    assert isinstance(engine, Attends)
    sites = engine.sites()
    require(len({site.name for site in sites}) == len(sites) > 0, f"sites {[site.name for site in sites]}")
    for site in sites:
        with torch.no_grad():
            maps = engine.attention(site, subject.batch.x, subject.batch.condition)
        require(maps.ndim == 4, f"'{site.name}' has shape {tuple(maps.shape)}")
        require(maps.shape[:2] == (len(subject.batch), site.heads), f"'{site.name}' has shape {tuple(maps.shape)}")
        require((maps >= 0).all(), f"'{site.name}' has negative weights")
        gap = float((maps.sum(-1) - 1).abs().max())
        require(gap <= 1e-5, f"weights of '{site.name}' sum to one up to {gap:.1e}")
        with torch.no_grad():
            alone = engine.attention(site, subject.batch.x[:1], subject.batch.condition.take(slice(0, 1)))
        require(largest_gap(alone, maps[:1]) <= CLOSE, f"'{site.name}' of a row depends on other rows")


def tokens_of(subject: Subject) -> Tokens:
    assert isinstance(subject.space, Tokens)
    return subject.space


def asked(subject: Subject, tokens: Tensor, at: int | None = None) -> Tensor:
    engine = subject.engine
    assert isinstance(engine, Predicts)
    with torch.no_grad():
        return engine.next_logits(tokens, subject.batch.condition.take(slice(0, len(tokens))), at)


LAWS: tuple[Law, ...] = (
    Law(next_logits_cover_every_place, (Predicts,)),
    Law(symbols_a_position_lacks_are_impossible, (Predicts,)),
    Law(the_future_is_not_seen, (Predicts,)),
    Law(cached_steps_equal_the_full_pass, (Predicts,)),
    Law(an_end_is_final, (Predicts,)),
    Law(predictions_ignore_other_rows, (Predicts,)),
    Law(spelling_sums_to_the_whole, (Spells,)),
    Law(parts_of_a_blend_add_up, (Blends, Spells)),
    Law(filling_reads_only_what_is_known, (Unmasks,)),
    Law(attention_is_shared_out, (Attends,)),
)
