import json
import pickle

import pytest
from made import write_images

from trocr.data.records import DataError
from trocr.data.sources import ConcatSource, Subset, open_source


def texts(source):
    return [(record.name, record.text) for record in source]


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path, ["a.png", "b.jpg", "c.png"])
    return tmp_path


def labels(folder, content, name="labels.tsv", encoding="utf-8"):
    (folder / name).write_bytes(content.encode(encoding))
    return folder


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_labels(folder, start, end):
    labels(folder, f"{start}a.png\tOne  two\t{end}{end}b.jpg\t né , \tw1 {end}")
    source = open_source(folder)
    assert texts(source) == [("a.png", "One  two"), ("b.jpg", " né , ")]
    assert [record.group for record in source] == [None, "w1"]
    assert source[0].open().mode == "L"
    assert source[1].open().size == (60, 20)
    assert texts(pickle.loads(pickle.dumps(source))) == texts(source)
    with pytest.raises(IndexError):
        source[2]


def test_coloured_images_stay_coloured(folder):
    write_images(folder, ["a.png"], mode="RGB")
    labels(folder, "a.png\tx\n")
    assert open_source(folder)[0].open().mode == "RGB"


def test_a_list_beside_a_folder_of_images(tmp_path):
    write_images(tmp_path / "image", ["a.png"])
    labels(tmp_path, "a.png\tone\n", "gt_train.txt")
    assert texts(open_source(tmp_path)) == [("a.png", "one")]
    assert open_source(tmp_path)[0].open()
    assert texts(open_source(tmp_path / "gt_train.txt")) == [("a.png", "one")]


def test_icdar_lists_quote_their_texts(folder):
    labels(folder, 'a.png, "He said \\"no\\", twice"\nb.jpg, "x"\n', "gt.txt")
    assert texts(open_source(folder)) == [("a.png", 'He said "no", twice'), ("b.jpg", "x")]


def test_several_lists_are_read_together(folder):
    labels(folder, "a.png\tone\n", "gt_1.txt")
    labels(folder, "b.jpg\ttwo\n", "gt_2.txt")
    assert len(open_source(folder)) == 2


def test_lists_that_are_parts_of_a_split(folder):
    labels(folder, "a.png\tone\n", "gt_train.txt")
    assert texts(open_source(folder)) == [("a.png", "one")]
    labels(folder, "b.jpg\ttwo\n", "gt_valid.txt")
    labels(folder, "c.png\tthree\n", "gt_extra.txt")
    with pytest.raises(DataError, match=r"gt_extra.txt, gt_train.txt, gt_valid.txt are parts of a split"):
        open_source(folder)
    assert texts(open_source(f"{folder}#train")) == [("a.png", "one")]
    assert texts(open_source(f"{folder}#val")) == [("b.jpg", "two")]
    assert texts(open_source(f"{folder}#extra")) == [("c.png", "three")]
    with pytest.raises(DataError, match=r"no gt_test.txt; there is gt_extra.txt, gt_train.txt"):
        open_source(f"{folder}#test")
    labels(folder, "a.png\tone\n")
    with pytest.raises(DataError, match="#test names a part, which iam and gt have; this is labels"):
        open_source(f"{folder}#test")


def test_a_tar_beside_labels_is_not_what_is_read(folder):
    labels(folder, "a.png\tone\n")
    (folder / "images.tar").touch()
    assert texts(open_source(folder)) == [("a.png", "one")]


def test_a_folder_that_cannot_be_read(folder, monkeypatch):
    def refuse(path, pattern):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.glob", refuse)
    with pytest.raises(DataError, match=rf"{folder}: cannot be read \(Permission denied\)"):
        open_source(folder)


def test_a_text_file_for_each_image(tmp_path):
    write_images(tmp_path, ["w1/a.png", "w1/b.bin.png", "c.nrm.png"])
    for name, text in (("w1/a", "one\n"), ("w1/b", "two"), ("c", "three\r\n"), ("w1/._a", "macOS")):
        (tmp_path / f"{name}.gt.txt").write_text(text, encoding="utf-8")
    source = open_source(tmp_path)
    assert sorted(texts(source)) == [("c.nrm.png", "three"), ("w1/a.png", "one"), ("w1/b.bin.png", "two")]
    assert {record.group for record in source} == {None, "w1"}


