"""How far courtesy, wishes about form, client libraries' frames and pastes move routes. Out: Markdown tables.

    python -m benchmarks.policy_wrappers FILE.jsonl [--every N]

FILE holds questions (`text`, `n_images`, `language`), such as hops_dev.jsonl. Each is decided with
the shipped preset, alone and inside every wrapper of tests/policies/wrappers.yaml. Then come the two tables of everyday
requests.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import yaml

from policies.decide import decide
from policies.features import Question, measure
from policies.rules import load_preset
from policies.table import load_table, run_table

TABLES = Path(__file__).parents[1] / "tests" / "policies"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--every", type=int, default=1, help="take one question in so many")
    arguments = parser.parse_args()
    seed = load_preset("seed")
    rows = [json.loads(line) for line in arguments.file.read_text(encoding="utf-8").splitlines()][:: arguments.every]

    def route(row: dict[str, object], text: str) -> str:
        return decide(measure(Question(text, image_keys=("picture",) if row["n_images"] else ())), seed).route

    alone = [route(row, str(row["text"])) for row in rows]
    groups = [f"{row['language']} {way}" for row, way in zip(rows, alone, strict=True)]
    sizes = Counter(groups)
    shown = sorted(sizes)
    print(f"| kind | wrappers | flipped | worst wrapper | {' | '.join(f'{name} ({sizes[name]})' for name in shown)} |")
    print(f"|---|---|---|---|{'---|' * len(shown)}")
    for kind, wrappers in yaml.safe_load((TABLES / "wrappers.yaml").read_text(encoding="utf-8")).items():
        flips: Counter[str] = Counter()
        shares = []
        for wrapper in wrappers:
            before, after = wrapper.split("{}")
            flipped = 0
            for row, way, group in zip(rows, alone, groups, strict=True):
                text = str(row["text"])
                text = text.rstrip("？?。. ") if after[:1] in ("，", "（") else text
                if route(row, before + text + after) != way:
                    flips[group] += 1
                    flipped += 1
            shares.append(flipped / len(rows))
        cells = " | ".join(f"{flips[name] / sizes[name] / len(wrappers):.1%}" for name in shown)
        print(f"| {kind} | {len(wrappers)} | {sum(shares) / len(shares):.1%} | {max(shares):.1%} | {cells} |")
    print("\n| everyday requests in Chinese | rows | deep |\n|---|---|---|")
    for name in ("one_step", "multi_step", "readings", "calculations"):
        outcomes = run_table(load_table(TABLES / f"everyday_{name}.yaml"), seed)
        deep = sum(outcome.decision.route == "deep" for outcome in outcomes)
        print(f"| {name.replace('_', ' ')} | {len(outcomes)} | {deep / len(outcomes):.0%} |")


if __name__ == "__main__":
    main()
