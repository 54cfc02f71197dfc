"""How often a better model is promoted, and how often a worse one: the demo's lotteries and people drawn again and again.

For each seed a starter, a round of verdicts as the gate's lotteries and people with mistakes give them, and a model trained on these. Both
judge many other records whose truth is known; from these, hold-outs and people are drawn anew, and the rule of a cycle decides: on what
people say as it is, with careless answers taken off, and on the truth. Candidates: `learned`, the model itself; `better` by 0.012 and
`worse` by 0.005 AUROC, which is the limit, by noise on it; `noisy`, the champion made worse by 0.005; `forgets`, the model, some kinds of
error forgotten, until it is worse by 0.005. People: `alike` err in 5 %; `unlike`: of 16 reviewers two err in 30 % and the others in 2 %,
twice as often where the champion doubts a record, and a fifth of the second looks is still to come; `two`: a reviewer who errs in 8 %
looks first and a lead who errs in 1 % second, nobody settles; `thrice`: as `alike`, three more must call a draw wrong than right;
`overlook`: 1 % of the right ones called wrong, 30 % of the wrong ones right.
The last line is one JSON object: the share promoted by people, candidate and way, and of a hold-out the share of mistakes among the draws
called wrong and the AUROC of the model that learned, by what people say and by the truth.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.changed import changed
from bench.machine import keep
from bench.noise import labelled
from bench.starters import readable, starter_in, tables_in
from demo.round import MISTAKEN_SHARE
from demo.run import RULES
from demo.summary import Scored, score
from model_registry.manifest import Calibration
from stream.config import GateSettings
from stream.decide import Lotteries, logit
from stream.looks import TWO, wanted_look
from stream.records import Decision, Route
from trainer.bases import encoder_of, load_base
from trainer.calibrate import auroc_of, p_of
from trainer.careless import Looks, look_of, mistaken_chances
from trainer.config import TrainSettings
from trainer.evaluate import Judged, compare, may_promote
from trainer.learned import d_with
from trainer.pairs import RENDERING, encode_labelled
from trainer.sort import sort
from trainer.train import learn_from, train_and_publish, words_of, workplace
from trainer.unlabelled import unlabelled_of
from trainer.verdicts import Answer, Settled, weights_of

STREAM, HELD_OUT, RIGHT_HELD = 5_000, 2_500, 0.05
LOTTERIES = Lotteries(b"", 0.1, 0.4, 4.0)  # the demo's
LIMIT, CLEARLY = 0.005, 0.012
RESAMPLES = 200
DOUBTFUL = 0.2  # of the stream, the least probable
WAYS = ("as people say", "careless taken off", "truth")


class People(NamedTuple):
    """How often each reviewer calls a right one wrong and a wrong one right, and how much more often where the champion doubts a record.

    waiting: the share that waits for a second look; wrong_looks: as in the settings. Two alone look in this order, and settle no dispute.
    """

    alarms: np.ndarray
    misses: np.ndarray
    where_doubtful: float = 1.0
    waiting: float = 0.0
    wrong_looks: int = TWO

    def answers(self, random: np.random.Generator, chance: float, *, is_wrong: bool, is_drawn: bool) -> list[Answer]:
        """Return what is said of a record, one after the other; chance: how much more often than usual they err."""
        team = len(self.alarms)
        asked = np.arange(2) if team == 2 else random.choice(team, 2 * self.wrong_looks - 1, replace=False)  # noqa: PLR2004
        errs = random.random(len(asked)) < (self.misses if is_wrong else self.alarms)[asked] * chance
        said = [Answer(f"reviewer-{who}", is_wrong == bool(is_mistaken)) for who, is_mistaken in zip(asked, errs, strict=True)]
        if said[0].is_right or not is_drawn or random.random() < self.waiting:
            return said[:1]
        for looks in range(2, len(said)):
            by_now = [each.is_right for each in said[:looks]]
            if wanted_look(by_now, last=by_now[-1], is_drawn=True, wrong_looks=self.wrong_looks) is None:
                return said[:looks]
        return said


_UNLIKE = np.array([0.3] * 2 + [0.02] * 14)
PEOPLE = {
    "alike": People(np.full(16, MISTAKEN_SHARE), np.full(16, MISTAKEN_SHARE)),
    "unlike": People(_UNLIKE, _UNLIKE, 2.0, 0.2),
    "two": People(np.array([0.08, 0.01]), np.array([0.08, 0.01])),
    "thrice": People(np.full(16, MISTAKEN_SHARE), np.full(16, MISTAKEN_SHARE), wrong_looks=3),
    "overlook": People(np.full(16, 0.01), np.full(16, 0.3)),
}


class Known(NamedTuple):
    """Records whose truth is known: what they say, which are wrong and of what kind, and the champion's p_chosen and threshold."""

    values: list[str]
    is_wrong: np.ndarray
    kinds: np.ndarray
    p_chosen: np.ndarray
    threshold: float


