"""Captures that several threads or blocks share, parts alone, and what no pattern can be."""

import threading
from contextlib import ExitStack

import pytest
import torch
from inspected import hooks, ids, images, make_model

from trocr.inspect import capture, list_taps, patch
from trocr.nn.attention import Attention
from trocr.surgery.patterns import SurgeryError

PROBS = "decoder.blocks.*.cross_attn.probs"


def cores(model) -> set[str]:
    return {m.core for m in model.modules() if isinstance(m, Attention)}


@torch.no_grad()
def forward(model, rows: int):
    return model(pixel_values=images(model, rows), decoder_input_ids=ids(rows), use_cache=False)


def test_blocks_may_end_in_any_order():
    model = make_model("learned")
    first, second = ExitStack(), ExitStack()
    one = first.enter_context(capture(model, PROBS))
    other = second.enter_context(capture(model, PROBS))
    first.close()
    forward(model, 2)
    assert [len(calls) for calls in one.values()] == [0, 0]
    assert [len(calls) for calls in other.values()] == [1, 1]
    second.close()
    assert cores(model) == {"sdpa"}
    assert hooks(model) == 0


def test_compiling_goes_on_after_blocks_that_end_in_any_order():
    model = make_model("learned")
    compiled = torch.compile(model.encoder, backend="eager")
    before = torch._dynamo.eval_frame._stance
    first, second = ExitStack(), ExitStack()
    first.enter_context(capture(model, "encoder.norm"))
    second.enter_context(capture(model, "encoder.norm"))
    first.close()
    assert torch._dynamo.eval_frame._stance.stance == "force_eager"
    second.close()
    assert torch._dynamo.eval_frame._stance == before
    assert compiled(images(model)).last_hidden_state.shape[0] == 2


def test_threads_read_one_model_with_captures_of_their_own():
    model = make_model("learned")
    model.set_attention("eager")
    pixels = images(model, 2)
    options = {"num_beams": 3, "max_new_tokens": 8, "min_new_tokens": 8}
    plain = model.generate(pixels, **options)
    failed: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(3):
                with capture(model, PROBS) as captured:
                    assert torch.equal(model.generate(pixels, **options), plain)
                # Each call has whole rows, whatever another thread was doing.
                for calls in captured.values():
                    assert {call.shape[:2] for call in calls} <= {(2, 3), (6, 3)}
        except BaseException as error:  # told in the main thread
            failed.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert cores(model) == {"eager"}
    assert hooks(model) == 0


def test_an_error_inside_leaves_nothing_behind():
    model = make_model("learned")
    plain = forward(model, 2).logits
    with pytest.raises(IndexError), capture(model), patch(model, {"*probs": 0.0}):
        model(pixel_values=images(model), decoder_input_ids=ids() + 61)
    with (
        pytest.raises(SurgeryError, match=r"patch of encoder\.norm: the function gave \(\(1, 17, 24\)"),
        patch(model, {"encoder.norm": lambda x: x[:1], "*probs": 0.5}),
    ):
        forward(model, 2)
    assert hooks(model) == 0
    assert cores(model) == {"sdpa"}
    assert torch.equal(forward(model, 2).logits, plain)


def test_a_part_of_a_block_alone_has_its_taps():
    block = make_model("learned").decoder.blocks[0]
    x = torch.randn(2, 5, 36)
    assert [(tap.name, tap.kind) for tap in list_taps(block.cross_attn)][3] == ("probs", "probs")
    with torch.no_grad(), capture(block.self_attn) as captured, capture(block.mlp) as inside:
        block.self_attn(x)
        block.mlp(x)
    assert {name: len(calls) for name, calls in captured.items()} == dict.fromkeys(
        ("q_proj", "k_proj", "v_proj", "probs", "attn_out", "out_proj"), 1
    )
    assert captured["probs"][0].shape == (2, 3, 5, 5)
    assert {name: tuple(calls[0].shape) for name, calls in inside.items()} == {
        "fc1": (2, 5, 56),
        "act": (2, 5, 56),
        "fc2": (2, 5, 36),
    }


@pytest.mark.parametrize("patterns", [None, 3, ["encoder.norm", 3]])
def test_patterns_are_strings(patterns):
    with (
        pytest.raises(SurgeryError, match=r"patterns of taps are .*, expected a string or a list of strings"),
        capture(make_model("learned"), patterns),
    ):
        pass


def test_patterns_may_come_from_anything_that_gives_them():
    with capture(make_model("learned"), (f"encoder.blocks.{i}.attn_norm" for i in (0, 1))) as captured:
        pass
    assert list(captured) == ["encoder.blocks.0.attn_norm", "encoder.blocks.1.attn_norm"]


def test_what_is_no_model_or_no_mapping_is_refused():
    with pytest.raises(
        SurgeryError, match="a str cannot be looked into: expected a model as `from_pretrained`"
    ):
        list_taps("tiny-printed")
    with (
        pytest.raises(SurgeryError, match=r"patch: got a list, expected \{pattern: function or"),
        patch(make_model("learned"), [("encoder.norm", 0.0)]),
    ):
        pass
    with pytest.raises(RuntimeError, match="nowhere"), capture(make_model("learned"), device="nowhere"):
        pass
