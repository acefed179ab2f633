"""Fashion-MNIST for the quality benchmark: who sees which pictures, and the judge that compares them.

    50,000 of the training set   both generators and the judge learn from them
    10,000 of the training set   the reference, and what the copy check holds out; nobody learns from them
    5,000 of the test set        the floor: real pictures in the place of samples
    the whole test set           the judge's accuracy

So both generators are given the same pictures. `pellucid.fit` keeps 5,000 of them aside by default; the peer learns
from all.

The judge is a small classifier trained once, before any generator, with a fixed seed. Its layer of 64 numbers gives the
features: d^2 = |mu - mu_2|^2 + tr(S + S_2 - 2 (S S_2)^(1/2)), Heusel et al. 2017, arXiv:1706.08500, eq. 6. Values
compare only under this judge and this number of samples.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pellucid.domains.pictures import Pictures
from pellucid.evaluate.copy_check import copy_check
from pellucid.evaluate.frechet import frechet_of_gaussians
from pellucid.fitting import split

__all__ = ["Fashion", "Judge", "grid", "read_fashion", "write_training"]

SEED = 20
FEATURES = 64
EPOCHS, BATCH, RATE = 9, 128, 3e-3
LEAST_ACCURACY = 0.92
CLASSES = 10

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Fashion:
    """The pictures of each purpose; pixels (N, 28, 28, 1) uint8, labels (N,)."""

    training: Pictures
    reference: Pictures
    floor: Pictures
    test: Pictures


def read_fashion(folder: Path) -> Fashion:
    """Read the four idx files and share the pictures out."""
    pixels, labels = _idx(folder, "train")
    order = np.random.default_rng(SEED).permutation(len(pixels))
    test_pixels, test_labels = _idx(folder, "t10k")
    test_order = np.random.default_rng(SEED).permutation(len(test_pixels))[:5000]
    whole, test = _pictures(pixels, labels), _pictures(test_pixels, test_labels)
    return Fashion(
        training=whole.take(order[:50_000]),
        reference=whole.take(order[50_000:]),
        floor=test.take(test_order),
        test=test,
    )


def _idx(folder: Path, part: str) -> tuple[Bytes, Bytes]:
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28, 1)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return pixels, labels


def _pictures(pixels: Bytes, labels: Bytes) -> Pictures:
    return Pictures(pixels=pixels.copy(), labels=tuple(str(k) for k in labels), source="Fashion-MNIST")


def write_training(fashion: Fashion, path: Path) -> None:
    """The generators' pictures as a file that both sides read."""
    np.savez(path, pixels=fashion.training.pixels, labels=_labels(fashion.training).numpy().astype(np.uint8))


def _labels(items: Pictures) -> Tensor:
    return torch.tensor([int(label) for label in items.labels or ()])


def _pixels(items: Pictures) -> Tensor:
    """(N, 1, 28, 28) around 0."""
    return torch.from_numpy(items.pixels).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


class _Classifier(nn.Module):
    """Five convolutions, the mean over places, 64 features, 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        widths = ((1, 24, 1), (24, 48, 2), (48, 48, 1), (48, 96, 2), (96, 96, 1))
        layers: list[nn.Module] = []
        for inputs, outputs, stride in widths:
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.features = nn.Sequential(nn.Linear(widths[-1][1], FEATURES), nn.ReLU())
        self.classes = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, 1, 28, 28) to features (B, 64) and logits (B, 10)."""
        features = self.features(self.body(x).mean(dim=(2, 3)))
        return features, self.classes(features)


