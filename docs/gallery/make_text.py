"""Makes text_ancestors.md in this folder: an n-gram, a grammar and ELIZA, by the commands that a user types.

    PELLUCID_DATA=/path/to/data python docs/gallery/make_text.py

Takes half a minute. Runs go to runs/.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from make import HERE, RUNS, data

CHAT = """I am rather tired of my work.
My brother says I complain too much.
/why
I dreamed of a house without doors.
It was quite dark in there.
/why
Do you remember my brother?
Perhaps you are a machine.
bye
"""


def pellucid(*words: str | Path, said: str | None = None) -> str:
    """Run a command as a user would, and give what it prints; paths of this machine are not shown."""
    done = subprocess.run([sys.executable, "-m", "pellucid", *map(str, words)], check=True, input=said, text=True,
                          capture_output=True)  # fmt: skip
    return done.stdout.strip("\n")


def section(title: str, told: str, command: str, out: str) -> str:
    return f"## {title}\n\n{told}\n\n    $ {command}\n\n```text\n{out}\n```\n"


def chatted(said: str) -> str:
    """What was said and what was answered, line by line."""
    hello, *answers = pellucid("chat", said=said).splitlines()
    lines = [line for pair in zip((f"> {line}" for line in said.splitlines()), answers, strict=True) for line in pair]
    return "\n".join([hello, *lines])


def main() -> None:
    text, run, tale = data() / "tinyshakespeare" / "input.txt", RUNS / "shakespeare", HERE / "tale.txt"
    pellucid(
        "fit", text, "--family", "ngram", "--set", "order=7", "--text", "window=400", "--out", run, "--force", "-q"
    )
    words = ("--family", "ngram", "--set", "order=3", "--text", "unit=words", "--text", "window=80", "--force", "-q")
    pellucid("fit", text, *words, "--out", RUNS / "shakespeare_words")
    pages = [
        "# Text before neural networks\n\nMade by `make_text.py`. Nothing here was trained by gradients; each answer "
        "can be traced to counts, to a rule or to a line of a script.\n",
        section("Characters, counted", "An n-gram of order 7 (modified Kneser-Ney) on a million characters of "
                "Shakespeare; two seconds to fit.", "pellucid sample runs/shakespeare -n 2 --seed 3",
                pellucid("sample", run, "-n", "2", "--seed", "3")),
        section("Words, counted", "The same, words of order 3.", "pellucid sample runs/shakespeare_words -n 2 --seed 3",
                pellucid("sample", RUNS / "shakespeare_words", "-n", "2", "--seed", "3")),
        section("A grammar", f"The file:\n\n```text\n{tale.read_text(encoding='utf-8').strip()}\n```",
                "pellucid sample tale.txt -n 8", pellucid("sample", tale, "-n", "8")),
        section("A conversation", "The doctor's script that ships. Lines with > were typed; /why names the rule.",
                "pellucid chat", chatted(CHAT)),
    ]  # fmt: skip
    (HERE / "text_ancestors.md").write_text("\n".join(pages), encoding="utf-8")


if __name__ == "__main__":
    main()
