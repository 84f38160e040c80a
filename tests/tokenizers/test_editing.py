"""Editors of vocabularies: what tokens write, pieces, and edited tokenizers against their judges."""

import random

import pytest
import transformers
from corpus import SENTENCES, corpus
from judge import assert_same
from tiny_spm import train

from trocr.tokenizers import AddedToken, BertTokenizer, RobertaTokenizer, TokenizerError, XLMRobertaTokenizer
from trocr.tokenizers import load_tokenizer as load
from trocr.tokenizers.editing import Editor, TokenText, edit
from trocr.tokenizers.sentencepiece_model import SentencePieceModel

KINDS = ("byte-level", "unigram", "wordpiece")


@pytest.fixture(scope="module")
def editors(tiny_dir, small_bert_vocab) -> dict[str, Editor]:
    return {
        "byte-level": edit(load(tiny_dir)),
        "unigram": edit(XLMRobertaTokenizer(SentencePieceModel.from_bytes(train()))),
        "wordpiece": edit(BertTokenizer(small_bert_vocab, do_lower_case=False)),
    }


def test_what_a_token_writes_is_the_same_in_all_families(tiny_dir):
    byte = edit(load(tiny_dir))
    spm = edit(
        XLMRobertaTokenizer(
            [(t, 0.0) for t in ("<s>", "<pad>", "</s>", "<unk>", "▁the", "ing", "▁", "<mask>")]
        )
    )
    bert = edit(BertTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "##ing", ".", "東", "[MASK]"]))
    found = {}
    for editor, names in (
        (byte, {"Ġthe": "the", "ing": "ing", "Ġ": " ", ".": "."}),
        (spm, {"▁the": "the", "ing": "ing", "▁": " "}),
        (bert, {"the": "the", "##ing": "ing", ".": "."}),
    ):
        texts = editor.token_texts()
        for name, case in names.items():
            found.setdefault(case, set()).add(texts[editor.tokenizer.get_vocab()[name]])
    assert found == {
        "the": {TokenText(True, b"the")},
        "ing": {TokenText(False, b"ing")},
        " ": {TokenText(True, b"")},
        ".": {TokenText(False, b".")},
    }
    assert bert.token_texts()[7] == TokenText(False, "東".encode())
    assert not {0, 1, 2, 3} & bert.token_texts().keys()
    half = byte.token_texts()[byte.tokenizer.get_vocab()["Ã"]]
    assert half == TokenText(False, b"\xc3")
    assert half.decoded() is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_is_its_own_piece(kind, editors):
    editor = editors[kind]
    texts = editor.token_texts()
    wrong = []
    for token_id, text in texts.items():
        pieces = editor.pieces(text)
        if pieces != [token_id]:
            wrong.append((editor.tokenizer.convert_ids_to_tokens(token_id), pieces))
    # unigram may prefer other cuts; byte-level and WordPiece have tokens that are never reached
    assert len(wrong) < 0.15 * len(texts), wrong[:20]


def test_pieces_of_words_inside_and_at_the_start(editors):
    names = {
        kind: [
            editor.tokenizer.convert_ids_to_tokens(editor.pieces(TokenText(starts, b"the")))
            for starts in (True, False)
        ]
        for kind, editor in editors.items()
    }
    assert names["byte-level"] == [["Ġthe"], ["t", "he"]]
    assert names["unigram"][0] == ["▁the"]
    assert "".join(names["unigram"][1]) == "the"
    assert "".join(names["wordpiece"][0]).replace("##", "") == "the"


def test_what_cannot_be_written_whole_has_no_pieces(editors):
    for kind in ("unigram", "wordpiece"):
        for text in ("🦜".encode(), "the🦜".encode(), b"\xe2\x98"):
            assert editors[kind].pieces(TokenText(True, text)) == []
            assert editors[kind].pieces(TokenText(False, text)) == []
    byte = editors["byte-level"]
    assert len(byte.pieces(TokenText(False, "🦜ж".encode()))) == 6
    letters = [byte.tokenizer.get_vocab()[letter] for letter in "âĺ"]
    assert byte.pieces(TokenText(False, b"\xe2\x98")) == letters


