"""A fifth of 2,000 verdicts turned round at random: what the model loses, and how many of the turned ones are found.

One starter; each seed draws other verdicts, turns others round and trains twice, on what people said and on what they
meant, both with the noise pass of a cycle. AUROC on twins that neither has seen. `found` is the share of the turned
verdicts among the 30 % (`found_first_fifth`: 20 %) that the pass doubts most. With --again other people, who err as often, are asked
about what the pass doubts, a third where two disagree, and the training begins anew with what they have come to say: `auroc_again`;
`auroc_by_chance` is the same with as many records drawn by chance. `mistaken` is the share of mistakes among what is learned from, and
`answers` how many more there were. With --ways the same turned verdicts are learned from in each way of `train.noise`, as they are
(`nothing`), and with a margin that grows with how probable a verdict is (`margin`). The last line is one JSON object.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.machine import keep
from bench.model import choose
from bench.starters import readable, starter_in, tables_in
from demo.run import RULES
from demo.summary import evaluate
from demo.twins import Twin
from model_registry.registry import Version
from stream.config import GateSettings
from stream.encode import Encoder
from trainer.bases import Base, encoder_of, load_base
from trainer.calibrate import auroc_of
from trainer.config import TrainSettings
from trainer.datasets import Labelled
from trainer.learned import d_with
from trainer.noise import probability_of_verdicts, treat
from trainer.pairs import RENDERING, encode_labelled
from trainer.train import learn_from, train_and_publish, words_of, workplace
from trainer.unlabelled import unlabelled_of

STREAM, VERDICTS, TURNED_SHARE, HELD_OUT, STRANGERS = 12_000, 2_000, 0.2, 400, 4_000
WORST_LOSS, LEAST_FOUND = 0.01, 0.8
MOST_MARGIN = 2.0  # nats


def labelled(twins: list[Twin], turned: np.ndarray | None = None) -> list[Labelled]:
    """Return what people say of twins; `turned` says of which the contrary."""
    said = [not twin.truth.is_wrong for twin in twins]
    if turned is not None:
        said = [right != bool(lie) for right, lie in zip(said, turned, strict=True)]
    return [Labelled(twin.value.decode(), right) for twin, right in zip(twins, said, strict=True)]


class Ground(NamedTuple):
    """What every seed begins with: settings tables, a starter's directory and its version, twins to ask about, strangers."""

    tables: Any
    base_directory: Path
    cold: Version
    twins: list[Twin]
    strangers: list[Twin]

    def drawn(self, seed: int, random: np.random.Generator) -> tuple[list[Twin], list[Twin]]:
        """Return twins to learn from and held-out ones, as a reviewer would be asked about them."""
        p_chosen = evaluate(self.cold, self.tables.gate, self.twins).p_chosen
        chosen = [self.twins[place] for place in choose(self.twins, p_chosen, VERDICTS + HELD_OUT, seed)]
        random.shuffle(chosen)  # type: ignore[arg-type]
        return chosen[HELD_OUT:], chosen[:HELD_OUT]

    def base(self, settings: TrainSettings) -> tuple[Base, Encoder]:
        """Load the starter, and what reads for it."""
        base = load_base(str(self.base_directory))
        return base, encoder_of(base, words_of(base, settings), settings.max_length)

    def auroc_after(self, base: Base, encoder: Encoder, learn: list[Labelled], test: list[Labelled], settings: TrainSettings) -> float:
        """Train the base and return its AUROC on the strangers."""
        with workplace(settings) as work:
            learned = learn_from(base, encoder, learn, test, unlabelled_of(base, None, self.tables), settings, work)
            learned.saved.reloaded.result()  # before its files are gone
        seen = encode_labelled(labelled(self.strangers), encoder, RENDERING)
        truth = np.array([record.is_right for record in seen.records], dtype=bool)
        return auroc_of(d_with(learned.scorer, learned.evidence, seen), truth)


