"""Token merging: what is averaged with what, and that it can be switched on and off."""

import copy
import threading

import pytest
import torch

from trocr import DeiTConfig, TrOCRConfig, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig
from trocr.token_merging import TokenMergingError, is_merging, merge, merge_tokens


def make(encoder_class: type = ViTConfig, blocks: int = 3) -> VisionEncoderDecoderModel:
    torch.manual_seed(0)
    encoder = encoder_class(
        image_size=(32, 64),
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        intermediate_size=48,
    )
    decoder = TrOCRConfig(
        vocab_size=50,
        d_model=32,
        decoder_layers=2,
        decoder_attention_heads=4,
        decoder_ffn_dim=48,
        max_position_embeddings=20,
        cross_attention_hidden_size=32,
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    model = VisionEncoderDecoderModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def images(count: int = 2, width: int = 64) -> torch.Tensor:
    return torch.randn(count, 3, 32, width, generator=torch.Generator().manual_seed(1))


def test_pairs_that_are_alike_are_averaged():
    metric = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.1, 1.0], [1.0, 0.1], [-1.0, 0.0]]])
    x = torch.tensor([[[1.0], [2.0], [4.0], [8.0], [16.0]]])
    sizes = torch.tensor([[1.0, 1.0, 3.0, 1.0, 1.0]])
    merged, total = merge(x, sizes, metric, count=1)
    # both 1 -> 2 and 3 -> 0 have the same likeness: one of them goes
    assert merged.shape == (1, 4, 1)
    assert total.sum() == sizes.sum()
    merged, total = merge(x, sizes, metric, count=2)
    torch.testing.assert_close(merged, torch.tensor([[[4.5], [(2 + 3 * 4) / 4], [16.0]]]))
    assert total.tolist() == [[2.0, 4.0, 1.0]]


def test_several_tokens_may_join_one():
    metric = torch.ones(1, 6, 3)
    metric[0, 2] = metric[0, 4] = -1.0
    x = torch.arange(6.0)[None, :, None]
    merged, total = merge(x, torch.ones(1, 6), metric, count=3)
    torch.testing.assert_close(merged, torch.tensor([[[(0 + 1 + 3 + 5) / 4], [2.0], [4.0]]]))
    assert total.tolist() == [[4.0, 1.0, 1.0]]


def test_averages_keep_the_sum_and_rows_do_not_mix():
    random = torch.Generator().manual_seed(0)
    x, metric = torch.randn(3, 11, 5, generator=random), torch.randn(3, 11, 4, generator=random)
    sizes = torch.randint(1, 5, (3, 11), generator=random).float()
    merged, total = merge(x, sizes, metric, count=5)
    torch.testing.assert_close((merged * total[..., None]).sum(1), (x * sizes[..., None]).sum(1))
    for row in range(3):
        alone, _ = merge(x[row : row + 1], sizes[row : row + 1], metric[row : row + 1], count=5)
        torch.testing.assert_close(merged[row : row + 1], alone)


@pytest.mark.parametrize(("encoder", "prefix"), [(ViTConfig, 1), (DeiTConfig, 2)])
@pytest.mark.parametrize("proportional", [False, True])
def test_switched_on_and_off(encoder, prefix, proportional):
    model = make(encoder)
    plain = model.encode(images()).last_hidden_state
    names = list(model.state_dict())
    merging = merge_tokens(model, tokens_per_block=4, proportional=proportional)
    encoded = model.encode(images(), output_hidden_states=True, output_attentions=True)
    assert encoded.last_hidden_state.shape == (2, prefix + 32 - 3 * 4, 32)
    assert [state.shape[1] - prefix for state in encoded.hidden_states] == [32, 28, 24, 20]
    assert list(model.state_dict()) == names
    assert is_merging(model.encoder)
    torch.testing.assert_close(model.encode(images()).last_hidden_state, encoded.last_hidden_state)
    merging.remove()
    merging.remove()
    assert not merging.is_on
    assert not is_merging(model.encoder)
    assert torch.equal(model.encode(images()).last_hidden_state, plain)


