"""Stage 3e: which field made a held record suspect.

Enters: held records. Leaves: per record the fields with their share of the blame. A field is to blame as far as d rises
when its value is left out (occlusion, Zeiler and Fergus 2014, arXiv 1311.2901), and as far as the evidence would rise if
it were like those of other records and agreed with the rest: the counterfactuals that a reviewer asks for. It costs one
more record to score per field, for held records only.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stream.records import Content
from stream.render import Rendering, render

if TYPE_CHECKING:  # a gate in rules mode starts without torch
    from stream.evidence import Evidence
    from stream.score import Scorer

MOST_FIELDS = 16

Suspect = tuple[tuple[str, float], ...]


def suspects(contents: Sequence[Content], scorer: "Scorer", rendering: Rendering, evidence: "Evidence | None" = None) -> list[Suspect]:
    """Return the blamed fields of each record, the heaviest first; shares of the positive rises in d, summing to 1.

    Empty where no field's absence would raise d. Of records with more fields than MOST_FIELDS the first are asked.
    """
    rendered = [render(content, rendering) for content in contents]
    asked = [(place, field) for place, each in enumerate(rendered) for field in each.fields[:MOST_FIELDS]]
    without = [rendered[place].text[: field.start] + rendered[place].text[field.end :] for place, field in asked]
    encoded = scorer.encoder.encode([*[each.text for each in rendered], *without])
    fitting = [number for number, ids in enumerate(encoded) if ids]
    if not fitting:
        return [() for _ in contents]
    rewards_B2 = scorer.rewards([encoded[number] or [] for number in fitting])
    d = {number: float(right - wrong) for number, (right, wrong) in zip(fitting, rewards_B2, strict=True)}
    rises: list[dict[str, float]] = [{} for _ in contents]
    for number, (place, field) in enumerate(asked, start=len(rendered)):
        if place in d and number in d:
            rises[place][field.path] = max(d[number] - d[place], rises[place].get(field.path, 0.0))
    for place, each in enumerate(rendered):
        for path, nats in evidence.by_field(each).items() if evidence is not None else ():
            rises[place][path] = rises[place].get(path, 0.0) + nats
    return [_shares({path: rise for path, rise in each.items() if rise > 0}) for each in rises]


def _shares(rises: dict[str, float]) -> Suspect:
    total = sum(rises.values())
    return tuple((path, rise / total) for path, rise in sorted(rises.items(), key=lambda item: -item[1])) if total else ()
