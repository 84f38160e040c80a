"""The Hugging Face dialects against files and models of the reference implementation."""

import pytest
import tiny_models
import torch
import transformers
from transformers.core_model_loading import revert_weight_conversion

from trocr.official import OFFICIAL_MODELS
from weights_conversion import hf
from weights_conversion.files import open_weights
from weights_conversion.rename import KeyMapError, Table

TIED = {"decoder.output_projection.weight": "decoder.embed_tokens.weight"}


def renamed(table: Table, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Our names of a file's tensors; fails where one is unknown."""
    forward = table.forward(shapes)
    assert [name for name in shapes if name not in forward] == []
    return {ours: shapes[name] for name, (ours,) in forward.items()}


@pytest.fixture(scope="module", params=["learned", "sinusoidal", "unilm"])
def saved(request, tmp_path_factory):
    model = tiny_models.pair(request.param)
    return model, tiny_models.save(model, tmp_path_factory.mktemp(request.param))


def test_names_on_disk_and_back(saved) -> None:
    model, directory = saved
    with open_weights(directory) as file:
        ours = renamed(hf.HF, file.shapes)
        assert hf.HF.invert(ours) == dict(zip(ours, file.shapes, strict=True))
        plan = hf.HF.plan(
            file.shapes, ours, tied=TIED if model.decoder.config.tie_word_embeddings else {}, origin="x"
        )
        assert [(move.source, move.parts) for move in plan.items] == [(name, 1) for name in file.shapes]


def test_names_in_memory_lead_to_the_same_tensors(saved) -> None:
    model, directory = saved
    memory = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    ours = renamed(hf.HF_MEMORY, memory)
    assert hf.HF_MEMORY.invert(ours) == dict(zip(ours, memory, strict=True))
    with open_weights(directory) as file:
        on_disk = renamed(hf.HF, file.shapes)
        left_out = set(ours) - set(on_disk)
        assert left_out == (set(TIED) if model.decoder.config.tie_word_embeddings else set())
        state = model.state_dict()
        back = hf.HF_MEMORY.invert(on_disk)
        for name, source in hf.HF.invert(on_disk).items():
            assert torch.equal(file.tensor(source), state[back[name]])


def test_each_dialect_is_told_apart_by_its_names(saved) -> None:
    model, directory = saved
    tables = (*hf.MODEL_TABLES, *hf.DECODER_TABLES, *hf.STACK_TABLES, *hf.ENCODER_TABLES)
    with open_weights(directory) as file:
        knows = {table.name: table.knows(file.shapes) for table in tables}
    assert max(knows, key=knows.__getitem__) == "hf"
    memory = model.state_dict()
    knows = {table.name: table.knows(memory) for table in tables}
    assert max(knows, key=knows.__getitem__) == "hf5"


@pytest.mark.parametrize(
    ("build", "table", "dropped"),
    [
        (lambda: transformers.ViTModel(tiny_models.encoder_config("vit")), hf.HF_ENCODER, set()),
        (lambda: transformers.DeiTModel(tiny_models.encoder_config("deit")), hf.HF_ENCODER, set()),
        (
            lambda: transformers.TrOCRForCausalLM(transformers.TrOCRConfig(**tiny_models.DECODER)),
            hf.HF_DECODER,
            set(),
        ),
        (
            lambda: transformers.ViTForImageClassification(tiny_models.encoder_config("vit")),
            hf.HF_VIT,
            {"classifier.weight", "classifier.bias"},
        ),
        (
            lambda: transformers.DeiTForImageClassificationWithTeacher(tiny_models.encoder_config("deit")),
            hf.HF_DEIT,
            {f"{head}_classifier.{leaf}" for head in ("cls", "distillation") for leaf in ("weight", "bias")},
        ),
        (
            lambda: transformers.ViTForMaskedImageModeling(
                tiny_models.encoder_config("vit", encoder_stride=8, num_channels=3)
            ),
            hf.HF_VIT,
            {"decoder.0.weight", "decoder.0.bias", "vit.embeddings.mask_token"},
        ),
    ],
)
def test_stand_alone_models(tmp_path, build, table, dropped) -> None:
    tiny_models.save(build(), tmp_path)
    with open_weights(tmp_path) as file:
        ours = {name: file.shapes[key] for key, (name,) in table.forward(file.shapes).items()}
        plan = table.plan(file.shapes, ours, origin="x")
        assert {key for key, _ in plan.ignored} == dropped
        assert {move.source for move in plan.items} == set(file.shapes) - dropped
        assert not any(name.startswith(("encoder.", "decoder.", "model.")) for name in ours)


def test_files_of_4x_hold_a_placeholder_that_is_ignored() -> None:
    shapes = {"decoder.model.decoder.embed_positions._float_tensor": (1,), "encoder.layernorm.bias": (4,)}
    plan = hf.HF.plan(shapes, {"encoder.norm.bias": (4,)}, origin="x")
    assert plan.ignored == ((next(iter(shapes)), hf.SINUSOIDAL_DUMMY),)


def test_learned_table_for_a_sinusoidal_model_is_named() -> None:
    with pytest.raises(KeyMapError, match=r"not in this model(.|\n)*embed_positions.weight: \(30, 12\)"):
        hf.HF.plan({"decoder.model.decoder.embed_positions.weight": (30, 12)}, {}, origin="x")


def test_shards_and_bin_written_by_the_reference(saved, tmp_path) -> None:
    model, directory = saved
    tiny_models.save(model, tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    torch.save(revert_weight_conversion(model, model.state_dict()), tmp_path / "pytorch_model.bin")
    with (
        open_weights(directory) as whole,
        open_weights(tmp_path / "model.safetensors.index.json") as shards,
        open_weights(tmp_path / "pytorch_model.bin") as pickled,
    ):
        assert shards.shapes == whole.shapes
        assert set(pickled.shapes) - set(whole.shapes) <= {"decoder.output_projection.weight"}
        for name in whole.shapes:
            assert torch.equal(shards.tensor(name), whole.tensor(name))
            assert torch.equal(pickled.tensor(name), whole.tensor(name))


@pytest.mark.parametrize("name", OFFICIAL_MODELS)
def test_names_of_the_official_models(name) -> None:
    """At full size on the meta device: both dialects lead to one set of names of ours, with FACTS' counts."""
    official = OFFICIAL_MODELS[name]
    config = transformers.VisionEncoderDecoderConfig(**official.config.to_dict())
    with torch.device("meta"):
        model = transformers.VisionEncoderDecoderModel(config)
    state = model.state_dict()
    disk = {key: tuple(tensor.shape) for key, tensor in revert_weight_conversion(model, state).items()}
    from_disk, from_memory = (
        renamed(hf.HF, disk),
        renamed(hf.HF_MEMORY, {key: tuple(tensor.shape) for key, tensor in state.items()}),
    )
    assert from_disk == from_memory
    assert sorted(hf.HF.invert(from_disk).values()) == sorted(disk)
    counted = {
        ours: torch.Size(shape).numel()
        for ours, shape in from_disk.items()
        if not ours.startswith("encoder.pooler.")
        and not (ours in TIED and config.decoder.tie_word_embeddings)
    }
    assert sum(counted.values()) == official.num_parameters
