"""Bridges between spaces, so that a family meets data it was not written for."""

from pellucid.domains.bridges.dequantise import Dequantise
from pellucid.domains.bridges.quantise import Quantise

__all__ = ["Dequantise", "Quantise"]
