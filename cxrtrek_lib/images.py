"""Films in files: PNG, JPEG or DICOM to one grey float image in [0, 1], or one line that says why not."""

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image, UnidentifiedImageError
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom")
BITS = (8, 16)  # a DICOM film's grey levels; masks have 1 bit, dose maps 32
# What a DICOM header may call a plain radiograph (PS3.3, C.7.3.1.1.1); OT is any secondary capture.
MODALITIES = ("CR", "DX", "RG", "RF", "OT", "")
SIDES = (32, 10_000)  # pixels; below: no film, above: a decompression bomb or a scanned wall
_EIGHT_BIT = ("L", "LA", "RGB", "RGBA", "P")
# What pydicom decodes only with another package; Pillow has the other kinds of JPEG.
_PYLIBJPEG = (JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless)
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")


def read(path: Path) -> np.ndarray:
    """One film as float32 (H, W) in [0, 1], 1 = white = dense tissue.

    8-bit files are divided by 255. Deeper ones (16-bit PNG, DICOM) use part of their range, which no header
    states reliably: their own lowest and highest value become 0 and 1, for DICOM after the modality and
    VOI transformations of the file (its first window, or its VOI LUT); MONOCHROME1 is inverted. Files without
    a known suffix are tried as DICOM when they carry its preamble. Compressed DICOM: RLE, deflated, JPEG
    baseline and JPEG 2000 are decoded; lossless JPEG, JPEG with 12 bits and JPEG-LS need the optional
    pylibjpeg. Raises FileNotFoundError or ValueError, one line with the path, for anything that is not one
    grey still radiograph of 32 to 10,000 pixels a side with at least two grey levels.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such film; check the image folder in params.yaml")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd headers, large images: what matters is checked here
            image = _dicom(path) if _is_dicom(path) else _picture(path)
        if image.min() == image.max():
            raise _Unfit("every pixel has the same value")
        return image
    except _Unfit as error:
        raise ValueError(f"{path}: {error}; give one grey PNG, JPEG or DICOM film") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or type(error).__name__})") from None


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """float32 (size, size) in [0, 1] from (H, W): averaging when it shrinks; the aspect ratio is not kept.

    Stretching instead of padding keeps every box right, since boxes are percent of the image.
    """
    if image.shape == (size, size):
        return image
    whole = Image.fromarray(np.ascontiguousarray(image, dtype=np.float32))
    return np.clip(np.asarray(whole.resize((size, size), Image.Resampling.BILINEAR)), 0, 1)


class _Unfit(ValueError):
    """Why a file is no film; `read` adds the path and the fix."""


def _is_dicom(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(132)
    return head[128:] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom")


def _check_sides(width: int, height: int) -> None:
    if not (SIDES[0] <= width <= SIDES[1] and SIDES[0] <= height <= SIDES[1]):
        raise _Unfit(f"{width} x {height} pixels; a film has {SIDES[0]} to {SIDES[1]} a side")


def _stretched(values: np.ndarray) -> np.ndarray:
    """float32 with the lowest value 0 and the highest 1."""
    values = values.astype(np.float64)
    low, high = values.min(), values.max()
    if not np.isfinite(high - low):
        raise _Unfit("some pixels have no finite value")
    return ((values - low) / max(high - low, 1e-9)).astype(np.float32)


def _picture(path: Path) -> np.ndarray:
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            _check_sides(*image.size)
            if getattr(image, "n_frames", 1) > 1:
                raise _Unfit(f"{image.n_frames} frames")
            image.load()
            if image.mode in _SIXTEEN_BIT:
                return _stretched(np.asarray(image))
            if image.mode not in _EIGHT_BIT:
                raise _Unfit(f"pixel mode {image.mode!r} is not 8 or 16 bit grey")
            if image.mode == "L":
                return np.asarray(image, dtype=np.float32) / np.float32(255)
            red, green, blue, _ = np.moveaxis(np.asarray(image.convert("RGBA")), -1, 0)
    except UnidentifiedImageError:
        raise _Unfit("not a PNG or JPEG image, or a damaged one") from None
    except Image.DecompressionBombError:
        raise _Unfit("far more pixels than a film has") from None
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, _Unfit):
            raise
        raise _Unfit(f"damaged or cut off ({str(error).splitlines()[0]})") from None
    if np.any(red != green) or np.any(red != blue):
        raise _Unfit("a colour image")
    return red.astype(np.float32) / np.float32(255)


def _dicom(path: Path) -> np.ndarray:
    try:
        # Pixels stay in the file until the header has said that they are those of a film.
        file = pydicom.dcmread(path, defer_size="1 MB")
        frames, kind = int(file.get("NumberOfFrames") or 1), file.get("PhotometricInterpretation", "")
        width, height = int(file.get("Columns") or 0), int(file.get("Rows") or 0)
        allocated, stored = int(file.get("BitsAllocated") or 0), int(file.get("BitsStored") or 0)
        modality = str(file.get("Modality") or "")
        syntax = file.file_meta.TransferSyntaxUID
    except Exception as error:  # pydicom raises many kinds on damaged files
        raise _Unfit(f"not a readable DICOM file ({type(error).__name__})") from None
    if "PixelData" not in file:
        raise _Unfit("a DICOM file without pixels")
    if frames > 1:
        raise _Unfit(f"{frames} frames")
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise _Unfit(f"photometric interpretation {kind!r} is not grey")
    if allocated not in BITS:
        raise _Unfit(f"{allocated} bits per pixel, not {BITS[0]} to {BITS[1]}")
    if modality not in MODALITIES:
        raise _Unfit(f"modality {modality!r} is not a radiograph")
    _check_sides(width, height)
    if syntax in _PYLIBJPEG or syntax == JPEGExtended12Bit and stored > 8:
        if importlib.util.find_spec("libjpeg") is None:
            raise _Unfit(f"{syntax.name} needs a decoder: pip install pylibjpeg pylibjpeg-libjpeg") from None
    try:
        values = file.pixel_array
        if values.shape != (height, width):
            raise _Unfit(f"pixels of shape {values.shape}, header says {height} rows and {width} columns")
        values = apply_voi_lut(apply_modality_lut(values, file), file)
    except _Unfit:
        raise
    except Exception as error:  # cut pixel data, broken tables, another decoder missing: pydicom says which
        reason = " ".join(str(error).split()) or type(error).__name__
        raise _Unfit(f"pixels cannot be decoded ({reason[:160]})") from None
    image = _stretched(values)
    return 1 - image if kind == "MONOCHROME1" else image
