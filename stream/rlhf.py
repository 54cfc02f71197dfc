"""Rewards for a policy in training (PPO, GRPO, RLOO), which asks over HTTP as OpenRLHF's remote reward model is asked.

Enters: what the policy wrote, as text: the whole chat (`query`), and the prompt that it was given. Leaves: one reward each.
A policy either judges records, and is paid the version's reward of its answer; or it writes records, and is paid the
calibrated d of what it wrote. A policy learns to exploit whatever it is paid for, so nothing that it writes can
change the record it was asked about, become a control token, or be paid more than a record that the gate lets through.
"""

import logging
import math
import re
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel

from foundation.errors import DataRefused
from stream.decode import Format, decode_value
from stream.encode import Encoder, Written
from stream.judge import Judge
from stream.live_model import LiveModel, rewards_of_shown
from stream.records import Content, Record, Route
from stream.render import render

log = logging.getLogger("winnow.serve")

Of = Literal["answer", "record"]
LEAST_D = math.log(1e-6 / (1 - 1e-6))
"""Calibrated d of a p_chosen that headers round to 0, in nats: what a record is worth that the gate does not read or a rule holds."""

_AT_ONCE = 32
_CHAT_MARK = re.compile(r"\s*(<\|[^|<>]{1,40}\|>|<s>|<bos>|<start_of_turn>|\[/?INST\]|<<SYS>>|<｜[^｜<>]{1,40}｜>)")
_NEAR_THE_END = 60  # characters that a generation prompt may take: a role between two marks


class Asked(NamedTuple):
    """The record that a policy was asked about, and what it answered."""

    record: str
    answer: str


class Paid(NamedTuple):
    """A reward, without unit, and a score from 0 to 1 by which a trainer may filter."""

    reward: float
    score: float


def read_query(query: str, prompt: str | None, written: Written, ends: Sequence[str]) -> Asked:
    """Cut a chat into record and answer; `ends` are tokens that a policy pads or ends with, left out behind the answer.

    The prompt, where it is given, says where the answer begins. Without one the record ends where the first answer begins: what a
    policy writes later cannot move it. Raises DataRefused.
    """
    if prompt is not None:
        return Asked(_record_of(_unpadded(prompt, ends), written), read_written(query, prompt, written, ends))
    if not written.head:
        raise DataRefused("this version's template has no marks that would tell where the answer begins; give the prompts")
    query = _unpadded(query, ends)
    record, between, answer = query.removeprefix(written.head).partition(written.between)
    if not between or not query.startswith(written.head):
        raise DataRefused("it is no chat of this version's template, and there are no prompts to tell where the answer begins")
    return Asked(record, _without(answer, (written.end.strip(), *ends)))


def read_written(query: str, prompt: str, written: Written, ends: Sequence[str]) -> str:
    """Return what a policy wrote behind its prompt, in whatever template that is. Raises DataRefused."""
    query, prompt = _unpadded(query, ends), _unpadded(prompt, ends)
    if not query.startswith(prompt):
        raise DataRefused("its query does not begin with its prompt")
    return _without(query[len(prompt) :], (written.end.strip(), *ends))


def _unpadded(text: str, ends: Sequence[str]) -> str:
    """Return text without the padding that a batch was filled with on the left."""
    while padding := next((end for end in ends if text.startswith(end)), None):
        text = text.removeprefix(padding)
    return text


def _record_of(prompt: str, written: Written) -> str:
    """Return the record in a prompt that a chat template wrote, or the prompt itself."""
    if not prompt.startswith(written.head) or not written.head:
        other = _CHAT_MARK.match(prompt)
        if other is not None and _CHAT_MARK.search(prompt, max(other.end(), len(prompt) - _NEAR_THE_END)):
            raise DataRefused(f"its prompt is a chat that begins with {other[0].strip()}, which is no mark of this version's template")
        return prompt
    if not prompt.endswith(written.between):
        raise DataRefused("its prompt is a chat that does not end where an answer begins; render it with add_generation_prompt=True")
    return prompt.removeprefix(written.head).removesuffix(written.between)


