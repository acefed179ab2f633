"""Features: the numbers in which real and generated items are compared.

No network trained elsewhere is used. For pictures `Encoder` is a small convolutional network trained here, on the
training pictures, to tell their classes apart and also K groups that k-means finds in their principal components: with
few classes (ill, healthy) the groups keep the features from collapsing to one direction; without classes they alone
teach it. Nothing is rotated, as a rotated picture may mean something else. A value is only comparable with another
one made by the same extractor, so name and fingerprint stand beside every number.
"""

from __future__ import annotations

import abc
import hashlib
import math
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from sklearn.cluster import KMeans
from torch import Tensor, nn

from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.run import Progress, Run
from pellucid.domains.frames import TableData
from pellucid.domains.pictures import Pictures
from pellucid.evaluate.matrices import codes, is_number, levels, measured, numbers

__all__ = ["Encoder", "Extractor", "PCAFeatures", "TableFeatures", "pixels_of"]

Floats = NDArray[np.float64]
Items = TypeVar("Items")

WIDTH = 64  # features of a picture
GROUPS = 32  # groups found by k-means
BATCH = 128
EPOCHS = 12
MOST_PICTURES = 20_000
WORK = 1.5e11  # multiplications of all forward passes: some 20 s on one core
LEVELS = 30  # values of a category with a feature of their own


class Extractor(abc.ABC, Generic[Items]):
    """Turns items into features."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """What it is, in a few words."""

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """12 hexadecimal digits that change with anything learned."""

    @abc.abstractmethod
    def features(self, items: Items) -> Floats:
        """(N, D) float64, each feature with mean 0 and variance 1 over the training items."""


def pixels_of(pictures: Pictures) -> Floats:
    """(N, H * W * C) from 0 to 1."""
    return pictures.pixels.reshape(len(pictures), -1) / (pictures.levels - 1.0)


class _Net(nn.Module):
    """(B, C, H, W) to 64 features; each convolution halves the picture, down to about 4 x 4."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        halvings = max(1, min(4, int(math.log2(max(side, 8) / 4))))
        layers: list[nn.Module] = []
        for i in range(halvings):
            width = min(64, 32 * 2**i)
            layers += [nn.Conv2d(channels, width, 3, 2, 1), nn.GroupNorm(8, width), nn.ReLU()]
            channels = width
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.layers(x)
        return features


