"""Weighted grammar: a readable file of rules from which sentences are drawn, and their probabilities found again.

    greeting: [3] Good <time>, <person>! | Hello, <person.capital>!
    time: morning | evening
    person:
        my <noun/N>
        <noun/one.a> of mine
    noun/one: friend | old owl
    noun/many: friends | owls

A rule is a name, a colon and alternatives, parted by | or one an indented line; [3] in front makes one three times as
likely as one without. <name> stands for a draw of that rule, the first rule is where sentences start, <> is nothing.
Hooks after a dot change what was drawn: .capital, .upper, .s (plural) and .a (its article, "a" or "an"). Agreement:
rules may have a form, as noun/one; a form of one capital letter, as in <noun/N> <verb/N>, is drawn once for an
alternative, among the forms that all rules with this letter have.

So every grammar is context-free, and log p of a sentence is exact: the inside sum over all its derivations (Baker 1979,
"Trainable grammars for speech recognition"; here top-down and memoised, over the characters). Depth is bounded: where
no room is left, alternatives that need more are left out and the others' weights count among themselves. The bounded
grammar is the model, for drawing and for scoring alike.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import How, LogProb, Samples, Scores
from pellucid.core.errors import BadInput, nearest, shown
from pellucid.core.rows import Rows
from pellucid.core.space import Tokens
from pellucid.core.trace import Trace

__all__ = ["Alternative", "Grammar", "GrammarEngine", "Reference", "Rule", "read_grammar"]

DEPTH = 40  # rules inside one another
LONGEST = 20_000  # characters of a sentence
CHOICES = 64  # random numbers drawn at once for each row
MOST_STEPS = 200_000  # of a sum over derivations, and rules in one sentence
MOST_FORMS = 10_000  # alternatives that the capital letters of one stand for
MOST_HOOKS = 8  # on one draw
NEVER = math.inf

_RULE = re.compile(r"([A-Za-z_][\w-]*(?:/[\w-]+)?)\s*:(.*)")
_WEIGHT = re.compile(r"\[([^\]]*)\]\s*")
_REFERENCE = re.compile(r"([A-Za-z_][\w-]*)(?:/([\w-]+))?((?:\.[a-z]+)*)")
_VOWELS = "aeiouAEIOU"


@dataclass(frozen=True)
class Reference:
    """<name.hook.hook> in an alternative; `article` "a" puts "a " or "an " in front, "A" the same with a capital."""

    name: str
    hooks: tuple[str, ...] = ()
    article: str = ""


@dataclass(frozen=True)
class Alternative:
    """Texts and references in a row, with a weight and the line it stands in."""

    weight: float
    items: tuple[str | Reference, ...]
    line: int


@dataclass(frozen=True)
class Rule:
    """A name with its alternatives, and the line where it starts."""

    name: str
    alternatives: tuple[Alternative, ...]
    line: int


@dataclass(frozen=True, eq=False)
class Grammar:
    """Rules by name, the first one the start; hooks and forms are rules of their own by now.

    depth: how many rules may lie inside one another. needed: the least depth each rule needs. longest: characters of
    the longest sentence within this depth.
    """

    rules: Mapping[str, Rule]
    start: str
    depth: int
    needed: Mapping[str, float] = field(repr=False)
    longest: int
    source: str = "grammar"

    @property
    def alphabet(self) -> tuple[str, ...]:
        """Every character that a sentence can hold, sorted."""
        texts = (item for rule in self.rules.values() for a in rule.alternatives for item in a.items)
        letters = {c for text in texts if isinstance(text, str) for c in text}
        references = (i for rule in self.rules.values() for a in rule.alternatives for i in a.items)
        articles = {c for i in references if isinstance(i, Reference) and i.article for c in f"{i.article}n "}
        return tuple(sorted(letters | articles))

    def choices(self, name: str, room: int) -> tuple[list[Alternative], list[float]]:
        """Alternatives of a rule that fit into so much depth, and their probabilities."""
        fits = [a for a in self.rules[name].alternatives if self.depth_of(a) < room]
        total = sum(a.weight for a in fits)
        return fits, [a.weight / total for a in fits]

    def depth_of(self, alternative: Alternative) -> float:
        """The least depth that an alternative needs below its own rule."""
        return max((self.needed[i.name] for i in alternative.items if isinstance(i, Reference)), default=0)

    def draw(self, uniform: Iterator[float]) -> str:
        """One sentence, each choice made by one number between 0 and 1."""
        return self._draw(self.start, self.depth, uniform)

    def _draw(self, name: str, room: int, uniform: Iterator[float]) -> str:
        fits, shares = self.choices(name, room)
        chosen, u, upto = fits[-1], 0.0, 0.0
        if len(fits) > 1:
            u = next(uniform)
            for alternative, share in zip(fits, shares, strict=True):
                upto += share
                if u < upto:
                    chosen = alternative
                    break
        out = []
        for item in chosen.items:
            text = item if isinstance(item, str) else self._draw(item.name, room - 1, uniform)
            if isinstance(item, Reference) and item.article:
                text = _article(item.article, text[:1]) + text
            out.append(text)
        return "".join(out)

    def log_prob(self, sentence: str) -> float:
        """log p of the sentence in nats: the sum over its derivations; -inf if the grammar cannot make it.

        Raises BadInput for a sentence whose derivations are too many to be summed.
        """
        found = _Inside(self, sentence).ends(self.start, self.depth, 0).get(len(sentence), 0.0)
        return math.log(found) if found > 0.0 else -math.inf


class _Inside:
    """For a rule that starts at a place of the sentence: where it can end, and how probably."""

    def __init__(self, grammar: Grammar, sentence: str) -> None:
        self.grammar, self.sentence, self.steps = grammar, sentence, 0
        self.known: dict[tuple[str, int, int], dict[int, float]] = {}
        self.all = _most(grammar.rules, grammar.depth)  # depth beyond which nothing changes

    def ends(self, name: str, room: int, at: int) -> dict[int, float]:
        key = (name, int(min(room, self.all[name])), at)
        if key not in self.known:
            out: dict[int, float] = {}
            for alternative, share in zip(*self.grammar.choices(name, room), strict=True):
                for end, p in self._row(alternative.items, room - 1, at).items():
                    out[end] = out.get(end, 0.0) + share * p
            self.known[key] = out
        return self.known[key]

    def _row(self, items: tuple[str | Reference, ...], room: int, at: int) -> dict[int, float]:
        """The same for texts and references in a row."""
        reached = {at: 1.0}
        for item in items:
            after: dict[int, float] = {}
            for place, p in reached.items():
                self.steps += 1
                if self.steps > MOST_STEPS:
                    raise BadInput(f"the sentence {shown(self.sentence)} has too many derivations to be summed",
                                   next="Score shorter sentences, or give the grammar less depth.")  # fmt: skip
                if isinstance(item, str):
                    found = {place + len(item): 1.0} if self.sentence.startswith(item, place) else {}
                else:
                    found = self._reference(item, room, place)
                for end, q in found.items():
                    after[end] = after.get(end, 0.0) + p * q
            reached = after
        return reached

    def _reference(self, item: Reference, room: int, place: int) -> dict[int, float]:
        if not item.article:
            return self.ends(item.name, room, place)
        for word in (f"{item.article}n ", f"{item.article} "):
            first = place + len(word)
            if (
                self.sentence.startswith(word, place)
                and _article(item.article, self.sentence[first : first + 1]) == word
            ):
                return self.ends(item.name, room, first)
        return {}


class GrammarEngine(nn.Module, Samples, Scores):
    """Sentences of a grammar as rows of characters that end: symbol 0 ends, 1 is no character, the alphabet follows."""

    def __init__(self, grammar: Grammar, alphabet: tuple[str, ...]) -> None:
        super().__init__()
        self.grammar, self.alphabet = grammar, alphabet
        self.space = Tokens(len(alphabet) + 2, grammar.longest + 1, ends=True)
        self._symbol = {c: k + 2 for k, c in enumerate(alphabet)}

    def settings(self) -> How:
        return How()

    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        """(B, T)"""
        out = torch.zeros(len(rows), self.space.length, dtype=torch.int64)
        for i in range(len(rows)):
            text = self.grammar.draw(_numbers(rows.take(slice(i, i + 1))))
            out[i, : len(text)] = torch.tensor([self._symbol[c] for c in text], dtype=torch.int64)
        return out

    def log_prob(self, batch: Batch, rows: Rows) -> LogProb:
        found = [self.grammar.log_prob(self._text(row)) for row in batch.x.tolist()]
        return LogProb(torch.tensor(found, dtype=torch.float64), "exact")

    def _text(self, symbols: list[int]) -> str:
        end = symbols.index(0) if 0 in symbols else len(symbols)
        return "".join("\ufffd" if s == 1 else self.alphabet[s - 2] for s in symbols[:end])


def _numbers(row: Rows) -> Iterator[float]:
    """Uniform numbers without end, a function of the row's seed and id."""
    step = 0
    while True:
        yield from row.fork("choices", step).uniform(CHOICES, dtype=torch.float64)[0].tolist()
        step += 1


