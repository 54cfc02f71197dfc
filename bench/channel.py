"""Corruptions learned from what people called wrong, beside the generic ones: whether training on them judges better.

A noise channel after HoloDetect (Heidari et al. 2019, arXiv 1904.02285). For each record that was called wrong: the field whose
value or form few have, and the value of the stream that is most like it; the first difference between the two is an edit. A share
of the corrupted copies, in contrastive pairs, in the weighing of the evidence and in its balance, has such an edit put into another
record instead of a generic fault. Tables of `../shared/data/errors`, verdicts at random; AUROC on a fifth that nobody is asked about,
of the text alone and of text and evidence together. The last line is one JSON object, means over the seeds.
"""

import argparse
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch

from bench.addresses import data_directory
from bench.changed import changed
from bench.evidence import ROW_NUMBERS
from bench.machine import keep
from bench.starters import tables_in
from bench.table import Table, never_asked, read_table
from stream.config import GateSettings
from stream.render import Field, Rendered
from stream.values import form, values_of
from trainer.bases import encoder_of, load_base
from trainer.calibrate import auroc_of
from trainer.config import TrainSettings
from trainer.corrupt import Corrupter
from trainer.datasets import Labelled, is_held_out
from trainer.learned import d_of, d_with
from trainer.make_starter import make_starter
from trainer.pairs import RENDERING, encode_labelled, rendered, text_of_content
from trainer.train import learn_from, words_of, workplace

SHARES = (0.0, 0.3, 0.7)
LEAST_ALIKE, FEW_SHARE, REPEATING_SHARE = 0.6, 0.005, 0.5
SAME_PATH, WHOLE_VALUE = 0.7, 0.2


class Edit(NamedTuple):
    """What was found at a path: `old` of a usual value had become `new`, and the whole value that was called wrong."""

    path: str
    old: str
    new: str
    wrong_value: str


def edits_of(wrong: Sequence[Rendered], stream: Sequence[Rendered]) -> list[Edit]:
    """Return what may have happened to records that were called wrong, one edit a record at most."""
    values: dict[str, Counter[str]] = defaultdict(Counter)
    for record in stream:
        for path, value in values_of(record).items():
            values[path][value] += 1
    forms = {path: Counter[str]() for path in values}
    for path, seen in values.items():
        for value, count in seen.items():
            forms[path][form(value)] += count
    found = (_edit_of(record, values, forms) for record in wrong)
    return [edit for edit in found if edit is not None]


def _edit_of(record: Rendered, values: dict[str, Counter[str]], forms: dict[str, Counter[str]]) -> Edit | None:
    best: tuple[float, Edit] | None = None
    for path, value in values_of(record).items():
        seen = values.get(path, Counter())
        few = max(2, FEW_SHARE * seen.total())
        repeats = sum(count for count in seen.values() if count > few) > REPEATING_SHARE * seen.total()
        has_odd_form = forms.get(path, Counter())[form(value)] <= few
        if not value or not ((repeats and seen[value] <= few) or has_odd_form):
            continue
        usual = [other for other, count in seen.items() if other and (count > few if repeats else forms[path][form(other)] > few)]
        matcher = SequenceMatcher(None, "", value, autojunk=False)
        for other in usual:
            matcher.set_seq1(other)
            if best is not None and matcher.quick_ratio() <= best[0]:
                continue
            alike = matcher.ratio()
            if alike >= LEAST_ALIKE and (best is None or alike > best[0]):
                _, a, b, c, d = next(code for code in matcher.get_opcodes() if code[0] != "equal")
                best = alike, Edit(path, other[a:b], value[c:d], value)
    return None if best is None else best[1]


