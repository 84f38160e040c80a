"""XLM-RoBERTa's tokenizer, that of the small models: a SentencePiece unigram model with fairseq's ids.

Source: transformers 5.23 `models/xlm_roberta/tokenization_xlm_roberta.py`, `convert_slow_tokenizer.py`.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from trocr.tokenizers import serialization as files
from trocr.tokenizers import tokenizer_json, unigram_json
from trocr.tokenizers.base import AddedToken, Template, Tokenizer, TokenizerError, Tokens
from trocr.tokenizers.charsmap import Charsmap
from trocr.tokenizers.sentencepiece_model import ModelType, PieceType, SentencePieceModel
from trocr.tokenizers.unicode_tables import WHITE_SPACE, character_class
from trocr.tokenizers.unigram import Unigram
from trocr.tokenizers.unigram_json import SPACE

MODEL_FILE = "sentencepiece.bpe.model"
UNK_ID = 3  # fairseq: <s> 0, <pad> 1, </s> 2, <unk> 3, then SentencePiece's pieces from its id 3 on
_WORD = re.compile(f"[^{character_class(WHITE_SPACE)}]+")
_PART = re.compile(f"{SPACE}?[^{SPACE}]+|{SPACE}")
Vocab = str | Path | SentencePieceModel | Sequence[tuple[str, float]]


class XLMRobertaTokenizer(Tokenizer):
    """SentencePiece unigram with XLM-R's special tokens: `<s> A </s>`, `<s> A </s></s> B </s>`.

    A SentencePiece id n >= 3 is the id n + 1 here; `<s>`, `<pad>`, `</s>`, `<unk>` are 0 to 3 and `<mask>` is
    the last one. A model may have more rows than that (the official small ones: 64,044 for 64,002 ids); they
    decode to nothing.

    Args:
        vocab: the path of `sentencepiece.bpe.model`, a parsed one, or (piece, score) pairs in the order of
            the ids with the unknown piece at 3; None: the special tokens alone.
        add_prefix_space: each word begins with "▁", as in SentencePiece; without it spaces are lost.
        bos_token: put before a text.
        eos_token: put behind each text.
        sep_token: a name for the token between texts (the ids take `eos_token`).
        cls_token: a name for the token before a text (the ids take `bos_token`).
        unk_token: stands for characters without a piece.
        pad_token: fills short rows.
        mask_token: a masked token.
        charsmap: the precompiled normaliser, where `vocab` is a list of pairs; None: text is taken as it is.
        model_data: bytes of the `sentencepiece.bpe.model` that lay beside `tokenizer.json`, to save again.
        vocab_file: `vocab` by its name in transformers 4.
        options: those of `Tokenizer`.
    Raises:
        TokenizerError: the file is missing or damaged, or is no unigram model with fairseq's first pieces.
    Source: transformers 5.23 `XLMRobertaTokenizer`; the text goes through its normaliser, is split at white
        space, and each word is segmented for itself.
    Differs: a model file of another algorithm than unigram, or with ordinary pieces among its first three, is
        an error (5.23 reads it and gives wrong ids). SentencePiece itself differs from both: it
        replaces the longest normaliser rule (see `charsmap`), adds scores up in float32 (another cut of equal
        score in long runs of one character), takes U+0085 for a letter, and has no `<pad>` and `<mask>`.
    """

    vocab_files_names: ClassVar[Mapping[str, str]] = {"vocab_file": MODEL_FILE}
    CONFIG_KEYS: ClassVar[tuple[str, ...]] = (*Tokenizer.CONFIG_KEYS, "add_prefix_space")

    def __init__(
        self,
        vocab: Vocab | None = None,
        add_prefix_space: bool = True,
        bos_token: str | AddedToken = "<s>",
        eos_token: str | AddedToken = "</s>",
        sep_token: str | AddedToken = "</s>",
        cls_token: str | AddedToken = "<s>",
        unk_token: str | AddedToken = "<unk>",
        pad_token: str | AddedToken = "<pad>",
        mask_token: str | AddedToken = "<mask>",
        *,
        charsmap: bytes | None = None,
        model_data: bytes | None = None,
        vocab_file: str | Path | None = None,
        extra_special_tokens: Sequence[str | AddedToken] = (),
        **options: Any,
    ) -> None:
        vocab = vocab_file if vocab is None else vocab
        if isinstance(vocab, str | Path):
            vocab = SentencePieceModel.from_file(vocab)
        first = [str(token) for token in (bos_token, pad_token, eos_token, unk_token)]
        source = "precompiled charsmap"
        if isinstance(vocab, SentencePieceModel):
            charsmap, model_data, source = vocab.normalizer.precompiled_charsmap, vocab.data, vocab.source
            named = options.get("additional_special_tokens")
            extra_special_tokens = extra_special_tokens or named or _symbols(vocab)
            vocab = fairseq_vocab(vocab, first, str(mask_token))
        elif vocab is None:
            vocab = [(token, 0.0) for token in (*first, str(mask_token))]
        self.add_prefix_space = add_prefix_space
        self._model_data = model_data
        self._charsmap = Charsmap(charsmap, source=source) if charsmap else None
        self._unigram = Unigram(vocab, unk_id=UNK_ID)
        super().__init__(
            self._unigram.token_to_id,
            special_tokens={
                "bos_token": bos_token,
                "eos_token": eos_token,
                "unk_token": unk_token,
                "sep_token": sep_token,
                "pad_token": pad_token,
                "cls_token": cls_token,
                "mask_token": mask_token,
            },
            extra_special_tokens=extra_special_tokens,
            **options,
        )
        self._base_tokens = {index: piece for index, (piece, _) in enumerate(self._unigram.vocab)}

    @property
    def vocab_size(self) -> int:
        """Number of ids of the unigram model; a piece that it has twice counts twice."""
        return len(self._unigram)

    def __len__(self) -> int:
        return super().__len__() + len(self._unigram) - len(self._unigram.token_to_id)

    def _normalize(self, text: str) -> str:
        return text if self._charsmap is None else self._charsmap.normalize(text)

    def _encode_text(self, text: str) -> Tokens:
        tokens: Tokens = []
        for word in _WORD.findall(text):
            if self.add_prefix_space and not word.startswith(SPACE):
                word = SPACE + word
            for part in _PART.findall(word):
                tokens += self._unigram.encode(part)
        return tokens

    def _join_tokens(self, tokens: list[str]) -> str:
        if self.add_prefix_space and tokens:
            tokens = [tokens[0].replace(SPACE, ""), *tokens[1:]]
        return "".join(tokens).replace(SPACE, " ")

    def _template(self) -> Template:
        bos, eos = str(self.bos_token), str(self.eos_token)
        return Template(start=(bos,), middle=(eos, eos), end=(eos,))

    def _config(self) -> dict[str, Any]:
        return {"add_prefix_space": self.add_prefix_space}

    @classmethod
    def _read_vocabulary(cls, directory: Path, document: Mapping[str, Any] | None) -> dict[str, Any]:
        model_file = directory / MODEL_FILE
        if document is None:
            if not model_file.is_file():
                raise TokenizerError(
                    f"{directory}: {MODEL_FILE} is missing; {cls.__name__} needs it or {files.DOCUMENT_FILE}"
                )
            return {"vocab": SentencePieceModel.from_file(model_file)}
        source, family = tokenizer_json.document_path(directory), cls.__name__
        unigram_json.check_spaces(document, source=source, family=family)
        return {
            "vocab": unigram_json.read_vocab(document, unk_id=UNK_ID, source=source, family=family),
            "charsmap": unigram_json.read_charsmap(document, source=source, family=family),
            "model_data": model_file.read_bytes() if model_file.is_file() else None,
        }

    def _vocabulary_files(self) -> dict[str, bytes]:
        """The model file as it was read; none where there was none, or `tokenizer.json` said otherwise."""
        data = self._model_data
        if data is None or not self._same_as(SentencePieceModel.from_bytes(data, source=MODEL_FILE)):
            return {}
        return {MODEL_FILE: data}

    def _same_as(self, model: SentencePieceModel) -> bool:
        charsmap = b"" if self._charsmap is None else self._charsmap.data
        if model.normalizer.precompiled_charsmap != charsmap:
            return False
        first = [piece for piece, _ in self._unigram.vocab[: UNK_ID + 1]]
        return fairseq_vocab(model, first, self._unigram.vocab[-1][0]) == self._unigram.vocab

    def _json_sections(self) -> dict[str, Any]:
        parts = unigram_json.sections(
            self._unigram.vocab,
            unk_id=UNK_ID,
            charsmap=None if self._charsmap is None else self._charsmap.data,
            add_prefix_space=self.add_prefix_space,
        )
        ids = dict((*self._start, *self._middle, *self._end))
        template = tokenizer_json.template_processing(self._template(), ids)
        return {**parts, "post_processor": template}


def fairseq_vocab(model: SentencePieceModel, first: Sequence[str], mask: str) -> list[tuple[str, float]]:
    """Pieces and scores of a model file in fairseq's order.

    Args:
        model: its first three pieces are its own <unk>, <s> and </s>.
        first: the tokens that take the ids 0 to 3 instead.
        mask: the token that takes the last id.
    Raises:
        TokenizerError: the model is of another algorithm, or an ordinary piece is among the first three.
    """
    kind = model.trainer.model_type
    if kind is not ModelType.UNIGRAM:
        raise TokenizerError(
            f"{model.source}: found a SentencePiece model of type {kind.name}, expected UNIGRAM; "
            "the file belongs to another kind of tokenizer"
        )
    own = model.pieces[:UNK_ID]
    if len(own) < UNK_ID or any(piece.type not in (PieceType.UNKNOWN, PieceType.CONTROL) for piece in own):
        raise TokenizerError(
            f"{model.source}: the first pieces are {[piece.text for piece in own]}, expected <unk>, <s>, "
            "</s>: fairseq's ids begin behind them; train with unk_id=0, bos_id=1, eos_id=2, pad_id=-1"
        )
    pieces = [(piece.text, piece.score) for piece in model.pieces[UNK_ID:]]
    return [*((token, 0.0) for token in first), *pieces, (mask, 0.0)]


def _symbols(model: SentencePieceModel) -> list[AddedToken]:
    """Control and user-defined pieces: they are matched in a text as they stand; the former are special."""
    return [
        AddedToken(piece.text, normalized=False, special=piece.type is PieceType.CONTROL)
        for piece in model.pieces
        if piece.type in (PieceType.CONTROL, PieceType.USER_DEFINED)
    ]
