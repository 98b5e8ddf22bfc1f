"""The whole model: images are put into the text, the decoder runs, logits come out.

In: token ids in which -200 stands for an image, and the pixels of those images in order. Out: logits over the sequence
after insertion. A transformers `PreTrainedModel` with `GenerationMixin`, so that ``generate``, PEFT and the ``Auto``
classes work on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn
from transformers import PreTrainedModel, initialization
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin, LogitsProcessorList
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils import ModelOutput

from engines.owl2.abstractor import VisualAbstractor
from engines.owl2.checks import IGNORED_TENSORS, check_loading_info, check_source
from engines.owl2.config import IGNORE_LABEL, IMAGE_TOKEN_ID, MPLUGOwl2Config
from engines.owl2.insertion import Insertion, MarkerFreeLogitsProcessor, PaddingSide, align_right, plan_insertion
from engines.owl2.language import DecoderLayer, KeyValueStore, ModalityRouting, MPLUGOwl2RMSNorm, rotary_tables
from engines.owl2.vision import VisionEmbeddings, VisionModel


@dataclass
class MPLUGOwl2Output(ModelOutput):
    """What a forward returns; L is the length after images were put in.

    Attributes:
        loss: mean over labelled positions, shifted by one; None without labels.
        logits: (B, L or logits_to_keep, V).
        past_key_values: the cache, if it was used.
        hidden_states: the input of every layer, then the final normed state, each (B, L, H), if asked for.
        attention_mask: (B, L), the mask after insertion; None if there was no padding. Generation goes on from it.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attention_mask: Tensor | None = None


