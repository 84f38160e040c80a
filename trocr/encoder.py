"""The image encoder: patches through pre-norm Transformer blocks.

Source: arXiv:2010.11929 sec. 3.1; arXiv:2012.12877 for the distillation token; `transformers` 5.23
(`modeling_vit.py`) for the order of operations.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trocr.nn.attention import Attention
from trocr.nn.embeddings import ImageEmbeddings
from trocr.nn.mlp import MLP, Activation
from trocr.outputs import BaseModelOutput


class EncoderBlock(nn.Module):
    """Pre-norm block: x + attn(norm(x)), then x + mlp(norm(x)).

    Args:
        self_attn: attention among the image's tokens.
        mlp: feed-forward part.
        width: D, for the norms.
        norm_eps: epsilon of the norms.
        dropout: probability on each branch before it is added.

    Attributes:
        attn_resid, mlp_resid: identities through which the sums (B, S, D) pass, for hooks.
    """

    def __init__(
        self, *, self_attn: Attention, mlp: MLP, width: int, norm_eps: float, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.attn_norm = nn.LayerNorm(width, eps=norm_eps)
        self.self_attn = self_attn
        self.attn_resid = nn.Identity()  # (B, S, D)
        self.mlp_norm = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = mlp
        self.mlp_resid = nn.Identity()  # (B, S, D)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, need_weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """Map (B, S, D) to (B, S, D), with the probabilities (B, H, S, S) on request."""
        branch, weights = self.self_attn(self.attn_norm(x), need_weights=need_weights)
        x = self.attn_resid(x + self.dropout(branch))
        x = self.mlp_resid(x + self.dropout(self.mlp(self.mlp_norm(x))))
        return x, weights


class Pooler(nn.Module):
    """A linear layer and an activation on the class token.

    Official files have none and reading never uses it; some fine-tuned files hold one, and it is kept.
    """

    def __init__(self, *, width: int, out_width: int, activation: str) -> None:
        super().__init__()
        self.dense = nn.Linear(width, out_width)
        self.act = Activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, S, D) to (B, out_width)."""
        return self.act(self.dense(x[:, 0]))


class ImageEncoder(nn.Module):
    """Embeddings, blocks and a last norm.

    Args:
        embeddings: image to tokens.
        blocks: any number of `EncoderBlock`s, in order.
        norm: the last norm.
        pooler: a `Pooler`, or None.

    Attributes:
        gradient_checkpointing: recompute blocks in the backward pass of training instead of keeping their
            activations.
    """

    def __init__(
        self,
        *,
        embeddings: ImageEmbeddings,
        blocks: Sequence[EncoderBlock],
        norm: nn.Module,
        pooler: Pooler | None = None,
    ) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.pooler = pooler
        self.gradient_checkpointing = False

    def forward(
        self,
        pixel_values: Tensor,
        *,
        interpolate_pos_encoding: bool = False,
        crop_pos_encoding: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool | None = None,
    ) -> BaseModelOutput | tuple[Tensor, ...]:
        """Encode images.

        Args:
            pixel_values: (B, C, height, width), normalised; converted to the weights' dtype.
            interpolate_pos_encoding: accept other image sizes by resampling the positions.
            crop_pos_encoding: accept smaller images, which take the top left part of the positions: lines
                whose padding on the right was left out.
            output_attentions: give every block's probabilities; uses the eager core.
            output_hidden_states: give the embedding output and every block's output.
            return_dict: False gives a plain tuple of the fields that are present.
        Returns:
            See `BaseModelOutput`; S is prefix tokens + patches, prefix tokens included.
        Raises:
            ValueError: see `ImageEmbeddings.forward`.
        """
        pixel_values = pixel_values.to(self.embeddings.patch_embeddings.weight.dtype)
        x = self.embeddings(
            pixel_values,
            interpolate_pos_encoding=bool(interpolate_pos_encoding),
            crop_pos_encoding=crop_pos_encoding,
        )
        states = [x]
        probabilities: list[Tensor] = []
        for block in self.blocks:
            if self.gradient_checkpointing and self.training:
                x, weights = checkpoint(block, x, output_attentions, use_reentrant=False)
            else:
                x, weights = block(x, output_attentions)
            if output_hidden_states:
                states.append(x)
            if weights is not None:
                probabilities.append(weights)
        x = self.norm(x)
        output = BaseModelOutput(
            last_hidden_state=x,
            pooler_output=None if self.pooler is None else self.pooler(x),
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(probabilities) if output_attentions else None,
        )
        return output.to_tuple() if return_dict is False else output
