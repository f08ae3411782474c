"""A safetensors file written one tensor at a time, for models that no single memory holds."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from impasto.runtime.sharding import in_order, is_sharded, whole

# https://github.com/huggingface/safetensors#format
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
METADATA = {"format": "pt"}


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors, of any shape. If some are sharded, each is gathered when its turn has come, while
    all other ranks call `sharding.take_part` with the same names. Raises OSError, SafetensorError, or
    ValueError for a sharded tensor of a type that is not in DTYPES."""
    if any(map(is_sharded, tensors.values())):
        _write_one_by_one(file, tensors)
    else:
        plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        save_file(plain, file, metadata=METADATA)


@torch.no_grad()
def _write_one_by_one(file: Path, tensors: Mapping[str, Tensor]) -> None:
    header: dict[str, object] = {"__metadata__": METADATA}
    end, names = 0, in_order(tensors)
    for name in names:
        tensor, start = tensors[name], end
        if tensor.dtype not in DTYPES:
            raise ValueError(f"'{name}' is of {tensor.dtype}, not among {', '.join(DTYPES.values())}")
        end = start + tensor.numel() * tensor.element_size()
        shape = list(tensor.shape)
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(file, "wb") as opened:
        opened.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            tensor = whole(tensors[name]).detach().cpu().contiguous()
            opened.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
