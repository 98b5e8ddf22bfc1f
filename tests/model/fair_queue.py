"""Whose turn it is, in plain Python: the order in which the units of one queue are run.

In: units that wait, each with its priority, its owner and its age. Out: the next one to run, and how many are ahead of
any. `router/lua/jobs/next.lua` and `place.lua` say the same, with these constants.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from router.call import Priority
from router.jobs.schedule import PRIORITIES, to_class
from router.lua.constants import MAX_WALK, SHARE


@dataclass(slots=True)
class _Class:
    """The units of one priority: owners in the order of their turns, each with its units by age."""

    turns: list[str] = field(default_factory=list)
    lines: dict[str, list[tuple[float, str]]] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        return sum(map(len, self.lines.values()))


class FairQueue:
    """The units of one queue that wait to be run."""

    def __init__(self) -> None:
        self._classes = [_Class() for _ in PRIORITIES]
        self._num_taken = 0

    @property
    def depth(self) -> int:
        """How many wait."""
        return sum(each.depth for each in self._classes)

    def add(self, priority: Priority, owner: str, age: float, member: str) -> None:
        """Put a unit in line; an owner that had none there is last to take a turn."""
        line = self._classes[to_class(priority) - 1]
        waiting = line.lines.setdefault(owner, [])
        if (age, member) not in waiting:
            waiting.append((age, member))
            waiting.sort()
        if owner not in line.turns:
            line.turns.append(owner)

    def discard(self, priority: Priority, owner: str, age: float, member: str) -> bool:
        """Take a unit out of the line, wherever it stands; False if it is not in there."""
        line = self._classes[to_class(priority) - 1]
        if (age, member) not in line.lines.get(owner, ()):
            return False
        line.lines[owner].remove((age, member))
        if not line.lines[owner]:
            del line.lines[owner]
            line.turns.remove(owner)
        return True

    def take(self) -> str | None:
        """Take out the unit whose turn it is."""
        turn = self._num_taken + 1
        first = 3 if turn % SHARE**2 == 0 else 2 if turn % SHARE == 0 else 1
        for number in (first, 1, 2, 3):
            line = self._classes[number - 1]
            if not line.turns:
                continue
            owner = line.turns[0]
            age, member = line.lines[owner][0]
            self.discard(PRIORITIES[number - 1], owner, age, member)
            if owner in line.lines:
                line.turns.remove(owner)
                line.turns.append(owner)
            self._num_taken = turn
            return member
        return None

    def ahead_of(self, priority: Priority, owner: str, age: float, member: str) -> int:
        """Count the units that will be taken before this one, if none comes or leaves meanwhile; 0 if it is not there.

        Exact among units of one priority, up to `MAX_WALK` owners; an estimate where priorities compete.
        """
        number = to_class(priority)
        line = self._classes[number - 1]
        if (age, member) not in line.lines.get(owner, ()):
            return 0
        rank = line.lines[owner].index((age, member))
        mine = line.turns.index(owner)
        ahead = mine
        if rank > 0:
            walked = line.turns[:MAX_WALK]
            others = sum(
                min(rank + (place < mine), len(line.lines[other]))
                for place, other in enumerate(walked)
                if other != owner
            )
            if len(line.turns) > MAX_WALK:
                others = others * len(line.turns) // MAX_WALK
            ahead = rank + others
        higher = sum(each.depth for each in self._classes[: number - 1])
        passed_by = int(SHARE ** (number - 1)) - 1
        return ahead + min(higher, passed_by * (ahead + 1))
