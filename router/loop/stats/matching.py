"""Pairing the elements of two lists so that the pairs are worth most.

In: how much each pair is worth. Out: the pairs. The Hungarian method, O(rows^2 x columns).

Source: H. W. Kuhn, The Hungarian method for the assignment problem, 1955; with the potentials of E. Dinic, 1970.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def best_pairs(worth: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """Return the pairs (row, column) of the largest sum; as many as the shorter side has, in the order of the rows.

    Args:
        worth: of each row with each column; any numbers, all rows of one length.
    """
    if not worth or not worth[0]:
        return []
    if len(worth) > len(worth[0]):
        return sorted((row, column) for column, row in best_pairs([list(each) for each in zip(*worth, strict=True)]))
    owners = _owners([[-value for value in row] for row in worth])
    return sorted((row - 1, column - 1) for column, row in enumerate(owners) if column and row)


def _owners(costs: list[list[float]]) -> list[int]:
    """Return, per column counted from 1, the row counted from 1 that it is given to; 0 for none."""
    num_rows, num_columns = len(costs), len(costs[0])
    row_price, column_price = [0.0] * (num_rows + 1), [0.0] * (num_columns + 1)
    owners, came_from = [0] * (num_columns + 1), [0] * (num_columns + 1)
    for row in range(1, num_rows + 1):
        owners[0], column = row, 0
        least, is_done = [math.inf] * (num_columns + 1), [False] * (num_columns + 1)
        while owners[column]:
            is_done[column] = True
            owner, step, following = owners[column], math.inf, 0
            for other in range(1, num_columns + 1):
                if is_done[other]:
                    continue
                cost = costs[owner - 1][other - 1] - row_price[owner] - column_price[other]
                if cost < least[other]:
                    least[other], came_from[other] = cost, column
                if least[other] < step:
                    step, following = least[other], other
            for other in range(num_columns + 1):
                if is_done[other]:
                    row_price[owners[other]] += step
                    column_price[other] -= step
                else:
                    least[other] -= step
            column = following
        while column:
            owners[column] = owners[came_from[column]]
            column = came_from[column]
    return owners
