"""`glowl promote`: what it refuses, what it prints, and the pointer it leaves in redis."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import orjson
import pytest
from redis.asyncio import Redis
from typer.testing import CliRunner, Result

from router.cli.main import app
from router.loop.stats.results import Answer, Header, to_line
from router.promotion.records import Pointer
from router.promotion.store import PromotionStore

BASE, ADAPTER = "glm-4.6v-flash:base", "glm-4.6v-flash:receipts"
SERVED = {BASE: "glm-4.6v-flash", ADAPTER: ADAPTER}


@pytest.fixture
def evidence(tmp_path: Path) -> Path:
    return tmp_path / "eval.jsonl"


@pytest.fixture(autouse=True)
def _own_redis(redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)


def _write(
    path: Path, right: Mapping[str, int], *, of: int = 60, served: Mapping[str, str] = SERVED, revision: str = "r1"
) -> None:
    """Write answers: each arm has so many of them right, the first ones."""
    lines = [to_line(Header("abc", of))]
    for arm, num_right in right.items():
        for number in range(of):
            said = "42" if number < num_right else "41"
            answer = Answer(str(number), arm, f"p{number}", ("zh",), "42", said, "", served[arm], revision)
            lines.append(to_line(answer))
    path.write_bytes(b"".join(lines))


def _cut(path: Path, num_lines: int) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-num_lines]))


def _replace(path: Path, old: bytes, new: bytes) -> None:
    path.write_bytes(path.read_bytes().replace(old, new, 1))


def _note(path: Path, revision: str) -> None:
    """Write which weights of the adapter answered."""
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    for line in lines[1:]:
        line["adapter_revision"] = revision if line["arm"] == ADAPTER else ""
    path.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))


async def _promote(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, app, ["promote", *arguments])


async def _pointer(redis: Redis, engine: str = "glm") -> Pointer:
    return (await PromotionStore(redis).load()).get(engine, Pointer())


async def test_a_proven_gain_moves_the_pointer_and_rollback_moves_it_back(evidence: Path, redis: Redis) -> None:
    _write(evidence, {BASE: 30, ADAPTER: 55})

    result = await _promote(ADAPTER, "--evidence", str(evidence), "--share", "0.5")

    assert result.exit_code == 0, result.output
    assert "answers 50% of the requests" in result.output
    assert "no questions of slice en" in result.output
    now = (await _pointer(redis)).now
    assert (now.adapter, now.revision, now.share) == ("receipts", "r1", 0.5)
    assert now.proof.startswith("exact, n = 60, +41.7 [")
    shown = await _promote()
    assert now.proof in shown.output

    back = await _promote("--rollback")

    assert back.exit_code == 0, back.output
    assert "glm-4.6v-flash is answered by glm-4.6v-flash again" in back.output
    assert await _pointer(redis) == Pointer()
    nothing = await _promote("--rollback")
    assert nothing.exit_code == 1
    assert "nothing is promoted" in nothing.output


async def test_no_proven_gain_is_refused_with_its_numbers(evidence: Path, redis: Redis) -> None:
    _write(evidence, {BASE: 40, ADAPTER: 41})

    result = await _promote(ADAPTER, "--evidence", str(evidence))

    assert result.exit_code == 1
    assert "no gain proven (n = 60, +1.7 [" in result.output
    assert "is not promoted" in result.output
    assert await _pointer(redis) == Pointer()


async def test_a_slice_that_may_have_fallen_is_refused_by_name(evidence: Path, redis: Redis) -> None:
    _write(evidence, {BASE: 40, ADAPTER: 20})

    result = await _promote(ADAPTER, "--evidence", str(evidence))

    assert result.exit_code == 1
    assert "slice zh: a fall of more than 5 points is not ruled out (n = 60, -33.3 [" in result.output


async def test_half_an_evaluation_is_no_evidence(evidence: Path) -> None:
    _write(evidence, {BASE: 30, ADAPTER: 55})
    _cut(evidence, num_lines=7)

    result = await _promote(ADAPTER, "--evidence", str(evidence))

    assert result.exit_code == 1
    assert "7 questions were not put to glm-4.6v-flash:receipts" in result.output


async def test_a_base_that_was_answered_by_an_adapter_is_no_base(evidence: Path) -> None:
    _write(evidence, {BASE: 30, ADAPTER: 55}, served={BASE: "glm-4.6v-flash:labels", ADAPTER: ADAPTER})

    result = await _promote(ADAPTER, "--evidence", str(evidence))

    assert result.exit_code == 1
    assert "answered by glm-4.6v-flash:labels" in result.output
    assert "run `glowl eval` with a new --out" in result.output


async def test_answers_of_other_weights_prove_nothing(evidence: Path) -> None:
    _write(evidence, {BASE: 30, ADAPTER: 55})
    _replace(evidence, b'"r1"', b'"r0"')

    result = await _promote(ADAPTER, "--evidence", str(evidence))

    assert result.exit_code == 1
    assert "different weights" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["receipts"], "name an adapter of a model"),
        ([BASE], "name an adapter of a model"),
        ([ADAPTER], "--evidence"),
        (["qwen:receipts", "--evidence", "nowhere.jsonl"], "there is no model qwen"),
        (["mplug-owl2:turned", "--shadow", "0.1"], "cannot be a shadow"),
        ([ADAPTER, "--evidence", "nowhere.jsonl"], "nowhere.jsonl cannot be read: No such file"),
    ],
)
async def test_without_a_name_or_evidence_nothing_is_promoted(arguments: list[str], said: str, redis: Redis) -> None:
    result = await _promote(*arguments)

    assert result.exit_code == 2
    assert said in result.output
    assert await _pointer(redis) == Pointer()


async def test_the_revision_of_the_adapter_is_what_is_noted(evidence: Path, redis: Redis) -> None:
    _write(evidence, {BASE: 30, ADAPTER: 55})
    _note(evidence, "a7")

    assert (await _promote(ADAPTER, "--evidence", str(evidence))).exit_code == 0
    assert (await _pointer(redis)).now.revision == "a7"
    _replace(evidence, b'"a7"', b'"a6"')
    assert "different weights" in (await _promote(ADAPTER, "--evidence", str(evidence))).output


async def test_adapters_of_both_models_are_promoted_and_rolled_back_apart(evidence: Path, redis: Redis) -> None:
    owl2, turned = "mplug-owl2-pocket:base", "mplug-owl2-pocket:turned"
    served = {owl2: "mplug-owl2-pocket", turned: turned}
    _write(evidence, {owl2: 30, turned: 55}, served=served)
    result = await _promote(turned, "--evidence", str(evidence))
    assert result.exit_code == 0, result.output
    assert await _pointer(redis) == Pointer()
    assert (await _pointer(redis, "owl2")).now.adapter == "turned"
    _write(evidence, {BASE: 30, ADAPTER: 55})
    assert (await _promote(ADAPTER, "--evidence", str(evidence))).exit_code == 0
    shown = (await _promote()).output
    assert "glm-4.6v-flash:receipts answers" in shown
    assert "mplug-owl2:turned answers" in shown

    unclear, back = await _promote("--rollback"), await _promote("mplug-owl2", "--rollback")
    assert (unclear.exit_code, back.exit_code) == (2, 0)
    assert "glm-4.6v-flash, mplug-owl2" in unclear.output
    assert await _pointer(redis, "owl2") == Pointer()
    assert (await _promote("--rollback")).exit_code == 0
    assert await _pointer(redis) == Pointer()


async def test_an_adapter_in_the_shadow_needs_no_proof(redis: Redis) -> None:
    result = await _promote(ADAPTER, "--shadow", "0.05")

    assert result.exit_code == 0, result.output
    pointer = await _pointer(redis)
    assert (pointer.now.adapter, pointer.shadow.adapter, pointer.shadow.share) == ("", "receipts", 0.05)
