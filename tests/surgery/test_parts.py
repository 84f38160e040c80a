import copy
import dataclasses
import json

import pytest
import timm
import torch
from drawn import processor as shipped_processor
from drawn import small_model
from families import MAX_POSITIONS, difference, ids, images, labels, load_hf
from parts_cases import (
    IMAGE_HW,
    REFERENCE_TOLERANCE,
    assert_untouched,
    check_whole,
    fresh,
    logits,
    pixels_of,
    state,
    vit_encoder,
)
from PIL import Image
from torch import nn

from trocr import Reader, TrOCRProcessor, VisionEncoderDecoderModel
from trocr.models import TrOCRForCausalLM
from trocr.nn.attention import Attention
from trocr.surgery.adapters import add_adapter
from trocr.surgery.parts import replace_decoder, replace_encoder
from trocr.surgery.patterns import SurgeryError

# ---- nothing changes that should not ----


def test_its_own_parts_change_nothing(pair, tmp_path):
    model, processor = pair.fresh(), shipped_processor()
    model.save_pretrained(tmp_path)
    pixels, tokens = images(pair.family, 2), ids(2, 6)
    before = logits(model, pixels, tokens)
    report = replace_encoder(model, tmp_path, processor=processor)
    assert {change.action for change in report.changes} == {"carried"}
    assert all(change.name.startswith("encoder.") for change in report.changes)
    assert torch.equal(logits(model, pixels, tokens), before)
    assert "the image processor stays" in report.notes[0]
    other = pair.fresh().decoder
    report = replace_decoder(model, other, processor=processor, tokenizer=_Tiny())
    assert {change.action for change in report.changes} == {"carried"}
    assert torch.equal(logits(model, pixels, tokens), before)
    assert model.config == dataclasses.replace(pair.ours.config, generation_defaults={})


class _Tiny(type(shipped_processor().tokenizer)):
    """A tokenizer that fits the families' vocabulary, by its length and special tokens."""

    def __init__(self):
        self.__dict__.update(shipped_processor().tokenizer.__dict__)

    def __len__(self):
        return 90


def test_another_encoder_of_the_same_width_leaves_the_decoder_bit_by_bit(tmp_path):
    model, processor = fresh()
    other = small_model(seed=5)
    other.save_pretrained(tmp_path)
    shipped_processor().save_pretrained(tmp_path)
    decoder = {key: value.clone() for key, value in model.decoder.state_dict().items()}
    report = replace_encoder(model, tmp_path, processor=processor)
    assert all(torch.equal(value, model.decoder.state_dict()[key]) for key, value in decoder.items())
    for key, value in other.encoder.state_dict().items():
        assert torch.equal(value, model.encoder.state_dict()[key])
    assert report.counts() == {"kept": len(decoder) - 1, "carried": len(list(other.encoder.parameters()))}
    check_whole(model, processor, report, tmp_path / "out")


def test_encoder_of_one_and_decoder_of_another_is_one_call(tmp_path):
    model, processor = fresh()
    donor = VisionEncoderDecoderModel.from_pretrained("tiny-printed")
    report = replace_decoder(model, "tiny-printed", processor=processor)
    assert model.config.decoder.d_model == 256
    assert model.config.decoder.cross_attention_hidden_size == 32
    assert model.generation_config.to_dict() == donor.generation_config.to_dict()
    untouched = {key for key, _ in donor.decoder.named_parameters()}
    for change in report.changes:
        if ".cross_attn.k_proj" in change.name or ".cross_attn.v_proj" in change.name:
            assert change.action == "new"
            untouched.discard(change.name.removeprefix("decoder."))
    assert len(untouched) == len(list(donor.decoder.parameters())) - 3 * 4
    for key in untouched:
        assert torch.equal(model.decoder.get_parameter(key), donor.decoder.get_parameter(key))
    assert model.decoder.output_projection.weight is model.decoder.embed_tokens.weight
    assert report.numbers == {"vocab_size": 520.0}
    check_whole(model, processor, report, tmp_path)
    (line,) = Reader(tmp_path).read(Image.new("L", (90, 30), 200), max_new_tokens=3)
    assert line.tokens
    theirs = load_hf(tmp_path)
    pixels, tokens = pixels_of(model), torch.tensor([[2, 5, 6, 7]] * 2)
    with torch.no_grad():
        wanted = theirs(pixel_values=pixels, decoder_input_ids=tokens).logits
    assert difference(wanted, logits(model, pixels, tokens)) < REFERENCE_TOLERANCE


# ---- widths ----


