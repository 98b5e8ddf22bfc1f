"""A stand-in for the Hugging Face hub and ModelScope: their addresses over files in memory, and all that can go wrong.

Written from the hubs' own clients, not from `engines.hub`. Weights are redirected to a second port, as the hubs send
downloads to another host; xet is left out, as mirrors leave it out. What goes wrong is told in advance, per file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping

from aiohttp import web

COMMIT = "a" * 40
TOKEN = "hf_of_a_member"


def a_checkpoint(num_shards: int = 2, shard_bytes: int = 20_000) -> dict[str, bytes]:
    """A checkpoint's files, sharded, of bytes that mean nothing."""
    shards = {
        f"model-{number:05}-of-{num_shards:05}.safetensors": a_shard(number, shard_bytes)
        for number in range(1, num_shards + 1)
    }
    index = {"metadata": {}, "weight_map": {f"layer.{number}": file for number, file in enumerate(shards)}}
    return {
        "config.json": b'{"model_type": "glm46v"}',
        "tokenizer.json": b'{"version": "1.0"}',
        "model.safetensors.index.json": json.dumps(index).encode(),
        "README.md": b"# not needed",
        "figures/one.png": b"not needed either",
        **shards,
    }


def a_shard(number: int, num_bytes: int) -> bytes:
    """A safetensors file of exactly so many bytes, with one tensor that means nothing."""
    num_header = 96
    num_data = num_bytes - 8 - num_header
    tensor = {"dtype": "U8", "shape": [num_data], "data_offsets": [0, num_data]}
    header = json.dumps({f"layer.{number}": tensor}).encode().ljust(num_header)
    return num_header.to_bytes(8, "little") + header + hashlib.shake_256(b"%d" % number).digest(num_data)


