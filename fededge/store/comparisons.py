"""Comparisons in a store. They name versions, and nothing names them: they can go without harm."""

from __future__ import annotations

from fededge.errors import UNREADABLE, CorruptError, ExistsError, NotFoundError
from fededge.records import ArmResult, Comparison, ComparisonRef
from fededge.store import keys
from fededge.store.port import Store


class ComparisonStore:
    """The documents of comparisons."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def begin(self, comparison: Comparison) -> ComparisonRef:
        """Record what is compared; once more, it is the same document."""
        self.store.create(keys.comparison(comparison.ref), comparison.dump())
        return comparison.ref

    def comparison(self, ref: ComparisonRef) -> Comparison:
        """Read what is compared.

        Raises:
          NotFoundError: there is no such comparison.
          CorruptError: the document is damaged, or another one's.
        """
        key = keys.comparison(ref)
        comparison = Comparison.load(self.store.get(key).data, key)
        if comparison.ref != ref:
            raise CorruptError(f"{key} is the comparison {comparison.ref}; restore it from a backup")
        return comparison

    def put(self, ref: ComparisonRef, result: ArmResult) -> ArmResult:
        """Record what became of a batch; of several that race, the first stands and is returned."""
        key = keys.arm_result(ref, result.batch)
        try:
            self.store.create(key, result.dump())
        except ExistsError:
            return ArmResult.load(self.store.get(key).data, key)
        return result

    def result(self, ref: ComparisonRef, batch: str) -> ArmResult | None:
        key = keys.arm_result(ref, batch)
        try:
            return ArmResult.load(self.store.get(key).data, key)
        except NotFoundError:
            return None


def results_with(store: Store, training: str, client: str) -> list[str]:
    """List the keys of the results of a training's comparisons that have a client; one that is damaged may have it."""
    found = filter(keys.is_arm_result, store.keys(keys.comparisons_folder(training)))
    return [key for key in found if _has(store, key, client)]


def _has(store: Store, key: str, client: str) -> bool:
    try:
        result = ArmResult.load(store.get(key).data, key)
    except UNREADABLE:
        return True
    return any(score.client == client for score in result.scores) or any(
        failure.client == client for failure in result.failures
    )