class MPLUGOwl2PreTrainedModel(PreTrainedModel):
    """What both model classes share: their place in transformers, initial weights, and strict loading."""

    config: MPLUGOwl2Config
    config_class = MPLUGOwl2Config
    base_model_prefix = "model"
    input_modalities = ["image", "text"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _no_split_modules = ["DecoderLayer", "VisionLayer", "VisualAbstractor"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _keys_to_ignore_on_load_unexpected = list(IGNORED_TENSORS)  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, VisionEmbeddings):
            initialization.normal_(module.cls_token, mean=0.0, std=std)
            initialization.normal_(module.position_embedding, mean=0.0, std=std)
        elif isinstance(module, VisualAbstractor):
            initialization.normal_(module.query_embeds, mean=0.0, std=std)
            initialization.normal_(module.vit_eos, mean=0.0, std=std)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load as transformers does, but refuse a checkpoint that does not fit exactly.

        Raises:
            CheckpointError: naming the tensors that are missing, of a wrong shape or not part of the model.
        """
        if cls is not MPLUGOwl2Model:  # whose names lack the prefix that the files' have
            check_source(pretrained_model_name_or_path, kwargs, expected_shapes)
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs["ignore_mismatched_sizes"] = True  # so that they are reported by name below
        kwargs["output_loading_info"] = True
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model, info = loaded
        check_loading_info(str(pretrained_model_name_or_path), info)
        return (model, info) if wants_info else model


class MPLUGOwl2Model(MPLUGOwl2PreTrainedModel):
    """Embeddings, vision tower, abstractor and decoder: everything but the head over the vocabulary."""

    def __init__(self, config: MPLUGOwl2Config) -> None:
        super().__init__(config)
        for part in (config.vision, config.abstractor):
            # A config made by hand names no attention; transformers then chooses one for the outermost part only.
            part._attn_implementation = part._attn_implementation or config._attn_implementation
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.vision_model = VisionModel(config.vision)
        self.visual_abstractor = VisualAbstractor(config.abstractor, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = MPLUGOwl2RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the table of token embeddings."""
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:  # type: ignore[override]
        """Replace the table of token embeddings."""
        self.embed_tokens = value

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """Turn images into rows of the sequence.

        Args:
            pixel_values: (N, 3, S, S), normalised.

        Returns:
            (N, Q + 1, H).
        """
        return self.visual_abstractor(self.vision_model(pixel_values))

    def embed(self, insertion: Insertion, pixel_values: Tensor | None) -> Tensor:
        """Look up the text rows and put the images' rows between them.

        Args:
            insertion: from `plan_insertion`.
            pixel_values: (N, 3, S, S), one per marker, in the order of the markers over the whole batch.

        Returns:
            (B, L, H); added padding is zero.

        Raises:
            ValueError: if there are not exactly as many images as markers.
        """
        num_images = 0 if pixel_values is None else pixel_values.shape[0]
        num_markers = int(insertion.modality_indicators.sum()) // self.config.num_image_rows
        if num_images != num_markers:
            raise ValueError(f"{num_markers} image markers in input_ids but {num_images} images")
        inputs_embeds = self.embed_tokens(insertion.token_ids)
        if insertion.is_added_padding is not None:
            inputs_embeds = inputs_embeds.masked_fill(insertion.is_added_padding[..., None], 0.0)
        if pixel_values is not None and num_images:
            features = self.encode_images(pixel_values).to(inputs_embeds.dtype)
            is_image = insertion.modality_indicators[..., None].bool()
            inputs_embeds = inputs_embeds.masked_scatter(is_image, features)
        return inputs_embeds

    def forward(
        self,
        inputs_embeds: Tensor,
        modality_indicators: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> BaseModelOutputWithPast:
        """Run the decoder over rows that are already embedded.

        Args:
            inputs_embeds: (B, S, H), from `embed` or from the token embeddings.
            modality_indicators: (B, S), 1 on image rows; None: all rows are text.
            attention_mask: (B, past + S), 0 on padding; None: no padding.
            position_ids: (B or 1, S); by default real rows count from 0, whatever padding is around them.
            past_key_values: cache of the rows before.
            use_cache: make or extend a cache; by default as the config says.
            output_hidden_states: also return what went into every layer.

        Returns:
            Final hidden states (B, S, H), the cache and, if asked for, the inner states.
        """
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        causal_mask: Any = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        if position_ids is None:
            position_ids = self._count_positions(inputs_embeds, attention_mask, past_key_values)
        rotary = rotary_tables(self.config, position_ids)
        routing = None if modality_indicators is None else ModalityRouting.from_indicators(modality_indicators)
        layer_inputs: list[Tensor] | None = [] if output_hidden_states else None
        hidden_states = self.run_layers(inputs_embeds, routing, causal_mask, rotary, past_key_values, layer_inputs)
        return BaseModelOutputWithPast(
            last_hidden_state=hidden_states,
            past_key_values=past_key_values if use_cache else None,
            hidden_states=None if layer_inputs is None else (*layer_inputs, hidden_states),
        )

    def run_layers(
        self,
        hidden_states: Tensor,
        routing: ModalityRouting | None,
        attention_mask: Tensor | None,
        rotary: tuple[Tensor, Tensor],
        cache: KeyValueStore | None,
        layer_inputs: list[Tensor] | None = None,
    ) -> Tensor:
        """Run the decoder's layers and the final norm, with everything prepared that they share.

        Args:
            hidden_states: (B, S, H).
            routing: which rows are image rows; None: all are text.
            attention_mask: (B or 1, 1, S, past + S), added to the scores; None: nothing is hidden but, where S > 1 and
                there is no past, what comes later.
            rotary: from `rotary_tables`.
            cache: takes each layer's keys and values and gives back all of them.
            layer_inputs: filled with the input of every layer.

        Returns:
            (B, S, H).
        """
        for layer in self.layers:
            if layer_inputs is not None:
                layer_inputs.append(hidden_states)
            # The cache goes by keyword: under gradient checkpointing the layer leaves it out, by name.
            hidden_states = layer(hidden_states, routing, attention_mask, rotary, past_key_values=cache)
        return self.norm(hidden_states)

    @staticmethod
    def _count_positions(inputs_embeds: Tensor, attention_mask: Tensor | None, past: Cache | None) -> Tensor:
        num_rows = inputs_embeds.shape[1]
        if attention_mask is not None and attention_mask.dim() == 2:
            return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -num_rows:]
        start = 0 if past is None else past.get_seq_length()
        return torch.arange(start, start + num_rows, device=inputs_embeds.device)[None]


class MPLUGOwl2ForConditionalGeneration(MPLUGOwl2PreTrainedModel, GenerationMixin):
    """mPLUG-Owl2 with its head over the vocabulary.

    Source: mPLUG-Owl2, arXiv:2311.04257; X-PLUG/mPLUG-Owl@0f3068f modeling_mplug_owl2.py.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: MPLUGOwl2Config) -> None:
        super().__init__(config)
        self.model = MPLUGOwl2Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the table of token embeddings."""
        return self.model.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:  # type: ignore[override]
        """Replace the table of token embeddings."""
        self.model.embed_tokens = value

    def get_output_embeddings(self) -> nn.Linear:
        """Return the head over the vocabulary."""
        return self.lm_head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Replace the head over the vocabulary."""
        self.lm_head = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        modality_indicators: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int = 0,
        padding_side: PaddingSide = "right",
        **_: Any,
    ) -> MPLUGOwl2Output:
        """Predict the token after each row.

        Args:
            input_ids: (B, S), -200 for an image.
            pixel_values: (N, 3, S, S), one per -200, in the order of the markers over the whole batch.
            attention_mask: (B, past + S), 0 on padding, which may be on either side.
            position_ids: (B or 1, L), of the rows after insertion; by default padding does not count.
            past_key_values: cache of the rows before.
            inputs_embeds: (B, L, H), instead of input_ids, with images already in place.
            modality_indicators: (B, L), 1 on image rows; only beside inputs_embeds. None: all rows are text.
            labels: (B, S), -100 where nothing is learned; expanded like input_ids.
            use_cache: make or extend a cache; by default as the config says.
            output_hidden_states: also return what went into every layer.
            logits_to_keep: compute logits of only so many last rows; 0 means all.
            padding_side: where rows that are shorter after insertion are padded.

        Raises:
            ValueError: if markers and images do not match, or not exactly one of input_ids and inputs_embeds is given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if input_ids is not None:
            if modality_indicators is not None:
                raise ValueError("modality_indicators follow from input_ids; give them only beside inputs_embeds")
            if pixel_values is None:
                if bool((input_ids == IMAGE_TOKEN_ID).any()):
                    raise ValueError("input_ids holds image markers but there are no images")
                inputs_embeds = self.model.embed_tokens(input_ids)
            else:
                insertion = plan_insertion(
                    input_ids, self.config.num_image_rows, attention_mask, labels, padding_side=padding_side
                )
                inputs_embeds = self.model.embed(insertion, pixel_values)
                modality_indicators = insertion.modality_indicators
                attention_mask, labels = insertion.attention_mask, insertion.labels

        outputs = self.model(
            inputs_embeds,
            modality_indicators=modality_indicators,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
        )
        logits = self.lm_head(outputs.last_hidden_state[:, -logits_to_keep:])  # -0 keeps all
        return MPLUGOwl2Output(
            loss=None if labels is None else _next_token_loss(logits, labels),
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attention_mask=attention_mask,
        )

    # transformers types `self` of its hooks as another class, and ids as a tensor of one dtype.
    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, **kwargs: Any
    ) -> dict[str, Any]:
        """Choose the inputs of one generation step; images go in with the prompt only.

        ``generate`` counts positions before images are put in, so they are dropped and counted again by `forward`.
        It also reads the last column, so prompts that were padded on the right are moved there.
        """
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, **kwargs)  # type: ignore[misc, arg-type]
        inputs.pop("position_ids", None)
        inputs["padding_side"] = "left"
        ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
        if ids is not None and ids.shape[1] > 1 and mask is not None and mask.dim() == 2:
            inputs["input_ids"], inputs["attention_mask"] = align_right(ids, mask)
        return inputs

    def _get_logits_processor(self, *args: Any, **kwargs: Any) -> LogitsProcessorList:
        # Every prompt contains a BOS and no answer should, so an extra one changes nothing.
        stand_in = self.config.bos_token_id or 0
        prompt = kwargs.get("encoder_input_ids")
        if prompt is not None and not prompt.is_floating_point():
            kwargs["encoder_input_ids"] = prompt.masked_fill(prompt == IMAGE_TOKEN_ID, stand_in)
        processors = super()._get_logits_processor(*args, **kwargs)  # type: ignore[misc]
        return LogitsProcessorList([MarkerFreeLogitsProcessor(processors, stand_in)] if processors else [])

    def _update_model_kwargs_for_generation(  # type: ignore[override]
        self, outputs: ModelOutput, model_kwargs: dict[str, Any], **kwargs: Any
    ) -> dict[str, Any]:
        # With a cache the following steps see the rows after insertion; without one they start from input_ids again.
        if model_kwargs.get("use_cache", True) and outputs.get("past_key_values") is not None:
            model_kwargs["attention_mask"] = outputs.get("attention_mask")
        return super()._update_model_kwargs_for_generation(outputs, model_kwargs, **kwargs)

    def _expand_inputs_for_generation(  # type: ignore[override]
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor | None, dict[str, Any]]:
        pixel_values = kwargs.pop("pixel_values", None)
        if expand_size > 1 and pixel_values is not None and input_ids is not None:
            # Repeating image by image, as transformers would, mixes up the images of a sample that has several.
            per_sample = pixel_values.split((input_ids == IMAGE_TOKEN_ID).sum(dim=1).tolist())
            pixel_values = torch.cat([images for images in per_sample for _ in range(expand_size)])
        expand: Any = super()._expand_inputs_for_generation  # type: ignore[misc]
        input_ids, kwargs = expand(expand_size, is_encoder_decoder, input_ids, **kwargs)
        if pixel_values is not None:
            kwargs["pixel_values"] = pixel_values
        return input_ids, kwargs


def _next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over labelled rows; (B, L, V) logits and (B, L) labels, shifted by one here."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORE_LABEL)


def expected_shapes(config: MPLUGOwl2Config) -> dict[str, tuple[int, ...]]:
    """List the model's tensors; on the meta device the model takes no memory and no initial values."""
    with torch.device("meta"):
        model = MPLUGOwl2ForConditionalGeneration(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
