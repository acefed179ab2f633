"""Models made elsewhere, taken as they are: pipelines of diffusers and causal language models of transformers.

What comes is wrapped, not changed: an engine that asks it, a codec for the items it was trained on, and where it works
on latents the bridge to them. All that can be asked of a model of our own can then be asked of it, but training it
again, for which there is no recipe. Nothing is ever downloaded, and no code from a model's folder is run.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from pellucid import model as fitted
from pellucid.core.capabilities import offers
from pellucid.core.codec import Bridge, Codec, Identity
from pellucid.core.errors import BadInput, MissingCapability, MissingExtra, fault, shown
from pellucid.core.rows import Rows
from pellucid.core.space import Tokens
from pellucid.domains.bridges.latent import LatentBridge
from pellucid.domains.images import ImageCodec
from pellucid.domains.kinds import Data, kind_of_data
from pellucid.domains.pictures import Pictures
from pellucid.domains.text_files import TextData, text_of
from pellucid.domains.tokenised import TokenCodec, vocabulary_of
from pellucid.families.foreign_attention import recording
from pellucid.families.foreign_autoencoder import ForeignAutoencoder
from pellucid.families.foreign_denoiser import ForeignDenoiser
from pellucid.families.foreign_language import AttendingLanguage, ForeignLanguage
from pellucid.model import Fitted

__all__ = ["adopt"]

PIPELINES = {"DDPMPipeline": "pixels", "DDIMPipeline": "pixels", "DiTPipeline": "classes"}
WINDOW = 64  # tokens of a window, where nobody says
PIECES = 16  # windows that the shortest text must hold
INSTALL = "pip install 'pellucid[hf]'"


@dataclass(frozen=True, kw_only=True)
class _Wish:
    """What was said beside the model; see `adopt`."""

    name: str | None
    source: str
    classes: tuple[str, ...] | None
    steps: int | None
    start: str | int | None
    end: str | int | None
    window: int | None
    held_out: float


def adopt(
    model: Any,
    tokenizer: Any = None,
    examples: Any = None,
    *,
    scheduler: Any = None,
    codec: Codec[Any] | None = None,
    bridge: Bridge | None = None,
    classes: Sequence[str] | None = None,
    steps: int | None = None,
    start: str | int | None = None,
    end: str | int | None = None,
    window: int | None = None,
    held_out: float = 0.0,
    name: str | None = None,
    source: str = "",
) -> Fitted:
    """Make a `Fitted` of a model that was trained elsewhere.

    Args:
        model: a DDPM, DDIM or DiT pipeline of diffusers, a bare UNet2DModel (with its `scheduler`), a causal language
            model of transformers, the folder of either, or a module that lists capabilities (with a `codec`).
        tokenizer: of a language model: one of transformers, or a table of its symbols in the order of their numbers.
            A codec is taken here, too, and a bridge in the place of `examples`.
        examples: the items that the model was trained on, as `pellucid.read` gives them; of texts also a string (one
            running text) or a list of strings. Explanations that speak of data need them.
        codec, bridge: of a module of your own; see `pellucid.model.adopt`.
        classes: of a class-conditional model, the names of its class numbers in order; those of its pipeline or the
            labels of the examples, when None. One more number than names stands for no class.
        steps: of the sampling loop, when nobody says more; None takes the pipeline's own.
        start, end: of a language model, the symbols before and after a text; None takes the tokenizer's.
        window: of a running text, tokens in one item.
        held_out: share of the examples that it was not trained on, those of `pellucid.fitting.halves(examples, share,
            seed=0)`; checks that need unseen items use them.

    Raises:
        BadInput: a model, pipeline, tokenizer or examples of an unknown or unfitting kind.
        MissingExtra: a folder came, and the library that reads it is not installed.
    """
    codec, tokenizer = (tokenizer, None) if isinstance(tokenizer, Codec) else (codec, tokenizer)
    bridge, examples = (examples, None) if isinstance(examples, Bridge) else (bridge, examples)
    if not 0.0 <= held_out < 1.0:
        raise BadInput(f"held_out is {held_out}", accepted="0 or more, less than 1")
    if codec is not None:
        found = fitted.adopt(model, codec, bridge, name=name or "adopted", source=source)
        found.data = None if examples is None else _data(examples)
        return found
    wish = _Wish(
        name=name, source=source, classes=None if classes is None else tuple(classes), steps=steps, start=start,
        end=end, window=window, held_out=held_out,
    )  # fmt: skip
    if isinstance(model, (str, Path)):
        model, tokenizer = _loaded(Path(model), tokenizer)
    kinds = [c.__name__ for c in type(model).__mro__]
    if "DiffusionPipeline" in kinds:
        return _pipeline(model, examples, wish)
    if "UNet2DModel" in kinds:
        return _pipeline(_around(model, scheduler), examples, wish)
    if "PreTrainedModel" in kinds:
        return _language(model, tokenizer, examples, wish)
    why = "It lists capabilities, but not how items become its events." if offers(model) else ""
    raise BadInput(
        f"a {type(model).__name__} came" + (" without a codec" if why else ""),
        accepted=f"{', '.join(PIPELINES)} or UNet2DModel of diffusers, a causal language model of transformers, the "
        "folder of either, or a module with capabilities and its codec",
        why=why,
        next="Wrap it in a class that inherits the capabilities it has, and give codec=...",
    )


def _data(examples: Any) -> Data | None:
    """Items as they are, or texts made of strings."""
    if examples is None:
        return None
    if isinstance(examples, str) or (isinstance(examples, (list, tuple)) and all(isinstance(e, str) for e in examples)):
        return text_of(examples)
    kind_of_data(examples)
    found: Data = examples
    return found


def _made(engine: nn.Module, codec: Codec[Any], bridge: Bridge, data: Data | None, wish: _Wish, name: str) -> Fitted:
    """The whole, with a recipe that says where it came from and has nothing to train by."""
    recipe: dict[str, Any] = {"family": wish.name or name, "adopted": True, "source": wish.source}
    recipe |= {"held_out": wish.held_out, "seed": 0}
    if data is not None:
        about = {"kind": codec.kind, "items": len(data), "source": data.source, "fingerprint": data.fingerprint()}
        recipe["data"] = about
    return Fitted(None, engine.eval(), codec, bridge, recipe, data=data)


# ------------------------------------------------------------------------------------------------------------- folders


def _library(name: Literal["diffusers", "transformers"]) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtra(
            f"{name} is not installed", why="It reads the folders of its models.", next=f"{INSTALL}."
        ) from error


def _loaded(folder: Path, tokenizer: Any) -> tuple[Any, Any]:
    """A pipeline, or a language model and its tokenizer, from safetensors on this machine."""
    if not (folder / "model_index.json").exists() and not (folder / "config.json").exists():
        raise BadInput(
            f"'{folder}' is no folder of a model",
            accepted="one with model_index.json (diffusers) or config.json (transformers)",
            why="Nothing is downloaded.",
        )
    local: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
    try:
        if (folder / "model_index.json").exists():
            with _quiet(_library("diffusers")) as found:
                pipeline = found.DiffusionPipeline.from_pretrained(str(folder), low_cpu_mem_usage=False, **local)
            return pipeline, tokenizer
        found = _library("transformers")
        model = found.AutoModelForCausalLM.from_pretrained(str(folder), trust_remote_code=False, **local)
        if tokenizer is None:
            tokenizer = found.AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"'{folder}' cannot be read", accepted="weights in safetensors", why=fault(error)) from error
    return model, tokenizer


@contextmanager
def _quiet(diffusers: Any) -> Iterator[Any]:
    """The library without its progress bars while the block runs."""
    told = diffusers.utils.logging
    shown_before = told.is_progress_bar_enabled()
    told.disable_progress_bar()
    try:
        yield diffusers
    finally:
        if shown_before:
            told.enable_progress_bar()


# ----------------------------------------------------------------------------------------------------------- denoisers


def _around(network: Any, scheduler: Any) -> Any:
    """The pipeline that goes with a bare network: the one of its scheduler."""
    kind = type(scheduler).__name__
    if not kind.endswith("Scheduler"):
        raise BadInput(
            "a network came without its scheduler" if scheduler is None else f"scheduler is a {kind}",
            accepted="scheduler=DDPMScheduler(...), DDIMScheduler(...) or another of diffusers",
            why="What a step means to the network stands there.",
        )
    found = _library("diffusers")
    return (found.DDIMPipeline if kind == "DDIMScheduler" else found.DDPMPipeline)(unet=network, scheduler=scheduler)


def _pipeline(pipeline: Any, examples: Any, wish: _Wish) -> Fitted:
    name = next((c.__name__ for c in type(pipeline).__mro__ if c.__name__ in PIPELINES), None)
    if name is None:
        raise BadInput(
            f"the pipeline is a {type(pipeline).__name__}",
            accepted=", ".join(PIPELINES),
            why="How another loop is asked, and what it shows its network, is not known.",
            next="A bare UNet2DModel can be adopted with its scheduler.",
        )
    data = _data(examples)
    if data is not None and not isinstance(data, Pictures):
        raise BadInput(f"the examples are a {type(data).__name__}", accepted="pictures, which this pipeline draws")
    network = pipeline.unet if PIPELINES[name] == "pixels" else pipeline.transformer
    config = network.config
    side = config.sample_size
    height, width = (side, side) if isinstance(side, int) else (side or (0, 0))
    inside = (int(config.in_channels), int(height), int(width))
    if "timestep" in str(config.get("class_embed_type")) or config.get("time_embedding_type") == "fourier":
        raise BadInput(
            f"the network is a {type(network).__name__} with class embedding {config.get('class_embed_type')} and time "
            f"embedding {config.get('time_embedding_type')}",
            accepted="classes by number, and steps in time",
        )
    autoencoder, shape = None, inside
    if PIPELINES[name] == "classes":
        autoencoder = ForeignAutoencoder(pipeline.vae, inside)
        factor = 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
        shape = (int(pipeline.vae.config.in_channels), inside[1] * factor, inside[2] * factor)
    if shape[0] not in (1, 3) or min(shape) < 1:
        raise BadInput(
            f"the network takes events of {' x '.join(map(str, shape))}",
            accepted="pictures of 1 or 3 channels and of one size",
            why="More channels are the latents of an autoencoder that is not here." if shape[0] > 3 else "",
            next="Adopt the whole pipeline.",
        )
    many, names, nothing = _classes(pipeline, network, data, wish)
    codec = _picture_codec(shape, data, names)
    space = codec.space if autoencoder is None else autoencoder.latent()
    engine = ForeignDenoiser(
        pipeline,
        network,
        space,
        "pixels" if PIPELINES[name] == "pixels" else "classes",
        classes=many,
        nothing=nothing,
        steps=wish.steps,
        clamp=autoencoder is None,
    )
    engine.sigmas(engine.settings())  # refuses a scheduler that does not go straight down
    bridge = Identity(codec.space) if autoencoder is None else LatentBridge(autoencoder, codec.space)
    return _made(engine, codec, bridge, data, wish, type(pipeline).__name__)


def _classes(
    pipeline: Any, network: Any, data: Pictures | None, wish: _Wish
) -> tuple[int, tuple[str, ...], int | None]:
    """How many classes, their names in order, and the number for none."""
    config = network.config
    dit = hasattr(pipeline, "transformer")
    size = config.get("num_embeds_ada_norm") if dit else config.get("num_class_embeds")
    if not size:
        return 0, (), None
    labels = {number: text for text, number in reversed(list(getattr(pipeline, "labels", {}).items()))}
    names = wish.classes or tuple(labels.get(k, str(k)) for k in range(size)) * bool(labels)
    names = names or (data.classes() if data is not None and data.labels is not None else ())
    names = names or tuple(str(k) for k in range(size))
    if len(names) > size or len(set(names)) != len(names):
        raise BadInput(
            f"the model has {size} class numbers, and there are {len(names)} names",
            accepted="different names, in the order of the numbers",
        )
    if dit:  # its table has one number more, which stands for no class
        return len(names), names, int(size)
    return len(names), names, len(names) if len(names) < size else None


def _picture_codec(shape: tuple[int, ...], data: Pictures | None, classes: tuple[str, ...]) -> ImageCodec:
    channels, height, width = shape
    if data is not None and data.pixels.shape[1:] != (height, width, channels):
        raise BadInput(
            f"the examples are pictures of {data.pixels.shape[1:]} (height, width, channels)",
            accepted=f"{(height, width, channels)}, which the model draws",
            next=f"Read them with size={height}.",
        )
    labels = [] if data is None or data.labels is None or not classes else [x for x in data.labels if x]
    if strange := sorted(set(labels) - set(classes)):
        raise BadInput(
            f"an example is labelled {shown(strange[0])}",
            accepted=", ".join(classes[:20]),
            next="Give classes=..., the names of the model's numbers in order.",
        )
    counts = tuple(labels.count(c) if labels else 1 for c in classes)
    return ImageCodec(channels, height, width, 256 if data is None else data.levels, classes, counts)


# ------------------------------------------------------------------------------------------------------ language models


def _language(model: Any, tokenizer: Any, examples: Any, wish: _Wish) -> Fitted:
    config, name = model.config, type(model).__name__
    if not hasattr(model, "generate") or model.get_output_embeddings() is None or config.is_encoder_decoder:
        raise BadInput(
            f"the model is a {name}", accepted="a causal language model, such as GPT2LMHeadModel or LlamaForCausalLM"
        )
    if tokenizer is None:
        raise BadInput(
            "a language model came without a tokenizer",
            accepted="tokenizer=..., or a table of its symbols in the order of their numbers",
        )
    data = _data(examples)
    if data is not None and not isinstance(data, TextData):
        raise BadInput(f"the examples are a {type(data).__name__}", accepted="texts, which this model writes")
    vocabulary = vocabulary_of(tokenizer, int(config.vocab_size))
    start = vocabulary.start if wish.start is None else vocabulary.number(wish.start)
    if start is None:
        raise BadInput(
            "the tokenizer has no symbol that a text begins after",
            accepted="start=..., a symbol of the model or its number",
            why="A causal model gives the first symbol no probability unless it is shown something before it.",
            next=r"Where lines were trained on, start='\n' is often right.",
        )
    lines = data is not None and data.form == "lines"
    end = (vocabulary.end if wish.end is None else vocabulary.number(wish.end)) if lines else None
    if lines and end is None:
        raise BadInput(
            "the tokenizer has no symbol that ends a text",
            accepted="end=..., a symbol of the model or its number; or one running text",
        )
    longest = int(getattr(config, "max_position_embeddings", None) or 2**15)
    form: Literal["running", "lines"] = "lines" if lines else "running"
    if lines and isinstance(data, TextData):
        length = max((len(vocabulary.cut(text)) for text in data.texts()), default=0) + 1
    elif isinstance(data, TextData):
        tokens = len(vocabulary.cut("".join(data.whole().texts())))
        length = wish.window or max(1, min(WINDOW, longest, tokens // PIECES))
    else:
        length = wish.window or min(WINDOW, longest)
    if not 1 <= length <= longest:
        raise BadInput(f"items have {length} tokens", accepted=f"{longest} at most, which the model can look at")
    codec = TokenCodec(vocabulary, form, length, end)
    data = codec.recut(data) if isinstance(data, TextData) else None
    engine = _language_engine(model, codec.space, start, end)
    return _made(engine, codec, Identity(codec.space), data, wish, name)


def _language_engine(model: nn.Module, space: Tokens, start: int, end: int | None) -> ForeignLanguage:
    """With attention where it is known and proved on a few symbols, without where it is not."""
    engine = AttendingLanguage(model.eval(), space, start, end)
    tried = Rows(0, torch.arange(2)).fork("tried").integers(space.symbols, min(8, space.length))
    try:
        with torch.no_grad(), recording(engine.places()) as seen:
            engine.next_logits(tried.to(engine.symbol_rows), {})  # type: ignore[arg-type]
        seen.require()
    except MissingCapability:
        return ForeignLanguage(model, space, start, end)
    return engine
