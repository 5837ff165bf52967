"""Devices by name."""

import torch


def device_of(name: str | None) -> str:
    """The device that `--device` names, if it is there; a GPU, or else the CPU, for None.

    Raises:
        ValueError: There is no such device.
    """
    if name is None:
        return 'cuda:0' if torch.cuda.is_available() else 'cpu'
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # the latter of a torch without CUDA
        raise ValueError(f'--device: {name!r} cannot be used: {str(error).splitlines()[0]}') from error
    return name