@pytest.mark.parametrize("kind", KINDS)
def test_edited_tokenizers_agree_with_transformers_on_strange_texts(kind, editors, tmp_path):
    editor = editors[kind]
    rng = random.Random(3)
    some = rng.sample(corpus(), 80)
    texts = [*SENTENCES, *some]
    cut = editor.subset(editor.basic_ids() | editor.needed_ids(SENTENCES[:6]))
    letters = ["é", "ß", "ế", "ж", "ك", "न", "xyz"]
    grown = edit(cut.tokenizer).extended(letters)
    for name, edited in (("cut", cut), ("grown", grown)):
        edited.tokenizer.save_pretrained(tmp_path / name)
        judge = transformers.AutoTokenizer.from_pretrained(tmp_path / name)
        assert_same(edited.tokenizer, judge, texts)
        assert_same(type(edited.tokenizer).from_pretrained(tmp_path / name), judge, texts)
    for text in SENTENCES[:6]:
        assert cut.tokenizer.tokenize(text) == editor.tokenizer.tokenize(text)


def test_a_longer_token_with_the_letter_stays(tiny_dir):
    plain = load(tiny_dir)
    vocab = dict(plain._base)
    for token in ("ĠÃ", "ĠÃĸ"):
        vocab[token] = len(vocab)
    old = RobertaTokenizer(vocab, [*plain._bpe.merges, ("Ġ", "Ã"), ("ĠÃ", "ĸ")])
    assert old.tokenize("x Öl xÖ à") == ["x", "ĠÃĸ", "l", "Ġ", "x", "Ã", "ĸ", "ĠÃ", "ł"]
    new = edit(old).extended(["Ö"]).tokenizer
    assert new.tokenize("x Öl xÖ à") == ["x", "ĠÃĸ", "l", "Ġ", "x", "Ãĸ", "ĠÃ", "ł"]
    again = edit(new)
    cut = again.subset(again.basic_ids() | again.needed_ids([" Öl"])).tokenizer
    assert cut.tokenize("x Öl xÖ") == ["x", "ĠÃĸ", "l", "Ġ", "x", "Ãĸ"]


def test_settings_and_special_tokens_stay(tiny_dir, tmp_path):
    load(tiny_dir).save_pretrained(tmp_path)
    old = RobertaTokenizer.from_pretrained(
        tmp_path,
        model_max_length=77,
        padding_side="left",
        errors="ignore",
        extra_special_tokens=["<line>"],
        mask_token=AddedToken("<mask>", lstrip=True),
    )
    old.add_tokens(AddedToken("kg", single_word=True, rstrip=True))
    editor = edit(old)
    needed = editor.basic_ids() | editor.needed_ids(["5 kg x"])
    before = old.get_vocab()
    for edited in (editor.subset(needed), editor.extended(["é"])):
        new = edited.tokenizer
        assert (new.model_max_length, new.padding_side, new.errors) == (77, "left", "ignore")
        assert new.all_special_tokens == old.all_special_tokens
        flags = {token.content: token for token in old.added_tokens_decoder.values()}
        assert {token.content: token for token in new.added_tokens_decoder.values()} == flags
        text = "5 kg x<line> <mask>kgs"
        assert new.tokenize(text)[-4:] == old.tokenize(text)[-4:]
        ids = {name: edited.carried[token_id] for name, token_id in new.added_tokens_encoder.items()}
        assert ids == old.added_tokens_encoder
    assert old.get_vocab() == before


def test_only_our_tokenizers_have_an_editor():
    with pytest.raises(TokenizerError, match=r"a builtins.str, expected a RobertaTokenizer"):
        edit("tiny")
