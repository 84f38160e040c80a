"""What a student cannot learn, and from whom, is said before the first step."""

import copy
import dataclasses

import pytest
from drawn import SHIPPED, processor, small_model

from trocr import VisionEncoderDecoderModel
from trocr.training.distillation import DistillationError, DistillationObjective, Weights
from trocr.training.options import TrainingOptions
from trocr.training.prepare import prepare


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"temperature": float("nan")}, "temperature=nan must be above 0"),
        ({"logits": -1.0}, "weights must be 0 or more"),
        ({"labels": float("nan")}, "weights must be 0 or more"),
        ({"labels": 0.0, "logits": 0.0}, "one of them above 0"),
    ],
)
def test_weights_that_minimise_nothing(weights, message):
    with pytest.raises(DistillationError, match=message):
        Weights(**weights)


def test_a_student_that_is_its_own_teacher_would_be_frozen():
    model = small_model()
    part = copy.deepcopy(model)
    part.encoder = model.encoder
    for teacher in (model, part):
        with pytest.raises(DistillationError, match=r"the teacher shares parameters with the student"):
            DistillationObjective(model, teacher, weights=Weights())
        assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("part", ["hidden", "attention"])
@pytest.mark.parametrize("who", ["student", "teacher"])
def test_backbones_of_timm_have_scores_only(part, who):
    from trocr.surgery.parts import replace_encoder

    other, plain = small_model(), small_model()
    size = {"embed_dim": 16, "depth": 1, "num_heads": 2}
    replace_encoder(other, "timm:vit_tiny_patch16_224", processor=processor(), model_args=size)
    models = (other, plain) if who == "student" else (plain, other)
    with pytest.raises(DistillationError, match=f"the encoder of the {who} is a TimmModel without blocks"):
        DistillationObjective(*models, weights=Weights(**{part: 1.0}))
    assert all(parameter.requires_grad for parameter in models[1].parameters())
    DistillationObjective(*models, weights=Weights())


def test_a_teacher_of_fewer_positions_than_labels_have_tokens(tmp_path):
    model = VisionEncoderDecoderModel.from_pretrained(SHIPPED)
    decoder = dataclasses.replace(model.config.decoder, max_position_embeddings=20)
    teacher = VisionEncoderDecoderModel(dataclasses.replace(model.config, decoder=decoder))
    teacher.save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    values = {
        "model": {"checkpoint": str(SHIPPED)},
        "data": {"train": ["examples"]},
        "run": {"steps": 1},
        "distillation": {"teacher": str(tmp_path)},
    }
    with pytest.raises(DistillationError, match=r"has 20 positions, labels may have \d+ tokens; set data"):
        prepare(TrainingOptions.from_dict(values))
    values["data"]["max_label_tokens"] = 20
    assert prepare(TrainingOptions.from_dict(values)).objective.teacher.config.decoder == decoder
