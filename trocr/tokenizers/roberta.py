"""RoBERTa's tokenizer, that of the base and large models: byte-level BPE between <s> and </s>.

Source: transformers 5.23 `models/roberta/tokenization_roberta.py`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from trocr.tokenizers import serialization as files
from trocr.tokenizers import tokenizer_json
from trocr.tokenizers.base import AddedToken, Template, Tokenizer, TokenizerError, Tokens
from trocr.tokenizers.byte_bpe import ByteBPE, join_bytes

VOCAB_FILE, MERGES_FILE = "vocab.json", "merges.txt"
Vocab = str | Path | Mapping[str, int] | Sequence[str]
Merges = str | Path | Sequence[str | Sequence[str]]


class RobertaTokenizer(Tokenizer):
    """Byte-level BPE with RoBERTa's special tokens: `<s> A </s>`, `<s> A </s></s> B </s>`.

    Args:
        vocab: token -> id, a list of tokens, or the path of `vocab.json`; None: the special tokens alone.
        merges: "left right" lines or pairs, or the path of `merges.txt`; None: no merges.
        errors: what `decode` does with bytes that are no UTF-8, as in `bytes.decode`.
        bos_token: begin of a text.
        eos_token: end of a text.
        sep_token: put behind each text.
        cls_token: put before the first text.
        unk_token: what `convert_tokens_to_ids` finds for an unknown token.
        pad_token: fills short rows.
        mask_token: a masked token.
        add_prefix_space: encode as if every stretch of text began with a space.
        trim_offsets: kept in the files for transformers; there are no offsets here.
        vocab_file: `vocab` by its name in transformers 4.
        merges_file: `merges` by its name in transformers 4.
        options: those of `Tokenizer`.
    Raises:
        TokenizerError: a file is missing or damaged, or the merges do not fit the vocabulary.
    Source: transformers 5.23 `RobertaTokenizer`.
    Differs: `errors` works (5.23 stores it and always replaces).
    """

    vocab_files_names: ClassVar[Mapping[str, str]] = {"vocab_file": VOCAB_FILE, "merges_file": MERGES_FILE}
    CONFIG_KEYS: ClassVar[tuple[str, ...]] = (
        *Tokenizer.CONFIG_KEYS,
        "errors",
        "add_prefix_space",
        "trim_offsets",
    )
    CLEANS_BY_CONFIG: ClassVar[bool] = False

    def __init__(
        self,
        vocab: Vocab | None = None,
        merges: Merges | None = None,
        errors: str = "replace",
        bos_token: str | AddedToken = "<s>",
        eos_token: str | AddedToken = "</s>",
        sep_token: str | AddedToken = "</s>",
        cls_token: str | AddedToken = "<s>",
        unk_token: str | AddedToken = "<unk>",
        pad_token: str | AddedToken = "<pad>",
        mask_token: str | AddedToken = "<mask>",
        add_prefix_space: bool = False,
        trim_offsets: bool = True,
        *,
        vocab_file: str | Path | None = None,
        merges_file: str | Path | None = None,
        **options: Any,
    ) -> None:
        vocab = vocab_file if vocab is None else vocab
        merges = merges_file if merges is None else merges
        if vocab is None:
            alone = (pad_token, unk_token, cls_token, sep_token, mask_token)
            vocab = list(dict.fromkeys(map(str, alone)))
        elif isinstance(vocab, str | Path) and merges is None:
            raise TokenizerError(
                f"{vocab}: the merges are missing; pass merges_file (the path of {MERGES_FILE}) as well"
            )
        self.errors = errors
        self.add_prefix_space = add_prefix_space
        self.trim_offsets = trim_offsets
        self._bpe = ByteBPE(load_vocab(vocab), load_merges(merges or ()))
        super().__init__(
            self._bpe.vocab,
            special_tokens={
                "bos_token": bos_token,
                "eos_token": eos_token,
                "unk_token": unk_token,
                "sep_token": sep_token,
                "pad_token": pad_token,
                "cls_token": cls_token,
                "mask_token": mask_token,
            },
            **options,
        )

    def _encode_text(self, text: str) -> Tokens:
        if self.add_prefix_space and not text.startswith(" "):
            text = " " + text
        return self._bpe.encode(text)

    def _join_tokens(self, tokens: list[str]) -> str:
        return join_bytes(tokens, self.errors)

    def _template(self) -> Template:
        cls, sep = str(self.cls_token), str(self.sep_token)
        return Template(start=(cls,), middle=(sep, sep), end=(sep,))

    @classmethod
    def _read_vocabulary(cls, directory: Path, document: Mapping[str, Any] | None) -> dict[str, Any]:
        if document is None:
            for name, other in ((VOCAB_FILE, MERGES_FILE), (MERGES_FILE, VOCAB_FILE)):
                if not (directory / name).is_file():
                    raise TokenizerError(
                        f"{directory}: {name} is missing; {cls.__name__} needs {name} and {other}, "
                        f"or {files.DOCUMENT_FILE}"
                    )
            return {"vocab": directory / VOCAB_FILE, "merges": directory / MERGES_FILE}
        source = tokenizer_json.document_path(directory)
        model = tokenizer_json.section(document, "model")
        before = tokenizer_json.section(document, "pre_tokenizer")
        checks: dict[str, dict[str, tuple[Any, ...]]] = {
            "model": {
                "type": ("BPE", None),
                "dropout": (None,),
                "unk_token": (None,),
                "continuing_subword_prefix": (None, ""),
                "end_of_word_suffix": (None, ""),
                "byte_fallback": (False, None),
                "ignore_merges": (False, None),
            },
            "pre_tokenizer": {"type": ("ByteLevel",), "use_regex": (True, None)},
            "normalizer": {"type": (None,)},
            "decoder": {"type": ("ByteLevel",)},
        }
        for name, expected in checks.items():
            found = tokenizer_json.section(document, name)
            tokenizer_json.expect(found, expected, where=name, source=source, family=cls.__name__)
        return {
            "vocab": files.check_vocabulary(model.get("vocab"), source),
            "merges": _merge_pairs(model.get("merges") or (), source),
            "add_prefix_space": bool(before.get("add_prefix_space")),
        }

    def _vocabulary_files(self) -> dict[str, bytes]:
        lines = ["#version: 0.2", *(" ".join(pair) for pair in self._bpe.merges)]
        return {
            VOCAB_FILE: files.json_bytes(self._ordered_vocab()),
            MERGES_FILE: ("\n".join(lines) + "\n").encode("utf-8"),
        }

    def _ordered_vocab(self) -> dict[str, int]:
        return dict(sorted(self._base.items(), key=lambda item: item[1]))

    def _config(self) -> dict[str, Any]:
        return {
            "add_prefix_space": self.add_prefix_space,
            "errors": self.errors,
            "trim_offsets": self.trim_offsets,
        }

    def _json_sections(self) -> dict[str, Any]:
        (cls,), (sep,) = self._start, self._end
        bytes_to_letters = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
        return {
            "normalizer": None,
            "pre_tokenizer": {**bytes_to_letters, "add_prefix_space": self.add_prefix_space},
            "post_processor": {
                "type": "RobertaProcessing",
                "sep": list(sep),
                "cls": list(cls),
                "trim_offsets": self.trim_offsets,
                "add_prefix_space": self.add_prefix_space,
            },
            "decoder": {**bytes_to_letters, "add_prefix_space": True},
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": "",
                "end_of_word_suffix": "",
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": self._ordered_vocab(),
                "merges": [" ".join(pair) for pair in self._bpe.merges],
            },
        }


def load_vocab(vocab: Vocab) -> dict[str, int]:
    """A vocabulary from a path of `vocab.json`, a mapping, or a list of tokens in the order of their ids.

    Raises:
        TokenizerError: the file is damaged, or two tokens share an id.
    """
    if isinstance(vocab, str | Path):
        return files.check_vocabulary(files.read_json(Path(vocab)), vocab)
    if not isinstance(vocab, Mapping):
        vocab = {token: token_id for token_id, token in enumerate(vocab)}
    return files.check_vocabulary(vocab, "vocab")


def load_merges(merges: Merges) -> list[tuple[str, str]]:
    """Merges from a path of `merges.txt`, or from lines or pairs.

    Raises:
        TokenizerError: a line is no pair; the message names it.
    """
    if isinstance(merges, str | Path):
        text = files.read_text(Path(merges))
        lines = [line for line in text.split("\n") if line.strip() and not line.startswith("#version")]
        return _merge_pairs(lines, merges)
    return _merge_pairs(merges, "merges")


def _merge_pairs(merges: Sequence[str | Sequence[str]], source: Any) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for number, merge in enumerate(merges, start=1):
        parts = merge.rstrip("\r").split(" ") if isinstance(merge, str) else list(merge)
        if len(parts) != 2 or not all(isinstance(part, str) and part for part in parts):
            raise TokenizerError(
                f"{source}: merge {number} is {merge!r}, expected two tokens with one space between; "
                f"{files.AGAIN}"
            )
        pairs.append((parts[0], parts[1]))
    return pairs