def of_every_seed(
    one: Callable[[Ground, int], dict[str, float]], train: TrainSettings, seeds: int, steps: int
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Make one starter and return what each seed gives with it: the means, and each."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        tables = tables_in(place, GateSettings(rules_file=RULES), train)
        twins = readable(STREAM, 0)
        starter, _ = starter_in(place, tables, twins, steps=steps)
        cold = train_and_publish(tables, tables.train, str(starter), None, None)
        ground = Ground(tables, starter, cold, twins, readable(STRANGERS, 1_000_003))
        runs = []
        for seed in range(seeds):
            runs.append(one(ground, seed))
            print(f"seed {seed}: {runs[-1]}", file=sys.stderr, flush=True)
    return {key: round(float(np.mean([run[key] for run in runs])), 4) for key in runs[0]}, runs


class Said(NamedTuple):
    """What people say of N records: which of them they are mistaken about, whether a second has looked, and how many answers that took."""

    mistaken_N: np.ndarray
    agreed_N: np.ndarray
    answers: int = 0

    def asked_again(self, places: np.ndarray, random: np.random.Generator) -> "Said":
        """Return what they say when a second person has looked at these places, and a third where two disagree."""
        second, third = (random.random(len(places)) < TURNED_SHARE for _ in range(2))
        first = self.mistaken_N[places]
        mistaken_N, agreed_N = self.mistaken_N.copy(), self.agreed_N.copy()
        mistaken_N[places] = np.where(first == second, first, third)
        agreed_N[places] = True
        return Said(mistaken_N, agreed_N, self.answers + len(places) + int((first != second).sum()))


def asked_about(ground: Ground, twins: list[Twin], test: list[Labelled], said: Said, settings: TrainSettings) -> dict[str, float]:
    """Train on what people said, with the noise pass; then ask again about what it doubts, or as often by chance, and train anew."""
    random = np.random.default_rng(settings.seed + 1)
    found: dict[str, float] = {}

    def learned(said: Said, name: str) -> list[int]:
        base, encoder = ground.base(settings)
        encoded = encode_labelled(labelled(twins, said.mistaken_N), encoder, RENDERING)
        is_right = np.array([record.is_right for record in encoded.records], dtype=bool)
        probability = probability_of_verdicts(base.model.eval(), encoder, encoded.ids, is_right, settings.seed)
        if probability is not None:
            probability = np.where(said.agreed_N[encoded.places], 1.0, probability)
        doubted = treat(encoded.records, probability, settings.noise)
        kept = [encoded.places[place] for place in doubted.kept]
        found[f"auroc_{name}"] = ground.auroc_after(base, encoder, doubted.records, test, settings)
        found[f"mistaken_{name}"] = float(said.mistaken_N[kept].mean())
        found[f"learned_{name}"] = len(kept)
        return [encoded.places[place] for place in doubted.suspects]

    suspects = np.array(learned(said, "once"), dtype=int)
    again = said.asked_again(suspects, random)
    learned(again, "again")
    drawn = random.choice(len(twins), len(suspects), replace=False)
    by_chance = said.asked_again(drawn, random)
    learned(by_chance, "by_chance")
    return {**found, "asked": len(suspects), "answers": again.answers, "answers_by_chance": by_chance.answers}


def one_again(ground: Ground, seed: int) -> dict[str, float]:
    """Train before and after people have been asked again; one seed."""
    settings = ground.tables.train.model_copy(update={"seed": seed})
    random = np.random.default_rng(seed)
    learn, held_out = ground.drawn(seed, random)
    turned = turned_round(len(learn), random)
    test = labelled(held_out, random.random(len(held_out)) < TURNED_SHARE)
    found = asked_about(ground, learn, test, Said(turned, np.zeros(len(learn), dtype=bool)), settings)
    return {key: round(value, 4) for key, value in found.items()}


def margins(records: list[Labelled], probability: np.ndarray | None) -> list[Labelled]:
    """Return verdicts whose margin is how probable the others make them, in nats: 0 for a suspect (Wang et al. 2024, arXiv 2401.06080)."""
    if probability is None:
        return records
    nats = np.clip(np.log(probability) - np.log1p(-probability), 0.0, MOST_MARGIN)
    return [record._replace(score_chosen=float(each), score_rejected=0.0) for record, each in zip(records, nats, strict=True)]


def each_way(ground: Ground, seed: int) -> dict[str, float]:
    """Learn from the same turned verdicts in every way; one seed."""
    settings = ground.tables.train.model_copy(update={"seed": seed})
    random = np.random.default_rng(seed)
    learn, held_out = ground.drawn(seed, random)
    said = labelled(learn, turned_round(len(learn), random))
    test = labelled(held_out, random.random(len(held_out)) < TURNED_SHARE)
    found: dict[str, float] = {}
    learned: dict[str, Callable[[list[Labelled], np.ndarray | None], list[Labelled]]] = {
        "nothing": lambda records, _: records,
        "review": lambda records, probability: treat(records, probability, "review").records,
        "smooth": lambda records, probability: treat(records, probability, "smooth").records,
        "flip": lambda records, probability: treat(records, probability, "flip").records,
        "margin": margins,
    }
    for way, of in learned.items():
        base, encoder = ground.base(settings)
        encoded = encode_labelled(said, encoder, RENDERING)
        is_right = np.array([record.is_right for record in encoded.records], dtype=bool)
        probability = probability_of_verdicts(base.model.eval(), encoder, encoded.ids, is_right, seed)
        records = of(encoded.records, probability)
        found[f"auroc_{way}"] = ground.auroc_after(base, encoder, records, test, settings)
    return {key: round(value, 4) for key, value in found.items()}


def turned_round(count: int, random: np.random.Generator) -> np.ndarray:
    """Return which of so many verdicts are mistakes."""
    turned = np.zeros(count, dtype=bool)
    turned[random.choice(count, round(TURNED_SHARE * count), replace=False)] = True
    return turned


def one(ground: Ground, seed: int) -> dict[str, float]:
    """Train on both and compare; one seed."""
    settings = ground.tables.train.model_copy(update={"seed": seed})
    random = np.random.default_rng(seed)
    learn, held_out = ground.drawn(seed, random)
    turned = turned_round(len(learn), random)
    found: dict[str, float] = {}
    for name, records, test in (
        ("clean", labelled(learn), labelled(held_out)),
        ("noisy", labelled(learn, turned), labelled(held_out, random.random(len(held_out)) < TURNED_SHARE)),
    ):
        base, encoder = ground.base(settings)
        encoded = encode_labelled(records, encoder, RENDERING)
        is_right = np.array([record.is_right for record in encoded.records], dtype=bool)
        probability = probability_of_verdicts(base.model.eval(), encoder, encoded.ids, is_right, seed)
        if name == "noisy" and probability is not None:
            order = turned[encoded.places][np.argsort(probability)]
            for key, share in (("found", 0.3), ("found_first_fifth", 0.2)):
                found[key] = float(order[: round(share * len(order))].sum() / order.sum())
        kept = treat(encoded.records, probability, settings.noise).records
        found[f"auroc_{name}"] = ground.auroc_after(base, encoder, kept, test, settings)
    return {key: round(value, 4) for key, value in found.items()}


def main() -> None:
    """Run all seeds and print the result; exit 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--noise", choices=["review", "smooth", "flip", "drop"], default="review")
    parser.add_argument("--again", action="store_true", help="ask again about what is doubted, and train anew")
    parser.add_argument("--ways", action="store_true", help="learn from the same verdicts in every way")
    given = parser.parse_args()
    train = TrainSettings(noise=given.noise, contrastive_per_verdict=1.0, epochs=2.0)
    for is_wanted, name, other in ((given.again, "noise-again", one_again), (given.ways, "noise-ways", each_way)):
        if is_wanted:
            found, runs = of_every_seed(other, train, given.seeds, given.steps)
            keep(name, {"noise": given.noise, "steps": given.steps, **found, "runs": runs})
            return
    found, runs = of_every_seed(one, train, given.seeds, given.steps)
    passed = found["auroc_clean"] - found["auroc_noisy"] <= WORST_LOSS and found["found_first_fifth"] >= LEAST_FOUND
    keep("noise", {"noise": given.noise, "steps": given.steps, **found, "runs": runs, "passed": passed})
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
