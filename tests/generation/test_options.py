import ast
import json
from dataclasses import FrozenInstanceError, dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import trocr.generation.options as options_module
from trocr.config import TrOCRConfig, VisionEncoderDecoderConfig, ViTConfig
from trocr.generation import GenerationConfig, GenerationError
from trocr.generation.options import FrozenOptionsError, option_names, read_options, sort_keys
from trocr.generation.rules import BOOKKEEPING, DEFAULTS, NO_EFFECT, UNSUPPORTED, idle

OFFICIAL_FILE = {
    "_from_model_config": True,
    "bos_token_id": 0,
    "decoder_start_token_id": 2,
    "eos_token_id": 2,
    "pad_token_id": 1,
    "transformers_version": "4.27.0.dev0",
    "use_cache": False,
}


@dataclass
class Config:
    """The part of a model's configuration that matters here."""

    decoder_start_token_id: int | None = 2
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: Any = 2
    generation_defaults: dict[str, Any] = field(default_factory=dict)
    decoder: Any = None


def test_options_and_rules_do_not_import_torch():
    folder = Path(options_module.__file__).parent
    for name in ("options.py", "rules.py"):
        imported = {
            (node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name
            for node in ast.walk(ast.parse((folder / name).read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
        }
        assert not any(module.split(".")[0] == "torch" for module in imported)


def test_every_key_of_the_reference_is_known():
    hf = pytest.importorskip("transformers")
    known = {*option_names(), *BOOKKEEPING, *NO_EFFECT, *UNSUPPORTED}
    theirs = {name for name in vars(hf.GenerationConfig()) if name != "_original_object_hash"}
    assert theirs - known == set()
    assert {*option_names()} <= theirs


def test_defaults_are_those_of_the_reference():
    hf = pytest.importorskip("transformers")
    theirs = hf.GenerationConfig._get_default_generation_params()
    for name, value in DEFAULTS.items():
        if theirs.get(name) is not None:
            assert value == theirs[name], name


def test_names_sets_do_not_overlap():
    sets = [set(option_names()), set(BOOKKEEPING), set(NO_EFFECT), set(UNSUPPORTED)]
    assert sum(map(len, sets)) == len(set.union(*sets))


def test_unset_options_are_not_written():
    assert GenerationConfig(num_beams=4, eos_token_id=[2, 3]).to_dict() == {
        "num_beams": 4,
        "eos_token_id": [2, 3],
    }
    assert repr(GenerationConfig(num_beams=4)) == "GenerationConfig(num_beams=4)"


def test_from_dict_drops_bookkeeping_and_what_changes_no_token():
    values = {**OFFICIAL_FILE, "cache_implementation": "static", "is_assistant": False, "num_beam_groups": 1}
    read = GenerationConfig.from_dict(values)
    assert read.to_dict() == {k: v for k, v in OFFICIAL_FILE.items() if k not in BOOKKEEPING}


def test_unknown_key_names_the_nearest():
    with pytest.raises(
        GenerationError,
        match=r"file\.json: .*unknown option 'num_beam' \(value 3\), did you mean 'num_beams'",
    ):
        GenerationConfig.from_dict({"num_beam": 3}, origin="file.json")


def test_all_problems_come_at_once():
    with pytest.raises(GenerationError) as error:
        GenerationConfig.from_dict({"nonsense_xyz": 1, "stop_strings": ["a"], "num_beam_groups": 2})
    for part in (
        "'nonsense_xyz'",
        "stop_strings=['a'] is not supported",
        "num_beam_groups=2",
        "set it to None or 1",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize(("key", "neutral"), [(k, v) for k, values in UNSUPPORTED.items() for v in values])
def test_unsupported_options_pass_at_neutral_values(key, neutral):
    assert GenerationConfig.from_dict({key: neutral}) == GenerationConfig()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_beams": 0}, "num_beams=0 must be a whole number, 1 or more"),
        ({"num_beams": 2.0}, "num_beams=2.0 must be a whole number"),
        ({"num_beams": True}, "num_beams=True must be a whole number"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be a whole number, 1 or more"),
        ({"min_length": -1}, "min_length=-1 must be a whole number, 0 or more"),
        ({"pad_token_id": -1}, "pad_token_id=-1 must be a whole number, 0 or more"),
        ({"do_sample": 1}, "do_sample=1 must be True or False"),
        ({"early_stopping": "always"}, "early_stopping='always' must be True, False or 'never'"),
        (
            {"temperature": 0.0},
            "temperature=0.0 must be a number above 0; to draw nothing use do_sample=False",
        ),
        ({"temperature": float("nan")}, "temperature=nan must be a number above 0"),
        ({"top_p": 1.5}, "top_p=1.5 must be a number between 0 and 1"),
        ({"min_p": -0.1}, "min_p=-0.1 must be a number between 0 and 1"),
        ({"typical_p": 0}, "typical_p=0 must be a number above 0 and at most 1"),
        ({"epsilon_cutoff": 1.0}, "epsilon_cutoff=1.0 must be a number from 0 to below 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0 must be a number above 0"),
        ({"length_penalty": float("inf")}, "length_penalty=inf must be a number finite"),
        ({"max_time": 0}, "max_time=0 must be a number above 0 seconds"),
        ({"top_k": -1}, "top_k=-1 must be a whole number, 0 or more"),
        ({"eos_token_id": []}, r"eos_token_id=\(\) must be a token id, or a list of them that is not empty"),
        ({"eos_token_id": "2"}, "eos_token_id='2' must be a token id"),
        ({"suppress_tokens": [1, -2]}, "suppress_tokens=.* must be a list of token ids"),
        ({"bad_words_ids": [5]}, "bad_words_ids=.* must be a list of lists of token ids"),
        ({"bad_words_ids": [[]]}, "bad_words_ids=.* none of them empty"),
        ({"sequence_bias": [[[1], "x"]]}, "sequence_bias=.* must be a list of pairs"),
        ({"exponential_decay_length_penalty": (3,)}, "exponential_decay_length_penalty=.* must be a pair"),
        ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences=3 is more than num_beams=2"),
        (
            {"num_beams": 1, "num_return_sequences": 3, "do_sample": False},
            "num_return_sequences=3 needs num_beams > 1 or do_sample=True",
        ),
        ({"min_length": 9, "max_length": 8}, "min_length=9 is more than max_length=8"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, "min_new_tokens=9 is more than max_new_tokens=8"),
        (
            {"forced_bos_token_id": 3, "suppress_tokens": [3, 4]},
            "forced_bos_token_id=3 is also in suppress_tokens",
        ),
        ({"forced_eos_token_id": [3, 4], "suppress_tokens": [4, 3, 5]}, "forced_eos_token_id=.* is also in"),
    ],
)
def test_bad_values(values, message):
    with pytest.raises(GenerationError, match=message):
        GenerationConfig(**values)


def test_values_that_are_right():
    GenerationConfig(
        min_length=8, max_length=8, early_stopping="never", length_penalty=-1.0, top_k=0, min_p=0.0
    )
    GenerationConfig(num_return_sequences=3)  # whether that fits depends on options not set here
    GenerationConfig(forced_eos_token_id=[3, 4], suppress_tokens=[4])
    GenerationConfig(max_length=20, min_length=30, max_new_tokens=50)  # max_new_tokens goes before max_length


def test_options_are_frozen_and_say_how_to_change_them():
    options = GenerationConfig(num_beams=4)
    with pytest.raises(FrozenOptionsError, match=r"generation_config\.update\(num_beams=\.\.\.\)"):
        options.num_beams = 5
    with pytest.raises(FrozenInstanceError):
        options.max_length = 5
    options.num_beams = 4  # what already holds may be set
    tokens = [2, 3]
    held = GenerationConfig(eos_token_id=tokens)
    tokens.append(4)
    assert held.eos_token_id == (2, 3)


def test_update_makes_new_options():
    options = GenerationConfig(num_beams=4, max_length=9)
    changed = options.update(num_beams=2, max_length=None)
    assert (changed.num_beams, changed.max_length, options.num_beams) == (2, None, 4)
    with pytest.raises(GenerationError, match="did you mean 'num_beams'"):
        options.update(num_beam=3)


def test_over_and_completed():
    merged = GenerationConfig(num_beams=4).over(GenerationConfig(num_beams=2, max_length=9))
    assert (merged.num_beams, merged.max_length) == (4, 9)
    assert merged.completed().temperature == DEFAULTS["temperature"]
    assert merged.completed().num_beams == 4


def test_tensors_and_mappings_become_plain_values():
    options = GenerationConfig(eos_token_id=torch.tensor([2, 3]), sequence_bias={(4, 5): -1.0})
    assert options.eos_token_id == (2, 3)
    assert options.to_dict()["sequence_bias"] == [[[4, 5], -1.0]]
    json.dumps(options.to_dict())


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "max_new_tokens": st.integers(1, 500),
            "num_beams": st.integers(1, 9),
            "length_penalty": st.floats(-3, 3),
            "early_stopping": st.sampled_from([True, False, "never"]),
            "eos_token_id": st.one_of(st.integers(0, 99), st.lists(st.integers(0, 99), min_size=1)),
            "bad_words_ids": st.lists(st.lists(st.integers(0, 99), min_size=1), min_size=1),
            "top_p": st.floats(0, 1),
        },
    )
)
def test_dictionaries_round_trip(values):
    options = GenerationConfig.from_dict(values)
    assert options.to_dict() == values
    assert GenerationConfig.from_dict(json.loads(json.dumps(options.to_dict()))) == options


