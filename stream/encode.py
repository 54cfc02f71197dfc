"""Stage 3b: text -> token ids. The one encoder of the gate and of the trainer (law 5).

Template ids are spliced around record ids. Records are tokenised by a copy of the tokenizer that knows no control
token, so no byte of a record becomes one (law 3); rendering a chat first and tokenising it then would let a record
that contains `<|im_end|>` write its own answer (transformers#29279).

Twins repeat themselves, so texts are cut where the tokenizer itself always cuts, and the ids of every piece are kept.
"""

import json
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain
from threading import Lock
from typing import Literal, NamedTuple, get_args

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from foundation.errors import ModelRefused, SettingInvalid

Encoding = Literal["chat@1", "joined@1"]
ENCODINGS: tuple[str, ...] = get_args(Encoding)

_KEPT_CHARACTERS = 5_000_000
_PROBES = ("a", "Zoë", "邮编", "℃", "7", "2024", ")", ",", '"', "'s", "x ", "x  ", "x\n", "号", "½", "x\u0301", "の")
_MARK = "\u2402winnow\u2403"


class Cut(NamedTuple):
    """A place where a text may be cut: before a separator, or after it; letters or digits stand behind, no space before."""

    separator: str
    is_after: bool


_CUTS = (Cut("\n", is_after=True), *(Cut(separator, is_after=False) for separator in ",，;；"))


class Template(NamedTuple):
    """Token ids around a record: `[head][record][tail]` is shared by both chats, then comes `right` or `wrong`."""

    head: tuple[int, ...]
    tail: tuple[int, ...]
    right: tuple[int, ...]
    wrong: tuple[int, ...]

    @property
    def shared_overhead_tokens(self) -> int:
        """Tokens beside the record in a sequence that holds both answers."""
        return len(self.head) + len(self.tail) + len(self.right) + len(self.wrong)

    @property
    def chat_overhead_tokens(self) -> int:
        """Tokens beside the record in the longer of the two plain chats."""
        return len(self.head) + len(self.tail) + max(len(self.right), len(self.wrong))


class Encoder:
    """Turns record texts into ids, and ids into the two chats that a plain reward model reads."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, words: tuple[str, str], encoding: Encoding, max_length: int) -> None:
        """Build from a model's tokenizer; `words` are the right and the wrong answer; lengths are in tokens.

        Raises ModelRefused when the tokenizer cannot tell the two answers apart, SettingInvalid when no record fits.
        """
        self.template = _template(tokenizer, words, encoding)
        self.max_length = max_length
        self.max_record_tokens = max_length - self.template.chat_overhead_tokens
        if self.max_record_tokens < 1:
            needed = self.template.chat_overhead_tokens
            raise SettingInvalid(f"max_length = {max_length} leaves no room: the chat template alone takes {needed} tokens")
        self.pad_id = int(tokenizer.pad_token_id)
        backend = tokenizer.backend_tokenizer
        self.control_ids = frozenset(backend.get_added_tokens_decoder())
        self._plain = _without_control_tokens(backend)
        longest = max((len(token.encode()) for token in backend.get_vocab()), default=1)
        self._max_bytes = self.max_record_tokens * longest
        self._cuts = tuple(cut for cut in _CUTS if _always_cuts(self._plain, cut))
        self._known: dict[str, list[int]] = {}
        self._known_characters = 0
        self._lock = Lock()

    def encode(self, texts: Sequence[str]) -> list[list[int] | None]:
        """Return the record ids of each text, in order; None where the record is longer than the model's maximum.

        Texts that cannot fit, by the length of the longest token, are not tokenised at all: a 1 MB value costs nothing.
        """
        # the host thread reads the next batch while the device thread explains this one with the same encoder
        with self._lock:
            pieces = [self._pieces(text) if len(text) <= self._max_bytes else None for text in texts]
            self._tokenise(chain.from_iterable(each for each in pieces if each is not None))
            known = self._known
            encoded: list[list[int] | None] = []
            for each in pieces:
                ids = None if each is None else list(chain.from_iterable([known[piece] for piece in each]))
                encoded.append(ids if ids is not None and len(ids) <= self.max_record_tokens else None)
            if self._known_characters > _KEPT_CHARACTERS:
                self._known, self._known_characters = {}, 0
            return encoded

    def _pieces(self, text: str) -> list[str]:
        """Cut a text at the first separator it has, where the tokenizer would cut it anyway."""
        for cut in self._cuts:
            if cut.separator in text:
                return _cut(text, cut)
        return [text]

    def _tokenise(self, pieces: Iterable[str]) -> None:
        """Learn the ids of the pieces that are not known, all in one call."""
        new = list(dict.fromkeys(piece for piece in pieces if piece not in self._known))
        if not new:
            return
        for piece, encoding in zip(new, self._plain.encode_batch_fast(new, add_special_tokens=False), strict=True):
            ids = encoding.ids
            self._known[piece] = ids if self.control_ids.isdisjoint(ids) else self._by_character(piece)
        self._known_characters += sum(map(len, new))

    def chats(self, ids: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return the two plain chats of one record, the right answer first: what TRL trains on and the truth in tests."""
        shared = [*self.template.head, *ids, *self.template.tail]
        return [*shared, *self.template.right], [*shared, *self.template.wrong]

    def _by_character(self, text: str) -> list[int]:
        """Tokenise character by character: the last resort where a vocabulary can merge text into a control token."""
        found = [i for encoding in self._plain.encode_batch_fast(list(text), add_special_tokens=False) for i in encoding.ids]
        return [i for i in found if i not in self.control_ids]


