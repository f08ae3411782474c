"""`impasto export`: a generator as one graph. Heavy imports live inside the verb: --help answers at once."""

import argparse


def add_export(verb: argparse.ArgumentParser) -> None:
    """The options of `impasto export`, except those of the model."""
    verb.description = (
        "The generator of an Aurora model as a graph: .pt2 (torch.export) or .onnx (needs the extra 'onnx'), "
        "for so many pictures and tokens at a time, checked against the model before it is kept. Inputs: z, "
        "text_tokens, eot_index, text_mask; the text encoder stays outside."
    )
    verb.set_defaults(run=run)
    verb.add_argument("out", metavar="FILE", help="file to write, .pt2 or .onnx")
    verb.add_argument("--batch", type=int, default=1, metavar="N", help="pictures at a time (default 1)")
    verb.add_argument("--tokens", type=int, default=32, metavar="T", help="text tokens, padded (default 32)")


def run(arguments: argparse.Namespace) -> int:
    """`impasto export`."""
    from pathlib import Path

    from impasto.aurora.export import INPUTS, export
    from impasto.exploring_model import aurora_pipeline

    pipe = aurora_pipeline(arguments)
    done = export(pipe, Path(arguments.out), batch=arguments.batch, tokens=arguments.tokens)
    print(
        f"wrote {done.path}: {', '.join(INPUTS)} of {done.batch} pictures and {done.tokens} tokens -> image"
    )
    print(f"largest difference from the model: {done.difference:.2g} (pixels in -1 to 1)")
    return 0
