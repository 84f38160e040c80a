"""Decoding of every kind of input, the clean-up, saving and loading."""

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from judge import assert_same

from trocr.tokenizers import (
    AddedToken,
    BertTokenizer,
    RobertaTokenizer,
    Tokenizer,
    TokenizerError,
    load_tokenizer,
)

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def ours(tiny_dir: Path) -> RobertaTokenizer:
    return RobertaTokenizer.from_pretrained(tiny_dir)


@pytest.fixture(scope="module")
def judge(tiny_dir: Path) -> Any:
    return transformers.RobertaTokenizer.from_pretrained(tiny_dir)


def test_importing_is_cheap(repo: Path) -> None:
    code = (
        "import sys, trocr.tokenizers.roberta, trocr.tokenizers.bert, trocr.tokenizers.loading; "
        "print([name for name in ('torch', 'numpy', 'regex', 'tokenizers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repo, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_decode_takes_what_people_have(ours: RobertaTokenizer, judge: Any) -> None:
    rows = ours(["Hello, world", "a"], padding=True)
    for batch in (
        rows.input_ids,
        torch.tensor(rows.input_ids),
        np.array(rows.input_ids),
        list(torch.tensor(rows.input_ids)),
        [list(map(torch.tensor, row)) for row in rows.input_ids],
        [np.array(row) for row in rows.input_ids],
        tuple(tuple(row) for row in rows.input_ids),
        rows,
    ):
        for skip in (False, True):
            expected = judge.batch_decode(rows.input_ids, skip_special_tokens=skip)
            assert ours.batch_decode(batch, skip_special_tokens=skip) == expected
            assert ours.decode(batch, skip_special_tokens=skip) == expected
    single = rows.input_ids[0]
    for row in (single, torch.tensor(single), np.array(single), tuple(single)):
        assert ours.decode(row) == judge.decode(single)
        assert ours.batch_decode(row) == judge.batch_decode(single) == [judge.decode(single)]
    assert ours.decode(5) == ours.decode(torch.tensor(5)) == ours.decode(np.int64(5)) == judge.decode(5)


def test_nothing_decodes_to_nothing(ours: RobertaTokenizer) -> None:
    assert ours.decode([]) == ""
    assert ours.decode([[], []]) == ["", ""]
    assert ours.batch_decode([]) == []
    assert ours.batch_decode(torch.empty((0, 5), dtype=torch.long)) == []


CLEANED = [
    ("Hello , I 'm here . Is n't it ? He ' s", "Hello, I'm here. Isn't it? He's"),
    ("we 've they 're it 's \" !", "we've they're it's \"!"),
    ("a . . b ,c", "a.. b,c"),
]


@pytest.mark.parametrize(("text", "cleaned"), CLEANED)
def test_clean_up_is_only_on_request(ours: RobertaTokenizer, judge: Any, text: str, cleaned: str) -> None:
    ids = ours.encode(text)
    for clean_up in (None, False):
        assert ours.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=clean_up) == text
    assert ours.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=True) == cleaned
    assert ours.batch_decode([ids], True, clean_up_tokenization_spaces=True) == [cleaned]
    assert judge.clean_up_tokenization(text) == ours.clean_up_tokenization(text) == cleaned


def test_the_configuration_cleans_bert_but_not_byte_level_bpe(tiny_dir: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "it", "'", "s", "x"]
    options = {"clean_up_tokenization_spaces": True}
    bert, judge = (
        BertTokenizer(words, **options),
        transformers.BertTokenizer(vocab={word: index for index, word in enumerate(words)}, **options),
    )
    ids = bert.encode("it ' s")
    assert bert.decode(ids, True) == judge.decode(ids, skip_special_tokens=True) == "it's"
    assert bert.decode(ids, True, clean_up_tokenization_spaces=False) == "it ' s"
    bpe = RobertaTokenizer.from_pretrained(tiny_dir, **options)
    assert bpe.decode(bpe.encode("a ."), True) == "a ."


def changed(tokenizer: Any, make: Any) -> Any:
    tokenizer.add_tokens(["EXTRA", make("<foo>", lstrip=True, rstrip=True, single_word=True)])
    tokenizer.add_special_tokens({"extra_special_tokens": ["[X]"], "pad_token": "<fill>"})
    return tokenizer


SAMPLES = [
    "a EXTRA b",
    "x  <foo>  y",
    "[X]EXTRAS<mask> [MASK]",
    "<s></s><pad><fill>",
    "Ünïcode Text, 漢字 12",
]