def test_json_lines(folder):
    rows = [
        {"file_name": "a.png", "text": "one", "group": 3},
        {"image": "b.jpg", "label": "two"},
    ]
    labels(folder, "\n".join(map(json.dumps, rows)), "metadata.jsonl")
    source = open_source(folder)
    assert texts(source) == [("a.png", "one"), ("b.jpg", "two")]
    assert source[0].group == "3"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("labels.tsv", "", "labels.tsv: no lines$"),
        (
            "labels.tsv",
            "a.png one\n",
            r"labels.tsv:1: no tab; expected file name, TAB, text, found 'a.png one'",
        ),
        ("labels.tsv", "a.png\tone\ttwo\tthree\n", r"labels.tsv:1: 4 columns; .* A text cannot hold tabs"),
        (
            "labels.tsv",
            "a.png\tone\nb.jpg\tTotal\t12.00\nc.png\tx\n",
            r"but 2 rows of 2 and 1 rows of 3: look at labels.tsv:2\. .* A text cannot hold tabs",
        ),
        ("labels.tsv", "\tone\n", r"labels.tsv:1: no file name before the text"),
        ("labels.tsv", "sub\tone\n", r"1 images are missing: .*sub \(labels.tsv:1\)"),
        ("labels.tsv", "a.png\t \nb.jpg\tx\n", r"1 lines have no text: labels.tsv:1 \(a.png\)"),
        ("labels.tsv", "a.png\n", r"1 lines have no text"),
        ("labels.tsv", "a.png\tone\na.png\ttwo\n", r"come twice: a.png at labels.tsv:1 and labels.tsv:2"),
        ("labels.tsv", "z.png\tone\n", r"1 images are missing: .*z.png \(labels.tsv:1\)"),
        ("metadata.jsonl", "{\n", "metadata.jsonl:1: not a JSON object"),
        ("metadata.jsonl", '{"file_name": "a.png"}\n', "metadata.jsonl:1: no text among the keys file_name"),
        ("metadata.jsonl", '{"file_name": "", "text": "x"}\n', "metadata.jsonl:1: the file name is empty"),
        (
            "metadata.jsonl",
            '{"file_name": "a.png", "text": "a\\tb"}\n{"file_name": "b.jpg", "text": "\\udcff"}\n',
            r"2 texts or names .* metadata.jsonl:1: the text .* has a tab; .*:2: .* has U.DCFF, which is no",
        ),
        (
            "metadata.jsonl",
            '{"file_name": "a.png", "text": "a\\nb"}\n{"file_name": "b.jpg", "text": ""}\n',
            r"1 texts or names are not one line .* has a line's end\. Write .*\. 1 lines have no text",
        ),
        (
            "metadata.jsonl",
            '{"file_name": "a.png", "text": "a", "group": "\\ud800"}\n',
            r"metadata.jsonl:1: the group .* has U.D800",
        ),
        ("metadata.jsonl", "[1]\n", "metadata.jsonl:1: list, expected an object"),
    ],
)
def test_mistakes_are_named(folder, name, content, message):
    labels(folder, content, name)
    (folder / "sub").mkdir()
    with pytest.raises(DataError, match=message):
        open_source(folder)


def test_many_problems_are_counted(folder):
    labels(folder, "".join(f"{i}.png\tx\n" for i in range(9)))
    with pytest.raises(DataError, match=r"9 images are missing: .*4.png \(labels.tsv:5\) and 4 more"):
        open_source(folder)


def test_bytes_that_are_not_utf8(folder):
    labels(folder, "a.png\tone\nb.jpg\tné\n", encoding="latin1")
    with pytest.raises(DataError, match=r"labels.tsv:2: not UTF-8 \(byte 0xe9\)"):
        open_source(folder)


def test_lines_without_text_can_be_skipped(folder):
    labels(folder, "a.png\t\nb.jpg\tx\n")
    source = open_source(folder, on_empty="skip")
    assert texts(source) == [("b.jpg", "x")]
    assert source.num_empty == 1


def test_texts_of_several_lines_and_without_image(tmp_path):
    (tmp_path / "a.gt.txt").write_text("one\n")
    with pytest.raises(DataError, match=r"a.png \(a.gt.txt\)"):
        open_source(tmp_path)
    write_images(tmp_path, ["a.png"])
    (tmp_path / "a.gt.txt").write_text("one\ntwo\n")
    with pytest.raises(DataError, match="2 lines of text, expected the text of one line image"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "nowhere", "no such file or folder"),
        (lambda p: p, "no known format; it is empty. Looked for "),
    ],
)
def test_nothing_there(tmp_path, make, message):
    with pytest.raises(DataError, match=message):
        open_source(make(tmp_path))


def test_a_folder_of_another_kind_says_what_it_has(tmp_path):
    write_images(tmp_path, ["a.png"])
    with pytest.raises(DataError, match=r"no known format; it has a.png. Looked for .*labels.tsv"):
        open_source(tmp_path)
    with pytest.raises(DataError, match="kind 'csv' is unknown, expected one of auto"):
        open_source(tmp_path, kind="csv")


def test_concatenation_and_subset(folder):
    labels(folder, "a.png\tone\nb.jpg\ttwo\nc.png\tthree\n")
    source = open_source(folder)
    both = ConcatSource([Subset(source, [2, 0]), source])
    assert [record.text for record in both] == ["three", "one", "one", "two", "three"]
    assert len(both) == 5
    for index in (-1, 5):
        with pytest.raises(IndexError):
            both[index]


def test_a_hundred_thousand_lines_open_fast(tmp_path):
    import time

    write_images(tmp_path, ["0.png"])
    content = (tmp_path / "0.png").read_bytes()
    for number in range(1, 2000):
        (tmp_path / f"{number}.png").write_bytes(content)
    labels(tmp_path, "".join(f"{i}.png\tline {i}\n" for i in range(2000)))
    started = time.process_time()
    assert len(open_source(tmp_path)) == 2000
    assert time.process_time() - started < 0.4  # measured 0.02: 100,000 lines take about a second