# ------------------------------------------------------------------------------------------------ reading


def read_grammar(text: str, source: str = "grammar", depth: int = DEPTH) -> Grammar:
    """The grammar of a file's text.

    Args:
        depth: how many rules may lie inside one another, at most; less where sentences would become too long.

    Raises:
        BadInput: what is no rule, a rule that is missing or stands there twice, one that never comes to an end, an
            unknown hook, a weight that is none. Names the rule and the line.

    >>> grammar = read_grammar("greeting: [3] Hello, <who>! | Hi!\\nwho: world | you")
    >>> round(math.exp(grammar.log_prob("Hello, you!")), 3)
    0.375
    """
    if depth < 1:
        raise BadInput(f"depth is {depth}", accepted="1 or more")
    written = _parsed(text, source)
    rules: dict[str, Rule] = {}
    start = next(iter(written))
    waiting = [(start, written[start].line)]
    while waiting:
        name, line = waiting.pop()
        if name in rules:
            continue
        rules[name] = made = _made(name, line, written)
        waiting += [(i.name, a.line) for a in made.alternatives for i in a.items if isinstance(i, Reference)]
    needed = _needed(rules)
    endless = [name for name in rules if needed[name] == NEVER]
    if endless:
        worst = rules[endless[-1]]
        raise BadInput(f"line {worst.line}: rule '{worst.name}' never comes to an end",
                       why="Each of its alternatives leads back to itself.",
                       next="Give it one that does not.")  # fmt: skip
    if needed[start] > depth:
        raise BadInput(f"rule '{start}' needs a depth of {needed[start]:.0f}", accepted=f"at most {depth}")
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 20 * depth + 1000))
    deep, (length, drawn) = depth, _largest(rules, start, depth)
    while (length > LONGEST or drawn > MOST_STEPS) and deep > needed[start]:
        deep -= 1
        length, drawn = _largest(rules, start, deep)
    if length > LONGEST:
        raise BadInput(f"sentences of '{source}' have up to {length:,.0f} characters", accepted=f"{LONGEST:,}")
    if drawn > MOST_STEPS:
        raise BadInput(f"sentences of '{source}' draw up to {drawn:,.0f} rules", accepted=f"{MOST_STEPS:,}")
    return Grammar(rules, start, deep, needed, int(length), source)


