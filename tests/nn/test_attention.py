import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trocr.cache import LayerCache
from trocr.nn.attention import Attention, set_attention

# One softmax and two products of unit-sized float32 numbers.
TOLERANCE = 1e-6


def reference(
    attention: Attention, x: torch.Tensor, memory: torch.Tensor, keep: torch.Tensor
) -> torch.Tensor:
    """Attention head by head and row by row, in float64."""
    q = attention.q_proj.double()(x.double())
    k = attention.k_proj.double()(memory.double())
    v = attention.v_proj.double()(memory.double())
    width = attention.head_dim
    heads = []
    for h in range(attention.num_heads):
        part = slice(h * width, (h + 1) * width)
        scores = q[..., part] @ k[..., part].transpose(-1, -2) / width**0.5
        heads.append(scores.masked_fill(~keep, -torch.inf).softmax(-1) @ v[..., part])
    out = attention.out_proj.double()(torch.cat(heads, -1))
    attention.float()
    return out.float()


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(1, 6),
    st.sampled_from([1, 2, 4]),
    st.sampled_from(["sdpa", "eager"]),
)
def test_cross_attention(batch: int, length: int, memory_length: int, heads: int, core: str) -> None:
    torch.manual_seed(0)
    attention = Attention(width=8, num_heads=heads, kv_width=6)
    attention.core = core
    x, memory = torch.randn(batch, length, 8), torch.randn(batch, memory_length, 6)
    keep = torch.ones(length, memory_length, dtype=torch.bool)
    out, weights = attention(x, memory=memory)
    assert weights is None
    with torch.no_grad():  # another way on a CPU, see FEW_QUERIES
        step, _ = attention(x, memory=memory)
    torch.testing.assert_close(step, out, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(out, reference(attention, x, memory, keep), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("core", ["sdpa", "eager"])
def test_causal_self_attention(core: str) -> None:
    torch.manual_seed(0)
    attention = Attention(width=8, num_heads=2, qkv_bias=False)
    attention.core = core
    x = torch.randn(2, 5, 8)
    out, _ = attention(x, is_causal=True)
    keep = torch.ones(5, 5, dtype=torch.bool).tril()
    torch.testing.assert_close(out, reference(attention, x, x, keep), atol=TOLERANCE, rtol=0)
    assert attention.q_proj.bias is None


@pytest.mark.parametrize("core", ["sdpa", "eager"])
@pytest.mark.parametrize("masked", [True, False])
def test_rows_that_share_an_image_equal_rows_with_copies(core: str, masked: bool) -> None:
    torch.manual_seed(0)
    attention = Attention(width=8, num_heads=2, kv_width=6)
    attention.core = core
    x, memory = torch.randn(6, 3, 8), torch.randn(2, 5, 6)
    mask = torch.zeros(6, 1, 1, 5).masked_fill_(torch.rand(6, 1, 1, 5) < 0.3, -1e9) if masked else None
    shared, weights = attention(x, memory=memory, mask=mask, need_weights=True)
    copied, expected = attention(x, memory=memory.repeat_interleave(3, 0), mask=mask, need_weights=True)
    torch.testing.assert_close(shared, copied, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(weights, expected, atol=TOLERANCE, rtol=0)
    assert weights.shape == (6, 2, 3, 5)


@pytest.mark.parametrize("core", ["sdpa", "eager"])
@torch.no_grad()
def test_heads_of_another_width(core: str) -> None:
    """Three heads of 8 in a width of 32, as are left where one of four was taken out."""
    torch.manual_seed(0)
    attention = Attention(width=32, num_heads=3, head_dim=8, kv_width=20)
    set_attention(attention, core)
    assert attention.out_proj.weight.shape == (32, 24)
    x, memory = torch.randn(2, 5, 32), torch.randn(2, 7, 20)
    found = attention(x, memory=memory)[0]
    expected = reference(attention, x, memory, torch.ones(5, 7, dtype=torch.bool))
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_a_mask_per_image_holds_for_all_its_rows() -> None:
    torch.manual_seed(0)
    attention = Attention(width=8, num_heads=2, kv_width=6)
    x, memory = torch.randn(6, 3, 8), torch.randn(2, 5, 6)
    mask = torch.zeros(2, 1, 1, 5)
    mask[0, ..., 3:] = mask[1, ..., :2] = -1e9
    shared, _ = attention(x, memory=memory, mask=mask)
    copied, _ = attention(x, memory=memory.repeat_interleave(3, 0), mask=mask.repeat_interleave(3, 0))
    torch.testing.assert_close(shared, copied, atol=TOLERANCE, rtol=0)
    with pytest.raises(ValueError, match="5 rows of tokens for 2 images"):
        attention(x[:5], memory=memory)


def test_weights_on_request_and_through_the_tap() -> None:
    attention = Attention(width=8, num_heads=2)
    seen = []
    attention.probs.register_forward_hook(lambda module, inputs, output: seen.append(output))
    x = torch.randn(1, 4, 8)
    _, weights = attention(x, need_weights=True)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2, 4))
    assert seen[0] is weights
    attention(x)
    assert len(seen) == 1  # the fused kernel has no weights to show


def test_the_cross_cache_is_filled_once() -> None:
    attention = Attention(width=8, num_heads=2)
    cache, memory = LayerCache(), torch.randn(1, 3, 8)
    first, _ = attention(torch.ones(1, 1, 8), memory=memory, cache=cache)
    second, _ = attention(torch.ones(1, 1, 8), memory=memory * 0, cache=cache)
    assert torch.equal(first, second)


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    attention = Attention(width=8, num_heads=2, dropout=0.9)
    x = torch.randn(1, 6, 8)
    for core in ("sdpa", "eager"):
        attention.core = core
        assert not torch.equal(attention.train()(x)[0], attention(x)[0])
        assert torch.equal(attention.eval()(x)[0], attention(x)[0])


@pytest.mark.parametrize(("dtype", "count"), [(torch.bfloat16, 1), (None, 0)])
def test_training_in_bf16_takes_plain_products(monkeypatch, dtype, count) -> None:
    monkeypatch.setattr("trocr.nn.attention.HALF_PRODUCTS", True)
    torch.manual_seed(0)
    attention = Attention(width=16, num_heads=2)
    seen = []
    attention.probs.register_forward_hook(lambda module, inputs, output: seen.append(output))
    x = torch.randn(2, 12, 16)
    expected = torch.autograd.grad(attention(x, is_causal=True)[0].square().sum(), attention.q_proj.weight)
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        out = attention(x, is_causal=True)[0]
        with torch.no_grad():
            attention(x, is_causal=True)
    found = torch.autograd.grad(out.float().square().sum(), attention.q_proj.weight)
    assert len(seen) == count
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05 * float(expected[0].abs().max()))


def test_set_attention() -> None:
    model = nn.Sequential(
        nn.ModuleDict({"a": Attention(width=4, num_heads=1)}), Attention(width=4, num_heads=1)
    )
    set_attention(model, "eager")
    assert {m.core for m in model.modules() if isinstance(m, Attention)} == {"eager"}
    with pytest.raises(ValueError, match="'flash' is unknown, expected one of sdpa, eager"):
        set_attention(model, "flash")
    with pytest.raises(ValueError, match="Linear has no attention"):
        set_attention(nn.Linear(1, 1), "sdpa")
