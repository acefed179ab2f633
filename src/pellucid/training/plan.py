"""From a budget in minutes to a number of steps, by a short calibration on a copy of the engine."""

from __future__ import annotations

import math
import statistics
import sys
import time
from dataclasses import dataclass, replace

import torch
from torch import nn

from pellucid.core.batch import Examples
from pellucid.core.capabilities import Objective, Prepares, Training
from pellucid.core.codec import Bridge
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.run import Planned, Run
from pellucid.training.distributed import team
from pellucid.training.memory import Memory, needed
from pellucid.training.order import Order
from pellucid.training.precision import Arithmetic, copied, matmul_route, settle
from pellucid.training.schedule import Schedule
from pellucid.training.step import Step
from pellucid.training.walk import Walk, encoded, memory_errors

__all__ = ["Plan", "plan"]

WARM = 2  # rounds that are not timed: first steps allocate memory and make the optimizer's state
ROUNDS = 15  # timed at most
PATIENCE = 3.0  # seconds to spend on calibration at most, and never more than a twentieth of the budget
OUTSIDE = 0.97  # share of the loop's time that steps take; the rest goes to checkpoints and the journal


@dataclass(frozen=True)
class Plan:
    """What is about to be trained.

    Args:
        seconds: expected for all steps.
        memory: what training will hold, thing by thing. memory_mb: the most that this process has used so far, itself
            and calibration included (of the GPU's memory when on one).
        text: the plan in one sentence.
    """

    steps: int
    seconds: float
    parameters: int
    memory: Memory
    memory_mb: float
    text: str


def plan(
    engine: nn.Module,
    examples: Examples,
    settings: Training,
    minutes: float | None = None,
    steps: int | None = None,
    *,
    run: Run,
    reserve: float = 0.0,
    looking: float = 0.0,
    prepare: bool = True,
    bridge: Bridge | None = None,
    objective: Objective | None = None,
    base: nn.Module | None = None,
    arithmetic: Arithmetic | None = None,
    loaded: int = 0,
    noun: str = "items",
) -> Plan:
    """Time a few steps on a copy of the engine and plan the rest. Emits `Planned`.

    The engine, torch's generator and the streams of the run stay as they are, so planning changes nothing that is
    trained.

    Args:
        minutes | steps: the budget; `settings.steps` when neither is given.
        reserve: share of the minutes to leave for what follows (held-out scores, a report).
        looking: share of the time that watches may take. prepare: as for `train`.
        loaded: bytes of the data as it was read, beside `examples`.
        noun: what an item is called in the text ("pictures", "rows").
    """
    if minutes is not None and steps is not None:
        raise BadInput(f"both minutes={minutes} and steps={steps} were given", accepted="one of them")
    if minutes is not None and not (math.isfinite(minutes) and minutes > 0):
        raise BadInput(f"minutes is {minutes}", accepted="a finite number above 0")
    if not 0.0 <= reserve < 1.0:
        raise BadInput(f"reserve is {reserve}", accepted="a share from 0 up to, not including, 1")
    began = time.monotonic()
    budget = math.inf if minutes is None else minutes * 60.0 * (1.0 - reserve)
    with memory_errors(settings):
        each, learned, memory = _calibrated(
            engine, examples, settings, run, bridge, objective, base, arithmetic, budget, prepare, loaded
        )
    if each > budget:
        raise BadInput(
            f"minutes is {minutes:g} and one step takes {_exact(each)}",
            accepted=f"{2 * each / 60 / (1.0 - reserve):.1g} or more, or steps instead of minutes",
        )
    each /= 1.0 - looking
    if minutes is not None:
        took = team().agree([int(1e3 * (time.monotonic() - began))], run.device)[0] / 1e3
        left = max(0.0, budget - took)
        steps = int(left * OUTSIDE / each)
        if steps < 1 and team().rank == 0:
            run.notice(
                "budget",
                f"One step takes {_exact(each)}, more than is left of {minutes:g} minutes: one step is taken.",
            )
        steps = max(1, steps)
    elif steps is None:
        steps = settings.steps
    seconds = steps * each / OUTSIDE
    text = (
        f"{steps:,} step{'s' if steps > 1 else ''} of {settings.batch:,} {noun}, {_big(learned)} parameters, "
        f"about {_duration(seconds)}"
    )
    if looking:
        text += f", up to {looking:.0%} of it for looks at its samples"
    text += f"; {memory}"
    if team().rank == 0:
        run.emit(Planned(steps=steps, seconds=seconds, parameters=learned, text=text))
    return Plan(steps, seconds, learned, memory, _memory_mb(run.device), text)


