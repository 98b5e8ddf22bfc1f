"""Small pictures, as files of any format that Pillow writes."""

from __future__ import annotations

import base64
import hashlib
import io
from typing import Any

from PIL import Image

from engines.base import ImagePart


def to_part(image: Image.Image, kind: str = "PNG", **options: Any) -> ImagePart:
    """Encode a picture."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    data = buffer.getvalue()
    return ImagePart(data, f"image/{kind.lower()}", hashlib.sha256(data).hexdigest())


def png(color: str, side: int = 8) -> ImagePart:
    """Make a square of one colour."""
    return to_part(Image.new("RGB", (side, side), color))


def data_url(part: ImagePart) -> str:
    """Write a picture as requests carry it."""
    return f"data:{part.media_type};base64,{base64.b64encode(part.data).decode()}"
