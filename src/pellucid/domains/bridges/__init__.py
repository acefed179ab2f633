"""Bridges between spaces, so that a family meets data it was not written for."""

from pellucid.domains.bridges.analog import Analog
from pellucid.domains.bridges.column_tokens import ColumnTokens
from pellucid.domains.bridges.dequantise import Dequantise
from pellucid.domains.bridges.one_hot import OneHot
from pellucid.domains.bridges.quantise import Quantise

__all__ = ["Analog", "ColumnTokens", "Dequantise", "OneHot", "Quantise"]