def _cut(text: str, cut: Cut) -> list[str]:
    """Cut a text at every place where the cut holds.

    A letter or digit follows the separator; before it stands one too, or, where the cut is after it, anything but space:
    tokenizers of GPT-2's kind read a run of spaces by what follows it.
    """
    first, *others = text.split(cut.separator)
    pieces, piece = [], first
    for part in others:
        before = piece[-1:]
        if not part[:1].isalnum() or not (before.isalnum() or (cut.is_after and not before.isspace())):
            piece += cut.separator + part
        elif cut.is_after:
            pieces.append(piece + cut.separator)
            piece = part
        else:
            pieces.append(piece)
            piece = cut.separator + part
    pieces.append(piece)
    return pieces


def _always_cuts(plain: Tokenizer, cut: Cut) -> bool:
    """Return whether the tokenizer reads both sides of such a cut as if the other were not there.

    Its pre-tokenizer, across whose words no token reaches, must cut there too, in every probe, and all probes must come
    out the same in pieces.
    """
    if plain.pre_tokenizer is None:
        return False
    texts = [left + cut.separator + right for left in _PROBES for right in _PROBES]
    whole = plain.encode_batch_fast(texts, add_special_tokens=False)
    for text, encoding in zip(texts, whole, strict=True):
        pieces = _cut(text, cut)
        ends = {end for _, (_, end) in plain.pre_tokenizer.pre_tokenize_str(text)}
        if not ends.issuperset(accumulate(map(len, pieces))):
            return False
        apart = plain.encode_batch_fast(pieces, add_special_tokens=False)
        if list(chain.from_iterable(piece.ids for piece in apart)) != encoding.ids:
            return False
    return True


def _without_control_tokens(backend: Tokenizer) -> Tokenizer:
    spec = json.loads(backend.to_str())
    spec |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    return Tokenizer.from_str(json.dumps(spec))


def _template(tokenizer: PreTrainedTokenizerBase, words: tuple[str, str], encoding: Encoding) -> Template:
    if encoding == "joined@1":
        end = [int(tokenizer.eos_token_id)]
        head: list[int] = []
        answers = [_ids(tokenizer, f" {word}") + end for word in words]
    else:
        rendered = [_chat_text(tokenizer, word).split(_MARK) for word in words]
        if any(len(pieces) != 2 for pieces in rendered):  # noqa: PLR2004
            raise ModelRefused("the chat template does not show the user's content exactly once")
        head = _ids(tokenizer, rendered[0][0])
        answers = [_ids(tokenizer, after) for _, after in rendered]
    shared = 0
    while shared < min(map(len, answers)) and answers[0][shared] == answers[1][shared]:
        shared += 1
    right, wrong = answers[0][shared:], answers[1][shared:]
    pad = tokenizer.pad_token_id
    if pad is None:
        raise ModelRefused("the tokenizer has no pad token, so a reward model cannot find the end of a chat")
    if all(i == pad for i in right) or all(i == pad for i in wrong):
        raise ModelRefused(f"the verdict words {words[0]!r} and {words[1]!r} look the same to this tokenizer")
    return Template(tuple(head), tuple(answers[0][:shared]), tuple(right), tuple(wrong))


def _chat_text(tokenizer: PreTrainedTokenizerBase, word: str) -> str:
    if not tokenizer.chat_template:
        raise ModelRefused("the tokenizer has no chat template; import the model with --template joined")
    chat = [{"role": "user", "content": _MARK}, {"role": "assistant", "content": word}]
    return str(tokenizer.apply_chat_template(chat, tokenize=False))


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
