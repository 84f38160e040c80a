import pytest
import torch
import torch.nn.functional as F

from trocr.nn import linear
from trocr.nn.linear import FEW_ROWS, MANY_ROWS, Linear, onednn_linear

# Sums of 1024 products in another order.
TOLERANCE = 2e-5


@pytest.mark.parametrize("shape", [(0, 1), (1, 1), (2, 1), (1, 3), (4, 4), (FEW_ROWS, 1), (FEW_ROWS + 1, 1)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("out_features", [5, 1100])
def test_every_way_gives_the_same(shape: tuple[int, int], bias: bool, out_features: int) -> None:
    torch.manual_seed(0)
    layer = Linear(1024, out_features, bias=bias)
    x = torch.randn(*shape, 1024)
    expected = F.linear(x, layer.weight, layer.bias)
    for context in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with context():
            out = layer(x)
            assert out.shape == expected.shape
            torch.testing.assert_close(out, expected, atol=TOLERANCE, rtol=0)
            spread = torch.randn(shape[0], 1024, shape[1]).copy_(x.transpose(1, 2)).transpose(1, 2)
            torch.testing.assert_close(layer(spread), expected, atol=TOLERANCE, rtol=0)


WAYS = {
    "AVX2": (True, False, False),
    "AVX-512 of Intel": (False, True, False),
    "AVX-512 of AMD": (False, True, True),
    "none": (False, False, False),
}
FLAGS = ("ONEDNN_FOR_ONE_ROW", "ONEDNN_FOR_FEW_ROWS", "ONEDNN_FOR_MANY_ROWS")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the ways of another processor."""
    if linear._ONEDNN is None and any(WAYS[request.param]):
        pytest.skip("this PyTorch has no oneDNN")
    for name, value in zip(FLAGS, WAYS[request.param], strict=True):
        monkeypatch.setattr(linear, name, value)
    monkeypatch.setattr(linear, "ONEDNN_MIN_WEIGHTS", 2000)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("rows", [1, 2, FEW_ROWS, MANY_ROWS - 1, MANY_ROWS, 3 * MANY_ROWS])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_the_ways_of_all_processors(rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer, x = Linear(64, 48, bias=bias), torch.randn(rows, 64)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), atol=TOLERANCE, rtol=0)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("shape", [(3,), (2, MANY_ROWS)])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_of_all_processors(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer, x = Linear(64, 48, bias=bias), torch.randn(*shape, 64, requires_grad=True)
    grad, wanted = torch.randn(*shape, 48), [x, *layer.parameters()]
    found = torch.autograd.grad(layer(x), wanted, grad)
    plain = torch.autograd.grad(F.linear(x, layer.weight, layer.bias), wanted, grad)
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other, atol=20 * TOLERANCE, rtol=0)


def test_onednn_gives_only_the_gradients_that_are_wanted() -> None:
    layer, x = Linear(8, 4), torch.randn(MANY_ROWS, 8)
    layer.weight.requires_grad_(False)
    out = onednn_linear(x, layer.weight, layer.bias)
    out.sum().backward()
    assert layer.weight.grad is None
    assert x.grad is None
    torch.testing.assert_close(layer.bias.grad, torch.full((4,), float(MANY_ROWS)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    layer = Linear(8, 4).to(dtype)
    x = torch.randn(2, 8, dtype=dtype)
    with torch.no_grad():
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


def test_autocast_keeps_its_meaning() -> None:
    layer, x = Linear(8, 4), torch.randn(2, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
