"""The process of a run: ``python -m engines.finetune glm --data DIR``, which is what ``glowl finetune`` runs.

In: arguments. Out: an adapter in a folder; exit status 1 after one line if it cannot be made.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from engines.base import EngineOptions
from engines.finetune.settings import PRESETS, FinetuneError, make_settings

_FULL = {"glm": "zai-org/GLM-4.6V-Flash", "owl2": "MAGAer13/mplug-owl2-llama2-7b"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Train an adapter; returns the exit status."""
    options = _parser().parse_args(arguments)

    def say(english: str, chinese: str) -> str:
        return chinese if options.lang == "zh" else english

    try:
        settings = make_settings(
            options.preset, options.config, default=_preset_here(), max_steps=options.max_steps, seed=options.seed
        )
        from engines.finetune.run import finetune

        out = options.out or Path(f"{options.engine}-adapter")
        base = _base(options.engine, options.model)
        named = base.model_name or base.model
        is_first = os.environ.get("RANK", "0") == "0"
        if is_first:
            print(
                say(f"base: {named}; adapter: {out}", f"基础模型：{named}；适配器：{out}"), file=sys.stderr, flush=True
            )
        report = finetune(options.engine, base, options.data, settings, out, is_resumed=options.resume)
    except (ValueError, OSError) as error:  # ours, an adapter's, a checkpoint's, the hub's
        why = say(str(error), getattr(error, "message_zh", str(error)))
        print(f"{say('error: ', '错误：')}{' '.join(why.split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        said = say("stopped; --resume goes on from the last checkpoint", "已停止；用 --resume 从最后一个检查点继续")
        print(said, file=sys.stderr)
        return 130
    if not is_first:
        return 0
    if report.before and report.after:
        num, before, after = report.after.num, report.before.whole, report.after.whole
        english = f"right on {num} held-out examples: {before:.3f} before, {after:.3f} with the adapter"
        print(say(english, f"{num} 个留出样本的正确率：之前 {before:.3f}，使用适配器 {after:.3f}"))
    print(f"{say('serve it: ', '启动服务：')}glowl engine {options.engine} --model {base.model} --adapter NAME={out}")
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
    parser.add_argument("--lang", choices=("en", "zh"), default="en", help="of what is said")
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
        raise FinetuneError(f"there is no checkpoint folder at {options.model}", f"{options.model} 处没有模型目录")
    return asyncio.run(fetched(options))


if __name__ == "__main__":
    sys.exit(main())
