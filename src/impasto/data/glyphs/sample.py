"""The sample that comes with Impasto: some 500 pictures of Open Glyphs' `train`, openable as
`openglyphs:sample`. `sampling.py` writes it."""

from pathlib import Path

SAMPLE_NAME = "openglyphs:sample"


def sample_folder() -> Path:
    """Where the sample lies: NOTICE and one tar file."""
    return Path(__file__).parent / "sample"