def _projections(model):
    return [
        getattr(block.cross_attn, name) for block in model.decoder.blocks for name in ("k_proj", "v_proj")
    ]


def _with_cross(width, d_model=32):
    """A model whose cross-attention reads so many features (None: its own width) of an encoder."""
    model = small_model()
    encoder = vit_encoder(width or d_model)
    decoder = dataclasses.replace(
        model.config.decoder, cross_attention_hidden_size=width, d_model=d_model, decoder_ffn_dim=64
    )
    config = dataclasses.replace(model.config, encoder=encoder.config, decoder=decoder)
    torch.manual_seed(1)
    return VisionEncoderDecoderModel(config, encoder=encoder).eval(), shipped_processor()


def test_another_width_is_read_directly_by_new_projections(tmp_path):
    model, processor = _with_cross(32)
    kept = {key: value.clone() for key, value in model.decoder.state_dict().items()}
    report = replace_encoder(model, vit_encoder(24), processor=processor)
    assert model.config.decoder.cross_attention_hidden_size == 24
    assert isinstance(model.enc_to_dec_proj, nn.Identity)
    std = model.config.decoder.init_std
    for projection in _projections(model):
        assert projection.weight.shape == (32, 24)
        assert abs(float(projection.weight.detach().std()) / std - 1) < 0.15
        assert not projection.bias.any()
    for key, value in model.decoder.state_dict().items():
        if "cross_attn.k_proj" not in key and "cross_attn.v_proj" not in key:
            assert torch.equal(value, kept[key]), key
    (change,) = [c for c in report.changes if c.name == "decoder.blocks.0.cross_attn.k_proj.weight"]
    assert (change.action, change.before, change.shape) == ("new", (32, 32), (32, 24))
    check_whole(model, processor, report, tmp_path)


def test_a_projection_keeps_what_cross_attention_has_learned(tmp_path):
    model, processor = _with_cross(32)
    kept = {key: value.clone() for key, value in model.decoder.state_dict().items()}
    report = replace_encoder(model, vit_encoder(24), processor=processor, projection=True)
    assert model.config.needs_projection
    assert model.enc_to_dec_proj.weight.shape == (32, 24)
    assert all(torch.equal(value, kept[key]) for key, value in model.decoder.state_dict().items())
    assert {change.name for change in report.changes if change.action == "new"} == {
        "enc_to_dec_proj.weight",
        "enc_to_dec_proj.bias",
    }
    check_whole(model, processor, report, tmp_path)
    theirs = load_hf(tmp_path)
    pixels, tokens = pixels_of(model), torch.tensor([[2, 5, 6, 7]] * 2)
    with torch.no_grad():
        wanted = theirs(pixel_values=pixels, decoder_input_ids=tokens).logits
    assert difference(wanted, logits(model, pixels, tokens)) < REFERENCE_TOLERANCE
    projection = model.enc_to_dec_proj
    replace_encoder(model, vit_encoder(24), processor=processor)  # null stays null, and the layer fits
    assert model.enc_to_dec_proj is projection
    report = replace_encoder(model, vit_encoder(16), processor=processor)
    (change,) = [c for c in report.changes if c.name == "enc_to_dec_proj.weight"]
    assert (change.action, change.before, change.shape) == ("new", (32, 24), (32, 16))
    report = replace_encoder(model, vit_encoder(32), processor=processor)
    assert isinstance(model.enc_to_dec_proj, nn.Identity)
    assert [c.name for c in report.changes if c.action == "removed"] == [
        "enc_to_dec_proj.weight",
        "enc_to_dec_proj.bias",
    ]
    assert all(torch.equal(value, kept[key]) for key, value in model.decoder.state_dict().items())


def test_fewer_features_than_the_decoders_width_get_columns_of_zeros(tmp_path):
    model, processor = _with_cross(24, d_model=32)
    old = [copy.deepcopy(projection) for projection in _projections(model)]
    report = replace_encoder(model, vit_encoder(16), processor=processor, projection=True)
    assert model.config.decoder.cross_attention_hidden_size is None
    states = torch.randn(2, 5, 32)
    for before, after in zip(old, _projections(model), strict=True):
        torch.testing.assert_close(after(states), before(states[..., :24]))
        assert torch.equal(after.weight[:, :24], before.weight)
    (change,) = [c for c in report.changes if c.name == "decoder.blocks.1.cross_attn.v_proj.weight"]
    assert (change.action, change.before, change.shape) == ("carried", (32, 24), (32, 32))
    check_whole(model, processor, report, tmp_path)


