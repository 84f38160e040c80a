"""Patching changes exactly what follows from it, and what does not fit is refused."""

import itertools

import pytest
import torch
from inspected import hooks, ids, images, make_model
from tapped import cores, forward, taps_of
from torch import Tensor, nn

from trocr.inspect import capture, patch
from trocr.inspect.taps import choose_taps
from trocr.surgery.patterns import SurgeryError


def dependents(model) -> dict[str, set[str]]:
    """Tap -> the taps that it influences, told by gradients; patching makes each a tensor of its own."""
    with (
        patch(model, {"*": lambda x: x if x.requires_grad else x.requires_grad_()}),
        capture(model, detach=False) as captured,
    ):
        model(pixel_values=images(model), decoder_input_ids=ids(), use_cache=False)
    values = {name: calls[0] for name, calls in captured.items()}
    found = {name: set() for name in values}
    names = list(values)
    for target, value in values.items():
        weights = torch.randn(value.shape, generator=torch.Generator().manual_seed(5))
        gradients = torch.autograd.grad(
            (value * weights).sum(), list(values.values()), retain_graph=True, allow_unused=True
        )
        for name, gradient in zip(names, gradients, strict=True):
            if name != target and gradient is not None and bool(gradient.abs().max() > 0):
                found[name].add(target)
    return found


def test_a_patch_changes_exactly_what_follows_from_it(model):
    model.set_attention("eager")
    expected = dependents(model)
    plain = taps_of(model)
    assert expected["decoder.output_projection"] == set()
    assert len(expected["encoder.embeddings"]) > 40
    for name in expected:
        noise = torch.randn(plain[name].shape, generator=torch.Generator().manual_seed(6))
        with patch(model, {name: lambda x, noise=noise: x + 0.1 * noise}):
            patched = taps_of(model)
        changed = {other for other in plain if not torch.equal(plain[other], patched[other])}
        assert changed == {name} | expected[name], name
    assert all(torch.equal(value, plain[name]) for name, value in taps_of(model).items())


def test_replacements_are_functions_tensors_and_numbers():
    model = make_model("learned")
    name = "decoder.blocks.0.cross_attn.attn_out"  # (B, H, T, K)
    kept = torch.tensor([1.0, 0.0, 1.0])[:, None, None]
    given = torch.randn(12)
    for replacement, wanted in (
        (lambda x: x * kept, lambda x: x * kept),
        (given, lambda x: given.expand_as(x)),
        (0.5, lambda x: torch.full_like(x, 0.5)),
        (0, torch.zeros_like),
    ):
        with capture(model, name) as before, patch(model, {name: replacement}), capture(model, name) as after:
            forward(model)
        assert torch.equal(after[name][0], wanted(before[name][0]))


def test_patches_act_in_the_order_in_which_they_were_entered():
    model = make_model("learned")
    plain = taps_of(model)["encoder.norm"]
    with (
        capture(model, "encoder.norm") as outside,
        patch(model, {"encoder.norm": lambda x: x + 1, "encoder.*norm": lambda x: x * 2}),
        capture(model, "encoder.norm") as between,
        patch(model, {"encoder.norm": torch.relu}),
        capture(model, "encoder.norm") as inside,
    ):
        forward(model)
    # "*" matches across dots: the norms in the blocks are doubled too, so look at the last step alone.
    (first,), (second,), (third,) = (c["encoder.norm"] for c in (outside, between, inside))
    assert torch.equal(second, (first + 1) * 2)
    assert torch.equal(third, second.relu())
    assert not torch.equal(first, plain)
    assert hooks(model) == 0


