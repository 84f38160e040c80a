"""The logit lens: each layer's row is what the model without the blocks above it would say."""

import json

import pytest
import torch
from inspected import FAMILIES, ids, images, make_model
from torch import nn

from trocr import TrOCRProcessor, VisionEncoderDecoderModel
from trocr.hub import PRETRAINED
from trocr.inspect import logit_lens
from trocr.inspect.lens import _layer_states
from trocr.surgery.patterns import SurgeryError

SHIPPED = PRETRAINED / "tiny-printed"


@pytest.fixture(scope="module")
def shipped() -> tuple[VisionEncoderDecoderModel, TrOCRProcessor]:
    return VisionEncoderDecoderModel.from_pretrained(SHIPPED), TrOCRProcessor.from_pretrained(SHIPPED)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_layer_is_the_model_without_the_blocks_above(family):
    model = make_model(family)
    memory = model.memory(model.encode(images(model)))
    states = _layer_states(model, ids(), memory)
    assert list(states) == ["embeddings", "block 0", "block 1"]
    blocks = list(model.decoder.blocks)
    for kept, state in enumerate(states.values()):
        model.decoder.blocks = nn.ModuleList(blocks[:kept])
        logits = model.decoder(input_ids=ids()[:, :-1], encoder_hidden_states=memory, use_cache=False).logits
        assert torch.equal(model.decoder.output_projection(state), logits)


def test_the_last_layer_is_what_the_model_wrote(shipped, repo):
    model, processor = shipped
    lens = logit_lens(model, processor, repo / "examples" / "number.png", top_k=2)
    assert lens.text == "Invoice No. 4471-0932"
    assert lens.layers == ("embeddings", "block 0", "block 1", "block 2")
    assert [names[0] for names in lens.names[-1]] == list(lens.tokens)
    assert "".join(lens.tokens[:-1]) == lens.text
    assert torch.equal(lens.written[-1], lens.probs[-1, :, 0])
    assert bool((lens.probs[..., 0] >= lens.probs[..., 1]).all())
    # The lens must tell layers apart: the model decides in its last block.
    assert (lens.written[-1] > lens.written[1]).all()


def test_table_and_values(shipped, repo):
    path = repo / "examples" / "heading.jpg"
    lens = logit_lens(*shipped, path, top_k=2)
    first, head, *rows = lens.table().splitlines()
    assert first == f"{path}: Annual Report 1987"
    assert head.split("  ")[0] == "token"
    assert head.endswith("block 2")
    assert len(rows) == 2 * len(lens.tokens)
    assert rows[0].startswith("'A' ")
    assert rows[0].endswith(f"'A' {float(lens.probs[-1, 0, 0]):.2f}")
    assert rows[1].startswith("   ")
    values = json.loads(json.dumps(lens.to_dict()))
    top = values["tokens"][3]["layers"][3]["top"]
    assert [entry["token"] for entry in top] == list(lens.names[3][3])
    assert top[0]["prob"] == pytest.approx(float(lens.probs[3, 3, 0]), abs=1e-6)


@pytest.mark.parametrize("top_k", [0, 521])
def test_candidates_are_limited(shipped, repo, top_k):
    with pytest.raises(SurgeryError, match=f"top_k is {top_k}, expected 1 to 520"):
        logit_lens(*shipped, repo / "examples" / "heading.jpg", top_k=top_k)
