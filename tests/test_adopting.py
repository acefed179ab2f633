"""Models made elsewhere: adopted as they are, and then asked like any other."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pellucid as pl
from pellucid.adopting import adopt
from pellucid.core.errors import BadInput, MissingCapability, MissingExtra
from pellucid.domains.images import Images
from pellucid.domains.pictures import Pictures
from pellucid.domains.text_files import text_of
from pellucid.explain.explained import explain_sample
from pellucid.explain.trajectory import trajectory
from pellucid.families.foreign_denoiser import ForeignHow
from pellucid.fitting import halves
from pellucid.model import Fitted
from tests.families.foreign_models import (
    TEXT,
    digits,
    language,
    sentences,
    tokenizer,
    train_denoiser,
    train_language,
    unet,
)

DOCS = Path(__file__).parent.parent / "docs" / "explain.md"


def plan(kind: str = "DDIMScheduler", **changed: Any) -> Any:
    import diffusers

    return getattr(diffusers, kind)(**{"num_train_timesteps": 100, "beta_start": 1e-3, "beta_end": 0.2, **changed})


@pytest.fixture(scope="module")
def data() -> Pictures:
    return digits(500)


@pytest.fixture(scope="module")
def trained(data: Pictures) -> nn.Module:
    """A UNet2DModel that saw four fifths of the digits."""
    net: nn.Module = unet()
    kept, _ = halves(data, 0.2, 0)
    some = data.take(kept)
    x = torch.from_numpy(some.pixels).float().permute(0, 3, 1, 2) / 8 - 1
    assert some.labels is not None
    losses = train_denoiser(net, plan("DDPMScheduler"), x, torch.tensor([int(c) for c in some.labels]), 130)
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:10])
    return net


@pytest.fixture(scope="module")
def painter(data: Pictures, trained: nn.Module) -> Fitted:
    return adopt(trained, examples=data, scheduler=plan(), steps=12, held_out=0.2)


def numbered(lines: list[str], found: Any) -> Tensor:
    """(N, T) numbers of the lines, begun and ended by 0; -100 after that."""
    rows = [[0, *found(line, add_special_tokens=False)["input_ids"], 0] for line in lines]
    longest = max(map(len, rows))
    return torch.tensor([row + [-100] * (longest - len(row)) for row in rows])


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def writer(request: pytest.FixtureRequest) -> Fitted:
    found, lines = tokenizer(), sentences()
    kept, _ = halves(text_of(lines), 0.1, 0)
    model = language(request.param, len(found))
    losses = train_language(model, numbered([lines[k] for k in kept], found), 120)
    assert losses[-1] < 0.3 * losses[0]
    return adopt(model, found, lines, held_out=0.1)


# ------------------------------------------------------------------------------------------------------------ pictures


def test_an_adopted_pipeline_is_asked_like_any_model(painter: Fitted, data: Pictures) -> None:
    assert painter.name == "DDIMPipeline"
    assert painter.offers() == ("Learns", "Samples", "Denoises", "Attends")
    assert set(painter.codec.conditions) == {"class"}
    drawn = painter.sample(6, where={"class": "4"}, seed=3)
    assert isinstance(drawn.items, Pictures)
    assert drawn.items.labels == ("4",) * 6
    assert torch.allclose(painter.sample(ids=[5, 2], where={"class": "4"}, seed=3).x, drawn.x[[5, 2]], atol=1e-4)
    told = painter.describe()
    assert "In 100 small steps noise takes the place" in " ".join(str(part.sentence) for part in told.parts)
    with pytest.raises(BadInput, match="is an adopted model, which cannot be saved as a run"):
        painter.save("nowhere")


def test_explanations_of_an_adopted_pipeline(painter: Fitted, data: Pictures) -> None:
    told = explain_sample(
        painter, data, seed=1, index=2, ask=["process", "attention", "influence", "parts", "saliency"]
    )
    assert set(told.answers) == {"process", "attention", "influence", "parts"}
    assert "It offers Learns, Samples, Denoises, Attends, not Predicts" in told.missing["saliency"]
    for answer in told.answers.values():
        assert answer.check.score.n > 1  # type: ignore[attr-defined]
    kept, _ = halves(data, 0.2, 0)
    influence: Any = told.answers["influence"]
    assert set(influence.top) <= set(kept.tolist())
    process: Any = told.answers["process"]
    assert [c.part.name for c in process.components] == [
        "forward process", "reverse process", "network", "loss", "training data",
    ]  # fmt: skip
    assert "DDIMPipeline with DDIMScheduler" in process.components[1].part.sentence
    low = process.levels.trained[1].value  # a little noise is taken away better than by drawing towards the mean
    assert low < 0.8 * process.levels.scaled[1].value
    attention: Any = told.answers["attention"]
    assert attention.check.score.low > attention.check.baseline.value


def test_the_way_of_a_sample_of_an_adopted_pipeline(painter: Fitted) -> None:
    report = trajectory(painter, seed=1, index=2, branches=4, steps=4)
    assert report.check.score.value > report.check.baseline.value
    assert report.total == 12
    assert len(report.main.steps) == 4


def test_what_needs_training_again_is_refused(painter: Fitted) -> None:
    from pellucid.explain.influence import influence

    with pytest.raises(BadInput, match="an adopted model has no recipe to be trained again by"):
        influence(painter, halves=4)


def test_without_examples_it_draws_and_what_needs_data_says_so(trained: nn.Module) -> None:
    model = adopt(trained, scheduler=plan(), steps=4)
    drawn = model.sample(2).items
    assert isinstance(drawn, Pictures)
    assert (drawn.levels, drawn.pixels.shape) == (256, (2, 8, 8, 1))
    with pytest.raises(BadInput, match="the model carries no data"):
        trajectory(model)


def transformer() -> Any:
    """A class-conditional DiT over the latents of a small autoencoder, both of random weights."""
    from diffusers import AutoencoderKL, DiTPipeline, DiTTransformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKL(
            in_channels=1,
            out_channels=1,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8),
            latent_channels=4,
            norm_num_groups=4,
            sample_size=8,
        )
        net = DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=4, in_channels=4, out_channels=4, num_layers=1, sample_size=4,
            patch_size=1,
        )  # fmt: skip
    return DiTPipeline(net, vae, plan(clip_sample=False), id2label={k: f"digit {k}" for k in range(1000)})


def test_a_transformer_over_latents() -> None:
    pipeline = transformer()
    model = adopt(pipeline, steps=3)
    assert model.bridge.target.shape == (4, 4, 4)
    assert model.codec.space.shape == (1, 8, 8)
    how = ForeignHow(3, guidance=2.0)
    drawn = model.sample(4, where={"class": "digit 7"}, seed=3, how=how)
    assert torch.allclose(model.sample(ids=[3], where={"class": "digit 7"}, seed=3, how=how).x, drawn.x[3:], atol=1e-4)
    pipeline.set_progress_bar_config(disable=True)
    from pellucid.core.rows import Rows
    from pellucid.families.foreign_denoiser import generators

    own = generators(Rows(3, torch.arange(4)).fork("sample"))
    images = pipeline([7] * 4, guidance_scale=2.0, generator=own, num_inference_steps=3, output_type="np").images
    ours = (drawn.x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert np.allclose(ours, images, atol=1e-6)
    pipeline.scheduler = plan("DDPMScheduler")
    with pytest.raises(MissingCapability, match="draws noise on its way that is not its rows' own"):
        adopt(pipeline, steps=3).sample(2)


# --------------------------------------------------------------------------------------------------------------- texts


def test_an_adopted_language_model_is_asked_like_any_model(writer: Fitted) -> None:
    assert writer.offers() == ("Samples", "Scores", "Spells", "Predicts", "Attends")
    texts = writer.sample(20, seed=3).items.texts()  # type: ignore[union-attr]
    assert sum(text.startswith("the ") for text in texts) > 15
    assert writer.sample(ids=[9, 4], seed=3).items.texts() == [texts[9], texts[4]]  # type: ignore[union-attr]
    assert writer.data is not None
    told = writer.log_prob(writer.data.take(range(8)))
    assert told.kind == "exact"
    assert float(told.value.mean()) > -14.0  # nats: 36 sentences, each with 4 ends, would need 5


def test_explanations_of_an_adopted_language_model(writer: Fitted) -> None:
    data = writer.data
    assert data is not None
    asked = ["process", "influence", "provenance", "saliency", "parts", "errors", "trajectory"]
    told = explain_sample(writer, data, seed=1, index=2, ask=asked)
    assert set(told.answers) == set(asked) - {"trajectory"}
    assert "cannot show a way from noise to a sample" in told.missing["trajectory"]
    provenance: Any = told.answers["provenance"]
    assert provenance.check.passed
    assert provenance.unit == "tokens"
    saliency: Any = told.answers["saliency"]
    assert saliency.looks is not None
    assert saliency.slope is not None
    assert float(saliency.slope.nan_to_num().abs().max()) > 0.0
    process: Any = told.answers["process"]
    assert "chain rule" in [c.part.name for c in process.components]


def test_the_gradient_agrees_with_small_steps_where_symbols_changed_places(writer: Fitted) -> None:
    """The first-order guess of saliency, by hand through the table of the model's own numbers."""
    from pellucid.core.batch import Condition
    from pellucid.core.space import Tokens
    from pellucid.explain.saliency import gradient

    engine: Any = writer.engine
    assert writer.data is not None
    space = writer.codec.space
    assert isinstance(space, Tokens)
    tokens = writer.codec.encode(writer.data.take([0]))
    target = 4
    found = gradient(engine, space, tokens, Condition(), target)
    assert found is not None
    table = engine.model.get_input_embeddings().weight.detach()
    shown = torch.cat((torch.zeros(1, 1, dtype=torch.int64), engine.symbol_rows[tokens]), dim=1)[:, :-1]
    with torch.no_grad():
        chances = engine.next_logits(tokens, Condition())[0, :-1].softmax(-1)

        def log_p(x: Tensor) -> float:
            logits = engine.model(inputs_embeds=x).logits[0, target]
            return float(logits.log_softmax(-1)[engine.symbol_rows[tokens[0, target]]])

        for j in range(target):
            x = table[shown]
            away = x[0, j + 1] - (chances[j][:, None] * table[engine.symbol_rows]).sum(0)
            h = 1e-2
            ahead, behind = x.clone(), x.clone()
            ahead[0, j + 1] += h * away
            behind[0, j + 1] -= h * away
            slope = (log_p(ahead) - log_p(behind)) / (2 * h)
            assert float(found[j]) == pytest.approx(slope, abs=2e-2 + 0.05 * abs(slope))


