"""Checks on the options of layers."""


def check_sizes(owner: str, **sizes: int) -> None:
    """Refuse sizes below 1.

    Args:
        owner: Name of the class that has them, for the message.
        **sizes: Options of the class.

    Raises:
        ValueError: One is no integer of at least 1.
    """
    for name, value in sizes.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f'{owner}: expected {name} to be an integer of at least 1, got {value!r}')


def check_heads(owner: str, dim: int, heads: int, option: str = 'heads') -> None:
    """Refuse heads that do not divide the channels.

    Args:
        owner: Name of the class that has them, for the message.
        dim: Number of channels.
        heads: Number of heads, or of groups of channels.
        option: Name of the class's option, for the message.

    Raises:
        ValueError: `heads` is below 1 or does not divide `dim`.
    """
    if heads < 1 or dim % heads:
        raise ValueError(f'{owner}: expected {option} that divide the {dim} channels, got {option}={heads}')
