"""The program with one thing otherwise, for experiments: what was tried and not kept is no part of it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any


@contextmanager
def changed(names: Mapping[str, Any]) -> Iterator[None]:
    """Put other values in the place of some of the program's, named `module.name`, for a while."""
    places = [(import_module(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in names]
    before = [getattr(*place) for place in places]
    try:
        for place, value in zip(places, names.values(), strict=True):
            setattr(*place, value)
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            setattr(*place, value)
