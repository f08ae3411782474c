"""benchmarks/RESULTS.md, from the files that the scripts have left."""

import ast
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.aims import Document, aims
from benchmarks.common import Spread

from impasto.runtime.files import atomic_write_text

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = "RESULTS.md"
WITHOUT_SYSTEM = "without the system's"

HEAD = """# What was measured

Written by `make bench` (`python -m benchmarks.everything --page`) from the JSON files in `{folder}`;
each has its command. Processor seconds, medians with the least and the most in brackets, one thread, fp32,
unless a line says otherwise. Load is of the last quarter of an hour: above 1, other work shared the
processor, which makes all processor seconds longer, by up to a half, and leaves the ratios of ways that take
turns. *Without the system's* is the ratio of the seconds that the programs spent themselves. Memory that is
asked for anew comes in pages of 4 KB, each cleared by the operating system first, for what is noted beside
each command as the price of a page (virtual machines are dear), and a program that makes large tensors again
and again can owe most of its time to that. Where pages are cheap expect ratios near that column. Aims are the
project's own; where one is missed its reason stands beside it.

{versions}
"""

GPU = """## GPU

No script was run on a GPU, so that no table has a column for one; [docs/gpu.md](../docs/gpu.md) lists what
was run there and when.
"""

# Quotations, word for word, and where each number comes from; a test holds README.md to them.
README_NUMBERS = (
    ("images within 1e-5 of the recorded tensors, every routing decision",
     "`pytest tests/aurora/test_official.py`"),
    ("Aurora on scenes 0.74 (seen combinations) and 0.73 (unseen) where chance is 0.04 and 0.14",
     "`impasto evaluate aurora-scenes-32`: [models](../docs/models.md), its card in `src/impasto/models/`"),
    ("MARS 0.36 and 0.22 where chance is 0.05 and 0.10",
     "`impasto evaluate mars-scenes`: [models](../docs/models.md), its card"),
    ("shapes in two pictures of five", "the same: [MARS](../docs/mars.md#what-mars-scenes-is)"),
    ("21,760 openly licensed emoji", "`impasto data build openglyphs`: [data](../docs/data.md)"),
    ("37,612 pictures with icons, clip art and photographs", "the same"),
    ("each trained on a CPU core or two in an hour or two", "[training](../docs/training.md), "
     "[MARS](../docs/mars.md#what-mars-scenes-is): each run's seconds"),
    ("at toy size in under a minute", "[the README's commands](#readme)"),
    ("ablations of sixteen cells and three seeds", "[exploring](../docs/exploring.md#ablations)"),
)  # fmt: skip


def spread(found: Mapping[str, float]) -> str:
    return str(Spread(**{name: found[name] for name in ("median", "least", "most")}))


def own_ratio(theirs: Mapping[str, float], ours: Mapping[str, float]) -> str:
    """Of seconds without the operating system's."""
    if "system" not in ours:
        return "not noted"
    return f"{(theirs['median'] - theirs['system']) / (ours['median'] - ours['system']):.2f}"


def table(head: str, rows: list[list[str]]) -> list[str]:
    names = [name.strip() for name in head.split("|")]
    return [
        f"| {' | '.join(names)} |",
        "|---" * len(names) + "|",
        *(f"| {' | '.join(r)} |" for r in rows),
        "",
    ]


def generator(found: Document) -> list[str]:
    rows = [
        [row["size"], str(row["batch"]), spread(ours := row["seconds"]["impasto_fp32"]),
         spread(theirs := row["seconds"]["transcription_fp32"]), f"{row['ratio']['fp32']:.2f}",
         own_ratio(theirs, ours)]
        for row in found["rows"]
    ]  # fmt: skip
    lines = table(f"size | batch | ours, s | transcription, s | ratio | {WITHOUT_SYSTEM}", rows)
    for name, one in found["processes"].items():
        peak, clock = one["peak_bytes"] / 1e9, one["start_processor_seconds"]
        lines += [f"A process that opens {name} and draws: {peak:.2f} GB, open after {clock:.1f} s.", ""]
    return lines


