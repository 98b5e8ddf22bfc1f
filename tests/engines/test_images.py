from __future__ import annotations

import hashlib
import io
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from PIL import Image, ImageChops, JpegImagePlugin, PngImagePlugin

from engines import images
from engines.base import EngineOverloadedError, ImagePart, InvalidImageError
from engines.image_header import ACCEPTED_TYPES, fit_size
from engines.images import check_request, decode_image, picture_size, upright_size


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
def test_every_format_becomes_rgb_of_the_same_size(image_format: str) -> None:
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


def test_who_sends_a_damaged_file_is_told_of_every_type_that_the_door_accepts_and_no_other() -> None:
    with pytest.raises(InvalidImageError) as refused:
        decode_image(part(b"\x89PNG\r\n\x1a\n"))

    named = re.findall("PNG|JPEG|WebP|GIF|BMP|TIFF|AVIF|HEIC", str(refused.value))
    assert {f"image/{name.lower()}" for name in named} == set(ACCEPTED_TYPES)


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


def photo(**options: object) -> bytes:
    """A JPEG without plain areas, so that every block of it has something to lose."""
    noise = Image.effect_noise((61, 43), 60).convert("RGB")
    return encode(noise, "JPEG", **options).data


JPEG_KINDS: dict[str, dict[str, object]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_blocks": 1},
    "progressive with restart markers": {"progressive": True, "restart_marker_rows": 1},
    "full chroma": {"subsampling": 0, "quality": 95},
}


@pytest.mark.parametrize("options", JPEG_KINDS.values(), ids=JPEG_KINDS.keys())
@pytest.mark.parametrize("missing", [b"\xff\xd9", b"\xd9"], ids=["no marker", "half a marker"])
def test_a_jpeg_without_its_end_marker_is_decoded_if_all_pixels_are_there(
    options: dict[str, object], missing: bytes
) -> None:
    whole = photo(**options)
    assert decode_image(part(whole.removesuffix(missing))).tobytes() == decode_image(part(whole)).tobytes()


