import pytest
import torch
import torch.nn.functional as F

from trocr.nn import linear
from trocr.nn.linear import FEW_ROWS, Linear

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


def test_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_ONEDNN_LINEAR", None)
    layer = Linear(1024, 1100)
    x = torch.randn(1, 1024)
    with torch.no_grad():
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


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
