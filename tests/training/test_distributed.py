"""Two real processes reach what one reaches, share one set of checkpoints, and stop together."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pellucid.core.errors import BadInput
from pellucid.core.run import Run
from pellucid.training.checkpoint import Checkpoints
from pellucid.training.distributed import Team, spread, team
from pellucid.training.journal import read_losses
from pellucid.training.loop import Outcome
from pellucid.training.step import Step
from tests.training.together import HALF, STEPS, STRATEGIES, fitted, saved, work
from tests.training.toys import Dropping


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    folder = tmp_path_factory.mktemp("alone")
    return folder, fitted(folder)


@pytest.fixture(scope="module")
def together(
    alone: tuple[Path, Outcome], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Any]]]:
    """The folder in which two processes did their work, and what each tells."""
    folder = tmp_path_factory.mktemp("together")
    Checkpoints(folder / "half of one").save(saved(alone[0]), Run())
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["torch._dynamo", "tests.training.together"])
    processes = [server.Process(target=work, args=(rank, 2, str(folder)), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120.0)
        assert process.exitcode == 0
    return folder, [json.loads((folder / f"told {rank}.json").read_text()) for rank in range(2)]


def as_numbers(losses: dict[str, dict[Any, float]]) -> dict[str, dict[int, float]]:
    return {turn: {int(k): v for k, v in steps.items()} for turn, steps in losses.items()}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_weights_and_losses_equal_those_of_one_process(
    strategy: str, together: tuple[Path, list[dict[str, Any]]], alone: tuple[Path, Outcome]
) -> None:
    folder, told = together
    expected = alone[1]
    for rank in range(2):
        weights = load_file(folder / f"{strategy} {rank}.safetensors")
        assert weights.keys() == expected.weights.keys()
        for name in weights.keys() - {"seen"}:  # which counts the rows of one process
            assert torch.allclose(weights[name], expected.weights[name], rtol=0, atol=1e-6), name
        losses = as_numbers(told[rank][f"{strategy} losses"])
        for turn, steps in expected.losses.items():
            assert losses[turn] == pytest.approx(steps, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_first_process_writes_and_what_it_writes_is_whole(
    strategy: str, together: tuple[Path, list[dict[str, Any]]], alone: tuple[Path, Outcome], tmp_path: Path
) -> None:
    folder, told = together
    assert [t[f"{strategy} checkpoints"] for t in told] == [[HALF, STEPS], []]
    assert list(read_losses(folder / strategy / "events.jsonl")) == list(range(STEPS))
    # one process goes on from what two saved
    resumed = fitted(tmp_path, start=saved(folder / strategy))
    for turn, steps in resumed.losses.items():
        assert min(steps) >= HALF
        assert steps == pytest.approx({k: v for k, v in alone[1].losses[turn].items() if k >= HALF}, rel=1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_go_on_from_what_one_saved(
    strategy: str, together: tuple[Path, list[dict[str, Any]]], alone: tuple[Path, Outcome]
) -> None:
    for told in together[1]:
        for turn, steps in as_numbers(told[f"{strategy} resumed"]).items():
            assert min(steps) >= HALF
            assert steps == pytest.approx({k: v for k, v in alone[1].losses[turn].items() if k >= HALF}, rel=1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_wish_or_the_fault_of_one_ends_both(strategy: str, together: tuple[Path, list[dict[str, Any]]]) -> None:
    for told in together[1]:
        assert "stopped after 0 of 12 steps" in told[f"{strategy} stopped"]
    said = [told[f"{strategy} bad"] for told in together[1]]
    assert all(text.startswith("the loss of turn 'mean' is nan at step ") for text in said)
    assert said[0].split()[:9] == said[1].split()[:9], "the same step"
    assert sum("(items 11)" in text for text in said) == 1, "named by the process that had it"


def test_slices_cover_a_batch_in_order() -> None:
    for rows in (2, 3, 7, 64):
        for size in (1, 2, 3):
            if rows >= size:
                parts = [list(range(rows))[Team(rank, size).part(rows)] for rank in range(size)]
                assert [i for part in parts for i in part] == list(range(rows))
                assert min(map(len, parts)) >= 1
    with pytest.raises(BadInput, match="a batch of 1 rows for 2 processes"):
        Team(0, 2).part(1)


def test_one_process_needs_no_wrapper() -> None:
    step = Step(Dropping())
    assert team() == Team(0, 1)
    assert spread(step) is step
