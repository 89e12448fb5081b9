"""Nets that no other beats in everything, and the hypervolume that they span."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["front", "hypervolume"]

# A cost and an error; smaller is better in both.
Point = tuple[float, float]


def front(points: Sequence[Point]) -> list[int]:
    """Return the places of the points that none dominates, by rising cost; of equal points the first.

    Example:
        >>> from involution.studies.search.pareto import front
        >>> front([(2.0, 1.0), (1.0, 3.0), (3.0, 1.0), (1.5, 2.0)])
        [1, 3, 0]
    """
    found: list[int] = []
    best = float("inf")
    for place in sorted(range(len(points)), key=lambda i: (points[i], i)):
        if points[place][1] < best:
            best = points[place][1]
            found.append(place)
    return found


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Return the area that the points dominate below the reference.

    Args:
        points: costs and errors; those beyond the reference add nothing.
        reference: the worst cost and error that count.

    Example:
        >>> from involution.studies.search.pareto import hypervolume
        >>> hypervolume([(1.0, 3.0), (2.0, 1.0)], (4.0, 4.0))
        7.0
    """
    inside = [point for point in points if point[0] < reference[0] and point[1] < reference[1]]
    area, ceiling = 0.0, reference[1]
    for place in front(inside):
        cost, error = inside[place]
        area += (reference[0] - cost) * (ceiling - error)
        ceiling = error
    return area
