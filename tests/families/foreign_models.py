"""Small models made with diffusers and transformers, from configuration and never downloaded, and trained a little."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pellucid.domains.pictures import Pictures
from pellucid.domains.read import read

__all__ = ["TEXT", "digits", "language", "sentences", "tokenizer", "train_denoiser", "train_language", "unet"]


def digits(n: int = 600) -> Pictures:
    """Some of scikit-learn's digits: 8x8, 17 levels, 10 classes."""
    found = read("digits")
    assert isinstance(found, Pictures)
    return found.take(np.arange(n))


def unet(seed: int = 0, **changed: Any) -> Any:
    """A UNet2DModel for 8x8 pictures with attention on both of its levels; 11 class numbers, the last for none."""
    from diffusers import UNet2DModel

    wanted: dict[str, Any] = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 4,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "num_class_embeds": 11,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DModel(**wanted | changed)


def train_denoiser(
    network: nn.Module, scheduler: Any, x: Tensor, labels: Tensor | None, steps: int, seed: int = 0, rate: float = 4e-3
) -> list[float]:
    """As the examples of diffusers do: the mistake about the noise at random steps; a tenth of classes is forgotten.

    Args:
        x: (N, C, H, W) in [-1, 1]. labels: (N,), the number 10 stands for none.

    Returns: the losses.
    """
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate)
    losses = []
    network.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / steps)
        chosen = torch.randint(len(x), (48,), generator=draw)
        noise = torch.randn(48, *x.shape[1:], generator=draw)
        t = torch.randint(scheduler.config.num_train_timesteps, (48,), generator=draw)
        told = {}
        if labels is not None:
            forgotten = torch.rand(48, generator=draw) < 0.1
            told["class_labels"] = torch.where(forgotten, 10, labels[chosen])
        out = network(scheduler.add_noise(x[chosen], noise, t), timestep=t, **told).sample
        loss = (out - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    network.eval()
    return losses


def sentences(n: int = 300, seed: int = 0) -> list[str]:
    """Small sentences of a few words in which the animal comes back at the end."""
    draw = np.random.default_rng(seed)
    animals, does, where = ("cat", "dog", "hen", "cow"), ("sat", "ran", "hid"), ("barn", "lane", "yard")
    out = []
    for _ in range(n):
        a, d, w = (str(draw.choice(words)) for words in (animals, does, where))
        out.append(f"the {a} {d} in the {w}, {a}")
    return out


TEXT = ".\n".join(sentences()) + ".\n"


def tokenizer() -> Any:
    """A byte-level tokenizer as GPT-2's, learned on the sentences: 300 pieces, the first one begins and ends."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inside = Tokenizer(models.BPE())
    inside.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inside.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=290, special_tokens=["<|end|>"], initial_alphabet=letters, show_progress=False
    )
    inside.train_from_iterator([TEXT], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inside, bos_token="<|end|>", eos_token="<|end|>")


def language(kind: str, size: int, attention: str = "sdpa", seed: int = 0) -> Any:
    """A small GPT-2, Llama or OPT over so many symbols."""
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        OPTConfig,
        OPTForCausalLM,
    )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "gpt2":
            config: Any = GPT2Config(
                vocab_size=size,
                n_positions=64,
                n_embd=32,
                n_layer=2,
                n_head=4,
                bos_token_id=None,
                eos_token_id=None,
                attn_implementation=attention,
            )
            return GPT2LMHeadModel(config).eval()
        if kind == "opt":
            config = OPTConfig(
                vocab_size=size,
                hidden_size=32,
                ffn_dim=64,
                word_embed_proj_dim=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=64,
                pad_token_id=None,
                bos_token_id=None,
                eos_token_id=None,
                attn_implementation=attention,
            )
            return OPTForCausalLM(config).eval()
        config = LlamaConfig(
            vocab_size=size,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            bos_token_id=None,
            eos_token_id=None,
            attn_implementation=attention,
        )
        return LlamaForCausalLM(config).eval()


def train_language(model: Any, rows: Tensor, steps: int, seed: int = 0) -> list[float]:
    """On rows (N, T) of the model's own numbers; -100 is not asked for. Returns the losses."""
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 * (1 - step / steps)
            x = rows[torch.randint(len(rows), (32,), generator=draw)]
            loss = model(input_ids=x.clamp_min(0), labels=x).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    model.eval()
    return losses
