"""Does an explanation deserve belief? Tests that a wrong one fails, and the badge that comes of them.

    faithful  Places said to matter are redrawn by the model itself, given all others, so that what is judged stays a
              likely item, which zeros in their place would not be. The judged quantity must then change more than
              when as many random places are redrawn, and more than for the cheapest rival's places.
              Keeping those places and redrawing the others must do the opposite, where that means anything.
    specific  The same, against what the explanation says of another item.
    reacts    On copies of the model that forgot what they learned it says something else (`randomising.py`).
    labels    The same of a model that was trained on labels dealt out at random, where one is trained for that.
    stable    From another seed of its own chance it says the same.

All is paired over N items, of which the explained one is the first. Against random places: within an item, the rank
of the explanation's effect among those of R random orders is uniform where it knows nothing, so the sum over items
has the Irwin-Hall distribution, whatever the effects are. Against rivals: the sign-flip test of the mean difference
(Fisher 1935), exact for any symmetric error. Faithful is judged at p = .01 and .025, so that an answer without merit
is called good once in a hundred times at most, and then still has the other tests before it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pellucid.core.errors import BadInput
from pellucid.core.interval import Interval, bootstrap
from pellucid.core.report import Block, Details, Json, Level, Table, Verdict
from pellucid.explain.faithfulness import Faithfulness
from pellucid.explain.likeness import likeness

__all__ = ["Attribution", "Badge", "Colour", "Tested", "judge", "judge_check", "not_judged", "sign_flips"]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Colour = Literal["green", "amber", "red", "not judged"]

SHARES = (0.1, 0.2, 0.4)  # of the places, that are redrawn
SURE, PAIRED = 0.01, 0.025  # chance at which random places, and rivals, are left behind
SHARED = 0.7  # likeness to what is said of a copy that forgot: at more, half of the scores' variance is the same
SAME = 0.9  # likeness between seeds, and to other items where one order serves all
FEWEST = 6  # items: fewer cannot reach PAIRED
FLIPS = 14  # items up to which all signs are tried


@dataclass(frozen=True, eq=False)
class Attribution:
    """What an explanation says of N items, in the form that the gate judges; the item that was asked about is first.

    what: the places in the plural, as "pixels". scores: (N, P), higher for what matters more.
    judged: what `value` says, in words. value: item i and (M, P) of the places that are known to (M,): the judged
        quantity with all other places redrawn given those; or why it cannot be had. rival: (N, P) the cheapest answer,
        called `rival_name`.
    again: seed to (N, P), the same explanation from other chance; None where it uses none.
    forgot: number of a copy to (N, P), the same explanation of a model that forgot; or why there is none.
    allowed: (N, P) places that can matter; the others are always known. shape: (H, W) where they are pixels.
    keeping: whether it means anything to keep the named places and redraw all others.
    """

    what: str
    scores: Floats
    judged: str
    value: Callable[[int, Flags], Floats] | str
    rival: Floats
    rival_name: str
    again: Callable[[int], Floats] | None
    forgot: Callable[[int], Floats] | str
    allowed: Flags | None = None
    shape: tuple[int, int] | None = None
    keeping: bool = True

    def __post_init__(self) -> None:
        shapes = {
            self.scores.shape,
            self.rival.shape,
            self.scores.shape if self.allowed is None else self.allowed.shape,
        }
        if self.scores.ndim != 2 or len(shapes) > 1:
            raise BadInput(f"scores, rival and allowed have shapes {sorted(shapes)}", accepted="(N, P) for each")
        if self.allowed is not None and not bool(self.allowed.any(axis=1).all()):
            raise BadInput("an item has no place that is allowed", accepted="one place or more of each item")
        if not bool(np.isfinite(self.scores).all()):
            raise BadInput("a score is not finite", accepted="numbers; places that cannot matter go into `allowed`")


@dataclass(frozen=True)
class Tested:
    """One test. passed: None where it could not be made. said: in plain words. detail: with its numbers."""

    name: Literal["faithful", "specific", "reacts", "labels", "stable"]
    passed: bool | None
    said: str
    detail: str


@dataclass(frozen=True)
class Badge:
    """What the tests come to. items: on which they were made."""

    tests: tuple[Tested, ...]
    items: int
    seconds: float = 0.0

    def of(self, name: str) -> Tested:
        """One of the tests; BadInput where there is none of this name."""
        for test in self.tests:
            if test.name == name:
                return test
        raise BadInput(f"there is no test '{name}'", accepted=", ".join(t.name for t in self.tests))

    @property
    def colour(self) -> Colour:
        """Green: all passed. Red: not faithful. Amber: faithful, but something else failed or could not be tested."""
        faithful = next((t.passed for t in self.tests if t.name == "faithful"), None)
        if faithful is None:
            return "not judged"
        if not faithful:
            return "red"
        return "green" if all(t.passed for t in self.tests) else "amber"

    def sentence(self) -> str:
        """The badge in one plain sentence or two."""
        failed = [t.said for t in self.tests if t.passed is False and t.said]
        open_ = [t.said for t in self.tests if t.passed is None and t.said]
        if self.colour == "green":
            return "Green: it passed every test that we know for such answers."
        if self.colour == "red":
            return f"Red: do not rely on this. {' '.join(failed)}"
        if self.colour == "amber":
            return f"Amber: its main test was passed, but take care. {' '.join([*failed, *open_])}"
        return f"Not judged. {' '.join([*open_, *failed])}"

    def blocks(self) -> tuple[Block, ...]:
        """The sentence, and the tests with their numbers behind a line that opens them."""
        levels: dict[Colour, Level] = {"green": "ok", "amber": "warn", "red": "fail", "not judged": "note"}
        rows = [(t.name, {True: "passed", False: "FAILED", None: "not tested"}[t.passed], t.detail) for t in self.tests]
        caption = f"Made on {self.items} items in {self.seconds:.1f} s." if self.seconds else ""
        return (
            Verdict(levels[self.colour], self.sentence()),
            Details("How it was judged", (Table(("test", "", "what was measured"), rows, caption),)),
        )

    def plain(self) -> dict[str, Json]:
        """For JSON."""
        tests: dict[str, Json] = {t.name: {"passed": t.passed, "detail": t.detail} for t in self.tests}
        return {"badge": self.colour, "tests": tests, "items": self.items}


def judge(of: Attribution, *, orders: int = 16, copies: int = 3, seeds: int = 2, seed: int = 0) -> Badge:
    """Put an explanation that names places to the tests.

    Args:
        orders: random orders of the places, each item's own. copies: models that forgot. seeds: of its own chance.
    """
    if orders < 8 or copies < 1 or seeds < 1:
        raise BadInput(f"{orders} orders, {copies} copies, {seeds} seeds", accepted="8 orders, 1 copy, 1 seed or more")
    return Badge((*_faithful(of, orders, seed), _reacts(of, copies), _stable(of, seeds)), len(of.scores))


def judge_check(
    check: Faithfulness | None,
    forgot: Callable[[], Faithfulness | None] | str,
    again: Callable[[], Faithfulness | None] | None,
    relabelled: Callable[[], Faithfulness | None] | None = None,
) -> Badge:
    """The badge of an explanation that names no places: its own check, made again where it must fail and must pass.

    Args:
        check: of the explanation, None where it could not be made.
        forgot: the check of the same explanation of a model that forgot, None where that model cannot even be asked;
            or why there is none. again: the check from another seed; None where no chance is used.
        relabelled: the check for a model of labels dealt out at random; None where none was trained.
    """
    if check is None:
        return not_judged("No check could be made for this item.")
    word = "held" if check.passed else "did not hold"
    said = "" if check.passed else f"Its own check failed. {check.lacks()}."
    own = Tested("faithful", check.passed, said, f"{check.question} {_numbers(check)}; it {word}")
    reacts = _check_reacts(check, forgot, "reacts", "a model that forgot")
    labels = () if relabelled is None else (_check_reacts(check, relabelled, "labels", "a model of random labels"),)
    return Badge((own, reacts, *labels, _check_stable(again)), check.score.n)


def not_judged(why: str) -> Badge:
    """The badge of what cannot be judged, with its reason."""
    return Badge((Tested("faithful", None, why, why),), 0)


# ------------------------------------------------------------------------------------------------------------ faithful


def _faithful(of: Attribution, orders: int, seed: int) -> tuple[Tested, Tested]:
    n = len(of.scores)
    why = of.value if isinstance(of.value, str) else f"{n} items are too few to tell." if n < FEWEST else ""
    if why or isinstance(of.value, str):
        return Tested("faithful", None, why, why), Tested("specific", None, "", why)
    ranks, rival, stranger, effects = np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n)
    for i in range(n):
        generator = np.random.default_rng([abs(seed), i, n])
        allowed = np.ones(of.scores.shape[1], bool) if of.allowed is None else of.allowed[i]
        other = of.scores[(i + 1) % n]
        named = [_order(s, allowed, generator) for s in (of.scores[i], of.rival[i], other)]
        blind = [_order(np.zeros(len(allowed)), allowed, generator) for _ in range(orders)]
        found = _effects(of.value, i, [*named, *blind], allowed, of.keeping)
        if not bool(np.isfinite(found).all()):
            why = f"The {of.judged} of an item is no number where places are redrawn."
            return Tested("faithful", None, why, why), Tested("specific", None, "", why)
        own, by_chance = found[0], found[3:]
        # ties count half, so that an answer that makes no difference is in the middle
        ranks[i] = (float((by_chance < own).sum()) + 0.5 * float((by_chance == own).sum()) + 0.5) / (orders + 1)
        effects[i], rival[i], stranger[i] = own - float(by_chance.mean()), own - found[1], own - found[2]
    p = _above_chance(ranks)
    over_chance, over_rival, over_other = (_mean(d) for d in (effects, rival, stranger))
    p_rival, p_other = sign_flips(rival), sign_flips(stranger)
    chance_passed, rival_passed = p <= SURE, p_rival <= PAIRED and over_rival.value > 0.0
    failed = []
    if not chance_passed:
        failed.append(f"The {of.what} that it names matter no more than others.")
    elif not rival_passed:
        failed.append(f"It does no better than {of.rival_name}, which asks nothing of the model.")
    detail = (
        f"{of.judged}, {_how(of)}: beyond {orders} random orders by {_shown(over_chance)}, p = {_p(p)} (needed: "
        f"{SURE}); beyond {of.rival_name} by {_shown(over_rival)}, p = {_p(p_rival)} (needed: {PAIRED}); n = {n}"
    )
    first = Tested("faithful", chance_passed and rival_passed, " ".join(failed), detail)
    common = likeness(of.scores, np.roll(of.scores, -1, axis=0), of.allowed, of.shape)
    if float(common.mean()) >= SAME:
        said = f"it says the same of every item (likeness {common.mean():.2f}), so there is none to confuse it with"
        return first, Tested("specific", True, "", said)
    passed = p_other <= PAIRED and over_other.value > 0.0
    said = "" if passed else "What it says of another item would do as well here."
    detail = f"beyond what it says of another item by {_shown(over_other)}, p = {_p(p_other)} (needed: {PAIRED})"
    return first, Tested("specific", passed, said, detail)


def _order(scores: Floats, allowed: Flags, generator: np.random.Generator) -> NDArray[np.int64]:
    """Places that count, the highest score first, those alike in random order."""
    places = generator.permutation(np.flatnonzero(allowed))
    return np.asarray(places[np.argsort(-scores[places], kind="stable")], dtype=np.int64)


def _effects(
    value: Callable[[int, Flags], Floats],
    item: int,
    orders: Sequence[NDArray[np.int64]],
    allowed: Flags,
    keeping: bool,
) -> Floats:
    """(R,) of R orders: how much the judged quantity falls when the first places are redrawn, and stays when kept.

    Mean over the shares of v(first places known) - v(first places redrawn); v of everything and of nothing, which
    all orders share, is left out. Without `keeping`, of the second part alone.
    """
    total = int(allowed.sum())
    sizes = sorted({k for share in SHARES if (k := math.ceil(share * total)) < total}) or [1]
    known = np.ones((len(orders), len(sizes), 2, len(allowed)), dtype=np.bool_)
    for r, order in enumerate(orders):
        for s, size in enumerate(sizes):
            known[r, s, 0, order[:size]] = False
            known[r, s, 1, order[size:]] = False
    asked = known if keeping else known[:, :, :1]
    flat = asked.reshape(-1, len(allowed))
    each, back = np.unique(flat, axis=0, return_inverse=True)  # orders often share their first places
    found = np.asarray(value(item, each), dtype=np.float64)[back.reshape(-1)].reshape(asked.shape[:3])
    gain = found[:, :, 1] - found[:, :, 0] if keeping else -found[:, :, 0]
    return np.asarray(gain.mean(axis=1), dtype=np.float64)


def _above_chance(ranks: Floats) -> float:
    """P that ranks from 0 to 1 that mean nothing have a sum as large: the Irwin-Hall distribution's upper tail.

    >>> round(_above_chance(np.array([0.5, 0.5, 0.5])), 6), round(_above_chance(np.array([0.9, 0.9])), 6)
    (0.5, 0.02)
    """
    n, x = len(ranks), float(len(ranks) - ranks.sum())  # by symmetry the lower tail at n - sum
    if n > 20:  # the alternating sum loses its digits, and the normal law has gained enough
        return 0.5 * math.erfc((n / 2 - x) / math.sqrt(n / 12) / math.sqrt(2))
    terms = ((-1) ** k * math.comb(n, k) * (x - k) ** n for k in range(math.floor(x) + 1))
    return min(1.0, max(0.0, sum(terms) / math.factorial(n)))


def sign_flips(differences: Floats, *, seed: int = 0) -> float:
    """One-sided p of paired differences (N,) having a mean above 0 by chance, over flips of their signs.

    >>> sign_flips(np.array([1.0, 2.0, 1.5, 0.5]))
    0.0625
    """
    n = len(differences)
    if n <= FLIPS:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=n)))
    else:
        signs = np.random.default_rng(seed).choice([1.0, -1.0], size=(9999, n))
        signs = np.concatenate((np.ones((1, n)), signs))
    sums = signs @ differences
    return float((sums >= differences.sum() - 1e-12 * np.abs(differences).sum()).mean())


# ------------------------------------------------------------------------------------------- reacts, stable, and words


def _reacts(of: Attribution, copies: int) -> Tested:
    if isinstance(of.forgot, str):
        return Tested("reacts", None, of.forgot, of.forgot)
    each = [likeness(of.scores, of.forgot(k), of.allowed, of.shape) for k in range(copies)]
    found = _mean(np.mean(each, axis=0))
    passed = found.high < SHARED
    said = (
        "" if passed else "It says much the same of a model that has forgotten all, so it does not speak of this one."
    )
    detail = f"likeness to the answer for {copies} models that forgot: {_shown(found)} (needed: below {SHARED})"
    return Tested("reacts", passed, said, detail)


def _stable(of: Attribution, seeds: int) -> Tested:
    if of.again is None:
        return Tested("stable", True, "", "uses no chance: asked again it says the same")
    each = [likeness(of.scores, of.again(k + 1), of.allowed, of.shape) for k in range(seeds)]
    found = _mean(np.mean(each, axis=0))
    passed = found.value >= SAME
    said = "" if passed else "Asked again, it says something else."
    return Tested("stable", passed, said, f"likeness between {1 + seeds} seeds: {_shown(found)} (needed: {SAME})")


def _check_reacts(
    check: Faithfulness,
    other: Callable[[], Faithfulness | None] | str,
    name: Literal["reacts", "labels"],
    whose: str,
) -> Tested:
    if isinstance(other, str):
        return Tested(name, None, other, other)
    found = other()
    if found is None:
        return Tested(name, True, "", f"{whose} gives no answer that could be checked")
    lower = found.score.high < check.score.low
    passed = lower or not found.passed
    said = "" if passed else f"Its check holds for {whose}, too, so it does not speak of this one."
    return Tested(name, passed, said, f"the same check of {whose}: {_numbers(found)}")


def _check_stable(again: Callable[[], Faithfulness | None] | None) -> Tested:
    if again is None:
        return Tested("stable", True, "", "uses no chance: asked again it says the same")
    found = again()
    if found is None:
        return Tested("stable", False, "From other chance it could not be checked.", "no check from another seed")
    said = "" if found.passed else "From other chance its check fails."
    return Tested("stable", found.passed, said, f"the same check from another seed: {_numbers(found)}")


def _mean(values: Floats) -> Interval:
    return bootstrap(lambda k: float(values[k].mean()), len(values), seed=0, times=400)


def _shown(i: Interval) -> str:
    return f"{i.value:.3g} [{i.low:.3g}, {i.high:.3g}]"


def _p(p: float) -> str:
    return "below .0001" if p < 1e-4 else f"{p:.2g}"


def _numbers(check: Faithfulness) -> str:
    return f"{_shown(check.score)}, {check.alternative} {_shown(check.baseline)}, n = {check.score.n:,}"


def _how(of: Attribution) -> str:
    return f"when the named {of.what} are redrawn" + (" and when they alone are kept" if of.keeping else "")
