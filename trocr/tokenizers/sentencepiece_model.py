"""Read `sentencepiece.bpe.model` without protobuf: the pieces, their scores and kinds, and the two specs.

Source: `sentencepiece_model.proto` of google/sentencepiece 0.2 (the schema); protobuf's wire format.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from trocr.tokenizers.errors import TokenizerError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIRE_NAMES = {_VARINT: "varint", _FIXED64: "8 bytes", _BYTES: "length-prefixed bytes", _FIXED32: "4 bytes"}


class PieceType(IntEnum):
    """What a piece is for; the numbers are those of the file."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class ModelType(IntEnum):
    """The segmentation algorithm a model was trained for; the numbers are those of the file."""

    UNIGRAM = 1
    BPE = 2
    WORD = 3
    CHAR = 4


class Piece(NamedTuple):
    """One vocabulary entry: its text ("▁" stands for a space), log-probability and kind."""

    text: str
    score: float
    type: PieceType


@dataclass(frozen=True, kw_only=True)
class TrainerSpec:
    """The fields of the trainer specification that change how text is read."""

    model_type: ModelType = ModelType.UNIGRAM
    byte_fallback: bool = False
    unk_id: int = 0
    bos_id: int = 1
    eos_id: int = 2
    pad_id: int = -1


@dataclass(frozen=True, kw_only=True)
class NormalizerSpec:
    """How the model normalises text before it segments it.

    Attributes:
        name: name of the rule set (`nmt_nfkc`, `identity` ...), for people only.
        precompiled_charsmap: the rules themselves (see `charsmap.Charsmap`); empty for the identity.
        add_dummy_prefix: a space is put before the text.
        remove_extra_whitespaces: runs of spaces become one, and the ends are stripped.
        escape_whitespaces: spaces become "▁".
    """

    name: str = ""
    precompiled_charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True


@dataclass(frozen=True, kw_only=True)
class SentencePieceModel:
    """A parsed SentencePiece model file.

    Attributes:
        pieces: entries in the order of SentencePiece's own ids.
        trainer: training settings that matter for reading.
        normalizer: text normalisation settings.
        data: the bytes it was parsed from.
        source: where they came from, for error messages.
    """

    pieces: tuple[Piece, ...] = field(repr=False)
    trainer: TrainerSpec
    normalizer: NormalizerSpec
    data: bytes = field(repr=False)
    source: str

    @classmethod
    def from_file(cls, path: str | Path) -> "SentencePieceModel":
        """Parse a model file.

        Raises:
            TokenizerError: the file cannot be read, is truncated or is not a SentencePiece model.
        """
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise TokenizerError(f"{path}: cannot read the SentencePiece model: {error.strerror}") from error
        return cls.from_bytes(data, source=str(path))

    @classmethod
    def from_bytes(cls, data: bytes, *, source: str = "SentencePiece model") -> "SentencePieceModel":
        """Parse the bytes of a model file.

        Args:
            data: the whole file.
            source: its name, for error messages.
        Raises:
            TokenizerError: truncated or corrupt data, with the offset, what was found and what was expected.
        """
        return _parse_model(_Reader(data, source))

    def settings(self) -> bytes:
        """All of the file but its pieces and the test sentences that go with them, as it is."""
        fields = _Reader(self.data, self.source).fields(0, len(self.data))
        return b"".join(self.data[start:stop] for number, _, start, _, stop in fields if number not in (1, 4))


class _Reader:
    """Bounds-checked access to protobuf wire data; every failure names the file and the byte offset."""

    def __init__(self, data: bytes, source: str) -> None:
        self.data = data
        self.source = source

    def fail(self, offset: int, found: str, expected: str) -> TokenizerError:
        return TokenizerError(
            f"{self.source}: not a valid SentencePiece model: at byte {offset} of {len(self.data)} found "
            f"{found}, expected {expected}; the file is truncated or corrupt, fetch it again"
        )

    def varint(self, offset: int, end: int) -> tuple[int, int]:
        """Decode a base-128 integer at `offset`; returns (value, offset after it)."""
        value = 0
        for index in range(10):
            if offset + index >= end:
                raise self.fail(offset, f"the end of the data after {index} bytes", "the rest of an integer")
            byte = self.data[offset + index]
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                return value, offset + index + 1
        raise self.fail(offset, "an integer longer than 10 bytes", "at most 10 bytes")

    def fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
        """Walk the fields of a message.

        Yields:
            (field number, wire type, offset of the field, payload start, payload end); the payload of a
            varint is its encoding.
        """
        data = self.data
        offset = start
        while offset < end:
            key = data[offset]
            if key < 0x80:
                payload = offset + 1
            else:
                key, payload = self.varint(offset, end)
            number, wire = key >> 3, key & 7
            if wire == _BYTES:
                length, payload = self.varint(payload, end)
                stop = payload + length
            elif wire == _VARINT:
                stop = self.varint(payload, end)[1]
            elif wire == _FIXED32:
                stop = payload + 4
            elif wire == _FIXED64:
                stop = payload + 8
            else:
                raise self.fail(offset, f"wire type {wire}", "one of 0, 1, 2, 5")
            if number == 0:
                raise self.fail(offset, "field number 0", "a field number of at least 1")
            if stop > end:
                raise self.fail(
                    offset, f"a field of {stop - payload} bytes", f"at most {end - payload} bytes left"
                )
            yield number, wire, offset, payload, stop
            offset = stop

    def expect(self, wire: int, wanted: int, offset: int, what: str) -> None:
        if wire != wanted:
            raise self.fail(offset, f"{what} as {_WIRE_NAMES[wire]}", f"{what} as {_WIRE_NAMES[wanted]}")

    def text(self, start: int, end: int, what: str) -> str:
        try:
            return self.data[start:end].decode("utf-8")
        except UnicodeDecodeError as error:
            bad = self.data[start + error.start]
            raise self.fail(start + error.start, f"byte 0x{bad:02x} in {what}", "UTF-8 text") from error

    def integers(self, start: int, end: int) -> dict[int, int]:
        """Varint fields of a message by number, as signed 32-bit integers; a repeated one keeps its last."""
        found: dict[int, int] = {}
        for number, wire, _, payload, stop in self.fields(start, end):
            if wire == _VARINT:
                value = self.varint(payload, stop)[0] & 0xFFFFFFFF
                found[number] = value - (1 << 32) if value >= 1 << 31 else value
        return found


