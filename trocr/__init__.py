"""TrOCR from scratch in PyTorch: read lines of text, with proof of parity with the official weights.

Public names are imported when they are first used, so `import trocr` costs next to nothing.

Source: arXiv:2109.10282; lazy attributes after PEP 562.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "trocr.config": ("DeiTConfig", "TrOCRConfig", "VisionEncoderDecoderConfig", "ViTConfig"),
    "trocr.config_timm": ("TimmConfig",),
    "trocr.config_read": ("ConfigError",),
    "trocr.official": ("OFFICIAL_MODELS",),
    "trocr.hub": ("HubError",),
    "trocr.cache": ("DecoderCache",),
    "trocr.checkpoint": ("CheckpointError",),
    "trocr.models": (
        "DeiTModel",
        "TrOCRDecoder",
        "TrOCRForCausalLM",
        "ViTModel",
        "VisionEncoderDecoderModel",
    ),
    "trocr.timm_model": ("TimmModel",),
    "trocr.generation": ("GenerateOutput", "GenerationConfig", "GenerationError"),
    "trocr.image": ("DeiTImageProcessor", "ImageError", "ViTImageProcessor"),
    "trocr.tokenizers": (
        "BertTokenizer",
        "BertTokenizerFast",
        "RobertaTokenizer",
        "RobertaTokenizerFast",
        "TokenizerError",
        "XLMRobertaTokenizer",
        "XLMRobertaTokenizerFast",
    ),
    "trocr.processor": ("TrOCRProcessor",),
    "trocr.fast": ("FastModel", "OptimizeError", "load_optimized", "optimize"),
    "trocr.line": ("Line", "Token"),
    "trocr.reader": ("Reader", "ReaderError"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]

if TYPE_CHECKING:
    from trocr.cache import DecoderCache
    from trocr.checkpoint import CheckpointError
    from trocr.config import DeiTConfig, TrOCRConfig, VisionEncoderDecoderConfig, ViTConfig
    from trocr.config_read import ConfigError
    from trocr.config_timm import TimmConfig
    from trocr.fast import FastModel, OptimizeError, load_optimized, optimize
    from trocr.generation import GenerateOutput, GenerationConfig, GenerationError
    from trocr.hub import HubError
    from trocr.image import DeiTImageProcessor, ImageError, ViTImageProcessor
    from trocr.line import Line, Token
    from trocr.models import (
        DeiTModel,
        TrOCRDecoder,
        TrOCRForCausalLM,
        VisionEncoderDecoderModel,
        ViTModel,
    )
    from trocr.official import OFFICIAL_MODELS
    from trocr.processor import TrOCRProcessor
    from trocr.reader import Reader, ReaderError
    from trocr.timm_model import TimmModel
    from trocr.tokenizers import (
        BertTokenizer,
        BertTokenizerFast,
        RobertaTokenizer,
        RobertaTokenizerFast,
        TokenizerError,
        XLMRobertaTokenizer,
        XLMRobertaTokenizerFast,
    )


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'trocr' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