def _calibrated(
    engine: nn.Module,
    examples: Examples,
    settings: Training,
    run: Run,
    bridge: Bridge | None,
    objective: Objective | None,
    base: nn.Module | None,
    arithmetic: Arithmetic | None,
    budget: float,
    prepare: bool,
    loaded: int,
) -> tuple[float, int, Memory]:
    """(seconds a step, parameters that are learned, what is held), from real steps of a copy on its own seed."""
    engine, objective = copied(engine, objective, base)
    engine.to(run.device)
    if base is not None:
        base.to(run.device)
    quiet = replace(run, listeners=[], folder=None)
    ids = Order(0, len(examples), settings.batch).ids(0)
    batch, rows = encoded(examples, ids, Rows(0, ids).fork("plan"), bridge, run.device)
    if prepare and isinstance(engine, Prepares):
        with rows.seeding(), torch.no_grad():
            engine.prepare(batch)
    step = Step(engine, objective, base).to(run.device)
    arithmetic = arithmetic or settle(quiet, engine, batch, rows, objective, base)
    memory = needed(step, batch, rows, examples, settings, run, base, loaded)
    length = min(16, math.lcm(*(turn.every for turn in step.turns)))  # a round in which each turn comes up
    schedule = Schedule(WARM + ROUNDS * length, settings)
    patience = min(PATIENCE, budget / 20)
    times: list[float] = []
    with matmul_route(arithmetic.matmul), Walk(step, examples, settings, 0, quiet, bridge) as walk:
        began = time.perf_counter()
        for number in range(WARM + ROUNDS):
            at = time.perf_counter()
            for k in range(length):
                walk.move(k, schedule)
            times.append((time.perf_counter() - at) / length)
            took = time.perf_counter() - began
            late = took > budget or (took > patience and number >= WARM)
            if walk.team.agree([late], run.device)[0]:  # processes that train together also stop together
                break
        slowest = walk.team.agree([int(1e9 * statistics.median(times[WARM:] or times))], run.device)[0] / 1e9
    moved = {id(p): p.numel() for turn in step.turns for p in turn.parameters}
    return slowest, sum(moved.values()), memory


def _memory_mb(device: str) -> float:
    if device != "cpu":
        return float(torch.cuda.max_memory_allocated(device)) / 2**20
    try:
        import resource
    except ImportError:  # no such module on Windows
        return math.nan
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if sys.platform == "darwin" else most / 2**10


def _big(number: int) -> str:
    """
    >>> _big(912), _big(15_300), _big(1_530_000)
    ('912', '15.3 K', '1.5 M')
    """
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "K")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)


def _duration(seconds: float) -> str:
    """
    >>> _duration(0.4), _duration(61), _duration(300), _duration(9000)
    ('1 second', '61 seconds', '5 minutes', '2.5 hours')
    """
    if seconds < 120:
        whole = max(1, round(seconds))
        return f"{whole} second{'s' if whole > 1 else ''}"
    return f"{round(seconds / 60)} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _exact(seconds: float) -> str:
    """
    >>> _exact(0.4), _exact(75.0)
    ('0.4 seconds', '75 seconds')
    """
    return f"{seconds:.2g} seconds" if seconds < 10 else _duration(seconds)
