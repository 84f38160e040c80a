"""The reader of sentencepiece.bpe.model, against sentencepiece's own view of the same bytes."""

import random
import struct
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2
from tiny_spm import RULES, train

from trocr.tokenizers.errors import TokenizerError
from trocr.tokenizers.sentencepiece_model import ModelType, PieceType, SentencePieceModel


def field(number: int, payload: bytes) -> bytes:
    """A length-prefixed protobuf field (payloads below 128 bytes)."""
    return bytes([number << 3 | 2, len(payload)]) + payload


def piece(text: bytes, score: float = 0.0, kind: int | None = None) -> bytes:
    body = field(1, text) + b"\x15" + struct.pack("<f", score)
    return field(1, body + (b"" if kind is None else bytes([0x18, kind])))


SPECS = field(2, b"\x18\x01") + field(3, field(1, b"identity"))


def assert_same_as_schema(data: bytes) -> SentencePieceModel:
    """Every field we read equals what the generated protobuf classes read."""
    judge = sentencepiece_model_pb2.ModelProto()
    judge.ParseFromString(data)
    model = SentencePieceModel.from_bytes(data)
    assert [(p.text, p.score, int(p.type)) for p in model.pieces] == [
        (p.piece, p.score, p.type) for p in judge.pieces
    ]
    for name in ("model_type", "byte_fallback", "unk_id", "bos_id", "eos_id", "pad_id"):
        assert getattr(model.trainer, name) == getattr(judge.trainer_spec, name), name
    for name in (
        "name",
        "precompiled_charsmap",
        "add_dummy_prefix",
        "remove_extra_whitespaces",
        "escape_whitespaces",
    ):
        assert getattr(model.normalizer, name) == getattr(judge.normalizer_spec, name), name
    return model


@pytest.mark.parametrize("rule", RULES)
def test_trained_models_read_as_the_schema_reads_them(rule):
    model = assert_same_as_schema(train(rule))
    assert model.normalizer.name == rule
    assert len(model.pieces) > 200


def test_unusual_settings_are_read():
    model = assert_same_as_schema(
        train(
            pad_id=3,
            user_defined_symbols="<line>,☃",
            control_symbols="<ctrl>",
            byte_fallback=True,
            vocab_size=700,
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
        )
    )
    kinds = {p.text: p.type for p in model.pieces}
    assert (kinds["<unk>"], kinds["<ctrl>"], kinds["☃"], kinds["<0x41>"]) == (
        PieceType.UNKNOWN,
        PieceType.CONTROL,
        PieceType.USER_DEFINED,
        PieceType.BYTE,
    )
    assert model.trainer.pad_id == 3
    assert model.trainer.byte_fallback
    assert not model.normalizer.add_dummy_prefix
    bpe = assert_same_as_schema(train(model_type="bpe", vocab_size=300))
    assert bpe.trainer.model_type is ModelType.BPE


def test_a_file_is_read(tmp_path: Path):
    path = tmp_path / "sentencepiece.bpe.model"
    path.write_bytes(train())
    model = SentencePieceModel.from_file(path)
    judge = sentencepiece.SentencePieceProcessor(model_file=str(path))
    assert [p.text for p in model.pieces] == [judge.id_to_piece(i) for i in range(judge.get_piece_size())]
    with pytest.raises(
        TokenizerError, match=r"absent\.model: cannot read the SentencePiece model: No such file"
    ):
        SentencePieceModel.from_file(tmp_path / "absent.model")


def test_the_official_file_reads_as_the_schema_reads_it(reference: Path):
    data = (reference / "trocr-small-printed" / "sentencepiece.bpe.model").read_bytes()
    model = assert_same_as_schema(data)
    assert len(model.pieces) == 64_000
    assert len(model.normalizer.precompiled_charsmap) == 237_539


