"""ELIZA: a conversation by keywords and patterns, from a script that anybody can read and change.

Weizenbaum 1966, "ELIZA, a computer program for the study of natural language communication between man and machine",
https://doi.org/10.1145/365153.365168. Of what was said the first clause with a keyword is kept, and of its keywords
the one of the highest rank. The first of its patterns that fits cuts the clause into parts (decomposition); the next
of that pattern's answers in turn puts parts into a sentence (reassembly), with I and you exchanged. What fits a
pattern of the memory is also kept aside, and brought up when a line has no keyword. Nothing is learned, nothing is
drawn, and each answer can name the rule that made it.

    hello: How do you do? What brings you here?          the first words; goodbye: the last ones; quit: bye, goodbye
    swap: i -> you, you -> i, my -> your                  in parts that are put into an answer
    read: dont -> don't, cant -> can't                    in what is said, before anything else
    same: family = mother, father, sister                 @family in a pattern is any of them
    key: remember 5                                       a keyword and its rank
        * i remember *                                    * is any words, 2 two words, [a b] one of these
            -> Do you often think of {2}?                 {2} is the second part; =what goes on with another keyword
    memory: my                                            as a key, but its answers are kept for later
    none:                                                 when nothing else is left
        -> Please go on.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files

from pellucid.core.errors import BadInput, nearest, shown

__all__ = ["Answer", "Conversation", "Key", "Pattern", "Script", "doctor", "read_script"]

MOST_JUMPS = 20  # from keyword to keyword for one answer
LONGEST = 2_000  # characters of a line that are heard
RESTING = 3  # lines without a keyword between two things from memory, which would else be used up at once

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*", re.UNICODE)
_CLAUSE = re.compile(r"[.,;:!?]|\bbut\b", re.IGNORECASE)
_PART = re.compile(r"\{(\d{1,3})\}")
_PIECE = re.compile(r"\[[^\]]*\]|\S+")


@dataclass(frozen=True)
class Pattern:
    """A decomposition with its answers, and where they stand.

    pieces: "*", a number of words, or the words of which one must stand there. text: as it is written.
    answers: (sentence, line); a sentence that begins with "=" goes on with another keyword.
    """

    pieces: tuple[str | int | frozenset[str], ...]
    text: str
    line: int
    answers: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Key:
    """A keyword with its rank and patterns, and the line where it starts."""

    word: str
    rank: int
    patterns: tuple[Pattern, ...]
    line: int


@dataclass(frozen=True, eq=False)
class Script:
    """Everything a conversation goes by."""

    hello: str
    goodbye: str
    quit: frozenset[str]
    swap: Mapping[str, str]
    read: Mapping[str, str]
    keys: Mapping[str, Key]
    memory: tuple[Key, ...]
    none: tuple[tuple[str, int], ...]
    source: str = "script"


@dataclass(frozen=True)
class Answer:
    """What was answered, and by which rule: a sentence for people, the script's line for those who change it."""

    text: str
    why: str
    line: int
    ends: bool = False


