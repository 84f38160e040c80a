"""shrink_vocabulary: kept rows are the same bits, the corpus is written with the same tokens."""

import dataclasses

import pytest
import torch
import transformers
from families import FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from vocabulary_cases import (
    ALL_TEXTS,
    ENGLISH,
    FRENCH,
    KINDS,
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
from trocr.surgery.vocabulary import extend_vocabulary, shrink_vocabulary
from trocr.tokenizers import AddedToken, RobertaTokenizer, Tokenizer, load_tokenizer
from trocr.tokenizers.editing import edit

CORPUS = (ENGLISH[0], FRENCH[0], "naïve café 東京 ж")


def old_ids(old: Tokenizer, new: Tokenizer) -> list[int]:
    """The old id of each new one, by name."""
    names = [new.convert_ids_to_tokens(token_id) for token_id in range(len(new))]
    return [old.get_vocab()[name] for name in names]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_kept_rows_logits_and_tokens_are_the_same(family, kind):
    model, processor = make(family, kind)
    old, before = processor.tokenizer, rows(model)
    tokens = {text: old.tokenize(text) for text in CORPUS}
    ids = torch.tensor([ids_of(processor, CORPUS[0])[:12]])
    image = pixels(model, 1)
    scores = logits(model, image, ids)
    report = shrink_vocabulary(model, CORPUS, processor=processor)

    new = processor.tokenizer
    kept = old_ids(old, new)
    assert kept == sorted(kept)
    assert len(new) < len(old)
    for one, other in zip(before, rows(model), strict=True):
        assert torch.equal(one[kept], other)
    assert {text: new.tokenize(text) for text in CORPUS} == tokens
    renumbered = torch.tensor([ids_of(processor, CORPUS[0])[:12]])
    assert [[kept[i] for i in row] for row in renumbered.tolist()] == ids.tolist()
    assert torch.equal(logits(model, image, renumbered), scores[..., kept])
    assert report.numbers["carried_rows"] == report.numbers["rows_after"] == len(new)
    assert report.numbers["fertility_before"] == report.numbers["fertility_after"]
    assert {change.action for change in report.changes} == {"sliced"}
    for name in old.SPECIAL_TOKENS_ATTRIBUTES:
        assert getattr(new, name) == getattr(old, name)
    assert model.config.pad_token_id == new.pad_token_id


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_it_saves_generates_and_trains(family, kind, tmp_path):
    model, processor = make(family, kind)
    shrink_vocabulary(model, CORPUS, processor=processor)
    check_saved(model, processor, tmp_path, ALL_TEXTS)
    check_generation(model)
    check_training(model, processor, CORPUS[0])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@given(data=st.data())
def test_any_corpus_is_written_as_before(kind, data):
    old = tokenizer(kind)
    letters = st.sampled_from("theqbro winfxjm'.,-éàœжế東😀\u0301ßİ  12")
    words = st.sampled_from([*" ".join(ALL_TEXTS).split(), "thethethe", "東京都", "ﬁne", "xyzzy☃the"])
    corpus = data.draw(st.lists(st.text(letters, max_size=12) | words, min_size=1, max_size=6))
    editor = edit(old)
    edited = editor.subset(editor.basic_ids() | editor.needed_ids(corpus))
    for text in corpus:
        assert edited.tokenizer.tokenize(text) == old.tokenize(text)
        assert [edited.carried[i] for i in edit(edited.tokenizer).ids(text)] == editor.ids(text)


def test_any_text_can_still_be_written():
    model, processor = make()
    texts = [text for text in ALL_TEXTS if written_back(processor.tokenizer, text) == text]
    shrink_vocabulary(model, ["the"], processor=processor)
    assert len(processor.tokenizer) < 300
    assert len(texts) == len(ALL_TEXTS)
    for text in texts:
        assert written_back(processor.tokenizer, text) == text


def test_a_token_stays_with_the_tokens_that_it_is_merged_from():
    model, processor = make()
    shrink_vocabulary(model, ["x"], processor=processor, keep=["Ġwith", "'s", "hello"])
    names = processor.tokenizer.get_vocab()
    assert {"Ġwith", "ith", "'s", "ĠI"} & names.keys() == {"Ġwith", "ith", "'s"}
    assert processor.tokenizer.tokenize("x with x's") == ["x", "Ġwith", "Ġ", "x", "'s"]
    assert "Ġthe" not in names


def test_the_shipped_model_reads_what_it_read(repo):
    model = VisionEncoderDecoderModel.from_pretrained("tiny-printed")
    processor = TrOCRProcessor.from_pretrained("tiny-printed")
    lines = [line.split("\t") for line in (repo / "examples" / "labels.tsv").read_text("utf-8").splitlines()]
    opened = [Image.open(repo / "examples" / name).convert("RGB") for name, _ in lines[:3]]
    image = processor(opened, return_tensors="pt").pixel_values
    before = processor.batch_decode(model.generate(image), skip_special_tokens=True)
    report = shrink_vocabulary(model, before, processor=processor)
    assert processor.batch_decode(model.generate(image), skip_special_tokens=True) == before
    assert report.numbers["rows_before"] == 520
    assert report.numbers["rows_after"] < 330


def test_settings_follow_their_tokens(tmp_path):
    model, processor = make("sinusoidal")
    name = processor.tokenizer.convert_ids_to_tokens
    gone, kept = (processor.tokenizer.get_vocab()[token] for token in ("Ġwith", "Ġthe"))
    model.generation_config = model.generation_config.update(
        forced_eos_token_id=[2, kept],
        suppress_tokens=[kept, gone],
        begin_suppress_tokens=[gone],
        bad_words_ids=[[kept, 68], [kept, gone]],
        sequence_bias={(kept,): 2.0, (gone, kept): 1.0},
        decoder_start_token_id=2,
        max_new_tokens=9,
    )
    defaults = {"suppress_tokens": [kept], "max_length": 30}
    decoder = dataclasses.replace(model.config.decoder, generation_defaults=defaults, eos_token_id=(2, kept))
    model.config = dataclasses.replace(model.config, decoder=decoder, eos_token_id=(2, kept))
    report = shrink_vocabulary(model, ["on the road"], processor=processor)
    new = processor.tokenizer.get_vocab()[name(kept)]
    letter = processor.tokenizer.get_vocab()["a"]
    assert new != kept
    options = model.generation_config
    assert options.forced_eos_token_id == (2, new)
    assert options.suppress_tokens == (new,)
    assert options.begin_suppress_tokens is None
    assert options.bad_words_ids == ((new, letter),)
    assert options.sequence_bias == (((new,), 2.0),)
    assert (options.max_new_tokens, options.decoder_start_token_id) == (9, 2)
    assert model.config.eos_token_id == model.config.decoder.eos_token_id == (2, new)
    assert model.config.decoder.generation_defaults == {"suppress_tokens": (new,), "max_length": 30}
    (note,) = report.notes
    assert note.startswith("left out, because the token is gone: ")
    assert f"generation_config.suppress_tokens: {gone}" in note
    assert f"generation_config.bad_words_ids: [{kept}, {gone}]" in note
    assert "forced_eos_token_id" not in note
    model.save_pretrained(tmp_path)
    assert VisionEncoderDecoderModel.from_pretrained(tmp_path).generation_config == options


def test_tokens_that_the_model_needs_are_kept():
    model, processor = make("learned", "wordpiece")
    name = max(processor.tokenizer.get_vocab(), key=len)
    forced = processor.tokenizer.get_vocab()[name]
    model.generation_config = model.generation_config.update(forced_bos_token_id=forced)
    shrink_vocabulary(model, ["x"], processor=processor)
    assert processor.tokenizer.convert_ids_to_tokens(model.generation_config.forced_bos_token_id) == name


def test_positions_that_are_counted_from_the_padding_token_stay():
    plain = tokenizer("shipped")
    vocab = {token: token_id for token, token_id in plain._base.items() if token not in ("<pad>", "<mask>")}
    order = [*list(vocab)[:400], "<pad>", *list(vocab)[400:]]
    moved = RobertaTokenizer(order, plain._bpe.merges)
    model, processor = make("sinusoidal")
    embedding = model.config.decoder
    decoder = dataclasses.replace(embedding, pad_token_id=400, eos_token_id=1, decoder_start_token_id=1)
    config = dataclasses.replace(
        model.config, decoder=decoder, pad_token_id=400, eos_token_id=1, decoder_start_token_id=1
    )
    model = VisionEncoderDecoderModel(config).eval()
    processor.tokenizer = moved
    image = pixels(model, 1)
    ids = torch.tensor([ids_of(processor, "the box")])
    before = logits(model, image, ids)
    kept = shrink_vocabulary(model, ["the box"], processor=processor).numbers["rows_after"]
    assert 401 < kept < 420
    new = torch.tensor([ids_of(processor, "the box")])
    chosen = old_ids(moved, processor.tokenizer)
    assert torch.equal(logits(model, image, new), before[..., chosen])


def test_added_tokens_stay_where_they_are_used_or_special():
    model, processor = make(spare=5)
    processor.tokenizer.add_tokens(["ế", "ổ", AddedToken("<sep2>", special=True)])
    shrink_vocabulary(model, ["tiếng"], processor=processor)
    names = processor.tokenizer.get_vocab()
    assert {"ế", "<sep2>"} <= names.keys()
    assert "ổ" not in names
    assert processor.tokenizer.tokenize("tiếng<sep2>") == ["t", "i", "ế", "n", "g", "<sep2>"]
    assert (
        "<sep2>" in processor.tokenizer.all_special_tokens
        or processor.tokenizer.decode([names["<sep2>"]], skip_special_tokens=True) == ""
    )


def test_a_vocabulary_that_is_all_used_is_left():
    model, processor = make(spare=0)
    shrink_vocabulary(model, ["the"], processor=processor)
    before = rows(model)[0]
    tokens = processor.tokenizer
    report = shrink_vocabulary(model, ["the"], processor=processor)
    assert report.changes == ()
    assert report.notes == ("all tokens are needed",)
    assert processor.tokenizer is tokens
    assert torch.equal(rows(model)[0], before)


def test_extending_and_shrinking_again_gives_the_old_vocabulary_back(tmp_path):
    for kind in KINDS:
        model, processor = make("learned", kind, spare=0)
        old, before = processor.tokenizer, rows(model)
        extend_vocabulary(model, ["ế", "quickest"], processor=processor)
        keep = [name for name in old.get_vocab() if name in processor.tokenizer.get_vocab()]
        editor = edit(processor.tokenizer)
        ids = {processor.tokenizer.get_vocab()[name] for name in keep}
        back = editor.subset(ids).tokenizer
        assert back.get_vocab() == old.get_vocab()
        assert all(back.tokenize(text) == old.tokenize(text) for text in ALL_TEXTS)
        assert before[0].shape[0] == len(back)


def test_errors_leave_everything_as_it_was(tmp_path):
    model, processor = make("learned", "sentencepiece")
    for message, corpus in {
        "the corpus has no text": [],
        "nowhere.txt: the corpus cannot be read": tmp_path / "nowhere.txt",
        "the corpus holds None, expected texts": [None],
        "lone surrogate": ["a\ud800"],
    }.items():
        with refused(model, processor, message):
            shrink_vocabulary(model, corpus, processor=processor)
    with refused(model, processor, "keep: '☃' is no token of the vocabulary"):
        shrink_vocabulary(model, ["the"], processor=processor, keep=["☃"])
    with refused(model, processor, "keep is the string 'the'"):
        shrink_vocabulary(model, ["the"], processor=processor, keep="the")
    with refused(model, processor, "keep holds ''"):
        shrink_vocabulary(model, ["the"], processor=processor, keep=[""])
    beyond = len(processor.tokenizer) + 2
    model.generation_config = model.generation_config.update(forced_eos_token_id=beyond)
    with refused(
        model, processor, f"generation_config.forced_eos_token_id is {beyond}, an id without a token"
    ):
        shrink_vocabulary(model, ["the"], processor=processor)


def test_real_vocabularies_are_cut_as_transformers_cuts_them(reference, tmp_path):
    corpus = [*ALL_TEXTS, "Total $1,234.56 incl. 7% VAT", "Größe, Straße; naïve — ﬁnden ½ №"]
    for name in ("roberta-bpe", "trocr-small-printed"):
        old = load_tokenizer(reference / name)
        editor = edit(old)
        edited = editor.subset(editor.basic_ids() | editor.needed_ids(corpus))
        folder = tmp_path / name
        edited.tokenizer.save_pretrained(folder)
        judge = transformers.AutoTokenizer.from_pretrained(folder)
        assert len(edited.tokenizer) < len(old) / 20
        for text in corpus:
            ids = judge(text, add_special_tokens=False).input_ids
            assert [edited.carried[token_id] for token_id in ids] == editor.ids(text)
