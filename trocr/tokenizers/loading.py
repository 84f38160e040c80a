"""Which tokenizer a directory holds.

Source: transformers 5.23 `AutoTokenizer` (the class that `tokenizer_config.json` names comes first).
"""

import importlib
import os
from pathlib import Path

from trocr.tokenizers import serialization as files
from trocr.tokenizers import tokenizer_json
from trocr.tokenizers.base import Tokenizer
from trocr.tokenizers.errors import TokenizerError

_MODULES = {
    "RobertaTokenizer": "trocr.tokenizers.roberta",
    "XLMRobertaTokenizer": "trocr.tokenizers.xlm_roberta",
    "BertTokenizer": "trocr.tokenizers.bert",
}
_BY_MODEL = {"BPE": "RobertaTokenizer", "Unigram": "XLMRobertaTokenizer", "WordPiece": "BertTokenizer"}
_BY_FILE = {
    "vocab.json": "RobertaTokenizer",
    "sentencepiece.bpe.model": "XLMRobertaTokenizer",
    "vocab.txt": "BertTokenizer",
}
# Class names that say nothing of the family.
_GENERIC = frozenset(("PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend"))


def load_tokenizer(directory: str | os.PathLike[str]) -> Tokenizer:
    """Load the tokenizer of a directory, whatever its family.

    The class is what `tokenizer_config.json` says; else what the model in `tokenizer.json` is; else what the
    vocabulary file is.

    Args:
        directory: a directory with the files of one tokenizer.
    Raises:
        TokenizerError: the directory has no tokenizer, or one of another family; the message says which.
    """
    root = files.existing_directory(directory)
    family = _family(root)
    loaded = getattr(importlib.import_module(_MODULES[family]), family).from_pretrained(root)
    assert isinstance(loaded, Tokenizer)
    return loaded


def _family(root: Path) -> str:
    config_file, document_file = root / files.CONFIG_FILE, root / files.DOCUMENT_FILE
    named = files.read_json(config_file).get("tokenizer_class") if config_file.is_file() else None
    known = ", ".join(_MODULES)
    if named and named not in _GENERIC:
        family = str(named).removesuffix("Fast")
        if family not in _MODULES:
            raise TokenizerError(
                f"{config_file}: tokenizer_class is {named!r}; implemented are {known}; "
                "load this one with transformers"
            )
        return family
    if document_file.is_file():
        model = tokenizer_json.model_type(files.read_json(document_file))
        if model not in _BY_MODEL:
            raise TokenizerError(
                f"{document_file}: the model is {model!r}; implemented are {', '.join(_BY_MODEL)}; "
                "load this one with transformers"
            )
        return _BY_MODEL[model]
    for name, family in _BY_FILE.items():
        if (root / name).is_file():
            return family
    found = ", ".join(sorted(path.name for path in root.iterdir())[:20]) or "nothing"
    raise TokenizerError(
        f"{root}: no tokenizer files; expected {files.DOCUMENT_FILE}, {', '.join(_BY_FILE)}; found {found}"
    )
