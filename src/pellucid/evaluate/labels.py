"""Do pictures show the class that was asked for? A judge of another kind than any generator says so.

The judge is a support vector machine with a radial kernel on principal components of pixels, trained on real
pictures: no network, so it does not share a network's blind spots. Its own accuracy on unseen real pictures stands
beside every share, as no generator can be judged better than the judge sees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import SVC

from pellucid.core.errors import BadInput
from pellucid.domains.pictures import Pictures
from pellucid.evaluate.features import pixels_of
from pellucid.evaluate.resampling import Estimate, check_rows, halves, share

__all__ = ["Judge", "asked_class_share"]

MOST_PICTURES = 5000  # of the judge's training; a kernel machine's cost grows with the square
COMPONENTS = 50


@dataclass(frozen=True, eq=False)
class Judge:
    """Tells the class of a picture; make one with `Judge.learn`."""

    pipeline: Pipeline
    classes: tuple[str, ...]
    trained_on: int

    @classmethod
    def learn(cls, train: Pictures, *, seed: int = 0) -> Judge:
        """From labelled real pictures, 5,000 of them at most.

        Raises:
            BadInput: no labels, or one class only.
        """
        labelled = np.flatnonzero([bool(label) for label in train.labels or ()])
        train = train.take(labelled) if train.labels is not None else train
        classes = train.classes()
        if train.labels is None or len(classes) < 2:
            raise BadInput(f"the pictures have {len(classes)} classes", accepted="2 classes or more")
        if len(train) > MOST_PICTURES:
            train = train.take(np.sort(np.random.default_rng(seed).permutation(len(train))[:MOST_PICTURES]))
        x = pixels_of(train)
        components = PCA(min(COMPONENTS, *x.shape), svd_solver="full")
        pipeline = make_pipeline(components, SVC(C=10.0, gamma="scale"))
        return cls(pipeline.fit(x, np.array(train.labels)), classes, len(train))

    @property
    def name(self) -> str:
        return f"support vector machine on pixels, trained on {self.trained_on:,} real pictures"

    def says(self, pictures: Pictures) -> tuple[str, ...]:
        """The class of each picture."""
        return tuple(str(label) for label in self.pipeline.predict(pixels_of(pictures)))


def asked_class_share(judge: Judge, pictures: Pictures, *, seed: int = 0, name: str = "samples") -> Estimate:
    """Share of pictures that the judge takes for what their label says, with its Wilson interval.

    Raises:
        BadInput: fewer than 10 pictures with a label.
    """
    if pictures.labels is None:
        raise BadInput("the pictures carry no class", why="they were not made for one")
    pictures = pictures.take(np.flatnonzero([bool(label) for label in pictures.labels]))
    check_rows(len(pictures), "the share of asked classes")
    assert pictures.labels is not None
    hits = np.array([said == asked for said, asked in zip(judge.says(pictures), pictures.labels, strict=True)])
    return share(hits.astype(np.float64), halves(len(pictures), name, seed=seed))
