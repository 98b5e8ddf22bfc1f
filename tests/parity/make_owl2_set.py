"""Write a set like the golden one with other sizes: ``python -m tests.parity.make_owl2_set FOLDER``.

In: a shape. Out: a folder with the files of the golden set, whose logits, answers, losses, gradients and curve come
from the plain writing in reference_owl2.py. It shows that neither the tests nor the engine know the golden set's sizes,
and checks training on a shape of its own. It is no golden set: pixels, ids and labels are the engine's own, so of those
it only shows that they are read from the right files.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from torch.nn import functional

from engines.owl2 import MPLUGOwl2Config, MPLUGOwl2Processor
from engines.owl2.prompts import IMAGE_MARKER, TEMPLATES
from engines.owl2.tokenizer import Owl2Tokenizer
from engines.owl2.training import collate, label_sample, lora_target_modules, modality_lengths, sample_lengths
from tests.engines.owl2.conftest import write_tokenizer
from tests.parity import reference_owl2 as reference
from tests.parity.test_owl2_variations import I, make_model

CONFIG: dict[str, Any] = {
    "model_type": "mplug_owl2",
    "hidden_size": 40,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500.0,
    "rope_scaling": None,
    "vocab_size": 380,
    "max_position_embeddings": 400,
    "visual_config": {
        "visual_model": {
            "hidden_size": 24,
            "intermediate_size": 30,
            "num_hidden_layers": 1,
            "num_attention_heads": 3,
            "image_size": 40,
            "patch_size": 8,
            "layer_norm_eps": 1e-5,
        },
        "visual_abstractor": {
            "hidden_size": 24,
            "encoder_hidden_size": 24,
            "intermediate_size": 20,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_learnable_queries": 7,
            "grid_size": 5,
            "layer_norm_eps": 1e-4,
        },
    },
}
PROMPTS = {  # pictures and their preparation by name of the case
    "words": ("What is in the picture?", [], "none"),
    "seen": ("<|image|>What is in the picture?", ["wide.png"], "pad"),
    "compared": ("First: <|image|>Second: <|image|>Compare both images.", ["tall.png", "wide.png"], "resize"),
}
TRAINING: list[dict[str, Any]] = [
    {"id": "a", "image": "tall.png", "conversations": [("human", "one two\n<|image|>"), ("gpt", "three four five")]},
    {"id": "b", "conversations": [("human", "six seven"), ("gpt", "eight"), ("human", "nine"), ("gpt", "ten")]},
]
NUM_NEW = 3
OPTIMISER = "AdamW lr=2e-3 betas=(0.8,0.99) eps=1e-7 weight_decay=0.01 no clipping, same batch every step"


def write_json(folder: Path, name: str, value: Any) -> None:
    (folder / name).write_text(json.dumps(value), encoding="utf-8")


def write_checkpoints(folder: Path, dtype: torch.dtype, legacy: bool) -> dict[str, torch.Tensor]:
    """Write both layouts; return the weights in float32."""
    model = make_model(MPLUGOwl2Config(**CONFIG), seed=7)
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in model.state_dict().items()}
    num_layers = CONFIG["num_hidden_layers"]
    half = torch.arange(4) / 4
    constants = {f"model.layers.{k}.self_attn.rotary_emb.inv_freq": 500.0**-half for k in range(num_layers)}
    for layout in ("one_file", "shards"):
        target = folder / layout
        target.mkdir(parents=True)
        write_json(target, "config.json", CONFIG)
        write_json(target, "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})
        size = CONFIG["visual_config"]["visual_model"]["image_size"]
        pixels = {"size": size, "crop_size": size, "resample": 3, "image_mean": [0.4] * 3, "image_std": [0.2] * 3}
        write_json(target, "preprocessor_config.json", pixels)
        write_tokenizer(target)
        write_json(target, "tokenizer_config.json", {"legacy": legacy})
        write_json(target, "special_tokens_map.json", {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
    everything = tensors | constants
    save_file(everything, folder / "one_file" / "model.safetensors", metadata={"format": "pt"})
    index = {}
    for shard in range(1, num_layers + 2):
        file = f"pytorch_model-{shard}-of-{num_layers + 1}.bin"
        mine = {n: t for n, t in everything.items() if (f".layers.{shard - 1}." in n and n.startswith("model.layers"))}
        if shard == num_layers + 1:
            mine = {n: t for n, t in everything.items() if not n.startswith("model.layers")}
        torch.save(mine, folder / "shards" / file)
        index |= dict.fromkeys(mine, file)
    write_json(folder / "shards", "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": index})
    names = [[n, list(t.shape), str(t.dtype).removeprefix("torch.")] for n, t in everything.items()]
    write_json(folder, "tensor_names.json", names)
    return {name: tensor.float() for name, tensor in tensors.items()}


def answer(weights: reference.Weights, ids: list[int], pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Compute everything that the golden set keeps about a prompt."""
    parts = CONFIG["visual_config"]
    rows, is_image = reference.insert(weights, CONFIG, ids, pixels)
    generated: list[int] = []
    steps = []
    for _ in range(NUM_NEW):
        steps.append(reference.forward(weights, CONFIG, [*ids, *generated], pixels)[-1])
        generated.append(int(steps[-1].argmax()))
        if generated[-1] == 2:
            break
    arrays = {
        "input_ids": torch.tensor([ids]),
        "modality_indicators": is_image.long()[None],
        "inputs_embeds": rows[None],
        "logits": reference.forward(weights, CONFIG, ids, pixels)[None],
        "generated_ids": torch.tensor(generated),
        "step_logits": torch.stack(steps),
    }
    if len(pixels):
        seen = [reference.see(weights, parts["visual_model"], image) for image in pixels]
        rows = torch.stack([reference.abstract(weights, parts["visual_abstractor"], one) for one in seen])
        arrays |= {"pixel_values": pixels, "vision_features": torch.stack(seen), "abstractor_features": rows}
    return arrays