def test_files_round_trip(tmp_path):
    options = GenerationConfig(num_beams=4, eos_token_id=2, bad_words_ids=[[5, 6]])
    options.save_pretrained(tmp_path / "new")
    assert GenerationConfig.from_pretrained(tmp_path / "new") == options


def test_the_reference_reads_what_we_write(tmp_path):
    hf = pytest.importorskip("transformers")
    options = GenerationConfig(num_beams=4, max_new_tokens=30, eos_token_id=2, length_penalty=2.0)
    options.save_pretrained(tmp_path)
    theirs = hf.GenerationConfig.from_pretrained(tmp_path)
    assert {name: getattr(theirs, name) for name in options.to_dict()} == options.to_dict()


def test_we_read_what_the_reference_writes(tmp_path):
    hf = pytest.importorskip("transformers")
    hf.GenerationConfig(num_beams=4, early_stopping=True, no_repeat_ngram_size=3).save_pretrained(tmp_path)
    assert GenerationConfig.from_pretrained(tmp_path).to_dict() == {
        "num_beams": 4,
        "early_stopping": True,
        "no_repeat_ngram_size": 3,
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "generation_config.json: no such file"),
        ("{", "generation_config.json: not valid JSON"),
        ("[1]", "found a JSON list, expected an object"),
        ('{"num_beams": "four"}', "generation_config.json: .*num_beams='four' must be a whole number"),
    ],
)
def test_bad_files(tmp_path, content, message):
    if content is not None:
        (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(GenerationError, match=message):
        GenerationConfig.from_pretrained(tmp_path)


def test_not_utf8(tmp_path):
    (tmp_path / "x.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(GenerationError, match="not valid JSON"):
        read_options(tmp_path / "x.json")


class TestFromModel:
    def test_official_file(self):
        options = GenerationConfig.from_model(Config(), OFFICIAL_FILE)
        assert options.to_dict() == {
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
        }, "use_cache: false of the official files is not a choice of the caller"

    def test_start_token_that_the_file_lacks_comes_from_the_configuration(self):
        assert GenerationConfig.from_model(Config(), {"bos_token_id": 0}).decoder_start_token_id == 2

    def test_file_goes_before_configuration(self):
        options = GenerationConfig.from_model(Config(), {"decoder_start_token_id": 5, "eos_token_id": [3, 4]})
        assert (options.decoder_start_token_id, options.eos_token_id) == (5, (3, 4))

    def test_length_of_the_file_is_honoured(self):
        assert GenerationConfig.from_model(Config(), {"max_length": 20}).max_length == 20

    def test_old_settings_of_the_decoder_apply_without_a_file(self):
        config = Config(decoder=Config(generation_defaults={"max_length": 64, "num_beams": 4}))
        assert GenerationConfig.from_model(config).max_length == 64
        assert GenerationConfig.from_model(config).num_beams == 4
        assert GenerationConfig.from_model(config, OFFICIAL_FILE).num_beams is None

    def test_old_settings_of_the_pair_apply_beside_a_file(self):
        config = Config(generation_defaults={"max_length": 64, "num_beams": 4})
        assert GenerationConfig.from_model(config, OFFICIAL_FILE).max_length == 64
        assert GenerationConfig.from_model(config, {"num_beams": 2}).num_beams == 2
        options = GenerationConfig.from_model(config, {"max_new_tokens": 30})
        assert (options.max_length, options.max_new_tokens) == (None, 30)

    def test_a_real_configuration_with_the_old_library_defaults(self):
        decoder = TrOCRConfig(d_model=8, decoder_attention_heads=2).to_dict()
        decoder |= {"max_length": 20, "num_beams": 1, "top_k": 50}
        config = VisionEncoderDecoderConfig.from_dict(
            {
                "model_type": "vision-encoder-decoder",
                "encoder": ViTConfig(hidden_size=8, num_attention_heads=2).to_dict(),
                "decoder": decoder,
            }
        )
        assert GenerationConfig.from_model(config).to_dict() == {
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
        }

    def test_problems_name_the_file(self):
        with pytest.raises(GenerationError, match=r"generation_config\.json: .*unknown option"):
            GenerationConfig.from_model(Config(), {"num_beem": 2})
        with pytest.raises(GenerationError, match=r"config\.json: .*diversity_penalty"):
            GenerationConfig.from_model(Config(generation_defaults={"diversity_penalty": 0.5}))


def test_sort_keys_suggests_other_names_too():
    with pytest.raises(GenerationError, match="did you mean 'pixel_values'"):
        sort_keys({"pixel_value": 1}, also=("pixel_values",))


@pytest.mark.parametrize(
    ("values", "messages"),
    [
        ({"temperature": 0.5}, ["temperature=0.5 has no effect without do_sample=True"]),
        ({"temperature": 0.5, "do_sample": True}, []),
        ({"temperature": 1.0}, []),
        ({"early_stopping": True, "length_penalty": 2.0}, ["early_stopping=True", "length_penalty=2.0"]),
        ({"early_stopping": True, "length_penalty": 2.0, "num_beams": 2}, []),
        ({"output_scores": True}, ["output_scores=True has no effect without return_dict_in_generate=True"]),
        ({"output_scores": True, "return_dict_in_generate": True}, []),
    ],
)
def test_idle_options(values, messages):
    found = idle(vars(GenerationConfig(**values).completed()), set(values))
    assert len(found) == len(messages)
    for expected, message in zip(messages, found, strict=True):
        assert expected in message
    assert idle(vars(GenerationConfig(**values).completed()), set()) == []