def _parse_model(reader: _Reader) -> SentencePieceModel:
    pieces: list[Piece] = []
    trainer: TrainerSpec | None = None
    normalizer: NormalizerSpec | None = None
    size = len(reader.data)
    names = {1: "a piece", 2: "the trainer spec", 3: "the normalizer spec"}
    for number, wire, offset, start, end in reader.fields(0, size):
        if number not in names:  # self-test data, the denormaliser and extensions do not change the reading
            continue
        reader.expect(wire, _BYTES, offset, names[number])
        if number == 1:
            pieces.append(_parse_piece(reader, start, end))
        elif number == 2:
            trainer = _parse_trainer(reader, start, end)
        else:
            normalizer = _parse_normalizer(reader, start, end)
    if not pieces:
        raise reader.fail(size, "the end without a single piece", "a model with a vocabulary")
    # Both are always written, after the pieces: their absence means a cut file.
    if trainer is None or normalizer is None:
        absent = names[2] if trainer is None else names[3]
        raise reader.fail(size, f"the end after {len(pieces)} pieces", absent)
    return SentencePieceModel(
        pieces=tuple(pieces),
        trainer=trainer,
        normalizer=normalizer,
        data=reader.data,
        source=reader.source,
    )


def _parse_piece(reader: _Reader, start: int, end: int) -> Piece:
    data = reader.data
    cut = end - 5  # nearly every piece is a short text and a score
    if (
        cut > start + 2
        and data[start] == 0x0A
        and data[start + 1] == cut - start - 2 < 0x80
        and data[cut] == 0x15
    ):
        (score,) = struct.unpack_from("<f", data, cut + 1)
        return Piece(reader.text(start + 2, cut, "the text of a piece"), score, PieceType.NORMAL)
    text, score, kind = "", 0.0, PieceType.NORMAL
    for number, wire, offset, payload, stop in reader.fields(start, end):
        if number == 1:
            reader.expect(wire, _BYTES, offset, "the text of a piece")
            text = reader.text(payload, stop, "the text of a piece")
        elif number == 2:
            reader.expect(wire, _FIXED32, offset, "the score of a piece")
            (score,) = struct.unpack_from("<f", reader.data, payload)
        elif number == 3:
            reader.expect(wire, _VARINT, offset, "the type of a piece")
            value = reader.varint(payload, stop)[0]
            if not PieceType.NORMAL <= value <= PieceType.BYTE:
                raise reader.fail(offset, f"piece type {value}", "a piece type from 1 to 6")
            kind = PieceType(value)
    if not text:
        raise reader.fail(start, "a piece without text", "a text of at least one character")
    return Piece(text, score, kind)


def _parse_trainer(reader: _Reader, start: int, end: int) -> TrainerSpec:
    values = reader.integers(start, end)
    model_type = values.get(3, ModelType.UNIGRAM)
    if not ModelType.UNIGRAM <= model_type <= ModelType.CHAR:
        raise reader.fail(start, f"model type {model_type} in the trainer spec", "a model type from 1 to 4")
    return TrainerSpec(
        model_type=ModelType(model_type),
        byte_fallback=bool(values.get(35, 0)),
        unk_id=values.get(40, 0),
        bos_id=values.get(41, 1),
        eos_id=values.get(42, 2),
        pad_id=values.get(43, -1),
    )


def _parse_normalizer(reader: _Reader, start: int, end: int) -> NormalizerSpec:
    name, charsmap = "", b""
    for number, wire, offset, payload, stop in reader.fields(start, end):
        if number == 1:
            reader.expect(wire, _BYTES, offset, "the normalizer name")
            name = reader.text(payload, stop, "the normalizer name")
        elif number == 2:
            reader.expect(wire, _BYTES, offset, "the precompiled charsmap")
            charsmap = reader.data[payload:stop]
    flags = reader.integers(start, end)
    return NormalizerSpec(
        name=name,
        precompiled_charsmap=charsmap,
        add_dummy_prefix=bool(flags.get(3, 1)),
        remove_extra_whitespaces=bool(flags.get(4, 1)),
        escape_whitespaces=bool(flags.get(5, 1)),
    )
