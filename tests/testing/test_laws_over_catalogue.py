"""Every family of the catalogue keeps the public laws, on every standard space that it accepts."""

from __future__ import annotations

import dataclasses

import pytest

from pellucid import catalog
from pellucid.core.capabilities import Family
from pellucid.testing import check_family
from pellucid.testing.subject import SPACES, conditions_for


def small(name: str) -> Family:
    """The family at a size that suits small spaces; where a field of that name exists."""
    family = catalog.family_class(name)()
    fields = {f.name for f in dataclasses.fields(family)}  # type: ignore[arg-type]
    change = {field: value for field, value in {"width": 16, "depth": 1}.items() if field in fields}
    changed: Family = dataclasses.replace(family, **change)  # type: ignore[type-var]
    return changed


def accepted(name: str) -> list[str]:
    family = small(name)
    return [of for of, space in SPACES.items() if family.accepts(space, conditions_for(family, space)) is None]


PAIRS = [(name, of) for name in catalog.families() for of in accepted(name)]


def test_every_family_accepts_a_standard_space() -> None:
    assert {name for name, _ in PAIRS} == set(catalog.families())


@pytest.mark.parametrize(("name", "of"), PAIRS)
def test_the_family_keeps_its_laws(name: str, of: str) -> None:
    check_family(small(name), SPACES[of])


@pytest.mark.parametrize("name", catalog.families())
def test_the_family_keeps_its_laws_without_conditions(name: str) -> None:
    check_family(small(name), SPACES[accepted(name)[0]], {}, seed=1)


@pytest.mark.parametrize("name", catalog.families())
def test_the_catalogue_names_it_as_it_names_itself(name: str) -> None:
    assert catalog.family_class(name).name == name
