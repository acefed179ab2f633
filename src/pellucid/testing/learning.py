"""Laws of engines that are fitted: by turns of gradients, by a look at the first rows, by counting."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch
from pellucid.core.capabilities import Counts, Grows, Learns, Prepares, Scores, Surveys, Turn
from pellucid.core.rows import Rows
from pellucid.testing.subject import Law, Subject, largest_gap, require
from pellucid.training.per_example import per_example_gradients

__all__ = ["LAWS", "all_losses"]

CLOSE = 1e-5  # relative; sums of a few hundred float32 terms in another order stay below it


def all_losses(subject: Subject, engine: nn.Module, batch: Batch | None = None) -> dict[str, Tensor]:
    """Turn -> losses (B,) of the batch, without gradients; masks of dropout come from the law's own stream."""
    if not isinstance(engine, Learns):
        return {}
    batch = subject.batch if batch is None else batch
    rows = subject.rows(batch.ids, "losses")
    found = {}
    for turn in engine.turns():
        with torch.no_grad(), Rows(subject.seed, torch.zeros(1, dtype=torch.int64)).seeding():
            found[turn.name] = turn.losses(batch, rows)
    return found


def turns_are_well_formed(subject: Subject) -> None:
    """Turns have names of their own, move learned parameters of the engine, and are the same when asked again."""
    turns, again = turns_of(subject.engine), turns_of(subject.engine)
    names = [turn.name for turn in turns]
    require(len(turns) > 0 and len(set(names)) == len(names), f"turns {names}")
    require(names == [turn.name for turn in again], f"turns {names}, then {[turn.name for turn in again]}")
    owned = {id(p) for p in subject.engine.parameters()}
    for turn in turns:
        require(len(turn.parameters) > 0, f"turn '{turn.name}' moves nothing")
        require(all(id(p) in owned for p in turn.parameters), f"turn '{turn.name}' moves what is not the engine's")
        require(all(p.requires_grad for p in turn.parameters), f"turn '{turn.name}' moves a frozen parameter")
        require(turn.every >= 1 and turn.rate > 0, f"turn '{turn.name}' has every={turn.every}, rate={turn.rate}")


def losses_are_one_a_row(subject: Subject) -> None:
    """Losses are finite numbers (B,), for many rows, for one and for none."""
    for many in (len(subject.batch), 1, 0):
        for name, losses in all_losses(subject, subject.engine, subject.batch.take(slice(0, many))).items():
            require(losses.shape == (many,), f"turn '{name}' gave {tuple(losses.shape)} for {many} rows")
            require(losses.isfinite().all(), f"turn '{name}' gave {losses.tolist()}")


def losses_ignore_other_rows(subject: Subject) -> None:
    """Changing one row leaves the losses of all others alone, also while training."""
    other = subject.items.take(torch.arange(100, 100 + len(subject.batch)))
    swap = torch.arange(len(subject.batch))
    changed = Batch(
        torch.cat((subject.batch.x[:-1], other.x[-1:])),
        subject.batch.ids,
        type(other.condition).cat([subject.batch.condition.take(swap[:-1]), other.condition.take(swap[-1:])]),
    )
    for training in (True, False):
        subject.engine.train(training)
        before, after = all_losses(subject, subject.engine), all_losses(subject, subject.engine, changed)
        for name in before:
            gap = largest_gap(before[name][:-1], after[name][:-1])
            mode = "training" if training else "evaluation"
            require(gap <= CLOSE, f"in {mode} mode, losses of turn '{name}' moved by {gap:.1e} of their size")


def losses_ignore_the_batch_size(subject: Subject) -> None:
    """A row has the same losses alone and among others."""
    whole = all_losses(subject, subject.engine)
    for i in range(len(subject.batch)):
        for name, alone in all_losses(subject, subject.engine, subject.batch.take(slice(i, i + 1))).items():
            gap = abs(float(alone[0] - whole[name][i])) / max(1e-12, float(whole[name].abs().max()))
            seen = f"turn '{name}', row {i}: {float(alone[0]):.7g} alone, {float(whole[name][i]):.7g} among others"
            require(gap <= CLOSE, seen)


def losses_do_not_read_what_is_not_given(subject: Subject) -> None:
    """The value of a condition that is not given changes no loss."""
    for name in subject.conditions:
        hidden = subject.batch.condition.without(name)
        values = {**hidden.values, name: hidden.values[name].flip(0)}
        batch = Batch(subject.batch.x, subject.batch.ids, hidden)
        lied = Batch(subject.batch.x, subject.batch.ids, type(hidden)(values, hidden.given))
        one, other = all_losses(subject, subject.engine, batch), all_losses(subject, subject.engine, lied)
        for turn in one:
            require(largest_gap(one[turn], other[turn]) == 0.0, f"turn '{turn}' read '{name}'")


