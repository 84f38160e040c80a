import hashlib
import json

import pytest
from click.testing import CliRunner
from made import Lines, write_images

from trocr import TrOCRProcessor
from trocr.cli import main
from trocr.data.inspection import inspect_source, inspection_text
from trocr.data.records import DataError
from trocr.data.sources import open_source
from trocr.data.split import manifest, split_by_group


def writers(count=20, lines=5):
    return Lines(
        *((f"{w}-{i}.png", f"t{w}x{i}", f"w{w}") for w in range(count) for i in range(lines + w % 3))
    )


def test_no_writer_is_on_two_sides():
    source = writers()
    parts = split_by_group(source, {"train": 0.8, "val": 0.1, "test": 0.1}, seed=3)
    groups = [set(part.groups) for part in parts]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert set.union(*groups) == {f"w{i}" for i in range(20)}
    assert sum(len(part.lines) for part in parts) == len(source)
    assert 0.7 < len(parts[0].lines) / len(source) < 0.9
    assert {record.group for record in parts[1].lines} == groups[1]
    again = split_by_group(source, {"train": 0.8, "val": 0.1, "test": 0.1}, seed=3)
    assert [part.groups for part in again] == [part.groups for part in parts]
    other = split_by_group(source, {"train": 0.8, "val": 0.1, "test": 0.1}, seed=4)
    assert [part.groups for part in other] != [part.groups for part in parts]


def test_every_part_gets_a_group():
    parts = split_by_group(writers(3), {"train": 0.98, "val": 0.01, "test": 0.01})
    assert [len(part.groups) for part in parts] == [1, 1, 1]


@pytest.mark.parametrize(
    ("source", "shares", "message"),
    [
        (Lines(("a", "a")), {"train": 1}, "a has no group: a split by line would put lines of one writer"),
        (writers(1), {"train": 1, "val": 1}, "1 groups cannot be dealt to 2 parts"),
        (writers(), {"train": 1, "val": 0}, "must all be above 0"),
    ],
)
def test_mistakes_are_named(source, shares, message):
    with pytest.raises(DataError, match=message):
        split_by_group(source, shares)


def test_the_manifest_finds_the_same_image_on_two_sides():
    source = Lines(("a", "one", "w1"), ("b", "two", "w2"), ("c", "one", "w3"))
    parts = split_by_group(source, {"train": 2, "val": 1}, seed=0)
    if {"w1", "w3"} <= set(parts[0].groups):
        parts = split_by_group(source, {"train": 2, "val": 1}, seed=1)
    with pytest.raises(DataError, match="are the same image; remove one"):
        manifest(parts, origin="x", seed=0)


@pytest.fixture
def grouped(tmp_path):
    names = [f"{i}.png" for i in range(12)]
    write_images(tmp_path / "src", names)
    labels = "".join(f"{name}\tline {name}\tw{i % 4}\n" for i, name in enumerate(names))
    (tmp_path / "src/labels.tsv").write_text(labels)
    return tmp_path


def run_split(folder, shares="train=0.75,val=0.25"):
    arguments = ["data", "split", str(folder / "src"), str(folder / "out"), "--shares", shares]
    return CliRunner().invoke(main, arguments)


def test_split_command(grouped):
    done = run_split(grouped)
    assert done.exit_code == 0, done.output
    content = json.loads((grouped / "out/split.json").read_text())["parts"]
    assert (content["train"]["lines"], content["val"]["lines"]) == (9, 3)
    assert len(content["val"]["groups"]) == 1
    assert len(content["val"]["sha256_of_labels"]) == 64
    file = grouped / "out/val/lines-00000.tar"
    assert content["val"]["sha256_of_files"] == {file.name: hashlib.sha256(file.read_bytes()).hexdigest()}
    train = open_source(grouped / "out/train")
    assert {record.group for record in train} == set(content["train"]["groups"])
    done = run_split(grouped)
    assert done.exit_code == 1
    assert "is there already" in done.output


def test_a_split_goes_on_after_images_that_cannot_be_read(grouped):
    for number in (0, 1, 2, 3):  # one of each writer
        (grouped / f"src/{number}.png").write_bytes(b"-")
    done = run_split(grouped)
    assert done.exit_code == 1
    assert all(f"{number}.png" in done.output for number in (0, 1, 2, 3))
    content = json.loads((grouped / "out/split.json").read_text())["parts"]
    assert (content["train"]["lines"], content["val"]["lines"]) == (6, 2)
    assert (len(content["train"]["skipped"]), len(content["val"]["skipped"])) == (3, 1)
    assert len(open_source(grouped / "out/train")) == 6
    assert len(open_source(grouped / "out/val")) == 2


