"""What clients call a picture.

In: a field's name. Out: whether a picture, or a file like one, was meant by it. OpenAI's API takes pictures as parts of
a message's content, and nowhere else; other servers and libraries have fields for them.
"""

from __future__ import annotations

from typing import Final

# Longer names are no slips: looking closely at what a megabyte holds would keep others waiting.
MAX_NAME: Final = 64
_NO_MARKS: Final = dict.fromkeys(map(ord, "_- ."))
PICTURE_FIELDS: Final = (
    *("images", "image_url", "image_urls", "image_data", "image_base64", "picture"),
    *("pictures", "input_image", "input_images", "multi_modal_data", "media"),
    *("file", "files", "file_id", "file_ids", "attachments", "attachment"),
    *("video", "videos", "video_url", "video_urls", "audio_url", "audios"),
)


def bare(name: str) -> str:
    """Take away what spellings differ in: stopSequences, Stop-Sequences and stop_sequences are one."""
    return name.translate(_NO_MARKS).lower()


_OTHERS: Final = ("image", "img", "imgs", "imgurl", "photo", "photos", "imageb64", "imagefile", "imagepath")
_BARE: Final = frozenset(
    (*map(bare, PICTURE_FIELDS), *_OTHERS, "base64image", "pictureurl", "experimentalattachments", "inlinedata")
)


def names_picture(field: str) -> bool:
    """Tell whether a picture was meant, however the name is spelled."""
    return len(field) <= MAX_NAME and bare(field) in _BARE
