"""Settled verdicts -> what each is for: to learn from, the hold-out, the certificate.

Enters: one answer a decision. Leaves: labelled records with the weight that each has in the stream.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np

from trainer.careless import Look, Looks, look_of, mistaken_chances
from trainer.config import TrainSettings
from trainer.datasets import Labelled, is_held_out
from trainer.pairs import text_of_content
from trainer.verdicts import Settled, weights_of


class Sorted(NamedTuple):
    """Settled verdicts by what they are for: to learn from, the fixed hold-out, and flat draws for the certificate alone.

    A held-out record's weight is the number of records of the stream that it stands for; looks: how people came to its verdict.
    reviewers: who answered each of those to learn from; agreed: whether a second person has looked at it, and nothing is open.
    is_correction: whether it is what somebody has put in the place of the one before it, which nobody is shown again.
    """

    learn: list[Labelled]
    learn_ids: list[str]
    reviewers: list[str]
    agreed: list[bool]
    is_correction: list[bool]
    hold_out: list[Labelled]
    flat: list[Settled]
    looks: Looks


def sort(settled: Sequence[Settled], settings: TrainSettings) -> Sorted:
    """Part the verdicts: a share by the hash of its text is the hold-out, flat draws are for certificates, the rest is learned from.

    A corrected record is learned from as a right one, and what differs as what happens to records. What still waits for a second look
    teaches nothing yet, and neither does a record that reads like a flat draw: a certificate must know nothing of what was learned.
    """
    found = Sorted([], [], [], [], [], [], [], Looks([], np.zeros(len(Look))))
    weights = weights_of(settled)
    texts = [text_of_content(each.content) for each in settled]
    drawn = {text for each, text in zip(settled, texts, strict=True) if each.is_flat}
    for each, text in zip(settled, texts, strict=True):
        is_hold_out = is_held_out(text, settings.held_out_share)
        if is_hold_out:
            if each.distance is not None:  # what waits for a second look counts as wrong: left out, only right ones would be there at first
                found.hold_out.append(
                    Labelled(each.content, not each.counts_as_wrong, weight=round(weights[each.decision_id], 6), kind=each.kind)
                )
                found.looks.of_each.append(look_of(each))
            continue
        if each.is_flat:
            found.flat.append(each)
            continue
        if each.is_pending or text in drawn:
            continue
        weight = min(settings.most_weight, weights[each.decision_id])
        corrected = None if each.correction is None else text_of_content(each.correction)
        teaches = corrected is not None and corrected not in drawn and not is_held_out(corrected, settings.held_out_share)
        correction = cast(str, each.correction) if teaches else ""
        learned = [Labelled(each.content, each.is_right, weight=round(weight, 6), correction=correction)]
        if teaches:
            learned.append(Labelled(correction, True))
        found.learn.extend(learned)
        found.learn_ids.extend([each.decision_id] * len(learned))
        found.reviewers.extend([each.reviewer] * len(learned))
        found.agreed.extend([each.reviewers > 1, False][: len(learned)])
        found.is_correction.extend([False, True][: len(learned)])
    certifying = {each.decision_id for each in found.flat}  # a certificate must not depend on what decides a promotion
    chances = mistaken_chances([each for each in settled if each.decision_id not in certifying])
    return found._replace(looks=found.looks._replace(chances=chances))
