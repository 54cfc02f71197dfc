"""What a model said of records that read alike: the same ids and the same model give the same rewards.

Enters: token ids and what scores them. Leaves: rewards, in the order given. Memory is bounded by the number of records
that are remembered; the least recently asked for goes first. Twins repeat themselves, so a second look costs a digest.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from stream.decide import ScorerFailed
from stream.records import Rewards
from stream.tokenise import Ids

_KEY_BYTES = 16


class Looked(NamedTuple):
    """How many records were found, and how many had to be scored."""

    hits: int = 0
    misses: int = 0


class RewardCache:
    """Rewards by model and ids. One thread at a time."""

    def __init__(self, most_records: int, on_looked: Callable[[Looked], None] = lambda looked: None) -> None:
        """Remember up to `most_records` records, about 300 bytes each; `on_looked` hears of every batch."""
        self._most = most_records
        self._on_looked = on_looked
        self._known: OrderedDict[bytes, Rewards] = OrderedDict()

    def rewards(
        self, digest: str, ids: Sequence[Ids], score: Callable[[list[Ids]], list[Rewards | ScorerFailed]]
    ) -> list[Rewards | ScorerFailed]:
        """Return what the model of this digest says of every record; what is not known is scored, what reads alike once.

        A failure is not remembered: it may be of the moment.
        """
        keys = [hashlib.blake2b(each.tobytes(), digest_size=_KEY_BYTES, key=digest[-64:].encode()).digest() for each in ids]
        found: dict[bytes, Rewards | ScorerFailed] = {}
        missing: dict[bytes, Ids] = {}
        for key, each in zip(keys, ids, strict=True):
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
                found[key] = known
            else:
                missing.setdefault(key, each)
        for key, scored in zip(missing, score(list(missing.values())), strict=True):
            found[key] = scored
            if isinstance(scored, Rewards):
                self._known[key] = scored
        while len(self._known) > self._most:
            self._known.popitem(last=False)
        self._on_looked(Looked(len(ids) - len(missing), len(missing)))
        return [found[key] for key in keys]

    def __len__(self) -> int:
        """How many records are remembered."""
        return len(self._known)