class Encoder(Extractor[Pictures]):
    """A convolutional network's last layer before its answers; make one with `Encoder.learn`.

    Args:
        net: (B, C, H, W) to (B, 64). shape: (H, W, C, levels) of the pictures it takes.
        mean, scale: (64,) of the features of the training pictures. taught: what it learned to tell apart.
    """

    def __init__(
        self, net: nn.Module, shape: tuple[int, int, int, int], mean: Floats, scale: Floats, taught: str
    ) -> None:
        self._net, self._shape, self._mean, self._scale, self._taught = net, shape, mean, scale, taught

    @classmethod
    def learn(cls, pictures: Pictures, *, seed: int = 0, run: Run | None = None) -> Encoder:
        """Train on these pictures: the same pictures and seed give the same network on the same machine.

        Steps follow from the size of the pictures, not from a clock; at most about half a minute on one core.

        Raises:
            BadInput: fewer than 2 pictures. Stopped: `run` was asked to stop.
        """
        if len(pictures) < 2:
            raise BadInput(f"the feature extractor got {len(pictures)} pictures", accepted="2 or more")
        run = run or Run()
        generator = np.random.default_rng(seed)
        if len(pictures) > MOST_PICTURES:
            pictures = pictures.take(np.sort(generator.choice(len(pictures), MOST_PICTURES, replace=False)))
        tasks, taught = _tasks(pictures, seed)
        height, width, channels = pictures.pixels.shape[1:]
        with Rows(seed, torch.zeros(1, dtype=torch.int64)).fork("encoder").seeding():
            net = _Net(channels, min(height, width))
            heads = nn.ModuleList(nn.Linear(WIDTH, int(task.max()) + 1) for task in tasks)
        x = _tensor(pictures)
        steps = _steps(net, x)
        optimizer = torch.optim.AdamW([*net.parameters(), *heads.parameters()], lr=2e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
        order = np.concatenate([generator.permutation(len(x)) for _ in range(steps * BATCH // len(x) + 1)])
        for step in range(steps):
            run.go_on("training of the feature extractor was stopped", next="Compare again to start it over")
            rows = torch.from_numpy(order[step * BATCH : (step + 1) * BATCH])
            moved = torch.roll(x[rows], tuple(generator.integers(-1, 2, 2).tolist()), (2, 3))
            features = net(moved)
            losses = [
                nn.functional.cross_entropy(head(features.relu()), task[rows])
                for head, task in zip(heads, tasks, strict=True)
            ]
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            optimizer.step()
            schedule.step()
            if step % 20 == 0 or step == steps - 1:
                run.emit(Progress(stage="feature extractor", done=step + 1, total=steps))
        found = _apply(net, x)
        shape = (height, width, channels, pictures.levels)
        return cls(net, shape, found.mean(0), found.std(0) + 1e-9, taught)

    @property
    def name(self) -> str:
        return f"small convolutional network taught {self._taught}, {WIDTH} features"

    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self._shape} {self._taught}".encode())
        for value in self._net.state_dict().values():
            digest.update(value.numpy().tobytes())
        digest.update(self._mean.tobytes() + self._scale.tobytes())
        return digest.hexdigest()[:12]

    def features(self, items: Pictures) -> Floats:
        """(N, 64) float64."""
        _same_shape(items, self._shape)
        return (_apply(self._net, _tensor(items)) - self._mean) / self._scale


@dataclass(frozen=True, eq=False)
class PCAFeatures(Extractor[Pictures]):
    """Principal components of the pixels: quick, blind to everything that is not a sum of pixels.

    mean: (P,). components: (P, D), each divided by its deviation over the training pictures. shape: (H, W, C, levels).
    """

    mean: Floats
    components: Floats
    shape: tuple[int, int, int, int]

    @classmethod
    def learn(cls, pictures: Pictures, most: int = WIDTH) -> PCAFeatures:
        """The largest components of these pictures, without those that do not vary."""
        x = pixels_of(pictures)
        mean = x.mean(0)
        _, sizes, directions = np.linalg.svd(x - mean, full_matrices=False)
        deviations = sizes / math.sqrt(max(1, len(x) - 1))
        used = np.flatnonzero(deviations > 1e-6)[:most]
        signs = np.sign(directions[used, np.abs(directions[used]).argmax(1)])  # a component's sign is arbitrary: fix it
        return cls(mean, directions[used].T * signs / deviations[used], (*pictures.pixels.shape[1:], pictures.levels))

    @property
    def name(self) -> str:
        return f"{self.components.shape[1]} principal components of the pixels"

    def fingerprint(self) -> str:
        return hashlib.sha256(self.mean.tobytes() + self.components.tobytes()).hexdigest()[:12]

    def features(self, items: Pictures) -> Floats:
        """(N, D) float64."""
        _same_shape(items, self.shape)
        features: Floats = (pixels_of(items) - self.mean) @ self.components
        return features


class TableFeatures(Extractor[TableData]):
    """Numbers as normal scores of their rank among the training rows, choices as one-hot divided by sqrt(2).

    The 30 most frequent values of a choice have a feature each, the others share one; missing has its own.
    """

    def __init__(self, train: TableData) -> None:
        self._columns = measured(train)
        self._sorted = {c.name: np.sort(numbers(train, c)) for c in self._columns if is_number(c)}
        self._levels = {c.name: levels(train, c, LEVELS) for c in self._columns if not is_number(c)}

    @property
    def name(self) -> str:
        return f"normal scores and one-hot of {len(self._columns)} columns"

    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self._levels).encode())
        for name, values in self._sorted.items():
            digest.update(name.encode() + values.tobytes())
        return digest.hexdigest()[:12]

    def features(self, items: TableData) -> Floats:
        """(N, D) float64; only the numbers have variance 1."""
        blocks = [np.zeros((len(items), 0))]
        for column in self._columns:
            if is_number(column):
                blocks += self._scores(numbers(items, column), self._sorted[column.name])
            else:
                known = self._levels[column.name]
                blocks.append(np.eye(len(known) + 2)[codes(items, column, known)] / math.sqrt(2))
        return np.hstack(blocks)

    @staticmethod
    def _scores(values: Floats, seen: Floats) -> list[Floats]:
        """[(N, 1) scores, 0 where missing] and, where training had missing values, [(N, 1) is it missing]."""
        missing = np.isnan(values)
        known = seen[~np.isnan(seen)]
        rank = (np.searchsorted(known, values, "left") + np.searchsorted(known, values, "right")) / 2
        scores = np.where(missing, 0.0, ndtri((rank + 0.5) / (len(known) + 1)))
        flag = [missing[:, None] / math.sqrt(2)] if len(known) < len(seen) else []
        return [scores[:, None], *flag]


def _tasks(pictures: Pictures, seed: int) -> tuple[list[Tensor], str]:
    """What the network shall tell apart: a list of (N,) int64, and its name."""
    components = PCAFeatures.learn(pictures.take(np.arange(min(len(pictures), 5000))), 32)
    groups = min(GROUPS, len(pictures) // 2) if components.components.size else 1
    # unscaled components: large ones shall weigh more, as they do in the picture
    scaled = components.features(pictures) / np.linalg.norm(components.components, axis=0)
    found = np.zeros(len(pictures), np.int64)
    if groups > 1:
        found = KMeans(groups, n_init=1, max_iter=50, random_state=seed).fit_predict(scaled)
    tasks = [torch.from_numpy(found.astype(np.int64))]
    classes = pictures.classes()
    if len(classes) < 2 or pictures.labels is None:
        return tasks, f"{groups} groups of k-means"
    position = {label: i for i, label in enumerate(classes)}
    tasks.append(torch.tensor([position[label] for label in pictures.labels]))
    return tasks, f"{len(classes)} classes and {groups} groups of k-means"


def _steps(net: nn.Module, x: Tensor) -> int:
    """Steps that `EPOCHS` and `WORK` allow, 30 at least."""
    size, macs = (x.shape[2], x.shape[3]), 0
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            size = ((size[0] + 1) // 2, (size[1] + 1) // 2)
            macs += size[0] * size[1] * layer.weight.numel()
    return max(30, min(EPOCHS * len(x) // BATCH, int(WORK / macs / BATCH)))


def _tensor(pictures: Pictures) -> Tensor:
    """(N, C, H, W) float32 from -1 to 1."""
    x = torch.from_numpy(np.ascontiguousarray(pictures.pixels.transpose(0, 3, 1, 2)))
    return x.to(torch.float32) * (2.0 / (pictures.levels - 1)) - 1.0


@torch.no_grad()
def _apply(net: nn.Module, x: Tensor) -> Floats:
    return torch.cat([net(part) for part in x.split(512)]).double().numpy()


def _same_shape(pictures: Pictures, shape: tuple[int, int, int, int]) -> None:
    came = (*pictures.pixels.shape[1:], pictures.levels)
    if came != shape:
        raise BadInput(
            f"pictures are {came} (height, width, channels, levels)", accepted=f"{shape}, as in the training pictures"
        )
