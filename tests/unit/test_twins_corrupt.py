"""The generator is seeded and consistent; the corrupter is seeded, general, and knows nothing of the generator."""

import ast
import inspect
import json

from hypothesis import given
from hypothesis import strategies as st

from demo import cities, errors, twins
from demo.cities import CITIES
from demo.twins import RIGHT, UNREADABLE, take
from stream.decode import decode_value
from stream.records import Content, Unread
from stream.render import Rendered, render
from trainer import corrupt
from trainer.corrupt import Corrupter


def test_the_stream_is_seeded_and_holds_every_kind() -> None:
    assert take(200, 3) == take(200, 3)
    assert take(200, 3) != take(200, 4)
    kinds = {twin.truth.kind for twin in take(8_000, 1)}
    assert kinds == {*errors.ERRORS, RIGHT, UNREADABLE}
    assert len(errors.ERRORS) >= 12


def test_right_twins_agree_with_their_city() -> None:
    for twin in take(2_000, 2):
        if twin.truth.kind != RIGHT or not twin.value.startswith(b"{"):
            continue
        fields = json.loads(twin.value)
        [city] = [city for city in CITIES if city.name in fields["address"]]
        assert fields["postcode"].startswith(city.postcode_prefix)
        assert fields["phone"].startswith(city.area_code) or (len(fields["phone"]) == 11 and fields["phone"].startswith("1"))
        assert abs(fields["longitude"] - city.longitude) < 0.2
        assert abs(fields["latitude"] - city.latitude) < 0.2
        assert any(district in fields["address"] for district in city.districts)


def test_wrong_twins_differ_from_right_ones_and_unreadable_ones_cannot_be_read() -> None:
    for twin in take(4_000, 2):
        reading = decode_value(twin.value, "auto")
        assert isinstance(reading, Unread) == (twin.truth.kind == UNREADABLE)
        assert twin.truth.is_wrong == (twin.truth.kind in errors.ERRORS)
        assert twin.truth.kind.encode() not in twin.value


def test_corruptions_are_seeded_and_never_the_record_itself(twin_texts: list[Rendered]) -> None:
    one, other = Corrupter(twin_texts, 7), Corrupter(twin_texts, 7)
    copies = [one.corrupt(record) for record in twin_texts]
    assert copies == [other.corrupt(record) for record in twin_texts]
    assert all(copy != record.text for copy, record in zip(copies, twin_texts, strict=True))


@given(st.lists(st.text(max_size=30).map(lambda t: Content(is_json=False, data=t)), min_size=1, max_size=5), st.integers(0, 99))
def test_any_text_can_be_corrupted(contents: list[Content], seed: int) -> None:
    records = [render(content) for content in contents]
    corrupter = Corrupter(records, seed)
    for record in records:
        assert corrupter.corrupt(record) != record.text


@given(st.dictionaries(st.text(max_size=5), st.none() | st.floats() | st.text(max_size=8) | st.integers(), max_size=5), st.integers(0, 99))
def test_any_json_can_be_corrupted(data: dict[str, object], seed: int) -> None:
    record = render(Content(is_json=True, data=data))
    assert Corrupter([record], seed).corrupt(record) != record.text


def test_the_corrupter_knows_nothing_of_the_demo() -> None:
    source = inspect.getsource(corrupt)
    imported = {node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
    assert not any(str(module).startswith("demo") for module in imported)
    fields = {"postcode", "phone", "address", "longitude", "latitude", "temperature", "humidity"}
    words = {name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant) for name in [node.value]}
    assert not words & (set(errors.ERRORS) | fields | {city.name for city in cities.CITIES} | set(twins._ROADS))


def test_later_errors_break_agreement_only() -> None:
    for twin in take(3_000, 6, kinds=tuple(errors.LATER_ERRORS), wrong_share=0.9):
        assert twin.truth.kind in {*errors.LATER_ERRORS, RIGHT, UNREADABLE}
        if twin.truth.kind == "postcode_city" and twin.value.startswith(b"{"):
            fields = json.loads(twin.value)
            [city] = [city for city in CITIES if city.name in fields["address"]]
            assert len(fields["postcode"]) == 6
            assert not fields["postcode"].startswith(city.postcode_prefix)
