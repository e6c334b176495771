"""images.py: any film file becomes the same float image; anything else is one line."""

import importlib.util
import io
import warnings
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from cxrtrek_lib import images, paths
from cxrtrek_lib.simulate import render

NIH = paths.ROOT.parent / "shared" / "nih_sample"
RAMP = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48)


def dicom(path: Path, pixels: np.ndarray, syntax: UID = ExplicitVRLittleEndian, **header) -> Path:
    """A minimal secondary capture file, written by pydicom; compressed pixels are given as PixelData."""
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = syntax
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = SecondaryCaptureImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = generate_uid(entropy_srcs=["x"])
    file.Rows, file.Columns = pixels.shape
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated = file.BitsStored = pixels.dtype.itemsize * 8
    file.HighBit, file.PixelRepresentation = file.BitsStored - 1, 0
    file.PixelData = pixels.tobytes()
    for name, value in header.items():
        setattr(file, name, value)
    file.save_as(path, enforce_file_format=True)
    return path


def test_an_8_bit_png_keeps_its_levels(tmp_path):
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16).repeat(4, 0).repeat(4, 1)
    Image.fromarray(gray).save(tmp_path / "a.png")
    image = images.read(tmp_path / "a.png")
    assert image.dtype == np.float32
    np.testing.assert_array_equal(np.round(image * 255), gray)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_grey_pictures_in_colour_files_are_grey(tmp_path, mode):
    gray = Image.fromarray(RAMP.astype(np.uint8))
    gray.convert(mode).save(tmp_path / "a.png")
    np.testing.assert_array_equal(np.round(images.read(tmp_path / "a.png") * 255), np.asarray(gray))


def test_16_bit_png_and_dicom_give_the_same_image(tmp_path):
    Image.fromarray(RAMP * 3).save(tmp_path / "a.png")
    dicom(tmp_path / "a.dcm", RAMP * 3)
    one, other = images.read(tmp_path / "a.png"), images.read(tmp_path / "a.dcm")
    np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(one, RAMP / RAMP.max(), atol=1e-6)


def test_jpeg_is_close_to_its_source(tmp_path):
    smooth = np.add.outer(np.arange(96), np.arange(96)).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(images.read(tmp_path / "a.jpg") * 255 - smooth).max() < 6


def test_monochrome1_is_the_negative(tmp_path):
    one = images.read(dicom(tmp_path / "1.dcm", RAMP, PhotometricInterpretation="MONOCHROME1"))
    two = images.read(dicom(tmp_path / "2.dcm", RAMP))
    np.testing.assert_allclose(one, 1 - two, atol=1e-6)


def test_rescale_and_window_as_the_standard_says(tmp_path):
    header = {"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": 1000, "WindowWidth": 1001}
    image = images.read(dicom(tmp_path / "a.dcm", RAMP, **header))
    # PS3.3 C.11.2.1.2: linear between centre - 0.5 -+ (width - 1) / 2, flat outside.
    expected = np.clip((2.0 * RAMP - 1000 - (1000 - 0.5)) / 1000 + 0.5, 0, 1)
    np.testing.assert_allclose(image, expected, atol=2e-3)


def test_a_dicom_file_without_suffix_is_known_by_its_preamble(tmp_path):
    path = dicom(tmp_path / "a.dcm", RAMP)
    path.rename(tmp_path / "film")
    assert images.read(tmp_path / "film").shape == (64, 48)


def test_12_stored_bits_and_signed_values(tmp_path):
    twelve = images.read(dicom(tmp_path / "12.dcm", RAMP, BitsStored=12, HighBit=11))
    np.testing.assert_allclose(twelve, RAMP / RAMP.max(), atol=1e-6)
    signed = (RAMP.astype(np.int32) - 1000).astype(np.int16)
    image = images.read(dicom(tmp_path / "signed.dcm", signed, PixelRepresentation=1))
    np.testing.assert_allclose(image, RAMP / RAMP.max(), atol=1e-6)


def test_of_several_windows_the_first_holds(tmp_path):
    one = images.read(dicom(tmp_path / "1.dcm", RAMP, WindowCenter=900, WindowWidth=600))
    both = {"WindowCenter": [900, 100], "WindowWidth": [600, 50]}
    np.testing.assert_array_equal(images.read(dicom(tmp_path / "2.dcm", RAMP, **both)), one)


def test_a_voi_table_is_looked_up(tmp_path):
    table = (np.arange(256, dtype=np.uint16) ** 2)[::-1].copy()
    entry = Dataset()
    entry.LUTDescriptor, entry.LUTData = [256, 500, 16], table.tobytes()
    image = images.read(dicom(tmp_path / "a.dcm", RAMP, VOILUTSequence=[entry]))
    # PS3.3 C.11.2.1.1: values below the first mapped one take the first entry, above the last the last.
    expected = table[np.clip(RAMP.astype(int) - 500, 0, 255)] / table.max()
    np.testing.assert_allclose(image, expected, atol=1e-6)


