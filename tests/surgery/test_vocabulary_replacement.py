"""replace_tokenizer: rows go by what tokens write, special tokens by their role."""

import dataclasses

import pytest
import torch
from families import FAMILIES
from vocabulary_cases import (
    ALL_TEXTS,
    ARABIC,
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

from trocr import BertTokenizer, RobertaTokenizer, TrOCRProcessor, VisionEncoderDecoderModel
from trocr.surgery.tokenizer_training import train_tokenizer
from trocr.surgery.vocabulary import replace_tokenizer
from trocr.tokenizers import XLMRobertaTokenizer, load_tokenizer

OTHERS = ("byte-bpe", "unigram", "wordpiece")


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_tokenizer_changes_no_bit(kind):
    model, processor = make("sinusoidal", kind, spare=0)
    before = rows(model)
    settings = model.config, model.generation_config
    report = replace_tokenizer(model, tokenizer(kind), processor=processor)
    assert all(torch.equal(one, other) for one, other in zip(before, rows(model), strict=True))
    assert (model.config, model.generation_config) == settings
    assert report.numbers["carried_rows"] == report.numbers["rows_before"] == report.numbers["rows_after"]
    assert report.numbers["composed_rows"] == report.numbers["new_rows"] == 0
    assert report.notes == ()


def test_ids_in_another_order_change_nothing_but_ids():
    """By index every row would be wrong."""
    model, processor = make(spare=0)
    old = processor.tokenizer
    names = sorted(old.get_vocab(), key=lambda name: hash_of(name))
    moved = RobertaTokenizer({name: place for place, name in enumerate(names)}, old._bpe.merges)
    image, texts = pixels(model, 1), ENGLISH[:1]
    ids = torch.tensor([ids_of(processor, texts[0])])
    before = logits(model, image, ids)
    report = replace_tokenizer(model, moved, processor=processor)
    new = torch.tensor([ids_of(processor, texts[0])])
    assert new.tolist() != ids.tolist()
    back = [old.get_vocab()[name] for name in names]
    assert torch.equal(logits(model, image, new), before[..., back])
    assert report.numbers["carried_rows"] == len(old)
    assert model.config.decoder_start_token_id == moved.eos_token_id
    assert model.generation_config.eos_token_id == model.config.eos_token_id == moved.eos_token_id
    assert model.config.pad_token_id == model.get_input_embeddings().padding_idx == moved.pad_token_id
    check_generation(model)


def hash_of(name: str) -> int:
    return sum(ord(letter) * 31**place for place, letter in enumerate(name)) % 1009


WRITES = {
    "byte-bpe": {"word start": "Ġthe", "inside": "he", "letter": "z"},
    "unigram": {"word start": "▁the", "inside": "he", "letter": "z"},
    "wordpiece": {"word start": "the", "inside": "##he", "letter": "##z"},
}


def of(kind: str) -> RobertaTokenizer | BertTokenizer:
    """A tokenizer that has all of `WRITES`."""
    return train_tokenizer([*ENGLISH, "he the he the aheahe"] * 9, kind=kind, vocab_size=300)


@pytest.mark.parametrize("source", OTHERS)
@pytest.mark.parametrize("target", OTHERS)
def test_tokens_with_the_same_text_are_one_in_all_families(source, target):
    model, processor = make("sinusoidal", spare=0)
    replace_tokenizer(model, of(source), processor=processor)
    before, old = rows(model), processor.tokenizer.get_vocab()
    report = replace_tokenizer(model, of(target), processor=processor)
    after, new = rows(model), processor.tokenizer.get_vocab()
    for case, name in WRITES[source].items():
        other = WRITES[target][case]
        if name in old and other in new:
            for one, table in zip(before, after, strict=True):
                assert torch.equal(one[old[name]], table[new[other]]), (name, other)
    assert sum(name in old for name in WRITES[source].values()) >= 2
    assert sum(name in new for name in WRITES[target].values()) >= 2
    carried = report.numbers["carried_rows"]
    assert carried + report.numbers["composed_rows"] + report.numbers["new_rows"] == len(processor.tokenizer)
    if source == target:
        assert carried == len(processor.tokenizer)


def test_tokens_that_are_not_there_are_means_of_pieces_or_drawn():
    model, processor = make("sinusoidal", "unigram")
    old, before = processor.tokenizer, rows(model)
    more = [*ENGLISH, *ARABIC, "other mother brother leather printed totals jumping quickly"]
    new = train_tokenizer(more * 4, kind="unigram", vocab_size=180)
    report = replace_tokenizer(model, new, processor=processor, seed=3)
    after = rows(model)
    composed = 0
    for name, token_id in new.get_vocab().items():
        if name in old.get_vocab() or name in new.all_special_tokens:
            continue
        text = name.replace("▁", " ")
        ids = [i for i in old(text, add_special_tokens=False).input_ids if i != old.unk_token_id]
        if not text.startswith(" "):
            continue
        if ids and old.unk_token_id not in old(text, add_special_tokens=False).input_ids:
            composed += 1
            for one, table in zip(before, after, strict=True):
                torch.testing.assert_close(table[token_id], one[ids].mean(0), rtol=0, atol=1e-6)
    assert composed >= 3
    assert report.numbers["new_rows"] >= 10
    letters = [new.get_vocab()[letter] for letter in "مكت"]
    drawn = after[0][letters]
    assert len({tuple(row.tolist()) for row in drawn}) == 3
    again, other = make("sinusoidal", "unigram")
    replace_tokenizer(again, new, processor=other, seed=3)
    assert torch.equal(rows(again)[0], after[0])


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_go_by_role(kind):
    model, processor = make("sinusoidal", kind)
    old, before = processor.tokenizer, rows(model)
    end = old.eos_token_id if old.eos_token_id is not None else old.sep_token_id
    for target in OTHERS:
        fresh, pair = make("sinusoidal", kind)
        new = tokenizer(target)
        replace_tokenizer(fresh, new, processor=pair)
        after = rows(fresh)
        new_end = new.eos_token_id if new.eos_token_id is not None else new.sep_token_id
        assert torch.equal(after[1][new_end], before[1][end])
        for role in ("pad_token_id", "unk_token_id", "mask_token_id", "cls_token_id"):
            assert torch.equal(after[1][getattr(new, role)], before[1][getattr(old, role)]), role
        assert fresh.config.decoder.pad_token_id == fresh.config.pad_token_id == new.pad_token_id
        assert fresh.config.eos_token_id == fresh.generation_config.eos_token_id == new_end
        start = new.eos_token_id if new.eos_token_id is not None else new.cls_token_id
        assert fresh.config.decoder_start_token_id == fresh.start_token_id == start
        assert fresh.generation_config.decoder_start_token_id == start
        # the decoder is started with what it was started with before
        assert torch.equal(after[0][start], before[0][model.config.decoder_start_token_id])


@pytest.mark.parametrize("target", OTHERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_it_saves_generates_and_trains(family, target, tmp_path):
    model, processor = make(family)
    report = replace_tokenizer(model, tokenizer(target), processor=processor, corpus=ENGLISH)
    check_saved(model, processor, tmp_path, ENGLISH + FRENCH)
    check_generation(model)
    check_training(model, processor, FRENCH[0])
    assert model.decoder.embed_tokens.padding_idx == processor.tokenizer.pad_token_id
    tied = model.config.decoder.tie_word_embeddings
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied
    positions = target == "wordpiece" and family == "sinusoidal"
    assert any("sinusoidal positions" in note for note in report.notes) == positions
    other = [note for note in report.notes if "texts start with '[CLS]' instead of '</s>'" in note]
    assert len(other) == (target == "wordpiece")
    assert all(("must be trained" in note) == tied for note in other)


@pytest.mark.parametrize("family", ["unilm", "sinusoidal"])
def test_a_model_that_gets_a_twin_of_its_vocabulary_in_another_family_goes_on_as_it_was(family):
    """The same pieces as WordPiece and as unigram: the decoder writes the same texts."""
    words = sorted({word for text in ENGLISH for word in text.split() if word.isalpha()})
    bert = BertTokenizer([*words, "[PAD]", "[SEP]", "[UNK]", "[MASK]", "[CLS]"], do_lower_case=False)
    pieces = [(f"▁{word}", -1.0) for word in words]
    spm = XLMRobertaTokenizer(
        [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces, ("<mask>", 0.0)]
    )
    model, processor = make(family, spare=0)
    replace_tokenizer(model, spm, processor=processor)
    image = pixels(model, 4)

    def read() -> list[str]:
        silent = sorted(set(processor.tokenizer.all_special_ids) - {model.config.eos_token_id})
        ids = model.generate(image, max_new_tokens=6, min_new_tokens=2, suppress_tokens=silent)
        return processor.batch_decode(ids, skip_special_tokens=True)

    before = read()
    report = replace_tokenizer(model, bert, processor=processor)
    assert read() == before
    assert all(before)
    assert report.numbers["carried_rows"] == len(bert)


def test_a_model_that_starts_in_its_own_way_goes_on_with_it():
    model, processor = make("sinusoidal")
    config = dataclasses.replace(
        model.config,
        decoder_start_token_id=0,
        decoder=dataclasses.replace(model.config.decoder, decoder_start_token_id=0),
    )
    model.config = config
    model.generation_config = model.generation_config.update(decoder_start_token_id=0)
    report = replace_tokenizer(model, tokenizer("wordpiece"), processor=processor)
    cls = processor.tokenizer.cls_token_id
    assert model.config.decoder_start_token_id == model.config.decoder.decoder_start_token_id == cls
    assert model.generation_config.decoder_start_token_id == cls
    assert not any("texts start" in note for note in report.notes)


def test_the_shipped_model_gets_a_real_vocabulary(reference):
    model = VisionEncoderDecoderModel.from_pretrained("tiny-printed")
    processor = TrOCRProcessor.from_pretrained("tiny-printed")
    old = processor.tokenizer
    before = rows(model)[0]
    large = load_tokenizer(reference / "roberta-bpe")
    report = replace_tokenizer(model, large, processor=processor, corpus=ENGLISH + FRENCH)
    after = rows(model)[0]
    same = [name for name in old.get_vocab() if name in large.get_vocab()]
    assert len(same) > 500
    for name in same:
        assert torch.equal(before[old.get_vocab()[name]], after[large.get_vocab()[name]]), name
    hello = large.get_vocab()["Ġhello"]
    pieces = old(" hello", add_special_tokens=False).input_ids
    torch.testing.assert_close(after[hello], before[pieces].mean(0), rtol=0, atol=1e-6)
    assert report.numbers["new_rows"] == 0
    assert report.numbers["fertility_after"] < 0.7 * report.numbers["fertility_before"]


def test_added_tokens_meet_pieces_of_the_same_text():
    model, processor = make("sinusoidal", spare=9)
    processor.tokenizer.add_tokens(["ế", "kg"])
    before, old = rows(model)[0], processor.tokenizer.get_vocab()
    new = train_tokenizer([*ENGLISH, "tiếng 5kg"] * 3, kind="unigram", vocab_size=90)
    replace_tokenizer(model, new, processor=processor)
    assert torch.equal(rows(model)[0][new.get_vocab()["ế"]], before[old["ế"]])


def test_lists_of_ids_follow_and_what_is_gone_is_told():
    model, processor = make()
    vocab = processor.tokenizer.get_vocab()
    model.generation_config = model.generation_config.update(
        suppress_tokens=[vocab["z"], vocab["Ġ--"]], forced_eos_token_id=2
    )
    new = tokenizer("unigram")
    report = replace_tokenizer(model, new, processor=processor)
    assert model.generation_config.suppress_tokens == (new.get_vocab()["z"],)
    assert model.generation_config.forced_eos_token_id == new.eos_token_id
    assert report.notes == (
        f"left out, because the token is gone: generation_config.suppress_tokens: {vocab['Ġ--']}",
    )


def test_a_directory_a_shipped_name_and_an_object_are_tokenizers_all(tmp_path):
    tokenizer("unigram").save_pretrained(tmp_path)
    for given in (tmp_path, str(tmp_path), tokenizer("unigram")):
        model, processor = make()
        replace_tokenizer(model, given, processor=processor)
        assert processor.tokenizer.get_vocab() == tokenizer("unigram").get_vocab()
        assert written_back(processor.tokenizer, FRENCH[0]) == FRENCH[0]
    replace_tokenizer(model, "tiny-printed", processor=processor)
    assert processor.tokenizer.get_vocab() == tokenizer("shipped").get_vocab()


def test_errors_leave_everything_as_it_was(tmp_path):
    model, processor = make()
    with refused(model, processor, "the new tokenizer cannot be loaded: there is no directory 'nowhere'"):
        replace_tokenizer(model, "nowhere", processor=processor)
    with refused(model, processor, "the new tokenizer cannot be loaded: .*no tokenizer files"):
        replace_tokenizer(model, tmp_path, processor=processor)
    with refused(model, processor, "the tokenizer is a builtins.dict, expected a RobertaTokenizer"):
        replace_tokenizer(model, {}, processor=processor)
    for name, said in {
        "pad_token": "no pad_token,",
        "eos_token": "no eos_token or sep_token",
        "bos_token": "no bos_token or cls_token",
    }.items():
        lacking = tokenizer("unigram")
        setattr(lacking, name, None)
        lacking.sep_token = None if name == "eos_token" else lacking.sep_token
        lacking.cls_token = None if name == "bos_token" else lacking.cls_token
        with refused(model, processor, said):
            replace_tokenizer(model, lacking, processor=processor)
    lacking = tokenizer("unigram")
    lacking.pad_token = "[nothing]"
    with refused(model, processor, "no pad_token,"):
        replace_tokenizer(model, lacking, processor=processor)
    with refused(model, processor, "the corpus has no text"):
        replace_tokenizer(model, tokenizer("unigram"), processor=processor, corpus=[])
    processor.tokenizer = tokenizer("byte-bpe")
    with refused(model, processor, "is not the model's: it has 300 ids"):
        replace_tokenizer(model, tokenizer("unigram"), processor=processor)


def test_all_texts_can_be_written_after_moving_to_bytes():
    model, processor = make("learned", "wordpiece")
    report = replace_tokenizer(model, tokenizer("shipped"), processor=processor, corpus=ALL_TEXTS)
    assert report.numbers["unknown_rate_before"] > 0.1
    assert report.numbers["unknown_rate_after"] == 0
    assert all(written_back(processor.tokenizer, text) == text for text in ALL_TEXTS)
