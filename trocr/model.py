"""The whole model: images in, scores over the vocabulary out.

Letters in shape comments, everywhere in this package: B batch, S encoder tokens, T decoder tokens, D width,
H heads, K head width, V vocabulary; D_enc is the encoder's width, D_mem the one that cross-attention reads; a
prime marks another count of the same kind.

Source: arXiv:2109.10282; `transformers` 5.23 (`modeling_vision_encoder_decoder.py`) for argument names.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from trocr.cache import DecoderCache
from trocr.decoder import TextDecoderLM, token_loss
from trocr.encoder import ImageEncoder
from trocr.outputs import BaseModelOutput, CausalLMOutput, Seq2SeqLMOutput


def shift_right(labels: Tensor, *, pad_token_id: int, start_token_id: int) -> Tensor:
    """Turn labels (B, T) into decoder inputs: start token first, last label dropped, -100 as padding."""
    start = labels.new_full((labels.shape[0], 1), start_token_id)
    shifted = torch.cat((start, labels[:, :-1]), dim=1)
    return shifted.masked_fill(shifted == -100, pad_token_id)


class ImageToText(nn.Module):
    """An image encoder, a text decoder and, where their widths differ, a projection between them.

    Args:
        encoder: gives (B, S, D_enc).
        decoder: reads (B, S, D_mem) in cross-attention.
        projection: linear layer D_enc to D_mem, or `nn.Identity()`.
        start_token_id: first decoder input when labels are shifted.
        pad_token_id: stands for ignored labels in the decoder's input.
    """

    def __init__(
        self,
        *,
        encoder: ImageEncoder,
        decoder: TextDecoderLM,
        projection: nn.Module,
        start_token_id: int | None,
        pad_token_id: int | None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.enc_to_dec_proj = projection
        self.start_token_id = start_token_id
        self.pad_token_id = pad_token_id

    def encode(self, pixel_values: Tensor, **options: Any) -> BaseModelOutput:
        """Encode images (B, C, height, width); options as in `ImageEncoder.forward`."""
        return cast(BaseModelOutput, self.encoder(pixel_values, **options))

    def memory(self, encoded: BaseModelOutput) -> Tensor:
        """Give the states (B, S, D_mem) that cross-attention reads for what the encoder gave."""
        return self.enc_to_dec_proj(encoded.last_hidden_state)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple[Tensor, ...] | None = None,
        past_key_values: DecoderCache | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> Seq2SeqLMOutput | tuple[Any, ...]:
        """Encode, decode, and compute the loss where labels are given.

        Args:
            pixel_values: (B, C, height, width); not needed with `encoder_outputs`.
            decoder_input_ids: (B, T); made from `labels` where absent: shifted right, the start token first.
            decoder_attention_mask: (B, T), 1 = attend; not needed for right padding.
            encoder_outputs: what the encoder gave for the same images, as in `transformers`: any object with
                `last_hidden_state`, or a tuple whose first element is the states (B, S, D_enc).
            past_key_values: cache to continue.
            decoder_inputs_embeds: (B, T, D) instead of ids.
            labels: (B, T) ids, ended by the end token, without a start token; -100 is ignored. They are the
                targets of `logits` position by position: nothing is shifted a second time.
            use_cache: see `TextDecoderLM.forward`.
            output_attentions: probabilities of encoder, decoder and cross-attention.
            output_hidden_states: states of encoder and decoder.
            return_dict: False gives a plain tuple: loss if any, decoder fields, encoder fields.
            interpolate_pos_encoding: accept other image sizes.
        Raises:
            ValueError: no image, no decoder input, `encoder_outputs` of another kind, or a size or length
                that does not fit.
            IndexError: a token id outside the vocabulary.
        """
        encoded = self._encoded(
            pixel_values, encoder_outputs, interpolate_pos_encoding, output_attentions, output_hidden_states
        )
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        decoded = cast(
            CausalLMOutput,
            self.decoder(
                input_ids=decoder_input_ids,
                attention_mask=decoder_attention_mask,
                encoder_hidden_states=self.memory(encoded),
                inputs_embeds=decoder_inputs_embeds,
                past_key_values=past_key_values,
                use_cache=use_cache,
                output_attentions=output_attentions,
                output_hidden_states=output_hidden_states,
            ),
        )
        output = Seq2SeqLMOutput(
            loss=None if labels is None else token_loss(decoded.logits, labels),
            logits=decoded.logits,
            past_key_values=decoded.past_key_values,
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
            encoder_last_hidden_state=encoded.last_hidden_state,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
        )
        return output.to_tuple() if return_dict is False else output

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """Shift labels (B, T) right, the start token first, ignored labels as padding.

        Raises:
            ValueError: not (B, T) ids, or the configuration has no start or padding token.
        """
        if not isinstance(labels, Tensor) or labels.dim() != 2:
            found = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
            raise ValueError(f"labels are {found}, expected a tensor of ids (rows, tokens)")
        if self.start_token_id is None or self.pad_token_id is None:
            raise ValueError(
                f"labels need a start and a padding token; the configuration has decoder_start_token_id="
                f"{self.start_token_id}, pad_token_id={self.pad_token_id}"
            )
        return shift_right(labels, pad_token_id=self.pad_token_id, start_token_id=self.start_token_id)

    def _encoded(
        self,
        pixel_values: Tensor | None,
        given: BaseModelOutput | tuple[Tensor, ...] | None,
        interpolate: bool,
        attentions: bool,
        states: bool,
    ) -> BaseModelOutput:
        if given is None:
            if pixel_values is None:
                raise ValueError(
                    "pixel_values is missing: give images, or encoder_outputs of images seen before"
                )
            return self.encode(
                pixel_values,
                interpolate_pos_encoding=interpolate,
                output_attentions=attentions,
                output_hidden_states=states,
            )
        return BaseModelOutput.of(given)
