"""The whole model as vLLM holds it: our vision tower and abstractor, the decoder of `language.py`, the head.

In: pixels of pictures, then rows of ids with the pictures' features put in. Out: features, hidden states, logits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.weight_utils import default_weight_loader
from vllm.model_executor.models.interfaces import SupportsMultiModal
from vllm.model_executor.models.utils import maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.sequence import IntermediateTensors

from engines.owl2.abstractor import VisualAbstractor
from engines.owl2.config import MPLUGOwl2Config
from engines.owl2.vision import VisionModel
from engines.owl2_vllm.language import Owl2Decoder
from engines.owl2_vllm.processor import Owl2DummyInputs, Owl2Processing, Owl2ProcessingInfo
from engines.owl2_vllm.weights import GATE_UP_PARTS, QKV_PARTS, target_of

_TOWER_ATTENTION = "sdpa"


@MULTIMODAL_REGISTRY.register_processor(Owl2Processing, info=Owl2ProcessingInfo, dummy_inputs=Owl2DummyInputs)
class Owl2ForVllm(nn.Module, SupportsMultiModal):
    """mPLUG-Owl2 with its head over the vocabulary.

    Pictures' rows carry an id beyond the vocabulary, so the decoder wants ids beside embeddings.

    Args:
        vllm_config: of the process.
        prefix: name of the module, empty for the whole model.
    """

    requires_raw_input_tokens: ClassVar[bool] = True
    packed_modules_mapping: ClassVar[dict[str, list[str]]] = {
        "qkv_proj": list(QKV_PARTS),
        "gate_up_proj": list(GATE_UP_PARTS),
    }

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config: MPLUGOwl2Config = vllm_config.model_config.hf_config
        for part in (config.vision, config.abstractor):
            part._attn_implementation = _TOWER_ATTENTION
        self.config = config
        # Small beside the decoder: each rank of a tensor-parallel group holds them whole.
        self.vision_model = VisionModel(config.vision)
        self.visual_abstractor = VisualAbstractor(config.abstractor, config.hidden_size)
        self.language_model = Owl2Decoder(vllm_config=vllm_config, prefix=maybe_prefix(prefix, "language_model"))
        self.lm_head = ParallelLMHead(
            config.vocab_size,
            config.hidden_size,
            quant_config=vllm_config.quant_config,
            prefix=maybe_prefix(prefix, "lm_head"),
        )
        if config.tie_word_embeddings:
            self.lm_head = self.lm_head.tie_weights(self.language_model.embed_tokens)
        self.logits_processor = LogitsProcessor(config.vocab_size)

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """Return what stands for a picture in a prompt's text: it never does, prompts come as ids."""
        raise ValueError("mplug_owl2 on vLLM takes prompts as token ids; ask our own server for chat completions")

    def get_language_model(self) -> nn.Module:
        """Return the decoder."""
        return self.language_model

    def embed_multimodal(self, *, pixel_values: Tensor) -> Tensor:
        """Turn pictures, (N, 3, S, S), into rows of the sequence, (N, Q + 1, H)."""
        return self.visual_abstractor(self.vision_model(pixel_values))

    def embed_input_ids(
        self,
        input_ids: Tensor,
        multimodal_embeddings: list[Tensor] | tuple[Tensor, ...] | Tensor | None = None,
        *,
        is_multimodal: Tensor | None = None,
    ) -> Tensor:
        """Look up rows of text and put rows of pictures between them.

        Args:
            input_ids: (R,), the id beyond the vocabulary on rows of pictures.
            multimodal_embeddings: what of the pictures' features belongs to this step, in order.
            is_multimodal: (R,), where they go.

        Returns:
            (R, H).
        """
        embeddings = self.language_model.embed_input_ids(input_ids)
        if multimodal_embeddings is None or len(multimodal_embeddings) == 0:
            return embeddings
        if is_multimodal is None:
            raise ValueError("rows of pictures without their places")
        features = torch.cat([rows.to(embeddings.dtype) for rows in multimodal_embeddings])
        places = is_multimodal.to(embeddings.device, non_blocking=True).unsqueeze(-1)
        return embeddings.masked_scatter(places, features)

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
        **_: object,
    ) -> Tensor:
        """Run the decoder; (R,), (R,) and (R, H) to (R, H)."""
        if inputs_embeds is None:
            inputs_embeds = self.embed_input_ids(input_ids)
        return self.language_model(input_ids, positions, inputs_embeds)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """(R, H) to (R, V)."""
        return self.logits_processor(self.lm_head, hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Take the tensors of a checkpoint.

        Returns:
            Names of the parameters that have their values now; vLLM refuses a checkpoint that leaves one out.

        Raises:
            ValueError: for a tensor that is no part of the model.
        """
        parameters = dict(self.named_parameters())
        loaded: set[str] = set()
        for name, tensor in weights:
            target = target_of(name)
            if target is None or (self.config.tie_word_embeddings and target.parameter == "lm_head.weight"):
                continue
            if (parameter := parameters.get(target.parameter)) is None:
                raise ValueError(f"{name} is no part of an mPLUG-Owl2 model")
            load = getattr(parameter, "weight_loader", default_weight_loader)
            if target.part is None:
                load(parameter, tensor)
            else:
                load(parameter, tensor, target.part)
            loaded.add(target.parameter)
        return loaded
