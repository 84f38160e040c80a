import pytest
import torch

from trocr import TrOCRConfig, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig


@pytest.fixture(scope="module")
def model() -> VisionEncoderDecoderModel:
    encoder = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=16)
    decoder = TrOCRConfig(vocab_size=20, d_model=8, decoder_layers=1, decoder_attention_heads=2)
    return VisionEncoderDecoderModel(
        VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    ).eval()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([5, 2]), r"labels are \(2,\), expected a tensor of ids \(rows, tokens\)"),
        ([[5, 2]], "labels are list, expected a tensor"),
        (torch.tensor([[5.0, 2.0]]), "type torch.float32, expected at least one whole number"),
        (torch.tensor([[5, 20]]), "labels range from 5 to 20, expected ids 0 to 19"),
        (torch.tensor([[5, -1]]), "labels range from -1 to 5, expected ids 0 to 19"),
    ],
)
def test_labels_that_do_not_fit(model: VisionEncoderDecoderModel, labels, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(1, 3, 16, 16), labels=labels)


def test_nothing_to_read(model: VisionEncoderDecoderModel) -> None:
    with pytest.raises(ValueError, match="pixel_values is missing: give images, or encoder_outputs"):
        model(decoder_input_ids=torch.tensor([[2]]))
    with pytest.raises(ValueError, match="either token ids or their embeddings, neither were given"):
        model(torch.zeros(1, 3, 16, 16))
