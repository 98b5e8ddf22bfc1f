"""Tiny checkpoints of both true architectures with random weights, made on first start, read by the ordinary loaders.

In: a folder for models. Out: two checkpoint folders of under 3 MB each, marked ``random-tiny`` in ``glowl.json``.
Their answers are word salad that ends by itself; everything around the words is the real thing.

Run: ``python -m engines.pocket.random_tiny DIR``
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from engines.pocket.files import (
    GLM_TOKENS,
    GLM_VISIBLE,
    OWL2_CONTEXT_TOKENS,
    glm_config,
    save_glm_tokenizer,
    save_owl2_tokenizer,
    write_glm_preprocessor,
    write_json,
    write_owl2_settings,
)

VARIANT = "random-tiny"
_HIDDEN = 64
_IMAGE_SIDE = 112
_RUN_LENGTH = 24  # words from a random place until the answer ends

_GLM_BASE_VOCAB = 924
_GLM_VOCAB = 960
_GLM_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_OWL2_VOCAB = 1408

_TEXT = """\
What is in the picture? There is a red circle on the left and a blue square on the right.
How many people are there in the two pictures? Three people stand next to the small green car.
Which of the two images shows more objects? The second image shows more triangles than the first one.
Describe the chart. The price of apples rises from ten to twenty, then falls again.
What colour is the largest shape? The largest shape is yellow, the smallest one is black.
Compare the two posters and say which one is cheaper. The first poster is cheaper because its price is lower.
Is the dog sitting above or below the table? The dog is sleeping under the white table near the window.
Please read the number on the sign and answer with a single word. The sign says stop.
If the train leaves before noon, when does it arrive? It arrives late in the evening.
USER: Look at the image first. ASSISTANT: It looks like a street with many old houses and trees.
图片里有什么？左边有一个红色的圆形，右边有一个蓝色的正方形。
图中有几个人？三个人站在一辆绿色的小汽车旁边。
请描述这张图片。这是一张海报，上面写着苹果的价格。
哪一张图片里的物体更多？第二张图片里的三角形比第一张多。
最大的形状是什么颜色？最大的是黄色，最小的是黑色。
请比较两张海报，哪个更便宜？第一张更便宜，因为价格更低。
小狗在桌子的上面还是下面？小狗在窗户旁边的白色桌子下面睡觉。
请读出牌子上的数字，用一个词回答。牌子上写着停。
火车几点到达？如果中午以前出发，晚上到达。
先看图，再回答问题：街道上有很多老房子和树，天气很好。
"""


def ensure_random_tiny(models_dir: Path) -> dict[str, Path]:
    """Make both checkpoints unless they are there; safe when several processes start at once.

    Args:
        models_dir: made if absent; the checkpoints are its folders ``glm`` and ``owl2``.

    Returns:
        Engine name to checkpoint folder.
    """
    makers = {"glm": make_glm, "owl2": make_owl2}
    return {engine: _ensure(models_dir / engine, make) for engine, make in makers.items()}


def _ensure(folder: Path, make: Callable[[Path], None]) -> Path:
    """Make a folder whole or not at all: it is written beside its place, then moved there in one step."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        make(unfinished)
        unfinished.chmod(0o755)  # mkdtemp's folders are private; engines may run as another user
        unfinished.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster, and its folder is as good as ours
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def make_glm(folder: Path, seed: int = 0) -> None:
    """Write a tiny GLM-4.6V checkpoint: every file of the real one but the video preprocessor's.

    Args:
        folder: made if absent.
        seed: of the random weights.
    """
    import torch
    from transformers import Glm4vForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    backend = _train_byte_level_bpe()
    save_glm_tokenizer(backend, folder)
    config = _glm_config({token: backend.token_to_id(token) for token in GLM_TOKENS})
    stop_ids = config.text_config.eos_token_id
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Glm4vForConditionalGeneration(config)
        _randomize(model)
        words = [index for index in range(_GLM_BASE_VOCAB) if _is_word(backend.decode([index]))]
        _end_answers(model.get_input_embeddings().weight, model.lm_head.weight, words, stop_id=stop_ids[0], pull=1.2)
    model.generation_config.eos_token_id = stop_ids
    model.generation_config.pad_token_id = stop_ids[0]
    model.save_pretrained(folder)
    # Pixels of two frames: at most 128 rows a picture, so that 16 pictures fit and a CPU does not sweat.
    write_glm_preprocessor(folder, 14, {"shortest_edge": 12544, "longest_edge": 2 * 128 * 28 * 28})
    write_json(folder / "glowl.json", {"variant": VARIANT})


def _glm_config(ids: dict[str, int]) -> Any:
    """Describe the tiny model; ``ids`` are those of its control tokens."""
    sizes = {"hidden_size": _HIDDEN, "intermediate_size": 2 * _HIDDEN}
    return glm_config(
        ids,
        {"vocab_size": _GLM_VOCAB, **sizes, "num_hidden_layers": 2, "num_attention_heads": 2},
        {"depth": 2, **sizes, "num_heads": 2, "out_hidden_size": _HIDDEN, "image_size": 112, "patch_size": 14},
    )


