"""Tiny models of every family, made by the reference implementation and loaded here through its saved files.

`make_pair("learned", directory)` gives the reference model and ours, which has read what the reference wrote.
Weights, biases and norms are drawn so that every one of them matters.
"""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn
from transformers.utils import logging as hf_logging

from trocr import VisionEncoderDecoderModel
from weights_conversion.hf import HF_MEMORY

hf_logging.set_verbosity_error()
hf_logging.disable_progress_bar()

STAGE_TOLERANCE = 2e-5
"""Largest difference in float32, relative to the reference tensor's largest value: the bound that the project
sets. Orders of summation differ (fused and plain attention), each by some 1e-7."""

VOCAB_SIZE = 99
PAD, START, EOS = 1, 2, 2
MAX_POSITIONS = 40

_VIT: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "qkv_bias": False,
}
_LEARNED: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "d_model": 48,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": MAX_POSITIONS,
    "cross_attention_hidden_size": 32,
    "dropout": 0.0,
    "use_cache": False,
}
_SINUSOIDAL = {
    **_LEARNED,
    "activation_function": "relu",
    "scale_embedding": True,
    "use_learned_position_embeddings": False,
    "layernorm_embedding": False,
    "tie_word_embeddings": False,
}
_UNILM = {
    **_LEARNED,
    "d_model": 24,
    "activation_function": "relu",
    "scale_embedding": True,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True, kw_only=True)
class Family:
    """Arguments of the reference's configurations; `deit` chooses the encoder with a distillation token."""

    encoder: dict[str, Any]
    decoder: dict[str, Any]
    deit: bool = False
    top: dict[str, Any] = field(default_factory=dict)

    def changed(
        self, encoder: dict[str, Any] | None = None, decoder: dict[str, Any] | None = None
    ) -> "Family":
        """The same family with some options changed."""
        return Family(
            encoder={**self.encoder, **(encoder or {})},
            decoder={**self.decoder, **(decoder or {})},
            deit=self.deit,
            top=self.top,
        )

    @property
    def image_hw(self) -> tuple[int, int]:
        size = self.encoder["image_size"]
        return (size, size) if isinstance(size, int) else tuple(size)


FAMILIES = {
    "learned": Family(encoder=_VIT, decoder=_LEARNED),
    "sinusoidal": Family(encoder=_VIT, decoder=_SINUSOIDAL),
    "unilm": Family(encoder={**_VIT, "qkv_bias": True}, decoder=_UNILM, deit=True),
    "non_square": Family(
        encoder={**_VIT, "image_size": [32, 64], "patch_size": [16, 4], "qkv_bias": True}, decoder=_LEARNED
    ),
    "projection": Family(
        encoder=_VIT, decoder={**_LEARNED, "d_model": 40, "cross_attention_hidden_size": None}
    ),
}
SQUARE = tuple(name for name in FAMILIES if name != "non_square")


def hf_config(family: Family) -> hf.VisionEncoderDecoderConfig:
    encoder = (hf.DeiTConfig if family.deit else hf.ViTConfig)(**family.encoder)
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        encoder, hf.TrOCRConfig(**family.decoder)
    )
    config.pad_token_id = config.decoder.pad_token_id
    config.decoder_start_token_id = config.decoder.decoder_start_token_id
    for name, value in family.top.items():
        setattr(config, name, value)
    return config


@torch.no_grad()
def randomise(model: nn.Module, *, seed: int = 0, gain: float = 2.0) -> None:
    """Draw every parameter anew, biases, norms and padding rows too.

    Matrices keep the size of what they multiply, those of queries and keys times `gain`, which makes
    attention choosy; norms are around 1, biases around 0.
    """
    random = torch.Generator().manual_seed(seed)

    def draw(tensor: Tensor, std: float, mean: float = 0.0) -> None:
        tensor.copy_(torch.randn(tensor.shape, generator=random) * std + mean)

    drawn: set[int] = set()  # a tied output projection is the embedding
    for path, module in model.named_modules():
        factor = gain if path.endswith(("q_proj", "k_proj")) else 1.0
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in drawn:
                continue
            drawn.add(id(parameter))
            if isinstance(module, nn.LayerNorm):
                draw(parameter, 0.3, 1.0 if name == "weight" else 0.0)
            elif isinstance(module, nn.Embedding):
                scale = getattr(module, "embed_scale", 1.0)
                draw(parameter, 0.2 if scale == 1.0 else 0.7 / scale)  # tied logits stay of ordinary size
            elif isinstance(module, nn.Linear | nn.Conv2d) and name == "weight":
                draw(parameter, factor * parameter[0].numel() ** -0.5)
            else:
                draw(parameter, 0.3)


def make_hf(family: Family, *, seed: int = 0, gain: float = 2.0) -> hf.VisionEncoderDecoderModel:
    """Build the reference's model in evaluation mode, with random weights."""
    model = hf.VisionEncoderDecoderModel(hf_config(family))
    randomise(model, seed=seed, gain=gain)
    model.tie_weights()
    return model.eval()


def load_hf(directory: Path, **options: Any) -> hf.VisionEncoderDecoderModel:
    """Load with the reference, which leaves sinusoidal tables of 5.23 on the meta device, and fill them."""
    fill_tables = hf.models.trocr.modeling_trocr.TrOCRSinusoidalPositionalEmbedding
    original = fill_tables.__init__

    def on_cpu(self: Any, *args: Any, **kwargs: Any) -> None:
        with torch.device("cpu"):
            original(self, *args, **kwargs)

    fill_tables.__init__ = on_cpu
    try:
        return hf.VisionEncoderDecoderModel.from_pretrained(directory, **options).eval()
    finally:
        fill_tables.__init__ = original


