"""The public laws: anybody's family or domain meets the same ones as ours."""

from pellucid.testing.domains import check_domain
from pellucid.testing.families import check_family, laws
from pellucid.testing.subject import Broken, Law, LawBroken, Subject

__all__ = ["Broken", "Law", "LawBroken", "Subject", "check_domain", "check_family", "laws"]
