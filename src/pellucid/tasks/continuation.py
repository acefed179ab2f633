"""Going on with a text: symbols after a prompt, one after another, as they are drawn.

A model of windows sees the last of them: when a window is full, its newer half stays as the context.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Predicts
from pellucid.core.codec import Identity
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.rows import Rows
from pellucid.domains.pieces import joined
from pellucid.domains.text_files import text_of
from pellucid.domains.texts import TextCodec
from pellucid.families.autoregressive import SymbolHow, draw_symbols
from pellucid.model import Fitted

__all__ = ["Drawn", "go_on"]


@dataclass(frozen=True)
class Drawn:
    """A piece that was drawn, its probability to the model, and the likeliest piece with its own."""

    piece: str
    probability: float
    likeliest: str
    highest: float


def go_on(
    model: Fitted, prompt: str, *, length: int = 300, seed: int = 0, how: SymbolHow | None = None
) -> Iterator[Drawn]:
    """What the model writes after a prompt, piece by piece; a list's item ends where it ends.

    Args:
        prompt: may be empty; what the model never learned is read as its unknown piece.
        length: pieces, at most. how: temperature, top_k, top_p.

    Raises:
        MissingCapability: no model of text that predicts its next symbol. BadInput: length below 1.
    """
    codec, engine = model.codec, model.need(Predicts, "go on with a text")
    if not isinstance(codec, TextCodec) or not isinstance(model.bridge, Identity):
        raise MissingCapability(f"'{model.name}' learned no text", accepted="a run that was fitted on a text")
    if length < 1:
        raise BadInput(f"length is {length}", accepted="1 or more")
    own = how or SymbolHow()
    given = codec.symbols(text_of([prompt], unit=codec.unit)).astype(np.int64) if prompt else np.zeros(0, np.int64)
    size, tokens = codec.space.length, torch.from_numpy(given)[None]
    if codec.form == "lines" and tokens.shape[1] >= size:
        raise BadInput(f"the prompt has {tokens.shape[1]} {codec.unit}", accepted=f"at most {size - 1}")
    rows, device = (
        Rows(seed, torch.zeros(1, dtype=torch.int64)),
        next((p.device for p in model.engine.parameters()), None),
    )
    model.engine.eval()
    cache = None
    for k in range(length):
        if tokens.shape[1] >= size:
            if codec.form == "lines":
                return
            tokens, cache = tokens[:, -(size // 2) :], None
        new = tokens if cache is None else tokens[:, -1:]
        with torch.no_grad():
            if cache is None:
                cache = engine.begin(Condition(), 1)
            logits, cache = engine.step(cache, new if device is None else new.to(device))
        logits = logits.cpu().double()
        if codec.unknown is not None:
            logits[:, codec.unknown] = -torch.inf  # what was never learned cannot be written
        symbol = draw_symbols(logits, rows.fork("go on", k).uniform(dtype=torch.float64).reshape(1), own)
        p = logits.softmax(-1)[0]
        tokens = torch.cat((tokens, symbol[:, None]), dim=1)
        if codec.form == "lines" and int(symbol) == 0:
            return
        likeliest = int(p.argmax())
        yield Drawn(_piece(codec, int(symbol)), float(p[symbol]), _piece(codec, likeliest), float(p[likeliest]))


def _piece(codec: TextCodec, symbol: int) -> str:
    if codec.form == "lines" and symbol == 0:
        return ""
    if codec.unit == "bytes":
        return joined(np.array([symbol - (codec.form == "lines")]), (), "bytes")
    return codec.pieces[symbol - (codec.unknown or 0) - 1]
