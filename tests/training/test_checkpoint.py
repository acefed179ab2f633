"""Checkpoints: whole or not there, never a damaged one used, never a false "saved"."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pellucid.core.errors import BadBundle, BadInput
from pellucid.core.run import Event, Noticed, Run
from pellucid.training.checkpoint import Checkpoints, State, fit_tensors
from pellucid.training.loop import train
from tests.training.toys import SETTINGS, Mean, rows_of_numbers


def state(step: int) -> State:
    return State(step, {"weights/a": torch.full((3, 5), float(step)), "ema/a": torch.zeros(7)}, {"seed": step * 0.1})


def listening() -> tuple[Run, list[str]]:
    told: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Noticed):
            told.append(event.text)

    return Run(listeners=[listen]), told


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    keep = Checkpoints(tmp_path)
    whole = {
        "weights/half": torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).bfloat16(),
        "weights/turned": torch.arange(6).reshape(2, 3).T,
        "weights/nothing": torch.zeros(0, 4),
        "optimizer/a/b/step": torch.tensor(3.0),
        "tables/yes": torch.tensor([True, False]),
    }
    tied = torch.ones(4)
    path = keep.save(State(12, {**whole, "weights/in": tied, "weights/out": tied}, {"x": [1, None, 0.1]}), Run())
    assert path.name == f"000000012.{hashlib.sha256(path.read_bytes()).hexdigest()}.safetensors"
    assert set(load_file(path)) == {*whole, "weights/in", "weights/out"}, "a plain safetensors file"
    found = keep.latest(Run())
    assert found is not None
    assert found.step == 12
    assert found.about["x"] == [1, None, 0.1]
    for name, tensor in whole.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name], tensor), name
    assert set(found.part("weights")) == {"half", "turned", "nothing", "in", "out"}


def test_the_newest_stay_and_a_given_up_future_goes(tmp_path: Path) -> None:
    keep = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        keep.save(state(step), Run())
    assert [p.name[:9] for p in sorted(tmp_path.iterdir())] == ["000000002", "000000003"]
    keep.save(state(1), Run())
    assert [p.name[:9] for p in sorted(tmp_path.iterdir())] == ["000000001"]
    keep.save(state(1), Run())
    assert len(list(tmp_path.iterdir())) == 1


def test_due_by_steps_or_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    by_steps, by_clock = Checkpoints(tmp_path, steps=5), Checkpoints(tmp_path, seconds=9.0)
    for keep in (by_steps, by_clock):
        keep.begin(3)
    assert [by_steps.due(k) for k in (3, 7, 8)] == [False, False, True]
    assert not by_clock.due(100)
    clock[0] = 9.5
    assert by_clock.due(4)
    assert not by_clock.due(3), "nothing was done since"


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], tuple[int, list[str]]]:
    """Two checkpoints; a function that puts other bytes into the newer one: (step that is used, what was said)."""
    keep = Checkpoints(tmp_path_factory.mktemp("checkpoints"))
    keep.save(state(1), Run())
    path = keep.save(state(2), Run())
    DATA.append(path.read_bytes())

    def use(data: bytes) -> tuple[int, list[str]]:
        path.write_bytes(data)
        run, told = listening()
        found = keep.latest(run)
        assert found is not None
        assert torch.equal(found.tensors["weights/a"], torch.full((3, 5), float(found.step)))
        return found.step, told

    return use


DATA: list[bytes] = []  # of the newer checkpoint


def test_every_flipped_bit_is_found(damaged: Callable[[bytes], tuple[int, list[str]]]) -> None:
    whole = DATA[0]
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        used, told = damaged(bytes(changed))
        assert used == 1, place
        assert len(told) == 1
        assert "do not match its name; step 1 is used instead" in told[0]


def test_every_cut_is_found(damaged: Callable[[bytes], tuple[int, list[str]]]) -> None:
    whole = DATA[0]
    for length in range(len(whole)):
        used, told = damaged(whole[:length])
        assert (used, len(told)) == (1, 1), length
    assert damaged(whole + b"\0")[0] == 1
    assert damaged(whole) == (2, [])


def test_only_damaged_ones_is_none_at_all(tmp_path: Path) -> None:
    keep = Checkpoints(tmp_path)
    assert keep.latest(Run()) is None
    keep.save(state(1), Run()).write_bytes(b"")
    run, told = listening()
    assert keep.latest(run) is None
    assert "none is left" in told[0]


def named(data: bytes, step: int) -> str:
    return f"{step:09d}.{hashlib.sha256(data).hexdigest()}.safetensors"


def test_a_well_named_file_of_others_is_passed_over(tmp_path: Path) -> None:
    keep = Checkpoints(tmp_path, keep=9)
    keep.save(state(1), Run())
    (tmp_path / "note.txt").write_text("mine")
    (tmp_path / "000000009.notahash.safetensors").write_text("mine too")
    for number, about in enumerate(({}, {"pellucid": "[]"}, {"pellucid": "{"}, {"pellucid": '{"format":1,"step":77}'})):
        save_file({"a": torch.zeros(2)}, tmp_path / "other", metadata=about)
        data = (tmp_path / "other").read_bytes()
        (tmp_path / named(data, 10 + number)).write_bytes(data)
    for number, data in enumerate((b"", b"\x80\x04N.", b"\xff" * 64, (8).to_bytes(8, "little") + b"[[[[[[[[")):
        (tmp_path / named(data, 20 + number)).write_bytes(data)
    whole = next(tmp_path.glob("000000001*"))
    (tmp_path / named(whole.read_bytes(), 30)).symlink_to(whole)
    run, told = listening()
    found = keep.latest(run)
    assert found is not None
    assert found.step == 1
    assert len(told) == 8


def test_names_shapes_and_dtypes_must_fit() -> None:
    wanted = {"a": torch.zeros(2, 3), "b": torch.zeros(4)}
    fit_tensors(wanted, wanted, "weights")
    with pytest.raises(BadBundle, match="weights lack 'b'"):
        fit_tensors({"a": wanted["a"]}, wanted, "weights")
    with pytest.raises(BadBundle, match="hold 'c'"):
        fit_tensors({**wanted, "c": wanted["a"]}, wanted, "weights")
    with pytest.raises(BadBundle, match=r"'b' .* \(5,\). Accepted: torch.float32 \(4,\)"):
        fit_tensors({**wanted, "b": torch.zeros(5)}, wanted, "weights")
    with pytest.raises(BadBundle, match="torch.float64"):
        fit_tensors({**wanted, "b": torch.zeros(4).double()}, wanted, "weights")


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_takes_no_more_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int, call: str
) -> None:
    keep = Checkpoints(tmp_path)
    keep.save(state(1), Run())

    def broken(*_: object) -> int:
        raise OSError(fault, os.strerror(fault))

    with monkeypatch.context() as patch:
        if call == "write":

            class Full:
                def __init__(self, handle: int, mode: str) -> None:
                    self.handle = handle

                def __enter__(self) -> Full:
                    return self

                def __exit__(self, *_: object) -> None:
                    os.close(self.handle)

                def write(self, data: bytes) -> int:
                    return broken()

            patch.setattr(os, "fdopen", Full)
        else:
            patch.setattr(os, call, broken)
        with pytest.raises(BadInput) as caught:
            keep.save(state(2), Run())
    assert caught.value.exit_code == 2
    assert str(caught.value).count("\n") == 0
    assert [p.name[:9] for p in tmp_path.iterdir()] == ["000000001"], "no temp file, no false checkpoint"
    found = keep.latest(Run())
    assert found is not None
    assert found.step == 1


def test_a_file_size_limit_stops_training_with_its_last_checkpoint(tmp_path: Path) -> None:
    """A real refusal by the system, in the middle of a write."""
    keep = Checkpoints(tmp_path / "checkpoints", steps=2)
    first = keep.save(State(0, {"weights/a": torch.zeros(100)}), Run())
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, old[1]))
        with pytest.raises(BadInput, match="full"):
            train(Mean(4000), rows_of_numbers(size=4000), settings=SETTINGS, steps=9, seed=0, run=Run(), keep=keep)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert list((tmp_path / "checkpoints").iterdir()) == [first]


def test_the_temp_file_of_a_killed_process_goes_at_the_next_start(tmp_path: Path) -> None:
    keep = Checkpoints(tmp_path)
    keep.save(state(1), Run())
    (tmp_path / ".abc.tmp").write_bytes(b"half")
    found = keep.latest(Run())
    assert found is not None
    assert found.step == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_the_header_is_readable_json(tmp_path: Path) -> None:
    data = Checkpoints(tmp_path).save(state(3), Run()).read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert json.loads(header["__metadata__"]["pellucid"]) == {"format": 1, "step": 3, "seed": 3 * 0.1}