@pytest.mark.parametrize("options", JPEG_KINDS.values(), ids=JPEG_KINDS.keys())
def test_a_jpeg_without_its_last_pixels_is_a_parse_error(options: dict[str, object]) -> None:
    whole = photo(**options)
    places = {len(whole) // 4, len(whole) // 2, len(whole) - 60, len(whole) - 20}
    places |= {place for place in range(len(whole) // 2, len(whole) - 20) if whole[place] == 0xFF}  # between restarts
    for place in places:
        with pytest.raises(InvalidImageError) as refusal:
            decode_image(part(whole[:place]))
        assert refusal.value.code == "image_parse_error"


def test_what_stands_beside_the_pixels_may_be_damaged_or_huge() -> None:
    # Given a profile that is no profile, texts, and a comment, each over the megabyte at which Pillow gives up
    text = PngImagePlugin.PngInfo()
    text.add_text("note", "x" * 3_000_000, zip=True)
    text.add_itxt("more", "y" * 3_000_000, zip=True)
    expected = decode_image(encode(two_halves()))
    for options in ({"pnginfo": text}, {"icc_profile": bytes(3_000_000)}):
        assert decode_image(encode(two_halves(), **options)).tobytes() == expected.tobytes()
    for image_format, options in (("JPEG", {"comment": b"z" * 60_000}), ("GIF", {"comment": b"z" * 3_000_000})):
        assert decode_image(encode(two_halves(), image_format, icc_profile=bytes(90_000), **options)).size == (40, 20)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
@pytest.mark.parametrize("place", ["exif", "xmp"])
def test_a_picture_is_turned_by_what_is_kept_beside_the_pixels(image_format: str, place: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    packet = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    options: dict[str, object] = {"exif": exif}
    if place == "xmp" and image_format == "JPEG":
        options = {"xmp": packet}
    elif place == "xmp":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", packet.decode(), zip=True)
        options = {"pnginfo": text}
    assert decode_image(encode(two_halves(), image_format, **options)).size == (20, 40)


def scan_bomb(num_scans: int, size: tuple[int, int]) -> ImagePart:
    """A progressive JPEG whose last scan comes again and again, 17 bytes each time."""
    data = encode(Image.new("RGB", size, "teal"), "JPEG", progressive=True).data
    last = data.rindex(b"\xff\xda")
    header_bytes = 2 + int.from_bytes(data[last + 2 : last + 4], "big")
    return part(data[:-2] + (data[last : last + header_bytes] + b"\0") * num_scans + b"\xff\xd9")


@pytest.mark.parametrize("read", [decode_image, picture_size, upright_size, lambda image: check_request([image])])
def test_a_jpeg_of_thousands_of_scans_is_refused_unread(read: Callable[[ImagePart], object]) -> None:
    for bomb in (scan_bomb(20_000, (64, 64)), part(scan_bomb(20_000, (64, 64)).data[:-2])):
        with pytest.raises(InvalidImageError, match="scans") as refusal:
            read(bomb)
        assert refusal.value.code == "image_too_large"


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def in_blocks(image_format: str, piece: bytes, num_pieces: int) -> ImagePart:
    """A picture with something before its pixels, again and again."""
    data = encode(Image.new("RGB", (8, 8), "teal"), image_format).data
    start = {"PNG": 33, "JPEG": 2, "GIF": 13 + (3 << ((data[10] & 7) + 1))}[image_format]
    return part(data[:start] + piece * num_pieces + data[start:])


BLOCKS = [
    ("PNG", chunk(b"tEXt", b"a\0b")),
    ("PNG", chunk(b"IDAT", b"")),
    ("JPEG", b"\xff\xfe\0\3a"),
    ("JPEG", b"\xff\xe5\0\2"),
    ("GIF", b"\x21\xfe\1a\0"),
]


@pytest.mark.parametrize(("image_format", "piece"), BLOCKS)
def test_a_picture_of_thousands_of_blocks_is_decoded(image_format: str, piece: bytes) -> None:
    assert decode_image(in_blocks(image_format, piece, 3_000)).size == (8, 8)


@pytest.mark.parametrize(("image_format", "piece"), BLOCKS)
@pytest.mark.parametrize("read", [decode_image, picture_size, upright_size])
def test_a_picture_of_too_many_blocks_is_refused_by_name(
    read: Callable[[ImagePart], object], image_format: str, piece: bytes
) -> None:
    with pytest.raises(InvalidImageError, match="too many to read") as refusal:
        read(in_blocks(image_format, piece, 15_000))
    assert refusal.value.code == "image_too_large"


def test_a_jpeg_of_more_scans_than_usual_is_decoded() -> None:
    assert decode_image(scan_bomb(200, (64, 64))).size == (64, 64)


def test_decoding_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_DECODE_S", -1.0)
    with pytest.raises(InvalidImageError, match="to decode") as refusal:
        decode_image(encode(two_halves()))
    assert refusal.value.code == "image_too_large"


def test_decoding_stops_when_the_picture_is_wanted_no_more() -> None:
    # Given a caller who leaves after the first piece of a picture of several
    asked: list[bool] = []

    def is_wanted() -> bool:
        asked.append(True)
        return len(asked) < 3

    picture = encode(Image.effect_noise((700, 700), 90))
    assert len(picture.data) > 3 * 65_536
    with pytest.raises(images.DecodeGoneError):
        decode_image(picture, is_wanted=is_wanted)
    assert len(asked) == 3


def test_a_lack_of_memory_is_not_the_pictures_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_image: Image.Image) -> None:
        raise MemoryError

    for plugin in (PngImagePlugin.PngImageFile, JpegImagePlugin.JpegImageFile):
        monkeypatch.setattr(plugin, "load", load)
    for image_format in ("PNG", "JPEG"):
        with pytest.raises(EngineOverloadedError) as refusal:
            decode_image(encode(two_halves(), image_format))
        assert refusal.value.code == "out_of_memory"


def test_the_pictures_of_a_request_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_REQUEST_PIXELS", 1600)
    pictures = [encode(two_halves()), replace(encode(two_halves((40, 21))), param="messages[0].content[1]")]
    check_request(pictures[:1] * 2)
    with pytest.raises(InvalidImageError, match="together") as refusal:
        check_request(pictures)
    assert (refusal.value.code, refusal.value.param) == ("image_too_large", "messages[0].content[1]")


@pytest.mark.parametrize("image_format", ["WEBP", "GIF"])
def test_a_canvas_that_is_too_large_is_refused_before_pillow_makes_it(
    image_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 799)
    monkeypatch.setattr(Image, "open", lambda *_args, **_kwargs: pytest.fail("opened"))
    with pytest.raises(InvalidImageError) as refusal:
        decode_image(encode(two_halves(), image_format))
    assert refusal.value.code == "image_too_large"


def test_only_a_jpeg_much_larger_than_the_model_sees_is_decoded_at_a_part_of_its_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given what Pillow was asked to decode
    scales: list[int] = []
    draft = JpegImagePlugin.JpegImageFile.draft

    def record(image: JpegImagePlugin.JpegImageFile, mode: None, size: tuple[int, int]) -> object:
        scales.append(round(image.width / size[0]))
        return draft(image, mode, size)

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "draft", record)
    monkeypatch.setattr(images, "_REDUCED_FROM_PIXELS", 100_000)
    gradient = Image.radial_gradient("L").convert("RGB").resize((401, 301), Image.Resampling.BICUBIC)
    jpeg, png = encode(gradient, "JPEG", quality=95), encode(gradient)
    small = encode(gradient.resize((300, 300)), "JPEG")

    for picture, seen_pixels in ((jpeg, None), (jpeg, 10_000), (jpeg, 1_000), (png, 1_000), (small, 1_000)):
        reduced = decode_image(picture, max_side_px=100, seen_pixels=seen_pixels)
        whole = decode_image(picture, max_side_px=100)
        # Then the picture has the size that the header said, and looks the same
        assert reduced.size == whole.size == picture_size(picture, max_side_px=100)
        difference = ImageChops.difference(reduced, whole).getextrema()
        assert max(high for _, high in difference) <= 12
    assert scales == [4]
    scales.clear()
    decode_image(jpeg, max_side_px=100, seen_pixels=7_000)
    assert scales == [2]


def test_deep_pictures_are_made_bright_in_bands_by_one_scale() -> None:
    # Given a ramp over more rows than one band has, by its file's type and by its content
    rows = 2 * images._BAND_ROWS + 7
    ramp = Image.new("I;16", (3, rows))
    for row in range(rows):
        for column in range(3):
            ramp.putpixel((column, row), row * 65535 // (rows - 1))
    floats = ramp.convert("F").point(lambda value: value * 0.001 + 5)

    for image, image_format in ((ramp, "PNG"), (floats, "TIFF")):
        found = decode_image(encode(image, image_format))

        levels = [found.getpixel((1, row)) for row in range(rows)]
        expected = [round(row * 255 / (rows - 1)) for row in range(rows)]
        assert all(near(level, (want,) * 3, 1) for level, want in zip(levels, expected, strict=True))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1", "I;16", "RGB with a transparent colour"])
def test_large_pngs_are_averaged_first_and_look_the_same(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a large picture whose colours are hidden in places, where it is transparent at all
    monkeypatch.setattr(images, "_REDUCED_FROM_PIXELS", 100_000)
    gradient = Image.radial_gradient("L").resize((400, 300), Image.Resampling.BICUBIC)
    picture = gradient.convert(mode.partition(" ")[0])
    if mode.endswith("A"):
        picture.putalpha(Image.linear_gradient("L").resize((400, 300)))
    options = {"transparency": (200, 200, 200)} if "transparent" in mode else {}
    sent = encode(picture, "PNG", **options)

    reduced = decode_image(sent, max_side_px=100, seen_pixels=1_000)

    whole = decode_image(sent, max_side_px=100)
    assert reduced.size == whole.size
    difference = ImageChops.difference(reduced, whole).getextrema()
    assert max(high for _, high in difference) <= 6


def run_length_bitmap(size: tuple[int, int], runs: bytes) -> ImagePart:
    start = 14 + 40 + 1024
    head = b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start)
    info = struct.pack("<IiiHHIIiiII", 40, *size, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return part(head + info + bytes(1024) + runs)


def test_run_length_bitmaps_are_decoded_unless_that_would_take_seconds() -> None:
    line = b"\x28\x00\x00\x00"  # forty pixels of colour 0, end of the line
    assert decode_image(run_length_bitmap((40, 20), line * 20 + b"\x00\x01")).size == (40, 20)
    for bomb in (run_length_bitmap((4000, 1000), b"\x01\x00" * 2_000_001), run_length_bitmap((5000, 5000), line)):
        with pytest.raises(InvalidImageError, match="run-length") as refusal:
            decode_image(bomb)
        assert refusal.value.code == "image_too_large"


@pytest.mark.parametrize("size", [(3900, 20), (40, 8000), (3000, 149), (16384, 82)])
def test_scaling_down_makes_no_picture_longer_in_proportion(size: tuple[int, int]) -> None:
    width, height = fit_size(*size, 2048)
    assert max(width, height) == 2048
    assert 2048 / min(width, height) <= max(size) / min(size)


def test_an_error_names_the_field_the_picture_came_in() -> None:
    cut = replace(part(encode(two_halves()).data[:60]), param="input[0].content[1].image_url")
    with pytest.raises(InvalidImageError) as refusal:
        decode_image(cut)
    assert refusal.value.param == "input[0].content[1].image_url"
