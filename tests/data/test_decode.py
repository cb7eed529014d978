import io
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile

from litv2_jax import predict
from litv2_jax.data import decode as decoding
from litv2_jax.data.decode import decode
from litv2_jax.data.transforms.imagenet import EvalTransform, TrainTransform
from litv2_jax.data.transforms.segmentation import decode_pair
from litv2_jax.data.unreadable import UnreadableImageError, read_readable

HEIGHT, WIDTH = 40, 50
GREY = (np.arange(HEIGHT * WIDTH) * 256 // (HEIGHT * WIDTH)).reshape(HEIGHT, WIDTH)
GREY = GREY.astype(np.uint8)
COLOR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], -1)


def encode(image, kind="PNG", **options) -> bytes:
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def animation(kind: str) -> bytes:
    frames = [Image.fromarray(COLOR), Image.fromarray(255 - COLOR)]
    options = {"save_all": True, "append_images": frames[1:]}
    return encode(
        frames[0], kind, **options, **({"lossless": True} if kind != "GIF" else {})
    )


# Each with the levels that it shows, and how far rounding and JPEG may be off.
KINDS = {
    "RGB": (encode(COLOR), COLOR, 0),
    "grey": (encode(GREY), GREY, 0),
    "1 bit": (encode(GREY > 127), np.where(GREY > 127, 255, 0), 0),
    "16 bits": (encode(GREY.astype(np.uint16) * 257), GREY, 0),
    "16 bits, TIFF": (encode(GREY.astype(np.uint16) * 257, "TIFF"), GREY, 0),
    "16 bits, PPM": (
        encode(Image.fromarray(GREY.astype(np.int32) * 257), "PPM"),
        GREY,
        0,
    ),
    "16 bits in 32": (encode(GREY.astype(np.int32) * 257, "TIFF"), GREY, 0),
    "8 bits in 32": (encode(GREY.astype(np.int32), "TIFF"), GREY, 0),
    "float to 1": (encode(GREY.astype(np.float32) / 255, "TIFF"), GREY, 0),
    "float to 255": (encode(GREY.astype(np.float32), "TIFF"), GREY, 0),
    "float to 65535": (encode(GREY.astype(np.float32) * 257, "TIFF"), GREY, 0),
    "CMYK": (encode(Image.fromarray(COLOR).convert("CMYK"), "JPEG"), COLOR, 12),
    "grey and alpha": (
        encode(Image.fromarray(np.stack([GREY, GREY[::-1]], -1), "LA")),
        GREY,
        0,
    ),
    "RGB and alpha": (
        encode(np.concatenate([COLOR, GREY[..., None]], -1)),
        COLOR,
        0,
    ),
    "palette": (encode(Image.fromarray(GREY).convert("P")), GREY, 0),
    "palette with transparency": (
        encode(Image.fromarray(GREY).convert("P"), transparency=bytes(range(256))),
        GREY,
        0,
    ),
    "grey with a transparent level": (
        encode(Image.fromarray(GREY), transparency=128),
        GREY,
        0,
    ),
    "animated WebP": (animation("WEBP"), COLOR, 0),
    "animated PNG": (animation("PNG"), COLOR, 0),
    "animated GIF": (animation("GIF"), COLOR, 40),
}


@pytest.mark.parametrize("name", KINDS)
def test_everything_that_reads_images_sees_the_same_pixels(name, tmp_path):
    """Training, evaluation and prediction of both tasks, and what the file shows."""
    data, levels, tolerance = KINDS[name]
    expected = levels if levels.ndim == 3 else np.stack([levels] * 3, -1)
    pixels = np.asarray(decode(data))
    assert pixels.dtype == np.uint8
    distance = np.abs(pixels.astype(int) - expected)
    assert np.median(distance) <= tolerance
    if not tolerance:
        np.testing.assert_array_equal(pixels, expected)

    path = tmp_path / "image"
    path.write_bytes(data)
    np.testing.assert_array_equal(np.asarray(predict.read_image(path)), pixels)
    pair = {"image": data, "annotation": encode(np.zeros_like(GREY))}
    np.testing.assert_array_equal(decode_pair(pair, "class")[0], pixels)
    record = {"image": data, "label": 0}
    resized = Image.fromarray(pixels).resize((24, 24), Image.Resampling.BICUBIC)
    found = EvalTransform(24, 1.0).map(record)["image"]
    np.testing.assert_array_equal(found, np.asarray(resized))
    whole = TrainTransform(24, scale=(1.0, 1.0), ratio=(1.25, 1.25), flip=0.0)
    found = whole.random_map(record, np.random.default_rng(0))["image"]
    np.testing.assert_array_equal(found, np.asarray(resized))