def load_ours(directory: Path, **options: Any) -> VisionEncoderDecoderModel:
    return VisionEncoderDecoderModel.from_pretrained(directory, **options)


@dataclass(frozen=True)
class Pair:
    """The reference's model, ours, and the directory between them."""

    family: Family
    hf: hf.VisionEncoderDecoderModel
    ours: VisionEncoderDecoderModel
    directory: Path

    def fresh(self, **options: Any) -> VisionEncoderDecoderModel:
        """Ours, loaded once more, for tests that change it."""
        return load_ours(self.directory, **options)


def make_pair(family: Family | str, directory: Path, *, seed: int = 0, gain: float = 2.0) -> Pair:
    """Build the reference's model, save it with the reference and load it with our production loader."""
    family = FAMILIES[family] if isinstance(family, str) else family
    reference = make_hf(family, seed=seed, gain=gain)
    reference.save_pretrained(directory)
    return Pair(family, reference, load_ours(directory), directory)


def images(family: Family, count: int, *, seed: int = 1, size: tuple[int, int] | None = None) -> Tensor:
    """Random pixel values (count, C, height, width)."""
    random = torch.Generator().manual_seed(seed)
    channels = family.encoder.get("num_channels", 3)
    return torch.randn(count, channels, *(size or family.image_hw), generator=random)


def ids(rows: int, length: int, *, seed: int = 2, vocab_size: int = VOCAB_SIZE) -> Tensor:
    """Random token ids (rows, length): the start token, then ordinary tokens."""
    random = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, vocab_size, (rows, length), generator=random)
    tokens[:, 0] = START
    return tokens


def labels(rows: int, length: int, *, seed: int = 3) -> Tensor:
    """Labels (rows, length) as in training: texts of several lengths, the end token, then -100."""
    random = torch.Generator().manual_seed(seed)
    made = torch.randint(3, VOCAB_SIZE, (rows, length), generator=random)
    for row in range(rows):
        end = max(1, length - 1 - 2 * row)
        made[row, end] = EOS
        made[row, end + 1 :] = -100
    return made


def difference(reference: Tensor, ours: Tensor) -> float:
    """Largest difference, relative to the reference's largest value; shapes and dtypes must agree."""
    assert ours.shape == reference.shape, (ours.shape, reference.shape)
    assert ours.dtype == reference.dtype, (ours.dtype, reference.dtype)
    assert bool(ours.isfinite().all())
    reference, ours = reference.detach(), ours.detach()
    scale = float(reference.abs().max())
    assert scale > 0, "the reference is all zeros: nothing is compared"
    return float((reference - ours).abs().max()) / scale


def stages(output: Any) -> dict[str, Tensor]:
    """Name every stage of an output with hidden states: one tensor for each."""
    named = {"encoder embedding": output.encoder_hidden_states[0]}
    for i, state in enumerate(output.encoder_hidden_states[1:]):
        named[f"encoder block {i}"] = state
    named["encoder"] = output.encoder_last_hidden_state
    named["decoder embedding"] = output.decoder_hidden_states[0]
    for i, state in enumerate(output.decoder_hidden_states[1:]):
        named[f"decoder block {i}"] = state
    named["logits"] = output.logits
    if output.loss is not None:
        named["loss"] = output.loss
    return named


def stage_differences(reference: Any, ours: Any) -> dict[str, float]:
    """Compare two outputs stage by stage."""
    left, right = stages(reference), stages(ours)
    assert list(left) == list(right)
    return {name: difference(tensor, right[name]) for name, tensor in left.items()}


def gradients(pair: Pair) -> dict[str, tuple[Tensor, Tensor]]:
    """Our parameter name -> gradients of the reference and of ours, paired by the production key table."""
    own = {name: p.grad for name, p in pair.ours.named_parameters()}
    theirs = {name: p.grad for name, p in pair.hf.named_parameters() if "pooler" not in name}
    names = HF_MEMORY.forward(theirs)
    assert list(names) == list(theirs), "the key table does not know every parameter"
    paired = {}
    for name, (target,) in names.items():
        paired[target] = (theirs[name], own.pop(target))
    assert {name for name in own if "pooler" not in name} == set(), "parameters that the reference lacks"
    return paired


def gradient_differences(pair: Pair) -> dict[str, float]:
    """Our parameter name -> difference of the gradients, relative to the largest of the same layer.

    A bias of keys shifts all scores of a query alike, so its gradient is zero but for rounding: a layer's
    weight and bias are therefore measured against the larger of the two.
    """
    found = gradients(pair)
    largest: dict[str, float] = {}
    for name, (reference, _) in found.items():
        layer = name.rpartition(".")[0]
        largest[layer] = max(largest.get(layer, 0.0), float(reference.abs().max()))
    differences = {}
    for name, (reference, ours) in found.items():
        scale = largest[name.rpartition(".")[0]]
        assert ours.shape == reference.shape, name
        assert scale > 0, f"{name}: no gradient arrives"
        differences[name] = float((reference - ours).abs().max()) / scale
    return differences


def zero_grad(pair: Pair) -> None:
    pair.hf.zero_grad()
    pair.ours.zero_grad()


def hf_output(encoded: Tensor) -> SimpleNamespace:
    """An encoder's output of another library: an object with `last_hidden_state` alone."""
    return SimpleNamespace(last_hidden_state=encoded)
