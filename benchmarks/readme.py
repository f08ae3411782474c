"""How long the README's commands take, one after another in an empty folder, as a newcomer types them.

    python -m benchmarks.readme [--quick] [--json FILE]

Seconds by the clock and of the processor, start of Python included. Left out are setting up (`make`, `pip`),
the authors' checkpoint, which is not here, and the server, which does not end. `make demo` comes first, of an
environment that is set up.
"""

import re
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import arguments_of, processor_and_system_seconds, write_result

README = Path(__file__).parents[1] / "README.md"
NOT_RUN = ("make", "git", "pip", "impasto convert", "impasto serve")


def commands() -> list[str]:
    """All lines of the README's shell blocks, without remarks."""
    blocks = re.findall(r"```bash\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    lines = [line.split("  #")[0].strip() for line in lines]
    return [line for line in lines if line and not line.startswith("#")]


def timed(command: list[str], folder: Path) -> dict[str, float]:
    """Seconds of one command, which must end well."""

    def run() -> None:
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)

    started = time.perf_counter()
    processor, _ = processor_and_system_seconds(run, resource.RUSAGE_CHILDREN)
    return {"seconds": time.perf_counter() - started, "processor_seconds": processor}


def main(argv: list[str] | None = None) -> int:
    arguments = arguments_of(__doc__, argv)
    wanted = [line for line in commands() if not line.startswith(NOT_RUN)]
    if arguments.quick:
        wanted = [line for line in wanted if line.startswith(("impasto list", "impasto info"))]
    found = {}
    with tempfile.TemporaryDirectory() as name:
        runs = {
            line: ([sys.executable, "-m", "impasto.cli", *shlex.split(line)[1:]], name) for line in wanted
        }
        if not arguments.quick:
            runs = {"make demo": (["make", "demo"], str(README.parent)), **runs}
        for line, (command, folder) in runs.items():
            found[line] = timed(command, Path(folder))
            print(
                f"{found[line]['seconds']:8.1f} s{found[line]['processor_seconds']:8.1f} s  {line}",
                flush=True,
            )
    write_result(arguments.json, {"commands": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
