import warnings

import pytest

from trocr.generation import GenerationConfig, GenerationError
from trocr.generation.lengths import DEFAULT_NEW_TOKENS, Length, resolve_length, warn_cut


def resolve(chosen=(), prefix=1, positions=512, **options):
    return resolve_length(GenerationConfig(**options), chosen, prefix=prefix, positions=positions)


def test_the_default_fits_a_line():
    assert DEFAULT_NEW_TOKENS >= 200  # a line of 100 characters may have a token for each, and more
    assert resolve() == Length(1 + DEFAULT_NEW_TOKENS, False, "the default length")
    assert resolve(prefix=5).most == 5 + DEFAULT_NEW_TOKENS


def test_the_default_is_capped_by_positions():
    assert resolve(positions=128) == Length(129, False, "the model's 128 positions")


def test_what_the_caller_chose():
    assert resolve(["max_length"], max_length=30) == Length(30, True, "max_length")
    assert resolve(["max_new_tokens"], prefix=4, max_new_tokens=30) == Length(34, True, "max_new_tokens")


def test_what_the_model_chose():
    assert resolve(max_length=20) == Length(20, False, "max_length=20 of the model's generation_config")
    assert resolve(max_new_tokens=96).most == 97
    assert resolve(max_length=2000).most == 513, "a model's own limit is lowered to its positions"


def test_max_new_tokens_goes_first():
    assert resolve(["max_length", "max_new_tokens"], max_length=9, max_new_tokens=30).most == 31
    with pytest.warns(
        UserWarning, match=r"max_length=9 has no effect: .* max_new_tokens=96, which goes before it"
    ):
        assert resolve(["max_length"], max_length=9, max_new_tokens=96).most == 97


def test_every_position_can_be_used():
    assert resolve(["max_length"], max_length=513).most == 513


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"chosen": ["max_length"], "max_length": 514},
            r"max_length=514 asks for rows of 514 tokens, .* at most 512 .* set it to 513 or less",
        ),
        (
            {"chosen": ["max_new_tokens"], "max_new_tokens": 512, "prefix": 4},
            r"max_new_tokens=512 asks for rows of 516 tokens.* set it to 509 or less",
        ),
        (
            {"chosen": ["max_length"], "max_length": 4, "prefix": 4},
            "max_length=4 leaves no room after a start of 4 tokens",
        ),
        (
            {"prefix": 513},
            "the prefix of 513 tokens does not fit: the model's max_position_embeddings is 512",
        ),
        ({"min_length": 400}, "the minimum of 400 tokens is above the limit of 257"),
        ({"min_new_tokens": 400}, "the minimum of 401 tokens is above the limit of 257"),
        (
            {"chosen": ["max_length"], "max_length": 10, "min_new_tokens": 10},
            "the minimum of 11 tokens is above the limit of 10",
        ),
    ],
)
def test_lengths_that_do_not_fit(arguments, message):
    with pytest.raises(GenerationError, match=message):
        resolve(**arguments)


def test_rows_cut_at_a_limit_nobody_chose():
    with pytest.warns(UserWarning, match=r"2 of 5 rows were cut at 20 tokens \(the default length\)"):
        warn_cut(Length(20, False, "the default length"), 2, 5)


@pytest.mark.parametrize(
    ("length", "num_cut"), [(Length(20, True, "max_length"), 2), (Length(20, False, "x"), 0)]
)
def test_no_warning_otherwise(length, num_cut):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_cut(length, num_cut, 5)
