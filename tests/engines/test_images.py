from __future__ import annotations

import hashlib
import io

import pytest
from PIL import Image

from engines import images
from engines.base import ImagePart, InvalidImageError
from engines.images import decode_image, fit_size, picture_size, upright_size


def part(data: bytes) -> ImagePart:
    return ImagePart(data=data, media_type="image/png", sha256=hashlib.sha256(data).hexdigest())


def encode(image: Image.Image, image_format: str = "PNG", **options: object) -> ImagePart:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return part(buffer.getvalue())


def two_halves(size: tuple[int, int] = (40, 20)) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", size, "red")
    image.paste("blue", (size[0] // 2, 0, size[0], size[1]))
    return image


def near(actual: object, expected: tuple[int, int, int], tolerance: int = 3) -> bool:
    assert isinstance(actual, tuple)
    return all(abs(a - b) <= tolerance for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_accepted_format_becomes_rgb_of_the_same_size(image_format: str) -> None:
    image = decode_image(encode(two_halves(), image_format))

    assert (image.mode, image.size) == ("RGB", (40, 20))
    assert near(image.getpixel((5, 10)), (255, 0, 0), 6)


def test_exif_rotation_is_applied() -> None:
    # Given a picture that was taken with the camera turned (orientation 6: rotate by 90 degrees to view)
    exif = Image.Exif()
    exif[0x0112] = 6

    image = decode_image(encode(two_halves(), "JPEG", exif=exif, quality=95, subsampling=0))

    # Then it stands upright: what was left is on top
    assert image.size == (20, 40)
    assert near(image.getpixel((10, 5)), (254, 0, 0), 8)
    assert near(image.getpixel((10, 35)), (0, 0, 254), 8)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_exif_block_leaves_the_picture_as_it_is() -> None:
    image = decode_image(encode(two_halves(), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7fgarbage"))

    assert image.size == (40, 20)


def test_transparency_is_laid_on_white() -> None:
    image = decode_image(encode(Image.new("RGBA", (4, 4), (255, 0, 0, 0))))
    half = decode_image(encode(Image.new("RGBA", (4, 4), (0, 0, 0, 128))))
    grey = decode_image(encode(Image.new("LA", (4, 4), (0, 0))))

    assert image.getpixel((0, 0)) == (255, 255, 255)
    assert near(half.getpixel((0, 0)), (127, 127, 127), 1)
    assert grey.getpixel((0, 0)) == (255, 255, 255)


def test_a_transparent_palette_colour_is_white_and_the_others_keep_their_colour() -> None:
    # Given a palette picture whose first colour is transparent
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 10, 200, 30])
    image.putpixel((1, 0), 1)

    decoded = decode_image(encode(image, transparency=0))

    assert decoded.getpixel((0, 0)) == (255, 255, 255)
    assert decoded.getpixel((1, 0)) == (10, 200, 30)


def test_cmyk_becomes_rgb() -> None:
    image = decode_image(encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95))

    assert near(image.getpixel((8, 8)), (254, 0, 0), 8)


def test_sixteen_bit_grey_is_scaled_by_its_full_range_not_clipped() -> None:
    # Given a dark and a bright sample
    image = Image.new("I;16", (2, 1))
    image.putpixel((0, 0), 0x2000)
    image.putpixel((1, 0), 0xFFFF)

    decoded = decode_image(encode(image))

    assert decoded.getpixel((0, 0)) == (32, 32, 32)
    assert decoded.getpixel((1, 0)) == (255, 255, 255)


def test_float_samples_are_scaled_by_their_content() -> None:
    image = Image.new("F", (2, 1))
    image.putpixel((1, 0), 0.5)

    decoded = decode_image(encode(image, "TIFF"))

    assert (decoded.getpixel((0, 0)), decoded.getpixel((1, 0))) == ((0, 0, 0), (255, 255, 255))


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_is_refused(image_format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    data = encode(frames[0], image_format, save_all=True, append_images=frames[1:])

    with pytest.raises(InvalidImageError, match="single frame"):
        decode_image(data)
    with pytest.raises(InvalidImageError, match="single frame"):
        picture_size(data)


def test_a_phone_picture_with_a_second_picture_behind_it_is_no_animation() -> None:
    data = encode(two_halves(), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])

    assert decode_image(data).size == (40, 20)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
def test_a_truncated_file_is_a_parse_error(image_format: str) -> None:
    # Given noise, so that half of the file is half of the pixels
    whole = encode(Image.effect_noise((200, 200), 90).convert("RGB"), image_format).data

    with pytest.raises(InvalidImageError) as caught:
        decode_image(part(whole[: len(whole) // 2]))

    assert caught.value.code == "image_parse_error"
    assert caught.value.status_code == 400


@pytest.mark.parametrize("data", [b"", b"not an image at all", b"\x89PNG\r\n\x1a\n", b"<svg xmlns='x'/>", b"%PDF-1.7"])
def test_bytes_that_are_no_picture_are_a_parse_error(data: bytes) -> None:
    for read in (decode_image, picture_size):
        with pytest.raises(InvalidImageError) as caught:
            read(part(data))
        assert caught.value.code == "image_parse_error"


def test_too_many_pixels_are_refused_from_the_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 40 * 20 - 1)

    with pytest.raises(InvalidImageError) as caught:
        picture_size(encode(two_halves()))

    assert caught.value.code == "image_too_large"


def test_a_decompression_bomb_is_refused_without_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)

    with pytest.raises(InvalidImageError) as caught:
        decode_image(encode(two_halves()))

    assert caught.value.code == "image_too_large"


@pytest.mark.parametrize(
    ("size", "limit", "expected"),
    [
        ((40, 20), None, (40, 20)),
        ((40, 20), 40, (40, 20)),
        ((40, 20), 10, (10, 5)),
        ((20, 40), 10, (5, 10)),
        ((1000, 1), 10, (10, 1)),
    ],
)
def test_long_pictures_are_scaled_down_and_the_header_tells_the_size_beforehand(
    size: tuple[int, int], limit: int | None, expected: tuple[int, int]
) -> None:
    data = encode(two_halves(size))

    assert fit_size(*size, limit) == expected
    assert picture_size(data, max_side_px=limit) == expected
    assert decode_image(data, max_side_px=limit).size == expected


@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_the_upright_size_is_that_of_the_decoded_picture(image_format: str, orientation: int | None) -> None:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    turned = encode(two_halves(), image_format, exif=exif)

    assert upright_size(turned) == decode_image(turned).size


def test_a_png_that_says_nothing_of_its_orientation_is_not_decoded_for_its_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = encode(two_halves())
    monkeypatch.setattr(Image.Image, "getexif", lambda _image: pytest.fail("it was looked for"))

    assert upright_size(plain) == (40, 20)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_exif_that_cannot_be_read_does_not_swap_the_sides() -> None:
    turned = encode(two_halves(), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")

    assert upright_size(turned) == (40, 20)
