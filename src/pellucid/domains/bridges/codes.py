"""Symbols as points of numbers -1 and 1: one-hot for small alphabets, bits for large ones.

Each number is spread evenly over a cell of width 1 around its -1 or 1. The cells of different symbols do not meet
and each lies inside the region that is read back as its symbol, so that for any density p over the numbers

    P(symbol) = integral of p over the symbol's region  >=  E_q[log p(y) - log q(y | symbol)]  in the logarithm,

and log q = 0, because a cell has volume 1. Bits are the base-2 digits of the symbol (Chen, Zhang and Hinton 2023,
"Analog Bits", https://arxiv.org/abs/2208.04202, section 2.1), most significant first.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["read_bits", "read_one_hot", "spread", "width_of", "write_bits", "write_one_hot"]

CHUNK = 1024  # rows at a time while impossible codes are compared with every symbol


def width_of(size: int) -> int:
    """Bits that tell `size` symbols apart.

    >>> [width_of(k) for k in (1, 2, 3, 10_000)]
    [0, 1, 2, 14]
    """
    return (size - 1).bit_length()


def write_bits(symbols: Tensor, size: int) -> Tensor:
    """(...) int64 to (..., width) of -1 and 1.

    >>> write_bits(torch.tensor([5]), 8)
    tensor([[ 1., -1.,  1.]])
    """
    places = torch.arange(width_of(size) - 1, -1, -1, device=symbols.device)
    return (2 * (symbols[..., None] >> places & 1) - 1).to(torch.float32)


def read_bits(numbers: Tensor, size: int) -> Tensor:
    """(B, width) to (B,): signs as digits; a code that no symbol has goes to the symbol whose code fits best."""
    places = torch.arange(width_of(size) - 1, -1, -1, device=numbers.device)
    symbols = ((numbers > 0).long() << places).sum(-1)
    impossible = (symbols >= size).nonzero()[:, 0]
    for part in impossible.split(CHUNK):
        codes = write_bits(torch.arange(size, device=numbers.device), size).to(numbers.dtype)  # (size, width)
        symbols[part] = (numbers[part] @ codes.T).argmax(-1)
    return symbols


def write_one_hot(symbols: Tensor, size: int) -> Tensor:
    """(...) int64 to (..., size): 1 at the symbol, -1 elsewhere."""
    return 2.0 * torch.nn.functional.one_hot(symbols, size).to(torch.float32) - 1.0


def read_one_hot(numbers: Tensor) -> Tensor:
    """(..., size) to (...): the largest."""
    return numbers.argmax(-1)


def spread(codes: Tensor, uniform: Tensor) -> Tensor:
    """Codes moved inside their cells by numbers between 0 and 1 of the same shape."""
    return codes + (uniform - 0.5)