def gradients_of_rows_add_up(subject: Subject) -> None:
    """vmap of grad gives each row the gradient that it has alone."""
    rows = subject.rows(subject.batch.ids, "losses")
    for turn in turns_of(subject.engine):
        at_once = per_example_gradients(subject.engine, turn.name, subject.batch, rows)
        names = {id(p): name for name, p in subject.engine.named_parameters()}
        size = {name: float(gradient.abs().max()) for name, gradient in at_once.items()}
        largest = max(size.values(), default=0.0)
        for i in range(len(subject.batch)):
            loss = turn.losses(subject.batch.take(slice(i, i + 1)), rows.take(slice(i, i + 1))).sum()
            alone = torch.autograd.grad(loss, list(turn.parameters), allow_unused=True)
            for p, gradient in zip(turn.parameters, alone, strict=True):
                found = at_once[names[id(p)]][i]
                gap = float((found - (0.0 if gradient is None else gradient)).abs().max()) if p.numel() else 0.0
                scale = max(size[names[id(p)]], 1e-3 * largest, 1e-12)
                require(
                    gap <= 10 * CLOSE * scale,
                    f"turn '{turn.name}', row {i}, '{names[id(p)]}': {gap / scale:.1e} of its size",
                )


def losses_go_down(subject: Subject) -> None:
    """Each turn lowers its own losses when it may fit a few rows with the same noise again and again."""
    engine = copy.deepcopy(subject.engine)
    rows = subject.rows(subject.batch.ids, "losses")
    for place, _ in enumerate(turns_of(engine)):
        turn = turns_of(engine)[place]
        optimizer = torch.optim.Adam(turn.parameters, lr=1e-3)
        first = last = float("nan")
        for step in range(25):
            loss = turn.losses(subject.batch, rows).mean()
            if turn.penalty is not None:
                loss = loss + turn.penalty(subject.batch, rows)
            require(loss.isfinite(), f"turn '{turn.name}' gave {loss.item()} at step {step}")
            gradients = torch.autograd.grad(loss, list(turn.parameters), allow_unused=True)
            for p, gradient in zip(turn.parameters, gradients, strict=True):
                p.grad = gradient
            optimizer.step()
            first, last = (loss.item() if step == 0 else first), loss.item()
        require(last < first, f"turn '{turn.name}' went from {first:.6g} to {last:.6g} in 25 steps")


def preparing_survives_odd_rows(subject: Subject) -> None:
    """Rows that are all alike, or a single one, prepare an engine whose weights and losses are finite."""
    for what, rows in {"alike": [0] * 7, "one": [0]}.items():
        batch = subject.items.take(torch.tensor(rows))
        engine = subject.rebuilt()
        assert isinstance(engine, Prepares)
        with torch.no_grad():
            engine.prepare(batch)
        for name, value in engine.state_dict().items():
            require(value.isfinite().all(), f"rows that are {what} made '{name}' not finite")
        for name, losses in all_losses(subject, engine.eval()).items():
            require(losses.isfinite().all(), f"after rows that are {what}, turn '{name}' gave {losses.tolist()}")


def preparing_is_kept_with_the_weights(subject: Subject) -> None:
    """What the first rows decide is part of the state: loading it into an unprepared engine prepares that one."""
    one, other = subject.rebuilt(), subject.rebuilt()
    assert isinstance(one, Prepares)
    with torch.no_grad():
        one.prepare(subject.items)
    other.load_state_dict(one.state_dict())
    losses = all_losses(subject, other.eval())
    for name, expected in all_losses(subject, one.eval()).items():
        require(largest_gap(losses[name], expected) == 0.0, f"losses of turn '{name}' differ")


def counting_ignores_order(subject: Subject) -> None:
    """Shards in any order, also an empty one, and rows in any order give the same counts."""
    thirds = [subject.items.take(slice(i, j)) for i, j in ((0, 60), (60, 61), (61, 61), (61, len(subject.items)))]
    mixed = subject.items.take(subject.rows(subject.items.ids).uniform().argsort())
    expected = counted(subject, [subject.items])
    for shards in (thirds, thirds[::-1], [mixed]):
        for name, table in counted(subject, shards).items():
            require(largest_gap(table, expected[name]) == 0.0, f"table '{name}' differs")