def test_a_projection_that_cannot_keep_anything_is_refused():
    model, processor = _with_cross(48, d_model=32)
    before = state(model, processor)
    with pytest.raises(SurgeryError, match=r"the decoder's width, 32 features, and .* reads 48"):
        replace_encoder(model, vit_encoder(16), processor=processor, projection=True)
    assert_untouched(model, processor, before)
    report = replace_encoder(model, vit_encoder(32), processor=processor, projection=True)
    assert model.config.decoder.cross_attention_hidden_size == 32  # no projection is needed
    assert not [change for change in report.changes if "enc_to_dec_proj" in change.name]


def test_a_decoder_of_another_width_with_a_projection(tmp_path):
    model, processor = fresh()
    donor = VisionEncoderDecoderModel.from_pretrained("tiny-printed")
    report = replace_decoder(model, "tiny-printed", processor=processor, projection=True)
    assert model.enc_to_dec_proj.weight.shape == (256, 32)
    for key, parameter in donor.decoder.named_parameters():
        assert torch.equal(parameter, model.decoder.get_parameter(key))
    check_whole(model, processor, report, tmp_path)


# ---- images, flags, errors ----


def test_the_processor_follows_a_checkpoint_and_another_size():
    model, processor = fresh()
    report = replace_encoder(model, "tiny-printed", processor=processor)
    shipped = TrOCRProcessor.from_pretrained("tiny-printed").image_processor
    assert processor.image_processor == shipped
    report = replace_encoder(model, "tiny-printed", processor=processor, image_size=(32, 480))
    assert processor.image_processor == dataclasses.replace(shipped, size=(32, 480))
    (change,) = [change for change in report.changes if change.action == "resampled"]
    assert change.name == "encoder.embeddings.position_embeddings"
    assert model.config.encoder.image_hw == (32, 480)
    source = VisionEncoderDecoderModel.from_pretrained("tiny-printed").encoder.embeddings
    table = source.position_embeddings[:, 1:].reshape(1, 1, 120, 256).permute(0, 3, 1, 2)
    wanted = nn.functional.interpolate(table, size=(1, 60), mode="bicubic")
    found = model.encoder.embeddings.position_embeddings[:, 1:].reshape(1, 1, 60, 256).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, wanted)


def test_a_crop_follows_the_size():
    model, processor = fresh()
    processor.image_processor = dataclasses.replace(
        processor.image_processor, do_center_crop=True, crop_size=IMAGE_HW
    )
    replace_encoder(model, "timm:test_resnet", processor=processor, image_size=(32, 128))
    assert processor.image_processor.crop_size == {"height": 32, "width": 128}
    made = processor(Image.new("L", (90, 30), 200), return_tensors="pt").pixel_values
    assert made.shape == (1, 3, 32, 128)


def test_mode_precision_core_and_checkpointing_stay():
    model, processor = fresh()
    model.to(torch.bfloat16).train()
    model.set_attention("eager")
    model.gradient_checkpointing_enable()
    for block in model.decoder.blocks:
        block.cross_attn.k_proj.requires_grad_(False)
    report = replace_encoder(model, vit_encoder(24).eval(), processor=processor)
    assert report.notes == ()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert all(module.training for module in model.modules())
    assert {module.core for module in model.modules() if isinstance(module, Attention)} == {"eager"}
    assert model.encoder.gradient_checkpointing
    frozen = {key for key, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {
        f"decoder.blocks.{n}.cross_attn.k_proj.{leaf}" for n in (0, 1) for leaf in ("weight", "bias")
    }
    arguments = {"embed_dim": 16, "depth": 1, "num_heads": 2, "local_up_to_layer": 0}
    report = replace_encoder(model, "timm:convit_tiny", processor=processor, model_args=arguments)
    assert "no gradient checkpointing" in report.notes[0]
    assert model.decoder.gradient_checkpointing
    replace_decoder(model.eval(), "tiny-printed", processor=processor)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not any(module.training for module in model.modules())
    assert model.decoder.gradient_checkpointing
    assert {module.core for module in model.decoder.modules() if isinstance(module, Attention)} == {"eager"}


def test_encoders_that_cannot_be_had_leave_the_model(tmp_path):
    model, processor = fresh()
    before = state(model, processor)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "swin"}))
    for encoder, options, message in (
        ("timm:resnett18", {}, "no model 'resnett18', did you mean"),
        ("timm:vit_tiny_patch16_224", {"image_size": (30, 40)}, "30 x 40 .* not a multiple of .* 16 x 16"),
        ("timm:swin_tiny_patch4_window7_224", {"image_size": (32, 62)}, "62 .* not a multiple of .* 4 x 4"),
        ("timm:test_resnet", {"positions": "sine"}, "must be one of none, learned"),
        ("timm:test_resnet", {"pretrained": True, "weights": "x.bin"}, "exclude each other"),
        ("tiny-printed", {"pretrained": True}, "pretrained can be given for timm:NAME only"),
        ("tiny-printed", {"image_size": (32, 100)}, "not a multiple of the patch"),
        ("tiny-printed", {"image_size": 32}, r"expected \(height, width\)"),
        (tmp_path, {}, "model_type is 'swin', expected one of .*timm:NAME"),
        (timm.create_model("test_resnet"), {}, "expected a ViTModel, DeiTModel or TimmModel"),
        (3, {}, "expected timm:NAME, a checkpoint or a module"),
        (vit_encoder(32, num_channels=1), {}, "takes images of 1 channels, the processor makes 3"),
    ):
        with pytest.raises(SurgeryError, match=message):
            replace_encoder(model, encoder, processor=processor, **options)
        assert_untouched(model, processor, before)
    with pytest.raises(SurgeryError, match="processor is a NoneType, expected the model's TrOCRProcessor"):
        replace_encoder(model, "tiny-printed", processor=None)


