"""Two processes that train together, by averaged gradients or by sharded parameters, reach what one reaches alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.contracts.in_two_processes import STRATEGIES, trained, work


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(work, (2, str(folder)), nprocs=2)
    return folder


@pytest.fixture(scope="module")
def alone() -> dict[str, Tensor]:
    return trained()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("rank", [0, 1])
def test_two_processes_equal_one(strategy: str, rank: int, folder: Path, alone: dict[str, Tensor]) -> None:
    together = load_file(folder / f"{strategy} {rank}.safetensors")
    assert together.keys() == alone.keys()
    for name, expected in alone.items():
        assert torch.allclose(together[name], expected, rtol=1e-5, atol=1e-6), name
