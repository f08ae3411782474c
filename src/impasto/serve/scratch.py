"""Files that the page offers: one visitor's pictures, for an hour."""

from __future__ import annotations

import secrets
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from impasto.pictures import encode_png

KEPT_SECONDS = 3600.0


@dataclass
class Scratch:
    """Files for the page, deleted after an hour and at the end."""

    _folder: Any = field(default_factory=lambda: tempfile.TemporaryDirectory(prefix="impasto-page-"))

    def write(self, name: str, data: bytes) -> str:
        """Its path."""
        self._forget()
        folder = Path(self._folder.name) / secrets.token_hex(8)
        folder.mkdir()
        (folder / name).write_bytes(data)
        return str(folder / name)

    def save(self, name: str, picture: Image.Image, settings: dict[str, Any] | None = None) -> str:
        return self.write(name, encode_png(picture, settings))

    def _forget(self) -> None:
        for folder in Path(self._folder.name).iterdir():
            try:
                if time.time() - folder.stat().st_mtime > KEPT_SECONDS:
                    for file in folder.iterdir():
                        file.unlink()
                    folder.rmdir()
            except OSError:
                continue  # another thread was first
