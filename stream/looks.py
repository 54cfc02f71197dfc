"""When a verdict is settled: by its first answer, or by as many more as it takes.

Enters: what each person who has answered says now. Leaves: which look a record waits for. The review service asks for it, and the
trainer teaches nothing that waits.
"""

from collections.abc import Sequence
from typing import Literal

TWO = 2

Wanted = Literal["another", "settlement"]


def wanted_look(said: Sequence[bool], *, last: bool, is_drawn: bool, wrong_looks: int = TWO) -> Wanted | None:
    """Return what a record waits for, None where the last answer settles it.

    said: whether it is right, by person; last: the answer that came last. A draw of a lottery is called wrong by as many more as
    wrong_looks says than call it right, any other record by anybody who is not contradicted; after 2 * wrong_looks - 1 people the
    last answer does.
    """
    right = sum(said)
    wrong = len(said) - right
    enough = wrong_looks if is_drawn else TWO
    if not right:
        return "another" if is_drawn and wrong < enough else None
    is_settled = (last and right > wrong) or wrong - right >= enough or len(said) >= 2 * enough - 1
    return None if is_settled else "settlement"