@dataclass(eq=False)
class Conversation:
    """A script and what was said so far.

    >>> talk = Conversation(read_script("none:\\n -> Go on.\\nkey: sad\\n i am sad *\\n  -> Why are you sad {4}?"))
    >>> talk.answer("Well, I am sad today.").text
    'Why are you sad today?'
    """

    script: Script
    turns: dict[int, int] = field(default_factory=dict)  # line of a pattern -> answers it has given
    kept: deque[tuple[str, str, int]] = field(default_factory=deque)
    quiet: int = 0

    def answer(self, said: str) -> Answer:
        """The answer to a line; a line may be anything."""
        script = self.script
        clauses = [self._heard(part) for part in _CLAUSE.split(said[:LONGEST])]
        words = next((c for c in clauses if any(w in script.keys for w in c)), [])
        if " ".join(w for c in clauses for w in c) in script.quit:
            return Answer(script.goodbye, "these words end the conversation (quit:)", 0, ends=True)
        self._remember(clauses)
        found = sorted({w for w in words if w in script.keys}, key=lambda w: (-script.keys[w].rank, words.index(w)))
        waiting, jumps = deque(found), 0
        while waiting:
            key = script.keys[waiting.popleft()]
            for pattern in key.patterns:
                parts = match(pattern.pieces, words)
                if parts is None:
                    continue
                sentence, line = self._next(pattern.line, pattern.answers)
                if sentence.startswith("="):
                    jumps += 1
                    if jumps <= MOST_JUMPS and sentence[1:] != "next":
                        waiting.appendleft(sentence[1:])
                    break  # =next: on with the next keyword
                others = f", ranked above {', '.join(waiting)}" if waiting else ""
                why = f"keyword '{key.word}' (rank {key.rank}{others}), pattern '{pattern.text}' (line {pattern.line})"
                why += f" cut '{' '.join(words)}' into {_listed(parts)}; answer of line {line}"
                return Answer(self._put(sentence, parts), why, line)
        return self._otherwise()

    def _heard(self, clause: str) -> list[str]:
        """Words in small letters, as the script reads them."""
        out: list[str] = []
        for word in _WORD.findall(clause.casefold().replace("’", "'")):
            out += self.script.read.get(word, word).split()
        return out

    def _remember(self, clauses: Sequence[Sequence[str]]) -> None:
        for words in clauses:
            for key in self.script.memory:
                if key.word not in words:
                    continue
                for pattern in key.patterns:
                    parts = match(pattern.pieces, words)
                    if parts is not None:
                        sentence, line = self._next(pattern.line, pattern.answers)
                        why = f"nothing here had a keyword; '{' '.join(words)}' was kept in memory by '{pattern.text}'"
                        self.kept.append((self._put(sentence, parts), f"{why} (line {pattern.line})", line))
                        break

    def _otherwise(self) -> Answer:
        """Something from memory, now and then; else what is said when nothing else is left."""
        self.quiet += 1
        if self.kept and self.quiet % RESTING == 1:
            return Answer(*self.kept.popleft())
        sentence, line = self._next(0, self.script.none)
        return Answer(sentence, f"no keyword was found; answer of line {line} (none:)", line)

    def _next(self, pattern: int, answers: tuple[tuple[str, int], ...]) -> tuple[str, int]:
        turn = self.turns.get(pattern, 0)
        self.turns[pattern] = turn + 1
        return answers[turn % len(answers)]

    def _put(self, sentence: str, parts: Sequence[Sequence[str]]) -> str:
        def part(found: re.Match[str]) -> str:
            return " ".join(self.script.swap.get(word, word) for word in parts[int(found.group(1)) - 1])

        text = re.sub(r"\s+([?.!,;])", r"\1", re.sub(r"\s+", " ", _PART.sub(part, sentence)))
        return re.sub(r"\bi\b", "I", text)


def match(pieces: Sequence[str | int | frozenset[str]], words: Sequence[str]) -> list[list[str]] | None:
    """The words that each piece of a pattern takes, the first stars as few as they can; None if it does not fit.

    >>> match(("*", frozenset({"am"}), "*"), ["i", "am", "what", "i", "am"])
    [['i'], ['am'], ['what', 'i', 'am']]
    """
    fits: list[set[int]] = [set() for _ in range(len(pieces) + 1)]  # places from which the pieces from k on fit
    fits[len(pieces)] = {len(words)}
    for k in reversed(range(len(pieces))):
        fits[k] = {at for at in range(len(words) + 1) if _steps(pieces[k], words, at) & fits[k + 1]}
    if 0 not in fits[0]:
        return None
    out, at = list[list[str]](), 0
    for k, piece in enumerate(pieces):
        stop = min(_steps(piece, words, at) & fits[k + 1])
        out.append(list(words[at:stop]))
        at = stop
    return out


