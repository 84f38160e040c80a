"""Other vocabularies for a tokenizer: more tokens, fewer tokens, and what a token writes.

Source: original work.
"""

from trocr.tokenizers.bert import BertTokenizer
from trocr.tokenizers.editing.base import Edited, Editor, TokenText
from trocr.tokenizers.editing.byte_level import ByteLevelEditor
from trocr.tokenizers.editing.pieces import UnigramEditor
from trocr.tokenizers.editing.words import WordPieceEditor
from trocr.tokenizers.errors import TokenizerError
from trocr.tokenizers.roberta import RobertaTokenizer
from trocr.tokenizers.xlm_roberta import XLMRobertaTokenizer

__all__ = ["Edited", "Editor", "TokenText", "edit"]


def edit(tokenizer: object) -> Editor:
    """Find the editor of a tokenizer's family.

    Raises:
        TokenizerError: it is none of ours.
    """
    if isinstance(tokenizer, RobertaTokenizer):
        return ByteLevelEditor(tokenizer)
    if isinstance(tokenizer, XLMRobertaTokenizer):
        return UnigramEditor(tokenizer)
    if isinstance(tokenizer, BertTokenizer):
        return WordPieceEditor(tokenizer)
    raise TokenizerError(
        f"the tokenizer is a {type(tokenizer).__module__}.{type(tokenizer).__name__}, expected a "
        "RobertaTokenizer, XLMRobertaTokenizer or BertTokenizer of trocr; save it and load it with "
        "trocr.tokenizers.load_tokenizer"
    )
