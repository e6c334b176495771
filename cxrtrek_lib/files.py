"""Write a file whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole(path: Path | str) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an error.

    The folder is made when missing. Nothing is left behind, and an older file stays whole, when anything
    fails. Raises ValueError, one line naming the file, when it cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise ValueError(f"{path}: cannot write ({reason}); make the folder writable or free space") from None
    finally:
        with suppress(OSError):  # its folder may not even be one
            temporary.unlink(missing_ok=True)
