"""The writer of SentencePiece model files, against sentencepiece and its own schema."""

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2
from tiny_spm import RULES, train

from trocr.tokenizers.sentencepiece_model import Piece, PieceType, SentencePieceModel
from trocr.tokenizers.sentencepiece_writer import file_with_pieces, float32, unigram_file

PIECES = st.lists(
    st.tuples(st.text(min_size=1, max_size=200).filter(lambda text: text.isprintable()), st.floats(-99, 0)),
    max_size=12,
)


@given(pieces=PIECES)
def test_what_is_written_is_read_by_the_schema_and_by_us(pieces):
    data = unigram_file(pieces)
    judge = sentencepiece_model_pb2.ModelProto()
    judge.ParseFromString(data)
    model = SentencePieceModel.from_bytes(data)
    expected = [
        ("<unk>", 0.0, 2),
        ("<s>", 0.0, 3),
        ("</s>", 0.0, 3),
        *((text, float32(score), 1) for text, score in pieces),
    ]
    assert [(piece.piece, piece.score, piece.type) for piece in judge.pieces] == expected
    assert [(piece.text, piece.score, int(piece.type)) for piece in model.pieces] == expected
    trainer, normalizer = judge.trainer_spec, judge.normalizer_spec
    assert (trainer.model_type, trainer.vocab_size) == (1, len(expected))
    assert (trainer.unk_id, trainer.bos_id, trainer.eos_id, trainer.pad_id) == (0, 1, 2, -1)
    assert (normalizer.name, normalizer.precompiled_charsmap) == ("identity", b"")
    assert normalizer.add_dummy_prefix
    assert normalizer.escape_whitespaces


@pytest.mark.parametrize("rule", RULES)
def test_other_pieces_leave_the_settings_as_they_are(rule):
    model = SentencePieceModel.from_bytes(train(rule))
    same = file_with_pieces(model, model.pieces)
    assert SentencePieceModel.from_bytes(same).pieces == model.pieces
    pieces = [*model.pieces[:40], Piece("▁xyz", 0.0, PieceType.NORMAL), *model.pieces[60:]]
    data = file_with_pieces(model, pieces)
    before, after = (sentencepiece_model_pb2.ModelProto() for _ in range(2))
    before.ParseFromString(model.data)
    after.ParseFromString(data)
    assert after.trainer_spec == before.trainer_spec
    assert after.normalizer_spec == before.normalizer_spec
    judge = sentencepiece.SentencePieceProcessor(model_proto=data)
    assert judge.get_piece_size() == len(pieces)
    assert judge.encode("xyz", out_type=str) == ["▁xyz"]


def test_test_sentences_go_because_other_pieces_do_not_pass_them():
    data = train()
    sentences = b"\x22\x06\x0a\x04\x0a\x02ab"  # field 4 of old files: samples of texts and their pieces
    model = SentencePieceModel.from_bytes(data + sentences)
    assert model.settings() == SentencePieceModel.from_bytes(data).settings()
    assert data.endswith(model.settings())