def test_generation_reads_the_merged_tokens():
    model = make()
    plain = model.generate(images(), max_new_tokens=6, min_new_tokens=6, return_dict_in_generate=True)
    with merge_tokens(model, ratio=0.5):
        found = model.generate(images(), max_new_tokens=6, min_new_tokens=6, return_dict_in_generate=True)
        assert found.past_key_values.layers[0].cross[0].shape[2] == 1 + 32 - 18  # 3 times 6 of 32
    assert found.sequences.shape == plain.sequences.shape
    assert not torch.equal(found.token_log_probs, plain.token_log_probs)
    assert torch.equal(model.generate(images(), max_new_tokens=6, min_new_tokens=6), plain.sequences)


def test_like_patches_lose_nothing():
    """An image whose patches are all equal but for their positions, which are set to nothing."""
    model = make()
    with torch.no_grad():
        model.encoder.embeddings.position_embeddings.zero_()
    flat = torch.full((1, 3, 32, 64), 0.3)
    plain = model.encode(flat).last_hidden_state
    with merge_tokens(model, tokens_per_block=5, proportional=True):
        merged = model.encode(flat).last_hidden_state
    assert merged.shape[1] == 18
    torch.testing.assert_close(merged[:, :18], plain[:, :18], rtol=1e-4, atol=1e-5)


def test_a_block_halves_at_most_and_the_ratio_follows_the_image():
    model = make()
    with merge_tokens(model, tokens_per_block=1000):
        assert model.encode(images()).last_hidden_state.shape[1] == 1 + 4
    with merge_tokens(model, ratio=0.25):
        assert model.encode(images()).last_hidden_state.shape[1] == 1 + 32 - 9
        narrow = model.encode(images(width=32), crop_pos_encoding=True)
        assert narrow.last_hidden_state.shape[1] == 1 + 16 - 6


def test_training_goes_through_it():
    model = make().train()
    with merge_tokens(model, tokens_per_block=4):
        model(pixel_values=images(), labels=torch.tensor([[5, 6, 2], [7, 8, 2]])).loss.backward()
        gradient = model.encoder.blocks[0].mlp.fc1.weight.grad
        assert gradient.abs().sum() > 0
        model.encoder.gradient_checkpointing = True
        with pytest.raises(TokenMergingError, match="gradient checkpointing"):
            model.encode(images())


def test_copies_and_threads():
    model = make()
    merging = merge_tokens(model, tokens_per_block=4, proportional=True)
    expected = model.encode(images()).last_hidden_state
    twin = copy.deepcopy(model)
    found: dict[int, torch.Tensor] = {}

    def work(index: int) -> None:
        for _ in range(5):
            found[index] = model.encode(images(2 + index)).last_hidden_state[:2]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for states in found.values():
        assert states.shape == expected.shape
    merging.remove()
    assert torch.equal(twin.encode(images()).last_hidden_state, expected)


def test_an_error_in_the_middle_leaves_nothing_behind(monkeypatch):
    model = make()
    merging = merge_tokens(model, tokens_per_block=4, proportional=True)
    expected = model.encode(images()).last_hidden_state

    def fail(*args: object) -> None:
        raise RuntimeError("in the middle")

    with monkeypatch.context() as patch:
        patch.setattr(model.encoder.blocks[1].mlp, "forward", fail)
        with pytest.raises(RuntimeError, match="in the middle"):
            model.encode(images(5))
    assert torch.equal(model.encode(images()).last_hidden_state, expected)
    merging.remove()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either tokens_per_block or ratio"),
        ({"tokens_per_block": 2, "ratio": 0.5}, "give either tokens_per_block or ratio"),
        ({"tokens_per_block": 0}, "tokens_per_block is 0, expected 1 or more"),
        ({"ratio": 1.0}, "ratio is 1.0, expected a share above 0 and below 1"),
        ({"ratio": float("nan")}, "ratio is nan"),
    ],
)
def test_numbers_out_of_range(options, message):
    with pytest.raises(TokenMergingError, match=message):
        merge_tokens(make(), **options)


def test_models_that_have_nothing_to_merge():
    model = make()
    with pytest.raises(TokenMergingError, match="TrOCRForCausalLM has no image encoder"):
        merge_tokens(model.decoder, ratio=0.5)
    with pytest.raises(
        TokenMergingError, match="VisionEncoderDecoderModel has no image encoder of this library's blocks"
    ):
        merge_tokens(make(blocks=0), ratio=0.5)
    with (
        merge_tokens(model.encoder, ratio=0.5),
        pytest.raises(TokenMergingError, match="merged already"),
    ):
        merge_tokens(model, ratio=0.5)
