"""Rows of data on their way to an engine: the condition they carry, the batch, and where batches come from."""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pellucid.core.errors import BadInput, nearest
from pellucid.core.space import Space, zeros

__all__ = ["Batch", "Condition", "Examples", "TensorExamples"]


@dataclass(frozen=True)
class Condition:
    """What is known beforehand: a class, some columns, a caption, a low-resolution picture.

    Args:
        values: name -> (B, *event_k), each in a space of its own.
        given: name -> (B,) bool; a value that is not given is ignored by every engine.

    >>> c = Condition({"class": torch.tensor([[3], [4]])}, {"class": torch.tensor([True, True])})
    >>> c.without("class").given["class"].tolist()
    [False, False]
    """

    values: Mapping[str, Tensor] = field(default_factory=dict)
    given: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if set(self.values) != set(self.given):
            raise BadInput(
                f"condition has values for {sorted(self.values)} but flags for {sorted(self.given)}",
                accepted="the same names",
            )

    def __bool__(self) -> bool:
        return bool(self.values)

    @staticmethod
    def blank(spaces: Mapping[str, Space], rows: int, device: torch.device | str = "cpu") -> Condition:
        """`rows` rows for which nothing is given."""
        off = torch.zeros(rows, dtype=torch.bool, device=device)
        return Condition({k: zeros(s, rows, device) for k, s in spaces.items()}, dict.fromkeys(spaces, off))

    def without(self, name: str) -> Condition:
        """The same condition with one of its values left out."""
        if name not in self.values:
            raise BadInput(
                f"condition '{name}' does not exist",
                accepted=", ".join(self.values) or "none",
                next=nearest(name, self.values),
            )
        return Condition(self.values, {**self.given, name: torch.zeros_like(self.given[name])})

    def nothing(self, rows: int | None = None) -> Condition:
        """The condition of the same names with nothing given; of `rows` rows when said."""
        if rows is None:
            return Condition(self.values, {k: torch.zeros_like(g) for k, g in self.given.items()})
        return Condition(
            {k: v.new_zeros((rows, *v.shape[1:])) for k, v in self.values.items()},
            {k: g.new_zeros(rows) for k, g in self.given.items()},
        )

    def drop(self, keep: Mapping[str, Tensor]) -> Condition:
        """The condition with `given` narrowed to where keep[name] (B,) is true: condition dropout."""
        return Condition(self.values, {k: g & keep[k] if k in keep else g for k, g in self.given.items()})

    def take(self, index: Tensor | slice) -> Condition:
        """Some of the rows."""
        return Condition({k: v[index] for k, v in self.values.items()}, {k: g[index] for k, g in self.given.items()})

    def repeat(self, times: int) -> Condition:
        """Each row `times` times in succession."""
        return Condition(
            {k: v.repeat_interleave(times, 0) for k, v in self.values.items()},
            {k: g.repeat_interleave(times, 0) for k, g in self.given.items()},
        )

    def to(self, device: torch.device | str) -> Condition:
        return Condition(
            {k: v.to(device) for k, v in self.values.items()}, {k: g.to(device) for k, g in self.given.items()}
        )

    @staticmethod
    def cat(parts: list[Condition]) -> Condition:
        """Rows of several conditions of the same names, one after another."""
        return Condition(
            {k: torch.cat([p.values[k] for p in parts]) for k in parts[0].values},
            {k: torch.cat([p.given[k] for p in parts]) for k in parts[0].given},
        )


@dataclass(frozen=True)
class Batch:
    """B rows.

    Args:
        x: (B, *event).
        ids: (B,) int64, global over the job, so that noise does not depend on how rows are spread.
        condition: what is known of each row.
        lengths: (B,) true sizes of ragged rows, or None.
        weight: (B,) weights of the rows, or None for one each.
        fresh: (B,) of windows of a running text, how many symbols at the end no earlier row of the examples has shown;
            None for all. Whoever counts takes these only, and those before them as their context.
    """

    x: Tensor
    ids: Tensor
    condition: Condition = field(default_factory=Condition)
    lengths: Tensor | None = None
    weight: Tensor | None = None
    fresh: Tensor | None = None

    def __len__(self) -> int:
        return self.x.shape[0]

    def take(self, index: Tensor | slice) -> Batch:
        """Some of the rows."""
        return Batch(
            self.x[index],
            self.ids[index],
            self.condition.take(index),
            None if self.lengths is None else self.lengths[index],
            None if self.weight is None else self.weight[index],
            None if self.fresh is None else self.fresh[index],
        )

    def to(self, device: torch.device | str) -> Batch:
        return Batch(
            self.x.to(device),
            self.ids.to(device),
            self.condition.to(device),
            None if self.lengths is None else self.lengths.to(device),
            None if self.weight is None else self.weight.to(device),
            None if self.fresh is None else self.fresh.to(device),
        )

    def with_x(self, x: Tensor) -> Batch:
        """The same rows seen through a bridge."""
        return replace(self, x=x)


class Examples(abc.ABC):
    """Encoded training rows that can be asked for by id."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def take(self, ids: Tensor) -> Batch:
        """The rows of these ids (B,) int64, in that order."""

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """sha256 over everything `take` can return."""

    def held(self) -> int:
        """Bytes of memory that the rows take; 0 where they stay on the disk."""
        return 0

    @abc.abstractmethod
    def groups(self) -> Tensor | None:
        """(N,) int64: rows of one group (one patient, one burst) stay on one side of a split; None if free."""


class TensorExamples(Examples):
    """Examples held in memory.

    Args:
        x: (N, *event). condition: N rows, or an empty Condition. lengths: (N,) | None. weight: (N,) | None.
        groups: (N,) | None.
    """

    def __init__(
        self,
        x: Tensor,
        condition: Condition | None = None,
        lengths: Tensor | None = None,
        weight: Tensor | None = None,
        groups: Tensor | None = None,
    ) -> None:
        self._all = Batch(x, torch.arange(x.shape[0]), condition or Condition(), lengths, weight)
        self._groups = groups

    def __len__(self) -> int:
        return len(self._all)

    def take(self, ids: Tensor) -> Batch:
        rows = self._all
        return Batch(
            rows.x[ids],
            ids,  # what the ids of these rows are
            rows.condition.take(ids) if rows.condition else rows.condition,
            None if rows.lengths is None else rows.lengths[ids],
            None if rows.weight is None else rows.weight[ids],
        )

    def held(self) -> int:
        rows = self._all
        tensors = [rows.x, rows.lengths, rows.weight, *rows.condition.values.values(), *rows.condition.given.values()]
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        parts: dict[str, Tensor | None] = {"x": self._all.x, "lengths": self._all.lengths, "weight": self._all.weight}
        parts |= {f"value {k}": v for k, v in self._all.condition.values.items()}
        parts |= {f"given {k}": v for k, v in self._all.condition.given.items()}
        for name, tensor in sorted(parts.items()):
            if tensor is not None:
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def groups(self) -> Tensor | None:
        return self._groups
