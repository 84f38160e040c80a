import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from made_fonts import needs_fonts
from PIL import Image

from trocr.cli import main
from trocr.data.degradations import ON_IMAGE
from trocr.data.sources import open_source
from trocr.data.synthetic import SyntheticError, SyntheticLines, SyntheticSettings
from trocr.data.synthetic.fonts import Font, Fonts, find_fonts
from trocr.data.synthetic.settings import DEGRADATIONS, TEXTS
from trocr.data.synthetic.sheet import draw_sheet
from trocr.data.synthetic.texts import Texts


def content(lines, indices):
    return [(lines[i].text, np.asarray(lines[i].open()).tobytes()) for i in indices]


@needs_fonts
def test_a_line_depends_on_seed_and_number_alone():
    lines = SyntheticLines(seed=5)
    found = content(lines, range(12))
    assert content(SyntheticLines(seed=5), reversed(range(12))) == found[::-1]
    assert content(pickle.loads(pickle.dumps(lines)), [7]) == found[7:8]
    assert len(pickle.dumps(lines)) < 5000
    assert content(SyntheticLines(seed=6), range(12)) != found
    assert lines[3].name == "synthetic-5-3"
    assert lines[2**35].text


@needs_fonts
def test_another_process_draws_the_same_lines(tmp_path):
    program = (
        "import hashlib\nfrom trocr.data.synthetic import SyntheticLines\nlines = SyntheticLines(seed=5)\n"
        "print(hashlib.sha256(b''.join(lines[i].open().tobytes() for i in range(12))).hexdigest())"
    )
    env = {"PYTHONPATH": str(Path(__file__).resolve().parents[3]), "XDG_CACHE_HOME": str(tmp_path)}
    done = [
        subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
        for _ in range(2)  # the second one knows the fonts
    ]
    import hashlib

    lines = SyntheticLines(seed=5)
    here = hashlib.sha256(b"".join(lines[i].open().tobytes() for i in range(12))).hexdigest()
    assert [run.stdout.strip() for run in done] == [here, here]


@needs_fonts
def test_texts_and_images_are_in_order():
    settings = SyntheticSettings(max_characters=40)
    lines = SyntheticLines(settings)
    for i in range(150):
        record, image = lines[i], lines[i].open()
        assert 1 <= len(record.text) <= 40
        assert record.text == " ".join(record.text.split())
        assert set(record.text) <= {*settings.alphabet, " "}
        assert image.mode == "L"
        assert 4 <= image.height < 200
        values = np.asarray(image)
        assert values.max() > values.min()


def flat_strips(image):
    """Eighths of a line, from left to right, in which there is nothing to see."""
    strips = np.array_split(np.asarray(image, dtype=float), 8, axis=1)
    return sum(np.percentile(strip, 97) - np.percentile(strip, 3) < 12 for strip in strips)


@needs_fonts
def test_degraded_text_can_be_seen():
    degradations = {**dict.fromkeys(DEGRADATIONS, 0.0), "gradient": 0.5, "thin": 0.5, "binarise": 1.0}
    lines = SyntheticLines(SyntheticSettings(degradations=degradations), seed=3)
    long = [line for line in (lines[i] for i in range(200)) if len(line.text) >= 12]
    assert len(long) > 90
    assert sum(flat_strips(line.open()) >= 3 for line in long) <= 1


@needs_fonts
def test_undegraded_text_is_drawn_whole():
    """The ink of a line's picture is that of its text: more letters, more ink."""
    plain = {"alphabet": "abc", "strength": 0.0, "texts": {**dict.fromkeys(TEXTS, 0), "random": 1}}
    lines = SyntheticLines(SyntheticSettings.from_dict(plain))
    for i in range(40):
        record = lines[i]
        assert record.open().width > 3 * len(record.text.replace(" ", ""))


def test_kinds_of_text():
    for kind in TEXTS:
        only = {**dict.fromkeys(TEXTS, 0), kind: 1}
        texts = Texts(SyntheticSettings(texts=only))
        found = {texts.draw(np.random.default_rng(i)) for i in range(60)}
        assert len(found) > 40, kind
    digits = Texts(SyntheticSettings(alphabet="0123456789"))
    assert all(set(digits.draw(np.random.default_rng(i))) <= set("0123456789 ") for i in range(50))


def test_numbers_are_often_alone_and_amounts_often_nothing():
    only = {**dict.fromkeys(TEXTS, 0), "numbers": 1}
    texts = Texts(SyntheticSettings(texts=only))
    found = [texts.draw(np.random.default_rng(i)) for i in range(2000)]
    assert 0.3 < sum(len(text) == 1 for text in found) / 2000 < 0.5
    assert found.count("1") > 150
    assert found.count("0.00") > 10
    assert not any(" " in text for text in found)
    assert max(map(len, found)) == 14


def test_long_lines_reach_what_is_asked_for():
    texts = Texts(SyntheticSettings(max_characters=300))
    lengths = [len(texts.draw(np.random.default_rng(i))) for i in range(200)]
    assert 280 < max(lengths) <= 300
    assert sum(length > 95 for length in lengths) > 30


