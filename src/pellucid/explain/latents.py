"""One latent space for every family that has one: items to latent vectors and back, and by which way.

    encoder     VAE, VQ and flows encode and decode themselves.
    noise       a denoiser is walked backwards to the noise that leads to an item (`solvers/inversion.py`), and forward.
    generator   a GAN only decodes; its latents are drawn, not read from items.

Everything is read and written without the conditions, so that what they would say is in the latent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Decodes, Denoises, Encodes
from pellucid.core.errors import MissingCapability
from pellucid.core.rows import Rows
from pellucid.solvers.denoiser import at_condition
from pellucid.solvers.euler import euler

if TYPE_CHECKING:
    from pellucid.model import Data, Fitted

__all__ = ["Latents", "latents_of"]

Floats = NDArray[np.float64]
INVERSION_STEPS = 16
BATCH = 128


@dataclass(frozen=True, eq=False)
class Latents:
    """z: (N, D) latents, float64. back: (M, D) to M items. route: by which way. own: (1, D) of the sample.

    items: what z stands for; None where the latents were drawn. weight: of the first layer that reads a latent
    (outputs, D), where there is one. used: (D,) nats of KL of each number, where there is a posterior.
    """

    z: Floats
    own: Floats
    back: Callable[[Tensor], Data]
    route: str
    items: Data | None
    weight: Floats | None = None
    used: Floats | None = None


@torch.no_grad()
def latents_of(model: Fitted, data: Data, sample: Data, seed: int, index: int) -> Latents:
    """Latents of real items and of one sample.

    Args:
        data: items, all of which are read. sample: one item. seed, index: name the sample, for families that cannot
            read it.

    Raises:
        MissingCapability: the family has no latent vectors.
    """
    engine: Any = model.engine
    engine.eval()
    device = next((p.device for p in engine.parameters()), torch.device("cpu"))

    def events(items: Data) -> Tensor:
        return model.event(items, Rows(seed, torch.arange(len(items))).fork("latents"))[0].to(device)

    def nothing(rows: int) -> Condition:
        return Condition.blank(model.codec.conditions, rows, device)

    def items_of(y: Tensor) -> Data:
        rows = Rows(seed, torch.zeros(len(y), dtype=torch.int64)).fork("turned")
        return model.decode(y.cpu(), nothing(len(y)).to("cpu"), rows)

    def whole(step: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return torch.cat([step(x[i : i + BATCH]) for i in range(0, len(x), BATCH)])

    kind = next((p.dtype for p in engine.parameters()), torch.float32)
    if isinstance(engine, Decodes):
        shape = engine.latent().shape

        def back(z: Tensor) -> Data:
            z = z.to(device, kind).reshape(-1, *shape)
            return items_of(whole(lambda part: engine.decode(part, nothing(len(part))), z))

        if isinstance(engine, Encodes):
            mean = lambda x: whole(lambda part: engine.encode(part, nothing(len(part))).flatten(1), x)  # noqa: E731
            x = events(data)
            z = mean(x)
            used = _used(engine, x, z, nothing(len(x)), seed)
            return Latents(_plain(z), _plain(mean(events(sample))), back, "encoder", data, used=used)
        rows = Rows(seed, torch.arange(len(data)))
        z = rows.fork("sample").fork("latent").normal(*shape).flatten(1)
        own = Rows(seed, torch.tensor([index])).fork("sample").fork("latent").normal(*shape).flatten(1)
        return Latents(_plain(z), _plain(own), back, "generator", None, weight=_first(model.engine, z.shape[1]))
    if isinstance(engine, Denoises) and hasattr(engine, "invert"):
        event = model.bridge.target.shape
        sigmas = engine.invert(events(sample), nothing(1), INVERSION_STEPS)[1]
        top = float(sigmas[0])

        def noise(x: Tensor) -> Tensor:
            return whole(lambda part: engine.invert(part, nothing(len(part)), INVERSION_STEPS)[0].x / top, x).flatten(1)

        def forward(z: Tensor) -> Data:
            x = (z.to(device, kind) * top).reshape(-1, *event)
            walk = lambda part: euler(at_condition(engine, nothing(len(part))), part, sigmas)  # noqa: E731
            return items_of(whole(walk, x))

        return Latents(_plain(noise(events(data))), _plain(noise(events(sample))), forward, "noise", data)
    raise MissingCapability(
        f"'{model.name}' has no latent vectors that could be turned",
        accepted="vae, vq, the flows, gan and the families that denoise",
        why="It writes items symbol by symbol, and there is no point between two symbols.",
    )


def _plain(z: Tensor) -> Floats:
    return np.asarray(z.detach().cpu().double().numpy(), dtype=np.float64)


def _used(engine: Any, x: Tensor, z: Tensor, condition: Condition, seed: int) -> Floats | None:
    """KL of each latent number from N(0, 1), from the spread of posterior draws; None where nothing is drawn."""
    draws = [engine.encode(x, condition, Rows(seed, torch.arange(len(x))).fork("kl", k)).flatten(1) for k in range(8)]
    variance = torch.stack([(d - z).square() for d in draws]).mean(0).double()
    if not bool((variance > 0).any()):
        return None
    kl = 0.5 * (z.double().square() + variance - 1.0 - variance.clamp_min(1e-12).log())
    return _plain(kl.mean(0))


def _first(engine: nn.Module, size: int) -> Floats | None:
    """Weights of the first layer that reads a latent of this size, (outputs, size); None where none is found."""
    generator = getattr(engine, "generator", engine)
    for module in generator.modules():
        if isinstance(module, nn.Linear) and module.in_features >= size:
            return _plain(module.weight[:, :size])
        if isinstance(module, nn.ConvTranspose2d) and module.in_channels >= size:
            return _plain(module.weight[:size].flatten(1).T)
    return None