def _parsed(text: str, source: str) -> dict[str, Rule]:
    """Rules as they are written, by name."""
    rules: dict[str, Rule] = {}
    name, begun, found = "", 0, list[Alternative]()

    def close() -> None:
        if name and not found:
            raise BadInput(f"line {begun}: rule '{name}' has no alternative", next="Write <> for nothing.")
        if name:
            rules[name] = Rule(name, tuple(found), begun)

    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line[0] in " \t":
            if not name:
                raise BadInput(f"line {number} is indented, and no rule has begun", accepted="name: alternatives")
            found += _alternatives(line, number)
            continue
        close()
        match = _RULE.match(line)
        if match is None:
            raise BadInput(f"line {number} of '{source}' is no rule: {shown(line)}",
                           accepted="name: alternative | alternative, or an indented alternative")  # fmt: skip
        name, begun, found = match.group(1), number, []
        if name in rules:
            raise BadInput(f"line {number}: rule '{name}' stands in line {rules[name].line} already")
        if match.group(2).strip():
            found += _alternatives(match.group(2), number)
    close()
    if not rules:
        raise BadInput(f"'{source}' holds no rule", accepted="name: alternative | alternative")
    return rules


def _alternatives(text: str, line: int) -> Iterator[Alternative]:
    for part in re.split(r"(?<!\\)\|", text):
        body, weight = part.strip(), 1.0
        match = _WEIGHT.match(body)
        if match is not None:
            body = body[match.end() :]
            try:
                weight = float(match.group(1))
            except ValueError:
                weight = -1.0
            if not 0.0 < weight < math.inf:
                raise BadInput(f"line {line}: the weight is [{match.group(1)}]", accepted="a number above 0")
        if not body:
            raise BadInput(f"line {line} has an empty alternative", next="Write <> for nothing.")
        yield Alternative(weight, tuple(_items(body, line)), line)