def test_a_corpus_is_read(tmp_path):
    words = [f"w{i:03}" for i in range(80)]
    (tmp_path / "a.txt").write_text(" ".join(words[:40]) + "\n%\n")
    (tmp_path / "b").write_text(" ".join(words[40:]))
    (tmp_path / "b.dat").write_bytes(b"\x00\x00\x00\x02index")
    only = {**dict.fromkeys(TEXTS, 0), "sentences": 1}
    texts = Texts(SyntheticSettings(corpus=(str(tmp_path),), texts=only, max_characters=90))
    assert texts.corpus == words
    drawn = " ".join(texts.draw(np.random.default_rng(i)) for i in range(80)).lower().split()
    assert sum(word in words for word in drawn) > 0.9 * len(drawn) - 80
    with pytest.raises(SyntheticError, match="nowhere does not exist"):
        Texts(SyntheticSettings(corpus=("nowhere",)))
    with pytest.raises(SyntheticError, match="holds 0 words of the alphabet"):
        Texts(SyntheticSettings(corpus=(str(tmp_path),), alphabet="xyz"))
    with pytest.raises(SyntheticError, match=r"none\.txt: cannot be read"):
        Texts(SyntheticSettings(words=str(tmp_path / "none.txt")))


def test_all_degradations_have_a_probability():
    drawn = {"neighbours", "bleed_through", "low_resolution"}
    assert set(DEGRADATIONS) == set(ON_IMAGE) | drawn
    assert set(SyntheticSettings(strength=0.5).probabilities.values()) == {
        probability * 0.5 for probability in DEGRADATIONS.values()
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"font": []}, "synthetic.font is unknown, did you mean 'fonts'"),
        ({"num_lines": 0}, "num_lines=0 must be at least 1"),
        ({"num_lines": "many"}, "num_lines='many' has the wrong type"),
        ({"fonts": "DejaVu"}, "fonts='DejaVu' has the wrong type"),
        ({"font_px": [9]}, r"font_px=\[9\] has the wrong type"),
        ({"font_px": [30, 20]}, r"font_px=\[30, 20\] must be \[least, most\]"),
        ({"strength": 2.0}, "must lie between 0 and 1"),
        ({"alphabet": "aa"}, "names a character twice"),
        ({"texts": {"poems": 1}}, "texts.poems is unknown, expected one of sentences"),
        ({"texts": dict.fromkeys(TEXTS, 0)}, "leaves no kind of text"),
        ({"degradations": {"blurr": 0.1}}, "degradations.blurr is unknown, did you mean 'blur'"),
        ({"degradations": {"blur": 1.5}}, r"degradations.blur=1.5 must be 0 to 1"),
        ({"degradations": {"blur": "x"}}, r"degradations.blur='x' must be 0 to 1"),
        ({"texts": {"words": "a"}}, r"texts.words='a' must be a number, at least 0"),
        ({"texts": {"words": float("inf")}}, r"texts.words=inf must be a number"),
    ],
)
def test_mistakes_in_settings(values, message):
    with pytest.raises(SyntheticError, match=message):
        SyntheticSettings.from_dict(values)


@needs_fonts
def test_command_writes_lines_and_a_sheet(tmp_path):
    config = tmp_path / "c.toml"
    config.write_text("[synthetic]\nmax_characters = 12\n")
    folder, tars, sheet = tmp_path / "folder", tmp_path / "tars", tmp_path / "s.png"
    common = ["--seed", "2", "--config", str(config)]
    first = ["synth", str(folder), "--num", "6", "--preview", str(sheet), *common]
    done = CliRunner().invoke(main, first)
    assert done.exit_code == 0, done.output
    source = open_source(folder)
    assert len(source) == 6
    assert Image.open(sheet).width > 1000
    lines = SyntheticLines(SyntheticSettings(max_characters=12), seed=2)
    assert [r.text for r in source] == [lines[i].text for i in range(6)]
    assert source[3].open().tobytes() == lines[3].open().tobytes()
    second = ["synth", str(tars), "--num", "3", "--start", "3", "--format", "tar", *common]
    done = CliRunner().invoke(main, second)
    assert done.exit_code == 0, done.output
    assert len(open_source(tars)) == 3
    again = CliRunner().invoke(main, first)
    assert again.exit_code == 1
    assert "holds a labels.tsv already" in again.output
    config.write_text("[other]\n")
    done = CliRunner().invoke(main, ["synth", str(tmp_path / "x"), "--config", str(config)])
    assert "no table [synthetic]" in done.output
    assert CliRunner().invoke(main, ["synth"]).exit_code == 2


@needs_fonts
def test_where_command_cannot_write(tmp_path):
    (tmp_path / "file").touch()
    for arguments, message in (
        ([str(tmp_path / "new"), "--preview", str(tmp_path / "none/s.png")], "there is no folder"),
        ([str(tmp_path / "file")], "file: cannot be written"),
        ([str(tmp_path / "file"), "--format", "tar"], "file: cannot be written"),
    ):
        done = CliRunner().invoke(main, ["synth", "--num", "2", *arguments])
        assert done.exit_code == 1
        assert message in done.output
        assert isinstance(done.exception, SystemExit)
    assert not (tmp_path / "new").exists()


@needs_fonts
def test_the_sheet_is_written_in_a_font_that_has_the_texts():
    path = find_fonts([], ())[0]
    fonts = Fonts(
        [Font(path, "b—", False), Font("right.ttf", "a", False), Font("m.ttf", "—", True)], monospaced_share=0
    )
    assert fonts.best_for("b — b").path == "right.ttf"
    line = SyntheticLines(SyntheticSettings(alphabet="abc—"))[0]
    plain, other = draw_sheet([line]), draw_sheet([line], font=Font(path, "", False))
    assert plain.size == other.size
    assert plain.tobytes() != other.tobytes()


@needs_fonts
@pytest.mark.slow
def test_speed_on_one_core():
    lines = SyntheticLines(seed=1)
    assert lines[0]
    started = time.process_time()
    for i in range(1, 2001):
        assert lines[i]
    rate = 2000 / (time.process_time() - started)
    print(f"{rate:.0f} lines/s of processor time, {len(lines.artist.fonts)} fonts")
    assert rate > 500