def test_rle_and_jpeg_2000_lose_nothing(tmp_path):
    plain = images.read(dicom(tmp_path / "plain.dcm", RAMP))
    file = pydicom.dcmread(tmp_path / "plain.dcm")
    file.compress(RLELossless)
    file.save_as(tmp_path / "rle.dcm")
    np.testing.assert_array_equal(images.read(tmp_path / "rle.dcm"), plain)
    packed = io.BytesIO()
    Image.fromarray(RAMP).save(packed, format="JPEG2000", irreversible=False, no_jp2=True)
    path = dicom(tmp_path / "j2k.dcm", RAMP, JPEG2000Lossless, PixelData=encapsulate([packed.getvalue()]))
    np.testing.assert_array_equal(images.read(path), plain)


def test_jpeg_baseline_dicom_is_close_to_its_source(tmp_path):
    smooth = np.add.outer(np.arange(96), np.arange(96)).astype(np.uint8)
    packed = io.BytesIO()
    Image.fromarray(smooth).save(packed, format="JPEG", quality=95)
    path = dicom(tmp_path / "a.dcm", smooth, JPEGBaseline8Bit, PixelData=encapsulate([packed.getvalue()]))
    assert np.abs(images.read(path) - smooth / smooth.max()).max() < 6 / 190


@pytest.fixture
def any_modality(monkeypatch):
    """pydicom's own files, in many encodings, are of scans."""
    monkeypatch.setattr(images, "MODALITIES", ("MR", "NM"))


def own(name: str) -> Path:
    """A file that comes with pydicom."""
    return Path(pydicom.__file__).parent / "data" / "test_files" / name


@pytest.mark.parametrize("kind", ["_RLE", "_bigendian", "_implicit", "_jp2klossless", "_padded"])
def test_every_encoding_of_one_image_gives_the_same(kind, any_modality):
    plain = images.read(own("MR_small.dcm"))
    np.testing.assert_array_equal(images.read(own(f"MR_small{kind}.dcm")), plain)


@pytest.mark.parametrize("name", ["MR_small_jpeg_ls_lossless.dcm", "JPGExtended.dcm"])
def test_a_missing_decoder_is_named(name, any_modality):
    if importlib.util.find_spec("libjpeg") is not None:
        pytest.skip("pylibjpeg-libjpeg is installed: nothing is missing")
    with pytest.raises(ValueError, match="pip install pylibjpeg pylibjpeg-libjpeg") as caught:
        images.read(own(name))
    assert "\n" not in str(caught.value)


@pytest.fixture
def chest(monkeypatch) -> dict[str, Path]:
    """RG1 of pydicom-data, a real chest film: 15 bits, MONOCHROME1, and the same as lossless JPEG 2000."""
    if importlib.util.find_spec("data_store") is None:
        pytest.skip("pydicom-data is not installed: pip install -r requirements.txt")
    return {kind: Path(get_testdata_file(f"RG1_{kind}.dcm", download=False)) for kind in ("UNCR", "J2KR")}


def test_a_real_dicom_chest_film(chest):
    plain = images.read(chest["UNCR"])
    assert plain.shape == (1955, 1841) and plain.dtype == np.float32
    assert (plain.min(), plain.max()) == (0, 1)
    # Lungs are dark and the spine between them is white, though the file stores the negative.
    lungs = np.concatenate([plain[500:900, 350:550].ravel(), plain[500:900, 1150:1400].ravel()])
    spine = plain[500:900, 850:950]
    assert np.median(lungs) < np.median(spine) - 0.15
    np.testing.assert_array_equal(images.read(chest["J2KR"]), plain)


def test_real_films_are_read():
    if not NIH.is_dir():
        pytest.skip(
            f"{NIH} is not on this machine: the sample of real NIH films is not part of the repository"
        )
    films = sorted(NIH.glob("*.png"))
    assert films
    for path in films[::60]:
        image = images.read(path)
        assert image.shape == (512, 512) and 0 <= image.min() < image.max() <= 1
        grey = np.asarray(Image.open(path).convert("L"))
        np.testing.assert_array_equal(np.round(image * 255), grey)


def test_a_simulated_film_survives_its_file(tmp_path):
    study = {"sample_id": "a/b/c", "patient_id": "a/b", "view": "PA", "findings": []}
    render.render(study, 128, 0, tmp_path / "film.png")
    image = images.read(tmp_path / "film.png")
    assert image.shape == (128, 128) and image.std() > 0.1
    assert Image.open(tmp_path / "film.png").text["image_origin"] == "simulated"


