"""XLM-R's tokenizer on small models trained here: files, options, errors; transformers is the judge."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from corpus import corpus
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_spm import RULES, sentences, train
from tokenizers import Tokenizer as Rust
from transformers import XLMRobertaTokenizer as Judge

from trocr.tokenizers import AddedToken, TokenizerError, XLMRobertaTokenizer, load_tokenizer

MODEL = "sentencepiece.bpe.model"
VOCAB = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁a", -1.0), ("b", -2.0), ("▁", -3.0)]
VOCAB += [("a", -2.5), ("▁b", -1.5), ("<mask>", 0.0)]


def directory(path: Path, model: bytes, **config: Any) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / MODEL).write_bytes(model)
    settings = {"tokenizer_class": "XLMRobertaTokenizer", **config}
    (path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return path


def change(path: Path, **sections: Any) -> None:
    """Replace sections of a tokenizer.json; a dict is merged into the section."""
    document = json.loads((path / "tokenizer.json").read_text("utf-8"))
    for name, value in sections.items():
        merge = isinstance(value, dict) and isinstance(document[name], dict)
        document[name] = {**document[name], **value} if merge else value
    (path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return directory(tmp_path_factory.mktemp("tiny"), train())


@pytest.fixture(scope="module")
def ours(tiny) -> XLMRobertaTokenizer:
    return XLMRobertaTokenizer.from_pretrained(tiny)


@pytest.fixture(scope="module")
def judge(tiny) -> Judge:
    return Judge.from_pretrained(tiny)


@pytest.mark.parametrize("rule", RULES)
def test_models_with_other_normalizers_as_both_judges(rule, tmp_path):
    """transformers on the model file, tokenizers on the tokenizer.json that we write."""
    path = directory(tmp_path / rule, train(rule))
    ours, judge = XLMRobertaTokenizer.from_pretrained(path), Judge.from_pretrained(path)
    ours.save_pretrained(tmp_path / "saved")
    rust = Rust.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    texts = corpus(2000, seed=RULES.index(rule)) + sentences(50, seed=3)
    found = ours(texts)["input_ids"]
    assert found == judge(texts)["input_ids"]
    assert found == [encoding.ids for encoding in rust.encode_batch(texts)]
    assert ours.batch_decode(found, True) == rust.decode_batch(found, skip_special_tokens=True)


def test_ids_are_those_of_sentencepiece_plus_one(ours):
    plain = sentencepiece.SentencePieceProcessor(model_proto=train())
    for line in sentences(200, seed=11):
        expected = [piece + 1 if piece else 3 for piece in plain.encode(line)]
        assert ours(line)["input_ids"] == [0, *expected, 2]
        assert ours(line, add_special_tokens=False)["input_ids"] == expected


@given(st.text(max_size=25), st.text(max_size=10))
@settings(max_examples=200, deadline=None)
def test_any_text_as_the_judge(ours, judge, first, second):
    first, second = (text.encode("utf-8", "ignore").decode() for text in (first, second))
    found = ours(first, second or None)["input_ids"]
    assert found == judge(first, second or None)["input_ids"]
    assert ours.decode(found) == judge.decode(found)


@given(st.lists(st.integers(0, 401 + 60), max_size=12), st.booleans())
@settings(max_examples=200, deadline=None)
def test_any_ids_decode_as_the_judge(ours, judge, ids, skip):
    assert ours.decode(ids, skip_special_tokens=skip) == judge.decode(ids, skip_special_tokens=skip)


@given(st.lists(st.sampled_from(["fox", "quick", "naïve", "東京", "9999", "мир", "brown"]), max_size=8))
def test_known_text_survives(ours, words):
    text = " ".join(words)
    assert ours.decode(ours(text)["input_ids"], skip_special_tokens=True) == text


@pytest.mark.parametrize(
    ("text", "tokens", "decoded"),
    [
        ("", [], ""),
        (" \u3000\t\n", [], ""),
        ("a", ["▁a"], "a"),
        ("  ab ", ["▁a", "b"], "ab"),
        ("ab☃☄b", ["▁a", "b", "☃☄", "b"], "ab<unk>b"),
        ("☃", ["▁", "☃"], "<unk>"),
        ("▁▁a▁b", ["▁", "▁a", "▁b"], " a b"),
        ("a\x1cb", ["▁a", "\x1c", "b"], "a<unk>b"),  # a separator that is no White_Space
        ("a\x85b", ["▁a", "▁b"], "a b"),
        ("<mask>a", ["<mask>", "▁a"], "<mask> a"),
        ("<s>", ["<s>"], "<s>"),
    ],
)
def test_words_and_spaces(text, tokens, decoded):
    ours, judge = XLMRobertaTokenizer(VOCAB), Judge(vocab=VOCAB)
    assert ours.tokenize(text) == judge.tokenize(text) == tokens
    ids = ours.encode(text, add_special_tokens=False)
    assert ours.decode(ids) == judge.decode(ids) == decoded


def test_pairs_take_two_separators():
    ours = XLMRobertaTokenizer(VOCAB)
    assert ours("a", "b")["input_ids"] == [0, 4, 2, 2, 8, 2]
    assert ours("a", "b", return_token_type_ids=True)["token_type_ids"] == [0] * 6
    assert Judge(vocab=VOCAB)("a", "b")["input_ids"] == [0, 4, 2, 2, 8, 2]


def test_without_a_prefix_space(tmp_path):
    ours, judge = (
        XLMRobertaTokenizer(VOCAB, add_prefix_space=False),
        Judge(vocab=VOCAB, add_prefix_space=False),
    )
    for text in ("ab a b", "▁a▁", "<mask> ab"):
        ids = ours(text)["input_ids"]
        assert ids == judge(text)["input_ids"]
        assert ours.decode(ids) == judge.decode(ids)
    ours.save_pretrained(tmp_path)
    assert not XLMRobertaTokenizer.from_pretrained(tmp_path).add_prefix_space
    assert Judge.from_pretrained(tmp_path)("ab a b")["input_ids"] == ours("ab a b")["input_ids"]


def test_without_a_vocabulary():
    ours, judge = XLMRobertaTokenizer(), Judge()
    assert ours.get_vocab() == judge.get_vocab() == {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4}
    assert ours("a <mask>")["input_ids"] == judge("a <mask>")["input_ids"] == [0, 3, 4, 2]


def test_vocab_file_and_charsmap_arguments(tiny, ours):
    text = "ｆｕｌｌ ﬁne <mask>"
    assert XLMRobertaTokenizer(vocab_file=str(tiny / MODEL))(text) == ours(text)
    vocab = sorted(ours.get_vocab().items(), key=lambda item: item[1])
    charsmap = ours._charsmap.data
    scored = [(piece, ours._unigram.vocab[index][1]) for piece, index in vocab]
    assert XLMRobertaTokenizer(scored, charsmap=charsmap)(text) == ours(text)
    assert (
        Judge(vocab=scored, _spm_precompiled_charsmap=charsmap)(text)["input_ids"] == ours(text)["input_ids"]
    )


def test_other_names_of_special_tokens_as_the_judge(tmp_path):
    names = {
        "bos_token": "[B]",
        "cls_token": "[B]",
        "eos_token": "[E]",
        "sep_token": "[E]",
        "pad_token": "[P]",
    }
    mask = {"__type": "AddedToken", "content": "[M]", "lstrip": True, "special": True}
    path = directory(tmp_path / "spm", train(), **names, unk_token="[U]", mask_token=mask)
    ours, judge = XLMRobertaTokenizer.from_pretrained(path), Judge.from_pretrained(path)
    for text in ("a  [M] b[P][U] <s> <mask>", "☃ [E]"):
        ids = ours(text, text)["input_ids"]
        assert ids == judge(text, text)["input_ids"]
        assert ours.decode(ids, True) == judge.decode(ids, skip_special_tokens=True)
    assert (ours.pad_token_id, ours.mask_token_id, len(ours)) == (1, judge.mask_token_id, len(judge))


@pytest.mark.parametrize(
    "options",
    [
        {"user_defined_symbols": "<line>,☃", "control_symbols": "<ctrl>"},
        {"user_defined_symbols": "<mask>"},
        {"pad_id": 3},
        {"unk_id": 2, "bos_id": 0, "eos_id": 1},
        {"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3},
        {"byte_fallback": True, "vocab_size": 700},
    ],
    ids=str,
)
def test_unusual_models_as_the_judge(options, tmp_path):
    path = directory(tmp_path / "spm", train(**options))
    ours, judge = XLMRobertaTokenizer.from_pretrained(path), Judge.from_pretrained(path)
    texts = ["a<line>b ☃ <ctrl> ☃x <mask>", "☄☄ fox <pad> quick\n<s></s>", "<unk> <0x41>A", ""]
    for reader in (
        ours,
        XLMRobertaTokenizer.from_pretrained(ours.save_pretrained(tmp_path / "x") and tmp_path / "x"),
    ):
        ids = reader(texts)["input_ids"]
        assert ids == judge(texts)["input_ids"]
        assert reader.batch_decode(ids, True) == judge.batch_decode(ids, skip_special_tokens=True)
        assert reader.batch_decode(ids) == judge.batch_decode(ids)
        assert (len(reader), reader.vocab_size, reader.all_special_ids) == (
            len(judge),
            judge.vocab_size,
            judge.all_special_ids,
        )
        assert reader.convert_ids_to_tokens(range(len(judge))) == judge.convert_ids_to_tokens(
            list(range(len(judge)))
        )
    assert Judge.from_pretrained(tmp_path / "x")(texts)["input_ids"] == judge(texts)["input_ids"]


def test_extra_tokens_of_the_configuration_win_over_the_model_files(tmp_path):
    path = directory(tmp_path, train(control_symbols="<ctrl>"), additional_special_tokens=["<line>"])
    ours, judge = XLMRobertaTokenizer.from_pretrained(path), Judge.from_pretrained(path)
    assert ours.extra_special_tokens == judge.extra_special_tokens == ["<line>"]
    assert ours("<ctrl><line>")["input_ids"] == judge("<ctrl><line>")["input_ids"]


def test_saved_files_round_trip(ours, judge, tiny, tmp_path):
    texts = corpus(800, seed=5)
    ids = ours(texts)["input_ids"]
    changed = XLMRobertaTokenizer.from_pretrained(tiny)
    changed.add_tokens(["<line>", AddedToken("☃", lstrip=True)])
    more = [*texts, "a ☃<line>"]
    added = changed(more)["input_ids"]
    changed.save_pretrained(tmp_path / "ours")
    assert (tmp_path / "ours" / MODEL).read_bytes() == train()
    for loader in (XLMRobertaTokenizer.from_pretrained, Judge.from_pretrained, load_tokenizer):
        assert loader(tmp_path / "ours")(more)["input_ids"] == added
    judge.save_pretrained(tmp_path / "theirs")
    assert {path.name for path in (tmp_path / "theirs").iterdir()} == {
        "tokenizer.json",
        "tokenizer_config.json",
    }
    theirs = load_tokenizer(tmp_path / "theirs")
    assert type(theirs) is XLMRobertaTokenizer
    assert theirs(texts)["input_ids"] == ids
    theirs.save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again" / MODEL).exists()  # there was none to keep
    assert Judge.from_pretrained(tmp_path / "again")(texts)["input_ids"] == ids


def test_a_model_file_beside_tokenizer_json_is_kept_while_they_agree(ours, tmp_path):
    ours.save_pretrained(tmp_path / "one")
    XLMRobertaTokenizer.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
    assert (tmp_path / "two" / MODEL).read_bytes() == train()
    for index, other in enumerate((train("nfkc"), train("nmt_nfkc", vocab_size=300))):
        (tmp_path / "one" / MODEL).write_bytes(other)
        XLMRobertaTokenizer.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / f"three{index}")
        assert not (tmp_path / f"three{index}" / MODEL).exists()


def test_the_form_of_transformers_4_is_read(ours, tmp_path):
    ours.save_pretrained(tmp_path)
    charsmap = base64.b64encode(ours._charsmap.data).decode()
    spaces = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}
    metaspace = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}
    parts = [
        {"type": "Precompiled", "precompiled_charsmap": charsmap},
        {"type": "Strip", "strip_left": False, "strip_right": True},
        spaces,
    ]
    change(
        tmp_path,
        normalizer={"type": "Sequence", "normalizers": parts, "precompiled_charsmap": None},
        pre_tokenizer={"type": "Metaspace", **metaspace},
        decoder=metaspace,
    )
    loaded = XLMRobertaTokenizer.from_pretrained(tmp_path)
    texts = corpus(500, seed=8)
    assert loaded(texts)["input_ids"] == ours(texts)["input_ids"]
    assert Judge.from_pretrained(tmp_path)(texts)["input_ids"] == ours(texts)["input_ids"]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {"type": "BPE"}}, r"model\.type is 'BPE'; XLMRobertaTokenizer implements .*'Unigram'"),
        ({"model": {"unk_id": 0}}, r"model\.unk_id is 0; XLMRobertaTokenizer implements only 3;"),
        ({"model": {"byte_fallback": True}}, r"model\.byte_fallback is True"),
        ({"model": {"vocab": {}}}, r"model\.vocab is a dict, expected a list of \[piece, score\]"),
        ({"model": {"vocab": []}}, r"model\.vocab is a list, expected a list of \[piece, score\]"),
        (
            {"model": {"vocab": [["a", 0.0], ["b"]]}},
            r"model\.vocab\[1\] is \['b'\], expected \[piece, score\]",
        ),
        ({"model": {"vocab": [["a", True]]}}, r"model\.vocab\[0\] is \['a', True\]"),
        ({"model": {"vocab": [["a", 0.0]]}}, r"unk_id is 3, expected 0 to 0"),
        ({"normalizer": {"type": "Lowercase"}}, r"the normalizer has the part 'Lowercase'"),
        ({"normalizer": {"precompiled_charsmap": "&&&"}}, r"normalizer\.precompiled_charsmap is not base64"),
        ({"normalizer": {"precompiled_charsmap": 7}}, r"normalizer\.precompiled_charsmap is not base64"),
        ({"normalizer": {"precompiled_charsmap": "AAAA"}}, r"invalid precompiled charsmap: at byte 0 of 3"),
        ({"pre_tokenizer": {"type": "ByteLevel"}}, r"pre_tokenizer\.type is 'ByteLevel'"),
        ({"pre_tokenizer": {"type": "Metaspace", "replacement": "_"}}, r"pre_tokenizer\.replacement is '_'"),
        ({"decoder": {"type": "ByteLevel"}}, r"decoder\.type is 'ByteLevel'"),
    ],
)
def test_other_documents_are_refused(sections, message, ours, tmp_path):
    ours.save_pretrained(tmp_path)
    change(tmp_path, **sections)
    with pytest.raises(TokenizerError, match=message):
        XLMRobertaTokenizer.from_pretrained(tmp_path)


def test_bad_files_are_named(tmp_path):
    with pytest.raises(TokenizerError, match=r"sentencepiece\.bpe\.model is missing; .* or tokenizer\.json"):
        XLMRobertaTokenizer.from_pretrained(tmp_path)
    path = directory(tmp_path / "cut", train()[:3000])
    with pytest.raises(
        TokenizerError, match=r"cut/sentencepiece\.bpe\.model: not a valid .* at byte \d+ of 3000"
    ):
        XLMRobertaTokenizer.from_pretrained(path)
    path = directory(tmp_path / "bpe", train(model_type="bpe", vocab_size=300))
    with pytest.raises(
        TokenizerError, match=r"bpe\.model: found a SentencePiece model of type BPE, expected UNIGRAM"
    ):
        XLMRobertaTokenizer.from_pretrained(path)
    path = directory(tmp_path / "ids", train(bos_id=-1, eos_id=-1))
    with pytest.raises(TokenizerError, match=r"the first pieces are \['<unk>', .* expected <unk>, <s>, </s>"):
        XLMRobertaTokenizer.from_pretrained(path)
    with pytest.raises(TokenizerError, match=r"XLMRobertaTokenizer has no options \['colour'\]"):
        XLMRobertaTokenizer(colour="red")
    with pytest.raises(TokenizerError, match=r"nowhere\.model: cannot read the SentencePiece model"):
        XLMRobertaTokenizer(tmp_path / "nowhere.model")
