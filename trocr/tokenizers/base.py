"""What all tokenizers share: special and added tokens, calls, padding, truncation, decoding, files.

A tokenizer of a family is a subclass that says how ordinary text becomes ids (`_encode_text`), how tokens become text
(`_join_tokens`), and how its vocabulary is read from and written to files.

Source: transformers 5.23 `tokenization_utils_base.py`, `tokenization_utils_tokenizers.py` (behaviour).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from trocr.tokenizers.added import AddedToken
from trocr.tokenizers.errors import TokenizerError

__all__ = ["AddedToken", "Template", "Tokenizer", "TokenizerError"]


@dataclass(frozen=True, slots=True)
class Template:
    """Special tokens around a text: `start A end`, and `start A middle B end` for a pair.

    Attributes:
        start, middle, end: token strings.
        second_type_id: `token_type_ids` value of B and of `end` behind B (the rest is 0).
    """

    start: tuple[str, ...] = ()
    middle: tuple[str, ...] = ()
    end: tuple[str, ...] = ()
    second_type_id: int = 0


class Tokenizer(ABC):
    """SKELETON, being filled in: the API below is what subclasses code against."""

    vocab_files_names: ClassVar[Mapping[str, str]] = {}  # argument name -> file name, as in transformers
    model_input_names: Sequence[str] = ("input_ids", "attention_mask")

    def __init__(
        self,
        vocab: Mapping[str, int],
        *,
        special_tokens: Mapping[str, str | AddedToken | None],
        added_tokens: Mapping[int, AddedToken] | None = None,
        extra_special_tokens: Sequence[str | AddedToken] = (),
        model_max_length: int | None = None,
        padding_side: str = "right",
        truncation_side: str = "right",
        clean_up_tokenization_spaces: bool = False,
        split_special_tokens: bool = False,
        config: Mapping[str, Any] | None = None,
    ) -> None: ...

    # ---- what a family says -------------------------------------------------------------------------------------

    @abstractmethod
    def _encode_text(self, text: str) -> list[tuple[str, int]]:
        """(token, id) of a non-empty stretch of ordinary text, already through `_normalize`.

        It holds no added token. The token string is what `tokenize` shows (for an unknown piece: as transformers).
        """

    @abstractmethod
    def _join_tokens(self, tokens: list[str]) -> str:
        """Text of token strings, as `decode` returns it before any clean-up."""

    def _normalize(self, text: str) -> str:
        """Normalise a stretch of text between added tokens that match raw text. Default: unchanged."""
        return text

    @abstractmethod
    def _template(self) -> Template:
        """Special tokens around a text, read once at construction."""

    @classmethod
    @abstractmethod
    def _read_vocabulary(cls, directory: Path, document: Mapping[str, Any] | None) -> dict[str, Any]:
        """Constructor arguments (vocab=..., merges=..., ...) from a directory.

        Args:
            directory: where the classic files may be.
            document: the parsed `tokenizer.json`, None where the directory has none; it wins over the classic files.
        Raises:
            TokenizerError: the file is missing or damaged.
        """

    @abstractmethod
    def _vocabulary_files(self) -> dict[str, bytes]:
        """Classic vocabulary files: name -> content."""

    @abstractmethod
    def _json_sections(self) -> dict[str, Any]:
        """The sections normalizer, pre_tokenizer, post_processor, decoder and model of `tokenizer.json`."""

    @classmethod
    def from_pretrained(cls, directory: str | Path, **overrides: Any) -> Self:
        """Load from a directory (see the final version)."""
        raise TokenizerError(f"{directory}: the skeleton cannot load yet")
