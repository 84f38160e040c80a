"""`trocr assemble`, and models of two parts."""

import json

import pytest
import timm
import torch
import transformers
from click.testing import CliRunner
from PIL import Image
from random_parts import SMALL, decoder_of
from safetensors.torch import save_file

from trocr import TrOCRProcessor, VisionEncoderDecoderModel
from trocr.cli import main
from trocr.parts import PartsError, assemble
from trocr.parts.image_part import from_timm_model, load_image_part
from trocr.parts.text_part import load_text_part
from trocr.surgery.image_shape import resize_images

VIT = "vit_tiny_patch16_224"


def run(*arguments):
    return CliRunner().invoke(main, ["assemble", *map(str, arguments)])


@pytest.fixture
def assembled(tmp_path, text):
    encoder = tmp_path / "encoder.safetensors"
    model = timm.create_model(VIT, num_classes=0)
    save_file(model.state_dict(), encoder)
    out, report = tmp_path / "out", tmp_path / "report.json"
    done = run(
        *(
            out,
            "--encoder",
            f"timm:{VIT}",
            "--encoder-weights",
            encoder,
            "--decoder",
            text,
            "--layers",
            "last:2",
        ),
        *("--image-size", 64, 256, "--max-positions", 20, "--json", report),
    )
    assert done.exit_code == 0, done.output
    return out, done.output, json.loads(report.read_text()), model


def test_the_command_writes_a_checkpoint_and_a_report(assembled):
    out, shown, report, source = assembled
    assert "parameters are taken over" in shown
    assert "decoder.blocks.*.cross_attn.q_proj.weight [32, 32] x 2  new: normal" in shown
    assert (
        "decoder.blocks.*.mlp.fc1.weight [48, 32] x 2  <- encoder.layer.*.intermediate.dense.weight" in shown
    )
    assert "images of 64 x 256 pixels (height x width) instead of 224 x 224" in shown
    assert "encoder.layer.*.intermediate.dense.weight x 2  of a layer that is not taken" in shown
    model = VisionEncoderDecoderModel.from_pretrained(out)
    assert torch.equal(model.encoder.blocks[3].mlp.fc1.weight, source.blocks[3].mlp.fc1.weight)
    new = {row["name"] for row in report["taken"] if not row["sources"]}
    assert new
    assert all("cross_attn" in name or "enc_to_dec_proj" in name for name in new)
    assert report["counts"]["new"] == sum(
        parameter.numel() for name, parameter in model.named_parameters() if name in new
    )
    assert model.config.decoder_start_token_id == 2
    assert model.config.decoder.max_position_embeddings == 20
    processor = TrOCRProcessor.from_pretrained(out)
    assert processor.image_processor.size == {"height": 64, "width": 256}


def test_an_assembled_model_trains_and_loads_in_transformers(assembled):
    out = assembled[0]
    model = VisionEncoderDecoderModel.from_pretrained(out)
    reference = transformers.VisionEncoderDecoderModel.from_pretrained(out).eval()
    pixels, labels = torch.randn(2, 3, 64, 256), torch.randint(5, 40, (2, 6))
    with torch.no_grad():
        wanted = reference(pixel_values=pixels, labels=labels).logits
        torch.testing.assert_close(
            model(pixel_values=pixels, labels=labels).logits, wanted, atol=1e-4, rtol=1e-4
        )
    model.train()
    model(pixel_values=pixels, labels=labels).loss.backward()
    lacking = [name for name, p in model.named_parameters() if p.grad is None]
    assert lacking == []


def test_outputs_that_cannot_be_written_are_found_out_before_the_work(tmp_path, text, monkeypatch):
    def work(*arguments, **options):
        raise AssertionError("a model was assembled")

    monkeypatch.setattr("trocr.parts.assemble", work)
    parts = ("--encoder", "tiny-printed", "--decoder", text)
    report = tmp_path / "nowhere/report.json"
    done = run(tmp_path / "out", *parts, "--json", report)
    assert done.exit_code == 1
    assert f"{report}: there is no folder {report.parent}; make it, or give another file" in done.output
    assert not (tmp_path / "out").exists()
    done = run(text / "vocab.txt", *parts)
    assert done.exit_code == 1
    assert "is a file, expected a folder for the checkpoint" in done.output


@pytest.mark.parametrize("layers", ["0,,1", "²"])
def test_mistakes_are_messages(tmp_path, text, layers):
    done = run(tmp_path / "out", "--encoder", "tiny-printed", "--decoder", text, "--layers", layers)
    assert done.exit_code == 1
    assert "must be all, last:N, first:N, every:N, or numbers" in done.output


def test_the_epsilon_of_norms_is_the_only_difference_and_is_told(text):
    source = transformers.BertModel.from_pretrained(text, is_decoder=True).eval()
    part = load_text_part(str(text))
    ids = torch.randint(5, 40, (2, 9))
    with torch.no_grad():
        wanted = source(ids).last_hidden_state
        found = decoder_of(part).states(input_ids=ids, use_cache=False).last_hidden_state
    assert 0 < (found - wanted).abs().max() < 1e-3
    encoder = from_timm_model(timm.create_model(VIT, **SMALL))
    made = assemble(encoder, part, tokenizer=str(text))
    told = "norms of the decoder add 1e-05 to the variance, those of the source 1e-12"
    assert any(told in note for note in made.report.notes)


def test_the_same_seed_gives_the_same_model(text):
    part = from_timm_model(timm.create_model(VIT, **SMALL))
    models = [assemble(part, str(text), seed=seed).model.state_dict() for seed in (1, 1, 2)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    assert any(not torch.equal(models[0][name], models[2][name]) for name in models[0])


def test_an_encoder_of_a_checkpoint(text):
    made = assemble("tiny-printed", str(text))
    wanted = VisionEncoderDecoderModel.from_pretrained("tiny-printed").encoder
    assert torch.equal(made.model.encoder.blocks[0].mlp.fc1.weight, wanted.blocks[0].mlp.fc1.weight)
    assert made.report.encoder == "tiny-printed"


def test_parts_that_do_not_fit(text):
    part = from_timm_model(timm.create_model(VIT, **SMALL))
    with pytest.raises(PartsError, match="the tokenizer has 513 tokens, the decoder's embedding 40 rows"):
        assemble(part, str(text), tokenizer="tiny-printed")
    with pytest.raises(PartsError, match="not a multiple of the patch"):
        assemble(part, str(text), image_size=(30, 32))
    with pytest.raises(PartsError, match="model_type is 'bert', expected vit"):
        load_image_part(str(text))


def test_an_encoder_of_grey_images_gets_grey_images(tmp_path, text):
    model = VisionEncoderDecoderModel.from_pretrained("tiny-printed")
    source = TrOCRProcessor.from_pretrained("tiny-printed")
    resize_images(model, processor=source, num_channels=1)
    model.save_pretrained(tmp_path)
    source.save_pretrained(tmp_path)
    made = assemble(str(tmp_path), str(text))
    pixels = made.processor(Image.new("RGB", (90, 30), (9, 200, 30)), return_tensors="pt").pixel_values
    assert pixels.shape == (1, 1, *made.model.encoder.embeddings.image_hw)
    assert made.model.eval().encode(pixels).last_hidden_state.isfinite().all()


def test_the_seed_is_the_models_alone(text):
    part = from_timm_model(timm.create_model(VIT, **SMALL))
    torch.manual_seed(11)
    wanted = torch.get_rng_state()
    assemble(part, str(text), seed=5)
    assert torch.equal(torch.get_rng_state(), wanted)
