"""Whether inputs fit into memory, asked before it is taken: where the CPU's is overdrawn, Linux kills the process."""

from collections.abc import Sequence

from mmsparx.analysis.timing import free_memory
from mmsparx.cli.named_model import NamedModel


def check_inputs(models: Sequence[NamedModel], batch_size: int) -> None:
    """Fail where a batch of a model's inputs is larger than the memory that is free.

    Args:
        models: Models whose images have a size.
        batch_size: Images in a batch.

    Raises:
        ValueError: It is.
    """
    for model in models:
        height, width = model.preprocessing.size
        needed = 4 * 3 * height * width * batch_size
        free = free_memory(next(model.module.parameters()).device)
        if needed > free:
            raise ValueError(
                f'{batch_size} images of {height}x{width} take {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB '
                'are free; take smaller images, or fewer at once (--batch-size)'
            )
