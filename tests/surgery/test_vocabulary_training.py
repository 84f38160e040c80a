"""train_tokenizer: what `tokenizers` learned, in our classes, agrees with it and with `transformers`."""

import json
import re

import pytest
import sentencepiece
import torch
import transformers
from vocabulary_cases import (
    ALL_TEXTS,
    ARABIC,
    ENGLISH,
    FRENCH,
    HINDI,
    VIETNAMESE,
    check_training,
    make,
    pixels,
    rows,
    written_back,
)

from trocr import BertTokenizer, RobertaTokenizer
from trocr.surgery import tokenizer_training
from trocr.surgery.patterns import SurgeryError
from trocr.surgery.tokenizer_training import train_tokenizer
from trocr.surgery.vocabulary import replace_tokenizer
from trocr.tokenizers import XLMRobertaTokenizer

CLASSES = {"byte-bpe": RobertaTokenizer, "unigram": XLMRobertaTokenizer, "wordpiece": BertTokenizer}
LANGUAGES = {"Arabic": ARABIC, "Hindi": HINDI, "Vietnamese": VIETNAMESE, "all": ALL_TEXTS}


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("language", LANGUAGES)
def test_it_agrees_with_what_was_learned_and_with_transformers(kind, language, tmp_path, monkeypatch):
    texts = LANGUAGES[language]
    backends = []
    learned = tokenizer_training._learned

    def watched(backend, *args):
        backends.append(backend)
        return learned(backend, *args)

    monkeypatch.setattr(tokenizer_training, "_learned", watched)
    ours = train_tokenizer(texts, kind=kind, vocab_size=400)
    assert type(ours) is CLASSES[kind]
    (backend,) = backends
    backend.encode_special_tokens = True  # letters stand among its special tokens
    for text in (*texts, "the  end"):
        assert ours.tokenize(text) == backend.encode(text, add_special_tokens=False).tokens, text

    ours.save_pretrained(tmp_path)
    judge = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in (*texts, *ALL_TEXTS, "  a\tb ☃ <s> "):
        assert judge(text).input_ids == ours(text).input_ids, text
        ids = ours(text).input_ids
        assert judge.decode(ids, skip_special_tokens=True) == ours.decode(ids, skip_special_tokens=True)
    assert CLASSES[kind].from_pretrained(tmp_path).get_vocab() == ours.get_vocab()
    if kind != "wordpiece":
        assert [written_back(ours, text) for text in texts] == list(texts)


@pytest.mark.parametrize("kind", ["byte-bpe", "unigram"])
def test_ids_are_those_of_the_family(kind):
    found = train_tokenizer(ALL_TEXTS * 2, kind=kind, vocab_size=350)
    assert [found.convert_ids_to_tokens(i) for i in range(4)] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert found.mask_token_id == len(found) - 1
    assert sorted(found.get_vocab().values()) == list(range(len(found)))
    assert found("x").input_ids[0] == 0
    assert found("x").input_ids[-1] == 2
    assert 100 < len(found) <= 350
    assert kind == "unigram" or len(found) == 350


def test_the_model_file_of_a_unigram_vocabulary_is_one_of_sentencepiece(tmp_path):
    ours = train_tokenizer(ALL_TEXTS, kind="unigram", vocab_size=300)
    ours.save_pretrained(tmp_path)
    judge = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "sentencepiece.bpe.model"))
    assert judge.get_piece_size() == len(ours) - 2  # <pad> and <mask> are fairseq's
    for text in (*ALL_TEXTS, "ж the"):
        assert judge.encode(text, out_type=str) == ours.tokenize(text)
    (tmp_path / "tokenizer.json").unlink()
    assert XLMRobertaTokenizer.from_pretrained(tmp_path).get_vocab() == ours.get_vocab()


@pytest.mark.parametrize("kind", CLASSES)
def test_it_is_the_same_each_time(kind):
    one, other = (train_tokenizer(ALL_TEXTS, kind=kind, vocab_size=330) for _ in range(2))
    assert one.get_vocab() == other.get_vocab()
    assert [one.tokenize(text) for text in ALL_TEXTS] == [other.tokenize(text) for text in ALL_TEXTS]


def test_more_tokens_make_texts_shorter_and_frequency_bounds_them():
    counts = [
        sum(len(train_tokenizer(HINDI * 3, vocab_size=size).tokenize(text)) for text in HINDI)
        for size in (261, 280, 320)
    ]
    assert counts[0] == sum(len(text.encode()) for text in HINDI)
    assert counts[0] > counts[1] > counts[2]
    assert len(train_tokenizer(ENGLISH, vocab_size=1000, min_frequency=50)) == 261
    assert len(train_tokenizer(ENGLISH, vocab_size=1000, min_frequency=2)) > 270


