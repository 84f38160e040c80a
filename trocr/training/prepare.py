"""What is trained, as options describe it: the model, its teacher and its CTC head.

Source: original work.
"""

from dataclasses import dataclass

from trocr.hub import MODEL_FILES, PROCESSOR_FILES, locate
from trocr.models import VisionEncoderDecoderModel
from trocr.processor import TrOCRProcessor
from trocr.surgery.adapters import add_adapter
from trocr.training.ctc import PRINTABLE_ASCII, CTCHead
from trocr.training.distillation import DistillationError, DistillationObjective, Weights
from trocr.training.objective import Objective
from trocr.training.optimizer import freeze, freeze_unused
from trocr.training.option_tables import DistillationOptions, LossOptions
from trocr.training.options import TrainingOptions
from trocr.training.start import load_start

SHOWN = 3
"""Tokens that a message names."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a run trains.

    Attributes:
        objective: the model with its losses, on the CPU, frozen where options say so.
        processor: of the model.
        teacher_processor: of a teacher that sees images in another way, or None.
    """

    objective: Objective
    processor: TrOCRProcessor
    teacher_processor: TrOCRProcessor | None


def prepare(options: TrainingOptions) -> Prepared:
    """Load or build what is trained, and its teacher.

    Raises:
        HubError: a checkpoint is neither here nor reachable.
        StartError: the model cannot start so.
        OptionsError: a pattern of what is frozen matches nothing.
        SurgeryError: the recipe cannot be done, or adapters cannot be added.
        CTCHeadError: a saved head does not fit.
        DistillationError: the teacher cannot teach this student.
    """
    model, processor = load_start(options.model)
    freeze_unused(model)
    if options.model.freeze:
        freeze(model, options.model.freeze)
    adapters = options.adapters
    if adapters.modules:
        add_adapter(
            model,
            modules=adapters.modules,
            kind=adapters.kind,
            rank=adapters.rank,
            alpha=adapters.alpha,
            dropout=adapters.dropout,
            also_train=adapters.also_train,
        )
    ctc = _ctc_head(model, options.loss) if options.loss.ctc_weight else None
    smoothing = options.loss.label_smoothing
    given = options.distillation
    if not given.teacher:
        objective = Objective(model, ctc=ctc, label_smoothing=smoothing)
        return Prepared(objective=objective, processor=processor, teacher_processor=None)
    teacher, teacher_processor = _load_teacher(given, processor)
    _check_positions(given.teacher, teacher, options.data.label_limit(_positions(model)))
    weights = Weights(
        labels=given.labels,
        logits=given.logits,
        hidden=given.hidden,
        attention=given.attention,
        temperature=given.temperature,
    )
    return Prepared(
        objective=DistillationObjective(model, teacher, weights=weights, ctc=ctc, label_smoothing=smoothing),
        processor=processor,
        teacher_processor=None if _sees_alike(processor, teacher_processor) else teacher_processor,
    )


def _ctc_head(model: VisionEncoderDecoderModel, options: LossOptions) -> CTCHead:
    embeddings = model.encoder.embeddings
    ctc = CTCHead(
        width=model.config.encoder.hidden_size,
        alphabet=options.ctc_alphabet or PRINTABLE_ASCII,
        grid=embeddings.grid,
        num_prefix=embeddings.num_prefix,
    )
    if options.ctc_head:
        ctc.load(options.ctc_head)
    return ctc


def _load_teacher(
    options: DistillationOptions, processor: TrOCRProcessor
) -> tuple[VisionEncoderDecoderModel, TrOCRProcessor]:
    """Load a teacher, and check that it writes the student's tokens."""
    folder = locate(options.teacher, want=(*MODEL_FILES, *PROCESSOR_FILES))
    found = TrOCRProcessor.from_pretrained(folder)
    mine, theirs = (p.tokenizer.get_vocab() for p in (processor, found))
    others = sorted(token for token in mine.keys() | theirs.keys() if mine.get(token) != theirs.get(token))
    if others:
        shown = ", ".join(map(repr, others[:SHOWN]))
        raise DistillationError(
            f"distillation.teacher={options.teacher!r}: {len(others)} of its tokens are not the student's, "
            f"such as {shown}, so scores cannot be compared; give the student the teacher's tokenizer "
            "(`trocr surgery replace-tokenizer`), or train it on lines that the teacher has read"
        )
    return VisionEncoderDecoderModel.from_pretrained(folder), found


def _positions(model: VisionEncoderDecoderModel) -> int:
    return model.config.decoder.max_position_embeddings


def _check_positions(name: str, teacher: VisionEncoderDecoderModel, longest: int) -> None:
    """Find out before the first long line that a teacher cannot read it."""
    if longest > _positions(teacher):
        raise DistillationError(
            f"distillation.teacher={name!r} has {_positions(teacher)} positions, labels may have {longest} "
            f"tokens; set data.max_label_tokens to {_positions(teacher)}, or take another teacher"
        )


def _sees_alike(first: TrOCRProcessor, second: TrOCRProcessor) -> bool:
    """Whether two processors make the same pixels."""
    return first.image_processor.to_dict() == second.image_processor.to_dict()
