"""Pictures that move: a GIF by Pillow, an MP4 by ffmpeg where that is installed."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from impasto.config import ConfigError
from impasto.runtime.files import atomic_path

MOVING = (".gif", ".mp4")
FRAME_SECONDS = 0.12


def check_animation(path: Path) -> None:
    """ConfigError where a path is neither .gif nor .mp4, or where ffmpeg is wanted and not there."""
    if path.suffix not in MOVING:
        raise ConfigError(f"{path} should end in {' or '.join(MOVING)}")
    if path.suffix == ".mp4" and shutil.which("ffmpeg") is None:
        raise ConfigError(f"{path} needs ffmpeg, which is not installed; name a .gif instead")


def save_animation(frames: Sequence[Image.Image], path: Path, seconds: float = FRAME_SECONDS) -> None:
    """Frames there and back again, `seconds` each, by the suffix of `path`. ConfigError as `check_animation`,
    and where ffmpeg fails."""
    check_animation(path)
    loop = [*frames, *frames[-2:0:-1]]
    if path.suffix == ".gif":
        rest = {"append_images": loop[1:], "duration": round(1000 * seconds), "loop": 0}
        with atomic_path(path) as temporary:
            loop[0].save(temporary, format="GIF", save_all=True, **rest)
        return
    width, height = (side + side % 2 for side in loop[0].size)  # the format wants even sides
    raw = b"".join(frame.convert("RGB").resize((width, height)).tobytes() for frame in loop)
    with atomic_path(path) as temporary:
        command = ["ffmpeg", "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
        command += ["-s", f"{width}x{height}", "-r", f"{1 / seconds:.3f}", "-i", "-"]
        command += ["-pix_fmt", "yuv420p", "-f", "mp4", str(temporary)]
        done = subprocess.run(command, input=raw, capture_output=True, check=False)
        if done.returncode:
            raise ConfigError(f"{path}: ffmpeg failed: {done.stderr.decode(errors='replace').strip()[:200]}")
