"""Records of three cities for the tests of memory and evidence, and what is weighed of them."""

from collections.abc import Sequence
from random import Random

from stream.evidence import Evidence
from stream.records import Content
from stream.render import Rendered, render
from trainer.weigh import Said, weigh

CITIES = {"北京": "1000", "上海": "2000", "广州": "5100"}


def record(city: str, postcode: str, name: str) -> Rendered:
    return render(Content(True, {"city": city, "postcode": postcode, "name": name}))


def stream(count: int = 600, seed: int = 0) -> list[Rendered]:
    rng = Random(seed)
    found = []
    for _ in range(count):
        city = rng.choice(list(CITIES))
        found.append(record(city, f"{CITIES[city]}{rng.randrange(30):02}", f"name{rng.randrange(10**6)}"))
    return found


def evidence_of(records: list[Rendered], said: Sequence[Said] = ()) -> Evidence:
    weighed = weigh(records, records, said, 0)
    assert weighed is not None
    assert len(weighed.left_out) == len(said)
    return weighed.evidence