def make_owl2(folder: Path, seed: int = 0) -> None:
    """Write a tiny mPLUG-Owl2 checkpoint in the layout of the published one.

    Args:
        folder: made if absent.
        seed: of the random weights.
    """
    import sentencepiece
    import torch

    from engines.owl2.model import MPLUGOwl2ForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer_model = train_sentencepiece(_TEXT.splitlines(), _OWL2_VOCAB)
    save_owl2_tokenizer(tokenizer_model, folder)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=tokenizer_model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MPLUGOwl2ForConditionalGeneration(_owl2_config())
        _randomize(model)
        words = [
            index
            for index in range(_OWL2_VOCAB)
            if not pieces.is_byte(index) and not pieces.is_control(index) and _is_word(pieces.id_to_piece(index))
        ]
        _end_answers(model.get_input_embeddings().weight, model.lm_head.weight, words, stop_id=2, pull=0.85)
    model.save_pretrained(folder)
    write_owl2_settings(folder, _IMAGE_SIDE)
    write_json(folder / "glowl.json", {"variant": VARIANT})


def _owl2_config() -> Any:
    """Describe the tiny model."""
    from engines.owl2.config import MPLUGOwl2Config

    width, patch_size = 32, 14
    return MPLUGOwl2Config(
        vocab_size=_OWL2_VOCAB,
        hidden_size=_HIDDEN,
        intermediate_size=2 * _HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=OWL2_CONTEXT_TOKENS,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=False,
        visual_config={
            "visual_model": {
                "hidden_size": width,
                "intermediate_size": 2 * width,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": _IMAGE_SIDE,
                "patch_size": patch_size,
            },
            "visual_abstractor": {
                "hidden_size": width,
                "encoder_hidden_size": width,
                "intermediate_size": 2 * width,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_learnable_queries": 16,
                "grid_size": _IMAGE_SIDE // patch_size,
            },
        },
    )


def _randomize(model: Any) -> None:
    """Give every matrix a unit gain, so that what the model sees and reads reaches its answer.

    The usual 0.02 of a fresh model is so small at this width that every prompt would give the same answer.
    """
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                continue  # norms and biases keep their neutral start
            is_table = "embed" in name or "query" in name or "token" in name
            fan_in = 1 if is_table else parameter[0].numel()
            parameter.normal_(std=fan_in**-0.5)
            if name.endswith(("self_attn.o_proj.weight", "mlp.down_proj.weight")) and ".visual." not in name:
                parameter[:2] = 0.0  # the two columns that `_end_answers` speaks through


def _end_answers(embeddings: Any, head: Any, words: Sequence[int], *, stop_id: int, pull: float) -> None:
    """Plant runs of words in the output matrix, each ending in the stop token, so that greedy answers end.

    A random model left alone falls into a loop and talks until the limit. Here the last word pulls towards the next
    one of its run; what the prompt and the pictures add decides where the first run starts and makes answers jump.
    Only a run's last word pulls towards the stop token, so that no answer is empty.

    Args:
        embeddings: (V, D) input embeddings; column 0 becomes a constant, which gives ``head`` a bias, and column 1 a
            mark of the words that end a run.
        head: (V, D) output matrix.
        words: ids that an answer may consist of.
        stop_id: id that ends an answer.
        pull: how much stronger the last word speaks than the context does; found by trying: less loops, more makes
            every answer alike.
    """
    import torch

    with torch.no_grad():
        order = [words[index] for index in torch.randperm(len(words)).tolist()]
        embeddings.mul_(pull)
        embeddings.mul_(pull)
        embeddings[:, :2] = torch.tensor([3.0, 0.0])
        head.normal_(std=0.3)
        head[:, :2] = torch.tensor([-20.0, 0.0])
        head[torch.tensor(order), 0] = 0.0
        for word, successor in pairwise(order):
            head[successor, 2:] += embeddings[word, 2:]
        run_ends = torch.tensor(order[_RUN_LENGTH - 1 :: _RUN_LENGTH])
        embeddings[run_ends, 1] = 6.0
        head[stop_id, 0] = -45.0
        head[stop_id, 1] = 160.0


def _is_word(text: str) -> bool:
    """Chinese, or letters with a space before them: other pieces would glue into unreadable strings."""
    word = text.lstrip(" \u2581")
    return word.isalpha() and (word != text or not word.isascii())


def _train_byte_level_bpe() -> Any:
    """Make the GLM side's tokenizer: byte-level BPE, then the real one's added tokens in their order."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_GLM_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_GLM_BASE_VOCAB, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(_TEXT.splitlines(keepends=True), trainer)
    if tokenizer.get_vocab_size() != _GLM_BASE_VOCAB:
        raise RuntimeError(f"the training text gives only {tokenizer.get_vocab_size()} of {_GLM_BASE_VOCAB} tokens")
    tokenizer.add_tokens(
        [AddedToken(token, special=token not in GLM_VISIBLE, normalized=False) for token in GLM_TOKENS]
    )
    return tokenizer


def train_sentencepiece(sentences: Iterable[str], vocab_size: int, *, is_exact: bool = True) -> bytes:
    """Make a tokenizer of LLaMA's kind: sentencepiece BPE with byte fallback.

    Args:
        sentences: what it is trained on.
        vocab_size: number of pieces.
        is_exact: fail if the sentences do not give so many; else take what they give.

    Returns:
        The bytes of ``tokenizer.model``.
    """
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        hard_vocab_limit=is_exact,
        byte_fallback=True,
        character_coverage=1.0,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        allow_whitespace_only_pieces=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def main(arguments: Sequence[str] | None = None) -> None:
    """Make both checkpoints in a folder and print where they are."""
    parser = argparse.ArgumentParser(prog="python -m engines.pocket.random_tiny", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="folder for models")
    for engine, folder in ensure_random_tiny(parser.parse_args(arguments).folder).items():
        print(f"{engine} {folder}")


if __name__ == "__main__":
    main()
