"""The tables of a model that have a row for each token: token embedding and output projection.

Source: means of pieces' rows after "vocabulary transfer" (arXiv:2112.14569); rows drawn from the mean and
deviation of the old ones after John Hewitt, "Initializing New Word Embeddings for Pretrained Language Models"
(2021).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trocr.models import TrOCRForCausalLM, VisionEncoderDecoderModel
from trocr.nn.embeddings import SinusoidalPositions, TokenEmbedding
from trocr.surgery.patterns import SurgeryError
from trocr.surgery.report import Action, Change
from trocr.surgery.vocabulary_ids import Followed

EMBEDDING, PROJECTION = "decoder.embed_tokens.weight", "decoder.output_projection.weight"


@dataclass(frozen=True, kw_only=True)
class RowPlan:
    """Where the rows of a vocabulary's tables are from.

    Attributes:
        size: rows.
        tokens: rows of the old tables that are tokens of the old tokenizer, the first ones.
        carried: row -> old row with the same values.
        composed: row -> old rows whose mean it is.
        new: rows that are drawn from the mean and deviation of the old ones. All others are the mean itself,
            which is never the likeliest token.
        read: like `carried`, for the embedding alone, where the output projection has a table of its own.
    """

    size: int
    tokens: int
    carried: Mapping[int, int]
    composed: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    new: frozenset[int] = frozenset()
    read: Mapping[int, int] = field(default_factory=dict)

    def numbers(self, before: int) -> dict[str, float]:
        """Numbers of a report.

        Args:
            before: rows of the old tables.
        """
        return {
            "rows_before": before,
            "rows_after": self.size,
            "carried_rows": len(self.carried),
            "composed_rows": len(self.composed),
            "new_rows": len(self.new),
        }


def check_tables(model: VisionEncoderDecoderModel) -> tuple[TokenEmbedding, nn.Linear]:
    """Find the token embedding and the output projection of a model.

    Raises:
        SurgeryError: they are not what the configuration describes; another operation must be undone or
            finished first.
    """
    embedding, projection = model.get_input_embeddings(), model.get_output_embeddings()
    shape = (model.config.decoder.vocab_size, model.config.decoder.d_model)
    fits = (
        isinstance(embedding, TokenEmbedding)
        and isinstance(projection, nn.Linear)
        and projection.bias is None
        and [name for name, _ in embedding.named_parameters()] == ["weight"]
        and [name for name, _ in projection.named_parameters()] == ["weight"]
        and tuple(embedding.weight.shape) == shape == tuple(projection.weight.shape)
    )
    if not fits:
        raise SurgeryError(
            f"the token embedding is {embedding} and the output projection {projection}, expected plain ones "
            f"of {shape[0]} rows and width {shape[1]}, as the configuration says; merge or remove adapters "
            "first"
        )
    assert isinstance(embedding, TokenEmbedding)
    assert isinstance(projection, nn.Linear)
    return embedding, projection


def replace_rows(
    model: VisionEncoderDecoderModel, plan: RowPlan, followed: Followed, *, seed: int = 0, action: Action
) -> list[Change]:
    """Give a model the rows of a plan, and its configuration and generation options.

    Args:
        model: changed in place; what can fail is done before the first change.
        plan: of the rows.
        followed: what the model's settings become.
        seed: of the rows that are drawn.
        action: what the report calls it.
    Returns:
        One change for each table.
    """
    embedding, projection = check_tables(model)
    decoder = model.decoder
    assert isinstance(decoder, TrOCRForCausalLM)
    is_tied = bool(decoder.tied)
    random = torch.Generator().manual_seed(seed)
    table = _parameter(embedding.weight, plan if is_tied else replace(plan, carried=_read(plan)), random)
    scores = table if is_tied else _parameter(projection.weight, plan, random)
    padding_id = followed.config.decoder.pad_token_id
    positions = decoder.embed_positions
    before = (tuple(embedding.weight.shape), tuple(projection.weight.shape))

    embedding.weight, projection.weight = table, scores
    embedding.num_embeddings = projection.out_features = plan.size
    embedding.padding_idx = padding_id
    if isinstance(positions, SinusoidalPositions) and padding_id != positions.padding_idx:
        assert padding_id is not None  # the configuration says so
        positions.padding_idx = padding_id
        positions.table = positions.compute_table().to(positions.table)
    model.config = followed.config
    model.generation_config = followed.generation
    decoder.generation_config = followed.decoder_generation
    model.tie_weights()
    tables = [(EMBEDDING, table, before[0])] + [(PROJECTION, scores, before[1])] * (not is_tied)
    return [
        Change(name=name, action=action, shape=tuple(new.shape), before=old, detail=_told(plan))
        for name, new, old in tables
    ]


def _read(plan: RowPlan) -> Mapping[int, int]:
    return {**plan.carried, **plan.read}


def _parameter(old: Tensor, plan: RowPlan, random: torch.Generator) -> nn.Parameter:
    return nn.Parameter(_table(old.detach(), plan, random), requires_grad=old.requires_grad)


def _table(old: Tensor, plan: RowPlan, random: torch.Generator) -> Tensor:
    """New table (size, D) of an old one (V, D), in its precision; sums run in float32."""
    tokens = old[: plan.tokens].float()
    mean = tokens.mean(0)
    table = mean.to(old.dtype).repeat(plan.size, 1)
    if plan.new:
        rows = _index(sorted(plan.new), old)
        drawn = torch.randn(len(rows), old.shape[1], generator=random).to(old.device)
        table[rows] = (mean + drawn * tokens.std(0, correction=0)).to(old.dtype)
    if plan.composed:
        rows = _index(plan.composed, old)
        pieces = [piece for row in plan.composed.values() for piece in row]
        starts = [0]
        for row in plan.composed.values():
            starts.append(starts[-1] + len(row))
        bags = F.embedding_bag(_index(pieces, old), old.float(), _index(starts[:-1], old), mode="mean")
        table[rows] = bags.to(old.dtype)
    if plan.carried:
        table[_index(plan.carried, old)] = old[_index(plan.carried.values(), old)]
    return table


def _index(rows: Iterable[int], like: Tensor) -> Tensor:
    return torch.tensor(list(rows), dtype=torch.long, device=like.device)


def _told(plan: RowPlan) -> str:
    def counts() -> Iterator[str]:
        yield f"{len(plan.carried)} rows carried"
        if plan.composed:
            yield f"{len(plan.composed)} composed of their pieces"
        if plan.new:
            yield f"{len(plan.new)} new"

    return ", ".join(counts())
