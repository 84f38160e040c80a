"""Models and checks that the tests of parts share."""

import copy
import dataclasses

import torch
from drawn import processor as shipped_processor
from drawn import small_model
from timm_cases import stir

from trocr import VisionEncoderDecoderModel
from trocr.config import ViTConfig
from trocr.models import ViTModel

REFERENCE_TOLERANCE = 1e-5
"""Relative, of logits against transformers: the order of summation differs."""

SMALL_VIT = {"embed_dim": 16, "depth": 1, "num_heads": 2}
IMAGE_HW = (32, 640)
"""Of `small_model` and of its processor."""


def fresh(**options):
    return small_model(**options).eval(), shipped_processor()


def logits(model, pixels, tokens):
    with torch.no_grad():
        return model(pixels, decoder_input_ids=tokens).logits


def pixels_of(model, seed=1):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(2, model.config.encoder.num_channels, *model.config.encoder.image_hw, generator=random)


def state(model, processor):
    tensors = {key: value.clone() for key, value in model.state_dict().items()}
    flags = {key: parameter.requires_grad for key, parameter in model.named_parameters()}
    settings = (model.config, model.generation_config.to_dict(), processor.image_processor.to_dict())
    return (
        tensors,
        flags,
        settings,
        processor.tokenizer,
        processor.image_processor,
        model.encoder,
        model.decoder,
    )


def assert_untouched(model, processor, before):
    after = state(model, processor)
    assert list(after[0]) == list(before[0])
    assert all(torch.equal(value, after[0][key]) for key, value in before[0].items())
    assert after[1:3] == before[1:3]
    assert all(x is y for x, y in zip(after[3:], before[3:], strict=True))


def check_whole(model, processor, report, folder):
    """What holds after every operation: the report is true, the model reloads, generates and trains."""
    names = [change.name for change in report.changes if change.action != "removed"]
    assert len(names) == len(set(names))
    assert report.kept + len(names) == len(list(model.named_parameters()))
    model.eval()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    again = VisionEncoderDecoderModel.from_pretrained(folder)
    assert again.config.to_dict() == dataclasses.replace(model.config, dtype="float32").to_dict()
    assert again.generation_config.to_dict() == model.generation_config.to_dict()
    pixels = pixels_of(model)
    tokens = torch.tensor([[2, 5, 6, 7], [2, 9, 8, 4]])
    assert torch.equal(logits(model, pixels, tokens), logits(again, pixels, tokens))
    options = {"max_new_tokens": 6, "eos_token_id": None}
    with torch.no_grad():
        found = model.generate(pixels, use_cache=True, **options)
        assert torch.equal(found, model.generate(pixels, use_cache=False, **options))
    trained = copy.deepcopy(model).train()
    stir(trained)  # timm starts some norms at zero
    with torch.enable_grad():
        trained(pixels, labels=torch.tensor([[5, 6, 2], [9, 2, -100]])).loss.backward()
    for key, parameter in trained.named_parameters():
        if parameter.requires_grad and ".pooler." not in key and not key.endswith("k_proj.bias"):
            assert parameter.grad is not None, key
            assert float(parameter.grad.abs().max()) > 0, key


def vit_encoder(width, **options):
    torch.manual_seed(3)
    sizes = {"image_size": IMAGE_HW, "patch_size": (32, 8), "hidden_size": width, "num_hidden_layers": 1}
    config = ViTConfig(**{**sizes, "num_attention_heads": 2, "intermediate_size": 32, **options})
    return ViTModel(config, add_pooling_layer=False)