def test_a_plain_table_of_symbols() -> None:
    symbols = sorted(set(TEXT))
    model = adopt(language("gpt2", len(symbols)), symbols, TEXT, start="\n", window=12)
    assert model.codec.space.length == 12  # type: ignore[union-attr]
    assert model.data is not None
    assert len(model.data) == len(TEXT) - 11
    assert len(model.sample(3).items.texts()[0]) == 12  # type: ignore[union-attr]
    told = explain_sample(model, model.data, ask=["provenance"]).answers["provenance"]
    assert told.symbols >= len(TEXT)  # type: ignore[attr-defined]


def test_attention_that_is_not_known_is_no_capability() -> None:
    from transformers import BloomConfig, BloomForCausalLM

    model = BloomForCausalLM(BloomConfig(vocab_size=20, hidden_size=16, n_layer=1, n_head=2)).eval()
    found = adopt(model, [chr(97 + k) for k in range(20)], start="a", window=6)
    assert found.offers() == ("Samples", "Scores", "Spells", "Predicts")
    assert len(found.sample(2).items.texts()[0]) == 6  # type: ignore[union-attr]


# ------------------------------------------------------------------------------------------------------------- folders


@pytest.fixture
def folders(tmp_path: Path, painter: Fitted) -> Iterator[Path]:
    from transformers.utils import logging

    painter.engine.pipeline.save_pretrained(tmp_path / "my-pipeline")  # type: ignore[union-attr, operator]
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    found = tokenizer()
    language("gpt2", len(found)).save_pretrained(tmp_path / "my-gpt2")
    found.save_pretrained(tmp_path / "my-gpt2")
    (tmp_path / "tales.txt").write_text(TEXT, encoding="utf-8")
    yield tmp_path
    if shown:
        logging.enable_progress_bar()


