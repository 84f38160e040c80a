import warnings

import pytest
import torch
from toys import EOS, PAD, pixels, spell, toy

from trocr.generation import GenerateOutput, GenerationConfig, GenerationError, generate
from trocr.generation.request import check_vocabulary, resolve_options


def test_ids_come_back_with_start_and_padding():
    sequences = generate(spell([5, 6, EOS], [EOS]), pixels(0, 1))
    assert sequences.tolist() == [[2, 5, 6, 2], [2, 2, PAD, PAD]]
    assert sequences.dtype == torch.long
    assert not sequences.is_inference()


def test_first_argument_and_name_are_the_same():
    model = toy()
    first = generate(model, pixels(0, 1), max_new_tokens=4)
    assert torch.equal(first, generate(model, pixel_values=pixels(0, 1), max_new_tokens=4))
    with pytest.raises(
        GenerationError, match="first argument of generate is pixel_values, also given by name"
    ):
        generate(model, pixels(0), pixel_values=pixels(0))


def test_input_ids_are_the_prefix_of_an_image_model():
    model = toy()
    prefix = torch.tensor([[5], [6]])
    expected = generate(model, pixels(0, 1), decoder_input_ids=prefix, max_new_tokens=4)
    assert torch.equal(generate(model, pixels(0, 1), input_ids=prefix, max_new_tokens=4), expected)
    assert expected[:, :2].tolist() == [[2, 5], [2, 6]]


def test_no_gradients_and_training_mode_left_alone():
    model = spell([5, EOS])
    model.decoder.table.requires_grad_()
    out = generate(model, pixels(0), return_dict_in_generate=True, output_logits=True)
    assert not out.logits[0].requires_grad
    assert torch.is_grad_enabled()


class TestPrecedence:
    own = GenerationConfig(num_beams=2, max_length=9, pad_token_id=1, eos_token_id=2, temperature=0.5)

    def test_names_before_configuration_before_model_before_defaults(self):
        given = GenerationConfig(num_beams=3, min_length=4)
        options, chosen = resolve_options(self.own, given, {"num_beams": 4})
        assert (options.num_beams, options.max_length, options.min_length, options.top_p) == (4, 9, 4, 1.0)
        assert chosen == {"num_beams", "min_length"}

    def test_none_switches_an_option_off(self):
        options, chosen = resolve_options(
            self.own, None, {"top_k": None, "eos_token_id": None, "temperature": None, "num_beams": None}
        )
        assert (options.top_k, options.eos_token_id, options.temperature) == (None, None, None)
        assert options.num_beams == 1
        assert chosen == frozenset()

    def test_end_token_stands_in_for_padding(self):
        options, _ = resolve_options(GenerationConfig(eos_token_id=[7, 8]), None, {})
        assert options.pad_token_id == 7

    def test_conflicts_are_seen_after_merging(self):
        with pytest.raises(GenerationError, match="num_return_sequences=3 is more than num_beams=2"):
            resolve_options(self.own, GenerationConfig(num_return_sequences=3), {})
        options, _ = resolve_options(self.own, GenerationConfig(num_return_sequences=3), {"num_beams": 3})
        assert options.num_return_sequences == 3

    def test_only_the_callers_idle_options_are_warned_about(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            resolve_options(self.own, None, {})
        with pytest.warns(UserWarning, match=r"temperature=0.7 has no effect without do_sample=True"):
            resolve_options(self.own, None, {"temperature": 0.7})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_beam": 2}, "unknown option 'num_beam' .* did you mean 'num_beams'"),
        ({"pixel_valus": 2}, "did you mean 'pixel_values'"),
        ({"streamr": 2}, "did you mean 'streamer'"),
        ({"attention_mask": 2}, "unknown option 'attention_mask'"),
        ({"stop_strings": ["a"]}, "stop_strings=.* is not supported"),
        ({"num_return_sequences": 2}, "num_return_sequences=2 needs num_beams > 1 or do_sample=True"),
        ({"max_new_tokens": 21}, "max_new_tokens=21 asks for rows of 22 tokens, .* at most 20"),
        ({"seed": 1, "generator": torch.Generator()}, "seed and generator are both given"),
        ({"eos_token_id": 8}, r"outside the vocabulary \(0 to 7\): eos_token_id has 8"),
    ],
)
def test_bad_arguments(arguments, message):
    model = toy()
    with pytest.raises(GenerationError, match=message):
        generate(model, pixels(0), **arguments)
    assert model.encoded == 0, "what can be checked is checked before the images are encoded"


def test_a_configuration_of_another_library():
    with pytest.raises(GenerationError, match=r"generation_config is dict, expected trocr\.GenerationConfig"):
        generate(toy(), pixels(0), {"num_beams": 2})


@pytest.mark.filterwarnings("ignore:.*were cut:UserWarning")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.5}, "no effect without do_sample"),
        ({"max_length": 9}, "has no effect: the model's generation_config sets max_new_tokens=4"),
        ({}, "were cut at 5 tokens"),
    ],
)
def test_warnings_point_at_the_caller(arguments, message):
    model = spell([5, 6] * 9)
    model.generation_config = model.generation_config.update(max_new_tokens=4)
    model.generate = lambda *args, **options: generate(model, *args, **options)
    with pytest.warns(UserWarning, match=message) as caught:
        model.generate(pixels(0), **arguments)
    assert {warning.filename for warning in caught} == {__file__}


def test_ids_outside_the_vocabulary_come_in_one_message():
    options = GenerationConfig(
        bad_words_ids=[[3, 99]], sequence_bias=[[[98], 1.0]], suppress_tokens=[97], forced_eos_token_id=96
    )
    with pytest.raises(GenerationError) as error:
        check_vocabulary(options, 90)
    for part in (
        "bad_words_ids has 99",
        "sequence_bias has 98",
        "suppress_tokens has 97",
        "forced_eos_token_id has 96",
    ):
        assert part in str(error.value)