def test_a_module_that_does_not_fit_stays_as_it_was():
    model, processor = fresh()
    grey = vit_encoder(32, num_channels=1)
    with pytest.raises(SurgeryError, match="takes images of 1 channels, the processor makes 3"):
        replace_encoder(model, grey, processor=processor, image_size=(64, 320))
    assert grey.embeddings.image_hw == grey.config.image_hw == IMAGE_HW
    assert grey.embeddings.position_embeddings.shape[1] == 81


def test_decoders_that_cannot_be_had_leave_the_model(tmp_path, pair_of):
    model, processor = fresh()
    before = state(model, processor)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    tokenizer = processor.tokenizer
    bare = TrOCRForCausalLM(small_model().config.decoder)
    bare.blocks[1].cross_attn = None
    padded = small_model().config.decoder
    padded = TrOCRForCausalLM(dataclasses.replace(padded, pad_token_id=5))
    for decoder, options, message in (
        (tmp_path, {"tokenizer": tokenizer}, "model_type is 'roberta', .*`trocr assemble`"),
        (pair_of("learned").directory, {}, "no tokenizer files"),
        (pair_of("learned").directory, {"tokenizer": tokenizer}, "513 tokens, the decoder 99 rows"),
        (padded, {"tokenizer": tokenizer}, "its pad_token_id is 1, the decoder's 5"),
        (padded, {}, "needs tokenizer="),
        (bare, {"tokenizer": tokenizer}, "block 1 of the decoder has no cross-attention"),
        (3, {}, "decoder is 3, expected a checkpoint or a TrOCRForCausalLM"),
    ):
        with pytest.raises(SurgeryError, match=message):
            replace_decoder(model, decoder, processor=processor, **options)
        assert_untouched(model, processor, before)


def test_a_model_with_an_adapter_is_refused():
    model, processor = fresh()
    add_adapter(model, modules="decoder.blocks.*.self_attn.q_proj", rank=2)
    before = state(model, processor)
    with pytest.raises(SurgeryError, match="merge it first"):
        replace_encoder(model, "tiny-printed", processor=processor)
    with pytest.raises(SurgeryError, match="merge it first"):
        replace_decoder(model, "tiny-printed", processor=processor)
    assert_untouched(model, processor, before)


def test_limits_of_another_decoder(pair_of, tmp_path):
    pair = pair_of("sinusoidal")
    model, processor = pair_of("learned").fresh(), shipped_processor()
    report = replace_decoder(model, pair.fresh().decoder, processor=processor, tokenizer=_Tiny())
    assert model.config.decoder == pair.ours.config.decoder
    pixels, tokens = images(pair.family, 2), ids(2, 6)
    with torch.no_grad():
        memory = model.encode(pixels)
        wanted = pair.ours(encoder_outputs=memory, decoder_input_ids=tokens).logits
    assert torch.equal(logits(model, pixels, tokens), wanted)
    model.save_pretrained(tmp_path)
    theirs = load_hf(tmp_path)
    with torch.no_grad():
        reference = theirs(pixel_values=pixels, decoder_input_ids=tokens).logits
    assert difference(reference, wanted) < REFERENCE_TOLERANCE
    assert report.counts()["removed"] > 0
    assert model(pixels, labels=labels(2, 5)).loss.requires_grad
    assert model.config.decoder.max_position_embeddings == MAX_POSITIONS