class ChannelCorrupter(Corrupter):
    """Puts learned edits into a share of the records that it corrupts."""

    def __init__(self, edits: Sequence[Edit], share: float, records: Sequence[Rendered], seed: int) -> None:
        """Take edits; without any all faults are generic."""
        super().__init__(records, seed)
        self._edits = list(edits)
        self._share = share if edits else 0.0
        self._own = Random(seed)

    def corrupt(self, record: Rendered) -> str:
        """Return the record's text with something wrong; never the text that came in."""
        if self._own.random() < self._share:
            edit = self._own.choice(self._edits)
            fields = [field for field in record.fields if field.end > field.start]
            same = [field for field in fields if field.path == edit.path]
            if fields:
                field = same[0] if same and self._own.random() < SAME_PATH else self._own.choice(fields)
                text = self._edited(record.text, field, edit)
                if text != record.text:
                    return text
        return super().corrupt(record)

    def _edited(self, text: str, field: Field, edit: Edit) -> str:
        value = text[field.start : field.end]
        if field.path == edit.path and self._own.random() < WHOLE_VALUE:
            changed_value = edit.wrong_value
        elif edit.old and edit.old in value:
            places = [place for place in range(len(value)) if value.startswith(edit.old, place)]
            place = self._own.choice(places)
            changed_value = value[:place] + edit.new + value[place + len(edit.old) :]
        else:
            place = len(value) if edit.wrong_value.endswith(edit.new) and edit.new else self._own.randrange(len(value))
            changed_value = value[:place] + edit.new + value[place + len(edit.old) :]
        return text[: field.start] + changed_value + text[field.end :]


def one(table: Table, name: str, verdicts: int, minutes: float, seed: int, place: Path) -> dict[str, Any]:
    """Train a starter once and a model for each share of learned edits; one seed."""
    contents, held = table.contents(), never_asked(len(table.cells), seed)
    settings = TrainSettings(seed=seed)
    tables = tables_in(place, GateSettings(), settings)
    past = [content for content, is_held in zip(contents, held, strict=True) if not is_held]
    source = place / "past.txt"
    source.write_text("\n".join(past) + "\n", encoding="utf-8")
    made = make_starter(tables, str(source), place / "starter", minutes, None, seed, len(past))
    asked = np.random.default_rng(seed).permutation(np.flatnonzero(~held))[:verdicts]
    said = [Labelled(contents[row], not table.is_wrong[row]) for row in asked]
    learn = [each for each in said if not is_held_out(text_of_content(each.content), settings.held_out_share)]
    test = [each for each in said if each not in learn]
    edits = edits_of(rendered([each.content for each in learn if not each.is_right], RENDERING), rendered(past, RENDERING))
    strangers = [Labelled(contents[row], not table.is_wrong[row]) for row in np.flatnonzero(held)]
    found: dict[str, Any] = {"steps": made["steps"], "edits": len(edits), "wrong": sum(not each.is_right for each in learn)}
    for share in SHARES:
        corrupter = partial(ChannelCorrupter, edits, share)
        base = load_base(str(place / "starter"))
        encoder = encoder_of(base, words_of(base, settings), settings.max_length)
        names = {f"trainer.{module}.Corrupter": corrupter for module in ("pairs", "weigh", "balance")}
        with changed(names), workplace(settings) as work:
            learned = learn_from(base, encoder, learn, test, past, settings, work, is_measured_once=True)
            learned.saved.reloaded.result()  # before its files are gone
        seen = encode_labelled(strangers, encoder, RENDERING)
        truth = np.array([record.is_right for record in seen.records], dtype=bool)
        found[f"text, {share}"] = round(auroc_of(d_of(learned.scorer, seen.ids), truth), 4)
        found[f"with evidence, {share}"] = round(auroc_of(d_with(learned.scorer, learned.evidence, seen), truth), 4)
    print(f"{name}, {verdicts} verdicts, seed {seed}: {found}; {[tuple(each)[:3] for each in edits[:5]]}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Run and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", default=",".join(ROW_NUMBERS))
    parser.add_argument("--verdicts", default="20,100")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=1.0, help="of the starter")
    given = parser.parse_args()
    torch.set_num_threads(2)
    found: dict[str, Any] = {}
    for name in given.tables.split(","):
        place = data_directory() / "errors" / name
        table = read_table(place / "dirty.csv", place / "clean.csv", ROW_NUMBERS[name])
        for verdicts in map(int, given.verdicts.split(",")):
            runs = []
            for seed in range(given.seeds):
                with tempfile.TemporaryDirectory() as work:
                    runs.append(one(table, name, verdicts, given.minutes, seed, Path(work)))
            found[f"{name}, {verdicts}"] = {key: round(float(np.mean([run[key] for run in runs])), 4) for key in runs[0]}
    keep("channel", {"minutes": given.minutes, "seeds": given.seeds, **found})


if __name__ == "__main__":
    main()
