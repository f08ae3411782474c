"""What several verbs of the command share."""

from impasto.config import first_line

DTYPES = ("float32", "bfloat16")


def usable_device(name: str) -> str:
    """The device, if this machine has it."""
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name} is not usable here: {first_line(error)}") from None
    return name