def counting_goes_on_from_a_checkpoint(subject: Subject) -> None:
    """Counts stored between two shards and restored lead to the counts of an unbroken run."""
    half = [subject.items.take(slice(0, 60)), subject.items.take(slice(60, len(subject.items)))]
    first, second = subject.rebuilt(), subject.rebuilt()
    assert isinstance(first, Counts)
    assert isinstance(second, Counts)
    first.absorb(half[0])
    second.restore(first.tables())
    require(same(second.tables(), first.tables()), "restored counts are not what was stored")
    second.absorb(half[1])
    second.settle()
    require(same(second.tables(), counted(subject, [subject.items])), "counts after the restart differ")


def restored_counts_are_a_copy(subject: Subject) -> None:
    """Counting on after a restore leaves the tables it was given alone."""
    assert isinstance(subject.engine, Counts)
    tables = {name: table.clone() for name, table in subject.engine.tables().items()}
    again = subject.rebuilt()
    assert isinstance(again, Counts)
    again.restore(subject.engine.tables())
    again.absorb(subject.batch)
    again.settle()
    require(same(subject.engine.tables(), tables), "the first engine's counts changed")


def settled_counts_say_what_was_counted(subject: Subject) -> None:
    """Frequent items are likelier than items that were never counted."""
    assert isinstance(subject.engine, Scores)
    with torch.no_grad():
        value = subject.engine.log_prob(subject.items, subject.rows(subject.items.ids)).value
    require(value.isfinite().all(), "an item that was counted has no probability")


def pieces_grow_from_what_was_counted(subject: Subject) -> None:
    """The pieces of a whole model follow from the counts, in whatever order they were counted."""
    grown = []
    for items in (subject.items, subject.items.take(subject.rows(subject.items.ids).uniform().argsort())):
        engine = subject.rebuilt()
        assert isinstance(engine, Grows)
        engine.absorb(items)
        whole, most = engine.pieces()
        require(1 <= whole <= most, f"a whole model has {whole} pieces of at most {most}")
        for piece in range(whole):
            engine.grow(piece)
        engine.settle()
        grown.append(engine.tables())
    require(same(*grown), "the grown pieces depend on the order of the rows")


def surveys_are_made_again_or_restored(subject: Subject) -> None:
    """Tables made of all rows are the same whenever they are made of them, and come back from what was stored."""
    first, again, restored = (subject.rebuilt() for _ in range(3))
    assert isinstance(first, Surveys)
    assert isinstance(again, Surveys)
    assert isinstance(restored, Surveys)
    for engine in (first, again):
        engine.survey(subject.items.take, len(subject.items))
    tables = first.surveyed()
    require(same(again.surveyed(), tables), "made twice of the same rows, the tables differ")
    restored.restore_surveyed(tables)
    require(same(restored.surveyed(), tables), "restored tables are not what was stored")
    restored.load_state_dict(first.state_dict())
    losses = all_losses(subject, restored.eval())
    for name, expected in all_losses(subject, first.eval()).items():
        require(largest_gap(losses[name], expected) == 0.0, f"losses of turn '{name}' differ with restored tables")


def turns_of(engine: nn.Module) -> tuple[Turn, ...]:
    assert isinstance(engine, Learns)
    return engine.turns()


def counted(subject: Subject, shards: list[Batch]) -> dict[str, Tensor]:
    """Tables of a new engine after these shards."""
    engine = subject.rebuilt()
    assert isinstance(engine, Counts)
    for shard in shards:
        engine.absorb(shard)
    engine.settle()
    return engine.tables()


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


LAWS: tuple[Law, ...] = (
    Law(turns_are_well_formed, (Learns,)),
    Law(losses_are_one_a_row, (Learns,)),
    Law(losses_ignore_other_rows, (Learns,)),
    Law(losses_ignore_the_batch_size, (Learns,)),
    Law(losses_do_not_read_what_is_not_given, (Learns,)),
    Law(gradients_of_rows_add_up, (Learns,)),
    Law(losses_go_down, (Learns,)),
    Law(preparing_survives_odd_rows, (Prepares,)),
    Law(preparing_is_kept_with_the_weights, (Prepares, Learns)),
    Law(surveys_are_made_again_or_restored, (Surveys, Learns)),
    Law(counting_ignores_order, (Counts,)),
    Law(counting_goes_on_from_a_checkpoint, (Counts,)),
    Law(restored_counts_are_a_copy, (Counts,)),
    Law(pieces_grow_from_what_was_counted, (Grows,)),
    Law(settled_counts_say_what_was_counted, (Counts, Scores)),
)
