"""A learned bridge: any engine that encodes and decodes joins its data to its latent vectors.

So "diffusion in a VAE's latent space" is a diffusion over `target`, trained on draws of q(z | x), and exists
unwritten. A density p(z) learned over there bounds the density of items if the engine knows what a latent costs,

    log p(x) >= E_q(z|x)[log p(z) + log p(x | z) - log q(z | x)]        Kingma and Welling 2014, arXiv:1312.6114, eq. 2

with the learned p(z) in the place of the prior.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Decodes, Encodes, LogProb, Weighs, offers
from pellucid.core.codec import Bridge
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.rows import Rows
from pellucid.core.space import Real, Space, space_to_plain
from pellucid.domains.bridges.lifting import at_least
from pellucid.domains.stored import stored_settings, stored_space

__all__ = ["LatentBridge", "rebuild"]


@dataclass(frozen=True, kw_only=True)
class _Stored:
    engine: str
    source: Mapping[str, Any]


class LatentBridge(Bridge):
    """From items to the latent vectors of a trained engine, and back.

    The bridge keeps a copy of the engine, in evaluation mode and with frozen weights, so that what is trained
    later changes neither. The engine is asked with no condition given: conditions belong to the model over there.
    Names and tensors alone do not say how an engine is built, so a stored bridge comes back by `rebuild`.

    Args:
        engine: lists Encodes and Decodes. source: the space it was built for.
    """

    name = "latent"

    def __init__(self, engine: nn.Module, source: Space) -> None:
        if not isinstance(engine, Encodes) or not isinstance(engine, Decodes):
            raise MissingCapability(
                f"LatentBridge got {type(engine).__name__}, which offers {', '.join(offers(engine)) or 'nothing'}",
                accepted="an engine that offers Encodes and Decodes",
                next="Learn the bridge with another family, for example family='vae'",
            )
        self._engine: nn.Module = copy.deepcopy(engine).eval().requires_grad_(False)
        self._source = source

    @property
    def source(self) -> Space:
        return self._source

    @property
    def target(self) -> Real:
        assert isinstance(self._engine, Encodes)
        return self._engine.latent()

    def there(self, x: Tensor, rows: Rows) -> Tensor:
        """A draw of q(z | x): (B, *latent)."""
        if x.shape[1:] != self._source.shape:
            raise BadInput(f"x has shape {tuple(x.shape)}", accepted=f"(B, {', '.join(map(str, self._source.shape))})")
        engine = self._engine.to(x.device)
        assert isinstance(engine, Encodes)
        return engine.encode(x, Condition(), rows.fork(self.name))

    def back(self, y: Tensor, rows: Rows) -> Tensor:
        """What the engine decodes: nothing is drawn."""
        engine = self._engine.to(y.device)
        assert isinstance(engine, Decodes)
        return engine.decode(y, Condition())

    def lift(self, log_prob: LogProb, x: Tensor, rows: Rows) -> LogProb:
        """A lower bound, at the latents that `there` drew from the same rows."""
        if not isinstance(self._engine, Weighs):
            raise MissingCapability(
                f"the likelihood of items is asked through {type(self._engine).__name__}",
                accepted="an engine that offers Weighs",
                why="A density of latent vectors bounds that of items only with log p(x | z) - log q(z | x) added",
                next="Compare such models by samples, or fit a family that scores this space itself",
            )
        z = self.there(x, rows)
        return at_least(log_prob, self._engine.log_weight(x, z, Condition()))

    def plain(self) -> dict[str, Any]:
        return {"engine": type(self._engine).__name__, "source": space_to_plain(self._source)}

    def tensors(self) -> dict[str, Tensor]:
        return dict(self._engine.state_dict())


def rebuild(engine: nn.Module, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentBridge:
    """The bridge that was stored as `plain` and `tensors`.

    Args:
        engine: freshly built, of the same family, settings and space as the stored one; its weights are replaced.
    """
    stored = stored_settings(_Stored, plain)
    if stored.engine != type(engine).__name__:
        raise BadInput(f"the stored latent bridge goes through {stored.engine}", accepted=type(engine).__name__)
    wanted = {name: tensor.shape for name, tensor in engine.state_dict().items()}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if wanted != found:
        differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise BadInput(
            f"the stored latent bridge has other tensors than {stored.engine}: {', '.join(differing[:5])}",
            accepted="the names and shapes of an engine with the same settings",
        )
    engine.load_state_dict(dict(tensors))
    return LatentBridge(engine, stored_space(stored.source))
