"""Tables that a known causal graph made: what causes what, by which function, and what would have been otherwise.

Every column is a function of its parents and of one noise number of its own, drawn by Rows. Keeping the noise and
changing one column gives the exact counterfactual of a row (Pearl 2009, "Causality", section 7.1: abduction, action,
prediction; the abduction is exact here because the noise is kept).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from pellucid.core.errors import BadInput, nearest
from pellucid.core.rows import Rows
from pellucid.domains.frames import TableData, read_table

__all__ = ["GRAPHS", "CausalGraph", "CausalTable", "Mechanism", "causal_table", "linear_graph", "loan_graph"]

Values = NDArray[Any]
Function = Callable[[Mapping[str, Values], NDArray[np.float64]], Values]


@dataclass(frozen=True, kw_only=True, eq=False)
class Mechanism:
    """How one column comes about.

    name: of the column.
    kind: as a table reader would call it.
    parents: names of the columns it depends on, all earlier in the graph.
    noise: distribution of its own noise number.
    formula: the function in words or symbols, for people; e is the noise.
    function: (parents' values, each (N,); noise (N,)) to (N,) values.
    """

    name: str
    kind: Literal["number", "integer", "category", "boolean"]
    parents: tuple[str, ...]
    noise: Literal["normal", "uniform"]
    formula: str
    function: Function


@dataclass(frozen=True, eq=False)
class CausalGraph:
    """Mechanisms in an order in which causes come before effects.

    Args:
        name: of the graph. target: the column one would predict.

    >>> graph = linear_graph()
    >>> graph.edges()
    (('x', 'm'), ('x', 'y'), ('m', 'y'))
    """

    name: str
    mechanisms: tuple[Mechanism, ...]
    target: str

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for m in self.mechanisms:
            if m.name in seen or not set(m.parents) <= seen:
                raise BadInput(
                    f"column '{m.name}' depends on {', '.join(m.parents) or 'nothing'}",
                    accepted="each column once, after the columns it depends on",
                )
            seen.add(m.name)
        self._checked([self.target])

    @property
    def names(self) -> tuple[str, ...]:
        """The columns, causes first."""
        return tuple(m.name for m in self.mechanisms)

    def edges(self) -> tuple[tuple[str, str], ...]:
        """(cause, effect) of every arrow."""
        return tuple((parent, m.name) for m in self.mechanisms for parent in m.parents)

    def descendants(self, name: str) -> tuple[str, ...]:
        """Columns that change when this one is changed, in order.

        >>> linear_graph().descendants("m")
        ('y',)
        """
        self._checked([name])
        found = {name}
        for m in self.mechanisms:
            if found & set(m.parents):
                found.add(m.name)
        return tuple(n for n in self.names if n in found - {name})

    def noise(self, rows: Rows) -> dict[str, NDArray[np.float64]]:
        """Each column's own noise, (N,): row i depends on the seed, the column's name and i alone."""
        drawn = {}
        for m in self.mechanisms:
            stream = rows.fork("causal " + m.name)
            number = stream.normal(dtype=torch.float64) if m.noise == "normal" else stream.uniform(dtype=torch.float64)
            drawn[m.name] = number.cpu().numpy()
        return drawn

    def evaluate(
        self, noise: Mapping[str, NDArray[np.float64]], do: Mapping[str, object] | None = None
    ) -> dict[str, Values]:
        """Every column (N,) from its noise; a column in `do` is set to that value (one, or (N,)) instead.

        With fresh noise this is the distribution under an intervention; with a row's own noise it is what the row
        would have been.
        """
        do = do or {}
        self._checked(do)
        values: dict[str, Values] = {}
        for m in self.mechanisms:
            own = noise[m.name]
            if m.name in do:
                values[m.name] = np.broadcast_to(np.asarray(do[m.name]), own.shape).copy()
            else:
                values[m.name] = m.function({p: values[p] for p in m.parents}, own)
        return values

    def plain(self) -> dict[str, Any]:
        """The graph as JSON values; functions appear as their formulas."""
        columns = [
            {"name": m.name, "kind": m.kind, "parents": list(m.parents), "noise": m.noise, "formula": m.formula}
            for m in self.mechanisms
        ]
        return {"graph": self.name, "target": self.target, "columns": columns, "edges": [list(e) for e in self.edges()]}

    def _checked(self, names: Any) -> None:
        for name in names:
            if name not in self.names:
                raise BadInput(
                    f"there is no column '{name}' in the graph",
                    accepted=", ".join(self.names),
                    next=nearest(name, self.names),
                )


@dataclass(frozen=True, kw_only=True, eq=False)
class CausalTable:
    """A table and everything that made it.

    data: the table, as it would be read. graph: its causes. noise: (N,) of each column. values: columns as made.
    """

    data: TableData
    graph: CausalGraph
    noise: dict[str, NDArray[np.float64]] = field(repr=False)
    values: dict[str, Values] = field(repr=False)

    def otherwise(self, do: Mapping[str, object]) -> dict[str, Values]:
        """Each row as it would have been, had these columns been set: (N,) a column.

        >>> made = causal_table("linear", n=3, seed=0)
        >>> change = made.otherwise({"m": made.values["m"] + 1.0})["y"] - made.values["y"]
        >>> change.round(9).tolist()
        [-0.8, -0.8, -0.8]
        """
        return self.graph.evaluate(self.noise, do)


def causal_table(graph: CausalGraph | str = "loans", n: int = 2000, seed: int = 0) -> CausalTable:
    """n rows of a graph ("loans", "linear" or one of your own); row i depends on seed and i alone."""
    if isinstance(graph, str):
        if graph not in GRAPHS:
            raise BadInput(f"graph is '{graph}'", accepted=", ".join(GRAPHS), next=nearest(graph, GRAPHS))
        graph = GRAPHS[graph]()
    if n < 1:
        raise BadInput(f"n is {n}", accepted="1 or more")
    noise = graph.noise(Rows(seed, torch.arange(n)).fork("causal table " + graph.name))
    values = graph.evaluate(noise)
    data = read_table(pd.DataFrame(values), kinds={m.name: m.kind for m in graph.mechanisms}, target=graph.target)
    return CausalTable(data=replace(data, source=graph.name), graph=graph, noise=noise, values=values)


# ------------------------------------------------------------------------------------------------------------- graphs


def linear_graph() -> CausalGraph:
    """Three numbers: x moves y directly (+1.5) and through m (0.5 times -0.8), so its whole effect is +1.1."""
    return CausalGraph(
        "linear",
        (
            Mechanism(
                name="x", kind="number", parents=(), noise="normal", formula="x = e", function=lambda of, e: e.copy()
            ),
            Mechanism(
                name="m",
                kind="number",
                parents=("x",),
                noise="normal",
                formula="m = 0.5 x + 0.6 e",
                function=lambda of, e: 0.5 * of["x"] + 0.6 * e,
            ),
            Mechanism(
                name="y",
                kind="number",
                parents=("x", "m"),
                noise="normal",
                formula="y = 1.5 x - 0.8 m + 0.5 e",
                function=lambda of, e: 1.5 * of["x"] - 0.8 * of["m"] + 0.5 * e,
            ),
        ),
        target="y",
    )


SCHOOLS = ("none", "school", "university")
REGIONS = ("coast", "hills", "plain")


def loan_graph() -> CausalGraph:
    """Loans with numbers, categories and a boolean; the region is no cause of anything, and sex acts by pay alone."""
    return CausalGraph(
        "loans",
        (
            Mechanism(
                name="region",
                kind="category",
                parents=(),
                noise="uniform",
                formula="coast, hills, plain with probabilities 0.5, 0.3, 0.2",
                function=lambda of, e: np.array(REGIONS)[np.searchsorted([0.5, 0.8], e)],
            ),
            Mechanism(
                name="age",
                kind="integer",
                parents=(),
                noise="uniform",
                formula="age = 18 + floor(62 e^1.3)",
                function=lambda of, e: 18 + np.floor(62.0 * e**1.3).astype(np.int64),
            ),
            Mechanism(
                name="sex",
                kind="category",
                parents=(),
                noise="uniform",
                formula="Female if e < 0.5 else Male",
                function=lambda of, e: np.where(e < 0.5, "Female", "Male"),
            ),
            Mechanism(
                name="education",
                kind="category",
                parents=("age",),
                noise="uniform",
                formula="university if e < 0.45 - 0.004 (age - 18), else school if e < 0.85, else none",
                function=lambda of, e: np.where(
                    e < 0.45 - 0.004 * (of["age"] - 18), SCHOOLS[2], np.where(e < 0.85, SCHOOLS[1], SCHOOLS[0])
                ),
            ),
            Mechanism(
                name="income",
                kind="number",
                parents=("age", "sex", "education"),
                noise="normal",
                formula="exp(9.6 + 0.45 level + 0.15 [Male] + 0.04 (age - 18) - 0.0005 (age - 18)^2 + 0.35 e)",
                function=_income,
            ),
            Mechanism(
                name="debt",
                kind="number",
                parents=("income", "education"),
                noise="normal",
                formula="max(0, income (0.2 + 0.3 [university] + 0.5 e)), so that about a third have none",
                function=lambda of, e: np.round(
                    np.maximum(0.0, of["income"] * (0.2 + 0.3 * (of["education"] == SCHOOLS[2]) + 0.5 * e)), 2
                ),
            ),
            Mechanism(
                name="default",
                kind="boolean",
                parents=("income", "debt", "age"),
                noise="uniform",
                formula="e < logistic(-2.2 + 2.5 debt / income - 0.6 log(income / 20000) - 0.02 (age - 40))",
                function=_default,
            ),
        ),
        target="default",
    )


def _income(of: Mapping[str, Values], e: NDArray[np.float64]) -> Values:
    level = np.select([of["education"] == SCHOOLS[1], of["education"] == SCHOOLS[2]], [1.0, 2.0], 0.0)
    years = of["age"] - 18.0
    log = 9.6 + 0.45 * level + 0.15 * (of["sex"] == "Male") + 0.04 * years - 0.0005 * years**2 + 0.35 * e
    return np.round(np.exp(log), 2)


def _default(of: Mapping[str, Values], e: NDArray[np.float64]) -> Values:
    income = np.maximum(of["income"], 1.0)  # an intervention may set it to 0
    pull = -2.2 + 2.5 * of["debt"] / income - 0.6 * np.log(income / 20_000.0) - 0.02 * (of["age"] - 40.0)
    return e < 1.0 / (1.0 + np.exp(-pull))


GRAPHS: dict[str, Callable[[], CausalGraph]] = {"loans": loan_graph, "linear": linear_graph}
