"""Films in files: PNG, JPEG or DICOM to one grey float image in [0, 1], or one line that says why not."""

import warnings
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image, UnidentifiedImageError
from pydicom.pixels import apply_modality_lut, apply_voi_lut

SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom")
SIDES = (32, 10_000)  # pixels; below: no film, above: a decompression bomb or a scanned wall
_EIGHT_BIT = ("L", "LA", "RGB", "RGBA", "P")
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")


def read(path: Path) -> np.ndarray:
    """One film as float32 (H, W) in [0, 1], 1 = white = dense tissue.

    8-bit files are divided by 255. Deeper ones (16-bit PNG, DICOM) use part of their range, which no header
    states reliably: their own lowest and highest value become 0 and 1, for DICOM after the modality and
    VOI transformations of the file; MONOCHROME1 is inverted. Files without a known suffix are tried as
    DICOM when they carry its preamble. Raises FileNotFoundError or ValueError, one line with the path, for
    anything that is not one grey still image of 32 to 10,000 pixels a side.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such film; check the image folder in params.yaml")
    try:
        return _dicom(path) if _is_dicom(path) else _picture(path)
    except _Unfit as error:
        raise ValueError(f"{path}: {error}; give one grey PNG, JPEG or DICOM film") from None


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
    if not np.isfinite(high - low) or high <= low:
        raise _Unfit("every pixel has the same value")
    return ((values - low) / (high - low)).astype(np.float32)


def _picture(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
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
        raise _Unfit("not an image, or a damaged one") from None
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd but harmless headers: what matters is checked here
        try:
            file = pydicom.dcmread(path)
            frames, kind = int(file.get("NumberOfFrames", 1) or 1), file.get("PhotometricInterpretation", "")
            width, height = int(file.get("Columns", 0)), int(file.get("Rows", 0))
        except Exception as error:  # pydicom raises many kinds on damaged files
            raise _Unfit(f"not a readable DICOM file ({type(error).__name__})") from None
        if "PixelData" not in file:
            raise _Unfit("a DICOM file without pixels")
        if frames > 1:
            raise _Unfit(f"{frames} frames")
        if kind not in ("MONOCHROME1", "MONOCHROME2"):
            raise _Unfit(f"photometric interpretation {kind!r} is not grey")
        _check_sides(width, height)
        try:
            values = apply_voi_lut(apply_modality_lut(file.pixel_array, file), file)
        except Exception as error:  # missing decoder, cut pixel data, broken tables: pydicom says which
            reason = " ".join(str(error).split()) or type(error).__name__
            raise _Unfit(f"pixels cannot be decoded ({reason[:160]})") from None
    image = _stretched(values)
    return 1 - image if kind == "MONOCHROME1" else image
