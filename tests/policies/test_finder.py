"""A finder finds what its pattern alone would; cues of clauses on lines of their own are those of each clause."""

from __future__ import annotations

import random
import re

import pytest

from policies import calculation, complexity, language, pictures
from policies import request_guards as guards
from policies.finder import Finder
from tests.support.patterns import draw, edges, parse

FINDERS = {
    **{f"chain-{name}": finder for name, finder in complexity._ZH_CHAINS.items()},
    **{f"step-{name}": finder for name, finder in complexity._ZH_STEPS.items()},
    "problem": complexity._ZH_PROBLEMS,
    "count": calculation._COUNTED,
    "not-language": language._NOT_LANGUAGE_FINDER,
    "several-pictures": pictures._ZH,
    "any-picture": pictures._EN_ANY,
    "back": pictures._ZH_BACK,
    "back-en": pictures._EN_BACK,
    "points": guards._POINTS,
}
OTHERS = "图里的人是谁在左边和有几只?,。:、 \n8aBıſİ的了不超过比最穿着书作者"
CLASSES = {r"\d": "CATEGORY_DIGIT", r"\w": "CATEGORY_WORD"}


def texts_of(pattern: str, flags: int, count: int, seed: int) -> list[str]:
    """Texts with matches of a pattern in them, near misses, and what stands around."""
    rng = random.Random(seed)
    tree = parse(pattern, flags)

    def any_text() -> str:
        return "".join(rng.choices(OTHERS, k=rng.randint(0, 8)))

    found = []
    for _ in range(count):
        text = any_text() + "".join(draw(tree, rng, OTHERS) + any_text() for _ in range(rng.randint(1, 3)))
        cut = rng.randrange(len(text) + 1)
        found += [text, text[:cut] + rng.choice(OTHERS) + text[cut + 1 :]]
    return found


@pytest.mark.parametrize("name", FINDERS)
def test_a_finder_finds_what_its_pattern_alone_would(name: str) -> None:
    finder = FINDERS[name]
    alone = re.compile(finder.pattern, finder.flags)
    num_found = 0
    for text in texts_of(finder.pattern, finder.flags, 150, len(name)):
        expected = [match.group() for match in alone.finditer(text)]
        num_found += len(expected)
        assert finder.findall(text) == expected
        assert finder.spans(text) == [match.span() for match in alone.finditer(text)]
        assert finder.sub("<>", text) == alone.sub("<>", text)
        first = finder.search(text)
        assert (first[1] if first else None) == (expected[0] if expected else None)
    assert num_found > 15


@pytest.mark.parametrize(
    ("finder", "starts", "classes"),
    [
        *((complexity._ZH_CHAINS[name], complexity.ZH_STARTS[name], "") for name in complexity._ZH_CHAINS),
        *(
            (complexity._ZH_STEPS[name], complexity.ZH_STARTS[name], complexity._DIGIT.get(name, ""))
            for name in complexity._ZH_STEPS
        ),
        (complexity._ZH_PROBLEMS, complexity.PROBLEM_STARTS, r"\d"),
        (calculation._COUNTED, calculation.NUMBER_STARTS, r"\d"),
        (language._NOT_LANGUAGE_FINDER, language.NOT_LANGUAGE_STARTS, r"\w"),
        (pictures._ZH, pictures.SEVERAL_STARTS, ""),
        (pictures._EN_ANY, "fips", ""),
        (pictures._ZH_BACK, pictures.BACK_STARTS, ""),
        (pictures._EN_BACK, pictures.EN_BACK_STARTS, ""),
        (guards._POINTS, guards.POINTS_STARTS, ""),
    ],
)
def test_its_matches_begin_with_one_of_its_characters(finder: Finder, starts: str, classes: str) -> None:
    found, is_empty = edges(parse(finder.pattern, finder.flags), 1)
    assert not is_empty
    named = {CLASSES[classes]} if classes else set()
    # ASCII words: a class that `re` writes as \w.
    ascii_words = {char for char in found if len(char) == 1 and char.isascii() and (char.isalnum() or char == "_")}
    assert found - named - (ascii_words if classes == r"\w" else set()) <= set(starts)


def test_one_piece_of_work_begins_with_one_of_its_characters() -> None:
    found, is_empty = edges(parse(complexity._ZH_WORK), 1)
    assert not is_empty
    assert found <= complexity.WORK_STARTS


def chains_of(clauses: list[str]) -> dict[str, list[str]]:
    """The cues of a chain as one clause after another would be read."""
    patterns = {name: re.compile(complexity.ZH_CUES[name]) for name in complexity._ZH_CHAIN_CUES}
    found: dict[str, list[str]] = {}
    for name, pattern in patterns.items():
        each = []
        for clause in clauses:
            matches = list(pattern.finditer(clause))
            if name == "bridge":
                shown_by = {match.end() for match in patterns["relative_clause"].finditer(clause)}
                matches = [one for one in matches if one.start() + one.group().startswith("的") not in shown_by]
            words = [match.group().strip() for match in matches]
            each.append(["" for _ in words[1:]] if name == "reference_chain" else words)
        found[name] = max(each, key=len, default=[])
    return found


def test_the_chains_of_lines_are_those_of_the_clauses() -> None:
    rng = random.Random(3)
    num_found = 0
    for name in complexity._ZH_CHAIN_CUES:
        drawn = [text.replace("\n", "") for text in texts_of(complexity.ZH_CUES[name], 0, 150, 5)]
        for _ in range(150):
            clauses = [rng.choice(["", rng.choice(drawn), rng.choice(drawn)]) for _ in range(rng.randint(0, 5))]
            expected = chains_of(clauses)
            num_found += sum(map(len, expected.values()))
            assert complexity._find_chains("\n".join(clauses)) == expected
    assert num_found > 200


def test_without_the_word_exceeds_a_comparison_is_the_same_without_its_alternative() -> None:
    whole, without = complexity.ZH_CUES["comparison"], complexity._ZH_STEPS["comparison"].pattern
    assert whole.count("|[^不]超过") == 1
    assert whole.replace("|[^不]超过", "") == without
    for text, count in (("是不是才超过三成", 1), ("不超过", 0), ("最贵的", 1)):
        cues = complexity.find_cues(text, "zh")[1]["comparison"]
        assert len(cues) == count