def test_from_folders_and_as_the_page_says(
    folders: Path, painter: Fitted, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folders)
    section = DOCS.read_text(encoding="utf-8").partition("## Models made elsewhere")[2].partition("\n## ")[0]
    (text,) = re.findall(r"```python\n(.*?)```", section, flags=re.S)
    names: dict[str, Any] = {}
    capfd.readouterr()
    exec(compile(text, DOCS.name, "exec"), names)
    assert capfd.readouterr().out == ""
    assert names["painter"].offers() == painter.offers()
    again = adopt("my-pipeline", steps=12).sample(3, where={"class": "4"}, seed=3).x
    assert torch.equal(again, painter.sample(3, where={"class": "4"}, seed=3).x.to(again))
    assert "Can this be trusted?" in (folders / "why.html").read_text(encoding="utf-8")
    assert set(names["told"].answers) == {"saliency", "provenance"}


@pytest.mark.parametrize("library", ["diffusers", "transformers"])
def test_a_folder_without_its_library(library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ("model_index.json" if library == "diffusers" else "config.json")).write_text("{}")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra, match=rf"{library} is not installed.*pip install 'pellucid\[hf\]'"):
        adopt(tmp_path)


# ------------------------------------------------------------------------------------------------------------ refusals


def test_what_is_no_model_is_refused(tmp_path: Path, data: Pictures) -> None:
    with pytest.raises(BadInput, match="a Linear came. Accepted: DDPMPipeline, DDIMPipeline, DiTPipeline or UNet2DM"):
        adopt(nn.Linear(2, 2))
    with pytest.raises(BadInput, match="no folder of a model"):
        adopt(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(BadInput, match="cannot be read"):
        adopt(tmp_path)
    with pytest.raises(BadInput, match="held_out is 1"):
        adopt(unet(), held_out=1.0)


def test_pipelines_that_do_not_fit_are_refused(data: Pictures, painter: Fitted) -> None:
    from diffusers import DiffusionPipeline

    class Unheard(DiffusionPipeline):
        pass

    with pytest.raises(BadInput, match="the pipeline is a Unheard. Accepted: DDPMPipeline, DDIMPipeline, DiTPipeline"):
        adopt(Unheard())
    with pytest.raises(BadInput, match="a network came without its scheduler"):
        adopt(unet())
    with pytest.raises(BadInput, match="scheduler is a int"):
        adopt(unet(), scheduler=3)
    with pytest.raises(BadInput, match="the network takes events of 4 x 8 x 8.*Adopt the whole pipeline"):
        adopt(unet(in_channels=4, out_channels=4), scheduler=plan())
    with pytest.raises(BadInput, match="the network takes events of 1 x 0 x 0"):
        adopt(unet(sample_size=None), scheduler=plan())
    with pytest.raises(BadInput, match="time embedding fourier"):
        adopt(unet(time_embedding_type="fourier"), scheduler=plan())
    with pytest.raises(BadInput, match=r"the examples are pictures of \(8, 8, 1\).*\(16, 16, 1\)"):
        adopt(unet(sample_size=16), scheduler=plan(), examples=data)
    with pytest.raises(BadInput, match="the model has 11 class numbers, and there are 12 names"):
        adopt(unet(), scheduler=plan(), classes=list("abcdefghijkl"))
    with pytest.raises(BadInput, match="an example is labelled '0'. Accepted: a, b"):
        adopt(unet(), scheduler=plan(), classes=["a", "b"], examples=data)
    with pytest.raises(BadInput, match="the examples are a TextData. Accepted: pictures"):
        adopt(unet(), scheduler=plan(), examples=["a", "b"])
    with pytest.raises(BadInput, match="data is a ndarray"):
        adopt(unet(), scheduler=plan(), examples=data.pixels)


def test_language_models_that_do_not_fit_are_refused(data: Pictures) -> None:
    model, table = language("gpt2", 4), ["a", "b", "c", "\n"]
    with pytest.raises(BadInput, match="a language model came without a tokenizer"):
        adopt(model)
    with pytest.raises(BadInput, match="no symbol that a text begins after"):
        adopt(model, table)
    with pytest.raises(BadInput, match="no symbol that ends a text"):
        adopt(model, table, ["ab", "ba"], start="\n")
    with pytest.raises(BadInput, match="items have 65 tokens. Accepted: 64 at most"):
        adopt(model, table, start="\n", window=65)
    with pytest.raises(BadInput, match="the examples are a Pictures. Accepted: texts"):
        adopt(model, table, data, start="\n")
    with pytest.raises(BadInput, match="the model is a GPT2Model. Accepted: a causal language model"):
        adopt(model.transformer, table)


def test_a_module_of_ones_own_is_adopted_as_before(painter: Fitted, data: Pictures) -> None:
    codec = Images().learn(data)
    found = pl.adopt(painter.engine, codec, name="mine", source="here")
    assert (found.name, found.recipe["source"], found.data) == ("mine", "here", None)
    assert adopt(painter.engine, codec=codec, examples=data).data is data
    with pytest.raises(BadInput, match="a ForeignDenoiser came without a codec"):
        adopt(painter.engine)
