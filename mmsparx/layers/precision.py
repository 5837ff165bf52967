"""What must not be computed in 16 bits, and how it is kept from autocast."""

from contextlib import AbstractContextManager, nullcontext

import torch

# Asked here, since torch.compile cannot follow the question in a forward.
_WITHOUT_AUTOCAST = [name for name in ('meta', 'mps') if not torch.amp.is_autocast_available(name)]


def full_precision(device: torch.device) -> AbstractContextManager:
    """Within it autocast is off, so that float32 products stay float32."""
    if device.type in _WITHOUT_AUTOCAST:
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
