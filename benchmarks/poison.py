"""What accuracy each aggregation rule keeps when some clients lie: the figures of docs/poison.md.

    partition ─► honest training (numpy) ─► attack ─► Gate ─► mean, or a robust rule ─► next model ─► accuracy
                 └────── made here ───────────────┘   └──────────── FedEdge's own ─────────────┘

Clients train the model of the workload `digits`, but in numpy, because TFF takes a tenth of a second a client and
there are some 90,000 trainings of a client here. `--check` compares that with what the workload's learner does.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from threadpoolctl import threadpool_limits

from benchmarks.digits_model import SHAPES, Batches, accuracy, check, initial_weights, train
from fededge.core.admission import Admitted, Claim, Gate, l2_norm
from fededge.core.aggregation import Weighted, weighted_mean
from fededge.core.cohorts import sample_cohort
from fededge.core.partition import dirichlet_partition
from fededge.core.robust import Rule, precondition, robust_aggregate
from fededge.core.seeds import Purpose, derive_seed
from fededge.core.tensors import Array, Tensors, non_finite, signature
from fededge.core.weights import capped_weights
from fededge.learners import Examples
from fededge.settings import LocalTraining, RoundSettings
from fededge.workloads.digits import workload

SIGN_FACTOR = 4.0
NOISE_FACTOR = 10.0
CLIP_NORM = 2.0
SHARES = (0.1, 0.2, 0.3)  # of the clients that attack
SPLITS = {"near-IID": 1000.0, "skewed": 0.5}  # Dirichlet's alpha
PROCESSES = 2


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


class Attack(StrEnum):
    """What a lying client sends in place of its honest update u.

    It knows its own u and the global model, and nothing of the others.
    """

    NONE = "no attack"
    SIGN = "sign flip"  # −SIGN_FACTOR · u
    NOISE = "noise"  # Gaussian, of norm NOISE_FACTOR · ‖u‖


class Defence(StrEnum):
    """A rule with its parameters."""

    MEAN = "mean"
    CLIPPED_MEAN = "mean, clip_norm"
    MEDIAN = "median"
    TRIMMED_MEAN = "trimmed_mean"
    KRUM = "krum"
    MULTI_KRUM = "multi_krum"

    @property
    def rule(self) -> Rule:
        return Rule.MEAN if self is Defence.CLIPPED_MEAN else Rule(self.value)

    @property
    def takes_attackers(self) -> bool:
        return self.rule not in (Rule.MEAN, Rule.MEDIAN)


@dataclass(frozen=True)
class Setting:
    """A column of the tables.

    Attributes:
      attack: what attackers do.
      share: of the clients that attack.
      told: of the clients that the rule is told may attack.
    """

    attack: Attack
    share: float
    told: float

    @property
    def title(self) -> str:
        title = f"{self.attack.value} {_percent(self.share)}" if self.share else self.attack.value
        return title if self.told == self.share else f"{title}, told {_percent(self.told)}"


@dataclass(frozen=True)
class Case:
    """One training."""

    split: str
    defence: Defence
    setting: Setting
    seed: int
    clients: int
    rounds: int
    local_epochs: int

    @property
    def attackers(self) -> int:
        return round(self.setting.share * self.clients)

    @property
    def settings(self) -> RoundSettings:
        """The settings of FedEdge; all that is not named is the default."""
        return RoundSettings(
            clients=self.clients,
            seed=self.seed,
            local_epochs=self.local_epochs,
            aggregation=self.defence.rule,
            attackers=round(self.setting.told * self.clients) if self.defence.takes_attackers else 0,
            clip_norm=CLIP_NORM if self.defence is Defence.CLIPPED_MEAN else 0.0,
        )


@dataclass(frozen=True)
class Outcome:
    """What became of a training.

    Attributes:
      accuracy: after the last round, on the test data; 0 to 1.
      lies_used: updates of attackers that the rule used, over all rounds; Krum and multi-Krum use not all.
      refused: updates that the gate did not admit.
      failed_rounds: rounds that made no new version.
    """

    accuracy: float
    lies_used: int
    refused: int
    failed_rounds: int


TOLD_THE_TRUTH = (
    Setting(Attack.NONE, 0.0, 0.0),
    *(Setting(attack, share, share) for attack in (Attack.SIGN, Attack.NOISE) for share in SHARES),
)
TOLD_WRONG = (
    Setting(Attack.NONE, 0.0, 0.3),
    Setting(Attack.SIGN, 0.3, 0.1),
    Setting(Attack.SIGN, 0.3, 0.0),
)


def attack(kind: Attack, honest: Tensors, rng: np.random.Generator) -> Tensors:
    """Make what a lying client sends of its honest update."""
    if kind is Attack.SIGN:
        return {name: np.multiply(value, np.float32(-SIGN_FACTOR)) for name, value in honest.items()}
    drawn = {name: rng.standard_normal(value.shape) for name, value in honest.items()}
    scale = NOISE_FACTOR * l2_norm(honest) / l2_norm(drawn)
    return {name: (value * scale).astype(np.float32) for name, value in drawn.items()}


@cache
def _shards(clients: int, alpha: float, seed: int) -> dict[str, Examples]:
    """Split all training examples among clients."""
    everything = workload.train_data(workload.population(1)[0], 1)
    parts = dirichlet_partition(everything.y.astype(np.int64), clients, alpha, seed)
    named = zip(workload.population(clients), parts, strict=True)
    return {client: Examples(everything.x[mine], everything.y[mine]) for client, mine in named}


def _batches(examples: int, how: LocalTraining, rng: np.random.Generator) -> Batches:
    epochs = [rng.permutation(examples) for _ in range(how.local_epochs)]
    return [epoch[i : i + how.batch_size] for epoch in epochs for i in range(0, examples, how.batch_size)]


def run_case(case: Case) -> Outcome:
    """Train for all rounds."""
    liars = _attackers(case)
    weights, lies_used, refused, failed = initial_weights(case.seed), 0, 0, 0
    # One thread, as the learners have: the number of threads would change bits. Under attack a model may diverge.
    with threadpool_limits(1), np.errstate(over="ignore", invalid="ignore"):
        for number in range(1, case.rounds + 1):
            admitted = _round(case, number, weights, liars)
            refused += case.clients - len(admitted)
            made = _next_model(case.settings, weights, admitted)
            if made is None:
                failed += 1
            else:
                weights, used = made
                lies_used += len(liars & used)
        return Outcome(accuracy(weights, workload.test_data()), lies_used, refused, failed)


def _round(case: Case, number: int, weights: Tensors, liars: set[str]) -> dict[str, Admitted]:
    """Train the cohort, have the attackers lie, and let the gate judge what they send."""
    how, shards = case.settings, _shards(case.clients, SPLITS[case.split], case.seed)
    population = workload.population(case.clients)
    gate = Gate(**_identity(number), signature=signature(weights), cohort_size=len(population), clip_norm=how.clip_norm)
    admitted = {}
    for client in sample_cohort(population, 0, derive_seed(case.seed, Purpose.COHORT, number)):
        rng = np.random.default_rng(derive_seed(case.seed, Purpose.SHUFFLE, number, client))
        examples = shards[client]
        update = train(weights, examples, _batches(len(examples), how, rng), how)
        if client in liars:
            update = attack(case.setting.attack, update, rng)
        num_examples = how.local_epochs * len(examples)  # as TFF counts them
        claim = Claim(**_identity(number), client=client, num_examples=num_examples, data_schema=examples.schema())
        verdict = gate.admit(client, claim, safetensors.numpy.save(update))
        if isinstance(verdict, Admitted):
            admitted[client] = verdict
    return admitted


def _identity(number: int) -> dict[str, Any]:
    return {"training": "poison", "version": f"v{number}", "round": number, "attempt": 1, "base_model": "none"}


def _attackers(case: Case) -> set[str]:
    """Draw who attacks in all rounds. A larger share has the attackers of a smaller one among them."""
    if not case.attackers:
        return set()
    seed = derive_seed(case.seed, Purpose.COHORT, 0, "attackers")
    return set(sample_cohort(workload.population(case.clients), case.attackers, seed))


def _next_model(
    how: RoundSettings, weights: Tensors, admitted: Mapping[str, Admitted]
) -> tuple[Tensors, set[str]] | None:
    """Make the next model and say whose updates it used; None where FedEdge would fail the round."""
    if precondition(how.aggregation, len(admitted), how.attackers):
        return None
    update, used = _combine(how, [*admitted.values()])
    after = {name: np.add(value, update[name], dtype=np.float32) for name, value in weights.items()}
    clients = [*admitted]
    return None if non_finite(after) else (after, {clients[index] for index in used})


def _combine(how: RoundSettings, admitted: Sequence[Admitted]) -> tuple[Tensors, list[int]]:
    if how.aggregation is Rule.MEAN:
        weights = capped_weights([one.num_examples for one in admitted], how.max_client_share)
        weighted = (Weighted(one.delta, weight) for one, weight in zip(admitted, weights, strict=True))
        return weighted_mean(weighted), [*range(len(admitted))]

    def read(client: int, name: str, part: slice) -> Array:
        return admitted[client].delta[name].reshape(-1)[part]

    return robust_aggregate(how.aggregation, how.attackers, len(admitted), read, SHAPES)


@dataclass(frozen=True)
class Scale:
    """How much is run: the same tables, measured more or less well."""

    seeds: int
    rounds: int
    clients: int = 20
    local_epochs: int = LocalTraining().local_epochs


QUICK = Scale(seeds=2, rounds=2, clients=10, local_epochs=1)


def cases(scale: Scale) -> list[Case]:
    """List all trainings, by table, row, column and seed."""
    return [
        Case(split, defence, setting, seed, scale.clients, scale.rounds, scale.local_epochs)
        for split in SPLITS
        for defence in Defence
        for setting in (*TOLD_THE_TRUTH, *(TOLD_WRONG if defence.takes_attackers else ()))
        for seed in range(scale.seeds)
    ]


def measure(scale: Scale, processes: int = PROCESSES) -> list[tuple[Case, Outcome]]:
    """Run all trainings; progress goes to standard error."""
    todo, begun = cases(scale), time.monotonic()
    measured = []
    for done, pair in enumerate(zip(todo, _outcomes(todo, processes), strict=True), 1):
        measured.append(pair)
        if done % 10 == 0 or done == len(todo):
            sys.stderr.write(f"{done}/{len(todo)} trainings, {time.monotonic() - begun:.0f} s\n")
    return measured


def _outcomes(todo: Sequence[Case], processes: int) -> Iterator[Outcome]:
    if processes == 1:
        yield from map(run_case, todo)
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(run_case, todo)


def tables(measured: Sequence[tuple[Case, Outcome]]) -> str:
    """Draw Markdown tables, two for each split: rules down, attacks across; mean ± deviation over the seeds, in %."""
    cells: dict[tuple[str, Defence, Setting], list[float]] = {}
    for case, outcome in measured:
        cells.setdefault((case.split, case.defence, case.setting), []).append(outcome.accuracy)
    told = [defence for defence in Defence if defence.takes_attackers]
    return "\n".join(
        f"{split} clients{what}\n\n{_table(split, defences, columns, cells)}"
        for what, defences, columns in (("", [*Defence], TOLD_THE_TRUTH), (", told wrong", told, TOLD_WRONG))
        for split in SPLITS
    )


def _table(
    split: str,
    defences: Sequence[Defence],
    columns: Sequence[Setting],
    cells: Mapping[tuple[str, Defence, Setting], Sequence[float]],
) -> str:
    head = ["rule", *(setting.title for setting in columns)]
    rows = [
        [f"`{defence.value}`", *(_cell(cells[split, defence, setting]) for setting in columns)] for defence in defences
    ]
    lines = [head, ["---", *("--:" for _ in columns)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(accuracies: Sequence[float]) -> str:
    mean = f"{100 * statistics.mean(accuracies):.1f}"
    return f"{mean} ± {100 * statistics.stdev(accuracies):.1f}" if len(accuracies) > 1 else mean


def main() -> int:
    """Measure and print the tables, or check."""
    how = _arguments()
    if how.check:
        found = check()
        for client, (cosine, difference) in found.items():
            sys.stdout.write(f"{client}: cosine {cosine:.9f}, largest difference {difference:.1e}\n")
        return 0 if all(cosine > 0.9999 for cosine, _ in found.values()) else 1
    scale = QUICK if how.quick else Scale(how.seeds, how.rounds)
    measured = measure(scale)
    sys.stdout.write(tables(measured))
    for case, outcome in measured:
        if outcome.refused or outcome.failed_rounds:
            sys.stdout.write(
                f"\n{case.split}, {case.defence.value}, {case.setting.title}, seed {case.seed}: "
                f"{outcome.refused} updates refused, {outcome.failed_rounds} rounds failed\n"
            )
    if how.json:
        trainings = [{**asdict(case), **asdict(outcome)} for case, outcome in measured]
        how.json.write_text(json.dumps({"scale": asdict(scale), "trainings": trainings}, indent=1) + "\n")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.poison", description="Measure docs/poison.md.")
    parser.add_argument("--seeds", type=int, default=3, help="how many trainings a cell is the mean of")
    parser.add_argument("--rounds", type=int, default=15, help="of each training")
    parser.add_argument("--quick", action="store_true", help="the tables in seconds, of no worth but to test this")
    parser.add_argument("--check", action="store_true", help="compare with TensorFlow's updates, and do nothing else")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write each training's result there")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
