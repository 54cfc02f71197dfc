"""JSON text -> its values, one in memory at a time: arrays (each element), objects one a line, or one after another.

Enters: an open text file of any size. Leaves: (line where it begins, value). A file that stops being JSON is refused
with the line.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from foundation.errors import DataRefused

PIECE_CHARACTERS = 1 << 20
MOST_CHARACTERS = 1 << 26
_BETWEEN = " \t\r\n,\ufeff"
_NEAR_THE_END = 16
_UNENDING = ("Unterminated string", "Invalid \\u")


class JsonStream:
    """Values of one file, in order; iterate once."""

    def __init__(self, file: TextIO, path: Path, piece: int = PIECE_CHARACTERS) -> None:
        """Read `file` by `piece` characters; `path` is what errors call it."""
        self._file, self._path, self._piece = file, path, piece
        self._decoder = json.JSONDecoder()
        self._text, self._place, self._line, self._ended = "", 0, 1, False

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """Yield (line, value). Raises DataRefused."""
        is_open = False  # within the brackets of an array, whose elements are the values
        while True:
            mark = self._next_mark()
            if mark == "":
                if is_open:
                    raise self._refused("the array is not closed")
                return
            if mark == "[" and not is_open:
                is_open = True
                self._forward(self._place + 1)
            elif mark == "]" and is_open:
                is_open = False
                self._forward(self._place + 1)
            else:
                line = self._line
                yield line, self._value()

    def _next_mark(self) -> str:
        """Return the next character that is no space or comma; empty at the end of the file."""
        while True:
            end = self._place
            while end < len(self._text) and self._text[end] in _BETWEEN:
                end += 1
            self._forward(end)
            if end < len(self._text):
                return self._text[end]
            if not self._read_more():
                return ""

    def _value(self) -> Any:
        """Return the value that begins here, however many pieces of the file it takes."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._place)
            except json.JSONDecodeError as error:
                # what is cut off fails where the text ends, or where the number or string begins that goes on behind it
                is_cut = error.pos >= len(self._text) - _NEAR_THE_END or error.msg.startswith(_UNENDING)
                if is_cut and not self._ended:
                    self._read_more()
                    continue
                self._forward(min(error.pos, len(self._text)))
                raise self._refused(error.msg) from error
            except RecursionError as error:
                raise self._refused("nested too deep") from error
            except ValueError as error:  # a number of more digits than Python turns into one
                raise self._refused(str(error)) from error
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if is_number and end >= len(self._text) - _NEAR_THE_END and not self._ended:  # `1` may be cut off `1.5e-3`
                self._read_more()
                continue
            self._forward(end)
            return value

    def _forward(self, place: int) -> None:
        self._line += self._text.count("\n", self._place, place)
        self._place = place

    def _read_more(self) -> bool:
        """Drop what has been read, add a piece at least as long as what is left, and return whether there was one.

        Places in the text are others afterwards.
        """
        left = self._text[self._place :]
        if len(left) > MOST_CHARACTERS:
            raise self._refused(f"a value of more than {MOST_CHARACTERS} characters")
        try:
            piece = self._file.read(max(self._piece, len(left)))
        except UnicodeDecodeError as error:
            raise DataRefused(f"{self._path}, line {_line_that_is_not_utf8(self._path)}: not UTF-8: {error.reason}") from error
        self._ended = not piece
        self._text, self._place = left + piece, 0
        return not self._ended

    def _refused(self, why: str) -> DataRefused:
        return DataRefused(f"{self._path}, line {self._line}: not JSON: {why}")


def _line_that_is_not_utf8(path: Path) -> int:
    """Return the number of the first such line; a decoder that reads by pieces does not know it."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 0


def json_values(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line, value) of a JSON file of any of the shapes above. Raises DataRefused with the line."""
    with path.open(encoding="utf-8-sig") as file:
        yield from JsonStream(file, path)
