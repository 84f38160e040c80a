import struct
from pathlib import Path

import numpy as np
import pytest
from made_fonts import needs_fonts

from trocr.data.synthetic import SyntheticError, SyntheticLines, SyntheticSettings
from trocr.data.synthetic.drawing import Artist
from trocr.data.synthetic.fonts import Font, Fonts, find_fonts, load_fonts, scan
from trocr.data.synthetic.settings import TEXTS
from trocr.data.synthetic.texts import Texts


def test_missing_fonts(tmp_path):
    with pytest.raises(SyntheticError, match="nowhere does not exist"):
        load_fonts(SyntheticSettings(fonts=("nowhere",)))
    with pytest.raises(SyntheticError, match=r"no fonts \(.ttf, .otf, .ttc\) in"):
        load_fonts(SyntheticSettings(fonts=(str(tmp_path),)))
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    with pytest.raises(SyntheticError, match="none of 1 fonts has all of the alphabet"):
        load_fonts(SyntheticSettings(fonts=(str(tmp_path),)))
    assert find_fonts([str(tmp_path)], ["bro*"]) == []


@needs_fonts
def test_a_font_that_lacks_characters_is_found_out():
    path = find_fonts([], ())[0]
    font = scan(path, "ab\u0378")
    assert font is not None
    assert "\u0378" in font.missing


def test_fonts_cover_the_alphabet(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    alphabet = "".join(map(chr, range(0x410, 0x450)))
    lacks = {"whole": "", "nearly": "Я", "hardly": alphabet[:9], "other": "ю"}

    def load(*names):
        for name in lacks:
            (tmp_path / f"{name}.ttf").unlink(missing_ok=True)
        for name in names:
            (tmp_path / f"{name}.ttf").touch()
        found = load_fonts(SyntheticSettings(alphabet=alphabet + "—", fonts=(str(tmp_path),)))
        return sorted(Path(font.path).stem for family in found.families for font in family)

    monkeypatch.setattr(
        "trocr.data.synthetic.fonts.scan",
        lambda path, alphabet, index=0: Font(path, lacks[Path(path).stem] + "—", False),
    )
    assert load("whole", "nearly", "hardly") == ["whole"]
    assert load("nearly", "hardly", "other") == ["nearly", "other"]
    with pytest.raises(SyntheticError, match=r"no font has 'Я' among the 1 \(of 2\) that have nearly all"):
        load("nearly", "hardly")
    with pytest.raises(SyntheticError, match=r"none of 1 fonts has all .*hardly.ttf lacks fewest: АБВГДЕЖЗИ"):
        load("hardly")


@needs_fonts
def test_letters_of_other_scripts_may_look_alike():
    alike = "AАΑEЕΕoоο"  # Latin, Cyrillic, Greek
    found = (scan(path, alike) for path in find_fonts([], ()))
    assert any(font is not None and not font.missing for font in found)


@needs_fonts
def test_texts_that_a_font_lacks_letters_of_are_not_drawn():
    words = {"never", "written", "plain", "and", "so", "on"}
    settings = SyntheticSettings(texts={**dict.fromkeys(TEXTS, 0), "words": 1})
    texts = Texts(settings)
    texts.word_list = sorted(words)
    path = load_fonts(settings).draw(np.random.default_rng(0)).path
    artist = Artist(settings, Fonts([Font(path, "vV", False)], monospaced_share=0), texts)
    drawn = [artist.draw(np.random.default_rng(i))[0].lower() for i in range(60)]
    assert not any("v" in text for text in drawn)
    assert not {"neer", "ritten"} & set(" ".join(drawn).split())
    assert sum(text.count(" ") for text in drawn) > 60


@needs_fonts
def test_all_fonts_of_a_collection_are_read(tmp_path):
    files = find_fonts([], ())[:2]
    contents = [Path(file).read_bytes() for file in files]
    place, header, body = 12 + 4 * len(files), b"ttcf\x00\x01\x00\x00" + struct.pack(">I", len(files)), b""
    for content in contents:
        start = place + len(body)
        header += struct.pack(">I", start)
        moved = bytearray(content)
        for table in range(struct.unpack(">H", content[4:6])[0]):
            offset = 12 + 16 * table + 8
            moved[offset : offset + 4] = struct.pack(
                ">I", struct.unpack_from(">I", content, offset)[0] + start
            )
        body += bytes(moved) + bytes(-len(moved) % 4)
    (tmp_path / "two.ttc").write_bytes(header + body)
    settings = SyntheticSettings(alphabet="abc", fonts=(str(tmp_path),))
    fonts = load_fonts(settings)
    assert len(fonts) == 2
    assert sorted(font.index for part in (fonts.families, fonts.monospaced) for f in part for font in f) == [
        0,
        1,
    ]
    assert SyntheticLines(settings)[0].open()