def _items(body: str, line: int) -> Iterator[str | Reference]:
    for part in re.split(r"(?<!\\)(<[^<>]*>)", body):
        if part.startswith("<") and part.endswith(">"):
            inner = part[1:-1].strip()
            match = _REFERENCE.fullmatch(inner)
            if match is None and inner:
                raise BadInput(f"line {line}: {shown(part)} names no rule", accepted="<name>, <name/form>, <name.hook>")
            if match is not None:
                name, form, hooks = match.groups()
                said = tuple(hooks.split(".")[1:])
                if strange := [h for h in said if h not in (*_HOOKS, "a")]:
                    raise BadInput(f"line {line}: hook '.{strange[0]}' is unknown", accepted=", ".join((*_HOOKS, "a")),
                                   next=nearest(strange[0], _HOOKS))  # fmt: skip
                if "a" in said[:-1]:
                    raise BadInput(f"line {line}: something follows the hook '.a'", accepted=".a as the last hook")
                yield Reference(
                    name + (f"/{form}" if form else ""), tuple(h for h in said if h != "a"), "a" if "a" in said else ""
                )
        elif part:
            if re.search(r"(?<!\\)[<>]", part):
                raise BadInput(f"line {line} has < or > without its other half", next=r"Write \< for the sign itself.")
            yield re.sub(r"\\(.)", lambda m: "\n" if m.group(1) == "n" else m.group(1), part)


def _made(name: str, line: int, written: Mapping[str, Rule]) -> Rule:
    """The rule of a name that may end in hooks, with the forms of its alternatives drawn out."""
    plain, *hooks = name.split(".")
    if len(hooks) > MOST_HOOKS:
        raise BadInput(f"line {line}: '{shown(name)}' has hooks upon hooks", accepted=f"{MOST_HOOKS} on one draw",
                       why="A rule that changes a draw of itself, and that of itself, never ends.")  # fmt: skip
    if plain not in written:
        forms = [w for w in written if w.startswith(plain + "/")]
        raise BadInput(f"line {line}: rule '{plain}' is missing", accepted=", ".join(forms or list(written)),
                       next=nearest(plain, written))  # fmt: skip
    rule = written[plain]
    out = [one for a in rule.alternatives for one in _forms(a, written)]
    for hook in hooks:
        out = [Alternative(a.weight, _HOOKS[hook](a, plain), a.line) for a in out]
    named = []
    for a in out:
        items = tuple(Reference(".".join((i.name, *i.hooks)), (), i.article) if isinstance(i, Reference) else i
                      for i in a.items)  # fmt: skip
        named.append(Alternative(a.weight, items, a.line))
    return Rule(name, tuple(named), rule.line)


def _forms(alternative: Alternative, written: Mapping[str, Rule]) -> list[Alternative]:
    """An alternative for each form that its capital letters can stand for."""
    letters = dict.fromkeys(i.name.split("/")[1] for i in alternative.items
                            if isinstance(i, Reference) and re.fullmatch(r".*/[A-Z]", i.name))  # fmt: skip
    found = [alternative]
    for letter in letters:
        rules = [i.name[:-1] for i in alternative.items if isinstance(i, Reference) and i.name.endswith("/" + letter)]
        sets = [[name.removeprefix(rule) for name in written if name.startswith(rule)] for rule in rules]
        shared = [form for form in sets[0] if all(form in other for other in sets)]
        if not shared:
            raise BadInput(f"line {alternative.line}: no form serves {' and '.join(r + letter for r in rules)}",
                           accepted="rules that share a form, as noun/one and verb/one")  # fmt: skip
        if len(found) * len(shared) > MOST_FORMS:
            raise BadInput(f"line {alternative.line}: capital letters stand for more than {MOST_FORMS:,} combinations",
                           accepted="fewer letters or forms in one alternative")  # fmt: skip
        found = [
            Alternative(
                a.weight / len(shared),
                tuple(Reference(i.name[: -len(letter)] + form, i.hooks, i.article)
                      if isinstance(i, Reference) and i.name.endswith("/" + letter) else i for i in a.items),
                a.line,
            )
            for a in found
            for form in shared
        ]  # fmt: skip
    return found


