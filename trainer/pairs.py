"""Labelled and unlabelled records -> pairs of token ids that TRL's RewardTrainer takes as they are.

The ids come from stream/encode.py, so trainer and gate read the same record the same way (law 5).
"""

import json
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from foundation.errors import DataRefused
from stream.config import KafkaSettings
from stream.decode import decode_value
from stream.encode import Encoder
from stream.files import read_values
from stream.records import Content, Unread
from stream.render import Rendered, Rendering, render
from stream.schemas import Schemas
from stream.tail import latest
from trainer.corrupt import Corrupter
from trainer.datasets import Labelled
from trainer.edits import Edit, Wrong

RENDERING: Rendering = "fields@1"


class Pair(NamedTuple):
    """One training example: the two chats as ids, by how much the first is better, how much it counts, how doubtful it is."""

    chosen_ids: list[int]
    rejected_ids: list[int]
    margin: float
    weight: float = 1.0
    doubt: float = 0.0


class Encoded(NamedTuple):
    """Labelled records as ids and as they are shown, with their places among those given; what is unreadable or too long is counted."""

    ids: list[list[int]]
    shown: list[Rendered]
    records: list[Labelled]
    places: list[int]
    unreadable: int
    too_long: int


def encode_labelled(records: Sequence[Labelled], encoder: Encoder, rendering: Rendering) -> Encoded:
    """Read, render and encode labelled records as the gate would."""
    readings = [decode_value(record.content.encode("utf-8", "replace"), "auto") for record in records]
    readable = [(place, reading) for place, reading in enumerate(readings) if isinstance(reading, Content)]
    shown = [render(reading, rendering) for _, reading in readable]
    encoded = encoder.encode([record.text for record in shown])
    kept = [(place, ids, record) for (place, _), ids, record in zip(readable, encoded, shown, strict=True) if ids is not None]
    places = [place for place, _, _ in kept]
    unreadable, too_long = len(records) - len(readable), len(readable) - len(kept)
    return Encoded(
        [ids for _, ids, _ in kept], [record for _, _, record in kept], [records[place] for place in places], places, unreadable, too_long
    )


def verdict_pairs(encoded: Encoded, encoder: Encoder) -> list[Pair]:
    """Return one pair a verdict: the chat with the verdict's answer is chosen."""
    pairs = []
    for ids, record in zip(encoded.ids, encoded.records, strict=True):
        right, wrong = encoder.chats(ids)
        chosen, rejected = (right, wrong) if record.is_right else (wrong, right)
        pairs.append(Pair(chosen, rejected, record.margin, record.weight, record.doubt))
    return pairs


def wrong_of(encoded: Encoded) -> list[Wrong]:
    """Return what people called wrong of labelled records, with its corrections; what is doubted teaches no edit."""
    both = zip(encoded.shown, encoded.records, strict=True)
    called_wrong = [(shown, each.correction) for shown, each in both if not each.is_right and not each.doubt]
    return [Wrong(shown, next(iter(rendered([correction] if correction else [], RENDERING)), None)) for shown, correction in called_wrong]


def contrastive_pairs(
    unlabelled: Sequence[Rendered], encoder: Encoder, count: int, seed: int, edits: Sequence[Sequence[Edit]] = ()
) -> list[Pair]:
    """Return `count` pairs: half records that came in, called right, half their corrupted copies, called wrong.

    edits: what may have happened to records that people called wrong, by record.
    """
    if not unlabelled or count == 0:
        return []
    random = Random(seed)
    corrupter = Corrupter(unlabelled, seed, edits)
    drawn = [random.choice(unlabelled) for _ in range((count + 1) // 2)]
    texts = [record.text for record in drawn] + [corrupter.corrupt(record) for record in drawn]
    pairs = []
    for place, ids in enumerate(encoder.encode(texts)):
        if ids is not None:
            right, wrong = encoder.chats(ids)
            pairs.append(Pair(right, wrong, 0.0) if place < len(drawn) else Pair(wrong, right, 0.0))
    return pairs[:count]


def read_unlabelled(source: str, kafka: KafkaSettings, limit: int) -> list[str]:
    """Return the readable records of FILE, its first, or of topic:NAME, its latest, as text. Raises DataRefused when there are none."""
    if source.startswith("topic:"):
        with closing(Schemas(kafka)) as schemas:
            records = latest(kafka, source.removeprefix("topic:"), limit)
            values: Iterable[bytes | Unread | None] = [schemas.opened(record.value) for record in records]
    else:
        values = read_values(Path(source))
    found: list[str] = []
    for value in values:
        if isinstance(value, bytes) and isinstance(decode_value(value, "auto"), Content):
            found.append(value.decode("utf-8"))
        if len(found) == limit:
            break
    if not found:
        raise DataRefused(f"{source} holds no record that can be read")
    return found


def load_saved(path: Path) -> list[str]:
    """Return the records that a starter kept beside its model."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def rendered(contents: Sequence[str], rendering: Rendering) -> list[Rendered]:
    """Render readable contents with their fields; the others are left out."""
    readings = (decode_value(content.encode("utf-8", "replace"), "auto") for content in contents)
    return [render(reading, rendering) for reading in readings if isinstance(reading, Content)]


def text_of_content(content: str) -> str:
    """Return what the model reads of a record: the same record in another format is held out or learned from alike."""
    return next((record.text for record in rendered([content], RENDERING)), content)


def as_columns(pairs: Sequence[Pair]) -> dict[str, list[Any]]:
    """Return the columns that the collator keeps."""
    return {
        "chosen_ids": [pair.chosen_ids for pair in pairs],
        "rejected_ids": [pair.rejected_ids for pair in pairs],
        "margin": [pair.margin for pair in pairs],
        "weight": [pair.weight for pair in pairs],
        "doubt": [pair.doubt for pair in pairs],
    }
