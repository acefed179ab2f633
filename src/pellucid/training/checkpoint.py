"""Checkpoints: one file each, named by the hash of its bytes, so that no damaged one is ever used.

A file appears under its name only when all of it is on the disk (temp file in the same folder, fsync, rename,
fsync of the folder); older ones are pruned after that. What was cut or flipped later no longer matches its name
and is passed over for the one before it. The files are safetensors: nothing in them can execute.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from pellucid.core.bundle import write_atomic
from pellucid.core.errors import BadBundle, BadInput
from pellucid.core.run import Checkpointed, Run

__all__ = ["Checkpoints", "State", "fit_tensors", "sweep"]

FORMAT = 1
_NAME = re.compile(r"(?P<step>\d{9,18})\.(?P<sha>[0-9a-f]{64})\.safetensors")
_KEY = "pellucid"  # of the JSON text in the file's header


@dataclass(frozen=True)
class State:
    """Where training stood after `step` steps (or shards).

    Args:
        tensors: "group/name" -> tensor, with the groups "weights", "extra", "ema", "optimizer", "tables".
        about: JSON values: the plan and everything that must be the same to go on.
    """

    step: int
    tensors: Mapping[str, Tensor]
    about: Mapping[str, Any] = field(default_factory=dict)

    def part(self, group: str) -> dict[str, Tensor]:
        """The tensors of one group, by their names in it.

            >>> import torch
        >>> State(3, {"ema/a": torch.zeros(1), "weights/a": torch.ones(1)}).part("ema")
            {'a': tensor([0.])}
        """
        start = group + "/"
        return {name.removeprefix(start): t for name, t in self.tensors.items() if name.startswith(start)}


class Checkpoints:
    """The checkpoints of one run, in a folder that only this run writes to.

    Args:
        folder: made at the first save.
        keep: how many of the newest stay.
        seconds: a checkpoint is due when the last is this old. steps: or when this many steps were done since.

    Neither changes what is trained: a run may be resumed with others.
    """

    def __init__(self, folder: Path, keep: int = 2, seconds: float = 30.0, steps: int | None = None) -> None:
        if keep < 1 or seconds <= 0 or (steps is not None and steps < 1):
            raise BadInput(f"checkpoints with keep={keep}, seconds={seconds}, steps={steps}", accepted="all above 0")
        self.folder, self.keep, self.seconds, self.steps = Path(folder), keep, seconds, steps
        self._last: tuple[int, float] | None = None  # step and time of the newest save

    def begin(self, step: int) -> None:
        """Count what is due from this step on; what was saved in this object's past no longer matters."""
        self._last = (step, time.monotonic())

    def due(self, step: int) -> bool:
        """Is it time to save again?"""
        if self._last is None:
            self.begin(step)
        assert self._last is not None
        done, at = self._last
        if self.steps is not None:
            return step - done >= self.steps
        return step > done and time.monotonic() - at >= self.seconds

    def save(self, state: State, run: Run) -> Path:
        """Commit a checkpoint, then prune. Emits `Checkpointed`.

        Raises BadInput with one sentence when the disk takes no more; earlier checkpoints are still there then.
        """
        about = {"format": FORMAT, "step": state.step, **state.about}
        data = _parts(_apart(state.tensors), json.dumps(about, separators=(",", ":")))
        digest = hashlib.sha256()
        for part in data:
            digest.update(part)
        path = self.folder / f"{state.step:09d}.{digest.hexdigest()}.safetensors"
        try:
            write_atomic(path, data)
        except OSError as error:
            raise BadInput(
                f"the checkpoint of step {state.step} cannot be written to '{self.folder}' ({error.strerror})",
                next="Choose a folder you may write to.",
            ) from error
        self._prune(path)
        self.begin(state.step)
        run.emit(Checkpointed(step=state.step, path=str(path)))
        return path

    def latest(self, run: Run) -> State | None:
        """The newest checkpoint that is whole, or None; says which were passed over and why."""
        sweep(self.folder)
        found = self._listed()
        for place, (step, path) in enumerate(found):
            try:
                return _read(path, step)
            except (OSError, BadBundle) as error:
                fault = error.came if isinstance(error, BadBundle) else f"it cannot be read ({error.strerror})"
                instead = f"step {found[place + 1][0]} is used instead" if place + 1 < len(found) else "none is left"
                run.notice("checkpoint", f"The checkpoint {path.name} is passed over: {fault}; {instead}.")
        return None

    def _listed(self) -> list[tuple[int, Path]]:
        """(step, path) of what is named like a checkpoint, newest first."""
        if not self.folder.is_dir():
            return []
        named = [(_NAME.fullmatch(path.name), path) for path in self.folder.iterdir()]
        found = [(int(match["step"]), path) for match, path in named if match and not path.is_symlink()]
        return sorted(found, key=lambda entry: (entry[0], entry[1].stat().st_mtime_ns), reverse=True)

    def _prune(self, newest: Path) -> None:
        """Leave `newest` and the keep - 1 before it; later steps are of a past that was given up."""
        step = int(newest.name.partition(".")[0])
        before = [path for at, path in self._listed() if at < step]
        stay = {newest, *before[: self.keep - 1]}
        for _, path in self._listed():
            if path not in stay:
                with contextlib.suppress(OSError):  # the new one is committed; an old one too many does no harm
                    path.unlink()


