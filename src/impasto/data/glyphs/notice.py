"""NOTICE: who made the drawings, under which licences, and the texts that have to go along with them."""

from collections.abc import Iterable, Sequence

from impasto.data.glyphs.packages import GlyphSet
from impasto.data.glyphs.sources import LABELS, LABELS_ATTRIBUTION

# By the beginning of what a set calls its author.
MIT_HOLDERS = {
    "Fluent Emoji": "Fluent Emoji: Copyright (c) Microsoft Corporation.",
    "Flat Color Icons": "Flat Color Icons: Copyright (c) Icons8.",
}
MIT_LABELS = "emojibase-data: Copyright (c) 2017-2019 Miles Johnson"

MIT = """\
Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""
PAGES = {
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "CC-BY-3.0": "https://creativecommons.org/licenses/by/3.0/",
    "CC-BY-2.5": "https://creativecommons.org/licenses/by/2.5/",
    "CC-BY-2.0": "https://creativecommons.org/licenses/by/2.0/",
    "CC-BY-SA-4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "CC-BY-SA-3.0": "https://creativecommons.org/licenses/by-sa/3.0/",
    "CC-BY-SA-2.5": "https://creativecommons.org/licenses/by-sa/2.5/",
    "Apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    "GPL-2.0-or-later": "https://www.gnu.org/licenses/old-licenses/gpl-2.0.html",
    "GFDL": "https://www.gnu.org/licenses/fdl-1.3.html (the package names no version)",
    "Unicode-3.0": "https://www.unicode.org/license.txt; Copyright (c) Unicode, Inc.",
}


def notice(
    used: Sequence[GlyphSet],
    size: str,
    backgrounds: Sequence[str],
    *,
    licences: Iterable[str],
    apart: Sequence[str] = (),
    lossy: bool = False,
) -> str:
    """Who made the drawings, under which licence, and what was changed, as CC-BY and MIT ask. `licences`: of
    all pictures; `apart`: a line for each picture whose licence is not its set's."""
    named = {"Unicode-3.0"} | {name for licence in licences for name in licence.split(" or ")}
    lines = ["Open Glyphs: pictures made from drawings of others.", ""]
    lines += [f"- {one.style}: {one.attribution}; from {one.package.requirement}" for one in used]
    lines += [f"- {LABELS_ATTRIBUTION}; from {LABELS.requirement}", ""]
    if apart:
        lines += ["Pictures with a licence of their own:", "", *(f"- {line}" for line in sorted(apart)), ""]
    lines += [
        f"Changes: the drawings were turned into pictures of {size} x {size} pixels with a margin,",
        f"on {', '.join(backgrounds)}{', kept with loss as WebP' if lossy else ''}.",
        "The makers of the drawings do not endorse this set.",
        "",
        *(f"{name}: {page}" for name, page in PAGES.items() if name in named),
        "",
        "The MIT License",
        *(line for name, line in MIT_HOLDERS.items() if any(one.author.startswith(name) for one in used)),
        MIT_LABELS,
        "",
        MIT.rstrip(),
    ]
    return "\n".join(lines) + "\n"
