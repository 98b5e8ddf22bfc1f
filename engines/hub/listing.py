"""What a hub has of a model: its commit and its files, with sizes and hashes.

In: a `ModelName` and its `Place`. Out: a `Listing`, or a `HubError` that says what to do. Hugging Face is asked by its
own client; ModelScope's two addresses are asked directly, since its client brings five packages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import aiohttp

from engines.hub.answers import away, refusal
from engines.hub.names import ModelName, Place
from engines.hub.words import HubError

_TIMEOUT: Final = aiohttp.ClientTimeout(total=60, sock_connect=20)
# What the loaders of both engines, and vLLM, read. Of a repository with both kinds of weights, the safe ones.
_SUFFIXES: Final = (".json", ".model", ".safetensors", ".bin", ".jinja", ".txt")
_OTHER_WEIGHTS: Final = ("pytorch_model",)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on a hub.

    Attributes:
        path: its name; files in folders are not needed.
        num_bytes: its size.
        sha256: of its contents; empty if only ``git_id`` is known.
        git_id: what git calls its blob's id; empty on hubs that do not say.
        url: where its contents are.
    """

    path: str
    num_bytes: int
    sha256: str
    git_id: str
    url: str

    @property
    def is_weights(self) -> bool:
        """Whether it is one of the large files."""
        return self.path.endswith((".safetensors", ".bin"))

    @property
    def hash(self) -> str:
        """What its contents must have: 64 hex digits of sha256, 40 of git, or nothing that is known."""
        return self.sha256 or self.git_id


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of one revision that engines need.

    Attributes:
        name: the model, with the revision that was meant: on Hugging Face a commit.
        files: by their names.
        headers: to send when one of them is asked for.
    """

    name: ModelName
    files: Mapping[str, RemoteFile]
    headers: Mapping[str, str]


async def list_files(name: ModelName, place: Place) -> Listing:
    """Ask a hub what it has.

    Raises:
        AwayError: if it cannot be reached, or is overloaded.
        HubError: if it refuses, or has no such model or revision; if its address or token cannot be sent.
    """
    _check_settings(place)
    ask = _list_modelscope if name.hub == "modelscope" else _list_huggingface
    listing = await ask(name, place)
    needed = {path: file for path, file in listing.files.items() if "/" not in path and path.endswith(_SUFFIXES)}
    if any(path.endswith(".safetensors") for path in needed):
        needed = {path: file for path, file in needed.items() if not path.startswith(_OTHER_WEIGHTS)}
    if not any(file.is_weights for file in needed.values()):
        raise HubError(
            "missing", repo=name.repo, revision=name.wanted_revision, endpoint=place.endpoint, file="weights"
        )
    return Listing(listing.name, needed, listing.headers)


async def _list_huggingface(name: ModelName, place: Place) -> Listing:
    try:
        from huggingface_hub import HfApi, hf_hub_url
        from huggingface_hub.hf_api import RepoFile
    except ImportError as error:
        raise HubError("package") from error
    token: str | bool = place.token or False
    api = HfApi(endpoint=place.endpoint, token=token, library_name="glowl")

    def ask() -> Listing:
        commit = api.model_info(name.repo, revision=name.wanted_revision, timeout=60).sha
        if not commit:
            raise ValueError("no commit in its answer")
        files = {}
        for entry in api.list_repo_tree(name.repo, revision=commit):
            if isinstance(entry, RepoFile):
                sha256 = entry.lfs.sha256 if entry.lfs is not None else ""
                url = hf_hub_url(name.repo, entry.path, revision=commit, endpoint=place.endpoint)
                files[entry.path] = RemoteFile(entry.path, entry.size, sha256, entry.blob_id, url)
        return Listing(name.at(commit), files, _headers(place))

    try:
        return await asyncio.to_thread(ask)
    except Exception as error:
        response = getattr(error, "response", None)
        if response is not None:
            raise refusal(response.status_code, response.headers, name, place) from error
        if isinstance(error, ValueError | KeyError | TypeError):  # an answer, but none of a hub
            raise HubError("foreign", **_where(place), reason=_first_line(error)) from error
        raise away(error, place) from error


async def _list_modelscope(name: ModelName, place: Place) -> Listing:
    revision = name.wanted_revision
    base = f"{place.endpoint}/api/v1/models/{quote(name.repo)}/repo"
    headers = _headers(place)
    if place.token:
        headers["Cookie"] = f"m_session_id={place.token}"
    url = f"{base}/files?{urlencode({'Revision': revision, 'Recursive': 'False'})}"
    try:
        async with (
            aiohttp.ClientSession(trust_env=True, timeout=_TIMEOUT) as session,
            session.get(url, headers=headers) as response,
        ):
            if response.status != 200:
                raise refusal(response.status, response.headers, name, place, await response.text())
            answer: Any = await response.json(content_type=None)
        if not answer["Success"]:
            values: dict[str, Any] = {"repo": name.repo, "endpoint": place.endpoint, "status": answer["Code"]}
            raise HubError("forbidden", **values, reason=answer["Message"])
        entries = answer["Data"]["Files"]
        files = {
            entry["Path"]: RemoteFile(
                entry["Path"],
                int(entry["Size"]),
                entry.get("Sha256") or "",
                "",
                f"{base}?{urlencode({'Revision': revision, 'FilePath': entry['Path']})}",
            )
            for entry in entries
            if entry.get("Type") != "tree"
        }
    except (KeyError, TypeError, ValueError) as error:
        raise HubError("foreign", **_where(place), reason=_first_line(error)) from error
    except (aiohttp.ClientError, OSError) as error:
        raise away(error, place) from error
    return Listing(name.at(revision), files, headers)


def _check_settings(place: Place) -> None:
    """Refuse what clients report as a connection that failed, which would be retried; never shows the token."""
    if not _is_address(place.endpoint):
        raise HubError("endpoint", **_where(place))
    if not (place.token.isascii() and place.token.isprintable()) or " " in place.token:
        raise HubError("token_form", variable=place.token_variable)


def _is_address(endpoint: str) -> bool:
    try:
        parts = urlsplit(endpoint)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _headers(place: Place) -> dict[str, str]:
    return {"User-Agent": "glowl", **({"Authorization": f"Bearer {place.token}"} if place.token else {})}


def _where(place: Place) -> dict[str, Any]:
    return {"endpoint": place.endpoint, "variable": place.endpoint_variable}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
