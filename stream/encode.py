"""Stage 3b: text -> token ids. The one encoder of the gate and of the trainer (law 5).

Template ids are spliced around record ids. Records are tokenised by a copy of the tokenizer that knows no control
token, so no byte of a record becomes one (law 3); rendering a chat first and tokenising it then would let a record
that contains `<|im_end|>` write its own answer (transformers#29279).
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Literal, NamedTuple, get_args

from transformers import PreTrainedTokenizerBase

from foundation.errors import ModelRefused, SettingInvalid
from stream.tokenise import Encoded, PlainTokenizer

Encoding = Literal["chat@1", "joined@1"]
ENCODINGS: tuple[str, ...] = get_args(Encoding)

_MARK = "\u2402winnow\u2403"
_ANSWER_MARK = "\u2402answer\u2403"


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


class Written(NamedTuple):
    """A chat as text: `[head][record][between][answer][end]`, as a policy with the same chat template writes it."""

    head: str
    between: str
    end: str


class Encoder:
    """Turns record texts into ids, and ids into the two chats that a plain reward model reads."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, words: tuple[str, str], encoding: Encoding, max_length: int) -> None:
        """Build from a model's tokenizer; `words` are the right and the wrong answer; lengths are in tokens.

        Raises ModelRefused when the tokenizer cannot tell the two answers apart, SettingInvalid when no record fits.
        """
        self.words = words
        self.encoding = encoding
        self.written = _written(tokenizer, encoding)
        self.template = _template(tokenizer, words, encoding)
        self.max_length = max_length
        self.max_record_tokens = max_length - self.template.chat_overhead_tokens
        if self.max_record_tokens < 1:
            needed = self.template.chat_overhead_tokens
            raise SettingInvalid(f"max_length = {max_length} leaves no room: the chat template alone takes {needed} tokens")
        self.pad_id = int(tokenizer.pad_token_id)
        self.end_texts = tuple({text: None for text in (tokenizer.eos_token, tokenizer.pad_token) if text})
        self.backend = tokenizer.backend_tokenizer
        self._plain = PlainTokenizer(self.backend)
        self._before_answer, self._after_answer = (_ids(tokenizer, text) for text in (self.written.between, self.written.end))
        self.control_ids = self._plain.control_ids

    @cached_property
    def tokenizer_text(self) -> str:
        """The tokenizer as JSON, by which another process reads as this one does."""
        return str(self.backend.to_str())

    def encode(self, texts: Sequence[str]) -> list[list[int] | None]:
        """Return the record ids of each text, in order; None where the record is longer than the model's maximum."""
        return [None if ids is None else ids.tolist() for ids in self.encode_flat(texts).split()]

    def encode_flat(self, texts: Sequence[str]) -> Encoded:
        """Return the same ids end to end, which costs the interpreter nothing per token."""
        return self._plain.encode(texts, self.max_record_tokens)

    def chat_with(self, ids: Sequence[int], answer: str) -> list[int]:
        """Return the plain chat of one record and any answer, cut to what the model reads; no byte of either becomes a control token."""
        [said] = self._plain.encode([answer], self.max_length).split()
        behind = self._before_answer + ([] if said is None else said.tolist())
        left = self.max_length - len(self.template.head) - len(ids) - len(self._after_answer)
        return [*self.template.head, *ids, *behind[: max(0, left)], *self._after_answer]

    def chats(self, ids: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return the two plain chats of one record, the right answer first: what TRL trains on and the truth in tests."""
        shared = [*self.template.head, *ids, *self.template.tail]
        return [*shared, *self.template.right], [*shared, *self.template.wrong]


def last_read(answer: Sequence[int], pad_id: int) -> int:
    """Return the place within an answer where transformers reads the reward: the rightmost token that is not the pad id."""
    return max(place for place, token in enumerate(answer) if token != pad_id)


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


def _written(tokenizer: PreTrainedTokenizerBase, encoding: Encoding) -> Written:
    if encoding == "joined@1":
        return Written("", " ", str(tokenizer.eos_token))
    head, _, behind = _chat_text(tokenizer, _ANSWER_MARK).partition(_MARK)
    between, _, end = behind.partition(_ANSWER_MARK)
    return Written(head, between, end)


def _chat_text(tokenizer: PreTrainedTokenizerBase, word: str) -> str:
    if not tokenizer.chat_template:
        raise ModelRefused("the tokenizer has no chat template; import the model with --template joined")
    chat = [{"role": "user", "content": _MARK}, {"role": "assistant", "content": word}]
    return str(tokenizer.apply_chat_template(chat, tokenize=False))


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
