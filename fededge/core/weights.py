"""How much each client counts in the mean."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction


def capped_weights(counts: Sequence[int], max_share: float) -> list[int]:
    """Cap example counts so that no client outweighs the others.

    A count is a client's own word. Where 19 honest clients have 500 examples each and one claims 100,000, the mean
    were that one's update to 91 %. With a cap of 0.1 it has at most a tenth.

    A client may weigh `max_share` of the capped total, or 2/n if that is more: with few clients, equal ones exceed
    any small share. So one client or two are never capped.

    Args:
      counts: examples of each client, each at least 1.
      max_share: from 0 to 1; 1 caps nobody.

    Returns:
      The weights, in the same order, positive: the counts, the largest of them cut to one cap. With s the share,
      every weight ≤ s · sum(weights) holds exactly, rounding included; capping again changes nothing; and no weight
      falls when a count rises.

    Raises:
      ValueError: `max_share` is out of range, or a count is not positive.
    """
    if not 0 <= max_share <= 1:
        raise ValueError(f"max_share must be from 0 to 1, not {max_share}")
    if any(count < 1 for count in counts):
        raise ValueError(f"counts must be positive, not {min(counts)}")
    if not counts:
        return []
    # 0.1 as people mean it, a tenth, not the binary fraction nearest to it.
    share = max(Fraction(str(max_share)), Fraction(2, len(counts)))
    cap = _cap(sorted(counts, reverse=True), share)
    return [min(count, cap) for count in counts]


def _cap(descending: Sequence[int], share: Fraction) -> int:
    """Find the cap: the least number m of largest counts is cut to c = s · (m c + R), R the sum of the others.

    So c = s R / (1 − s m), and m is right when the next count is ≤ c. Such an m < n / 2 exists because s ≥ 2/n.
    Cutting to the floor of c keeps the shares ≤ s, as c / (m c + R) rises with c.
    """
    others = sum(descending)
    for cut, largest in enumerate(descending):
        if share * cut >= 1:
            break
        cap = share * others / (1 - share * cut)
        if largest <= cap:
            return int(cap)
        others -= largest
    return descending[0]  # a share of 1, or two clients: nobody can exceed it
