"""The decoder from a text model: BERT-, RoBERTa-, XLM-RoBERTa- and MiniLM-type weights, or a checkpoint's.

Source: arXiv:2109.10282 sec. 2.3 (decoders start from RoBERTa and MiniLM, with new attention to the image).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trocr.config import TrOCRConfig
from trocr.config_read import ConfigError, read_json
from trocr.hub import MODEL_FILES, locate
from trocr.models import TrOCRForCausalLM
from trocr.parts.report import PartsError, plan_tensors
from trocr.surgery.patterns import SurgeryError, choose_blocks
from weights_conversion import bert as names
from weights_conversion.files import find_weights, open_weights

KINDS = ("bert", "roberta", "xlm-roberta")
"""Types of models that can become a decoder."""

DECODER_EPS = 1e-5
"""Epsilon of a TrOCR decoder's norms, which no configuration can change."""


@dataclass(frozen=True, kw_only=True)
class TextPart:
    """A decoder's configuration and weights, by our names.

    Attributes:
        origin: where it is from, for the report.
        config: of the decoder; it attends to no image yet.
        weights: our name -> tensor.
        sources: our name -> names of the tensors that it was made of, as the source has them.
        notes: our name -> what was done, where it is no plain copy.
        left_out: (the source's name, reason).
        norm_eps: of the source.
    """

    origin: str
    config: TrOCRConfig
    weights: Mapping[str, Tensor]
    sources: Mapping[str, tuple[str, ...]]
    notes: Mapping[str, str]
    left_out: tuple[tuple[str, str], ...]
    norm_eps: float


def load_text_part(
    source: str, *, layers: str | Sequence[int] = "all", max_positions: int | None = None
) -> TextPart:
    """Load a decoder.

    Args:
        source: folder, or Hub id, of a BERT-, RoBERTa- or XLM-RoBERTa-type model (MiniLM's are such).
        layers: "all", "last:N", "first:N", "every:N" (each N-th, the last one among them), or numbers; see
            `trocr.surgery.patterns.choose_blocks`.
        max_positions: tokens that the decoder can write; None takes all positions of the source.
    Raises:
        PartsError: it is another kind of model, or has no such layers.
        HubError: the files are neither here nor reachable.
    """
    folder = locate(source, want=MODEL_FILES)
    values = _read(folder, source)
    kind = values["model_type"]
    try:
        chosen = choose_blocks(layers, values["num_hidden_layers"], what="layers")
    except SurgeryError as error:
        raise PartsError(f"{source}: {error}") from error
    with open_weights(find_weights(folder)) as file:
        tensors = {name: file.tensor(name).float() for name in file.shapes}
    try:
        plain = names.plain(
            tensors, layers=chosen, starts_at=_first_row(values, kind), max_positions=max_positions
        )
    except names.TextModelError as error:
        raise PartsError(f"{source}: {error}") from error
    try:
        config = _config(values, plain, kind)
    except ConfigError as error:
        raise PartsError(f"{source}: {error}") from error
    with torch.device("meta"):
        skeleton = TrOCRForCausalLM(config)
    expected = {
        name: tuple(parameter.shape)
        for name, parameter in skeleton.named_parameters()
        if "cross_attn" not in name and not name.startswith("output_projection")
    }
    plan = plan_tensors(names.TABLE, plain.tensors, expected, source)
    return TextPart(
        origin=f"{source}, layers {', '.join(map(str, chosen))}",
        config=config,
        weights={move.target: plain.tensors[move.source] for move in plan.items},
        sources={move.target: plain.origins[move.source] for move in plan.items},
        notes={move.target: plain.notes[move.source] for move in plan.items if move.source in plain.notes},
        left_out=plain.left_out,
        norm_eps=float(values.get("layer_norm_eps", 1e-12)),
    )


def _read(folder: Path, source: str) -> dict[str, Any]:
    """Read the configuration of a text model, and check that it can become a decoder.

    Raises:
        PartsError: it cannot, or the file is damaged.
    """
    try:
        values = read_json(folder / "config.json")
    except ConfigError as error:
        raise PartsError(str(error)) from error
    kind = values.get("model_type")
    if kind not in KINDS:
        raise PartsError(f"{source}: model_type is {kind!r}, expected one of {', '.join(KINDS)}")
    for name in ("num_hidden_layers", "num_attention_heads", "intermediate_size"):
        if type(values.get(name)) is not int or values[name] < 1:
            raise PartsError(f"{source}: {name} is {values.get(name)!r}, expected a whole number above 0")
    _check(values, source)
    return values


def _first_row(values: Mapping[str, Any], kind: str) -> int:
    """Row of the position table that the first token has: a RoBERTa counts from its padding token's id on."""
    if kind == "bert":
        return 0
    padding = values.get("pad_token_id")
    return 2 if padding is None else int(padding) + 1


def _check(values: Mapping[str, Any], source: str) -> None:
    if values.get("hidden_act", "gelu") not in ("gelu", "relu"):
        raise PartsError(f"{source}: activation {values['hidden_act']!r}; a TrOCR decoder has gelu or relu")
    if values.get("position_embedding_type", "absolute") != "absolute":
        raise PartsError(
            f"{source}: its positions are {values['position_embedding_type']}, expected absolute"
        )


def _config(values: Mapping[str, Any], plain: names.PlainText, kind: str) -> TrOCRConfig:
    tokens = {"bert": (101, 0, 102), "roberta": (0, 1, 2), "xlm-roberta": (0, 1, 2)}[kind]
    start, padding, end = tokens
    is_bert = kind == "bert"
    blocks = {name.split(".")[2] for name in plain.tensors if name.startswith("encoder.layer.")}
    rows, width = plain.tensors["embeddings.word_embeddings.weight"].shape
    return TrOCRConfig(
        vocab_size=rows,
        d_model=width,
        decoder_layers=len(blocks),
        decoder_attention_heads=values["num_attention_heads"],
        decoder_ffn_dim=values["intermediate_size"],
        activation_function=values.get("hidden_act", "gelu"),
        max_position_embeddings=len(plain.tensors["embeddings.position_embeddings.weight"]) - names.OFFSET,
        dropout=values.get("hidden_dropout_prob", 0.1),
        attention_dropout=values.get("attention_probs_dropout_prob", 0.1),
        init_std=values.get("initializer_range", 0.02),
        decoder_start_token_id=min(start if is_bert else end, rows - 1),
        pad_token_id=values.get("pad_token_id", padding),
        bos_token_id=min(values.get("bos_token_id") or start, rows - 1),
        eos_token_id=min(end if is_bert else values.get("eos_token_id", end), rows - 1),
        scale_embedding=False,
        layernorm_embedding=True,
        use_learned_position_embeddings=True,
        tie_word_embeddings=True,
    )
