"""An auxiliary CTC head on the image encoder: it reads characters column by column, in training only.

From random weights a TrOCR decoder learns the language first and looks at the image late; a loss that the
encoder cannot lower without reading breaks that plateau.

Source: CTC is Graves et al. 2006 (ICML), "Connectionist Temporal Classification"; as an auxiliary loss beside
an attention decoder: arXiv:1609.06773.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from trocr.atomic_write import write_files

PRINTABLE_ASCII = "".join(map(chr, range(32, 127)))

FILE_NAME = "ctc_head.safetensors"


class CTCHeadError(ValueError):
    """A CTC head does not fit the model or its alphabet."""


class CTCHead(nn.Module):
    """A linear layer from the encoder's columns to characters; class 0 is the blank.

    Args:
        width: D_enc.
        alphabet: characters, of class 1, 2, 3 ...; characters outside it are left out of the targets.
        grid: (rows, columns) of patches of full-sized images; the rows of a column are averaged.
        num_prefix: encoder tokens before the patches.
    Raises:
        CTCHeadError: a character occurs twice, or there is none.
    """

    def __init__(self, *, width: int, alphabet: str, grid: tuple[int, int], num_prefix: int) -> None:
        super().__init__()
        if not alphabet or len(set(alphabet)) != len(alphabet):
            raise CTCHeadError(f"the CTC alphabet {alphabet!r} is empty or names a character twice")
        self.alphabet = alphabet
        self.rows = grid[0]
        self.num_prefix = num_prefix
        self.classes = {character: index for index, character in enumerate(alphabet, start=1)}
        self.proj = nn.Linear(width, len(alphabet) + 1)

    def forward(self, states: Tensor) -> Tensor:
        """Map encoder states (B, S, D_enc) to logits (B, columns, classes)."""
        patches = states[:, self.num_prefix :]
        grid = patches.reshape(states.shape[0], self.rows, -1, states.shape[2])  # (B, rows, columns, D_enc)
        columns = grid.mean(dim=1)
        return self.proj(columns)

    def targets(self, texts: Sequence[str]) -> list[list[int]]:
        """Classes of the characters of each text."""
        return [[self.classes[c] for c in text if c in self.classes] for text in texts]

    def loss(self, states: Tensor, targets: Sequence[Sequence[int]]) -> Tensor:
        """Negative log-likelihood of the targets, summed over lines, in float32.

        A line with more characters than the columns can hold (repeated ones need a blank between them) has no
        alignment and adds nothing.

        Args:
            states: (B, S, D_enc).
            targets: B lists of classes.
        """
        logits = self.forward(states).float()
        lengths = torch.tensor([len(row) for row in targets])
        flat = torch.tensor([label for row in targets for label in row], dtype=torch.long)
        columns = torch.full((len(targets),), logits.shape[1], dtype=torch.long)
        return F.ctc_loss(
            logits.log_softmax(dim=2).transpose(0, 1),  # (columns, B, classes)
            flat.to(logits.device),
            columns,
            lengths,
            reduction="sum",
            zero_infinity=True,
        )

    def read(self, states: Tensor) -> list[str]:
        """Read greedily: the likeliest class of each column, repeats merged, blanks dropped."""
        texts = []
        for row in self.forward(states).argmax(dim=2).tolist():
            kept = [c for c, before in zip(row, [0, *row], strict=False) if c and c != before]
            texts.append("".join(self.alphabet[c - 1] for c in kept))
        return texts

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write the head beside a checkpoint, with its alphabet in the file's metadata."""
        tensors = {
            name: tensor.detach().contiguous().cpu() for name, tensor in self.proj.state_dict().items()
        }
        content = save(tensors, metadata={"alphabet": self.alphabet})
        write_files(directory, {FILE_NAME: content})

    def load(self, path: str | os.PathLike[str]) -> None:
        """Take the weights of a saved head of the same alphabet.

        Args:
            path: the file, or the directory that it is in.
        Raises:
            CTCHeadError: there is no such file, it is damaged, or it is of another width or alphabet; of a
                file that does not say its alphabet, the number of characters must be the same.
        """
        file = Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)
        if not file.is_file():
            raise CTCHeadError(f"{file}: there is no CTC head; leave its path out to start with a new one")
        try:
            with safe_open(file, framework="pt") as content:
                alphabet = (content.metadata() or {}).get("alphabet", self.alphabet)
        except SafetensorError as error:
            raise CTCHeadError(f"{file}: is no CTC head, or damaged ({error})") from error
        if alphabet != self.alphabet:
            raise CTCHeadError(
                f"{file}: reads the alphabet {alphabet!r}, wanted is {self.alphabet!r}; set "
                "loss.ctc_alphabet to that of the head, or leave its path out to start with a new one"
            )
        tensors = {name.rpartition(".")[2]: tensor.float() for name, tensor in load_file(file).items()}
        wanted = {name: tuple(tensor.shape) for name, tensor in self.proj.state_dict().items()}
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if found != wanted:
            raise CTCHeadError(f"{file}: holds {found}, the model and the alphabet need {wanted}")
        self.proj.load_state_dict(tensors)
