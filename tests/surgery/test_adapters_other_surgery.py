"""Adapters and other operations: what no longer fits is refused before, or forgotten and told."""

import pytest
import torch
from adapted import disturb, equal, look, parameters
from vocabulary_cases import ENGLISH, make, refused, tokenizer

from trocr.surgery.adapters import add_adapter, merge_adapter, remove_adapter, save_adapter, unmerge_adapter
from trocr.surgery.image_shape import resize_images
from trocr.surgery.parts import replace_decoder, replace_encoder
from trocr.surgery.patterns import SurgeryError
from trocr.surgery.vocabulary import extend_vocabulary, replace_tokenizer, shrink_vocabulary

MANY = [f"Ж你{number}" for number in range(20)]
"""More tokens than the models have rows to spare."""

CHANGES = {
    "extend": lambda model, processor: extend_vocabulary(model, MANY, processor=processor),
    "shrink": lambda model, processor: shrink_vocabulary(model, ENGLISH, processor=processor),
    "replace": lambda model, processor: replace_tokenizer(model, tokenizer("wordpiece"), processor=processor),
    "resize": lambda model, processor: resize_images(model, processor=processor, image_size=(32, 64)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_model_with_an_adapter_is_refused(change, tmp_path):
    model, processor = make("learned")
    add_adapter(model, also_train=["decoder.embed_tokens", "encoder.embeddings"])
    disturb(model)
    with refused(model, processor, r"12 layers have an adapter .*merge it first \(merge_adapter\)"):
        CHANGES[change](model, processor)
    save_adapter(model, tmp_path)
    remove_adapter(model)


@pytest.mark.parametrize("change", CHANGES)
def test_a_merged_adapter_is_forgotten_and_that_is_told(change):
    model, processor = make("learned")
    add_adapter(model, also_train=["decoder.embed_tokens", "encoder.embeddings"])
    disturb(model)
    merge_adapter(model)
    report = CHANGES[change](model, processor)
    assert "the adapter that was merged can no longer be taken out" in report.notes[-1]
    before, values = look(model), parameters(model)
    for act in (unmerge_adapter, remove_adapter):
        with pytest.raises(SurgeryError, match=r"there is no merged adapter|this model has no adapter"):
            act(model)
    assert look(model) == before
    assert equal(parameters(model), values)
    add_adapter(model)


def test_what_changes_nothing_forgets_nothing():
    model, processor = make("learned")
    before = parameters(model)
    add_adapter(model)
    disturb(model)
    merge_adapter(model)
    resize_images(model, processor=processor, image_size=32)
    extend_vocabulary(model, ["a"], processor=processor)
    remove_adapter(model)
    assert equal(parameters(model), before)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_part_with_an_adapter_is_refused(part):
    (model, processor), (other, its_processor) = make("learned"), make("learned")
    add_adapter(other, modules=f"{part}*_attn.[qv]_proj")
    with refused(model, processor, r"layers have an adapter \(blocks"):
        if part == "encoder":
            replace_encoder(model, other.encoder, processor=processor)
        else:
            replace_decoder(model, other.decoder, processor=processor, tokenizer=its_processor.tokenizer)
    remove_adapter(other)
    replace_encoder(model, other.encoder, processor=processor)
    assert torch.equal(model.encoder.norm.weight, other.encoder.norm.weight)
