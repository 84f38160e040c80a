import pytest
import torch

from trocr.cache import GROWTH, DecoderCache, LayerCache


def tokens(count: int, rows: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, 2, count, 4)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


@pytest.mark.parametrize("gradients", [True, False])
def test_append_gives_everything_so_far(gradients: bool) -> None:
    keys, values = tokens(2 * GROWTH + 5)
    layer = LayerCache()
    with torch.set_grad_enabled(gradients):
        for start, end in [(0, 3), (3, 4), (4, GROWTH + 7), (GROWTH + 7, 2 * GROWTH + 5)]:
            k, v = layer.append(keys[:, :, start:end], values[:, :, start:end])
            assert torch.equal(k, keys[:, :, :end])
            assert torch.equal(v, values[:, :, :end])
            assert layer.length == end


def test_append_never_writes_into_what_the_caller_gave() -> None:
    keys, values = tokens(1)
    before = keys.clone()
    layer = LayerCache()
    with torch.no_grad():
        for step in range(4):
            layer.append(keys if step == 0 else keys * 0, values)
    assert torch.equal(keys, before)


def test_gradients_flow_through_the_cache() -> None:
    keys, values = tokens(2)
    keys.requires_grad_()
    layer = LayerCache()
    layer.append(keys[:, :, :1], values[:, :, :1])
    k, _ = layer.append(keys[:, :, 1:], values[:, :, 1:])
    k.sum().backward()
    assert torch.equal(keys.grad, torch.ones_like(keys))


def test_a_cache_made_in_inference_mode_goes_on_outside_of_it() -> None:
    keys, values = tokens(3)
    layer = LayerCache()
    with torch.inference_mode():
        layer.append(keys[:, :, :1], values[:, :, :1])
        layer.append(keys[:, :, 1:2], values[:, :, 1:2])
    with torch.no_grad():
        k, _ = layer.append(keys[:, :, 2:], values[:, :, 2:])
    assert torch.equal(k, keys)


def test_select_reorders_tokens_and_not_images() -> None:
    keys, values = tokens(3)
    cross = tokens(5, rows=1)
    cache = DecoderCache(2)
    for layer in cache.layers:
        layer.append(keys, values)
        layer.cross = cross
    cache.select(torch.tensor([2, 2, 0, 1]))
    assert torch.equal(cache.layers[1].keys, keys[[2, 2, 0, 1]])
    assert torch.equal(cache.layers[1].values, values[[2, 2, 0, 1]])
    assert cache.layers[0].cross is cross
    assert cache.length == cache.get_seq_length() == 3
    assert len(cache) == 2


def test_keep_images() -> None:
    cross = tokens(5)
    cache = DecoderCache(1)
    cache.layers[0].cross = cross
    cache.keep_images(torch.tensor([2, 0]))
    assert torch.equal(cache.layers[0].cross[0], cross[0][[2, 0]])
    assert torch.equal(cache.layers[0].cross[1], cross[1][[2, 0]])


def test_another_number_of_rows_is_refused() -> None:
    layer = LayerCache()
    layer.append(*tokens(1))
    with pytest.raises(ValueError, match="holds 3 rows, the new tokens have 2"):
        layer.append(*tokens(1, rows=2))


def test_empty() -> None:
    cache = DecoderCache(2)
    assert cache.length == 0
    assert cache.layers[0].keys is None
    cache.select(torch.tensor([0]))
    cache.keep_images(torch.tensor([0]))
    assert DecoderCache(0).length == 0


@pytest.mark.parametrize("gradients", [True, False])
def test_truncate_forgets_the_last_tokens(gradients: bool) -> None:
    keys, values = tokens(2 * GROWTH)
    cache = DecoderCache(2)
    with torch.set_grad_enabled(gradients):
        for layer in cache.layers:
            layer.cross = tokens(7, rows=1)
            layer.append(keys[:, :, :6], values[:, :, :6])
        cache.truncate(6)
        assert cache.length == 6
        cache.truncate(2)
        assert cache.length == 2
        for layer in cache.layers:
            k, v = layer.append(keys[:, :, 9:12], values[:, :, 9:12])
            assert torch.equal(k, torch.cat((keys[:, :, :2], keys[:, :, 9:12]), dim=2))
            assert torch.equal(v, torch.cat((values[:, :, :2], values[:, :, 9:12]), dim=2))
            k, _ = layer.append(keys[:, :, 12:], values[:, :, 12:])
            assert torch.equal(k, torch.cat((keys[:, :, :2], keys[:, :, 9:]), dim=2))
        cache.truncate(4)
        cache.select(torch.tensor([2, 0]))
        assert torch.equal(cache.layers[1].keys, torch.cat((keys[:, :, :2], keys[:, :, 9:11]), dim=2)[[2, 0]])
        cache.truncate(0)
    assert cache.length == 0
    assert all(layer.is_empty and layer.keys is None for layer in cache.layers)
    assert cache.layers[0].cross is not None


def test_truncate_never_lets_the_callers_tensors_be_written_into() -> None:
    keys, values = tokens(5)
    before = keys.clone()
    layer = LayerCache()
    with torch.no_grad():
        layer.append(keys, values)
        layer.truncate(2)
        layer.append(keys[:, :, :2] * 0, values[:, :, :2])
    assert torch.equal(keys, before)


def test_truncate_to_what_is_not_there() -> None:
    cache = DecoderCache(1)
    cache.layers[0].append(*tokens(3))
    for length in (4, -1):
        with pytest.raises(
            ValueError, match=f"holds 3 tokens and cannot be cut to {length}; expected 0 to 3"
        ):
            cache.truncate(length)
