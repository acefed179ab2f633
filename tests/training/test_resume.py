"""Real processes, really killed: what is resumed ends with the bits of an unbroken run, losses and weights alike."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pellucid.core.run import Event, Run
from pellucid.training.checkpoint import Checkpoints, State
from pellucid.training.journal import read_losses
from tests.training.killed import STEPS, die_at, go

PATIENCE = 60.0  # seconds until a process that does not move is a failure


@pytest.fixture(scope="module")
def start() -> Callable[..., multiprocessing.process.BaseProcess]:
    """Starts a function in a process of its own, forked from a server that has imported everything already."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["torch._dynamo", "tests.training.killed"])

    def begin(*arguments: object, work: Callable[..., None] = go) -> multiprocessing.process.BaseProcess:
        process = server.Process(target=work, args=arguments, daemon=True)
        process.start()
        return process

    return begin


@pytest.fixture(scope="module")
def unbroken(
    start: Callable[..., multiprocessing.process.BaseProcess], tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Path]:
    """ballast -> folder of a run that nobody disturbed."""
    folders = {}
    for ballast in (0, BALLAST):
        folders[ballast] = tmp_path_factory.mktemp("unbroken")
        process = start(str(folders[ballast]), 0.0, ballast)
        process.join(PATIENCE)
        assert process.exitcode == 0
    return folders


BALLAST = 4_000_000  # numbers that make a checkpoint take long enough to be hit while it is written


def last_state(folder: Path) -> State:
    state = Checkpoints(folder / "checkpoints").latest(Run())
    assert state is not None
    return state


def assert_equal_bit_for_bit(folder: Path, unbroken: Path) -> None:
    here, there = last_state(folder), last_state(unbroken)
    assert here.step == there.step == STEPS
    assert here.tensors.keys() == there.tensors.keys()
    for name, tensor in there.tensors.items():
        assert torch.equal(here.tensors[name], tensor), name
    # the very file: weights, averages, optimizers, counters and plan in one hash
    names = [max((f / "checkpoints").glob("*.safetensors")).name for f in (folder, unbroken)]
    assert names[0] == names[1]
    losses = read_losses(folder / "events.jsonl")
    assert list(losses) == list(range(STEPS)), "each step once, in order"
    assert losses == read_losses(unbroken / "events.jsonl")


def wait_for(process: multiprocessing.process.BaseProcess, seen: Callable[[], bool]) -> None:
    """Until `seen`, with the process alive."""
    until = time.monotonic() + PATIENCE
    while not seen():
        assert process.is_alive(), process.exitcode
        assert time.monotonic() < until
        time.sleep(0.0005)


def step_of(folder: Path) -> int:
    """The newest step that the journal tells of."""
    return max(read_losses(folder / "events.jsonl"), default=-1)


def test_killed_at_drawn_steps(
    start: Callable[..., multiprocessing.process.BaseProcess], unbroken: dict[int, Path], tmp_path: Path
) -> None:
    drawn = random.Random(2)
    done = 0
    for part in range(4):
        process = start(str(tmp_path), 0.03)
        target = part * 9 + drawn.randrange(9)  # early enough for a slow watcher to find the process alive
        wait_for(process, lambda target=target: step_of(tmp_path) >= target)  # type: ignore[misc]
        time.sleep(drawn.random() * 0.1)
        assert process.is_alive()
        process.kill()
        process.join(PATIENCE)
        assert process.exitcode == -signal.SIGKILL
        before, done = done, last_state(tmp_path).step if any((tmp_path / "checkpoints").glob("*.safetensors")) else 0
        assert done >= before, "a committed step is never lost"
        assert done + 7 >= step_of(tmp_path) + 1, "no more is done again than what lies between two checkpoints"
    process = start(str(tmp_path), 0.0)
    process.join(PATIENCE)
    assert process.exitcode == 0
    assert_equal_bit_for_bit(tmp_path, unbroken[0])


def test_killed_while_a_checkpoint_is_written(
    start: Callable[..., multiprocessing.process.BaseProcess], unbroken: dict[int, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoints"

    def hit(committed: int) -> bool:
        """Kill a process once it writes a checkpoint after `committed` others; was the temp file there at its death?"""
        old = {p.name for p in folder.glob(".*.tmp")}
        process = start(str(tmp_path), 0.0, BALLAST)
        wait_for(
            process,
            lambda: (
                len(list(folder.glob("*.safetensors"))) >= committed
                and any(p.name not in old for p in folder.glob(".*.tmp"))
            ),
        )
        process.kill()
        process.join(PATIENCE)
        assert process.exitcode == -signal.SIGKILL
        for path in folder.glob("*.safetensors"):
            assert path.stat().st_size > 4 * BALLAST, "a file under its name is whole"
        return any(p.name not in old for p in folder.glob(".*.tmp"))

    for committed in (0, 1):
        assert any(hit(committed) for _ in range(6)), "no kill came while a checkpoint was written"
    process = start(str(tmp_path), 0.0, BALLAST)
    process.join(PATIENCE)
    assert process.exitcode == 0
    assert not list(folder.glob(".*.tmp"))
    assert_equal_bit_for_bit(tmp_path, unbroken[BALLAST])


def test_killed_between_any_two_calls_of_a_save(
    start: Callable[..., multiprocessing.process.BaseProcess], tmp_path: Path
) -> None:
    reached, call = 0, 0
    while True:
        call += 1
        folder = tmp_path / str(call)
        process = start(str(folder), call, work=die_at)
        process.join(PATIENCE)
        told: list[Event] = []
        state = Checkpoints(folder).latest(Run(listeners=[told.append]))
        assert told == [], "nothing under a checkpoint's name is damaged"
        step = 0 if state is None else state.step
        if state is not None:
            assert torch.equal(state.tensors["weights/a"], torch.full((7,), float(step)))
        assert step >= reached, "what was committed a call earlier is still there"
        assert not list(folder.glob(".*")), "the temp file is gone"
        reached = step
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert reached == 3
    assert call > 3 * 6, "open, fsync, chmod, replace, open, fsync of each save"


def test_ctrl_c_and_sigterm_leave_a_checkpoint(
    start: Callable[..., multiprocessing.process.BaseProcess], unbroken: dict[int, Path], tmp_path: Path
) -> None:
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = start(str(tmp_path), 0.02)
        at = step_of(tmp_path)
        wait_for(process, lambda at=at: step_of(tmp_path) >= at + 3)  # type: ignore[misc]
        assert process.pid is not None
        os.kill(process.pid, number)
        process.join(10.0)
        assert process.exitcode == code
        # nothing that was done is done again
        assert last_state(tmp_path).step == step_of(tmp_path) + 1
    process = start(str(tmp_path), 0.0)
    process.join(PATIENCE)
    assert process.exitcode == 0
    assert_equal_bit_for_bit(tmp_path, unbroken[0])


def test_a_flipped_bit_in_the_newest_goes_back_one_and_ends_the_same(
    start: Callable[..., multiprocessing.process.BaseProcess], unbroken: dict[int, Path], tmp_path: Path
) -> None:
    process = start(str(tmp_path), 0.02)
    wait_for(process, lambda: len(list((tmp_path / "checkpoints").glob("*.safetensors"))) == 2)
    process.kill()
    process.join(PATIENCE)
    newest = max((tmp_path / "checkpoints").glob("*.safetensors"))
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 8
    newest.write_bytes(bytes(data))
    process = start(str(tmp_path), 0.0)
    process.join(PATIENCE)
    assert process.exitcode == 0
    assert_equal_bit_for_bit(tmp_path, unbroken[0])