def _steps(piece: str | int | frozenset[str], words: Sequence[str], at: int) -> set[int]:
    """Where a piece that starts at a place may end."""
    if piece == "*":
        return set(range(at, len(words) + 1))
    if isinstance(piece, int):
        return {at + piece} if at + piece <= len(words) else set()
    return {at + 1} if at < len(words) and words[at] in piece else set()


# ------------------------------------------------------------------------------------------------ reading


def doctor() -> Script:
    """The script that ships: a listener in the manner of the first ELIZA, in words of our own."""
    text = files("pellucid.families").joinpath("scripts/doctor.txt").read_text(encoding="utf-8")
    return read_script(text, "doctor")


def read_script(text: str, source: str = "script") -> Script:
    """A script from a file's text.

    Raises:
        BadInput: what is no rule, a broken pattern, an answer for a part that its pattern has not, a keyword or a set
            of words that is missing or stands there twice. Names the line.
    """
    reader = _Reader(source)
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            reader.read(line[0] in " \t", stripped, number)
    return reader.script()


class _Reader:
    """Line by line: a head, then indented patterns, then answers under each."""

    def __init__(self, source: str) -> None:
        self.source, self.single = source, {"hello": "How do you do?", "goodbye": "Goodbye."}
        self.quit: set[str] = {"bye", "goodbye", "quit"}
        self.pairs: dict[str, dict[str, str]] = {"swap": {}, "read": {}}
        self.same: dict[str, frozenset[str]] = {}
        self.open: list[tuple[str, str, int, int]] = []  # keyword heads: kind, word, rank, line
        self.patterns: dict[int, list[tuple[str, int]]] = {}
        self.answers: dict[int, list[tuple[str, int]]] = {}
        self.none: list[tuple[str, int]] = []
        self.in_none = False

    def read(self, indented: bool, line: str, number: int) -> None:
        if not indented:
            self._head(line, number)
        elif line.startswith("->"):
            self._answer(line[2:].strip(), number)
        elif not self.open or self.in_none:
            raise BadInput(f"line {number} of '{self.source}' is a pattern without a keyword: {shown(line)}",
                           accepted="key: word rank, and patterns below it")  # fmt: skip
        else:
            self.patterns[self.open[-1][3]].append((line, number))
            self.answers[number] = []

    def _head(self, line: str, number: int) -> None:
        name, colon, rest = line.partition(":")
        name, rest, self.in_none = name.strip(), rest.strip(), name.strip() == "none"
        kinds = (*self.single, "quit", *self.pairs, "same", "key", "memory", "none")
        if not colon or name not in kinds:
            raise BadInput(f"line {number} of '{self.source}' is no rule: {shown(line)}",
                           accepted=", ".join(f"{k}:" for k in kinds), next=nearest(name, kinds))  # fmt: skip
        if name in self.single:
            self.single[name] = rest
        elif name == "quit":
            self.quit = {" ".join(_WORD.findall(word.casefold())) for word in rest.split(",")}
        elif name in self.pairs:
            for pair in rest.split(","):
                left, arrow, right = pair.partition("->")
                if not arrow or not left.strip():
                    raise BadInput(f"line {number}: {shown(pair.strip())} is no pair", accepted="word -> words, ...")
                self.pairs[name][left.strip().casefold()] = right.strip().casefold()
        elif name == "same":
            word, equals, listed = rest.partition("=")
            found = frozenset(w.strip().casefold() for w in listed.split(",") if w.strip())
            if not equals or not found or word.strip() in self.same:
                raise BadInput(f"line {number}: {shown(line)}", accepted="same: name = word, word; each name once")
            self.same[word.strip()] = found
        elif name in ("key", "memory"):
            word, *rank = rest.split() or [""]
            if not word or len(rank) > 1 or not all(re.fullmatch(r"\d{1,6}", r) for r in rank):
                raise BadInput(f"line {number}: {shown(line)}", accepted=f"{name}: word, or {name}: word 5")
            if any(k == name and w == word.casefold() for k, w, _, _ in self.open):
                raise BadInput(f"line {number}: the {name} '{word}' stands there twice")
            self.open.append((name, word.casefold(), int(rank[0]) if rank else 0, number))
            self.patterns[number] = []

    def _answer(self, sentence: str, number: int) -> None:
        if self.in_none:
            self.none.append((sentence, number))
            return
        below = self.patterns[self.open[-1][3]] if self.open else []
        if not below:
            raise BadInput(f"line {number} of '{self.source}' is an answer without a pattern: {shown(sentence)}")
        self.answers[below[-1][1]].append((sentence, number))

    def script(self) -> Script:
        if not self.none:
            raise BadInput(f"'{self.source}' has no 'none:' rule", why="Something must be said when nothing fits.",
                           accepted="none:, and below it -> answers")  # fmt: skip
        made = [Key(word, rank, self._patterns(word, line), line) for _, word, rank, line in self.open]
        kinds = [kind for kind, *_ in self.open]
        keys = {key.word: key for key, kind in zip(made, kinds, strict=True) if kind == "key"}
        for key in made:
            for pattern in key.patterns:
                for sentence, number in pattern.answers:
                    if sentence.startswith("=") and sentence[1:] not in (*keys, "next"):
                        raise BadInput(f"line {number} goes on with '{sentence[1:]}', which is no keyword",
                                       next=nearest(sentence[1:], keys))  # fmt: skip
        return Script(
            self.single["hello"],
            self.single["goodbye"],
            frozenset(self.quit),
            self.pairs["swap"],
            self.pairs["read"],
            keys,
            tuple(key for key, kind in zip(made, kinds, strict=True) if kind == "memory"),
            tuple(self.none),
            self.source,
        )

    def _patterns(self, word: str, line: int) -> tuple[Pattern, ...]:
        written = self.patterns[line]
        if not written:
            raise BadInput(f"line {line}: '{word}' has no pattern", next="Write * for any words.")
        return tuple(self._pattern(text, number) for text, number in written)

    def _pattern(self, text: str, number: int) -> Pattern:
        pieces = tuple(self._piece(piece, text, number) for piece in _PIECE.findall(text))
        answers = tuple(self.answers[number])
        if not answers:
            raise BadInput(f"line {number}: the pattern '{text}' has no answer", accepted="-> answers below it")
        for sentence, at in answers:
            if not sentence:
                raise BadInput(f"line {at} has an empty answer")
            parts = [int(n) for n in _PART.findall(sentence)]
            if strange := [n for n in parts if not 1 <= n <= len(pieces)]:
                raise BadInput(f"line {at} asks for part {strange[0]}", accepted=f"1 to {len(pieces)}",
                               why=f"The pattern '{text}' has {len(pieces)} parts.")  # fmt: skip
            if re.search(r"[{}]", _PART.sub("", sentence)):
                raise BadInput(f"line {at} has a broken part: {shown(sentence)}", accepted="{1}, {2}, ...")
        return Pattern(pieces, text, number, answers)

    def _piece(self, piece: str, text: str, number: int) -> str | int | frozenset[str]:
        if piece == "*":
            return "*"
        if re.fullmatch(r"\d{1,3}", piece):
            return int(piece)
        if piece.startswith("@"):
            if piece[1:] not in self.same:
                raise BadInput(
                    f"line {number}: no words are listed as '{piece[1:]}'",
                    accepted=", ".join(f"@{n}" for n in self.same) or "same: name = word, word",
                    next=nearest(piece[1:], self.same),
                )
            return self.same[piece[1:]]
        words = piece[1:-1].split() if piece.startswith("[") and piece.endswith("]") else [piece]
        if not words or not all(_WORD.fullmatch(w) for w in words):
            raise BadInput(f"line {number}: the pattern '{text}' is broken at '{piece}'",
                           accepted="words, * for any words, a number of words, [one of these], @set")  # fmt: skip
        return frozenset(w.casefold() for w in words)


def _listed(parts: Sequence[Sequence[str]]) -> str:
    return " | ".join(f"{n}: {' '.join(words) or '-'}" for n, words in enumerate(parts, 1))
