"""The process of a run: ``python -m engines.finetune glm --data DIR``, which is what ``glowl finetune`` runs.

In: arguments. Out: an adapter in a folder; exit status 1 after one line if it cannot be made.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from engines.base import EngineOptions
from engines.finetune.settings import PRESETS, FinetuneError, make_settings

_FULL = {"glm": "zai-org/GLM-4.6V-Flash", "owl2": "MAGAer13/mplug-owl2-llama2-7b"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Train an adapter; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        preset = options.preset or _preset_here()
        settings = make_settings(preset, options.config, max_steps=options.max_steps, seed=options.seed)
        from engines.finetune.run import finetune

        out = options.out or Path(f"{options.engine}-adapter")
        base = _base(options.engine, options.model)
        print(f"base: {base.model_name or base.model}; adapter: {out}", file=sys.stderr, flush=True)
        report = finetune(options.engine, base, options.data, settings, out, is_resumed=options.resume)
    except (ValueError, OSError) as error:  # ours, an adapter's, a checkpoint's, the hub's
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; --resume goes on from the last checkpoint", file=sys.stderr)
        return 130
    if report.before and report.after:
        print(f"right on {report.after.num} held-out examples: {report.before.whole:.3f} before, ", end="")
        print(f"{report.after.whole:.3f} with the adapter")
    print(f"serve it: glowl engine {options.engine} --model {base.model} --adapter NAME={out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="glowl finetune", description="Train a LoRA adapter on a data set.")
    parser.add_argument("engine", choices=("glm", "owl2"))
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="holds train.jsonl and heldout.jsonl")
    parser.add_argument("--model", default="pocket", help="pocket, full, a checkpoint folder or a hub id")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings, as TOML")
    parser.add_argument("--preset", choices=tuple(PRESETS), help="by default what fits this machine")
    parser.add_argument("--out", type=Path, metavar="DIR", help="for the adapter")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--seed", type=int)
    return parser


def _preset_here() -> str:
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return "one-gpu" if torch.cuda.get_device_properties(0).total_memory >= 24e9 else "small-card"


def _base(engine: str, model: str) -> EngineOptions:
    if model == "pocket":
        return EngineOptions(str(Path(__file__).parents[1] / "pocket" / "weights" / engine), model_name="")
    from engines.http.loading import fetched

    options = EngineOptions(_FULL[engine] if model == "full" else model)
    if not Path(options.model).expanduser().is_dir() and "/" not in options.model:
        raise FinetuneError(f"there is no checkpoint folder at {options.model}")
    return asyncio.run(fetched(options))


if __name__ == "__main__":
    sys.exit(main())