def test_a_function_may_write_into_what_it_gets():
    model = make_model("learned")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with (
        torch.no_grad(),
        patch(model, {"*.embed_positions": Tensor.zero_, "encoder.embeddings.positions": Tensor.zero_}),
    ):
        forward(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_patches_of_probabilities_reach_the_rows_of_beams():
    model = make_model("learned", seed=1)
    pixels = images(model, 2)
    options = {"num_beams": 4, "max_new_tokens": 7}
    model.set_attention("eager")
    plain = model.generate(pixels, **options)
    name = "decoder.blocks.0.cross_attn.probs"
    with patch(model, {name: lambda x: x}):
        assert torch.equal(model.generate(pixels, **options), plain)
    # To look one place further to the right is to look at places that moved to the left.
    shapes = []
    with patch(model, {name: lambda x: shapes.append(x.shape) or x.roll(1, dims=-1)}):
        rolled = model.generate(pixels, **options)
    assert set(shapes) <= {(2, 3, 1, 17), (8, 3, 1, 17), (4, 3, 1, 17)}
    with patch(model, {"decoder.blocks.0.cross_attn.v_proj": lambda x: x.roll(-1, dims=1)}):
        assert torch.equal(model.generate(pixels, **options), rolled)
    assert not torch.equal(rolled, plain)


@pytest.mark.parametrize("enter", [lambda m, p: capture(m, p), lambda m, p: patch(m, {p: 0.0})])
def test_a_pattern_that_matches_nothing(enter):
    model = make_model("learned")
    message = r"'decoder.embed_tokenz' matches no tap, did you mean 'decoder.embed_tokens'\?"
    with pytest.raises(SurgeryError, match=message), enter(model, "decoder.embed_tokenz"):
        pass
    assert hooks(model) == 0
    assert cores(model) == {"sdpa"}


@pytest.mark.parametrize(
    ("replacement", "message"),
    [
        (
            torch.zeros(5),
            r"patch of encoder.norm: a tensor \(5,\) cannot be spread over \(2, 17, 24\), which is \(B,",
        ),
        (
            lambda x: x[:1],
            r"the function gave \(\(1, 17, 24\), torch.float32\), expected \(\(2, 17, 24\), torch.f",
        ),
        (lambda x: x.double(), r"the function gave \(\(2, 17, 24\), torch.float64\)"),
        (lambda x: None, r"the function gave NoneType, expected"),
    ],
)
def test_a_replacement_that_does_not_fit(replacement, message):
    model = make_model("learned")
    plain = forward(model).logits
    with (
        pytest.raises(SurgeryError, match=message),
        patch(model, {"*probs": 0.1, "encoder.norm": replacement}),
    ):
        forward(model)
    assert hooks(model) == 0
    assert cores(model) == {"sdpa"}
    assert torch.equal(forward(model).logits, plain)


def test_no_replacement_and_wrong_ones():
    model = make_model("learned")
    with pytest.raises(SurgeryError, match="no replacement was given"), patch(model, {}):
        pass
    with (
        pytest.raises(
            SurgeryError, match=r"expected functions, tensors or numbers, got \{'encoder.norm': 'str'\}"
        ),
        patch(model, {"encoder.norm": "zero"}),
    ):
        pass
    with pytest.raises(SurgeryError, match="Linear has no taps"):
        choose_taps(nn.Linear(2, 2), "*")


def test_hooks_go_away_after_an_exception():
    model = make_model("learned")
    for enter in (lambda: capture(model), lambda: patch(model, {"*": lambda x: x})):
        with pytest.raises(ZeroDivisionError), enter():
            raise ZeroDivisionError(hooks(model))
        assert hooks(model) == 0
        assert cores(model) == {"sdpa"}


def test_taps_that_never_run_are_empty():
    model = make_model("learned")
    with capture(model, ["decoder.*", "encoder.norm"]) as captured:
        model.encode(images(model))
    assert [name for name, calls in captured.items() if calls] == ["encoder.norm"]


def test_files_do_not_know_of_taps():
    names = set(make_model("learned").state_dict())
    parts = {"probs", "attn_out", "attn_resid", "mlp_resid", "positions"}
    assert not parts & set(itertools.chain.from_iterable(name.split(".") for name in names))
