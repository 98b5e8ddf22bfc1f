"""The shape of an mPLUG-Owl2 checkpoint: what ``config.json`` says, checked.

In: the published nesting (``visual_config.visual_model`` and ``.visual_abstractor``) with its many meaningless keys and
the flat ``rope_theta`` / ``rope_scaling``. Out: three config objects the modules are built from. What this
implementation does not compute is refused here, by name, rather than computed wrongly.
"""

from __future__ import annotations

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import RopeParameters

IMAGE_TOKEN_ID = -200
"""Stands for one image in ``input_ids``; never a vocabulary item."""

IGNORE_LABEL = -100
"""Label of positions that do not count in the loss."""

# Keys that the constructor of a sub-config must see although they are no fields of ours.
_LOADER_KEYS = frozenset({"attn_implementation", "torch_dtype", "name_or_path"})


def _require(owner: str, values: dict[str, Any], name: str, supported: object) -> None:
    """Refuse a config key whose value changes the computation in a way this implementation has not."""
    value = values.pop(name, supported)
    if value != supported:
        raise ValueError(f"{owner}: {name}={value!r} is not supported, only {supported!r}")


def _make_parts(config: PreTrainedConfig, classes: dict[str, Any]) -> None:
    """Turn sub-configs that are JSON objects, or absent, into config objects.

    Newer transformers does so by itself from ``sub_configs_defaults``; 5.19, which vLLM 0.32 wants, leaves it to us.
    """
    for key, class_ in classes.items():
        part = getattr(config, key)
        if not isinstance(part, PreTrainedConfig):
            setattr(config, key, class_(**part) if part else class_())


