"""How a model is named, and where its hub and its downloads are.

In: ``[modelscope:]ORG/NAME[@REVISION]``, the environment. Out: a `ModelName`, and a `Place` with addresses and folders.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, get_args

Hub = Literal["huggingface", "modelscope"]
HUBS: Final[tuple[Hub, ...]] = get_args(Hub)

_NAME = re.compile(r"(?:(?P<hub>[a-z]+):)?(?P<repo>[\w-][\w.-]*/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_DEFAULT_REVISION: Final[dict[Hub, str]] = {"huggingface": "main", "modelscope": "master"}
# The first that is set counts.
_OFFLINE: Final = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_TRUE = frozenset({"1", "on", "yes", "true"})


@dataclass(frozen=True, slots=True)
class ModelName:
    """A model on a hub.

    Attributes:
        repo: ``ORG/NAME``.
        hub: which hub.
        revision: a branch, tag or commit; empty for the hub's default branch.
    """

    repo: str
    hub: Hub = "huggingface"
    revision: str = ""

    @classmethod
    def parse(cls, text: str) -> ModelName | None:
        """Understand a name; None if it is none."""
        match = _NAME.fullmatch(text)
        if match is None:
            return None
        hub = match["hub"] or "huggingface"
        return next((cls(match["repo"], known, match["revision"] or "") for known in HUBS if known == hub), None)

    @property
    def wanted_revision(self) -> str:
        """The revision, named."""
        return self.revision or _DEFAULT_REVISION[self.hub]

    def at(self, revision: str) -> ModelName:
        """The same model at another revision."""
        return replace(self, revision=revision)

    def __str__(self) -> str:
        hub = "" if self.hub == "huggingface" else f"{self.hub}:"
        return f"{hub}{self.repo}{'@' if self.revision else ''}{self.revision}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where one hub is, and where its client keeps what it downloads.

    Attributes:
        endpoint: the hub's address.
        cache: the folder of all its models.
        token: for what only members may have; empty without.
        is_offline: nothing may be downloaded.
        endpoint_variable: the variable that names another endpoint.
        token_variable: the variable that holds the token.
        offline_variable: the variable that forbids downloads.
    """

    endpoint: str
    cache: Path
    token: str
    is_offline: bool
    endpoint_variable: str
    token_variable: str
    offline_variable: str = _OFFLINE[0]


def place_of(hub: Hub, environ: Mapping[str, str] | None = None) -> Place:
    """Read a hub's own variables, as its client does."""
    environ = os.environ if environ is None else environ
    offline_variable = next((name for name in _OFFLINE if environ.get(name)), _OFFLINE[0])
    is_offline = environ.get(offline_variable, "").lower() in _TRUE
    home = Path(environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    if hub == "modelscope":
        return Place(
            endpoint=(environ.get("MODELSCOPE_ENDPOINT") or "https://modelscope.cn").rstrip("/"),
            cache=Path(environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope").expanduser(),
            token=environ.get("MODELSCOPE_API_TOKEN") or "",
            is_offline=is_offline,
            endpoint_variable="MODELSCOPE_ENDPOINT",
            token_variable="MODELSCOPE_API_TOKEN",  # noqa: S106  a name
            offline_variable=offline_variable,
        )
    hf_home = Path(environ.get("HF_HOME") or home / "huggingface").expanduser()
    token = environ.get("HF_TOKEN") or environ.get("HUGGING_FACE_HUB_TOKEN") or ""
    return Place(
        endpoint=(environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/"),
        cache=Path(environ.get("HF_HUB_CACHE") or hf_home / "hub").expanduser(),
        token=token.strip() or _read(Path(environ.get("HF_TOKEN_PATH") or hf_home / "token").expanduser()),
        is_offline=is_offline,
        endpoint_variable="HF_ENDPOINT",
        token_variable="HF_TOKEN",  # noqa: S106  a name
        offline_variable=offline_variable,
    )


def model_dir(name: ModelName, place: Place) -> Path:
    """Where a hub's client keeps all that it has of one model."""
    folder = name.repo.replace("/", "--")
    return place.cache / (f"models--{folder}" if name.hub == "huggingface" else f"models/{folder}")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""
