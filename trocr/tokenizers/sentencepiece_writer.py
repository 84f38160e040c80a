"""Write SentencePiece model files without protobuf, for vocabularies that were trained, cut or extended.

Source: `sentencepiece_model.proto` of google/sentencepiece 0.2 (the schema); protobuf's wire format.
"""

import struct
from collections.abc import Sequence

from trocr.tokenizers.sentencepiece_model import ModelType, Piece, PieceType, SentencePieceModel

FIRST_PIECES = (
    Piece("<unk>", 0.0, PieceType.UNKNOWN),
    Piece("<s>", 0.0, PieceType.CONTROL),
    Piece("</s>", 0.0, PieceType.CONTROL),
)
"""SentencePiece's own first ids, on which fairseq's numbering of XLM-R relies."""

_VARINT, _BYTES, _FIXED32 = 0, 2, 5


def float32(score: float) -> float:
    """The score as a model file holds it."""
    return float(struct.unpack("<f", struct.pack("<f", score))[0])


def unigram_file(pieces: Sequence[tuple[str, float]]) -> bytes:
    """The bytes of a unigram model that takes text as it is.

    Args:
        pieces: ordinary pieces and their scores, without SentencePiece's first three.
    """
    ordinary = [Piece(text, score, PieceType.NORMAL) for text, score in pieces]
    number_of_pieces = len(FIRST_PIECES) + len(ordinary)
    trainer = _number(3, ModelType.UNIGRAM) + _number(4, number_of_pieces)
    trainer += b"".join(_number(field, value) for field, value in ((40, 0), (41, 1), (42, 2), (43, -1)))
    normalizer = _bytes(1, b"identity") + b"".join(_number(field, 1) for field in (3, 4, 5))
    return _pieces([*FIRST_PIECES, *ordinary]) + _bytes(2, trainer) + _bytes(3, normalizer)


def file_with_pieces(model: SentencePieceModel, pieces: Sequence[Piece]) -> bytes:
    """The bytes of a model with other pieces and the same settings.

    Args:
        model: whose settings are taken as they stand in its file.
        pieces: all of them, SentencePiece's first three included.
    """
    return _pieces(pieces) + model.settings()


def _pieces(pieces: Sequence[Piece]) -> bytes:
    parts = []
    for piece in pieces:
        body = _bytes(1, piece.text.encode("utf-8")) + _key(2, _FIXED32) + struct.pack("<f", piece.score)
        if piece.type is not PieceType.NORMAL:
            body += _number(3, piece.type)
        parts.append(_bytes(1, body))
    return b"".join(parts)


def _varint(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF  # negative numbers take ten bytes
    digits = bytearray()
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)


def _key(field: int, wire: int) -> bytes:
    return _varint(field << 3 | wire)


def _number(field: int, value: int) -> bytes:
    return _key(field, _VARINT) + _varint(value)


def _bytes(field: int, payload: bytes) -> bytes:
    return _key(field, _BYTES) + _varint(len(payload)) + payload