def experts(found: Document) -> list[str]:
    ways = list(found["rows"][0]["against_dense"])
    rows = [
        [str(row["experts"]), f"{row['tokens']:,}", "with backward" if row["backward"] else "forward",
         spread(seconds := row["seconds"]["dense"]), *(f"{row['against_dense'][way]:.2f}" for way in ways),
         own_ratio(row["seconds"]["sliced"], seconds)]
        for row in found["rows"]
    ]  # fmt: skip
    return table(f"experts | tokens | | dense, s | {' | '.join(ways)} | sliced, {WITHOUT_SYSTEM}", rows)


def training(found: Document) -> list[str]:
    rows = [
        [part, spread(one["impasto"]), spread(one["gigagan_pytorch"]) if "ratio" in one else "",
         f"{one['ratio']:.2f}" if "ratio" in one else "not installed",
         own_ratio(one["gigagan_pytorch"], one["impasto"]) if "ratio" in one else ""]
        for part, one in found["parts"].items()
    ]  # fmt: skip
    lines = table(f"part | ours, s | gigagan-pytorch, s | ratio | {WITHOUT_SYSTEM}", rows)
    return [*lines, f"{found['side']} px, batch {found['batch']}; parameters {found['parameters']}.", ""]


def data(found: Document) -> list[str]:
    rows = [
        [way, spread(one), f"{found['samples_per_core_second'][way]:.0f}"]
        for way, one in found["seconds_a_batch"].items()
    ]
    return table("way | s a batch of 8 | samples a second", rows)


def mars(found: Document) -> list[str]:
    rows = []
    for row in found["speeds"]:
        ours = row["ours"]["processor"]
        others = [row[name]["processor"] for name in ("transformers", "doubled")]
        ratios = [f"{one['median'] / ours['median']:.2f}" for one in others]
        first = [str(row["batch"]), str(row["tokens"]), spread(ours), spread(others[0])]
        rows.append([*first, ratios[0], own_ratio(others[0], ours), ratios[1]])
    head = (
        f"batch | tokens | ours, s | generate, s | ratio | {WITHOUT_SYSTEM} | generate, doubled batch: ratio"
    )
    return table(head, rows)


def estimate(found: Document) -> list[str]:
    rows = []
    for number, row in enumerate(found["rows"]):
        name, processes = row["configuration"]["name"], row["configuration"]["processes"]
        kind = "calibrates" if number < found["calibrating"] else "" if processes == 1 else "memory alone"
        time = [f"{row['predicted_seconds']:.2f}", f"{row['time_error']:+.1%}"]
        rows.append(
            [name, kind, f"{row['measured_megabytes']:.0f}", f"{row['predicted_megabytes']:.0f}",
             f"{row['memory_error']:+.1%}", spread(row["measured_seconds"]),
             *(time if processes == 1 else ["", ""])]
        )  # fmt: skip
    return table("configuration | | MB | said | error | s a step | said | error", rows)


def roofline(found: Document) -> list[str]:
    rows = []
    for name, one in found["parts"].items():
        top = ", ".join(
            f"{operator['operator'].removeprefix('aten::').replace('|', '/')} {operator['share']:.0%}"
            for operator in one["profile"]
        )
        rows.append(
            [name, f"{one['gflop']:.2f}", f"{one['gigabytes']:.2f}", spread(one["seconds"]),
             f"{one['share_of_matmul_rate']:.0%}", f"{one['share_of_bandwidth']:.0%}", top]
        )  # fmt: skip
    rate, speed = found["matmul_gflop_a_second"], found["copy_gigabytes_a_second"]
    limits = f"Matmul {rate:.1f} GFLOP/s, copy {speed:.1f} GB/s."
    return [
        limits,
        "",
        *table("part | GFLOP | GB | s | of matmul | of bandwidth | operators' own time", rows),
        "![roofline](results/roofline.png)",
        "",
    ]


NOTES = {
    "batch": "GB: live tensors, weights left out.",
    "resolution": "Channels halve where the side doubles, so that each further level, one block, costs as "
    "much as the last; attention and experts end at 32 px.",
    "experts": "The compute that a token activates is the same; at 64 an expert has 64 tokens.",
    "rows": "GB: the peak of the process.",
    "images": "GB: the peak of the process, in which features are 5 KB a picture.",
}