class TestLength:
    long = [5, 6] * 9

    def test_no_text_is_cut_in_silence(self):
        model = spell(self.long, [5, EOS])
        with pytest.warns(UserWarning, match="1 of 2 rows were cut at 21 tokens .the model's 20 positions."):
            sequences = generate(model, pixels(0, 1))
        assert sequences.shape == (2, 21)

    def test_the_models_own_limit_warns_too(self):
        model = spell(self.long)
        model.generation_config = model.generation_config.update(max_new_tokens=4)
        with pytest.warns(
            UserWarning, match="cut at 5 tokens .max_new_tokens=4 of the model's generation_config"
        ):
            generate(model, pixels(0))

    def test_the_callers_limit_does_not(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            out = generate(
                spell(self.long, [5, EOS]), pixels(0, 1), max_length=6, return_dict_in_generate=True
            )
        assert out.finished.tolist() == [False, True]

    @pytest.mark.parametrize("num_beams", [1, 2])
    def test_a_forced_end_is_no_end(self, num_beams):
        model = spell(self.long, [5, 6, EOS], [5, 6, 7, EOS])
        out = generate(
            model,
            pixels(0, 1, 2),
            max_length=5,
            num_beams=num_beams,
            forced_eos_token_id=EOS,
            return_dict_in_generate=True,
        )
        assert out.sequences[:, 1:].tolist() == [[5, 6, 5, EOS], [5, 6, EOS, PAD], [5, 6, 7, EOS]]
        assert out.finished.tolist() == [False, True, False], "what was forced says nothing"

    def test_time_is_a_limit(self):
        out = generate(spell(self.long), pixels(0), max_time=1e-9, return_dict_in_generate=True)
        assert out.sequences.shape == (1, 2)
        assert out.finished.tolist() == [False]


class TestSampling:
    def test_seed_leaves_the_global_state_alone(self):
        model = toy()
        state = torch.get_rng_state()
        first = generate(model, pixels(0, 1), do_sample=True, seed=5, max_new_tokens=8)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(first, generate(model, pixels(0, 1), do_sample=True, seed=5, max_new_tokens=8))
        assert not torch.equal(first, generate(model, pixels(0, 1), do_sample=True, seed=6, max_new_tokens=8))

    def test_seed_draws_what_the_global_seed_draws(self):
        model = toy()
        options = {"do_sample": True, "num_return_sequences": 3, "max_new_tokens": 8}
        expected = generate(model, pixels(0, 1), seed=5, **options)
        torch.manual_seed(5)
        assert torch.equal(generate(model, pixels(0, 1), **options), expected)
        own = torch.Generator().manual_seed(5)
        assert torch.equal(generate(model, pixels(0, 1), generator=own, **options), expected)
        assert expected.shape[0] == 6

    def test_results_of_an_image_stay_together(self):
        model = spell([5, EOS], [6, EOS])
        sequences = generate(model, pixels(0, 1), do_sample=True, num_return_sequences=2)
        assert sequences[:, 1].tolist() == [5, 5, 6, 6]


def test_constraint_function_sees_image_and_row():
    seen = []

    def allowed(image: int, ids: torch.Tensor) -> list[int]:
        seen.append((image, ids.tolist()))
        return [6] if len(ids) < 3 else [EOS]

    model = spell([5, EOS], [7, EOS])
    sequences = generate(model, pixels(0, 1), prefix_allowed_tokens_fn=allowed)
    assert sequences.tolist() == [[2, 6, 6, 2], [2, 6, 6, 2]]
    assert seen[:4] == [(0, [2]), (1, [2]), (0, [2, 6]), (1, [2, 6])]
    seen.clear()
    generate(model, pixels(0, 1), prefix_allowed_tokens_fn=allowed, num_beams=2)
    assert [image for image, _ in seen[:4]] == [0, 0, 1, 1]


def test_custom_processors_and_criteria():
    def never_six(ids, scores):
        return scores.index_fill(1, torch.tensor([6]), -torch.inf)

    def after_two(ids, scores):
        return ids.shape[1] >= 3

    sequences = generate(toy(), pixels(0, 1, 2), logits_processor=[never_six], max_new_tokens=9)
    assert 6 not in sequences
    sequences = generate(spell([5, 6, 7, EOS]), pixels(0), stopping_criteria=[after_two])
    assert sequences.tolist() == [[2, 5, 6]]


def test_output_object():
    out = generate(spell([5, EOS]), pixels(0), return_dict_in_generate=True)
    assert isinstance(out, GenerateOutput)
    assert out.sequences.tolist() == [[2, 5, 2]]


@pytest.mark.parametrize("num_beams", [1, 3])
def test_cached_and_uncached_are_the_same(num_beams):
    model = toy(seed=7)
    options = {
        "num_beams": num_beams,
        "max_new_tokens": 8,
        "return_dict_in_generate": True,
        "output_scores": True,
    }
    cached = generate(model, pixels(0, 1, 2), **options)
    plain = generate(model, pixels(0, 1, 2), use_cache=False, **options)
    assert torch.equal(cached.sequences, plain.sequences)
    assert all(map(torch.equal, cached.scores, plain.scores))


def test_large_batches_give_what_small_ones_give():
    model = toy(num_images=3, seed=8)
    many = [i % 3 for i in range(40)]
    together = generate(model, pixels(*many), max_new_tokens=12)
    for row, image in zip(together, many, strict=True):
        alone = generate(model, pixels(image), max_new_tokens=12)[0]
        assert row[: len(alone)].tolist() == alone.tolist()
        assert (row[len(alone) :] == PAD).all()