def answered(known: Known, places: np.ndarray, random: np.random.Generator, people: People) -> list[Settled]:
    """Return what people say of those records that are held or drawn; a wrong on a draw is looked at again."""
    p, threshold = known.p_chosen[places], known.threshold
    decisions = [Decision(Route.CLEAN, "model", p_chosen=float(each)) for each in p]
    draws = LOTTERIES.draws([f"{random.integers(1 << 62)}" for _ in places], decisions, threshold)
    doubtful = float(np.quantile(p, DOUBTFUL))
    found = []
    for place, each, draw in zip(places, p, draws, strict=True):
        is_held = each < threshold
        if draw is None and not is_held:
            continue
        is_drawn = not is_held or (draw is not None and draw.lottery == "flat")
        chance = people.where_doubtful if each < doubtful else 1.0
        answers = people.answers(random, chance, is_wrong=bool(known.is_wrong[place]), is_drawn=is_drawn)
        wanted = wanted_look(
            [answer.is_right for answer in answers], last=answers[-1].is_right, is_drawn=is_drawn, wrong_looks=people.wrong_looks
        )
        found.append(
            Settled(
                str(place), known.values[place], answers[-1].is_right, "quarantine" if is_held else "audit",
                None if draw is None else draw.lottery, 0.0 if draw is None else draw.propensity, len(answers), 0, None,
                wanted == "settlement", wanted == "another", abs(logit(float(each)) - logit(threshold)),
                reviewer=answers[-1].reviewer, answers=tuple(answers),
            )
        )  # fmt: skip
    return found


def known_of(scored: Scored, values: list[str], threshold: float) -> Known:
    """Return what is known of readable records."""
    return Known(
        values,
        np.array([truth.is_wrong for truth in scored.truths]),
        np.array([truth.kind for truth in scored.truths]),
        np.array(scored.p_chosen, dtype=float),
        threshold,
    )


def pair(seed: int, steps: int, population: int, place: Path) -> tuple[Known, np.ndarray, np.ndarray]:
    """Make a starter, let people answer, train; return many other records, and d of the starter and of the model on them."""
    settings = TrainSettings(contrastive_per_verdict=1.0, epochs=2.5, held_out_share=0.5, seed=seed)
    tables = tables_in(place, GateSettings(rules_file=RULES), settings)
    twins, others = readable(STREAM, seed), readable(population, seed + 5_000_011)
    starter, _ = starter_in(place, tables, twins, steps=steps, seed=seed)
    cold = train_and_publish(tables, settings, str(starter), None, None)
    threshold = cold.manifest.threshold.p_chosen
    first = known_of(score(cold, tables.gate, twins), [twin.value.decode() for twin in twins], threshold)
    parts = sort(answered(first, np.arange(len(twins)), np.random.default_rng(seed), PEOPLE["alike"]), settings)
    base = load_base(str(starter))
    encoder = encoder_of(base, words_of(base, settings), settings.max_length)
    with workplace(settings) as work:
        learned = learn_from(base, encoder, parts.learn, parts.hold_out, unlabelled_of(base, None, tables), settings, work)
        learned.saved.reloaded.result()  # before its files are gone
    scored = score(cold, tables.gate, others)
    d = d_with(learned.scorer, learned.evidence, encode_labelled(labelled(others), encoder, RENDERING))
    return known_of(scored, [twin.value.decode() for twin in others], threshold), scored.d, d


def with_noise(d: np.ndarray, is_right: np.ndarray, wanted: float, seed: int) -> np.ndarray:
    """Return d with as much noise as leaves that AUROC; as it is where it has no more."""
    noise = np.random.default_rng(seed).normal(size=len(d)) * d.std()
    low, high = 0.0, 8.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if auroc_of(d + middle * noise, is_right) > wanted else (low, middle)
    noisy: np.ndarray = d + low * noise
    return noisy