def test_a_corpus_may_be_files(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeff" + "\r\n".join(FRENCH) + "\n\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("\n".join(HINDI), encoding="utf-8")
    texts = train_tokenizer([*FRENCH, *HINDI], vocab_size=300)
    files = train_tokenizer([tmp_path / "a.txt", tmp_path / "b.txt"], vocab_size=300)
    assert texts.get_vocab() == files.get_vocab()
    one = train_tokenizer(str(tmp_path / "b.txt"), vocab_size=300)
    assert one.get_vocab() == train_tokenizer(iter(HINDI), vocab_size=300).get_vocab()


@pytest.mark.parametrize(
    ("language", "kind"), [("Arabic", "unigram"), ("Hindi", "byte-bpe"), ("Vietnamese", "unigram")]
)
def test_a_latin_model_becomes_a_start_for_another_language(language, kind):
    texts = LANGUAGES[language]
    model, processor = make("learned")
    before = rows(model)[0]
    old = processor.tokenizer
    new = train_tokenizer([*texts, *ENGLISH], kind=kind, vocab_size=320)
    report = replace_tokenizer(model, new, processor=processor, corpus=texts)
    numbers = report.numbers
    assert numbers["fertility_after"] < numbers["fertility_before"]
    assert numbers["unknown_rate_after"] == 0
    assert numbers["carried_rows"] >= 25
    assert numbers["carried_rows"] + numbers["composed_rows"] == numbers["rows_after"] == len(new)
    space = "Ġ" if kind == "byte-bpe" else "▁"
    assert torch.equal(rows(model)[0][new.get_vocab()[f"{space}the"]], before[old.get_vocab()["Ġthe"]])
    check_training(model, processor, texts[0])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    ids = [*processor.tokenizer(texts[0], add_special_tokens=False).input_ids[:8], 2]
    losses = []
    for _ in range(12):
        loss = model(pixel_values=pixels(model, 1), labels=torch.tensor([ids])).loss
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


def test_errors_say_what_is_wrong(tmp_path):
    cases = {
        "kind 'bpe' is unknown, expected one of byte-bpe, unigram, wordpiece": {"kind": "bpe"},
        "vocab_size is 260, expected 261 or more, for the 256 bytes": {"vocab_size": 260},
        "vocab_size is 20, expected [0-9]+ or more, for the [0-9]+ characters": {
            "vocab_size": 20,
            "kind": "unigram",
        },
        "vocab_size is 20, expected [0-9]+ or more, for the letters": {"vocab_size": 20, "kind": "wordpiece"},
        "vocab_size is 300.0, expected a whole number": {"vocab_size": 300.0},
        "min_frequency is 0, expected a whole number, 1 or more": {"min_frequency": 0},
    }
    for message, options in cases.items():
        with pytest.raises(SurgeryError, match=message):
            train_tokenizer(ENGLISH, **{"vocab_size": 300, **options})
    for message, corpus in {
        "the corpus has no text": ["", "  "],
        "nowhere.txt: the corpus cannot be read": tmp_path / "nowhere.txt",
        "the corpus holds 5": [5],
        "the corpus: .* at 1 is a lone surrogate": ["a\ud800b"] * 3,
    }.items():
        for kind in ("byte-bpe", "unigram", "wordpiece"):
            with pytest.raises(SurgeryError, match=message):
                train_tokenizer(corpus, vocab_size=300, kind=kind)


def test_the_smallest_vocabulary_that_is_named_is_enough():
    for kind in ("unigram", "wordpiece"):
        with pytest.raises(SurgeryError) as error:
            train_tokenizer(ENGLISH, kind=kind, vocab_size=1)
        least = int(re.search(r"expected (\d+) or more", str(error.value)).group(1))
        found = train_tokenizer(ENGLISH, kind=kind, vocab_size=least)
        assert len(found) == least
        assert found.unk_token not in found.tokenize(" ".join(ENGLISH))


def test_special_tokens_of_a_text_are_found_in_saved_files(tmp_path):
    train_tokenizer(ENGLISH, vocab_size=300).save_pretrained(tmp_path)
    document = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    assert [token["content"] for token in document["added_tokens"]][:2] == ["<s>", "<pad>"]
