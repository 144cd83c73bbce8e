"""Pictures of every kind, whole and damaged."""

import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from everlearn.data.decode import decode_picture, fit, is_grey
from everlearn.errors import DataError

RGB = (3, 8, 8)


def gradient(height=8, width=8):
    return (
        (np.arange(height * width, dtype=np.uint32) * 255 // (height * width - 1))
        .astype(np.uint8)
        .reshape(height, width)
    )


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth=8, colour=2, data=b"\0"):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def error_of(path, **limits):
    with pytest.raises(DataError) as caught:
        decode_picture(path, RGB, **limits)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_lossless_formats_come_back_to_the_byte(tmp_path, suffix, mode):
    pixels = gradient() if mode == "L" else np.stack([gradient(), gradient()[::-1], gradient().T], 2)
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    found = decode_picture(tmp_path / f"a.{suffix}", RGB)
    expected = np.stack([pixels] * 3) if mode == "L" else pixels.transpose(2, 0, 1)
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected)


def test_grey_to_three_channels_and_back_is_the_same(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "a.png")
    grey, colour = decode_picture(tmp_path / "a.png", (1, 8, 8)), decode_picture(tmp_path / "a.png", RGB)
    assert np.array_equal(np.repeat(grey, 3, 0), colour)


def test_colour_to_grey_is_luma(tmp_path):
    Image.new("RGB", (8, 8), (200, 100, 50)).save(tmp_path / "a.png")
    expected = round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
    assert abs(int(decode_picture(tmp_path / "a.png", (1, 8, 8))[0, 0, 0]) - expected) <= 1


def test_one_bit_is_black_and_white(tmp_path):
    Image.fromarray(gradient() > 100).save(tmp_path / "a.png")
    assert np.array_equal(decode_picture(tmp_path / "a.png", (1, 8, 8))[0], np.where(gradient() > 100, 255, 0))


def test_palette_becomes_its_colours(tmp_path):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30] + [0] * 762)
    image.save(tmp_path / "a.png")
    assert decode_picture(tmp_path / "a.png", RGB)[:, 0, 0].tolist() == [10, 20, 30]


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (8, 8), (255, 0, 0, 0)).save(tmp_path / "a.tif")  # cyan
    Image.new("CMYK", (8, 8), (255, 0, 0, 0)).save(tmp_path / "a.jpg", quality=95)
    for name in ("a.tif", "a.jpg"):
        red, green, blue = decode_picture(tmp_path / name, RGB)[:, 4, 4].astype(int)
        assert red < 5 and green > 250 and blue > 250


@pytest.mark.parametrize("mode, colour", [("LA", (200, 0)), ("RGBA", (200, 200, 200, 0))])
def test_transparent_is_black_and_opaque_stays(tmp_path, mode, colour):
    image = Image.new(mode, (8, 8), colour)
    image.paste(Image.new(mode, (8, 4), (*colour[:-1], 255)), (0, 0))
    image.save(tmp_path / "a.png")
    found = decode_picture(tmp_path / "a.png", RGB)
    assert (found[:, :4] == 200).all()
    assert (found[:, 4:] == 0).all()


def test_half_transparent_is_half_as_bright():
    assert int(fit(Image.new("RGBA", (8, 8), (200, 100, 0, 128)), RGB)[0, 0, 0]) in (100, 101)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_keep_their_whole_range(tmp_path, suffix):
    values = (gradient().astype(np.uint16) * 257).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    assert np.array_equal(decode_picture(tmp_path / f"a.{suffix}", (1, 8, 8))[0], gradient())


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_wide_integers_and_floats_count_as_sixteen_bits(tmp_path, dtype):
    Image.fromarray((gradient().astype(np.int64) * 257).astype(dtype)).save(tmp_path / "a.tif")
    assert np.array_equal(decode_picture(tmp_path / "a.tif", (1, 8, 8))[0], gradient())


@pytest.mark.parametrize(
    "values, message",
    [
        (np.full((8, 8), 70000, np.int32), "expected 8 bits or 16"),
        (np.full((8, 8), -1, np.int32), "expected 8 bits or 16"),
        (np.full((8, 8), np.nan, np.float32), "expected 8 bits or 16"),
        (np.full((8, 8), 0.5, np.float32), "fractions"),
    ],
)
def test_values_of_no_known_range_are_refused(tmp_path, values, message):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=message):
        decode_picture(tmp_path / "a.tif", RGB)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_exif_turns_the_picture_upright(tmp_path, orientation, suffix):
    upright = np.zeros((8, 8), np.uint8)
    upright[:4, :4], upright[:4, 4:], upright[4:, :4] = 250, 150, 60  # each corner its own grey
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"jpg": {"quality": 100}, "webp": {"lossless": True}}.get(suffix, {})
    Image.fromarray(np.ascontiguousarray(stored)).convert("RGB").save(tmp_path / f"a.{suffix}", exif=exif, **options)
    found = decode_picture(tmp_path / f"a.{suffix}", (1, 8, 8))[0]
    assert np.abs(found.astype(int) - upright).max() <= 3


