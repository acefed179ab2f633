"""Rows that are not held are the rows that are held, and memory does not grow with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pellucid.core.batch import TensorExamples
from pellucid.core.errors import BadInput
from pellucid.domains.frames import TableData, read_table
from pellucid.domains.held import in_file, most_held, release, spilled
from pellucid.domains.images import Images
from pellucid.domains.pictures import Pictures, read_pictures
from pellucid.domains.streamed import Streamed, examples_of
from pellucid.domains.tables import Tables
from pellucid.families.vae import VAE
from pellucid.fitting import fit


def pictures(n: int = 23) -> Pictures:
    draw = np.random.default_rng(0)
    labels = tuple("ab"[i % 2] if i % 5 else "" for i in range(n))
    return Pictures(pixels=draw.integers(0, 256, (n, 4, 6, 3)).astype(np.uint8), labels=labels)


def table(n: int = 23) -> TableData:
    draw = np.random.default_rng(0)
    frame = {"size": draw.normal(170, 9, n).round(1), "word": draw.choice(["x", "y"], n)}
    return read_table(pd.DataFrame(frame), target="word")


@pytest.mark.parametrize("kind", ["pictures", "table"])
def test_streamed_rows_are_those_that_are_held(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data: Any = pictures() if kind == "pictures" else table()
    codec: Any = (Images() if kind == "pictures" else Tables()).learn(data)
    index = np.array([3, 0, 22, 7, 7, 14])
    held = examples_of(codec, data, index)
    monkeypatch.setenv("PELLUCID_DATA_MEMORY", "0")
    streamed = examples_of(codec, data, index)
    assert isinstance(held, TensorExamples)
    assert isinstance(streamed, Streamed)
    assert len(streamed) == len(held) == 6
    assert streamed.fingerprint() == held.fingerprint(), "a run may go on on a machine with other memory"
    assert streamed.held() == held.held() - held.take(torch.arange(6)).x.nbytes + 6 * 8, "places instead of rows"
    for ids in (torch.tensor([5, 1]), torch.tensor([2]), torch.arange(6)):
        one, two = streamed.take(ids), held.take(ids)
        assert torch.equal(one.x, two.x)
        assert torch.equal(one.ids, two.ids)
        for name in two.condition.values:
            assert torch.equal(one.condition.values[name], two.condition.values[name])
            assert torch.equal(one.condition.given[name], two.condition.given[name])


def test_what_is_trained_does_not_depend_on_where_the_rows_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    small = VAE(latent=3, width=4, depth=1)
    held = fit(pictures(60), small, steps=4, seed=1)
    monkeypatch.setenv("PELLUCID_DATA_MEMORY", "0")
    streamed = fit(pictures(60), small, steps=4, seed=1)
    ours, theirs = held.engine.state_dict(), streamed.engine.state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_a_spilled_array_is_an_array(monkeypatch: pytest.MonkeyPatch) -> None:
    array = spilled((5, 3), np.uint8)
    array[2] = 7
    release(array)
    assert array.tolist() == [[0] * 3, [0] * 3, [7] * 3, [0] * 3, [0] * 3]
    assert in_file(array[1:])
    assert not in_file(np.zeros(3))
    release(np.zeros(3))
    monkeypatch.setenv("PELLUCID_DATA_MEMORY", "3")
    assert most_held() == 3 * 2**20
    monkeypatch.setenv("PELLUCID_DATA_MEMORY", "much")
    with pytest.raises(BadInput, match="PELLUCID_DATA_MEMORY is 'much'. Accepted: a whole number of megabytes"):
        most_held()


MEASURE = """
import json, sys
from pathlib import Path
import torch
from pellucid.core.capabilities import Training
from pellucid.families.vae import VAE
from pellucid.fitting import fit

def resident(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024

def once(folder):
    fit(folder, VAE(latent=3, width=4, depth=1), training=Training(batch=8), steps=80)

torch.set_num_threads(1)
once(sys.argv[1])
peaks = []
for folder in sys.argv[1:]:
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    once(folder)
    peaks.append(resident("VmHWM"))
print(json.dumps(peaks))
"""


def test_memory_does_not_grow_with_pictures_that_stream(tmp_path: Path) -> None:
    """2,000 pictures more, 64 x 64 in colour, are 25 MB more, and 98 MB once encoded."""
    draw = np.random.default_rng(0)
    few, many = tmp_path / "few", tmp_path / "many"
    for folder, n in ((few, 600), (many, 2600)):
        folder.mkdir()
        for i in range(n):
            colour = tuple(int(c) for c in draw.integers(0, 256, 3))
            Image.new("RGB", (64, 64), colour).save(folder / f"{i}.png")
    words = [sys.executable, "-c", MEASURE, str(few), str(many)]
    settings = {**os.environ, "PELLUCID_DATA_MEMORY": "1", "OMP_NUM_THREADS": "1", "PELLUCID_THREADS": "1"}
    said = subprocess.run(words, env=settings, check=True, capture_output=True, text=True).stdout
    first, second = json.loads(said.splitlines()[-1])
    assert second - first < 20.0


def test_a_folder_in_a_file_reads_as_one_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    for i in range(12):
        side = 8 if i % 3 else 11
        shape = (side, side) if i % 2 else (side, side, 3)
        Image.fromarray(draw.integers(0, 256, shape).astype(np.uint8)).save(tmp_path / f"{i:02}.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    held = read_pictures(tmp_path)
    monkeypatch.setenv("PELLUCID_DATA_MEMORY", "0")
    large = read_pictures(tmp_path)
    assert in_file(large.pixels)
    assert not in_file(held.pixels)
    assert np.array_equal(large.pixels, held.pixels)
    assert large.fingerprint() == held.fingerprint()
    assert large.names == held.names
    assert [n.text for n in large.notices if n.topic != "memory"] == [n.text for n in held.notices]
    grey = read_pictures(tmp_path, colour="grey")
    monkeypatch.delenv("PELLUCID_DATA_MEMORY")
    assert np.array_equal(grey.pixels, read_pictures(tmp_path, colour="grey").pixels)
