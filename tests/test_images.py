"""images.py: any film file becomes the same float image; anything else is one line."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from cxrtrek_lib import images, paths
from cxrtrek_lib.simulate import render

NIH = paths.ROOT.parent / "shared" / "nih_sample"
RAMP = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48)


def dicom(path: Path, pixels: np.ndarray, **header) -> Path:
    """A minimal secondary capture file, written by pydicom."""
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
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


def test_compressed_dicom_from_pydicoms_own_files():
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    plain, packed = images.read(folder / "MR_small.dcm"), images.read(folder / "MR_small_RLE.dcm")
    np.testing.assert_array_equal(plain, packed)


def test_real_films_are_read():
    if not NIH.is_dir():
        pytest.skip(
            f"{NIH} is not on this machine: the sample of real NIH films is not part of the repository"
        )
    for path in sorted(NIH.glob("*.png"))[::60]:
        image = images.read(path)
        assert image.shape == (512, 512) and 0 <= image.min() < image.max() <= 1


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
        case "huge":
            Image.new("1", (20_000, 20_000)).save(path)
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


KINDS = [
    "truncated",
    "text",
    "empty",
    "one pixel",
    "huge",
    "animated",
    "flat dicom",
    "dicom without pixels",
    "cut dicom",
]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_film_is_one_line_with_the_path(tmp_path, kind):
    path = broken(tmp_path, kind)
    with pytest.raises(ValueError) as caught:
        images.read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


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
