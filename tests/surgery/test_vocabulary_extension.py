"""extend_vocabulary: new rows are means of pieces, everything else is as it was."""

import dataclasses
from pathlib import Path

import pytest
import sentencepiece
import torch
import transformers
from families import FAMILIES
from torch import nn
from vocabulary_cases import (
    ALL_TEXTS,
    ENGLISH,
    FRENCH,
    KINDS,
    SPARE,
    VIETNAMESE,
    check_generation,
    check_saved,
    check_training,
    ids_of,
    logits,
    make,
    pixels,
    refused,
    rows,
    tokenizer,
    written_back,
)

from trocr import TrOCRProcessor, VisionEncoderDecoderModel
from trocr.surgery.patterns import SurgeryError
from trocr.surgery.vocabulary import extend_vocabulary
from trocr.tokenizers import RobertaTokenizer

LETTERS = ["é", "à", "ë", "ế", "ệ", "œ", "न", "م"]
"""Of two and three bytes; the first three are letters that stand for bytes in byte-level BPE."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_row_is_the_mean_of_its_pieces_and_others_stay(family, kind):
    model, processor = make(family, kind, spare=0)
    old = processor.tokenizer
    names = old.get_vocab()
    before = rows(model)
    space = "" if kind == "wordpiece" else " "
    words = [f"{space}{word}" for word in ("quicker", "printers", "xyz")]
    pieces = {word: ids_of(processor, word) for word in words}
    report = extend_vocabulary(model, words, processor=processor)

    after = rows(model)
    new = processor.tokenizer
    for name, token_id in names.items():
        moved = new.get_vocab()[name]
        for one, other in zip(before, after, strict=True):
            assert torch.equal(one[token_id], other[moved]), name
    for word in words:
        (found,) = ids_of(processor, word)
        assert found not in {new.get_vocab()[name] for name in names}
        for one, other in zip(before, after, strict=True):
            mean = one[pieces[word]].double().mean(0).to(one.dtype)
            torch.testing.assert_close(other[found], mean, rtol=0, atol=1e-6)
    added = len(new) - len(old)
    assert added == (6 if kind == "wordpiece" else 3)
    assert report.numbers["composed_rows"] == added
    assert report.numbers["rows_after"] == report.numbers["rows_before"] + added == len(new)
    assert model.config.decoder.vocab_size == len(new)
    tied = model.config.decoder.tie_word_embeddings
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied
    assert [change.name for change in report.changes] == [
        "decoder.embed_tokens.weight",
        *(() if tied else ("decoder.output_projection.weight",)),
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_it_saves_generates_and_trains(family, kind, tmp_path):
    model, processor = make(family, kind)
    extend_vocabulary(model, [*LETTERS, "quicker"], processor=processor)
    check_saved(model, processor, tmp_path, ALL_TEXTS)
    check_generation(model)
    check_training(model, processor, FRENCH[0])


@pytest.mark.parametrize("kind", KINDS)
def test_new_letters_are_one_token_wherever_they_stand_and_texts_come_back(kind):
    model, processor = make("learned", kind)
    old = processor.tokenizer
    texts = ["été", "à la", "tiếng Việt", "thé noël", "cœur", "नमन", "سلام", *ENGLISH]
    plain = [text for text in texts if written_back(old, text) == text]
    others = [text for text in texts if not any(letter in text for letter in LETTERS)]
    before = {text: old.tokenize(text) for text in others}
    extend_vocabulary(model, LETTERS, processor=processor)
    new = processor.tokenizer
    for letter in LETTERS:
        parts = [new.decode([token_id]) for token_id in ids_of(processor, f"x{letter}x")]
        assert sum(letter in part for part in parts) == 1, (letter, parts)
    for text in plain:
        assert written_back(new, text) == text
    if kind != "wordpiece":
        assert all(
            written_back(new, text) == text for text in ("été", "thé", "noël", "cœur", "tiếng", "à la")
        )
    assert len(others) >= 3
    assert {text: new.tokenize(text) for text in others} == before


def test_letters_that_stand_for_bytes_are_written_right_by_transformers_too(tmp_path):
    model, processor = make()
    texts = ["l'été à Noël", "Ã©", *FRENCH]
    extend_vocabulary(model, ["é", "à", "ë", "Ç", "À", "è"], processor=processor)
    assert processor.tokenizer.tokenize("à") == ["Ãł"]
    processor.save_pretrained(tmp_path)
    judge = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in texts:
        ids = judge(text, add_special_tokens=False).input_ids
        assert ids == ids_of(processor, text)
        assert judge.decode(ids) == written_back(processor.tokenizer, text) == text


def test_a_letter_within_a_sentencepiece_word_brings_no_space(tmp_path):
    model, processor = make("learned", "sentencepiece")
    extend_vocabulary(model, ["ế", "ệ"], processor=processor)
    assert "ế" in processor.tokenizer.tokenize("tiếng")
    assert written_back(processor.tokenizer, "tiếng") == "tiếng"
    processor.save_pretrained(tmp_path)
    judge = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "sentencepiece.bpe.model"))
    for text in ("tiếng Việt", "the quick café", "Noël ж"):
        assert judge.encode(text, out_type=str) == processor.tokenizer.tokenize(text)
        ids = [token_id + 1 if token_id >= 3 else 3 for token_id in judge.encode(text)]
        assert ids == ids_of(processor, text)


def test_spare_rows_are_used_first_and_the_rest_of_them_stays():
    model, processor = make(spare=3)
    before = rows(model)[0]
    size = len(processor.tokenizer)
    report = extend_vocabulary(model, ["ế", "ệ"], processor=processor)
    after = rows(model)[0]
    assert after.shape == before.shape
    assert report.numbers["rows_after"] == size + 3
    assert torch.equal(after[:size], before[:size])
    assert torch.equal(after[-1], before[-1])
    assert not torch.equal(after[size], before[size])
    extend_vocabulary(model, ["ữ", "ổ"], processor=processor)
    assert model.config.decoder.vocab_size == size + 4 == len(processor.tokenizer)


@pytest.mark.parametrize("family", ["learned", "sinusoidal"])
def test_old_logits_stay_bit_for_bit(family):
    model, processor = make(family)
    ids = torch.tensor([ids_of(processor, ENGLISH[0])[:10]])
    image = pixels(model, 1)
    before = logits(model, image, ids)
    extend_vocabulary(model, ["ế"] + [f"ế{i}" for i in range(8)], processor=processor)
    after = logits(model, image, ids)
    size = len(processor.tokenizer) - 9
    assert torch.equal(after[..., :size], before[..., :size])


def test_the_shipped_model_reads_as_before(repo):
    model = VisionEncoderDecoderModel.from_pretrained("tiny-printed")
    processor = TrOCRProcessor.from_pretrained("tiny-printed")
    image = processor(repo_image(repo), return_tensors="pt").pixel_values
    before = processor.batch_decode(model.generate(image), skip_special_tokens=True)
    report = extend_vocabulary(model, ["é", "ế"], processor=processor, corpus=FRENCH + VIETNAMESE)
    assert processor.batch_decode(model.generate(image), skip_special_tokens=True) == before
    assert len(before[0]) > 5
    assert report.numbers["fertility_after"] < report.numbers["fertility_before"]
    assert report.numbers["unknown_rate_before"] == report.numbers["unknown_rate_after"] == 0
    assert report.notes == ("ids that changed: <mask> 512 -> 513",)


def repo_image(repo: Path):
    from PIL import Image

    return Image.open(repo / "examples" / "heading.jpg").convert("RGB")


def test_unknown_letters_get_drawn_rows_by_seed():
    found = []
    for seed in (0, 0, 1):
        model, processor = make("sinusoidal", "sentencepiece")
        report = extend_vocabulary(model, ["ж", "ы"], processor=processor, seed=seed)
        assert report.numbers["new_rows"] == 2
        ids = [processor.tokenizer.get_vocab()[letter] for letter in ("ж", "ы")]
        found.append(torch.stack([table[ids] for table in rows(model)]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert not torch.equal(found[0][0, 0], found[0][0, 1])
    table = rows(model)[0]
    assert float(found[0][0].mean()) == pytest.approx(float(table.mean()), abs=0.5 * float(table.std()))
    assert 0.5 < float(found[0][0].std() / table.std()) < 1.5


def test_tokens_that_are_there_are_left_and_told():
    model, processor = make(spare=0)
    before = rows(model)[0]
    report = extend_vocabulary(model, [" the", "a", "ing", "</s>"], processor=processor)
    assert report.notes == ("there already: ' the', 'a', 'ing', '</s>'",)
    assert report.changes == ()
    assert report.numbers["rows_after"] == report.numbers["rows_before"]
    assert torch.equal(rows(model)[0], before)
    extend_vocabulary(model, ["é", "ế"], processor=processor)
    again = extend_vocabulary(model, ["é", "ế", "ổ"], processor=processor)
    assert again.notes[0] == "there already: 'é', 'ế'"
    assert again.numbers["composed_rows"] == 1


def test_frozen_half_precision_tables_stay_frozen_and_half():
    model, processor = make("unilm")
    model.bfloat16()
    model.get_input_embeddings().weight.requires_grad_(False)
    model.train()
    model.gradient_checkpointing_enable()
    before = rows(model)[0]
    extend_vocabulary(model, ["ế" * (i + 1) for i in range(9)], processor=processor)
    embedding, projection = model.get_input_embeddings(), model.get_output_embeddings()
    assert embedding.weight.dtype == projection.weight.dtype == torch.bfloat16
    assert not embedding.weight.requires_grad
    assert projection.weight.requires_grad
    assert model.training
    assert model.is_gradient_checkpointing
    assert torch.equal(rows(model)[0][:513], before[:513])
    assert embedding.padding_idx == 1


def test_a_fast_step_of_training_moves_new_rows_alone_where_only_they_are_used():
    model, processor = make("sinusoidal")
    extend_vocabulary(model, ["ế"], processor=processor)
    new = processor.tokenizer.get_vocab()["ế"]
    model(pixel_values=pixels(model, 1), labels=torch.tensor([[new, new, 2]])).loss.backward()
    gradient = model.get_input_embeddings().weight.grad
    assert set(gradient.abs().sum(1).nonzero().flatten().tolist()) == {2, new}


def test_errors_leave_everything_as_it_was(tmp_path):
    model, processor = make()
    cases = {
        "no token was given": [],
        "tokens is the string 'é', expected a list": "é",
        "a token is '', expected": ["é", ""],
        "a token is '  ', expected": ["  "],
        "a token is 3, expected": [3],
        "given twice: 'é'; give each token once": ["é", "x9", "é"],
        "token .* at 1 is a lone surrogate, which is no Unicode character": ["é", "a\ud800"],
        "'été'.*takes a token of such letters for bytes.*add é as": ["été"],
        "write the space as a space": ["Ġhello"],
    }
    for message, tokens in cases.items():
        with refused(model, processor, message):
            extend_vocabulary(model, tokens, processor=processor)
    with refused(model, processor, "nowhere.txt: the corpus cannot be read"):
        extend_vocabulary(model, ["é"], processor=processor, corpus=tmp_path / "nowhere.txt")
    with refused(model, processor, "the corpus has no text"):
        extend_vocabulary(model, ["é"], processor=processor, corpus=[" ", ""])
    (tmp_path / "latin1.txt").write_bytes("é".encode("latin-1"))
    with refused(model, processor, "latin1.txt: byte 0 is no UTF-8 text"):
        extend_vocabulary(model, ["é"], processor=processor, corpus=tmp_path / "latin1.txt")
    with refused(model, processor, "the corpus holds 7, expected texts"):
        extend_vocabulary(model, ["é"], processor=processor, corpus=["a", 7])
    with refused(model, processor, "the corpus is 7, expected the path of a text file"):
        extend_vocabulary(model, ["é"], processor=processor, corpus=7)
    with pytest.raises(SurgeryError, match="processor is a NoneType, expected the model's TrOCRProcessor"):
        extend_vocabulary(model, ["é"], processor=None)


@pytest.mark.parametrize(
    ("kind", "tokens", "message"),
    [
        ("sentencepiece", ["two words"], "SentencePiece cuts texts at spaces"),
        ("sentencepiece", ["ﬁ"], "normaliser makes 'fi' of it, so that it never occurs"),
        ("sentencepiece", [" xyz", "▁xyz"], "given twice, with a space and with the mark"),
        ("wordpiece", ["two words"], "WordPiece cuts texts there"),
        ("wordpiece", ["a.b"], "WordPiece cuts texts there"),
        ("wordpiece", ["a\u200eb"], "'ab'"),
    ],
)
def test_what_a_family_cannot_write_is_refused(kind, tokens, message):
    model, processor = make("learned", kind)
    with refused(model, processor, message):
        extend_vocabulary(model, tokens, processor=processor)


def test_a_space_before_every_stretch_refuses_added_tokens_but_not_merges(tmp_path):
    model, processor = make()
    tokenizer("shipped").save_pretrained(tmp_path)
    processor.tokenizer = RobertaTokenizer.from_pretrained(tmp_path, add_prefix_space=True)
    with refused(model, processor, "puts a space before every stretch of text"):
        extend_vocabulary(model, ["ế"], processor=processor)
    extend_vocabulary(model, ["é"], processor=processor)
    assert written_back(processor.tokenizer, "thé") == " thé"


def test_a_tokenizer_of_another_model_is_refused():
    model, processor = make()
    processor.tokenizer = tokenizer("byte-bpe")
    with refused(model, processor, "is not the model's: it has 300 ids, the model 520 rows"):
        extend_vocabulary(model, ["é"], processor=processor)
    processor.tokenizer = tokenizer("shipped")
    processor.tokenizer.pad_token = "a"
    with refused(model, processor, "it pads with 68, the model with 1"):
        extend_vocabulary(model, ["é"], processor=processor)
    processor.tokenizer = tokenizer("shipped")
    processor.tokenizer.add_tokens([f"<{i}>" for i in range(SPARE + 1)])
    with refused(model, processor, f"has {513 + SPARE + 1} ids, the model {513 + SPARE} rows"):
        extend_vocabulary(model, ["é"], processor=processor)
    processor.tokenizer = tokenizer("shipped")
    processor.tokenizer.eos_token = processor.tokenizer.sep_token = None
    with refused(model, processor, "it ends texts with None, the model with 2"):
        extend_vocabulary(model, ["é"], processor=processor)
    foreign = {"batch_decode": None, "get_vocab": dict, "added_tokens_decoder": {}}
    processor.tokenizer = type("Foreign", (), foreign)()
    with refused(model, processor, "Foreign, expected a RobertaTokenizer"):
        extend_vocabulary(model, ["é"], processor=processor)


def test_tables_that_the_configuration_does_not_describe_are_refused():
    model, processor = make("sinusoidal")

    class Adapted(nn.Linear):
        def __init__(self, old):
            super().__init__(old.in_features, old.out_features, bias=False)
            self.weight = old.weight
            self.lora_a = nn.Parameter(torch.zeros(2, old.in_features))

    plain = model.decoder.output_projection
    model.decoder.output_projection = Adapted(plain)
    with refused(model, processor, "expected plain ones.*remove adapters first"):
        extend_vocabulary(model, ["é"], processor=processor)
    model.decoder.output_projection = plain
    decoder = dataclasses.replace(model.config.decoder, vocab_size=600)
    model.config = dataclasses.replace(model.config, decoder=decoder)
    with refused(model, processor, "expected plain ones of 600 rows"):
        extend_vocabulary(model, ["é"], processor=processor)
