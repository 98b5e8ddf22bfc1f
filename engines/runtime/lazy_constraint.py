"""An answer that is free until it says a certain token, and held to a grammar from there on.

In: the tokens of an answer. Out: as `engines.runtime.constrained.Constraint`: nothing is forbidden before that token.
"""

from __future__ import annotations

from torch import Tensor

from engines.runtime.constrained import Constraint, Grammar


class LazyConstraint(Constraint):
    """One row's place: free, or in its grammar. Single use.

    Args:
        grammar: of what follows the token.
        wake_id: the token.
        think_ids: the tokens that begin and end the thinking: one of its tokens wakes nothing.
    """

    def __init__(self, grammar: Grammar, wake_id: int, think_ids: tuple[int, int]) -> None:
        super().__init__(*grammar.begin(), asleep_until=None, asleep_from=None)
        self._wake_id = wake_id
        self._think_ids = think_ids
        self._is_free = True
        self._is_thinking = False
        self._free_mask = self._asleep_mask.new_full(self._asleep_mask.shape, -1)

    def accept(self, token_id: int) -> None:
        """Take the chosen token.

        Raises:
            GenerationFailedError: if it is one that the grammar forbids.
        """
        if not self._is_free:
            super().accept(token_id)
        elif token_id in self._think_ids:
            self._is_thinking = token_id == self._think_ids[0]
        elif token_id == self._wake_id and not self._is_thinking:
            self._is_free = False

    def _known_mask(self) -> Tensor | None:
        return self._free_mask if self._is_free else super()._known_mask()