def test_every_truncation_is_an_error_with_file_and_offset():
    data = train("identity", vocab_size=120)
    assert SentencePieceModel.from_bytes(data)
    for size in range(len(data)):
        with pytest.raises(TokenizerError) as caught:
            SentencePieceModel.from_bytes(data[:size], source="some.model")
        message = str(caught.value)
        assert message.startswith("some.model: not a valid SentencePiece model: at byte "), message
        assert f" of {size} found " in message, message
        assert ", expected " in message, message
        assert message.endswith("truncated or corrupt, fetch it again"), message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"byte 0 of 0 found the end without a single piece, expected a model with a vocabulary"),
        (SPECS, r"found the end without a single piece"),
        (piece(b"a"), r"byte 10 of 10 found the end after 1 pieces, expected the trainer spec"),
        (
            piece(b"a") + field(2, b""),
            r"byte 12 of 12 found the end after 1 pieces, expected the normalizer spec",
        ),
        (
            b"\x08\x01" + SPECS,
            r"byte 0 of 18 found a piece as varint, expected a piece as length-prefixed bytes",
        ),
        (b"\x0a\x05ab", r"byte 0 of 4 found a field of 5 bytes, expected at most 2 bytes left"),
        (
            piece(b"a\xff") + SPECS,
            r"byte 5 of 27 found byte 0xff in the text of a piece, expected UTF-8 text",
        ),
        (piece(b"a", kind=9) + SPECS, r"found piece type 9, expected a piece type from 1 to 6"),
        (field(1, b""), r"byte 2 of 2 found a piece without text"),
        (piece(b"") + SPECS, r"found a piece without text, expected a text of at least one character"),
        (field(1, field(1, b"a") + b"\x10\x05") + SPECS, r"the score of a piece as varint, .* as 4 bytes"),
        (field(1, b"\x08\x01") + SPECS, r"found the text of a piece as varint"),
        (piece(b"a") + field(2, b"\x18\x09"), r"found model type 9 in the trainer spec, .* from 1 to 4"),
        (b"\x0b\x00", r"byte 0 of 2 found wire type 3, expected one of 0, 1, 2, 5"),
        (b"\x02\x00", r"byte 0 of 2 found field number 0, expected a field number of at least 1"),
        (b"\x0a" + b"\xff" * 12, r"found an integer longer than 10 bytes, expected at most 10 bytes"),
        (b"PK\x03\x04 a zip file", r"byte 2 of 15 found wire type 3"),
        (b'{"version": "1.0"}', r"found wire type 3"),
    ],
)
def test_damage_is_named(data: bytes, message: str):
    with pytest.raises(TokenizerError, match=message):
        SentencePieceModel.from_bytes(data)


def test_pieces_of_any_length_and_field_order():
    def read(body: bytes) -> tuple[str, float, PieceType]:
        header = b"\x0a" + (
            bytes([len(body)]) if len(body) < 128 else bytes([len(body) & 127 | 128, len(body) >> 7])
        )
        (found,) = SentencePieceModel.from_bytes(header + body + SPECS).pieces
        return found

    score = b"\x15" + struct.pack("<f", -1.5)
    for length in (1, 2, 100, 127):
        assert read(field(1, b"a" * length) + score) == ("a" * length, -1.5, PieceType.NORMAL)
        assert read(score + field(1, b"a" * length)) == ("a" * length, -1.5, PieceType.NORMAL)
        assert read(field(1, b"a" * length) + score + b"\x18\x04") == (
            "a" * length,
            -1.5,
            PieceType.USER_DEFINED,
        )
    assert read(b"\x0a\xac\x02" + b"b" * 300 + score) == ("b" * 300, -1.5, PieceType.NORMAL)
    assert read(field(1, b"a" * 5)) == ("aaaaa", 0.0, PieceType.NORMAL)


def test_unknown_fields_and_defaults():
    extra = (
        b"\x22\x00" + b"\x3d\x00\x00\x00\x00" + b"\x41" + b"\x00" * 8 + b"\x48\x96\x01"
    )  # fields 4, 7, 8, 9
    model = SentencePieceModel.from_bytes(extra + field(1, field(1, "▁é".encode())) + SPECS + extra)
    assert model.pieces == (("▁é", 0.0, PieceType.NORMAL),)
    assert (model.trainer.unk_id, model.trainer.pad_id, model.normalizer.add_dummy_prefix) == (0, -1, True)


@given(st.binary(max_size=200), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_damaged_bytes_never_raise_anything_else(noise: bytes, seed: int):
    data = bytearray(train("identity", vocab_size=120))
    rng = random.Random(seed)
    for _ in range(rng.randint(1, 5)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    for damaged in (bytes(data), noise):
        try:
            outcome = str(SentencePieceModel.from_bytes(damaged).pieces[0].text)
        except TokenizerError as error:
            outcome = str(error)
        assert outcome