def test_a_split_that_fails_leaves_nothing(grouped):
    for number in range(12):
        (grouped / f"src/{number}.png").write_bytes(b"-")
    done = run_split(grouped)
    assert done.exit_code == 1
    assert "none of 9 lines can be read" in done.output
    assert list((grouped / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ("train=0.75,train:3", "'train:3' is not NAME=NUMBER"),
        ("train=1,val=nan", "'val=nan' is not NAME=NUMBER"),
        ("train=1,val=inf", "'val=inf' must be a number above 0"),
        ("train=1,val=0", "'val=0' must be a number above 0"),
        ("train=1,train=2", "'train=2' gives train a second time"),
        ("train=1,../c=2", "'../c=2' has a name that is no folder's"),
        ("train=1,..=2", "has a name that is no folder's"),
    ],
)
def test_mistakes_in_shares(grouped, shares, message):
    done = run_split(grouped, shares)
    assert done.exit_code == 2
    assert message in done.output


TROUBLE = Lines(
    ("a.png", "plain", "w1"),
    ("b.png", " outer"),
    ("c.png", "dou  ble"),
    ("d.png", "e\u0301"),
    ("e.png", "plain"),
    ("f.png", "damaged"),
    ("g.png", "x" * 700),
)


def test_inspection():
    tokenizer = TrOCRProcessor.from_pretrained("tiny-printed").tokenizer
    found = inspect_source(TROUBLE, tokenizer=tokenizer, max_tokens=256)
    assert (found.num_lines, found.num_groups) == (7, 1)
    assert found.characters["x"] == 700
    assert found.lengths == {"0-4": 1, "5-9": 5, "100+": 1}
    assert found.aspects == {"2-3": 6}
    assert found.unreadable == ("f.png: not an image",)
    assert found.same_image == (("a.png", "e.png"),)
    assert [line.split(":")[0] for line in found.odd_spaces] == ["b.png", "c.png"]
    assert [line.split(":")[0] for line in found.odd_characters] == ["d.png"]
    assert [line.split(":")[0] for line in found.too_long] == ["g.png"]
    assert found.unrepresentable == ()  # byte-level tokens hold anything
    text = inspection_text(found, title="lines")
    assert "not checked" not in text
    assert "images that cannot be read: 1\n    f.png: not an image" in text
    assert "a.png = e.png" in text


def test_what_is_not_checked_is_not_called_right():
    found = inspect_source(Lines(("a", "x" * 700)))
    assert (found.unrepresentable, found.too_long) == (None, None)
    text = inspection_text(found, title="lines")
    assert "texts that the tokenizer does not give back: not checked, give --model" in text
    assert "texts longer than the decoder's positions: not checked, give --model" in text
    assert inspect_source(Lines(("a", "x")), tokenizer=Letters()).too_long is None


class Letters:
    """A tokenizer of a few letters."""

    unk_token_id = 0

    def __call__(self, text, add_special_tokens):
        return {"input_ids": ["?abc".find(c) if c in "abc" else 0 for c in text]}

    def decode(self, ids, skip_special_tokens):
        return "".join("?abc"[i] for i in ids)


def test_texts_that_the_tokenizer_lacks():
    found = inspect_source(Lines(("1", "abc"), ("2", "abd")), tokenizer=Letters())
    assert found.unrepresentable == ("2: 'abd' comes back as 'ab?'",)
    assert found.tokens_per_character == pytest.approx(8 / 6)


def test_inspect_command(tmp_path):
    write_images(tmp_path, ["a.png", "b.png"])
    (tmp_path / "labels.tsv").write_text("a.png\tone\nb.png\ttwo\n")
    done = CliRunner().invoke(main, ["data", "inspect", str(tmp_path), "--model", "tiny-printed"])
    assert done.exit_code == 0, done.output
    assert "lines       2" in done.output
    assert "tokens      " in done.output
    (tmp_path / "b.png").write_bytes(b"-")
    done = CliRunner().invoke(main, ["data", "inspect", str(tmp_path), "--json"])
    assert done.exit_code == 1
    assert json.loads(done.output)["unreadable"][0].startswith("b.png: ")