@strict
class MPLUGOwl2VisionConfig(PreTrainedConfig):
    """The vision tower: a CLIP-like transformer over ``(image_size / patch_size)^2`` patches and one CLS token."""

    model_type = "mplug_owl_vision_model"
    base_config_key = "visual_model"

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    num_channels: int = 3
    image_size: int = 448
    patch_size: int = 14
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-6
    attention_dropout: float = 0.0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        """Check the shape and drop the generic keys that published files carry."""
        _require("visual_model", kwargs, "use_cls_token", True)
        _require("visual_model", kwargs, "use_post_layernorm", True)
        if self.image_size % self.patch_size:
            raise ValueError(
                f"visual_model: image_size {self.image_size} is no multiple of patch_size {self.patch_size}"
            )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"visual_model: hidden_size {self.hidden_size} is no multiple of num_attention_heads "
                f"{self.num_attention_heads}"
            )
        super().__post_init__(**{key: value for key, value in kwargs.items() if key in _LOADER_KEYS})

    @property
    def grid_size(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size


@strict
class MPLUGOwl2AbstractorConfig(PreTrainedConfig):
    """The visual abstractor: ``num_learnable_queries`` queries that read the vision tower's output."""

    model_type = "mplug_owl_visual_abstract"
    base_config_key = "visual_abstractor"

    hidden_size: int = 1024
    encoder_hidden_size: int = 1024
    intermediate_size: int = 2816
    num_hidden_layers: int = 6
    num_attention_heads: int = 16
    num_learnable_queries: int = 64
    grid_size: int = 32
    layer_norm_eps: float = 1e-6
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        """Check the shape and drop the generic keys that published files carry."""
        _require("visual_abstractor", kwargs, "use_cls_token", True)
        _require("visual_abstractor", kwargs, "add_v2t_pos_emb", False)
        if self.hidden_size != self.encoder_hidden_size:
            raise ValueError(
                f"visual_abstractor: hidden_size {self.hidden_size} and encoder_hidden_size "
                f"{self.encoder_hidden_size} must be equal"
            )
        if self.hidden_size % self.num_attention_heads or self.hidden_size % 4:
            raise ValueError(
                f"visual_abstractor: hidden_size {self.hidden_size} must be a multiple of 4 (its position tables are "
                f"sines and cosines of two axes) and of num_attention_heads {self.num_attention_heads}"
            )
        super().__post_init__(**{key: value for key, value in kwargs.items() if key in _LOADER_KEYS})


@strict
class MPLUGOwl2VisualConfig(PreTrainedConfig):
    """The published nesting: both visual parts under one key."""

    model_type = "mplug_owl2_visual"
    base_config_key = "visual_config"
    sub_configs_defaults: ClassVar[dict[str, Any]] = {
        "visual_model": MPLUGOwl2VisionConfig,
        "visual_abstractor": MPLUGOwl2AbstractorConfig,
    }

    visual_model: dict[str, Any] | PreTrainedConfig | None = None
    visual_abstractor: dict[str, Any] | PreTrainedConfig | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Make both parts."""
        _make_parts(self, {"visual_model": MPLUGOwl2VisionConfig, "visual_abstractor": MPLUGOwl2AbstractorConfig})
        super().__post_init__(**kwargs)


@strict
class MPLUGOwl2Config(PreTrainedConfig):
    """An mPLUG-Owl2 model; the defaults are those of ``MAGAer13/mplug-owl2-llama2-7b``.

    Raises:
        ValueError: if the shape is inconsistent, or asks for something the model family never had: grouped-query
            attention, attention biases, RoPE scaling other than linear.
    """

    model_type = "mplug_owl2"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012 - the base class's convention
    sub_configs_defaults: ClassVar[dict[str, Any]] = {"visual_config": MPLUGOwl2VisualConfig}

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    tie_word_embeddings: bool = False
    rope_parameters: RopeParameters | dict[str, Any] | None = None
    image_aspect_ratio: str | None = None
    visual_config: dict[str, Any] | PreTrainedConfig | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Check the shape; see the class for what is refused."""
        _make_parts(self, {"visual_config": MPLUGOwl2VisualConfig})
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.num_key_value_heads != self.num_attention_heads:
            # The reference cannot run such a config either: its dispatch allocates outputs like inputs.
            raise ValueError(
                f"mplug_owl2: grouped-query attention is not supported: num_key_value_heads "
                f"{self.num_key_value_heads} must equal num_attention_heads {self.num_attention_heads}"
            )
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"mplug_owl2: hidden_size {self.hidden_size} must be an even multiple of num_attention_heads "
                f"{self.num_attention_heads}"
            )
        _require("mplug_owl2", kwargs, "attention_bias", False)
        super().__post_init__(**kwargs)
        if (rope_type := self.rope["rope_type"]) not in {"default", "linear"}:
            raise ValueError(f"mplug_owl2: rope_type {rope_type!r} is not supported, only 'default' and 'linear'")
        if self.vision.hidden_size != self.abstractor.encoder_hidden_size:
            raise ValueError(
                f"mplug_owl2: the vision tower's hidden_size {self.vision.hidden_size} must equal the abstractor's "
                f"encoder_hidden_size {self.abstractor.encoder_hidden_size}"
            )
        if self.vision.grid_size != self.abstractor.grid_size:
            raise ValueError(
                f"mplug_owl2: the vision tower makes a {self.vision.grid_size}x{self.vision.grid_size} grid of patches "
                f"but the abstractor's grid_size is {self.abstractor.grid_size}"
            )

    @property
    def vision(self) -> MPLUGOwl2VisionConfig:
        """The vision tower's part."""
        return self.visual_config.visual_model  # type: ignore[union-attr]

    @property
    def abstractor(self) -> MPLUGOwl2AbstractorConfig:
        """The visual abstractor's part."""
        return self.visual_config.visual_abstractor  # type: ignore[union-attr]

    @property
    def rope(self) -> dict[str, Any]:
        """The parameters of rotary positions, which the base class fills in."""
        return {**(self.rope_parameters or {})}

    @property
    def head_dim(self) -> int:
        """Width of one attention head of the decoder."""
        return self.hidden_size // self.num_attention_heads

    @property
    def num_image_rows(self) -> int:
        """Positions one image takes in the sequence: the queries and the end-of-image row."""
        return self.abstractor.num_learnable_queries + 1
