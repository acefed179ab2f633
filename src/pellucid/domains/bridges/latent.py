"""A learned bridge: any engine that encodes and decodes joins its data to its latent vectors.

So "diffusion in a VAE's latent space" is a diffusion over `target`, trained on draws of q(z | x), and exists
unwritten. A density p(z) learned over there bounds the density of items if the engine knows what a latent costs,

    log p(x) >= E_q(z|x)[log p(z) + log p(x | z) - log q(z | x)]        Kingma and Welling 2014, arXiv:1312.6114, eq. 2

with the learned p(z) in the place of the prior. A grid of latents is brought to mean 0 and spread 1 channel by channel,
as measured on data (Rombach et al. 2022, arXiv:2112.10752, appendix G): noise and nets then meet numbers of about 1.

An engine that writes items in symbols also joins its data to rows of symbols, where log q = 0: models of symbols work
through it, and the same bound holds with P(codes) in the place of p(z).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Decodes, Encodes, LogProb, Quantises, Weighs, offers
from pellucid.core.codec import Bridge
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.rows import Rows
from pellucid.core.space import Real, Space, Tokens, space_to_plain
from pellucid.domains.bridges.lifting import at_least
from pellucid.domains.stored import stored_settings, stored_space

__all__ = ["LatentBridge", "SymbolBridge", "rebuild"]


@dataclass(frozen=True, kw_only=True)
class _Stored:
    engine: str
    source: Mapping[str, Any]
    symbols: bool = False
    centre: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()


class LatentBridge(Bridge):
    """From items to the latent vectors of a trained engine, and back.

    The bridge keeps a copy of the engine, in evaluation mode and with frozen weights, so that what is trained
    later changes neither. The engine is asked with no condition given: conditions belong to the model over there.
    Names and tensors alone do not say how an engine is built, so a stored bridge comes back by `rebuild`.

    Args:
        engine: lists Encodes and Decodes. source: the space it was built for.
        centre, spread: one number each for every channel (first axis) of a latent; none of either leaves it as it is.
    """

    name = "latent"

    def __init__(
        self, engine: nn.Module, source: Space, centre: tuple[float, ...] = (), spread: tuple[float, ...] = ()
    ) -> None:
        if not isinstance(engine, Encodes) or not isinstance(engine, Decodes):
            raise MissingCapability(
                f"LatentBridge got {type(engine).__name__}, which offers {', '.join(offers(engine)) or 'nothing'}",
                accepted="an engine that offers Encodes and Decodes",
                next="Learn the bridge with another family, for example family='vae'",
            )
        self._engine: nn.Module = copy.deepcopy(engine).eval().requires_grad_(False)
        self._source = source
        self._centre, self._spread = tuple(centre), tuple(spread)
        sizes, finite = {len(centre), len(spread)}, all(math.isfinite(v) for v in (*centre, *spread))
        if sizes not in ({0}, {self.target.shape[0]}) or not finite or any(s <= 0 for s in spread):
            raise BadInput(
                f"a latent bridge has {len(centre)} centres and {len(spread)} spreads",
                accepted=f"{self.target.shape[0]} finite numbers of each, spreads above 0, or none",
            )

    @classmethod
    def measured(cls, engine: nn.Module, source: Space, x: Tensor) -> LatentBridge:
        """The bridge that brings each channel of a latent grid to mean 0 and spread 1 on items x (N, *source event)."""
        plain = cls(engine, source)
        if len(plain.target.shape) < 3 or not len(x):
            return plain
        with torch.no_grad():
            z = plain.there(x, Rows(0, torch.arange(len(x)))).transpose(0, 1).flatten(1).double()
        spread = z.std(1)
        spread = torch.where(spread > 1e-6, spread, 1.0)  # a channel that never changes stays as it is
        return cls(engine, source, tuple(z.mean(1).tolist()), tuple(spread.tolist()))

    @property
    def source(self) -> Space:
        return self._source

    @property
    def target(self) -> Real:
        assert isinstance(self._engine, Encodes)
        return self._engine.latent()

    def there(self, x: Tensor, rows: Rows) -> Tensor:
        """A draw of q(z | x): (B, *latent)."""
        centre, spread = self._units(x)
        return (self._draw(x, rows) - centre) / spread

    def _draw(self, x: Tensor, rows: Rows) -> Tensor:
        """The same in the engine's own units."""
        _check_shape(x, self._source)
        engine = self._engine.to(x.device)
        assert isinstance(engine, Encodes)
        return engine.encode(x, Condition(), rows.fork(self.name))

    def _units(self, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Centre and spread of each channel, (channels, 1, 1) for grids; 0 and 1 where none was measured."""
        if not self._centre:
            return 0.0, 1.0
        shape, dtype = (-1, *[1] * (len(self.target.shape) - 1)), like.dtype
        dtype = dtype if dtype.is_floating_point else torch.get_default_dtype()
        centre, spread = (torch.tensor(v, dtype=dtype, device=like.device) for v in (self._centre, self._spread))
        return centre.reshape(shape), spread.reshape(shape)

    def back(self, y: Tensor, rows: Rows) -> Tensor:
        """What the engine decodes: nothing is drawn."""
        engine = self._engine.to(y.device)
        assert isinstance(engine, Decodes)
        centre, spread = self._units(y)
        return engine.decode(y * spread + centre, Condition())

    def lift(self, log_prob: LogProb, x: Tensor, rows: Rows) -> LogProb:
        """A lower bound, at the latents that `there` drew from the same rows."""
        if not isinstance(self._engine, Weighs):
            raise MissingCapability(
                f"the likelihood of items is asked through {type(self._engine).__name__}",
                accepted="an engine that offers Weighs",
                why="A density of latent vectors bounds that of items only with log p(x | z) - log q(z | x) added",
                next="Compare such models by samples, or fit a family that scores this space itself",
            )
        weight = self._engine.log_weight(x, self._draw(x, rows), Condition())
        each = math.prod(self.target.shape[1:])  # numbers of a channel: p(z) = p(y) / product of their spreads
        return at_least(log_prob, weight - each * sum(math.log(s) for s in self._spread))

    def plain(self) -> dict[str, Any]:
        return {
            "engine": type(self._engine).__name__,
            "source": space_to_plain(self._source),
            "centre": list(self._centre),
            "spread": list(self._spread),
        }

    def tensors(self) -> dict[str, Tensor]:
        return dict(self._engine.state_dict())


class SymbolBridge(Bridge):
    """From items to the symbols in which a trained engine writes them, and back.

    log p(x) >= log P(codes) + log p(x | codes), as the codes are a function of the item: one term of a sum over all.

    Args:
        engine: lists Quantises; kept as in `LatentBridge`. source: the space it was built for.
    """

    name = "latent"

    def __init__(self, engine: nn.Module, source: Space) -> None:
        if not isinstance(engine, Quantises):
            raise MissingCapability(
                f"SymbolBridge got {type(engine).__name__}, which offers {', '.join(offers(engine)) or 'nothing'}",
                accepted="an engine that offers Quantises",
                next="Learn the bridge with another family, for example family='vq'",
            )
        self._engine: nn.Module = copy.deepcopy(engine).eval().requires_grad_(False)
        self._source = source

    @property
    def source(self) -> Space:
        return self._source

    @property
    def target(self) -> Tokens:
        return self._asked(torch.empty(0)).symbols()

    def there(self, x: Tensor, rows: Rows) -> Tensor:
        """(B, T) int64; nothing is drawn."""
        _check_shape(x, self._source)
        return self._asked(x).quantise(x)

    def back(self, y: Tensor, rows: Rows) -> Tensor:
        """What the engine rebuilds: nothing is drawn."""
        return self._asked(y).rebuild(y)

    def lift(self, log_prob: LogProb, x: Tensor, rows: Rows) -> LogProb:
        engine = self._asked(x)
        return at_least(log_prob, engine.log_rebuilt(x, engine.quantise(x)))

    def _asked(self, like: Tensor) -> Quantises:
        engine = self._engine.to(like.device)
        assert isinstance(engine, Quantises)
        return engine

    def plain(self) -> dict[str, Any]:
        name = type(self._engine).__name__
        return {"engine": name, "source": space_to_plain(self._source), "symbols": True}

    def tensors(self) -> dict[str, Tensor]:
        return dict(self._engine.state_dict())


def _check_shape(x: Tensor, source: Space) -> None:
    if x.shape[1:] != source.shape:
        raise BadInput(f"x has shape {tuple(x.shape)}", accepted=f"(B, {', '.join(map(str, source.shape))})")


def rebuild(engine: nn.Module, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentBridge | SymbolBridge:
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
    if stored.symbols:
        return SymbolBridge(engine, stored_space(stored.source))
    return LatentBridge(engine, stored_space(stored.source), stored.centre, stored.spread)