def test_a_wide_picture_loses_its_sides_and_keeps_its_proportions():
    wide = np.zeros((16, 64), np.uint8)
    wide[:, 24:40] = 255  # the centred square
    assert (fit(Image.fromarray(wide), (1, 16, 16)) == 255).all()


def test_shrinking_averages_instead_of_picking():
    checks = np.indices((64, 64)).sum(0) % 2 * 255
    found = fit(Image.fromarray(checks.astype(np.uint8)), (1, 8, 8))[0].astype(int)
    assert np.abs(found[1:-1, 1:-1] - 127).max() <= 2


def test_one_pixel_by_many_thousands_costs_no_memory(tmp_path):
    Image.new("L", (40000, 1), 90).save(tmp_path / "a.png")
    assert (decode_picture(tmp_path / "a.png", (1, 224, 224)) == 90).all()


def test_a_large_jpeg_read_at_a_fraction_looks_the_same(tmp_path):
    ramp = np.linspace(0, 255, 1024).astype(np.uint8)
    Image.fromarray(np.stack([np.tile(ramp, (1024, 1))] * 3, 2)).save(tmp_path / "a.jpg", quality=95)
    Image.fromarray(np.stack([np.tile(ramp, (1024, 1))] * 3, 2)).save(tmp_path / "a.png")
    small, exact = decode_picture(tmp_path / "a.jpg", (3, 32, 32)), decode_picture(tmp_path / "a.png", (3, 32, 32))
    assert np.abs(small.astype(int) - exact).max() <= 3


def test_grey_stored_as_colour_is_seen_as_grey(tmp_path):
    Image.fromarray(gradient(64, 64)).convert("RGB").save(tmp_path / "a.jpg", quality=60)
    assert is_grey(Image.open(tmp_path / "a.jpg"))
    assert not is_grey(Image.new("RGB", (8, 8), (10, 20, 10)))


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png(30000, 30000, data=bytes(100)))
    assert "pixels" in error_of(tmp_path / "bomb.png")
    (tmp_path / "large.png").write_bytes(png(10000, 10000))
    assert "10000 × 10000" in error_of(tmp_path / "large.png")


def test_limits_can_be_set(tmp_path):
    Image.new("RGB", (100, 100)).save(tmp_path / "a.bmp")
    assert "limit is 9,999 pixels" in error_of(tmp_path / "a.bmp", max_pixels=9_999)
    assert "limit is 1,000" in error_of(tmp_path / "a.bmp", max_bytes=1000)
    decode_picture(tmp_path / "a.bmp", RGB, max_pixels=10_000)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tif", "webp"])
def test_a_truncated_picture_is_refused(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / f"a.{suffix}")
    whole = (tmp_path / f"a.{suffix}").read_bytes()
    (tmp_path / f"a.{suffix}").write_bytes(whole[: len(whole) // 2])
    error_of(tmp_path / f"a.{suffix}")


def test_what_is_no_picture_gets_one_line(tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    assert "expected JPEG" in error_of(tmp_path / "text.jpg")
    (tmp_path / "empty.jpg").touch()
    assert "empty" in error_of(tmp_path / "empty.jpg")
    (tmp_path / "folder.jpg").mkdir()
    assert "is a folder; expected a file" in error_of(tmp_path / "folder.jpg")
    assert "No such file" in error_of(tmp_path / "missing.jpg")


def test_a_pipe_does_not_hang(tmp_path):
    import os

    os.mkfifo(tmp_path / "a.jpg")
    assert "no regular file" in error_of(tmp_path / "a.jpg")


def test_a_fresh_process_reads_every_format(tmp_path):
    for suffix in ("jpg", "png", "bmp", "tif", "webp"):
        Image.new("RGB", (8, 8), (9, 9, 9)).save(tmp_path / f"a.{suffix}")
    code = (
        "import sys; from everlearn.data.decode import decode_picture\n"
        "for suffix in ('tif', 'webp', 'bmp', 'png', 'jpg'):\n"
        "    assert decode_picture(f'{sys.argv[1]}/a.{suffix}', (3, 8, 8)).shape == (3, 8, 8)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_formats_that_need_helper_programs_are_refused(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
    assert "expected JPEG" in error_of(tmp_path / "a.jpg")


@st.composite
def broken(draw):
    """Bytes with a picture's beginning, or a real picture with some bytes replaced."""
    import io

    if draw(st.booleans()):
        start = draw(
            st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*", b"RIFF"])
        )
        return start + draw(st.binary(max_size=300))
    held = io.BytesIO()
    kind = draw(st.sampled_from(["JPEG", "PNG", "BMP", "TIFF", "WEBP"]))
    Image.fromarray(gradient()).convert(draw(st.sampled_from(["L", "RGB"]))).save(held, kind)
    data = bytearray(held.getvalue())
    for _ in range(draw(st.integers(1, 6))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(1, len(data)))])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=broken(), suffix=st.sampled_from(["jpg", "png", "bmp", "tif", "webp"]))
def test_random_bytes_give_a_picture_or_one_line(tmp_path, data, suffix):
    file = tmp_path / f"a.{suffix}"
    file.write_bytes(data)
    try:
        assert decode_picture(file, RGB).shape == RGB
    except DataError as error:
        assert "\n" not in str(error)
