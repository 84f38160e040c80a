"""The precompiled text normaliser of a SentencePiece model: a double-array trie of rules, and replacements.

The data is a little-endian uint32 (size of the trie in bytes), the trie (uint32 units) and a blob of
NUL-terminated UTF-8 replacements; the value of a trie entry is the offset of its replacement.

Two programs read this data, and they differ. SentencePiece replaces the longest rule at each position of
the text. `tokenizers`, which `transformers` runs, first cuts the text into grapheme clusters. A cluster of
at most 5 bytes is replaced as a whole by the *shortest* rule that is a prefix of it, and the rest of the
cluster is lost: o + horn + hook above (a decomposed Vietnamese letter) becomes o + horn. Any other cluster
is replaced character by character, so a decomposed letter of 6 bytes or more stays decomposed, and so does
half-width kana with its sound mark. Composed text (NFC) without these gives the same in both. `Charsmap`
follows `tokenizers`.

Source: `tokenizers` 0.23 normalizers/precompiled.rs, spm_precompiled 0.1; darts-clone for the unit layout.
Differs: a rule that points outside the data is an error here, where the judge panics.
"""

import re
import struct
import sys
from array import array

from trocr.tokenizers.errors import TokenizerError
from trocr.tokenizers.graphemes import graphemes

_PRINTABLE_ASCII = "".join(map(chr, range(0x20, 0x7F)))
_PLAIN = re.compile(r"[ -~]*")
_MAX_CLUSTER_BYTES = 5
_CACHE_SIZE = 1 << 16


class Charsmap:
    """A text normaliser built from the `precompiled_charsmap` of a SentencePiece model."""

    def __init__(self, data: bytes, *, source: str = "precompiled charsmap") -> None:
        """Check and index the data.

        Args:
            data: the bytes as the model stores them.
            source: name of the file they come from, for error messages.
        Raises:
            TokenizerError: the data is truncated, or its replacements are not UTF-8.
        """
        self.data = data
        self.source = source
        if len(data) < 4:
            raise self._fail(0, f"{len(data)} bytes", "the size of the trie (4 bytes)")
        (trie_bytes,) = struct.unpack_from("<I", data)
        if trie_bytes < 4 or trie_bytes % 4 or 4 + trie_bytes > len(data):
            raise self._fail(
                0, f"a trie of {trie_bytes} bytes", f"a multiple of 4 from 4 to {(len(data) - 4) // 4 * 4}"
            )
        self._units = array("I", data[4 : 4 + trie_bytes])
        if sys.byteorder == "big":
            self._units.byteswap()
        self._replacements = data[4 + trie_bytes :]
        try:
            self._replacements.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._fail(
                4 + trie_bytes + error.start, "bytes that are not text", "UTF-8 replacements"
            ) from error
        self._cache: dict[str, str] = {}
        self._keeps_ascii = all(self._prefix_rule(char.encode()) is None for char in _PRINTABLE_ASCII)

    def normalize(self, text: str) -> str:
        """Apply the rules to `text`; linear in its length.

        Raises:
            TokenizerError: a rule of the data points outside it.
        """
        if self._keeps_ascii and _PLAIN.fullmatch(text):  # most lines of Western text
            return text
        cache = self._cache
        parts = []
        for cluster in graphemes(text):
            part = cache.get(cluster)
            if part is None:
                part = self._normalize_cluster(cluster)
                if len(cluster) <= _MAX_CLUSTER_BYTES:
                    if len(cache) >= _CACHE_SIZE:
                        cache.clear()
                    cache[cluster] = part
            parts.append(part)
        return "".join(parts)

    def _normalize_cluster(self, cluster: str) -> str:
        data = cluster.encode("utf-8", "surrogatepass")
        if len(data) <= _MAX_CLUSTER_BYTES:
            whole = self._prefix_rule(data)
            if whole is not None:
                return whole
            if len(cluster) == 1:
                return cluster
        return "".join(map(self._normalize_char, cluster))

    def _normalize_char(self, char: str) -> str:
        replaced = self._prefix_rule(char.encode("utf-8", "surrogatepass"))
        return char if replaced is None else replaced

    def _prefix_rule(self, key: bytes) -> str | None:
        """The replacement of the shortest rule that is a prefix of `key`, or None."""
        units = self._units
        node = _child_base(0, units[0])
        for byte in key:
            if byte == 0:  # NUL ends a key
                return None
            node ^= byte
            if node >= len(units):
                raise self._fail(4, f"a link to unit {node}", f"a unit below {len(units)}")
            unit = units[node]
            if unit & 0x800000FF != byte:
                return None
            node = _child_base(node, unit)
            if unit >> 8 & 1:
                if node >= len(units):
                    raise self._fail(4, f"a link to unit {node}", f"a unit below {len(units)}")
                return self._replacement(units[node] & 0x7FFFFFFF)
        return None

    def _replacement(self, offset: int) -> str:
        blob = self._replacements
        if offset > len(blob):
            raise self._fail(
                len(self.data) - len(blob),
                f"a rule with replacement {offset}",
                f"an offset up to {len(blob)}",
            )
        end = blob.find(b"\0", offset)
        try:
            return blob[offset : end if end >= 0 else len(blob)].decode("utf-8")
        except UnicodeDecodeError as error:
            start = len(self.data) - len(blob) + offset
            raise self._fail(start, "a replacement that starts inside a character", "UTF-8 text") from error

    def _fail(self, offset: int, found: str, expected: str) -> TokenizerError:
        return TokenizerError(
            f"{self.source}: invalid precompiled charsmap: at byte {offset} of {len(self.data)} found "
            f"{found}, expected {expected}; the tokenizer file is damaged, fetch it again"
        )


def _child_base(node: int, unit: int) -> int:
    """Where the children of a node are, before their label is added: an offset, times 256 if flagged."""
    return node ^ (unit >> 10) << ((unit & 0x200) >> 6)
