"""What a changed model of a family must still do: be loaded, read with a cache, and train."""

import copy
from pathlib import Path

import pytest
import torch
from drawn import processor
from families import PAD, difference, ids, labels, load_hf, load_ours
from torch import Tensor, nn

from trocr import TrOCRProcessor, VisionEncoderDecoderModel

AGREES = 1e-5
"""Largest difference from `transformers`, relative to the largest logit: orders of summation differ."""


def image_processor(model: VisionEncoderDecoderModel) -> TrOCRProcessor:
    """The shipped one, for the size of a model's images."""
    made = copy.deepcopy(processor())
    height, width = model.encoder.embeddings.image_hw
    made.image_processor.size = {"height": height, "width": width}
    return made


def pixels(model: VisionEncoderDecoderModel, count: int = 2, *, seed: int = 1) -> Tensor:
    """Random images as the model takes them now."""
    config = model.config.encoder
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, config.num_channels, *config.image_hw, generator=random)


@torch.no_grad()
def logits(model: nn.Module, images: Tensor) -> Tensor:
    return model(pixel_values=images, decoder_input_ids=ids(len(images), 7)).logits


def look(model: VisionEncoderDecoderModel, processor: TrOCRProcessor | None = None) -> dict[str, object]:
    """All that a refused operation must leave as it was, parameters by identity and by value."""
    found: dict[str, object] = {name: (id(p), p.sum().item()) for name, p in model.named_parameters()}
    found |= {name: id(module) for name, module in model.named_modules()}
    found |= {"config": model.config, "training": [m.training for m in model.modules()]}
    found["hooks"] = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    found["images"] = (model.encoder.embeddings.image_hw, model.encoder.embeddings.patch_hw)
    if processor is not None:
        found["processor"] = processor.image_processor.to_dict()
    return found


def assert_loads(model: VisionEncoderDecoderModel, folder: Path, *, in_reference: bool = True) -> None:
    """The saved model gives the same bits here, and the same logits in `transformers`, or it cannot load."""
    model.save_pretrained(folder)
    again = load_ours(folder)
    assert again.config == model.eval().config
    made = pixels(model)
    assert torch.equal(logits(again, made), logits(model, made))
    if in_reference:
        assert difference(logits(load_hf(folder), made), logits(model, made)) < AGREES
    else:
        with pytest.raises(RuntimeError, match=r"size mismatch|ignore_mismatched_sizes"):
            load_hf(folder)


def assert_cached_equals_uncached(model: VisionEncoderDecoderModel) -> None:
    """Generation with a cache gives the same tokens as without, greedily and by beams; and so do logits."""
    made = pixels(model.eval())
    for beams in (1, 2):
        runs = [
            model.generate(made, max_new_tokens=7, num_beams=beams, use_cache=use_cache, pad_token_id=PAD)
            for use_cache in (True, False)
        ]
        assert torch.equal(*runs)
        assert runs[0].shape[1] > 2
    whole, cache, steps = logits(model, made), None, []
    with torch.no_grad():
        for token in ids(2, 7).split(1, dim=1):
            out = model(made, decoder_input_ids=token, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            steps.append(out.logits)
    assert difference(whole, torch.cat(steps, dim=1)) < AGREES


def assert_trains(model: VisionEncoderDecoderModel) -> None:
    """A step gives every parameter a gradient, but for biases of keys: they shift all scores alike."""
    model.train()
    model.zero_grad()
    model(pixel_values=pixels(model), labels=labels(2, 7)).loss.backward()
    for name, parameter in model.named_parameters():
        if "pooler" in name:
            continue
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert name.endswith("k_proj.bias") or bool((parameter.grad != 0).any()), name
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    moved = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert len(moved) > len(before) // 2
    model.eval()


def assert_works(model: VisionEncoderDecoderModel, folder: Path, *, in_reference: bool = True) -> None:
    """All of it."""
    assert_loads(model, folder, in_reference=in_reference)
    assert_cached_equals_uncached(model)
    assert_trains(model)