def forgetting(d: np.ndarray, known: Known, wanted: float, seed: int) -> np.ndarray:
    """Return d with wrong records of kind after kind as if they were right ones, until AUROC is no more than that."""
    random, found = np.random.default_rng(seed), d.copy()
    of_right = d[~known.is_wrong]
    for kind in random.permutation(np.unique(known.kinds[known.is_wrong])):
        for place in np.array_split(np.flatnonzero(known.kinds == kind), 10):
            found[place] = random.choice(of_right, len(place))
            if auroc_of(found, ~known.is_wrong) <= wanted:
                return found
    return found


def candidates(known: Known, before: np.ndarray, after: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Return d of each candidate."""
    is_right = ~known.is_wrong
    champion = auroc_of(before, is_right)
    return {
        "learned": after,
        "better": with_noise(after, is_right, champion + CLEARLY, seed),
        "worse": with_noise(after, is_right, champion - LIMIT, seed),
        "noisy": with_noise(before, is_right, champion - LIMIT, seed),
        "forgets": forgetting(after, known, champion - LIMIT, seed),
    }


def judged(d: np.ndarray, is_right: np.ndarray) -> Judged:
    """Return d as a model that holds the usual share of right records."""
    p = p_of(d, Calibration(temperature=float(d.std())))
    return Judged(d, p, float(np.quantile(p[is_right], RIGHT_HELD)))


class Outcome(NamedTuple):
    """What the rule decides on one hold-out, by way; the share of mistakes among the draws called wrong; AUROC by what people say."""

    promoted: list[bool]
    mistaken: float
    auroc: float


def outcome(known: Known, champion: Judged, candidate: Judged, settled: list[Settled]) -> Outcome:
    """Decide on one hold-out in every way."""
    places, weights = np.array([int(each.decision_id) for each in settled]), weights_of(settled)
    weight = np.array([weights[each.decision_id] for each in settled])
    said, truth = np.array([not each.counts_as_wrong for each in settled]), ~known.is_wrong[places]
    new, old = (Judged(each.d[places], each.p_chosen[places], each.threshold) for each in (candidate, champion))
    looks = Looks([look_of(each) for each in settled], mistaken_chances(settled))
    ways = ((said, None), (said, looks), (truth, None))
    drawn_wrong = ~said & np.array([each.is_drawn for each in settled])
    mistaken = float(truth[drawn_wrong].mean()) if drawn_wrong.any() else 0.0
    decided = [may_promote(compare(new, old, is_right, weight, 0, its_looks)).promoted for is_right, its_looks in ways]
    return Outcome(decided, mistaken, auroc_of(new.d, said, weight))


def one(seed: int, given: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return by kind of people and candidate the share promoted in each way, and what its AUROC is beyond the champion's; one seed."""
    with tempfile.TemporaryDirectory() as name:
        known, before, after = pair(seed, given.steps, given.population, Path(name))
    is_right = ~known.is_wrong
    old = Judged(before, known.p_chosen, known.threshold)
    found: dict[str, dict[str, float]] = {}
    for kind in given.people.split(","):
        random = np.random.default_rng(seed)
        for candidate, d in candidates(known, before, after, seed).items():
            new = judged(d, is_right)
            chosen = [random.choice(len(known.values), HELD_OUT, replace=False) for _ in range(given.worlds)]
            told = [outcome(known, old, new, answered(known, places, random, PEOPLE[kind])) for places in chosen]
            shares = dict(zip(WAYS, np.mean([each.promoted for each in told], axis=0).round(3).tolist(), strict=True))
            gain = round(auroc_of(d, is_right) - auroc_of(before, is_right), 4)
            found[f"{kind}, {candidate}"] = {"gain": gain, **shares}
            if candidate == "learned":
                mistaken, auroc = (float(np.mean([each[place] for each in told])) for place in (1, 2))
                found[f"{kind}, hold-out"] = {
                    "mistaken": round(mistaken, 3),
                    "auroc": round(auroc, 4),
                    "true": round(auroc_of(d, is_right), 4),
                }
    print(f"seed {seed}: {found}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Run all seeds and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--population", type=int, default=12_000)
    parser.add_argument("--worlds", type=int, default=60)
    parser.add_argument("--people", default=",".join(PEOPLE), help="kinds of people, with commas between")
    given = parser.parse_args()
    with changed({"trainer.evaluate.RESAMPLES": RESAMPLES}):
        runs = [one(seed, given) for seed in range(given.seeds)]
    mean = {
        candidate: {key: round(float(np.mean([run[candidate][key] for run in runs])), 4) for key in runs[0][candidate]}
        for candidate in runs[0]
    }
    keep("promotion", {"worlds": given.worlds, "steps": given.steps, **mean, "runs": runs})


if __name__ == "__main__":
    main()