@pytest.mark.parametrize("family", ["roberta", "spaced", "bert", "cased"])
@pytest.mark.parametrize("with_changes", [False, True], ids=["plain", "changed"])
@pytest.mark.parametrize("form", ["both", "classic", "document"])
def test_transformers_loads_what_we_save(
    tmp_path: Path, tiny_dir: Path, small_bert_vocab: dict[str, int], strings: list[str],
    family: str, with_changes: bool, form: str,
) -> None:  # fmt: skip
    ours: Tokenizer
    if family in ("bert", "cased"):
        ours = BertTokenizer(small_bert_vocab, do_lower_case=family == "bert", model_max_length=77)
    else:
        ours = RobertaTokenizer.from_pretrained(
            tiny_dir, add_prefix_space=family == "spaced", padding_side="left"
        )
    if with_changes:
        changed(ours, AddedToken)
    names = {Path(path).name for path in ours.save_pretrained(tmp_path)}
    assert names == {path.name for path in tmp_path.iterdir()}
    for name in names - {"tokenizer_config.json"}:
        if (name == "tokenizer.json" and form == "classic") or (
            name != "tokenizer.json" and form == "document"
        ):
            (tmp_path / name).unlink()
    for loaded in (load_tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)):
        assert type(loaded).__name__ == type(ours).__name__
        assert_same(ours, loaded, SAMPLES + strings[:400])
        for name in ("model_max_length", "padding_side", "truncation_side", "extra_special_tokens"):
            assert getattr(loaded, name) == getattr(ours, name), name
        assert loaded.special_tokens_map == ours.special_tokens_map
        assert loaded.get_vocab() == ours.get_vocab()


@pytest.mark.parametrize("family", ["roberta", "bert"])
@pytest.mark.parametrize("with_changes", [False, True], ids=["plain", "changed"])
def test_we_load_what_transformers_saves(
    tmp_path: Path,
    tiny_dir: Path,
    small_bert_vocab: dict[str, int],
    strings: list[str],
    family: str,
    with_changes: bool,
) -> None:
    if family == "bert":
        judge = transformers.BertTokenizer(vocab=small_bert_vocab, do_lower_case=False, strip_accents=True)
    else:
        judge = transformers.RobertaTokenizer.from_pretrained(tiny_dir, add_prefix_space=True)
    if with_changes:
        changed(judge, transformers.AddedToken)
    judge.save_pretrained(tmp_path)
    ours = load_tokenizer(tmp_path)
    assert_same(ours, transformers.AutoTokenizer.from_pretrained(tmp_path), SAMPLES + strings[:400])
    assert ours.model_max_length == judge.model_max_length


def test_saving_twice_gives_the_same_bytes(tmp_path: Path, ours: RobertaTokenizer, tiny_dir: Path) -> None:
    ours.save_pretrained(tmp_path / "once")
    RobertaTokenizer.from_pretrained(tmp_path / "once").save_pretrained(tmp_path / "twice")
    for path in (tmp_path / "once").iterdir():
        assert path.read_bytes() == (tmp_path / "twice" / path.name).read_bytes(), path.name
    for name in ("vocab.json", "merges.txt"):
        read = json.loads if name.endswith("json") else str.splitlines
        assert read((tmp_path / "once" / name).read_text()) == read((tiny_dir / name).read_text())


def test_the_processor_class_is_written(tmp_path: Path, tiny_dir: Path) -> None:
    RobertaTokenizer.from_pretrained(tiny_dir, processor_class="TrOCRProcessor").save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["processor_class"] == "TrOCRProcessor"
    assert RobertaTokenizer.from_pretrained(tmp_path).processor_class == "TrOCRProcessor"


def test_a_failed_save_leaves_the_old_files(tmp_path: Path, ours: RobertaTokenizer, monkeypatch: Any) -> None:
    ours.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = RobertaTokenizer(["<s>", "</s>", "<pad>", "<unk>", "<mask>", "a"])
    written = Path.write_bytes

    def full_disk(path: Path, content: bytes) -> int:
        if "merges" in path.name:
            raise OSError("no space left on device")
        return written(path, content)

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="no space left"):
        other.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_unknown_options_are_refused(tiny_dir: Path) -> None:
    with pytest.raises(
        TokenizerError, match=r"RobertaTokenizer has no options \['add_prefix_spaces'\]; leave them"
    ):
        RobertaTokenizer.from_pretrained(tiny_dir, add_prefix_spaces=True)
    with pytest.raises(TokenizerError, match="padding_side is 'top'; expected one of right, left"):
        RobertaTokenizer.from_pretrained(tiny_dir, padding_side="top")


@pytest.mark.parametrize(
    "copier", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))], ids=["copy", "pickle"]
)
def test_tokenizers_and_encodings_travel_to_other_processes(tiny_dir: Path, copier: Any) -> None:
    original = changed(RobertaTokenizer.from_pretrained(tiny_dir), AddedToken)
    encoding = original(SAMPLES, padding=True)
    twin = copier(original)
    assert twin(SAMPLES, padding=True) == encoding == copier(encoding)
    twin.add_tokens("one more")
    assert len(twin) == len(original) + 1