@pytest.mark.parametrize("kind", ["I;16", "I;16B", "I;16L", "I;16N"])
def test_sixteen_bits_of_any_byte_order_lose_the_lower_eight(kind, monkeypatch):
    levels = GREY.astype(">u2" if kind == "I;16B" else "<u2") * 257
    image = Image.frombytes(kind, (WIDTH, HEIGHT), levels.tobytes())
    found = np.asarray(decoding.to_rgb(image))
    np.testing.assert_array_equal(found, np.stack([GREY] * 3, -1))


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (np.full((4, 4), -1, np.int32), "its levels go from -1 to -1, so that it is"),
        (np.full((4, 4), 10**6, np.int32), "from 1e\\+06 to 1e\\+06"),
        (np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4), "from -1 to 1"),
        (np.full((4, 4), np.nan, np.float32), "from nan to nan"),
        (np.full((4, 4), np.inf, np.float32), "from inf to inf"),
    ],
)
def test_levels_of_which_none_is_white_are_refused(levels, message):
    with pytest.raises(UnreadableImageError, match=f"{message}.*8 or 16 bits"):
        decode(encode(levels, "TIFF"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_orientation_is_ignored_or_applied_as_opencv_does(kind, orientation):
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:8, :16] = 200, 40, 90
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {} if kind != "WEBP" else {"lossless": True}
    data = encode(pixels, kind, exif=exif, **options)
    stored = encode(pixels, kind, **options)
    np.testing.assert_array_equal(np.asarray(decode(data)), np.asarray(decode(stored)))
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    found = np.asarray(decode(data, "applied"))
    np.testing.assert_array_equal(found, expected[..., ::-1])


@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\xff", b"x" * 9]
)
def test_damaged_exif_data_say_nothing(exif):
    data = encode(COLOR, exif=exif)
    expected = np.asarray(decode(data))
    np.testing.assert_array_equal(np.asarray(decode(data, "applied")), expected)


def test_a_setting_that_is_none_is_refused():
    for create in (
        lambda: decode(encode(COLOR), "turned"),
        lambda: EvalTransform(24, 1.0, "turned"),
        lambda: TrainTransform(24, scale=(1, 1), ratio=(1, 1), flip=0, exif="turned"),
    ):
        with pytest.raises(ValueError, match="exif is 'turned'; use ignored or appli"):
            create()


def test_a_file_that_is_a_program_is_not_run():
    """Pillow has Ghostscript draw them, if it is there."""
    data = encode(COLOR, "EPS")
    assert Image.open(io.BytesIO(data)).format == "EPS"
    with pytest.raises(
        UnreadableImageError, match="no image of a format that is known"
    ):
        decode(data)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "there is too little memory for it"),
        (EOFError(), "^EOFError$"),
        (RecursionError("too deep"), "RecursionError: too deep"),
        (AssertionError("odd"), "AssertionError: odd"),
        (Image.DecompressionBombError("too large"), "BombError: too large"),
    ],
)
def test_whatever_pillow_raises_makes_an_image_unreadable(error, message, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(UnreadableImageError, match=message):
        decode(encode(COLOR))
    pair = {"image": encode(COLOR), "annotation": encode(GREY)}
    with pytest.raises(UnreadableImageError, match=message):
        decode_pair(pair, "class")


def test_an_empty_file_is_called_that():
    with pytest.raises(UnreadableImageError, match="known: the file is empty"):
        decode(b"")


def test_pillow_makes_no_remarks_between_the_lines_of_a_run(tmp_path):
    (tmp_path / "large.png").write_bytes(encode(np.zeros((9_500, 9_500), bool)))
    code = (
        "import pathlib, sys; from litv2_jax.data.decode import open_image;"
        "print(open_image(pathlib.Path(sys.argv[1]).read_bytes()).size)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "large.png")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "(9500, 9500)\n"
    assert "Warning" not in result.stderr


def test_memory_that_runs_out_in_a_transform_makes_a_record_unreadable():
    def transform(record):
        if record == 1:
            raise MemoryError
        return {"number": record}

    arrays, is_itself = read_readable([0, 1, 2], 1, transform)
    assert (arrays["number"], is_itself) == (2, False)
