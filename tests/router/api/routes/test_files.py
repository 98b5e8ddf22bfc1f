"""Uploads that are refused by what their head says: nothing of them is read, and nothing stored."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from router.api.multipart import MAX_AROUND_BYTES
from router.app import create_app
from router.settings import Settings

FORM = "Multipart/Form-Data; boundary=b0"
MAX_BODY, MAX_FILE = 1000, 500


@pytest.mark.parametrize(
    ("content_type", "num_bytes", "status", "says"),
    [
        ("application/json", MAX_BODY + 1, 413, f"larger than {MAX_BODY} bytes"),
        ("", MAX_BODY + 1, 413, f"larger than {MAX_BODY} bytes"),
        ("application/json", MAX_BODY, 400, "multipart/form-data"),
        (FORM, MAX_FILE + MAX_AROUND_BYTES + 1, 413, f"larger than {MAX_FILE + MAX_AROUND_BYTES} bytes"),
    ],
)
async def test_a_body_that_says_it_is_too_long_is_refused_as_that(
    content_type: str, num_bytes: int, status: int, says: str
) -> None:
    settings = Settings(
        REDIS_URL="redis://127.0.0.1:1/0", insecure=True, max_body_bytes=MAX_BODY, max_file_bytes=MAX_FILE
    )
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(settings)), base_url="http://127.0.0.1:8000"
    ) as http:
        # The body is shorter than it says: nothing waits for the rest.
        headers = {"content-type": content_type, "content-length": str(num_bytes)}
        answer = await http.post("/v1/files", content=b"{}", headers=headers)

    assert answer.status_code == status
    assert says in answer.json()["error"]["message"]


def test_nginx_allows_as_much_around_a_file() -> None:
    start = Path(__file__).parents[4] / "deploy" / "nginx" / "start.sh"
    assert f"upload=$((file + {MAX_AROUND_BYTES}))" in start.read_text()