def broken(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / "film.png"
    gray = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8))
    match kind:
        case "truncated":
            gray.save(path)
            path.write_bytes(path.read_bytes()[:900])
        case "text":
            path.write_text("not a film")
        case "empty":
            path.touch()
        case "one pixel":
            gray.resize((1, 1)).save(path)
        case "flat":
            Image.new("L", (64, 64), 128).save(path)
        case "huge":
            Image.new("1", (20_000, 20_000)).save(path)
        case "large":  # Pillow only warns
            Image.new("1", (11_000, 13_000)).save(path)
        case "bomb":  # a small file whose header claims 60,000 x 60,000 pixels
            gray.save(path)
            data = path.read_bytes()
            head = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + data[24:29]
            path.write_bytes(data[:12] + head + zlib.crc32(head).to_bytes(4, "big") + data[33:])
        case "text bomb":
            text = PngInfo()
            text.add_text("note", " " * 90_000_000, zip=True)
            gray.save(path, pnginfo=text)
        case "gif":
            gray.save(path, format="GIF")
        case "cut jpeg":
            gray.save(path, format="JPEG")
            path.write_bytes(path.read_bytes()[:900])
        case "huge dicom":
            return dicom(tmp_path / "film.dcm", RAMP, Rows=20_000, Columns=20_000)
        case "one pixel dicom":
            return dicom(tmp_path / "film.dcm", RAMP[:1, :1])
        case "frames":
            return dicom(tmp_path / "film.dcm", RAMP, Rows=32, NumberOfFrames=2)
        case "scan":
            return dicom(tmp_path / "film.dcm", RAMP, Modality="CT")
        case "palette":
            return dicom(tmp_path / "film.dcm", RAMP, PhotometricInterpretation="PALETTE COLOR")
        case "mask":
            return own("liver_1frame.dcm")
        case "dose":
            return own("rtdose_1frame.dcm")
        case "report":
            return own("test-SR.dcm")
        case "no header":
            return own("no_meta.dcm")
        case "animated":
            gray.save(path, save_all=True, append_images=[gray.rotate(90)])
        case "flat dicom":
            return dicom(tmp_path / "film.dcm", RAMP * 0)
        case "dicom without pixels":
            path = dicom(tmp_path / "film.dcm", RAMP)
            file = pydicom.dcmread(path)
            del file.PixelData
            file.save_as(path)
        case "cut dicom":
            path = dicom(tmp_path / "film.dcm", RAMP)
            path.write_bytes(path.read_bytes()[:-2000])
    return path


# What is wrong -> a word of the line that says so.
KINDS = {
    "truncated": "cut off",
    "text": "damaged",
    "empty": "damaged",
    "one pixel": "1 x 1 pixels",
    "flat": "same value",
    "huge": "pixels",
    "large": "11000 x 13000",
    "bomb": "pixels",
    "text bomb": "damaged",
    "animated": "2 frames",
    "gif": "not a PNG or JPEG",
    "cut jpeg": "cut off",
    "flat dicom": "same value",
    "dicom without pixels": "without pixels",
    "cut dicom": "cannot be decoded",
    "huge dicom": "20000 x 20000",
    "one pixel dicom": "1 x 1 pixels",
    "frames": "2 frames",
    "scan": "modality 'CT' is not a radiograph",
    "palette": "PALETTE COLOR",
    "mask": "1 bits",
    "dose": "32 bits",
    "report": "without pixels",
    "no header": "not a readable DICOM",
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_film_is_one_line_with_the_path(tmp_path, kind):
    path = broken(tmp_path, kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError) as caught:
            images.read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert KINDS[kind] in str(caught.value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1), suffix=st.sampled_from([".png", ".jpg", ".dcm"]))
def test_a_file_cut_anywhere_is_the_same_film_or_one_line(tmp_path, share, suffix):
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    if not whole.exists():
        noise = np.random.default_rng(0).integers(0, 255, (48, 40), dtype=np.uint8)
        dicom(whole, noise) if suffix == ".dcm" else Image.fromarray(noise).save(whole)
    data = whole.read_bytes()
    cut.write_bytes(data[: int(share * len(data))])
    try:
        image = images.read(cut)
    except ValueError as error:
        assert str(cut) in str(error) and "\n" not in str(error)
    else:  # what was cut off was not part of the picture
        np.testing.assert_array_equal(image, images.read(whole))


def test_colour_is_refused(tmp_path):
    rgb = np.zeros((64, 64, 3), dtype=np.uint8)
    rgb[..., 0] = 200
    Image.fromarray(rgb).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="colour"):
        images.read(tmp_path / "a.png")


def test_a_missing_film_is_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such film"):
        images.read(tmp_path / "none.png")


@given(st.integers(40, 90), st.integers(40, 90), st.integers(32, 64))
def test_resize_keeps_range_and_mean(height, width, size):
    image = np.random.default_rng(height * width).random((height, width)).astype(np.float32)
    smaller = images.resize(image, size)
    assert smaller.shape == (size, size) and 0 <= smaller.min() <= smaller.max() <= 1
    assert abs(smaller.mean() - image.mean()) < 0.05


def test_resize_halves_by_averaging():
    image = np.kron(np.random.default_rng(0).random((32, 32)), np.ones((2, 2))).astype(np.float32)
    row = images.resize(np.ones((64, 64), np.float32) * np.linspace(0, 1, 64, dtype=np.float32), 32)[0]
    np.testing.assert_allclose(np.diff(row)[1:-1], 2 / 63, atol=2e-3)
    assert images.resize(image, 64) is image
