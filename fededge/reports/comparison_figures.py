"""What a comparison says, in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from fededge.core.comparison import Arm, Difference, Distribution, Share, distribution, paired_difference, share_better
from fededge.core.seeds import Purpose, derive_seed
from fededge.records import ArmResult, Budget, Comparison, Excluded


class ArmFigures(BaseModel):
    """What an arm's models are worth.

    Attributes:
      official: metrics of its one model on the test that is reported; empty where each client has its own model.
      clients: over the clients that can train.
      cold: over clients that never train.
      scores: of each client.
      bytes_moved: from and to the clients.
      raw_bytes_moved: those of them that are examples.
      failures: clients without a score, or whose data were not used.
      problem: why there is no model; empty if there is.
      seconds: that training and measuring took, all batches together.
    """

    model_config = ConfigDict(frozen=True)

    official: dict[str, float]
    clients: Distribution | None
    cold: Distribution | None
    scores: dict[str, float]
    bytes_moved: int
    raw_bytes_moved: int
    failures: list[Excluded]
    problem: str
    seconds: float


class Figures(BaseModel):
    """All figures of a comparison.

    Attributes:
      population: the clients that can train.
      official: the federated model's reported metric minus the centralized one's; None if one is missing.
      known: federated minus centralized, over the clients that can train.
      cold: the same, over clients that never train.
      than_local: for how many clients the federated model is better than their own local one.
      tuned_than_federated: for how many clients going on from it alone is better still.
      federated_beside: the federated model's score for each client with a model of its own, on the same test.
    """

    model_config = ConfigDict(frozen=True)

    comparison: str
    training: str
    version: str
    workload: str
    seed: int
    metric: str
    unit: str
    higher_is_better: bool
    budget: Budget
    population: list[str]
    arms: dict[Arm, ArmFigures]
    official: float | None
    known: Difference | None
    cold: Difference | None
    than_local: Share | None
    tuned_than_federated: Share | None
    federated_beside: dict[str, float]

    def metrics(self) -> dict[str, float]:
        """Return those that are worth a line in Kubeflow's table, by name."""
        found: dict[str, float | None] = {}
        for arm, figures in self.arms.items():
            found[f"{arm}_{self.metric}"] = figures.official.get(self.metric)
            spread = figures.clients or figures.cold
            found[f"{arm}_{self.metric}_mean_of_clients"] = spread.mean if spread else None
            found[f"{arm}_{self.metric}_worst_tenth"] = spread.worst_decile if spread else None
            found[f"{arm}_bytes_moved"] = figures.bytes_moved
        found["federated_minus_centralized"] = self.official
        found["share_better_off_than_alone"] = self.than_local.share if self.than_local else None
        return {name: value for name, value in found.items() if value is not None}


def figures_of(comparison: Comparison, results: Sequence[ArmResult]) -> Figures:
    """Work out the figures.

    Args:
      comparison: the plan.
      results: of all its batches.
    """
    arms = {arm: _arm(comparison, [result for result in results if result.arm is arm]) for arm in Arm}
    federated, centralized = arms[Arm.FEDERATED], arms[Arm.CENTRALIZED]
    local, tuned = arms[Arm.LOCAL], arms[Arm.FINE_TUNED]
    metric, higher = comparison.metric, comparison.higher_is_better
    seed = derive_seed(comparison.settings.seed, Purpose.BOOTSTRAP)
    known = set(comparison.population)
    (ours, ours_cold), (theirs, theirs_cold) = _by_kind(federated.scores, known), _by_kind(centralized.scores, known)
    beside = _federated_beside(results, federated, metric)
    return Figures(
        comparison=str(comparison.ref),
        training=comparison.training,
        version=comparison.version,
        workload=comparison.settings.workload,
        seed=comparison.settings.seed,
        metric=metric,
        unit=comparison.unit,
        higher_is_better=higher,
        budget=comparison.budget,
        population=comparison.population,
        arms=arms,
        official=_minus(federated.official.get(metric), centralized.official.get(metric)),
        known=paired_difference(ours, theirs, seed),
        cold=paired_difference(ours_cold, theirs_cold, seed),
        than_local=share_better(beside, local.scores, higher_is_better=higher),
        tuned_than_federated=share_better(tuned.scores, beside, higher_is_better=higher),
        federated_beside=beside,
    )


def _arm(comparison: Comparison, results: Sequence[ArmResult]) -> ArmFigures:
    arm = results[0].arm
    scores = {score.client: score.metrics[comparison.metric] for result in results for score in result.scores}
    members, cold = _by_kind(scores, set(comparison.population))
    raw = sum(result.raw_bytes for result in results)
    federated = arm in (Arm.FEDERATED, Arm.FINE_TUNED)
    return ArmFigures(
        official={name: value for result in results for name, value in result.official.items()},
        clients=distribution(members, higher_is_better=comparison.higher_is_better),
        cold=distribution(cold, higher_is_better=comparison.higher_is_better),
        scores=scores,
        bytes_moved=comparison.bytes_moved if federated else raw,
        raw_bytes_moved=raw,
        failures=[failure for result in results for failure in result.failures],
        problem="; ".join(result.problem for result in results if result.problem),
        seconds=round(sum(result.seconds for result in results), 3),
    )


def _by_kind(scores: Mapping[str, float], population: set[str]) -> tuple[dict[str, float], dict[str, float]]:
    """Part scores into those of clients that can train, and cold ones."""
    members = {client: score for client, score in scores.items() if client in population}
    return members, {client: score for client, score in scores.items() if client not in population}


def _federated_beside(results: Sequence[ArmResult], federated: ArmFigures, metric: str) -> dict[str, float]:
    """Return the federated model's score for each client with a model of its own, on that one's test."""
    scores = [score for result in results if result.arm in (Arm.LOCAL, Arm.FINE_TUNED) for score in result.scores]
    found = {
        score.client: federated.scores.get(score.client) if score.own else federated.official.get(metric)
        for score in scores
    }
    return {client: value for client, value in found.items() if value is not None}


def _minus(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or theirs is None else ours - theirs
