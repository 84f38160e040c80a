from types import SimpleNamespace

import pytest
import torch
from toys import ToyModel, pixels, toy

from trocr.generation import GenerationConfig, GenerationError, generate
from trocr.generation.inputs import ImageInputs, TextInputs
from trocr.outputs import BaseModelOutput

OPTIONS = GenerationConfig(decoder_start_token_id=2, pad_token_id=1, eos_token_id=2)


def image_tokens(options=OPTIONS, **given):
    return ImageInputs(pixel_values=pixels(0, 1), **given).tokens(toy(), options)


def text_tokens(options=OPTIONS, **given):
    model = SimpleNamespace(config=SimpleNamespace(vocab_size=8), device=torch.device("cpu"))
    return TextInputs(**given).tokens(model, options)


def test_rows_begin_with_the_start_token():
    ids, mask = image_tokens()
    assert (ids.tolist(), mask) == ([[2], [2]], None)
    ids, _ = image_tokens(OPTIONS.update(decoder_start_token_id=[3, 4]))
    assert ids.tolist() == [[3], [4]]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([[5, 6], [6, 7]], [[2, 5, 6], [2, 6, 7]]),
        ([[2, 6], [2, 7]], [[2, 6], [2, 7]]),
        ([[2, 6], [6, 7]], [[2, 6], [6, 7]]),  # one row has it: the reference takes the prefix as it is
        ([[], []], [[2], [2]]),
    ],
)
def test_prefix(given, expected):
    ids, mask = image_tokens(decoder_input_ids=torch.tensor(given, dtype=torch.long).view(2, -1))
    assert (ids.tolist(), mask) == (expected, None)


def test_masks_of_the_prefix():
    prefix, mask = torch.tensor([[5, 6], [6, 7]]), torch.tensor([[0, 1], [1, 1]])
    assert image_tokens(decoder_input_ids=prefix, decoder_attention_mask=mask)[1].tolist() == [
        [1, 0, 1],
        [1, 1, 1],
    ]
    assert image_tokens(decoder_input_ids=prefix, decoder_attention_mask=torch.ones(2, 2))[1] is None


def test_text_begins_with_the_start_token():
    assert text_tokens()[0].tolist() == [[2]]
    assert text_tokens(encoder_hidden_states=torch.zeros(3, 1, 1))[0].tolist() == [[2], [2], [2]]


def test_padding_of_text_does_not_count():
    ids = torch.tensor([[1, 2, 5], [2, 5, 6]])
    assert text_tokens(input_ids=ids)[1].tolist() == [[0, 1, 1], [1, 1, 1]]
    assert text_tokens(input_ids=ids[1:])[1] is None
    assert text_tokens(OPTIONS.update(pad_token_id=2), input_ids=ids)[1] is None, (
        "padding that is the end token"
    )
    assert text_tokens(input_ids=ids, attention_mask=torch.tensor([[1, 1, 1], [0, 1, 1]]))[1].tolist()[1] == [
        0,
        1,
        1,
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"decoder_input_ids": torch.tensor([[5]])}, "decoder_input_ids has 1 rows, there are 2 images"),
        (
            {"decoder_input_ids": torch.tensor([[5], [8]])},
            "ids from 5 to 8, the model's vocabulary has ids 0 to 7",
        ),
        ({"decoder_input_ids": torch.tensor([[5], [-1]])}, "ids from -1 to 5"),
        (
            {"decoder_input_ids": torch.tensor([5, 6])},
            r"decoder_input_ids is shape \(2,\).*expected whole numbers",
        ),
        ({"decoder_input_ids": torch.rand(2, 2)}, "torch.float32, expected whole numbers of shape"),
        ({"decoder_input_ids": [[5], [6]]}, "decoder_input_ids is list, expected whole numbers"),
        (
            {"decoder_input_ids": torch.tensor([[5], [6]]), "decoder_attention_mask": torch.ones(2, 3)},
            r"decoder_attention_mask has shape \(2, 4\), expected that of the ids, \(2, 2\)",
        ),
        (
            {"options": OPTIONS.update(decoder_start_token_id=None)},
            "no start token: set decoder_start_token_id",
        ),
        (
            {"options": OPTIONS.update(decoder_start_token_id=[3, 4, 5])},
            "has 3 ids, expected 1 or 2, one per image",
        ),
    ],
)
def test_bad_image_inputs(given, message):
    with pytest.raises(GenerationError, match=message):
        image_tokens(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"input_ids": torch.zeros(2, 0, dtype=torch.long)}, "input_ids has no tokens; leave it out"),
        (
            {"input_ids": torch.tensor([[2]]), "encoder_hidden_states": torch.zeros(3, 1, 1)},
            "encoder_hidden_states has 3 rows, input_ids 1",
        ),
        ({"input_ids": torch.tensor([[9]])}, "does the tokenizer belong to this model"),
    ],
)
def test_bad_text_inputs(given, message):
    with pytest.raises(GenerationError, match=message):
        text_tokens(**given)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (None, "pixel_values is NoneType, expected .* as in"),
        ([[1.0]], "pixel_values is list, expected"),
        (torch.zeros(0, 3, 8, 8), r"pixel_values has shape \(0, 3, 8, 8\), expected a batch of images"),
        (torch.zeros(3), "expected a batch of images"),
    ],
)
def test_bad_images(images, message):
    with pytest.raises(GenerationError, match=message):
        generate(toy(), images)


class Output:
    """An encoder's output of another library."""

    def __init__(self, states: torch.Tensor) -> None:
        self.last_hidden_state = states


@pytest.mark.parametrize(
    "wrap", [lambda t: BaseModelOutput(last_hidden_state=t), Output, lambda t: (t,), lambda t: (t, (t, t))]
)
def test_images_that_are_encoded_already(wrap):
    model = toy()
    expected = generate(model, pixels(1, 2), max_new_tokens=5)
    encoded = wrap(pixels(1, 2)[:, 0])
    before = model.encoded
    assert torch.equal(generate(model, encoder_outputs=encoded, max_new_tokens=5), expected)
    assert model.encoded == before


def test_encoder_outputs_of_the_wrong_kind():
    with pytest.raises(GenerationError, match=r"encoder_outputs is int, expected what model\.encode"):
        generate(toy(), encoder_outputs=3)


def test_encoder_options_arrive():
    seen = {}

    class Model(ToyModel):
        def encode(self, pixel_values, **options):
            seen.update(options)
            return super().encode(pixel_values, **options)

    generate(Model(toy().decoder), pixels(0), max_new_tokens=2, interpolate_pos_encoding=True)
    assert seen == {
        "interpolate_pos_encoding": True,
        "output_attentions": False,
        "output_hidden_states": False,
    }