class Judge:
    """Compares sets of pictures with the reference; made once and kept in the folder.

    Raises RuntimeError when the classifier is less accurate than .92 on the test pictures.
    """

    def __init__(self, fashion: Fashion, folder: Path) -> None:
        self.fashion = fashion
        weights, about = folder / "judge.safetensors", folder / "judge.json"
        self.net = _Classifier()
        if not (weights.is_file() and about.is_file()):
            _teach(self.net, fashion.training)
            save_file(self.net.state_dict(), weights)
            accuracy = float((self._run(fashion.test)[1] == _labels(fashion.test).numpy()).mean())
            about.write_text(json.dumps({"accuracy": accuracy, "trained_on": len(fashion.training), "epochs": EPOCHS}))
        self.net.load_state_dict(load_file(weights))
        self.about = json.loads(about.read_text())
        if self.about["accuracy"] < LEAST_ACCURACY:
            raise RuntimeError(f"the judge's accuracy is {self.about['accuracy']}, less than {LEAST_ACCURACY}")
        self.reference = _moments(self._run(fashion.reference)[0])
        self.floors: dict[int, float] = {}

    @torch.no_grad()
    def _run(self, items: Pictures) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Features (N, 64) and the class seen (N,)."""
        self.net.eval()
        found = [self.net(x) for x in _pixels(items).split(500)]
        return torch.cat([f for f, _ in found]).double().numpy(), torch.cat([c for _, c in found]).argmax(1).numpy()

    def distance(self, items: Pictures) -> float:
        """Fréchet distance to the reference."""
        return frechet_of_gaussians(*_moments(self._run(items)[0]), *self.reference)

    def floor(self, n: int) -> float:
        """Distance of n real pictures, which neither the judge nor a generator saw."""
        if n not in self.floors:
            self.floors[n] = self.distance(self.fashion.floor.take(np.arange(n)))
        return self.floors[n]

    def measure(self, samples: Path, seed: int, held_out: float) -> dict[str, Any]:
        """Distance, copy check and, of samples that were asked for a class, the share that has it.

        Args:
            samples: .npz of pixels and labels. seed, held_out: of the fit, which say what it trained on.
        """
        with np.load(samples) as file:
            pixels, labels = file["pixels"], file["labels"]
        items = Pictures(pixels=pixels)
        kept, _ = split(len(self.fashion.training), held_out, seed)
        some = np.random.default_rng(SEED).permutation(kept)[: len(self.fashion.reference)]
        copies = copy_check(items, self.fashion.training.take(np.sort(some)), self.fashion.reference)
        features, seen = self._run(items)
        score = copies.closer.interval()
        found = {
            "n": len(items),
            "distance": round(frechet_of_gaussians(*_moments(features), *self.reference), 4),
            "closer_to_training": round(copies.closer.value, 4),
            "closer_interval": [round(score.low, 4), round(score.high, 4)],
            "identical": round(copies.identical.value, 5),
        }
        if len(labels):
            found["asked_class"] = round(float((seen == labels).mean()), 4)
        return found


def _moments(features: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return features.mean(0), np.cov(features, rowvar=False)


def _teach(net: _Classifier, items: Pictures) -> None:
    """Adam with a rate that rises and falls, products in bfloat16; the seed is fixed."""
    x, labels = _pixels(items), _labels(items)
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for p in net.parameters():
            if p.ndim >= 2:
                p.copy_(torch.randn(p.shape, generator=generator) * math.sqrt(2.0 / p[0].numel()))
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=0.02, fused=True)
    steps = EPOCHS * len(x) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.2)
    net.train()
    for k in range(steps):
        at = k * BATCH % (len(x) - BATCH + 1)
        if at < BATCH:
            order = torch.randperm(len(x), generator=generator)
        ids = order[at : at + BATCH]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = net(x[ids])[1]
        loss = nn.functional.cross_entropy(logits.float(), labels[ids], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def grid(samples: Path, path: Path) -> None:
    """The first 100 samples as a picture of 10 by 10, twice as large; a class a column where classes were asked."""
    with np.load(samples) as file:
        pixels = file["pixels"][:100, ..., 0]
    side = max(1, min(10, int(len(pixels) ** 0.5)))
    rows = pixels[: side * side].reshape(side, side, 28, 28)
    sheet = np.pad(rows, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=96).transpose(0, 2, 1, 3)
    Image.fromarray(sheet.reshape(30 * side, 30 * side)).resize((60 * side, 60 * side), Image.Resampling.NEAREST).save(
        path, optimize=True
    )


def held_out_of(found: Mapping[str, Any]) -> float:
    """Share that a fit kept aside: as its recipe says, or what ours would, for the peer."""
    return float(found.get("recipe", {}).get("held_out", 0.1))