def write_conversations(folder: Path, weights: reference.Weights, processor: MPLUGOwl2Processor) -> None:
    tokenizer, written = processor.tokenizer, []
    for name, (question, files, way) in PROMPTS.items():
        prompt = f"USER: {question} ASSISTANT:"
        images = [Image.open(folder / "images" / file) for file in files]
        pixels = processor.pixel_values(images, aspect_ratio=way) if files else torch.empty(0)  # type: ignore[arg-type]
        ids = tokenizer.encode_with_images(prompt)
        arrays = answer(weights, ids, pixels)
        np.savez(folder / "arrays" / f"{name}.npz", **{key: value.numpy() for key, value in arrays.items()})
        generated = arrays["generated_ids"].tolist()
        case = {"name": name, "messages": [{"role": "user", "content": question}], "prompt": prompt, "images": files}
        case |= {"preprocess": way, "input_ids": ids, "max_new_tokens": NUM_NEW, "generated_ids": generated}
        case |= {"sequence_length_after_insertion": arrays["logits"].shape[1], "stopped_by_eos": generated[-1] == 2}
        case |= {"text_comparable": False, "arrays": f"arrays/{name}.npz"}
        written.append(case)
    write_json(
        folder, "cases.json", {"image_token_index": I, "template": "mplug_owl2", "dtype": "float32", "cases": written}
    )
    rows = [
        {"prompt": case["prompt"], "input_ids": case["input_ids"], "generated_ids_alone": case["generated_ids"]}
        for case in written
    ]
    rows[1] |= {"image": "wide.png", "preprocess": "pad"}
    write_json(folder, "batch_generation.json", {"words": [rows[0], rows[0]], "seen": [rows[1]], "note": "none"})
    conversations = [case["messages"] for case in written]
    rendered = [
        {"template": template, "messages": messages, "prompt": f"{text}USER: {messages[0]['content']} ASSISTANT:"}
        for template, text in TEMPLATES.items()
        for messages in conversations
    ]
    write_json(folder, "prompts.json", rendered)
    other = Owl2Tokenizer(folder / "shards" / "tokenizer.model", legacy=not tokenizer.legacy)
    plain = [
        {
            "text": text,
            "ids": tokenizer.encode(text),
            "ids_with_the_other_legacy_value": other.encode(text),
            "decoded": tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False),
            "decoded_skip_special": tokenizer.decode(tokenizer.encode(text)),
        }
        for text in ("one", "a</s>b", "")
    ]
    with_images = [{"text": text, "ids": tokenizer.encode_with_images(text)} for text in (IMAGE_MARKER, "one")]
    special = {"legacy": tokenizer.legacy, "bos": 1, "eos": 2, "pad": 0, "unk": 0}
    write_json(folder, "tokenizer_cases.json", special | {"plain": plain, "with_images": with_images})


