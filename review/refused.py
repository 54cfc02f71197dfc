"""What the service says when it does not do as asked: one sentence, in the languages of the page.

A sentence is a word of the string tables whose name begins with `refused_`; an exception carries its name and what fills it,
so that a page shows it in its own language and everybody else reads it in English.
"""

from foundation.errors import WinnowError
from review.words import words_of


class RequestRefused(WinnowError):
    """Root of what a request can be refused with; the message is the English sentence."""

    def __init__(self, code: str, **values: object) -> None:
        """`code` names the sentence; `values` fill its places."""
        super().__init__(words_of("en")[f"refused_{code}"].format(**values))
        self.code = code
        self.values = {name: str(value) for name, value in values.items()}


class LeaseLost(RequestRefused):
    """The lease has lapsed, was given to somebody else, or its record has been answered meanwhile."""


class AnswerInvalid(RequestRefused):
    """The request cannot be carried out as it is; says which value, and what it may be."""


class RecordUnknown(RequestRefused):
    """There is no such record in the store."""


class NotAllowed(RequestRefused):
    """The request is not from somebody who may ask this; `status` is the HTTP status that says so."""

    def __init__(self, status: int, code: str, **values: object) -> None:
        """Keep the status."""
        super().__init__(code, **values)
        self.status = status
