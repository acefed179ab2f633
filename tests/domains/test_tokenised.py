"""Texts in a model's own pieces: nothing is lost, numbers are the model's own, and what does not fit is refused."""

from __future__ import annotations

import pytest
import torch

from pellucid.core.batch import Condition
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Tokens
from pellucid.domains.pieces import cut, visible
from pellucid.domains.text_files import TextData, text_of
from pellucid.domains.tokenised import TokenCodec, Vocabulary, vocabulary_of
from tests.families.foreign_models import TEXT, sentences, tokenizer

TABLE = ["<s>", "a", "b", "ab", "\n"]


def decoded(codec: TokenCodec, x: torch.Tensor) -> TextData:
    return codec.decode(x, Condition(), Rows(0, torch.arange(len(x))))


def test_the_pieces_of_a_byte_tokenizer_joined_are_the_text() -> None:
    found = vocabulary_of(tokenizer(), 300)
    for text in (TEXT[:200], "naïve café, 東京 🐈"):
        numbers = found.cut(text)
        assert visible("".join(found.pieces[k] for k in numbers)) == text
    assert len(found.cut(TEXT[:200])) < 100
    assert found.pieces[295:] == ("<295>", "<296>", "<297>", "<298>", "<299>")
    assert (found.start, found.end, found.pieces[0]) == (0, 0, "<|end|>")


def test_other_tokenizers_keep_their_spaces() -> None:
    """Pieces that mark words by a sign at their front (as SentencePiece), with bytes for what they do not know."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "a", "b", "▁a", "▁ab", "ab"]
    inside = Tokenizer(
        models.BPE(
            {name: k for k, name in enumerate(names)},
            [("▁", "a"), ("a", "b"), ("▁a", "b")],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    inside.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    inside.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    found = vocabulary_of(PreTrainedTokenizerFast(tokenizer_object=inside, bos_token="<s>", eos_token="</s>"), 265)
    text = "a ab ba é"
    assert visible("".join(found.pieces[k] for k in found.cut(text))) == text
    assert found.pieces[262] == " a"
    assert (found.start, found.end) == (1, 2)


def test_a_running_text_in_windows() -> None:
    codec = TokenCodec(vocabulary_of(tokenizer(), 290), "running", 6)
    items = codec.recut(text_of(TEXT))
    numbers = codec.vocabulary.cut(TEXT)
    assert codec.space == Tokens(290, 6, running=True)
    assert len(items) == len(numbers) - 5
    assert codec.encode(items.take([0, 9])).tolist() == [numbers[:6], numbers[9:15]]
    assert decoded(codec, codec.encode(items.take([0, 9]))).texts() == items.take([0, 9]).texts()
    assert "tokens" in items.notices[-1].text
    assert items.unit == "tokens"
    assert "".join(items.take(range(0, 60, 6)).texts()) == TEXT[: len("".join(items.take(range(0, 60, 6)).texts()))]


def test_lines_end_with_symbol_0() -> None:
    lines = sentences(40)
    codec = TokenCodec(vocabulary_of(tokenizer(), 290), "lines", 20, end=7)
    items = codec.recut(text_of(lines))
    x = codec.encode(items)
    assert codec.space == Tokens(290, 20, ends=True)
    assert items.texts() == decoded(codec, x).texts() == lines
    assert torch.equal(codec.encode(text_of(lines)), x)  # texts in other pieces are cut first
    numbers = codec.vocabulary.cut(lines[0])
    assert x[0].tolist() == numbers + [0] * (20 - len(numbers))
    assert float(codec.log_volume(x).abs().sum()) == 0.0
    assert codec.dimensions() == 20


def test_a_table_of_symbols() -> None:
    found = vocabulary_of(TABLE, 6)
    assert found.cut("abba\n") == [3, 2, 1, 4]
    assert found.number("\n") == 4
    assert found.number(5) == 5
    named = vocabulary_of({"a": 3, "b": 0}, 5)
    assert named.cut("ab") == [3, 0]
    assert named.pieces == ("b", "<1>", "<2>", "a", "<4>")
    codec = TokenCodec(found, "lines", 3, end=4)
    again = TokenCodec.from_plain(codec.plain(), codec.tensors())
    assert again.encode(text_of(["ab", "b"])).tolist() == codec.encode(text_of(["ab", "b"])).tolist()
    with pytest.raises(BadInput, match="was made of a tokenizer"):
        TokenCodec.from_plain(TokenCodec(Vocabulary(("a",), list), "running", 3).plain(), {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("table", "size", "said"),
    [
        (3, 5, "tokenizer is a int"),
        ("abc", 5, "tokenizer is a str"),
        (["a", "b"], 1, "the table has 2 symbols, the model 1"),
        ({"a": "x"}, 5, "other than names and numbers"),
        ([], 5, "the table has 0 symbols"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(table: object, size: int, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        vocabulary_of(table, size)


def test_texts_that_do_not_fit_are_refused() -> None:
    found = vocabulary_of(TABLE, 5)
    lines = TokenCodec(found, "lines", 3, end=4)
    with pytest.raises(BadInput, match="the model has no symbol for 'x'"):
        lines.encode(text_of(["ax"]))
    with pytest.raises(BadInput, match="an item has 4 tokens"):
        lines.encode(text_of(["aaaa"]))
    with pytest.raises(BadInput, match="an item has 4 tokens: 'aaaa'. Accepted: 2"):
        lines.recut(text_of(["a", "aaaa"]))
    with pytest.raises(BadInput, match="the text is running. Accepted: lines"):
        lines.recut(text_of("ab" * 60))
    with pytest.raises(BadInput, match="the text has 60 tokens. Accepted: 90"):
        TokenCodec(found, "running", 90).recut(text_of("ab" * 60))
    with pytest.raises(BadInput, match="unit is 'tokens'. Accepted: characters, bytes, words"):
        cut("ab", "tokens")
    with pytest.raises(BadInput, match="nothing: a text has no conditions"):
        lines.asked({"class": "a"}, 1)
    with pytest.raises(BadInput, match="an end for lines alone"):
        TokenCodec(found, "running", 3, end=1)
    with pytest.raises(BadInput, match="symbol 9 does not exist"):
        found.number(9)
    with pytest.raises(BadInput, match="'zz' is no symbol of the model"):
        found.number("zz")