def _without(answer: str, ends: Sequence[str]) -> str:
    cut = min((place for end in ends if end and (place := answer.find(end)) >= 0), default=len(answer))
    return answer[:cut].strip()


def paid_for_answers(model: LiveModel, form: Format, asked: Sequence[Asked], plain: Callable[[], PreTrainedModel]) -> list[Paid]:
    """Return the version's reward of each answer, and the probability that it is the right one.

    A verdict word is paid what headers say, evidence included. Any other answer is read by `plain`, the version's model as transformers
    runs it, and paid less than the worse of the two words. Of a record that is longer than the model reads every answer is paid 0, so that
    the run goes on, and it teaches nothing where answers to one prompt are compared. Raises DataRefused.
    """
    contents = [_content(place, each.record, form) for place, each in enumerate(asked)]
    found: list[Paid] = []
    rewards = rewards_of_shown(model.scorer, model.evidence, [render(content, model.rendering) for content in contents])
    right, wrong = model.scorer.encoder.words
    for each, both in zip(asked, rewards, strict=True):
        if both is None:
            found.append(Paid(0.0, 0.0))
            continue
        p_chosen = model.calibration.p_chosen(both.d)
        paid = {right: Paid(both.right, p_chosen), wrong: Paid(both.wrong, 1 - p_chosen)}.get(each.answer)
        found.append(paid or Paid(min(both), 0.0))
    too_long = rewards.count(None)
    if too_long:
        most = model.scorer.encoder.max_record_tokens
        log.warning("records longer than the model reads are paid 0", extra={"count": too_long, "most_tokens": most, "model": model.label})
    others = [place for place, each in enumerate(asked) if rewards[place] is not None and each.answer not in (right, wrong)]
    if others:
        texts = [render(contents[place], model.rendering).text for place in others]
        said = plain_rewards(plain(), model.scorer.encoder, texts, [asked[place].answer for place in others])
        for place, reward in zip(others, said, strict=True):
            # a soft minimum: below both, and still more for what the model likes better, so that a policy finds its way to the words
            found[place] = Paid(-float(np.logaddexp(-found[place].reward, -reward)), 0.0)
    return found


@torch.inference_mode()
def plain_rewards(model: PreTrainedModel, encoder: Encoder, texts: Sequence[str], answers: Sequence[str]) -> list[float]:
    """Return the reward of a plain chat per text and answer, as transformers and TRL read it."""
    found: list[float] = []
    encoded = encoder.encode(texts)
    chats = [encoder.chat_with(ids or [], answer) for ids, answer in zip(encoded, answers, strict=True)]
    for start in range(0, len(chats), _AT_ONCE):
        part = chats[start : start + _AT_ONCE]
        width = max(map(len, part))
        ids_BT = torch.tensor([[*chat, *[encoder.pad_id] * (width - len(chat))] for chat in part], device=model.device)
        mask_BT = torch.tensor([[1] * len(chat) + [0] * (width - len(chat)) for chat in part], device=model.device)
        found += model(input_ids=ids_BT, attention_mask=mask_BT).logits[:, 0].float().tolist()
    return found


def paid_for_records(judge: Judge, texts: Sequence[str]) -> list[Paid]:
    """Return the calibrated d of records that a policy wrote, judged with the rules as the gate judges, and p_chosen."""
    records = [Record("", 0, place, 0, None, text.encode("utf-8", "replace"), []) for place, text in enumerate(texts)]
    found: list[Paid] = []
    for decision in judge.decide(judge.read(records), explain=False):
        is_held_by_rule = any(violation.is_error for violation in decision.violations)
        if judge.model is None or decision.rewards is None or decision.route is Route.DEAD_LETTER or is_held_by_rule:
            found.append(Paid(LEAST_D, 0.0))
        else:
            d = judge.model.calibration.calibrated(decision.rewards.d)
            found.append(Paid(max(LEAST_D, d), decision.p_chosen or 0.0))
    return found


def _content(place: int, text: str, form: Format) -> Content:
    reading = decode_value(text.encode("utf-8", "replace"), form)
    if isinstance(reading, Content):
        return reading
    raise DataRefused(f"query {place}: its record cannot be read: {reading.reason.value} {reading.detail}".rstrip())
