"""The parts of `tokenizer.json` that a SentencePiece unigram tokenizer has.

Source: tokenizers 0.23 (the serialised form of each component); transformers 5.23 `convert_to_native_format`
(which parts of a document an XLM-R tokenizer is rebuilt from: the vocabulary and the charsmap).
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from trocr.tokenizers.errors import TokenizerError
from trocr.tokenizers.serialization import AGAIN
from trocr.tokenizers.tokenizer_json import expect, section

SPACE = "▁"  # stands for a space inside pieces
# transformers 4 writes these after the charsmap; what they do to spaces, the pre-tokenizer does as well.
_SPACE_NORMALIZERS = ("Strip", "Replace")


def read_vocab(
    document: Mapping[str, Any], *, unk_id: int, source: str, family: str
) -> list[tuple[str, float]]:
    """Pieces and scores of the model section.

    Args:
        document: `tokenizer.json`.
        unk_id: the only id of the unknown piece that will do.
        source: path of the file, for messages.
        family: name of the tokenizer class, for messages.
    Raises:
        TokenizerError: the model is of another kind, or the vocabulary is damaged.
    """
    model = section(document, "model")
    expected = {"type": ("Unigram", None), "unk_id": (unk_id,), "byte_fallback": (False, None)}
    expect(model, expected, where="model", source=source, family=family)
    vocab = model.get("vocab")
    if not isinstance(vocab, list) or not vocab:
        raise TokenizerError(
            f"{source}: model.vocab is a {type(vocab).__name__}, expected a list of [piece, score]; {AGAIN}"
        )
    pieces: list[tuple[str, float]] = []
    for index, entry in enumerate(vocab):
        valid = isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)
        if not valid or type(entry[1]) not in (int, float):
            raise TokenizerError(
                f"{source}: model.vocab[{index}] is {entry!r}, expected [piece, score]; {AGAIN}"
            )
        pieces.append((entry[0], float(entry[1])))
    return pieces


def read_charsmap(document: Mapping[str, Any], *, source: str, family: str) -> bytes | None:
    """The precompiled charsmap of the normalizer section; None where text is not normalised.

    Raises:
        TokenizerError: the section does something else, or its base64 is damaged.
    """
    normalizer = section(document, "normalizer")
    parts = normalizer["normalizers"] if normalizer.get("type") == "Sequence" else [normalizer]
    charsmap: bytes | None = None
    for part in parts:
        kind = part.get("type")
        if kind == "Precompiled" and charsmap is None:
            charsmap = _decode(part.get("precompiled_charsmap"), source)
        elif kind not in (None, *_SPACE_NORMALIZERS):
            raise TokenizerError(
                f"{source}: the normalizer has the part {kind!r}; {family} implements one 'Precompiled' "
                "only; the file belongs to another kind of tokenizer"
            )
    return charsmap


def _decode(encoded: Any, source: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except (TypeError, binascii.Error, ValueError) as error:
        raise TokenizerError(
            f"{source}: normalizer.precompiled_charsmap is not base64 ({error}); {AGAIN}"
        ) from error


def check_spaces(document: Mapping[str, Any], *, source: str, family: str) -> None:
    """Refuse a document whose words begin in another way than with "▁".

    Raises:
        TokenizerError: the pre_tokenizer or the decoder is of another kind.
    """
    before, decoder = section(document, "pre_tokenizer"), section(document, "decoder")
    parts = before["pretokenizers"] if before.get("type") == "Sequence" else [before]
    for part in parts:
        expect(
            part,
            {"type": ("Metaspace", "WhitespaceSplit")},
            where="pre_tokenizer",
            source=source,
            family=family,
        )
    expect(decoder, {"type": ("Metaspace", None)}, where="decoder", source=source, family=family)
    for where, part in [*(("pre_tokenizer", part) for part in parts), ("decoder", decoder)]:
        expect(part, {"replacement": (SPACE, None)}, where=where, source=source, family=family)


def sections(
    vocab: Sequence[tuple[str, float]], *, unk_id: int, charsmap: bytes | None, add_prefix_space: bool
) -> dict[str, Any]:
    """The normalizer, pre_tokenizer, decoder and model sections.

    Args:
        vocab: (piece, score) in the order of the ids.
        unk_id: id of the unknown piece.
        charsmap: the precompiled normaliser; None for none.
        add_prefix_space: whether words begin with "▁".
    """
    metaspace = {
        "type": "Metaspace",
        "replacement": SPACE,
        "prepend_scheme": "always" if add_prefix_space else "never",
        "split": True,
    }
    normalizer: dict[str, Any] | None = None
    if charsmap:
        encoded = base64.b64encode(charsmap).decode("ascii")
        normalizer = {"type": "Precompiled", "precompiled_charsmap": encoded}
    return {
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "decoder": metaspace,
        "model": {
            "type": "Unigram",
            "unk_id": unk_id,
            "vocab": [[piece, score] for piece, score in vocab],
            "byte_fallback": False,
        },
    }