class HubServer:
    """Both hubs, with one model.

    Args:
        files: of the model.
        repo: its id.

    Attributes:
        files: by name; may be changed while it runs.
        requests: method and path of each, in order; for weights with their range.
        tokens: what came as authorization at the second port.
        refuse: a status and headers that every request to the hub is answered with; None answers.
        url: where it listens.
    """

    def __init__(self, files: Mapping[str, bytes] | None = None, repo: str = "org/model") -> None:
        self.files = dict(a_checkpoint() if files is None else files)
        self.repo = repo
        self.commit = COMMIT
        self.requests: list[str] = []
        self.tokens: list[str] = []
        self.refuse: tuple[int, dict[str, str]] | None = None
        self.page = ""
        self.sent = 0
        self.url = ""
        self._hashes: dict[str, str] = {}
        self._faults: dict[str, list[str]] = defaultdict(list)
        self._runner: web.AppRunner | None = None

    def fails(self, file: str, *faults: str) -> None:
        """Let the next requests for a file go wrong: ``cut N``, ``whole``, ``wrong``, ``gone``, ``status N``."""
        self._faults[file] += faults

    def claims(self, file: str, sha256: str) -> None:
        """Name another hash than a file has."""
        self._hashes[file] = sha256

    def weights(self) -> list[str]:
        return sorted(file for file in self.files if file.endswith((".safetensors", ".bin")))

    def fetched(self, file: str) -> list[str]:
        """The ranges that were asked for of a file."""
        return [line.split(" ", 2)[2] for line in self.requests if line.startswith(f"CDN {file} ")]

    def sha256(self, file: str) -> str:
        return self._hashes.get(file) or hashlib.sha256(self.files[file]).hexdigest()

    async def start(self, port: int = 0) -> None:
        app = web.Application()
        app.router.add_get("/api/models/{org}/{name}/revision/{revision}", self._info)
        app.router.add_get("/api/models/{org}/{name}/tree/{revision}", self._tree)
        app.router.add_get("/{org}/{name}/resolve/{revision}/{file:.+}", self._resolve)
        app.router.add_get("/api/v1/models/{org}/{name}/repo/files", self._modelscope_files)
        app.router.add_get("/api/v1/models/{org}/{name}/repo", self._modelscope_file)
        app.router.add_get("/cdn/{file}", self._cdn)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        (_, own), (_, cdn) = (address[:2] for address in self._runner.addresses)
        self.url, self._cdn_url = f"http://127.0.0.1:{own}", f"http://127.0.0.1:{cdn}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    # --- Hugging Face -------------------------------------------------------------------------------------------------

    async def _info(self, request: web.Request) -> web.StreamResponse:
        if (refused := self._refused(request)) is not None:
            return refused
        if request.match_info["revision"] not in ("main", "v1", self.commit):
            return _error(404, "RevisionNotFound", "Invalid rev id")
        return web.json_response({"id": self.repo, "sha": self.commit, "siblings": [], "tags": []})

    async def _tree(self, request: web.Request) -> web.StreamResponse:
        if (refused := self._refused(request)) is not None:
            return refused
        entries: list[dict[str, object]] = []
        for file, data in self.files.items():
            entry: dict[str, object] = {"type": "file", "path": file, "size": len(data), "oid": _git_id(data)}
            if file in self.weights():
                entry["lfs"] = {"oid": self.sha256(file), "size": len(data), "pointerSize": 134}
            entries.append(entry)
        return web.json_response(entries)

    async def _resolve(self, request: web.Request) -> web.StreamResponse:
        file = request.match_info["file"]
        if (refused := self._refused(request)) is not None:
            return refused
        if file not in self.files:
            return _error(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": self.commit}
        if file not in self.weights():
            headers["ETag"] = f'"{_git_id(self.files[file])}"'
            return web.Response(body=self.files[file], headers=headers)
        headers |= {"X-Linked-Etag": f'"{self.sha256(file)}"', "X-Linked-Size": str(len(self.files[file]))}
        raise web.HTTPFound(f"{self._cdn_url}/cdn/{file}?signed=1", headers=headers)

    # --- ModelScope ---------------------------------------------------------------------------------------------------

    async def _modelscope_files(self, request: web.Request) -> web.StreamResponse:
        if (refused := self._refused(request)) is not None:
            return refused
        if request.query["Revision"] not in ("master", "v1"):
            return web.json_response({"Code": 404, "Message": "no such revision", "Success": False}, status=404)
        files = [
            {"Path": file, "Name": file, "Type": "blob", "Size": len(data), "Sha256": self.sha256(file)}
            for file, data in self.files.items()
        ]
        return web.json_response(
            {"Code": 200, "Success": True, "Data": {"Files": [{"Path": "d", "Type": "tree"}, *files]}}
        )

    async def _modelscope_file(self, request: web.Request) -> web.StreamResponse:
        file = request.query["FilePath"]
        if (refused := self._refused(request)) is not None:
            return refused
        if file in self.weights():
            raise web.HTTPFound(f"{self._cdn_url}/cdn/{file}?signed=1")
        return web.Response(body=self.files[file])

    # --- both ---------------------------------------------------------------------------------------------------------

    def _refused(self, request: web.Request) -> web.StreamResponse | None:
        self.requests.append(f"{request.method} {request.path}")
        if self.page:
            return web.Response(text=self.page, content_type="text/html")
        if self.refuse is not None:
            status, headers = self.refuse
            return web.Response(status=status, headers=headers, text="refused")
        if f"{request.match_info['org']}/{request.match_info['name']}" != self.repo:
            return _error(404, "RepoNotFound", "Repository not found")
        return None

    async def _cdn(self, request: web.Request) -> web.StreamResponse:
        file = request.match_info["file"]
        wanted = request.headers.get("Range", "")
        self.requests.append(f"CDN {file} {wanted}".rstrip() if wanted else f"CDN {file} whole")
        self.tokens += [request.headers[name] for name in ("Authorization", "Cookie") if name in request.headers]
        data = self.files[file]
        fault = self._faults[file].pop(0) if self._faults[file] else ""
        kind, _, value = fault.partition(" ")
        if kind == "gone":
            return web.Response(status=404)
        if kind == "status":
            return web.Response(status=int(value), headers={"Retry-After": "7"})
        if kind == "wrong":
            data = bytes(byte ^ 1 for byte in data)
        begin = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and kind != "whole" else 0
        if begin >= len(data):
            return web.Response(status=416)
        body = data[begin:]
        headers = {"Content-Length": str(len(body))}
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        response = web.StreamResponse(status=206 if begin else 200, headers=headers)
        await response.prepare(request)
        if kind == "cut":
            body = body[: int(value)]
        self.sent += len(body)
        await response.write(body)
        if kind == "cut":
            assert request.transport is not None
            request.transport.close()  # what was written goes out first
            return response
        await response.write_eof()
        return response


@contextlib.asynccontextmanager
async def serving_hub(files: Mapping[str, bytes] | None = None, repo: str = "org/model") -> AsyncIterator[HubServer]:
    server = HubServer(files, repo)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def _git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _error(status: int, code: str, message: str) -> web.Response:
    return web.Response(status=status, headers={"X-Error-Code": code, "X-Error-Message": message})