def _first(a: Alternative, rule: str, change: Callable[[str], str], hook: str) -> tuple[str | Reference, ...]:
    if not a.items:
        raise BadInput(f"line {a.line}: '.{hook}' is asked of '{rule}', which can be nothing")
    first = a.items[0]
    if isinstance(first, str):
        return (change(first), *a.items[1:])
    if first.article:  # which then has the capital
        return (Reference(first.name, first.hooks, change(first.article)), *a.items[1:])
    if first.hooks[-1:] == (hook,):  # a capital of a capital is that capital
        return a.items
    return (Reference(first.name, (*first.hooks, hook)), *a.items[1:])


def _capital(a: Alternative, rule: str) -> tuple[str | Reference, ...]:
    return _first(a, rule, lambda text: text[:1].upper() + text[1:], "capital")


def _upper(a: Alternative, rule: str) -> tuple[str | Reference, ...]:
    return tuple(i.upper() if isinstance(i, str) else Reference(i.name, (*i.hooks, "upper"), i.article)
                 for i in a.items)  # fmt: skip


def _plural(a: Alternative, rule: str) -> tuple[str | Reference, ...]:
    if not a.items:
        raise BadInput(f"line {a.line}: '.s' is asked of '{rule}', which can be nothing")
    last = a.items[-1]
    ending = Reference(last.name, (*last.hooks, "s"), last.article) if isinstance(last, Reference) else _several(last)
    return (*a.items[:-1], ending)


def _several(word: str) -> str:
    """The regular English plural.

    >>> [_several(w) for w in ("owl", "fox", "berry", "day")]
    ['owls', 'foxes', 'berries', 'days']
    """
    if re.search(r"(s|x|z|ch|sh)$", word):
        return word + "es"
    return word[:-1] + "ies" if re.search(r"[^aeiou]y$", word) else word + "s"


_HOOKS: dict[str, Callable[[Alternative, str], tuple[str | Reference, ...]]] = {
    "capital": _capital,
    "upper": _upper,
    "s": _plural,
}


def _article(article: str, letter: str) -> str:
    return f"{article}n " if letter and letter in _VOWELS else f"{article} "


# ------------------------------------------------------------------------------------------------ depths


def _needed(rules: Mapping[str, Rule]) -> dict[str, float]:
    """The least depth of each rule; infinite where no draw ends."""
    needed = dict.fromkeys(rules, NEVER)
    changed = True
    while changed:
        changed = False
        for name, rule in rules.items():
            least = min(1 + max((needed[i.name] for i in a.items if isinstance(i, Reference)), default=0)
                        for a in rule.alternatives)  # fmt: skip
            if least < needed[name]:
                needed[name], changed = least, True
    return needed


def _largest(rules: Mapping[str, Rule], start: str, depth: int) -> tuple[float, float]:
    """Characters of the longest sentence of so much depth, and the rules that one sentence draws at most."""
    found = dict.fromkeys(rules, (-NEVER, -NEVER))
    for _ in range(depth):
        before = found
        found = {}
        for name, rule in rules.items():
            sums = []
            for a in rule.alternatives:
                inner = [i for i in a.items if isinstance(i, Reference)]
                own = sum(len(i) for i in a.items if isinstance(i, str))
                sums.append((own + sum(before[i.name][0] + 3 * len(i.article) for i in inner),
                             1 + sum(before[i.name][1] for i in inner)))  # fmt: skip
            found[name] = max(s[0] for s in sums), max(s[1] for s in sums)
        if found == before:
            break
    return found[start]


def _most(rules: Mapping[str, Rule], depth: int) -> dict[str, int]:
    """The depth beyond which more room changes nothing in each rule; depth + 1 where that is beyond it."""
    inner = {
        name: {i.name for a in rule.alternatives for i in a.items if isinstance(i, Reference)}
        for name, rule in rules.items()
    }
    found = dict.fromkeys(rules, 0)
    for _ in range(depth + 1):
        found = {name: 1 + max((found[i] for i in those), default=0) for name, those in inner.items()}
    return found
