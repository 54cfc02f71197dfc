"""Records in a JSON list, each as it was written."""

import pytest

from foundation.errors import DataRefused
from stream.json_spans import elements


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"records":[]}', []),
        (' {\n"a" : {"records": [9]} , "records" :\t[ 1.10 ,{"a":1,"a":2}, "\\u6b63", null,[1 , 2] ] ,"b":[]} ', None),
        ('{"records":{"a":[1]}}', ...),
        ("{}", ...),
    ],
)
def test_each_element_is_what_was_written(text: str, found: object) -> None:
    expected = ["1.10", '{"a":1,"a":2}', "正", "null", "[1 , 2]"] if found is None else None if found is ... else found
    assert elements(text, "records") == expected


def test_a_list_given_twice_is_refused() -> None:
    with pytest.raises(DataRefused, match="`records` is given twice"):
        elements('{"records":[1],"records":[2]}', "records")
