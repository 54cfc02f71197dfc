"""Record text -> token ids, by a copy of a model's tokenizer that knows no control token.

Enters: texts. Leaves: ids as int32, never a control token's; those of a text that is longer than asked for are left out.
A byte-level BPE is read by tiktoken, a whole poll in one call without the interpreter lock; it gives the same ids in a
quarter of the time. Any other tokenizer is asked as it is.
"""

import json
import re
import secrets
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate, chain
from typing import Any, NamedTuple

import numpy as np
import tiktoken
from numpy.typing import NDArray
from tokenizers import Tokenizer

Ids = NDArray[np.int32]
LEFT_OUT = -1

_BYTES = 256
_LOOK_AHEAD = r"|\s+(?!\S)|\s+"
_TWO_SPACES = re.compile(r"\s\s")
# what `ByteLevel` cuts by when it is given no pattern of its own (GPT-2's)
_BYTE_LEVEL_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


class Encoded(NamedTuple):
    """The ids of N texts end to end, and how many each has; LEFT_OUT for a text whose ids are not among them."""

    flat: Ids
    lengths_N: Ids

    @classmethod
    def of(cls, ids: Sequence[Sequence[int]]) -> "Encoded":
        """Put lists of ids end to end."""
        return cls(np.array(list(chain.from_iterable(ids)), dtype=np.int32), np.array([len(each) for each in ids], dtype=np.int32))

    def split(self) -> list[Ids | None]:
        """Return the ids of each text, None for what was left out."""
        ends = np.cumsum(np.maximum(self.lengths_N, 0)).tolist()
        flat = self.flat
        whole: list[Ids | None] = [flat[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        for place in np.flatnonzero(self.lengths_N == LEFT_OUT).tolist():
            whole[place] = None
        return whole


class PlainTokenizer:
    """A tokenizer that reads every text as a record, whatever control tokens it seems to hold."""

    def __init__(self, backend: Tokenizer) -> None:
        """Copy a model's tokenizer without its control tokens; `control_ids` are those it will never return."""
        self.control_ids = frozenset(backend.get_added_tokens_decoder())
        spec = json.loads(backend.to_str())
        spec |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
        self._any = Tokenizer.from_str(json.dumps(spec))
        self._quick = QuickBpe.of(spec, self.control_ids)
        if self._quick is not None and not self._agrees_on_every_token(self._quick, backend):
            self._quick = None
        self._longest_token_bytes = max((len(token.encode()) for token in backend.get_vocab()), default=1)

    def _agrees_on_every_token(self, quick: "QuickBpe", backend: Tokenizer) -> bool:
        """Whether the text of every token comes out the same: merges may make a token's bytes by another way than its own."""
        texts = [text for text in (backend.decode([number]) for number in sorted(backend.get_vocab().values())) if "\ufffd" not in text]
        expected = self._any.encode_batch_fast(texts, add_special_tokens=False)
        found = quick.encode(texts).split()
        return all(ids is not None and ids.tolist() == each.ids for ids, each in zip(found, expected, strict=True))

    @property
    def is_quick(self) -> bool:
        """Whether tiktoken reads for it."""
        return self._quick is not None

    def encode(self, texts: Sequence[str], most_tokens: int) -> "Encoded":
        """Return the ids of each text, in order; those of texts with more than `most_tokens` are left out.

        Texts that cannot fit, by the length of the longest token, are not tokenised at all: a 1 MB value costs nothing.
        """
        most_bytes = most_tokens * self._longest_token_bytes
        is_long = [len(text) > most_bytes for text in texts]
        given = [text for text, long in zip(texts, is_long, strict=True) if not long] if any(is_long) else texts
        flat, lengths = self._encode(given)
        if len(lengths) and lengths.max() > most_tokens:
            flat = flat[np.repeat(lengths <= most_tokens, lengths)]
            lengths = np.where(lengths <= most_tokens, lengths, LEFT_OUT)
        if given is not texts:
            all_lengths = np.full(len(texts), LEFT_OUT, dtype=np.int32)
            all_lengths[~np.array(is_long)] = lengths
            lengths = all_lengths
        return Encoded(flat, lengths)

    def _encode(self, texts: Sequence[str]) -> "Encoded":
        if self._quick is not None and texts:
            with suppress(ValueError):  # a million spaces in a row are too deep for its pattern
                return self._quick.encode(texts)
        found = self._any.encode_batch_fast(texts, add_special_tokens=False) if texts else []
        return Encoded.of([self._allowed(text, each.ids) for text, each in zip(texts, found, strict=True)])

    def _allowed(self, text: str, ids: list[int]) -> list[int]:
        """Return the ids unless a control token's is among them: then tokenise character by character, and leave it out.

        The last resort where a vocabulary can merge text into a control token.
        """
        if self.control_ids.isdisjoint(ids):
            return ids
        found = [i for encoding in self._any.encode_batch_fast(list(text), False) for i in encoding.ids]
        return [i for i in found if i not in self.control_ids]


class QuickBpe:
    """A byte-level BPE in tiktoken. It merges by the rank of what comes out, so ids must rise with the merges."""

    def __init__(self, pattern: str, ranks: dict[bytes, int], *, composes: bool) -> None:
        """Take the pattern that cuts text into words, the id of every token, and whether text is brought to NFC first."""
        # stands between the texts of one call; no record can hold what is drawn anew at every start
        self._between = f"\u2402{secrets.token_hex(8)}\u2403"
        self._between_id = max(ranks.values()) + 1
        self._composes = composes
        self._bpe = self._engine(pattern, ranks)
        # where no two spaces meet, looking ahead finds nothing, and a pattern without it runs in two thirds of the time
        self._single_spaced = self._engine(pattern.removesuffix(_LOOK_AHEAD) + r"|\s+", ranks) if pattern.endswith(_LOOK_AHEAD) else None

    @classmethod
    def of(cls, spec: dict[str, Any], control_ids: frozenset[int]) -> "QuickBpe | None":
        """Return the same tokenizer in tiktoken, None where it is not known to be the same."""
        model = spec["model"]
        pattern = _pattern_of(spec["pre_tokenizer"])
        normalizer = (spec["normalizer"] or {}).get("type")
        if model.get("type") != "BPE" or pattern is None or normalizer not in (None, "NFC"):
            return None
        if any(model.get(name) for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")):
            return None
        ranks = _ranks_of(model["vocab"], model["merges"], control_ids)
        if ranks is None:
            return None
        try:
            return cls(pattern, ranks, composes=normalizer == "NFC")
        except ValueError:  # a pattern that this engine does not know
            return None

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Return the ids of each text, in order; there is at least one text."""
        if self._composes:
            texts = [unicodedata.normalize("NFC", text) for text in texts]
        joined = self._between.join(texts)
        if self._single_spaced is None:
            return self._read(self._bpe, joined)
        doubled = [match.start() for match in _TWO_SPACES.finditer(joined)]
        quick = self._read(self._single_spaced, joined)
        if not doubled:
            return quick
        starts = list(accumulate((len(text) + len(self._between) for text in texts), initial=0))
        places = sorted({bisect_right(starts, at) - 1 for at in doubled})
        found = quick.split()
        for place, ids in zip(places, self._read(self._bpe, self._between.join(texts[p] for p in places)).split(), strict=True):
            found[place] = ids
        whole = [ids for ids in found if ids is not None]
        return Encoded(np.concatenate(whole), np.array([len(ids) for ids in whole], dtype=np.int32))

    def _read(self, bpe: tiktoken.Encoding, joined: str) -> Encoded:
        """Return the ids of a joined run of texts."""
        ids_N = bpe.encode_to_numpy(joined, allowed_special={self._between}, disallowed_special=())
        is_between_N = ids_N == self._between_id
        ends = np.append(np.flatnonzero(is_between_N), len(ids_N))
        return Encoded(ids_N[~is_between_N].astype(np.int32), np.diff(ends, prepend=-1).astype(np.int32) - 1)

    def _engine(self, pattern: str, ranks: dict[bytes, int]) -> tiktoken.Encoding:
        special = {self._between: self._between_id}
        return tiktoken.Encoding("winnow", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)


def _pattern_of(pre_tokenizer: dict[str, Any] | None) -> str | None:
    """Return the pattern whose matches are the words, None where words are cut in any other way."""
    steps = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer or {}])
    *before, last = steps
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    if not before:
        return _BYTE_LEVEL_PATTERN if last.get("use_regex", True) else None
    [split] = before if len(before) == 1 else [{}]
    is_plain = split.get("type") == "Split" and split.get("behavior") == "Isolated" and not split.get("invert")
    if not is_plain or last.get("use_regex", True):
        return None
    pattern = str(split["pattern"].get("Regex", ""))
    # tiktoken drops what lies between two matches, so every character must belong to one: letters, digits, the rest, spaces
    is_total = pattern.endswith(_LOOK_AHEAD) and all(part in pattern for part in (r"\p{L}+", r"\p{N}", r"[^\s\p{L}\p{N}]+"))
    return pattern if is_total else None


def _ranks_of(vocab: dict[str, int], merges: Sequence[Sequence[str] | str], control_ids: frozenset[int]) -> dict[bytes, int] | None:
    """Return the id of every token's bytes, None unless every byte has one and ids rise with the merges that make them."""
    byte_of = _bytes_by_character()
    ranks: dict[bytes, int] = {}
    for token, number in vocab.items():
        if number in control_ids:
            continue
        if not all(character in byte_of for character in token):
            return None
        ranks[bytes(byte_of[character] for character in token)] = number
    made = [vocab.get("".join(merge.split(" ") if isinstance(merge, str) else merge), -1) for merge in merges]
    is_rising = all(before < after for before, after in zip(made, made[1:], strict=False)) and (not made or made[0] >= 0)
    has_all_bytes = all(bytes([byte]) in ranks for byte in range(_BYTES))
    return ranks if is_rising and has_all_bytes and len(made) + _BYTES == len(ranks) else None


def _bytes_by_character() -> dict[str, int]:
    """Return which byte each character of a byte-level vocabulary stands for (Radford et al. 2019, GPT-2)."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(_BYTES) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(_BYTES + place): byte for place, byte in enumerate(hidden)}
