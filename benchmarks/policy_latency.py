"""Time of measuring and deciding, per question. In: nothing. Out: a printed table.

    python benchmarks/policy_latency.py [--rounds N]

Each kind of question is measured and decided with the shipped preset; the last rows are langdetect's own detector
with all of its profiles, on the same questions.
"""

import argparse
import time
from collections.abc import Callable

from policies.decide import decide
from policies.features import Question, measure
from policies.language import warm_up
from policies.rules import load_preset

PICTURE = ("picture",)
KINDS: dict[str, list[str]] = {
    "Chinese, short": ["图里有几只猫？", "左边的杯子是什么颜色的？", "请描述这张图片", "这两张图有什么不同？"],
    "Chinese, long": ["请根据图表比较各个季度的销售额，先算出每个季度的增长率，然后解释增长最快的季度的原因。" * 8],
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
    "a pasted document": ["The report says that revenue rose. " * 3_000],
}


def _time_us(work: Callable[[str], object], texts: list[str], rounds: int) -> list[float]:
    """Return sorted times of single calls, microseconds."""
    times: list[float] = []
    for _ in range(rounds):
        for text in texts:
            start = time.perf_counter_ns()
            work(text)
            times.append((time.perf_counter_ns() - start) / 1_000)
    return sorted(times)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=500, help="how often each question is asked")
    rounds = parser.parse_args().rounds
    rules = load_preset("seed")
    warm_up()
    features = {text: measure(Question(text, image_keys=PICTURE)) for texts in KINDS.values() for text in texts}
    print(f"{'microseconds per question':<40}{'p50':>9}{'p99':>9}{'max':>9}")

    def row(label: str, work: Callable[[str], object], texts: list[str], times: int) -> None:
        taken = _time_us(work, texts, times)
        print(f"{label:<40}{taken[len(taken) // 2]:>9.0f}{taken[int(len(taken) * 0.99)]:>9.0f}{taken[-1]:>9.0f}")

    for kind, texts in KINDS.items():
        row(
            f"measure + decide: {kind}",
            lambda text: decide(measure(Question(text, image_keys=PICTURE)), rules),
            texts,
            rounds if kind != "a pasted document" else max(1, rounds // 20),
        )
    row(
        "decide alone",
        lambda text: decide(features[text], rules),
        [text for texts in KINDS.values() for text in texts],
        rounds,
    )

    from langdetect import DetectorFactory, detect

    DetectorFactory.seed = 0
    detect("load the profiles")
    for kind in ("English, common words", "other Latin script", "Chinese, short"):
        row(f"langdetect.detect: {kind}", detect, KINDS[kind], max(1, rounds // 5))


if __name__ == "__main__":
    main()
