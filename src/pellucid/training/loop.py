"""The training loop: one for every family. It knows turns, not families; shards, not n-grams.

    prepare once, then for each step: stop? save? re-plan? -> rows -> turns -> average -> journal

Everything that a step draws is a function of (seed, step), so a run that was stopped or killed goes on from its
last checkpoint to the very bits of an unbroken one: same library versions, kind of processor, threads, processes.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch, Examples
from pellucid.core.capabilities import Counts, Grows, Objective, Prepares, Surveys, Training
from pellucid.core.codec import Bridge
from pellucid.core.errors import BadBundle, BadInput, MissingCapability, NonFiniteLoss, Stopped
from pellucid.core.rows import Rows
from pellucid.core.run import Alarmed, Progress, Run
from pellucid.core.settings import to_plain
from pellucid.training.checkpoint import Checkpoints, State
from pellucid.training.distributed import Strategy, full, team
from pellucid.training.journal import Journal
from pellucid.training.looks import Looks
from pellucid.training.order import Order
from pellucid.training.precision import Arithmetic, Route, matmul_route, settle
from pellucid.training.schedule import Replanned, Schedule
from pellucid.training.step import Step
from pellucid.training.walk import Walk, encoded, memory_errors, put_weights
from pellucid.training.watch import Seen, Watch

__all__ = ["Outcome", "count", "prepare_engine", "survey", "train"]

TICK = 0.25  # seconds between two looks at the clock for progress
# What an engine sees before step 0: rows enough to tell apart the directions in which 28x28 pictures vary, fewer where
# they are large (a Gaussian's directions: 0.2 s from 4,096 rows of 784 numbers, 0.9 s from 1,365 of 3,072, one core).
PREPARING_ROWS, PREPARING_NUMBERS, FEWEST_ROWS = 4096, 2**22, 512


@dataclass(frozen=True)
class Outcome:
    """What training left besides the engine, which holds its averaged weights (its last ones without averaging).

    Args:
        steps: steps done in all; shards for an engine that counts.
        weights: the engine's state as it is now, whole even where processes shard it. raw: the same before
            averaging, or None without averaging.
        losses: turn -> step -> loss, of the steps taken in this process.
        replans: what the clock changed, for a replay.
    """

    steps: int
    seconds: float
    weights: dict[str, Tensor] = field(repr=False)
    raw: dict[str, Tensor] | None = field(default=None, repr=False)
    losses: Mapping[str, Mapping[int, float]] = field(default_factory=dict, repr=False)
    replans: tuple[Replanned, ...] = ()
    arithmetic: Arithmetic | None = None


def train(
    engine: nn.Module,
    examples: Examples,
    *,
    settings: Training,
    steps: int,
    seed: int,
    run: Run,
    keep: Checkpoints | None = None,
    base: nn.Module | None = None,
    objective: Objective | None = None,
    held_out: Examples | None = None,
    start: State | None = None,
    watch: Sequence[Watch] = (),
    watch_share: float = math.inf,
    prepare: bool = True,
    deadline: float | None = None,
    bridge: Bridge | None = None,
    replans: Sequence[Replanned] = (),
    arithmetic: Arithmetic | None = None,
    strategy: Strategy = "ddp",
) -> Outcome:
    """Train an engine by its turns, in place.

    Args:
        examples: rows in the codec's space; `bridge` takes them to the engine's, with fresh noise each step.
        steps: as planned; a resumed run must be given the number it was planned with.
        run: its folder gets events.jsonl. keep: None saves nothing.
        base, objective: a frozen model to compare with, and turns that replace the engine's own.
        held_out: rows that are not trained on, for the watches.
        start: go on from here; checked against all that must be the same.
        watch: those who look at the model while it trains. watch_share: of the time passed so far that they may take.
        prepare: show the engine its first rows; False for one that starts from weights which were prepared.
        deadline: wall seconds from this call within which to end. When the clock will not suffice, or will leave
            time over, the schedule is compressed or stretched at a checkpoint, and `Replanned` says so.
        replans: re-plans to follow, in a replay of a run whose clock ran out.
        arithmetic: of the run to be repeated; measured when None. Threads are the caller's to set.
        strategy: how torch.distributed, if it was started, shares the model.

    Raises:
        NonFiniteLoss: at the step where it happens, with the step, the turn and the rows or the parameter.
        Stopped: after a checkpoint, when the run was asked to stop. BadInput: also when the disk is full.
    """
    began = time.monotonic()
    engine.to(run.device)
    crew = team()
    about = _about(engine, examples, settings, steps, seed, keep)
    route: Route | None = None
    if start is not None:
        _check_same(start, about)
        done, route = _plan_of(start)
        replans = replans or done
    k = 0 if start is None else start.step
    with ExitStack() as stack:
        stack.enter_context(memory_errors(settings))
        if base is not None:
            stack.enter_context(_frozen(base.to(run.device)))
        step = Step(engine, objective, base).to(run.device)
        if start is not None:
            put_weights(step, start)
        elif prepare:
            prepare_engine(engine, examples, settings, seed, bridge, run)
        survey(engine, examples, seed, bridge, run)
        if arithmetic is None:
            arithmetic = _measured(engine, examples, settings, seed, run, bridge, objective, base, route)
        if start is not None and crew.rank == 0:
            _tell_of_change(start, arithmetic, run)
        stack.enter_context(matmul_route(arithmetic.matmul))
        walk = stack.enter_context(Walk(step, examples, settings, seed, run, bridge, strategy))
        if start is not None:
            walk.restore(start)
        journal = None
        if run.folder is not None and crew.rank == 0:
            journal = Journal(run.folder / "events.jsonl", k)
            stack.callback(journal.close)
            run.listeners.append(journal.listen)
            stack.callback(run.listeners.remove, journal.listen)
        about |= {"arithmetic": to_plain(arithmetic), "processes": crew.size}
        job = _Job(walk, Schedule(steps, settings, replans), run, keep, journal, about, k)
        ahead = {r.at: r for r in replans if start is None or r.at > k}
        looks = Looks(watch, Seen(engine, k, steps, seed, examples, held_out, bridge, run), watch_share, began)
        pace = _Pace(began, deadline)
        losses: dict[str, dict[int, float]] = {turn.name: {} for turn in step.turns}
        try:
            while k < job.schedule.steps:
                fitting = pace.fitting(k, job.schedule.steps) if crew.rank == 0 else 0
                due = keep is not None and crew.rank == 0 and keep.due(k)
                stopping, due_now, steps_now = crew.agree([run.stopping(), due, fitting], run.device)
                if stopping:
                    raise _stopped(job, k)
                if steps_now:
                    job.replan(k, steps_now)
                    continue
                if due_now:
                    job.save(k)
                if k in ahead and crew.rank == 0:
                    run.emit(ahead.pop(k))
                job.tell(k, losses, pace)
                values = walk.move(k, job.schedule)
                for name, value in values.items():
                    losses[name][k] = value
                if journal is not None:
                    journal.losses(k, values)
                k += 1
                pace.skip(looks.look(walk, k, job.schedule.steps, run))
            job.save(k)
        except NonFiniteLoss as bad:
            raise _explained(bad, job, settings, k) from None
        job.tell(k, losses, pace, last=True)
        raw = None
        if walk.average is not None:
            walk.forget()
            raw = {name: full(t.detach()).clone() for name, t in engine.state_dict().items()}
            walk.average.put()
        weights = {name: full(t.detach()) for name, t in engine.state_dict().items()}
    seconds = time.monotonic() - began
    return Outcome(k, seconds, weights, raw, losses, job.schedule.replans, arithmetic)


def count(
    engine: nn.Module,
    examples: Examples,
    shards: int,
    run: Run,
    keep: Checkpoints | None = None,
    start: State | None = None,
    *,
    seed: int = 0,
    bridge: Bridge | None = None,
    steps: int | None = None,
    deadline: float | None = None,
) -> Outcome:
    """Fit an engine that counts, shard by shard; each shard is committed before the next.

    Args:
        shards: parts of about the same size, in the order of the data; at most one an item.
        start: go on after the shards that were counted.
        steps: pieces that an engine which grows is to grow. deadline: seconds for all, which it fills with pieces
            instead; those of a whole model are grown in any case, and share what time there is.
    """
    if not isinstance(engine, Counts):
        raise MissingCapability(f"{type(engine).__name__} does not count", next="Train it by gradients.")
    began, items = time.monotonic(), len(examples)
    if items < 1 or shards < 1:
        raise BadInput(f"{items} items in {shards} shards", accepted="at least one of each")
    shards = min(shards, items)
    about = {"engine": type(engine).__name__, "seed": seed, "shards": shards, "items": items}
    about["data"] = examples.fingerprint() if keep is not None else ""
    first = 0
    if start is not None:
        _check_same(start, about)
        engine.restore(start.part("tables"))
        first = start.step
    with ExitStack() as stack:
        if run.folder is not None:
            journal = Journal(run.folder / "events.jsonl", first)
            stack.callback(journal.close)
            run.listeners.append(journal.listen)
            stack.callback(run.listeners.remove, journal.listen)
        for shard in range(first, shards):
            if run.stopping():
                raise _stop(run, f"counting stopped after {shard} of {shards} shards", saved=keep is not None)
            run.emit(
                Progress(stage="count", done=shard, total=shards, seconds_left=_left(began, shard - first, shards))
            )
            ids = torch.arange(items * shard // shards, items * (shard + 1) // shards)
            batch, _ = encoded(examples, ids, Rows(seed, ids).fork("count"), bridge, run.device)
            engine.absorb(batch)
            if keep is not None:
                tables = {f"tables/{name}": table for name, table in engine.tables().items()}
                keep.save(State(shard + 1, tables, about), run)
        run.emit(Progress(stage="count", done=shards, total=shards, seconds_left=0.0))
        if isinstance(engine, Grows):
            shards = _grow(engine, run, steps, None if deadline is None else began + deadline, keep is not None)
        engine.settle()
    return Outcome(shards, time.monotonic() - began, engine.tables())


def _grow(engine: Grows, run: Run, steps: int | None, end: float | None, saved: bool) -> int:
    """Grow pieces until there are so many, or until another would end too late; says how many there are."""
    fewest, most = engine.pieces()
    wanted = most if end is not None else min(most, max(fewest, steps or fewest))
    began, done = time.monotonic(), 0
    while done < wanted:
        if run.stopping():
            raise _stop(run, f"growing stopped after {done} of {wanted} pieces", saved)
        now = time.monotonic()
        left, each = math.inf if end is None else max(0.0, end - now), (now - began) / max(1, done)
        if done >= fewest and each > left:
            break
        total = wanted if end is None else min(wanted, max(fewest, done + int(left / each))) if done else fewest
        seconds = left if end is not None else _left(began, done, wanted)
        run.emit(Progress(stage="grow", done=done, total=total, seconds_left=seconds))
        engine.grow(done, left / (fewest - done) if end is not None and done < fewest else None)
        done += 1
    run.emit(Progress(stage="grow", done=done, total=done, seconds_left=0.0))
    if end is not None:
        run.notice("budget", f"There was time to grow {done} pieces; {fewest} make a whole model.", done)
    return done


class _Job:
    """What the loop does besides stepping: save, re-plan, tell."""

    def __init__(
        self,
        walk: Walk,
        schedule: Schedule,
        run: Run,
        keep: Checkpoints | None,
        journal: Journal | None,
        about: Mapping[str, Any],
        step: int,
    ) -> None:
        self.walk, self.schedule, self.run, self.keep, self.journal = walk, schedule, run, keep, journal
        self.about = about
        self.saved = step if step else -1  # the step of the newest checkpoint
        self._told = -math.inf
        if keep is not None:
            keep.begin(step)

    def save(self, k: int) -> None:
        """Commit a checkpoint of step k, unless there is one; the journal is on the disk before it."""
        if self.keep is None or self.saved == k:
            return
        tensors = self.walk.tensors()
        if self.walk.team.rank == 0:
            if self.journal is not None:
                self.journal.flush(sync=True)
            replans = [[r.at, r.steps] for r in self.schedule.before(k).replans]
            self.keep.save(State(k, tensors, {**self.about, "replans": replans}), self.run)
        self.saved = k

    def replan(self, k: int, steps: int) -> None:
        """End after `steps` steps in all; said in the journal and kept in a checkpoint at once."""
        self.schedule = self.schedule.replan(k, steps)
        if self.walk.team.rank == 0:
            self.run.emit(self.schedule.replans[-1])
        self.save(k)

    def tell(self, k: int, losses: Mapping[str, dict[int, float]], pace: _Pace, last: bool = False) -> None:
        """Progress, a few times a second."""
        now = time.monotonic()
        if self.walk.team.rank != 0 or (now - self._told < TICK and not last):
            return
        self._told = now
        pace.tick(k, now)
        newest = {name: steps[next(reversed(steps))] for name, steps in losses.items() if steps}
        left = 0.0 if last else pace.left(k, self.schedule.steps)
        self.run.emit(Progress(stage="train", done=k, total=self.schedule.steps, seconds_left=left, losses=newest))
        if self.journal is not None:
            self.journal.flush()


class _Pace:
    """How fast steps go, and whether the deadline will be met."""

    SLACK = 0.02  # of the budget: an overrun that is not worth a re-plan
    EARLY = 0.15  # of the budget: time left over that is not worth one
    WAIT = 0.05  # of the budget, between two re-plans and before the first, lest one slow step bend the plan

    def __init__(self, began: float, deadline: float | None) -> None:
        self.budget = math.inf if deadline is None else deadline
        self.end = began + self.budget
        self.window = min(5.0, self.WAIT * self.budget)  # seconds of ticks that the pace is read from
        self.ticks: deque[tuple[int, float]] = deque()
        self._asked = time.monotonic()

    def tick(self, k: int, now: float) -> None:
        self.ticks.append((k, now))
        while len(self.ticks) > 2 and self.ticks[1][1] <= now - self.window:
            self.ticks.popleft()

    def skip(self, seconds: float) -> None:
        """What was not spent on steps does not count as their pace."""
        if seconds:
            self.ticks = deque((k, at + seconds) for k, at in self.ticks)

    def seconds(self) -> float:
        """Seconds a step lately; NaN before there are any."""
        if len(self.ticks) < 2 or self.ticks[-1][0] == self.ticks[0][0]:
            return math.nan
        (a, from_), (b, to) = self.ticks[0], self.ticks[-1]
        return (to - from_) / (b - a)

    def left(self, k: int, steps: int) -> float:
        return self.seconds() * (steps - k)

    def fitting(self, k: int, steps: int) -> int:
        """Steps in all that fill the time until the deadline, if clearly other than planned; else 0.

        At least one step is taken. Time that is left over is used too: the steps that the plan was made from may have
        been slow for a passing reason.
        """
        if self.budget == math.inf or k == 0:
            return 0
        now, slack = time.monotonic(), self.SLACK * self.budget
        if now >= self.end + slack:
            return k
        if now - self._asked < self.WAIT * self.budget:
            return 0
        each = self.seconds()
        if math.isnan(each) or self.end - self.EARLY * self.budget <= now + each * (steps - k) <= self.end + slack:
            return 0
        self._asked = now
        found = max(k, k + int((self.end - now) / each))
        return found if found != steps else 0


def prepare_engine(
    engine: nn.Module,
    examples: Examples,
    settings: Training,
    seed: int,
    bridge: Bridge | None,
    run: Run,
    anew: bool = True,
) -> None:
    """Show the engine its first rows, more than a batch where there are.

    Args:
        anew: False for an engine that goes on from a base: what was prepared stays, and only what is counted in the
            data, where the engine has a `recount`, is counted in these.
    """
    if isinstance(engine, Prepares):
        size = max(1, examples.take(torch.zeros(1, dtype=torch.int64)).x[0].numel())
        rows_at_once = max(FEWEST_ROWS, min(PREPARING_ROWS, PREPARING_NUMBERS // size))
        many = min(len(examples), max(settings.batch, rows_at_once))
        ids = Order(seed, len(examples), settings.batch).ids(0, many)
        batch, rows = encoded(examples, ids, Rows(seed, ids).fork("prepare"), bridge, run.device)
        with rows.seeding(), torch.no_grad():
            if anew:
                engine.prepare(batch)
            elif (recount := getattr(engine, "recount", None)) is not None:
                recount(batch)


def survey(engine: nn.Module, examples: Examples, seed: int, bridge: Bridge | None, run: Run) -> None:
    """Let the engine make its tables of all rows, the same ones whenever the run goes on; nothing without tables."""

    def rows(ids: Tensor) -> Batch:
        return encoded(examples, ids, Rows(seed, ids).fork("survey"), bridge, run.device)[0]

    if isinstance(engine, Surveys):
        engine.survey(rows, len(examples))


@contextmanager
def _frozen(base: nn.Module) -> Iterator[None]:
    """The base neither learns nor drops out while the block runs."""
    flags, mode = [(p, p.requires_grad) for p in base.parameters()], base.training
    base.eval().requires_grad_(False)
    try:
        yield
    finally:
        base.train(mode)
        for p, flag in flags:
            p.requires_grad_(flag)


def _measured(
    engine: nn.Module,
    examples: Examples,
    settings: Training,
    seed: int,
    run: Run,
    bridge: Bridge | None,
    objective: Objective | None,
    base: nn.Module | None,
    route: Route | None,
) -> Arithmetic:
    ids = Order(seed, len(examples), settings.batch).ids(0)
    batch, rows = encoded(examples, ids, Rows(seed, ids).fork("settle"), bridge, run.device)
    return settle(run, engine, batch, rows, objective, base, route)


def _tell_of_change(start: State, now: Arithmetic, run: Run) -> None:
    then = start.about["arithmetic"]
    changed = [key for key, value in to_plain(now).items() if key != "matmul_error" and then.get(key) != value]
    if changed:
        was = ", ".join(f"{key} {_short(then.get(key))} then and {getattr(now, key)} now" for key in changed)
        run.notice("arithmetic", f"The result may differ from that of an unbroken run: {was}.")


def _about(
    engine: nn.Module,
    examples: Examples,
    settings: Training,
    steps: int,
    seed: int,
    keep: Checkpoints | None,
) -> dict[str, Any]:
    """What must be the same when a run goes on."""
    return {
        "engine": type(engine).__name__,
        "settings": to_plain(settings),
        "steps": steps,
        "seed": seed,
        "items": len(examples),
        "data": examples.fingerprint() if keep is not None else "",
    }


def _check_same(start: State, about: Mapping[str, Any]) -> None:
    for key, now in about.items():
        if key not in start.about:
            raise BadBundle(f"the checkpoint does not say its '{key}'", accepted="a checkpoint of the same kind of run")
        if start.about[key] != now and not (key == "data" and "" in (now, start.about[key])):
            raise BadInput(
                f"the run to go on has {key} {_short(now)}",
                accepted=f"{_short(start.about[key])}, as its checkpoint of step {start.step} says",
                why="On other terms the result would be one that no recipe describes.",
            )


def _plan_of(start: State) -> tuple[list[Replanned], Route]:
    """Re-plans and matmul route of a checkpoint, which is a file and may hold anything."""
    try:
        replans = [Replanned(at=int(at), steps=int(steps)) for at, steps in start.about["replans"]]
        route = start.about["arithmetic"]["matmul"]
    except (KeyError, TypeError, ValueError) as error:
        raise BadBundle("the checkpoint's plan is not readable") from error
    if route not in ("default", "onednn"):
        raise BadBundle(f"the checkpoint's matmul route is {_short(route)}", accepted="default, onednn")
    return replans, route


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else text[:200] + "..."


def _stopped(job: _Job, k: int) -> Stopped:
    job.save(k)
    return _stop(job.run, f"training stopped after {k} of {job.schedule.steps} steps", saved=job.keep is not None)


def _stop(run: Run, came: str, saved: bool) -> Stopped:
    if not saved:
        following = "Nothing was saved, since no folder was given."
    elif run.folder is None:
        following = "A checkpoint was saved."
    else:
        following = f"A checkpoint was saved. Go on with: pellucid fit --resume {run.folder}"
    return run.stopped(came, following)


def _explained(bad: NonFiniteLoss, job: _Job, settings: Training, k: int) -> NonFiniteLoss:
    """The same error with what is left on the disk and what to do."""
    if job.keep is None:
        kept = "Nothing was saved"
    elif job.saved < 0:
        kept = "No checkpoint had been made yet"
    else:
        kept = f"The checkpoint of step {job.saved} is kept"
    if job.walk.team.rank == 0:
        job.run.emit(Alarmed(topic="loss", text=bad.came, step=k))
    return NonFiniteLoss(
        bad.came,
        why=kept,
        next=f"Try a smaller learning rate than {settings.rate:g}, or look at these rows of the data for odd values.",
    )


def _left(began: float, done: int, total: int) -> float:
    return math.nan if done == 0 else (time.monotonic() - began) / done * (total - done)
