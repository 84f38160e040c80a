"""BERT's tokenizer, for decoders of other languages: WordPiece between [CLS] and [SEP].

Source: transformers 5.23 `models/bert/tokenization_bert.py`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from trocr.tokenizers import serialization as files
from trocr.tokenizers import tokenizer_json, wordpiece
from trocr.tokenizers.added import SPACES
from trocr.tokenizers.base import AddedToken, Template, Tokenizer, TokenizerError, Tokens
from trocr.tokenizers.wordpiece import WordPiece, join_pieces

VOCAB_FILE = "vocab.txt"
Vocab = str | Path | Mapping[str, int] | Sequence[str]


class BertTokenizer(Tokenizer):
    """WordPiece with BERT's special tokens: `[CLS] A [SEP]`, `[CLS] A [SEP] B [SEP]`.

    Args:
        vocab: token -> id, a list of tokens, or the path of `vocab.txt`; None: the special tokens alone.
        do_lower_case: lower-case the text.
        unk_token: an unknown word.
        sep_token: put behind each text.
        pad_token: fills short rows.
        cls_token: put before the first text.
        mask_token: a masked token.
        tokenize_chinese_chars: make every CJK ideograph a word.
        strip_accents: drop accents; None: where the text is lower-cased.
        vocab_file: `vocab` by its name in transformers 4.
        options: those of `Tokenizer`.
    Raises:
        TokenizerError: a file is missing or damaged, or the vocabulary lacks the unknown token.
    Source: transformers 5.23 `BertTokenizer`.
    """

    vocab_files_names: ClassVar[Mapping[str, str]] = {"vocab_file": VOCAB_FILE}
    model_input_names: Sequence[str] = ("input_ids", "token_type_ids", "attention_mask")
    CONFIG_KEYS: ClassVar[tuple[str, ...]] = (
        *Tokenizer.CONFIG_KEYS,
        "do_lower_case",
        "tokenize_chinese_chars",
        "strip_accents",
    )

    def __init__(
        self,
        vocab: Vocab | None = None,
        do_lower_case: bool = True,
        unk_token: str | AddedToken = "[UNK]",
        sep_token: str | AddedToken = "[SEP]",
        pad_token: str | AddedToken = "[PAD]",
        cls_token: str | AddedToken = "[CLS]",
        mask_token: str | AddedToken = "[MASK]",
        tokenize_chinese_chars: bool = True,
        strip_accents: bool | None = None,
        *,
        vocab_file: str | Path | None = None,
        **options: Any,
    ) -> None:
        vocab = vocab_file if vocab is None else vocab
        if vocab is None:
            vocab = list(dict.fromkeys(map(str, (pad_token, unk_token, cls_token, sep_token, mask_token))))
        self.do_lower_case = do_lower_case
        self.tokenize_chinese_chars = tokenize_chinese_chars
        self.strip_accents = strip_accents
        loaded = load_vocab(vocab)
        if str(unk_token) not in loaded:
            source = vocab if isinstance(vocab, str | Path) else "vocab"
            raise TokenizerError(
                f"{source}: the unk_token {str(unk_token)!r} is not in the {len(loaded)} tokens, and "
                "WordPiece needs it: take the vocabulary of a BERT model, or name its token by unk_token=..."
            )
        self._wordpiece = WordPiece(loaded, str(unk_token))
        super().__init__(
            loaded,
            special_tokens={
                "unk_token": unk_token,
                "sep_token": sep_token,
                "pad_token": pad_token,
                "cls_token": cls_token,
                "mask_token": mask_token,
            },
            **options,
        )

    def _normalize(self, text: str) -> str:
        text = wordpiece.clean(text)
        if self.tokenize_chinese_chars:
            text = wordpiece.separate_ideographs(text)
        if self.do_lower_case if self.strip_accents is None else self.strip_accents:
            text = wordpiece.strip_accents(text)
        return wordpiece.lowercase(text) if self.do_lower_case else text

    def _encode_text(self, text: str) -> Tokens:
        return self._wordpiece.encode(text)

    def _join_tokens(self, tokens: list[str]) -> str:
        return join_pieces(tokens)

    def _template(self) -> Template:
        sep = (str(self.sep_token),)
        return Template(start=(str(self.cls_token),), middle=sep, end=sep, second_type_id=1)

    @classmethod
    def _read_vocabulary(cls, directory: Path, document: Mapping[str, Any] | None) -> dict[str, Any]:
        if document is None:
            if not (directory / VOCAB_FILE).is_file():
                raise TokenizerError(
                    f"{directory}: {VOCAB_FILE} is missing; {cls.__name__} needs it, or {files.DOCUMENT_FILE}"
                )
            return {"vocab": directory / VOCAB_FILE}
        source = tokenizer_json.document_path(directory)
        checks: dict[str, dict[str, tuple[Any, ...]]] = {
            "model": {
                "type": ("WordPiece", None),
                "continuing_subword_prefix": (wordpiece.CONTINUATION,),
                "max_input_chars_per_word": (wordpiece.MAX_WORD,),
            },
            "normalizer": {"type": ("BertNormalizer",), "clean_text": (True,)},
            "pre_tokenizer": {"type": ("BertPreTokenizer",)},
            "decoder": {"type": ("WordPiece",), "prefix": (wordpiece.CONTINUATION,), "cleanup": (True,)},
        }
        for name, expected in checks.items():
            found = tokenizer_json.section(document, name)
            tokenizer_json.expect(found, expected, where=name, source=source, family=cls.__name__)
        model, normalizer = document["model"], document["normalizer"]
        return {
            "vocab": files.check_vocabulary(model.get("vocab"), source),
            "unk_token": model.get("unk_token") or "[UNK]",
            "do_lower_case": bool(normalizer.get("lowercase")),
            "tokenize_chinese_chars": bool(normalizer.get("handle_chinese_chars")),
            "strip_accents": normalizer.get("strip_accents"),
        }

    def _vocabulary_files(self) -> dict[str, bytes]:
        holes = set(range(len(self._base))) - set(self._base_tokens)
        if holes:
            raise TokenizerError(
                f"the vocabulary has no token with id {min(holes)}, and {VOCAB_FILE} needs one for every id; "
                "renumber the vocabulary"
            )
        return {
            VOCAB_FILE: "".join(f"{self._base_tokens[i]}\n" for i in range(len(self._base))).encode("utf-8")
        }

    def _config(self) -> dict[str, Any]:
        return {
            "do_lower_case": self.do_lower_case,
            "strip_accents": self.strip_accents,
            "tokenize_chinese_chars": self.tokenize_chinese_chars,
        }

    def _json_sections(self) -> dict[str, Any]:
        return {
            "normalizer": {
                "type": "BertNormalizer",
                "clean_text": True,
                "handle_chinese_chars": self.tokenize_chinese_chars,
                "strip_accents": self.strip_accents,
                "lowercase": self.do_lower_case,
            },
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": tokenizer_json.template_processing(self._template(), self.get_vocab()),
            "decoder": {"type": "WordPiece", "prefix": wordpiece.CONTINUATION, "cleanup": True},
            "model": {
                "type": "WordPiece",
                "unk_token": self._wordpiece.unknown,
                "continuing_subword_prefix": wordpiece.CONTINUATION,
                "max_input_chars_per_word": wordpiece.MAX_WORD,
                "vocab": dict(sorted(self._base.items(), key=lambda item: item[1])),
            },
        }


def load_vocab(vocab: Vocab) -> dict[str, int]:
    """A vocabulary from a path of `vocab.txt`, a mapping, or a list of tokens in the order of their ids.

    Raises:
        TokenizerError: the file is empty, or a token is there twice; the message names the lines.
    """
    if isinstance(vocab, Mapping):
        return files.check_vocabulary(vocab, "vocab")
    source, tokens = "vocab", []
    if not isinstance(vocab, str | Path):
        tokens = list(vocab)
    else:
        source = str(vocab)
        tokens = [line.rstrip(SPACES) for line in files.read_text(Path(vocab)).split("\n")]
        if not tokens[-1]:
            tokens.pop()
    if not any(tokens):
        raise TokenizerError(f"{source}: found no tokens, expected one on each line; {files.AGAIN}")
    lines: dict[str, int] = {}
    for line, token in enumerate(tokens):
        if token in lines:
            raise TokenizerError(
                f"{source}: the token {token!r} is on line {lines[token] + 1} and again on line {line + 1}; "
                f"{files.AGAIN}"
            )
        lines[token] = line
    return lines
