"""The eleven models that Microsoft released, as configurations, with the source of each row.

Sources: "copy" = the release's ``config.json`` found as a copy in a public repository; "converter" = the
script `convert_trocr_unilm_to_pytorch.py` of `transformers`, which made the releases; "size" = parameter
count against the size of the released file; "family" = same recipe as a release with a copy. The paper is
arXiv:2109.10282.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from trocr.config import DeiTConfig, TrOCRConfig, VisionEncoderDecoderConfig, ViTConfig

_VIT_BASE = ViTConfig(
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
    image_size=384,
    qkv_bias=False,
)
_VIT_LARGE = ViTConfig(
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=4096,
    image_size=384,
    qkv_bias=False,
)
_DEIT_SMALL = DeiTConfig(
    hidden_size=384,
    num_hidden_layers=12,
    num_attention_heads=6,
    intermediate_size=1536,
    image_size=384,
)


def _learned(memory_width: int) -> TrOCRConfig:
    return TrOCRConfig(
        cross_attention_hidden_size=memory_width, is_decoder=True, add_cross_attention=True, use_cache=False
    )


def _sinusoidal(memory_width: int) -> TrOCRConfig:
    return TrOCRConfig(
        cross_attention_hidden_size=memory_width,
        is_decoder=True,
        add_cross_attention=True,
        use_cache=False,
        activation_function="relu",
        max_position_embeddings=1024,
        scale_embedding=True,
        use_learned_position_embeddings=False,
        layernorm_embedding=False,
        tie_word_embeddings=False,
    )


_UNILM = TrOCRConfig(
    vocab_size=64044,
    d_model=256,
    decoder_layers=6,
    decoder_attention_heads=8,
    decoder_ffn_dim=1024,
    activation_function="relu",
    scale_embedding=True,
    tie_word_embeddings=False,
    cross_attention_hidden_size=384,
    is_decoder=True,
    add_cross_attention=True,
    use_cache=False,
)

_VIT_IMAGE: Mapping[str, Any] = MappingProxyType(
    {
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "ViTFeatureExtractor",
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 2,
        "size": 384,
    }
)
_DEIT_IMAGE: Mapping[str, Any] = MappingProxyType(
    {
        **_VIT_IMAGE,
        "crop_size": 224,
        "do_center_crop": False,
        "feature_extractor_type": "DeiTFeatureExtractor",
        "resample": 3,
    }
)


@dataclass(frozen=True, kw_only=True)
class OfficialModel:
    """One release.

    Attributes:
        name: id on the Hub.
        config: the architecture.
        tokenizer: class name of its tokenizer.
        image_processor: content of its ``preprocessor_config.json``.
        family: decoder recipe: "learned", "sinusoidal" or "unilm".
        num_parameters: without the pooler, which the release does not hold; tied tensors once.
        source: where the configuration's values come from (see the module's header).
    """

    name: str
    config: VisionEncoderDecoderConfig
    tokenizer: str
    image_processor: Mapping[str, Any]
    family: str
    num_parameters: int
    source: str


_ENCODERS: Mapping[str, ViTConfig] = {"small": _DEIT_SMALL, "base": _VIT_BASE, "large": _VIT_LARGE}
_COUNTS = {
    ("small", "unilm"): 61_448_832,
    ("base", "learned"): 333_331_200,
    ("base", "sinusoidal"): 384_274_176,
    ("large", "learned"): 557_176_832,
    ("large", "sinusoidal"): 608_119_808,
}
_ROWS = (
    ("small", "handwritten", "unilm", "decoder from a printed copy, 4.37; encoder family"),
    ("small", "printed", "unilm", "copy, re-saved by 4.17"),
    ("small", "stage1", "unilm", "family: same recipe and file size as the other small models"),
    ("base", "handwritten", "learned", "converter; confirmed by a fine-tune's config.json, 4.57"),
    ("base", "printed", "learned", "converter"),
    ("base", "stage1", "sinusoidal", "copy, written by 4.12"),
    ("base", "str", "learned", "size: the tied recipe, not the untied one"),
    ("large", "handwritten", "learned", "converter"),
    ("large", "printed", "sinusoidal", "converter; constants of a public Rust port"),
    ("large", "stage1", "sinusoidal", "converter"),
    ("large", "str", "learned", "a public port of all eleven releases"),
)


def _row(size: str, task: str, family: str, source: str) -> OfficialModel:
    encoder = _ENCODERS[size]
    decoders = {"learned": _learned, "sinusoidal": _sinusoidal}
    decoder = _UNILM if family == "unilm" else decoders[family](encoder.hidden_size)
    return OfficialModel(
        name=f"microsoft/trocr-{size}-{task}",
        config=VisionEncoderDecoderConfig(encoder=encoder, decoder=decoder, dtype="float32"),
        tokenizer="XLMRobertaTokenizer" if size == "small" else "RobertaTokenizer",
        image_processor=_DEIT_IMAGE if size == "small" else _VIT_IMAGE,
        family=family,
        num_parameters=_COUNTS[size, family],
        source=source,
    )


OFFICIAL_MODELS: Mapping[str, OfficialModel] = MappingProxyType(
    {model.name: model for model in (_row(*row) for row in _ROWS)}
)
"""Hub id -> release."""
