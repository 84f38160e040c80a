"""Which token of one tokenizer is which of another: by what it writes, or by its role.

Source: original work; roles are those of `transformers`' named special tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike

from trocr.config import VisionEncoderDecoderConfig
from trocr.hub import PROCESSOR_FILES, HubError, locate
from trocr.surgery.patterns import SurgeryError
from trocr.tokenizers import Tokenizer, TokenizerError, load_tokenizer
from trocr.tokenizers.editing import Editor, TokenText

_ROLES: Mapping[str, Sequence[str]] = {
    "eos_token_id": ("eos_token_id", "sep_token_id"),
    "sep_token_id": ("sep_token_id", "eos_token_id"),
    "bos_token_id": ("bos_token_id", "cls_token_id"),
    "cls_token_id": ("cls_token_id", "bos_token_id"),
    "pad_token_id": ("pad_token_id",),
    "unk_token_id": ("unk_token_id",),
    "mask_token_id": ("mask_token_id",),
}
"""Role of a new token -> roles of old ones that will do, the best first. The end token comes first of all."""


@dataclass(frozen=True, kw_only=True)
class Matched:
    """Where the tokens of a new tokenizer are in an old one.

    Attributes:
        carried: new id -> id of the old token with the same text or role.
        composed: new id -> ids of the old tokens that write its text.
        new: new ids that the old tokenizer cannot write.
        roles: the part of `carried` that goes by role.
    """

    carried: Mapping[int, int]
    composed: Mapping[int, tuple[int, ...]]
    new: tuple[int, ...]
    roles: Mapping[int, int]

    def ids(self) -> dict[int, int]:
        """Old id -> new id; roles go before texts."""
        return {
            **{old: new for new, old in self.carried.items()},
            **{old: new for new, old in self.roles.items()},
        }


def load_any(tokenizer: Tokenizer | str | PathLike[str]) -> Tokenizer:
    """Take a tokenizer as it is, or load it from a directory, a shipped checkpoint or the Hub.

    Raises:
        SurgeryError: it is neither here nor reachable, or cannot be read.
    """
    if not isinstance(tokenizer, str | PathLike):
        return tokenizer
    try:
        return load_tokenizer(locate(tokenizer, want=PROCESSOR_FILES))
    except (HubError, TokenizerError) as error:
        raise SurgeryError(f"the new tokenizer cannot be loaded: {error}") from error


def end_id(tokenizer: Tokenizer) -> int | None:
    """The token that ends a text: `eos_token`, or `sep_token` where there is none."""
    return tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id


def begin_id(tokenizer: Tokenizer) -> int | None:
    """The token for the begin of texts: `bos_token`, or `cls_token` where there is none."""
    return tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id


def special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """Ids for the configuration: padding, begin, end.

    Raises:
        SurgeryError: the tokenizer lacks one.
    """
    found = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": begin_id(tokenizer),
        "eos_token_id": end_id(tokenizer),
    }
    known = set(tokenizer.get_vocab().values())
    if tokenizer.pad_token not in tokenizer.get_vocab():  # its id is that of the unknown token then
        found["pad_token_id"] = None
    lacking = [name for name, token_id in found.items() if token_id not in known]
    if lacking:
        needs = {"pad_token_id": "pad_token", "bos_token_id": "bos_token or cls_token"}
        names = ", ".join(needs.get(name, "eos_token or sep_token") for name in lacking)
        raise SurgeryError(
            f"the new tokenizer has no {names}, which a decoder needs; set it (tokenizer.add_special_tokens)"
        )
    return {name: token_id for name, token_id in found.items() if token_id is not None}


def usual_start(tokenizer: Tokenizer) -> int | None:
    """What texts start with in models of a tokenizer: its `eos_token`, or else its begin token."""
    return tokenizer.eos_token_id if tokenizer.eos_token_id is not None else begin_id(tokenizer)


def new_start(
    config: VisionEncoderDecoderConfig, old: Tokenizer, new: Tokenizer, ids: Mapping[int, int]
) -> int:
    """The token that texts start with under a new tokenizer.

    Args:
        config: of the model, before.
        old: its tokenizer.
        new: the one that it gets.
        ids: old id -> new id.
    """
    start = config.decoder_start_token_id
    if start is not None and start != usual_start(old) and start in ids:
        return ids[start]
    usual = usual_start(new)
    assert usual is not None  # `special_ids` has looked
    return usual


def match(old: Editor, new: Editor) -> Matched:
    """Find the tokens of a tokenizer in another one."""
    roles = _by_role(old, new)
    carried = dict(roles)
    carried |= _by_name(old, new, taken=carried)
    texts = new.token_texts()
    old_base, old_added = _by_text(old)
    composed: dict[int, tuple[int, ...]] = {}
    for token_id, text in texts.items():
        if token_id in carried:
            continue
        first, second = (old_added, old_base) if new.is_added(token_id) else (old_base, old_added)
        found = first.get(text, second.get(text))
        if found is not None:
            carried[token_id] = found
        else:
            pieces = tuple(old.pieces(text))
            if pieces:
                composed[token_id] = pieces
    lacking = tuple(sorted(new.token_ids() - carried.keys() - composed.keys()))
    return Matched(carried=carried, composed=composed, new=lacking, roles=roles)


def _by_role(old: Editor, new: Editor) -> dict[int, int]:
    """Named special tokens; each old row goes to one token, or two would always be equally likely."""
    found: dict[int, int] = {}
    for role, others in _ROLES.items():
        new_id = getattr(new.tokenizer, role)
        old_ids = (getattr(old.tokenizer, other) for other in others)
        old_id = next((i for i in old_ids if i is not None and i not in found.values()), None)
        if new_id is not None and new_id not in found and old_id is not None:
            found[new_id] = old_id
    return found


def _by_name(old: Editor, new: Editor, *, taken: Mapping[int, int]) -> dict[int, int]:
    """Special tokens without a role, by their names."""
    special = old.special_ids() - set(taken.values())
    names = {old.tokenizer.convert_ids_to_tokens(token_id): token_id for token_id in special}
    return {
        token_id: names[name]
        for token_id in new.special_ids() - taken.keys()
        for name in (new.tokenizer.convert_ids_to_tokens(token_id),)
        if name in names
    }


def _by_text(editor: Editor) -> tuple[dict[TokenText, int], dict[TokenText, int]]:
    """Text -> id of base tokens and of added ones."""
    base: dict[TokenText, int] = {}
    added: dict[TokenText, int] = {}
    for token_id, text in editor.token_texts().items():
        (added if editor.is_added(token_id) else base)[text] = token_id
    return base, added
