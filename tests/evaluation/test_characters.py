import pytest

from trocr.evaluation.characters import harmless, script, visible


@pytest.mark.parametrize(
    ("character", "shown"),
    [
        ("", "∅"),
        (" ", "␣"),
        ("a", "a"),
        ("ж", "ж"),
        ("\t", "U+0009"),
        ("\u00a0", "U+00A0"),
        ("\u3000", "U+3000"),
        ("\u2028", "U+2028"),
        ("\u200d", "U+200D"),
        ("\u202e", "U+202E"),
        ("\ud800", "U+D800"),
        ("\u0301", "◌\u0301"),
    ],
)
def test_what_cannot_be_seen_is_shown(character, shown):
    assert visible(character) == shown


def test_a_text_keeps_its_joiners_and_marks_and_loses_what_disturbs():
    assert harmless("a b\u0301 \u200d") == "a b\u0301 \u200d"
    assert harmless("a\u202eb\x07\u0085c\ud800") == "aU+202EbU+0007U+0085cU+D800"


@pytest.mark.parametrize(
    ("characters", "name"),
    [
        ("aéßﬁＡ", "latin"),
        ("жЁ", "cyrillic"),
        ("αΩ", "greek"),
        ("שׁ", "hebrew"),
        ("ب٠"[0], "arabic"),
        ("日本", "han"),
        ("ひ", "hiragana"),
        ("カｶ", "katakana"),
        ("한", "hangul"),
        ("12.,$ \u00a0½", "common"),
        ("\u0301", "inherited"),
        ("𐐀", "other"),
        ("\ue000", "common"),
    ],
)
def test_scripts(characters, name):
    assert {script(character) for character in characters} == {name}
