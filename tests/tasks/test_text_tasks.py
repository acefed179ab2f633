"""Likelihood of texts by every route, and going on with a text."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pellucid.core.batch import Batch
from pellucid.core.errors import BadInput, MissingCapability, Stopped
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.core.weights import state_of
from pellucid.domains.read import read
from pellucid.domains.text_files import text_of
from pellucid.families.autoregressive import Autoregressive
from pellucid.families.next_symbol import SymbolHow
from pellucid.families.ngram import NGram
from pellucid.fitting import fit, resume
from pellucid.model import Fitted, load
from pellucid.tasks.continuation import go_on, go_on_many, slides
from pellucid.tasks.likelihood import likelihood

VERSE = "the cat sat on the mat and the dog sat on the cat; then the rat ran off. " * 12


def counted(order: int = 4, window: int = 12) -> Fitted:
    return fit(text_of(VERSE, window=window), NGram(order=order))


def test_sliding_gives_an_ngram_all_of_its_context() -> None:
    model = counted()
    text = VERSE[40:115]
    found = likelihood(model, text_of(text + " " * 60, window=4).take([0, 71]))
    symbols = model.codec.symbols(text_of(text * 2))[: len(text)]  # type: ignore[attr-defined]
    total = 0.0
    for i in range(len(text)):
        prefix = torch.from_numpy(symbols[max(0, i - 3) : i].astype(np.int64))[None]
        logits = model.engine.next_logits(prefix, Batch(prefix, prefix[:, :0]).condition, at=prefix.shape[1])  # type: ignore[operator]
        total += float(logits.log_softmax(-1)[0, int(symbols[i])])
    assert (found.route, found.kind, found.symbols) == ("spelled", "exact", 75)
    assert found.nats == pytest.approx(total, abs=1e-9)
    assert found.bits_per_symbol == pytest.approx(-total / 75 / math.log(2))
    assert found.blocks_nats_per_symbol is not None
    assert found.blocks_nats_per_symbol > found.nats_per_symbol, "what stands at a cut has no past"
    assert found.headline()["perplexity"] == pytest.approx(math.exp(-total / 75))
    assert "bits/character" in found.to_text()


def test_a_network_spells_as_it_scores() -> None:
    model = fit(text_of(VERSE, window=12), Autoregressive(width=16, heads=2, depth=1), steps=5, watch=False)
    data = text_of(VERSE, window=12).take([0])
    found = likelihood(model, data)
    whole = model.log_prob(data).value
    assert found.nats == pytest.approx(float(whole), rel=1e-5)


def test_lines_end_and_their_ends_count() -> None:
    names = text_of(["ada", "bob", "eve", "al"] * 10)
    model = fit(names, NGram(order=3))
    found = likelihood(model, names.take([0, 3]))
    assert (found.items, found.symbols, found.blocks_nats_per_symbol) == (2, 4 + 3, None)
    assert found.nats == pytest.approx(float(model.log_prob(names.take([0, 3])).value.sum()))


def test_what_was_never_learned_is_counted_and_named() -> None:
    model = counted()
    found = likelihood(model, text_of("the cat Ω sat Ω on the mat" * 5, window=8))
    assert found.unlearned == (("Ω", 10),)
    assert found.nats_per_learned_symbol is not None
    assert found.nats_per_learned_symbol < found.nats_per_symbol
    assert any(surprise.piece == "Ω" for surprise in found.surprises)


def test_tables_are_scored_whole_and_what_has_no_likelihood_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n" + "".join(f"{'xyz'[i % 3]},{'uv'[i % 2]}\n" for i in range(60)))
    table = read(tmp_path / "t.csv")
    found = likelihood(fit(table, NGram(order=2)), table)
    assert (found.route, found.symbols) == ("scored", 120)
    assert 0.5 < found.bits_per_symbol < 1.5
    gan = fit(table, "gan", steps=1, watch=False)
    with pytest.raises(MissingCapability, match="cannot say how likely"):
        likelihood(gan, table)
    with pytest.raises(BadInput, match="nothing to score"):
        likelihood(counted(), text_of("x" * 200).take([]))


def test_going_on_follows_the_prompt_and_its_seed() -> None:
    model = counted()
    how = SymbolHow(temperature=0.0)
    greedy = "".join(d.piece for d in go_on(model, "the ca", length=40, how=how))
    assert greedy.startswith("t ")
    assert len(greedy) == 40, "longer than the window of 12"
    assert greedy == "".join(d.piece for d in go_on(model, "the ca", length=40, how=how, seed=9))
    drawn = [list(go_on(model, "", length=30, seed=seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(0.0 < d.probability <= d.highest <= 1.0 for d in drawn[0])
    assert all(d.piece != "\ufffd" for d in go_on(model, "Ω中", length=60, how=SymbolHow(temperature=5.0)))
    with pytest.raises(BadInput, match="length is 0"):
        next(go_on(model, "a", length=0))


def test_lines_go_on_until_they_end() -> None:
    model = fit(text_of(["ada", "adam", "adele"] * 10), NGram(order=4))
    made = {"".join(d.piece for d in go_on(model, "ad", seed=seed)) for seed in range(12)}
    assert made <= {"a", "am", "ele", "amele", ""} | {m for m in made if len(m) <= 4}
    assert made & {"a", "am", "ele"}
    with pytest.raises(BadInput, match="the prompt has 6 characters"):
        next(go_on(model, "adelea"))


def test_runs_of_texts_are_saved_loaded_resumed_and_continued(tmp_path: Path) -> None:
    path = tmp_path / "verse.txt"
    path.write_text(VERSE)
    model = fit(path, "ngram", text={"window": 12}, out=tmp_path / "run")
    again = load(tmp_path / "run")
    assert again.sample(4, seed=1).items.texts() == model.sample(4, seed=1).items.texts()  # type: ignore[union-attr]
    (tmp_path / "more.txt").write_text(VERSE + "the owl sat on the mat. " * 20)
    longer = fit(tmp_path / "more.txt", "ngram", base=again)
    owl = text_of("the owl sat on the mat." * 6, window=12)
    assert likelihood(longer, owl).nats > likelihood(model, owl).nats
    net = {"width": 16, "heads": 2, "depth": 1}
    fit(path, "autoregressive", settings=net, steps=6, text={"window": 12}, out=tmp_path / "net", checkpoint_every=2)
    previews = sorted(p.name for p in (tmp_path / "net" / "previews").glob("*"))
    assert all(name.endswith(".txt") for name in previews)
    assert resume(tmp_path / "net").name == "autoregressive"
    assert load(tmp_path / "net").engine.log_prob(  # type: ignore[operator]
        Batch(torch.zeros(2, 12, dtype=torch.int64), torch.arange(2)), Rows(0, torch.arange(2))
    ).value.shape == (2,)


def test_writing_ends_before_a_stop_wherever_its_pieces_are_cut() -> None:
    model = counted(order=8)
    how = SymbolHow(temperature=0.0)
    whole = "".join(d.piece for d in go_on(model, "the cat sat", length=60, how=how))
    word = whole[20:25]
    first = whole.index(word)
    stopped = "".join(d.piece for d in go_on(model, "the cat sat", length=60, how=how, stop=(word, "never")))
    assert stopped == whole[:first]
    assert go_on_many(model, "the cat sat", 2, length=60, how=how, stop=(word,)) == [whole[:first]] * 2
    # what only begins like a stop is written after all
    almost = whole[20:24] + ("x" if whole[24] != "x" else "y")
    assert "".join(d.piece for d in go_on(model, "the cat sat", length=60, how=how, stop=(almost,))) == whole
    with pytest.raises(BadInput, match="a stop is empty"):
        next(go_on(model, "a", stop=("",)))


def test_many_continuations_are_those_of_their_rows() -> None:
    model = fit(text_of(VERSE, window=12), Autoregressive(width=16, heads=2, depth=1, prior=3), steps=8, watch=False)
    three, two = (go_on_many(model, "the cat", count, length=30, seed=4) for count in (3, 2))
    assert three[:2] == two
    assert len(set(three)) == 3
    assert "".join(d.piece for d in go_on(model, "the cat", length=30, seed=4)) == three[0]
    with pytest.raises(BadInput, match="count is 0"):
        go_on_many(model, "a", 0)
    names = fit(text_of(["ada", "adam", "adele"] * 10), NGram(order=4))
    assert set(go_on_many(names, "ad", 8)) <= {"a", "am", "ele", "amele", "", "elea", "elem"}


def test_what_is_longer_than_the_window_slides_and_says_so() -> None:
    model = counted(window=12)
    assert slides(model, "the", 9) is None
    said = slides(model, "the", 10)
    assert said is not None
    assert "at most 12 characters" in said
    text = "".join(d.piece for d in go_on(model, "the cat sat on the mat", length=50, how=SymbolHow(temperature=0.0)))
    assert len(text) == 50


def test_an_unbroken_run_with_an_ngram_inside_is_that_of_a_stopped_one(tmp_path: Path) -> None:
    path = tmp_path / "verse.txt"
    path.write_text(VERSE)
    net = {"width": 16, "heads": 2, "depth": 1, "prior": 3}

    def run(name: str, stop: bool) -> Fitted:
        events = Run()
        if stop:
            events.listeners.append(lambda event: events.stop() if getattr(event, "step", 0) >= 6 else None)
        return fit(path, "autoregressive", settings=net, steps=12, text={"window": 12}, out=tmp_path / name,
                   checkpoint_every=2, watch=False, run=events)  # fmt: skip

    whole = run("whole", stop=False)
    with pytest.raises(Stopped):
        run("broken", stop=True)
    again = resume(tmp_path / "broken", watch=False)
    for name, value in state_of(whole.engine).items():
        assert torch.equal(value, state_of(again.engine)[name]), name