def growth(found: Document) -> list[str]:
    lines = []
    for name, rows in found["growth"].items():
        lines += [f"### {name}", "", NOTES[name], ""]
        each = name not in ("resolution", "experts")
        cells = []
        for row in rows:
            seconds = spread({**row, "median": row["seconds"]}) if "least" in row else f"{row['seconds']:.3g}"
            cells.append([f"{row['size']:,}", seconds, f"{row['bytes'] / 1e9:.3f}"])
            if each:
                cells[-1].append(f"{row['seconds'] / row['size'] * 1e3:.3g}")
        head = "size | s | GB" + (" | ms for each" if each else "")
        lines += [*table(head, cells), f"![{name}](results/growth-{name}.png)", ""]
    return lines


def scaling(found: Document) -> list[str]:
    rows = [
        [processes, f"{one['pictures_per_second']:.1f}", f"{one['waiting']:.0%}", f"{one['exchanging']:.0%}"]
        for processes, one in found["measured"].items()
    ]
    lines = table("processes | pictures a second (by the clock) | waiting | exchanging", rows)
    return [*lines, f"{found['cores']} hardware threads, shared: speeds of several processes say little.", ""]


def frechet_bias(found: Document) -> list[str]:
    rows = []
    for row in found["rows"]:
        distance = Spread(row["frechet"], row["frechet_least"], row["frechet_most"])
        rows.append([f"{row['pictures']:,}", str(distance)])
    return table("pictures in each set | distance of equals", rows)


def readme(found: Document) -> list[str]:
    rows = [
        [f"`{line}`", f"{one['seconds']:.1f}", f"{one['processor_seconds']:.1f}"]
        for line, one in found["commands"].items()
    ]
    return table("command | s by the clock | s of the processor", rows)


def plain(found: Document) -> list[str]:
    rows = [[name.replace("_", " "), f"{value:,.4g}"] for name, value in found.items() if _is_number(value)]
    return table("measured | ", rows)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


SECTIONS: dict[str, Callable[[Document], list[str]]] = {
    "generator_full": generator,
    "generator": generator,
    "moe": experts,
    "moe_many": experts,
    "training": training,
    "mars": mars,
    "data": data,
    "data_select": plain,
    "evaluation": plain,
    "frechet_bias": frechet_bias,
    "estimate": estimate,
    "roofline": roofline,
    "growth": growth,
    "scaling": scaling,
    "readme": readme,
}


def summary(script: str) -> str:
    """The first sentences of a script's docstring, up to the first empty line."""
    text = ast.get_docstring(ast.parse((HERE / f"{script}.py").read_text(encoding="utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split())


def section(name: str, found: Document) -> list[str]:
    script = found["command"].split()[1].removesuffix(".py")
    command = found["command"].replace(f"{script}.py", f"-m benchmarks.{script}")
    quick = " **Toy sizes (`--quick`): it ran, the numbers say nothing.**" if "--quick" in command else ""
    load = f"load: {found.get('load', 'not noted, 5 to 10')}"
    about = [found.get("date", "no date"), found["processor"], f"threads: {found['threads']}", load]
    if "microseconds_a_page" in found:
        about.append(f"a page: {found['microseconds_a_page']} us")
    return [
        f"## {name.replace('_', ' ')}",
        "",
        summary(script) + quick,
        "",
        f"`{command}`, {', '.join(about)}.",
        "",
        *SECTIONS.get(name, plain)(found),
    ]


def versions(documents: Mapping[str, Document]) -> str:
    """All that the results name."""
    found: dict[str, set[str]] = {}
    for document in documents.values():
        own = {"Python": document["python"], "torch": document["torch"], **document.get("versions", {})}
        for name, version in own.items():
            found.setdefault(name, set()).add(version)
    return ", ".join(f"{name} {' and '.join(sorted(several))}" for name, several in found.items()) + "."


def write_page(folder: Path = RESULTS) -> Path:
    """From every result in the folder. RESULTS.md lies beside the folder of the real ones, else inside it."""
    documents = {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))
    }
    real = folder == RESULTS
    lines = [HEAD.format(folder=f"benchmarks/{folder.name}", versions=versions(documents))]
    if real:
        lines += aims(documents)
    for name in [*(n for n in SECTIONS if n in documents), *(n for n in documents if n not in SECTIONS)]:
        lines += section(name, documents[name])
    lines += [GPU, "## Numbers of the README", "", "| number | from |", "|---|---|"]
    lines += [f"| {number} | {source} |" for number, source in README_NUMBERS]
    page = (HERE if real else folder) / PAGE
    atomic_write_text(page, "\n".join(lines) + "\n")
    return page
