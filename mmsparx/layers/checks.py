"""Checks on the options of layers."""


def check_sizes(owner: str, **sizes: int) -> None:
    """Refuse sizes below 1.

    Args:
        owner: Name of the class that has them, for the message.
        **sizes: Options of the class.

    Raises:
        ValueError: One is not an integer of at least 1.
    """
    for name, value in sizes.items():
        if not is_size(value):
            raise ValueError(f'{owner}: expected {name} to be an integer of at least 1, got {value!r}')


def check_heads(owner: str, dim: int, heads: int, option: str = 'heads') -> None:
    """Refuse heads that do not divide the channels.

    Args:
        owner: Name of the class that has them, for the message.
        dim: Number of channels.
        heads: Number of heads, or of groups of channels.
        option: Name of the class's option, for the message.

    Raises:
        ValueError: `heads` is not an integer of at least 1, or does not divide `dim`.
    """
    if not is_size(heads) or dim % heads:
        raise ValueError(f'{owner}: expected {option} that divide the {dim} channels, got {option}={heads!r}')


def is_size(value: object) -> bool:
    """Whether a value is an integer of at least 1; Python's True is not meant."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
