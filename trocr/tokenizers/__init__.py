"""Tokenizers written from scratch: byte-level BPE (RoBERTa), SentencePiece unigram (XLM-R), WordPiece (BERT).

They are loaded from the classic files or from `tokenizer.json`, and saved as both. Nothing here imports
torch or numpy before a caller asks for tensors.

Source: names of the classes and of their arguments: transformers 4 and 5; each module names its own.
"""

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "AddedToken": "trocr.tokenizers.added",
    "BatchEncoding": "trocr.tokenizers.batch",
    "BertTokenizer": "trocr.tokenizers.bert",
    "RobertaTokenizer": "trocr.tokenizers.roberta",
    "Tokenizer": "trocr.tokenizers.base",
    "TokenizerError": "trocr.tokenizers.errors",
    "XLMRobertaTokenizer": "trocr.tokenizers.xlm_roberta",
    "load_tokenizer": "trocr.tokenizers.loading",
}
# Names of transformers 4 for the same classes.
_ALIASES = {
    "BertTokenizerFast": "BertTokenizer",
    "RobertaTokenizerFast": "RobertaTokenizer",
    "XLMRobertaTokenizerFast": "XLMRobertaTokenizer",
}

__all__ = [
    "AddedToken",
    "BatchEncoding",
    "BertTokenizer",
    "BertTokenizerFast",
    "RobertaTokenizer",
    "RobertaTokenizerFast",
    "Tokenizer",
    "TokenizerError",
    "XLMRobertaTokenizer",
    "XLMRobertaTokenizerFast",
    "load_tokenizer",
]

if TYPE_CHECKING:
    from trocr.tokenizers.added import AddedToken
    from trocr.tokenizers.base import Tokenizer
    from trocr.tokenizers.batch import BatchEncoding
    from trocr.tokenizers.bert import BertTokenizer
    from trocr.tokenizers.bert import BertTokenizer as BertTokenizerFast
    from trocr.tokenizers.errors import TokenizerError
    from trocr.tokenizers.loading import load_tokenizer
    from trocr.tokenizers.roberta import RobertaTokenizer
    from trocr.tokenizers.roberta import RobertaTokenizer as RobertaTokenizerFast
    from trocr.tokenizers.xlm_roberta import XLMRobertaTokenizer
    from trocr.tokenizers.xlm_roberta import XLMRobertaTokenizer as XLMRobertaTokenizerFast


def __getattr__(name: str) -> Any:
    target = _ALIASES.get(name, name)
    if target not in _HOMES:
        raise AttributeError(f"module 'trocr.tokenizers' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[target]), target)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
