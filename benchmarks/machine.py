"""What a figure was measured on, for the scripts of this folder."""

from pellucid.explain.bench.machine import about_this_machine

__all__ = ["about_this_machine"]
