"""mPLUG-Owl2: our own implementation as a transformers model, and the engine that serves it.

Importing this package registers ``mplug_owl2`` with transformers' AutoConfig, AutoProcessor, AutoModelForCausalLM and
AutoModelForImageTextToText.

A checkpoint folder needs:

* ``config.json`` and the weights: ``model.safetensors``, or ``pytorch_model-K-of-N.bin`` shards with their index, or
  safetensors shards with theirs. ``MPLUGOwl2ForConditionalGeneration(config).save_pretrained(folder)`` writes both.
* ``tokenizer.model`` (sentencepiece; ids 0, 1, 2 are ``<unk>``, ``<s>``, ``</s>``) and ``tokenizer_config.json``
  (only ``legacy`` is read; without it, or without the file, the tokenizer is legacy, as in the reference).
* ``preprocessor_config.json``: ``size`` and ``crop_size`` equal to the vision tower's ``image_size``, ``image_mean``,
  ``image_std``, ``resample`` 3. ``generation_config.json`` with ``eos_token_id`` is optional; so is
  ``special_tokens_map.json``, which other loaders of the folder want.
* ``glowl.json`` with ``{"variant": "random-tiny"}`` or another variant, unless it is the real model.
"""

from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

from engines.owl2.config import MPLUGOwl2Config
from engines.owl2.model import MPLUGOwl2ForConditionalGeneration
from engines.owl2.processor import MPLUGOwl2Processor

AutoConfig.register(MPLUGOwl2Config.model_type, MPLUGOwl2Config, exist_ok=True)
AutoProcessor.register(MPLUGOwl2Config, MPLUGOwl2Processor, exist_ok=True)
AutoModelForCausalLM.register(MPLUGOwl2Config, MPLUGOwl2ForConditionalGeneration, exist_ok=True)
AutoModelForImageTextToText.register(MPLUGOwl2Config, MPLUGOwl2ForConditionalGeneration, exist_ok=True)

__all__ = ["MPLUGOwl2Config", "MPLUGOwl2ForConditionalGeneration", "MPLUGOwl2Processor"]
