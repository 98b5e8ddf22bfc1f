"""Forms are read the same wherever the network cuts them, and the file in them is never held."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from router.api.multipart import Form, read_form
from router.errors import BadRequestError

TYPE = 'multipart/form-data; boundary="b0"'
FILE = b"{}\r\n--b\r\n\r\n--bx0\r--b0\n"  # almost the boundary, again and again
BODY = (
    b"before\r\n--b0\r\n"
    b'Content-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b0 \r\n'
    b'content-disposition: form-data; name="file"; filename="\xe6\x95\xb0.jsonl"\r\nContent-Type: text/x\r\n\r\n'
    + FILE
    + b'\r\n--b0\r\nContent-Disposition: form-data; name="later"\r\n\r\n\r\n--b0--\r\nafter'
)


async def read(*pieces: bytes, content_type: str = TYPE) -> tuple[Form, list[bytes]]:
    written: list[bytes] = []

    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async def write(data: bytes) -> None:
        written.append(data)

    form = Form()
    await read_form(content_type, body(), form, file_field="file", write=write)
    return form, written


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20, 1000])
async def test_a_form_is_read_the_same_wherever_it_is_cut(size: int) -> None:
    form, written = await read(*(BODY[at : at + size] for at in range(0, len(BODY), size)))

    assert form == Form({"purpose": "batch", "later": ""}, "数.jsonl")
    assert b"".join(written) == FILE
    assert max(map(len, written)) <= max(size, len(FILE))


async def test_bytes_are_handed_on_as_they_come() -> None:
    head, tail = BODY.split(FILE)
    _form, written = await read(head, *[b"x" * 1000] * 50, tail)

    assert sum(map(len, written)) == 50_000
    assert max(map(len, written)) < 2000


@pytest.mark.parametrize(
    ("pieces", "content_type"),
    [
        ([BODY], "application/json"),
        ([BODY], "multipart/form-data"),
        ([BODY[:-20]], TYPE),
        ([BODY.split(FILE)[0]], TYPE),
        ([b"--b0\r\n" + b"x" * 10_000], TYPE),
        ([b"--b0\r\n" + b'Content-Disposition: form-data; name="a"\r\n\r\n' + b"x" * 70_000], TYPE),
        ([b'--b0\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n' * 100], TYPE),
    ],
)
async def test_what_is_no_form_is_refused(pieces: list[bytes], content_type: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        await read(*pieces, content_type=content_type)
    assert refused.value.code == "invalid_form"


@pytest.mark.parametrize("name", ["purpose", "file", "later"])
async def test_a_field_that_comes_twice_is_refused_and_not_lost(name: str) -> None:
    filename = b'; filename="b.jsonl"' if name == "file" else b""
    again = b'--b0\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\nother\r\n--b0--' % (name.encode(), filename)

    with pytest.raises(BadRequestError) as caught:
        await read(BODY.replace(b"--b0--", again))

    assert caught.value.code == "invalid_form"
    assert f"'{name}'" in caught.value.message
