"""Time of measuring and deciding, per question, beside raw langdetect. In: nothing. Out: a Markdown table.

    python -m benchmarks.policy [--rounds N] [FILE.jsonl ...]

Each kind of question is measured and decided with the shipped preset; the last rows are langdetect's own detector with
all of its profiles, on the same questions. Files in the shape of the evaluation data are timed too, row by row.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from policies.decide import decide
from policies.features import Question, measure
from policies.language import _strip, warm_up
from policies.rules import load_preset

PICTURE = ("picture",)
KINDS: dict[str, list[str]] = {
    "Chinese, short": ["图里有几只猫？", "左边的杯子是什么颜色的？", "请描述这张图片", "这两张图有什么不同？"],
    "Chinese, long": ["请根据图表比较各个季度的销售额，先算出每个季度的增长率，然后解释增长最快的季度的原因。" * 8],
    "Chinese, a pasted document": ["报告指出，第二季度的收入比第一季度增长了百分之五，左边的图显示了原因。" * 3_000],
    "mixed": ["帮我 translate 这段 paragraph into English", "这个 Transformer 的 attention 是怎么算的？"],
    "English, common words": [
        "What colour is the circle?",
        "Which of the two people is taller than the man holding the dog?",
    ],
    "English, rare words": [
        "Juxtapose heliotropic cephalopod morphologies",
        "Fluorescent tetrahedral lattice, annotated",
    ],
    "other Latin script": ["¿Cuántas manzanas hay en la mesa?", "Wie viele rote Kreise sind auf dem Bild?"],
    "other script": ["この写真には何がありますか？", "Сколько кошек на картинке?"],
    "English, a pasted document": ["The report says that revenue rose. " * 3_000],
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=500, help="how often each question is asked")
    parser.add_argument("files", nargs="*", type=Path, help="JSON lines with `text` and `language`, timed once each")
    arguments = parser.parse_args()
    rules = load_preset("seed")
    warm_up()

    def whole(text: str) -> object:
        _strip.cache_clear()  # what is kept for one request must not help the next round's
        return decide(measure(Question(text, image_keys=PICTURE)), rules)

    print(
        f"{os.cpu_count()} CPU cores, Python {platform.python_version()}, langdetect {version('langdetect')}; "
        "microseconds per question\n"
    )
    print(f"| {'what':<52} | {'p50':>7} | {'p99':>7} | {'max':>7} |\n|{'-' * 54}|{'-' * 9}|{'-' * 9}|{'-' * 9}|")
    for kind, texts in KINDS.items():
        _row(f"measure + decide: {kind}", whole, texts, arguments.rounds)
    for file in arguments.files:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for label in sorted({row["language"] for row in rows}):
            texts = [row["text"] for row in rows if row["language"] == label]
            _row(f"measure + decide: {file.name}, {label}, {len(texts)} rows", whole, texts, 1)
    features = {text: measure(Question(text, image_keys=PICTURE)) for texts in KINDS.values() for text in texts}
    _row("decide alone", lambda text: decide(features[text], rules), list(features), arguments.rounds)

    from langdetect import DetectorFactory, detect

    DetectorFactory.seed = 0
    detect("load the profiles")
    for kind in ("English, common words", "English, rare words", "other Latin script", "Chinese, short"):
        _row(f"langdetect.detect alone: {kind}", detect, KINDS[kind], max(1, arguments.rounds // 5))


def _row(label: str, work: Callable[[str], object], texts: Sequence[str], rounds: int) -> None:
    times: list[float] = []
    for _ in range(rounds):
        for text in texts:
            start = time.perf_counter_ns()
            work(text)
            times.append((time.perf_counter_ns() - start) / 1_000)
    times.sort()
    p50, p99 = times[len(times) // 2], times[int(len(times) * 0.99)]
    print(f"| {label:<52} | {p50:>7.0f} | {p99:>7.0f} | {times[-1]:>7.0f} |")


if __name__ == "__main__":
    main()
