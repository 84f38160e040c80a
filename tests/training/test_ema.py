"""Running averages of weights."""

import pytest
import torch
from torch import nn

from trocr.training.ema import EMA, EMAError


def model(value: float = 0.0) -> nn.Module:
    module = nn.Linear(1, 1)
    nn.init.constant_(module.weight, value)
    nn.init.constant_(module.bias, 7.0)
    module.bias.requires_grad_(False)
    return module


def test_the_decay_warms_up():
    module = model()
    ema = EMA(module, 0.5)
    nn.init.constant_(module.weight, 1.0)
    ema.update()  # decay 2/11: 0 * 2/11 + 1 * 9/11
    assert ema.averages["weight"].item() == pytest.approx(9 / 11)
    ema.update()  # decay 3/12
    assert ema.averages["weight"].item() == pytest.approx(9 / 11 * 0.25 + 0.75)
    for _ in range(20):
        ema.update()
    nn.init.constant_(module.weight, 3.0)
    ema.update()  # the warm-up is over: decay 0.5
    assert ema.averages["weight"].item() == pytest.approx(2.0, abs=1e-5)
    assert "bias" not in ema.averages


def test_averages_are_put_in_and_taken_out():
    module = model(1.0)
    ema = EMA(module, 0.9)
    nn.init.constant_(module.weight, 5.0)
    with ema.applied():
        assert module.weight.item() == 1.0
        assert module.bias.item() == 7.0
    assert module.weight.item() == 5.0
    with pytest.raises(RuntimeError, match="in the middle"), ema.applied():
        raise RuntimeError("in the middle")
    assert module.weight.item() == 5.0


def test_half_precision_weights_are_averaged_in_float32():
    module = model(1.0).to(torch.bfloat16)
    ema = EMA(module, 0.999)
    assert ema.averages["weight"].dtype == torch.float32
    nn.init.constant_(module.weight, 2.0)
    ema.update()
    assert ema.averages["weight"].item() == pytest.approx(1 + 9 / 11)
    with ema.applied():
        assert module.weight.dtype == torch.bfloat16


def test_state_comes_back():
    module = model(1.0)
    ema = EMA(module, 0.9)
    nn.init.constant_(module.weight, 2.0)
    ema.update()
    other = EMA(model(), 0.9)
    other.load_state_dict(ema.state_dict())
    assert other.num_updates == 1
    assert torch.equal(other.averages["weight"], ema.averages["weight"])


def test_state_of_another_model_is_refused():
    ema = EMA(model(), 0.9)
    with pytest.raises(EMAError, match="do not fit the model at weight"):
        ema.load_state_dict({"num_updates": 1, "weight": torch.zeros(2, 1)})
