"""The string tables: the same words in both languages, and a sentence for every refusal."""

import ast
import string
from pathlib import Path

import pytest

import review
from review.refused import AnswerInvalid, LeaseLost, NotAllowed, RecordUnknown, RequestRefused
from review.words import LANGUAGES, words_of

KINDS = {kind.__name__ for kind in (AnswerInvalid, LeaseLost, NotAllowed, RecordUnknown)}


def places(sentence: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(sentence) if name}


def raised() -> dict[str, set[str]]:
    """Return the codes that the source of the service raises, with the names of the values that each carries."""
    found: dict[str, set[str]] = {}
    for path in Path(review.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS:
                code = node.args[-1]
                assert isinstance(code, ast.Constant), f"{path.name}:{node.lineno}: the code of a refusal is written out"
                found[str(code.value)] = {str(keyword.arg) for keyword in node.keywords}
    return found


def test_both_languages_have_the_same_words() -> None:
    tables = [words_of(language) for language in LANGUAGES]
    assert tables[0].keys() == tables[1].keys()
    for name in (name for name in tables[0] if name.startswith("refused_")):
        assert places(tables[0][name]) >= places(tables[1][name]), name


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_refusal_has_its_sentence(language: str) -> None:
    codes = raised()
    assert len(codes) > 20
    for code, values in codes.items():
        assert places(words_of(language)[f"refused_{code}"]) <= values, code


def test_a_refusal_carries_what_its_sentence_needs() -> None:
    refused = NotAllowed(403, "role", user="lin", role="operator")
    assert (refused.status, str(refused)) == (403, "lin does not have the role operator")
    assert (refused.code, refused.values) == ("role", {"user": "lin", "role": "operator"})
    assert isinstance(LeaseLost("lease_over", decision_id="a:0:1"), RequestRefused)
