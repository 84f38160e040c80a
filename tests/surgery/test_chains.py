"""Operations one after another, drawn at random: reports stay true, and the result still is a whole model."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from adapted import disturb
from families import FAMILIES, difference, load_ours
from proofs import assert_works, logits, look, pixels
from torch import Tensor, nn
from vocabulary_cases import ENGLISH, FRENCH, KINDS, make

from trocr import TrOCRProcessor, VisionEncoderDecoderModel
from trocr.nn.attention import Attention
from trocr.nn.mlp import MLP
from trocr.surgery.adapter_state import find_adapted
from trocr.surgery.adapters import add_adapter, merge_adapter, remove_adapter, unmerge_adapter
from trocr.surgery.depth import drop_blocks, keep_blocks
from trocr.surgery.freezing import freeze, unfreeze
from trocr.surgery.image_shape import resize_images
from trocr.surgery.parts import replace_decoder, replace_encoder
from trocr.surgery.patterns import SurgeryError
from trocr.surgery.pruning import prune_heads, prune_units
from trocr.surgery.report import SurgeryReport
from trocr.surgery.vocabulary import extend_vocabulary, shrink_vocabulary

MERGED = 5e-5
"""Of the largest logit; the chains' random models are choosier than trained ones."""

LENGTH = 6
SAME = ("carried", "composed", "moved", "merged")
"""Actions that may leave the values as they were."""


def drawn_operation(
    rng: random.Random, model: VisionEncoderDecoderModel, processor: TrOCRProcessor
) -> Callable[[], SurgeryReport]:
    """An operation on a model, which may be one that cannot be done."""
    old_hw, patch_hw = model.encoder.embeddings.image_hw, model.encoder.embeddings.patch_hw
    scores = torch.Generator().manual_seed(rng.randrange(99))
    stack = rng.choice(["encoder", "decoder"])
    count = len(getattr(model, stack).blocks)

    def importance(kind: type[nn.Module], size: Callable[[nn.Module], int]) -> dict[str, Tensor]:
        found = {name: part for name, part in model.named_modules() if isinstance(part, kind)}
        return {name: torch.rand(size(part), generator=scores) for name, part in found.items()}

    def patch() -> SurgeryReport:
        new, rows = (rng.randint(3, 12), rng.randint(3, 12)), (rng.randint(1, 3), rng.randint(1, 3))
        size = (new[0] * rows[0], new[1] * rows[1])
        return resize_images(model, processor=processor, image_size=size, patch_size=new)

    def resize() -> SurgeryReport:
        size = (patch_hw[0] * rng.randint(1, 3), patch_hw[1] * rng.randint(1, 5))
        return resize_images(model, processor=processor, image_size=size)

    def extend_positions() -> SurgeryReport:
        size = (old_hw[0], old_hw[1] + patch_hw[1])
        return resize_images(model, processor=processor, image_size=size, positions="extend")

    def other() -> tuple[VisionEncoderDecoderModel, TrOCRProcessor]:
        return make(rng.choice(list(FAMILIES)), rng.choice(KINDS))

    def decoder() -> SurgeryReport:
        part, its_processor = other()
        text = its_processor.tokenizer
        return replace_decoder(model, part.decoder, processor=processor, tokenizer=text)

    def adapter() -> SurgeryReport:
        modules = rng.choice(["*_attn.[qv]_proj", "*.blocks.*", "decoder.blocks.0.*"])
        also = rng.choice([(), "encoder.embeddings", "decoder.embed_tokens"])
        return add_adapter(model, modules=modules, kind=rng.choice(["lora", "dora"]), also_train=also)

    return rng.choice(
        [
            lambda: extend_vocabulary(model, rng.sample("éœçЖ你ﷺü", 3), processor=processor),
            lambda: shrink_vocabulary(model, rng.choice([ENGLISH, FRENCH]), processor=processor),
            resize,
            patch,
            extend_positions,
            lambda: resize_images(model, processor=processor, num_channels=rng.choice([1, 3])),
            lambda: keep_blocks(model, [rng.randrange(count) for _ in range(2)], stack=stack),
            lambda: drop_blocks(model, [rng.randrange(count)], stack=stack),
            lambda: prune_heads(model, share=0.3, importance=importance(Attention, lambda p: p.num_heads)),
            lambda: prune_units(
                model, keep_units=rng.randint(4, 50), importance=importance(MLP, lambda p: p.fc1.out_features)
            ),
            lambda: freeze(model, "*norm*"),
            adapter,
            lambda: merge_adapter(model, keep_base=rng.random() < 0.7),
            lambda: unmerge_adapter(model),
            lambda: remove_adapter(model),
            lambda: replace_encoder(model, other()[0].encoder, processor=processor, projection=True),
            decoder,
        ]
    )


def assert_report_is_true(report: SurgeryReport, before: dict[str, Tensor], model: nn.Module) -> None:
    """What changed is named, as what it is; what is named as changed has changed."""
    told = {c.name: c.action for c in report.changes if c.action not in ("removed", "kept")}
    gone = {c.name for c in report.changes if c.action == "removed"}
    moved = {c.source for c in report.changes}
    for name, parameter in model.named_parameters():
        if name not in before or not torch.equal(before[name], parameter):
            assert name in told, (report.operation, name)
        else:
            assert told.get(name) in (None, "carried", "composed", "moved", "merged"), (
                report.operation,
                name,
            )
    left = before.keys() - dict(model.named_parameters()).keys()
    assert left <= gone | moved, report.operation


@pytest.mark.parametrize("seed", range(8))
def test_any_chain_leaves_a_whole_model(seed: int, tmp_path: Path):
    rng = random.Random(seed)
    model, processor = make(rng.choice(list(FAMILIES)), rng.choice(KINDS))
    model.save_pretrained(tmp_path / "start")
    model = load_ours(tmp_path / "start")
    done = 0
    while done < LENGTH:
        act = drawn_operation(rng, model, processor)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        seen = look(model, processor)
        try:
            report = act()
        except SurgeryError:
            assert look(model, processor) == seen
            continue
        done += 1
        assert_report_is_true(report, before, model)
        if report.operation == "add_adapter":
            disturb(model)
    if find_adapted(model):
        made = pixels(model)
        expected = logits(model, made)
        merge_adapter(model)
        assert difference(expected, logits(model, made)) < MERGED
    unfreeze(model, "*")
    is_plain = model.config.encoder.block_shapes is model.config.decoder.block_shapes is None
    assert_works(model, tmp_path / "end", in_reference=is_plain)