def sweep(folder: Path) -> None:
    """Remove the temp files that a killed process left in a folder of ours."""
    if folder.is_dir():
        for path in folder.glob(".*.tmp"):
            with contextlib.suppress(OSError):
                path.unlink()


def fit_tensors(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str) -> None:
    """Check names, shapes and dtypes of stored tensors against those of the module they are for.

    Raises BadBundle that names the first difference.
    """
    if missing := sorted(wanted.keys() - found.keys()):
        raise BadBundle(f"the checkpoint's {what} lack '{missing[0]}'", why=f"{len(missing)} names are missing.")
    if strange := sorted(found.keys() - wanted.keys()):
        raise BadBundle(f"the checkpoint's {what} hold '{strange[0]}', which the model has not")
    for name, tensor in wanted.items():
        if found[name].shape != tensor.shape or found[name].dtype != tensor.dtype:
            raise BadBundle(
                f"'{name}' in the checkpoint's {what} is {found[name].dtype} {tuple(found[name].shape)}",
                accepted=f"{tensor.dtype} {tuple(tensor.shape)}",
            )


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, contiguous, and no two in the same memory (tied weights are stored under each name)."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.untyped_storage().data_ptr() in seen:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        apart[name] = tensor
    return apart


_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def _parts(tensors: Mapping[str, Tensor], about: str) -> list[bytes | memoryview]:
    """A safetensors file as its header and the memory of each tensor, so that saving takes no second copy of all.

    Eight bytes of the header's length, JSON of each tensor's type, shape and place, then the tensors in that order
    (https://github.com/huggingface/safetensors, "Format").
    """
    header: dict[str, Any] = {"__metadata__": {_KEY: about}}
    parts: list[bytes | memoryview] = []
    at = 0
    # wide types first, as the library does, so that each begins at a multiple of its size
    for name, tensor in sorted(tensors.items(), key=lambda entry: (-entry[1].element_size(), entry[0])):
        flat = tensor.reshape(-1).view(torch.uint8).numpy()
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape)}
        header[name]["data_offsets"] = [at, at + flat.nbytes]
        parts.append(flat.data)
        at += flat.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little"), text, *parts]


def _read(path: Path, step: int) -> State:
    data = path.read_bytes()
    sha = hashlib.sha256(data).hexdigest()
    if sha != path.name.split(".")[1]:
        raise BadBundle("its contents do not match its name")
    # From here on the bytes are those that were written; what follows guards against files made by others.
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        about = json.loads(header["__metadata__"][_KEY])
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadBundle("it is no checkpoint of ours") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT or about.get("step") != step:
        raise BadBundle("it is of another format or of another step than its name says")
    return State(step, tensors, about)
