"""What a run may be told, and what it reads: without a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from engines.finetune.data import read_dataset
from engines.finetune.settings import PRESETS, FinetuneError, make_settings


def test_a_file_counts_over_the_preset_and_what_is_given_over_both(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('preset = "cpu"\nlearning_rate = 1\nbatch_size = 2\nseed = 4\n')

    settings = make_settings(None, file, default="one-gpu", seed=7, max_steps=None)

    assert (settings.device, settings.learning_rate, settings.batch_size, settings.seed) == ("cpu", 1.0, 2, 7)
    assert make_settings("small-card", file).quantization == "int8"
    assert make_settings(None, default="cpu").device == "cpu"
    assert all(make_settings(preset).tuner == "lora" for preset in PRESETS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('tuner = "prompt-tuning"', "neither our engines nor vLLM serve trained prompts"),
        ('tuner = "dora"', "there is: lora"),
        ("rnak = 8", "there is no setting 'rnak'; there are: preset, tuner, rank"),
        ('rank = "8"', "rank must be of the kind int"),
        ("rank = 0", "rank must be above 0"),
        ("warmup = 1.0", "warmup is a share"),
        ('preset = "tpu"', "there are: small-card, one-gpu, cpu"),
        ('quantization = "int4"', "none or int8"),
        ("rank = ", "is no TOML"),
        ("preset = 3", "there are: small-card, one-gpu, cpu"),
        ("epochs = nan", "epochs must be above 0, not nan"),
        ("learning_rate = inf", "learning_rate must be above 0, not inf"),
        ("max_steps = -1", "max_steps must be 0 or more"),
        ("heldout = -1", "heldout must be 0 or more"),
        ('device = "gpu"', "device must be auto, cpu, cuda, cuda:NUMBER or mps"),
    ],
)
def test_what_cannot_be_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)

    with pytest.raises(FinetuneError, match=said):
        make_settings(None, file)


def turn(who: str, value: str) -> dict[str, str]:
    return {"from": who, "value": value}


def test_llava_lists_are_read_with_their_pictures_in_place(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4), "red" if name == "a.png" else "blue").save(tmp_path / name)
    samples = [
        {"id": 7, "image": "a.png", "conversations": [turn("human", "<image>\nWhat?"), turn("gpt", "Red.")]},
        {
            "image": ["a.png", "b.png"],
            "conversations": [turn("human", "First <image> then <image> ?"), turn("gpt", "Yes")],
        },
        {"image": "b.png", "conversations": [turn("human", "No marker"), turn("gpt", "Blue.")]},
    ]
    (tmp_path / "train.json").write_text(json.dumps(samples))
    (tmp_path / "heldout.json").write_text(json.dumps(samples[:1]))

    data = read_dataset(tmp_path)

    shown = [[part.picture or part.text for part in each.turns[0].parts] for each in data.train]
    assert shown == [["a.png", "What?"], ["First", "a.png", "then", "b.png", "?"], ["b.png", "No marker"]]
    assert ([each.id for each in data.train], data.num_shared) == (["7", "2", "3"], 1)
    # and whatever changes, the hash does
    Image.new("RGB", (4, 4), "green").save(tmp_path / "a.png")
    assert read_dataset(tmp_path).digest != data.digest


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        ({"conversations": [turn("human", "<image> What?"), turn("gpt", "Red.")]}, "more markers than pictures"),
        ({"image": "gone.png", "conversations": [turn("human", "<image> a"), turn("gpt", "b")]}, "no picture gone.png"),
        ({"conversations": [turn("human", "What?")]}, "roles"),
        ({"talk": []}, "conversations"),
    ],
)
def test_a_sample_that_cannot_be_used_is_named(tmp_path: Path, sample: dict[str, object], said: str) -> None:
    (tmp_path / "train.json").write_text(json.dumps([sample]))

    with pytest.raises(FinetuneError, match=f"train.json, sample 1: .*{said}"):
        read_dataset(tmp_path)


def test_a_folder_without_a_data_set_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(FinetuneError, match=r"neither train\.jsonl nor train\.json"):
        read_dataset(tmp_path)