def write_pixels(folder: Path, processor: MPLUGOwl2Processor) -> None:
    (folder / "images").mkdir()
    (folder / "arrays").mkdir()
    for name, size in (("wide.png", (90, 31)), ("tall.png", (20, 47))):
        image = Image.new("RGB", size, (30, 90, 200))
        ImageDraw.Draw(image).ellipse((3, 3, 15, 25), (250, 200, 10))
        image.save(folder / "images" / name)
    pixels = {}
    for file in (folder / "images").iterdir():
        for way in ("pad", "resize", "none"):
            pixels[f"{file.name}:{way}"] = processor.image_processor(Image.open(file), way)  # type: ignore[arg-type]
    np.savez(folder / "arrays" / "pixel_values.npz", **pixels)
    tall, dummy = pixels["tall.png:pad"], np.zeros_like(pixels["tall.png:pad"])
    np.savez(folder / "arrays" / "train_pixel_values_pad.npz", a=tall, b=dummy)


def batch_loss(weights: reference.Weights, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Compute the mean loss over all learned tokens of a batch, sample by sample."""
    images = iter(batch.get("pixel_values", []))
    logits, targets = [], []
    for row, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"].bool(), strict=True):
        ids = row[mask].tolist()
        own = [next(images) for _ in range(ids.count(I))]
        num_rows = CONFIG["visual_config"]["visual_abstractor"]["num_learnable_queries"] + 1
        expanded = [
            label
            for token, label in zip(ids, labels[mask].tolist(), strict=True)
            for label in ([-100] * num_rows if token == I else [label])
        ]
        logits.append(reference.forward(weights, CONFIG, ids, torch.stack(own) if own else torch.empty(0))[:-1])
        targets.append(torch.tensor(expanded[1:]))
    return functional.cross_entropy(torch.cat(logits), torch.cat(targets))


def write_training(folder: Path, weights: reference.Weights, processor: MPLUGOwl2Processor) -> None:
    data = [
        {**sample, "conversations": [{"from": who, "value": text} for who, text in sample["conversations"]]}
        for sample in TRAINING
    ]
    write_json(folder, "train_data.json", data)
    tokenizer = processor.tokenizer
    preprocessed: dict[str, Any] = {
        template: [
            {"id": sample["id"], "input_ids": labelled.input_ids, "labels": labelled.labels}
            for sample in data
            for labelled in [label_sample(sample, tokenizer, template)]
        ]
        for template in TEMPLATES
    }
    lengths = {"lengths": sample_lengths(data), "modality_lengths": modality_lengths(data)}
    with np.load(folder / "arrays" / "train_pixel_values_pad.npz") as pixels:
        image = torch.from_numpy(pixels["a"])
    labelled = [label_sample(sample, tokenizer) for sample in data]
    batch = collate(labelled, [image, None], 0)
    trained = {name: tensor.clone().requires_grad_() for name, tensor in weights.items()}
    loss = batch_loss(trained, batch)
    loss.backward()
    norms = {name: tensor.grad.norm().item() if tensor.grad is not None else 0.0 for name, tensor in trained.items()}
    chosen = ["model.visual_abstractor.vit_eos", "model.layers.0.self_attn.k_proj.multiway.1.weight"]
    np.savez(folder / "arrays" / "gradients.npz", **{name: trained[name].grad.numpy() for name in chosen})  # type: ignore[union-attr]
    optimiser = torch.optim.AdamW(
        [tensor for name, tensor in trained.items() if "vision_model" not in name],
        lr=2e-3, betas=(0.8, 0.99), eps=1e-7, weight_decay=0.01,
    )  # fmt: skip
    curve = []
    for _ in range(4):
        optimiser.zero_grad()
        step_loss = batch_loss(trained, batch)
        curve.append(step_loss.item())
        step_loss.backward()
        optimiser.step()
    run = {"batch": ["a", "b"], "template": "v1", "preprocess": "pad", "optimizer": OPTIMISER}
    run |= {"losses_before_each_step": curve, "loss_in_train_mode": loss.item(), "gradients": "arrays/gradients.npz"}
    run |= {"grad_norms_step0": {name: norm for name, norm in norms.items() if "vision_model" not in name}}
    run |= {"grad_norms_vision_if_unfrozen": {name: norm for name, norm in norms.items() if "vision_model" in name}}
    run |= {"lora_target_modules": lora_target_modules(make_model(MPLUGOwl2Config(**CONFIG)))}
    # The image's sample is the first row and the longer one, so its rows decide the length after insertion
    extra = CONFIG["visual_config"]["visual_abstractor"]["num_learnable_queries"]
    marker = batch["input_ids"][0].tolist().index(I)
    length = batch["input_ids"].shape[1] + extra

    def after(key: str, fill: int, at_image: int) -> np.ndarray[Any, Any]:
        rows = np.full((2, length), fill)
        values = batch[key].numpy()
        rows[0] = np.concatenate([values[0][:marker], [at_image] * (extra + 1), values[0][marker + 1 :]])
        rows[1, : values.shape[1]] = values[1]
        return rows

    modality = np.zeros((2, length), dtype=np.int64)
    modality[0, marker : marker + extra + 1] = 1
    np.savez(
        folder / "arrays" / "batch_both.npz",
        **{key: batch[key].numpy() for key in ("input_ids", "labels")},
        attention_mask=batch["attention_mask"].bool().numpy(),
        pixel_values=torch.stack([image, torch.zeros_like(image)]).numpy(),
        modality_indicators=modality,
        labels_after=after("labels", -100, -100),
        attention_mask_after=after("attention_mask", 0, 1).astype(bool),
    )
    alone = [batch_loss(weights, collate([one], [image], 0)).item() for one in labelled]
    both = {"samples": ["a", "b"], "template": "v1", "preprocess": "pad", "loss": loss.item()}
    both |= {"padded_input_shape": list(batch["input_ids"].shape), "sequence_after": [2, length]}
    both |= {"single_sample_losses": alone, "arrays": "arrays/batch_both.npz"}
    batches = {"both": both, "a_run": run}
    write_json(
        folder,
        "train_cases.json",
        {"preprocessed": preprocessed | {"lengths_for_sampler": lengths}, "batches": batches},
    )


def write_set(folder: Path, dtype: torch.dtype = torch.bfloat16, legacy: bool = True) -> None:
    """Write the whole set into a new folder."""
    weights = write_checkpoints(folder, dtype, legacy)
    processor = MPLUGOwl2Processor.from_pretrained(folder / "one_file")
    write_pixels(folder, processor)
    with torch.no_grad():
        write_conversations(folder, weights, processor)
    write_training(folder, weights, processor)


if __name__ == "__main__":
    write_set(Path(sys.argv[1]))
