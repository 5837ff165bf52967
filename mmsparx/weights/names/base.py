"""The interface of a map of names."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor


class NameMap(ABC):
    """The names of one family of networks, published and ours, one to one within a backbone and its head.

    If published files have several spellings of a name, the map has one of them; if they store a tensor in another
    shape than ours, its values are reshaped as they are renamed.

    Attributes:
        family: Name of the family, for messages.
        layer: Pattern of names that only this family's backbones have, in either style; its first group is the part
            before the backbone's own part of the name.
        published: Pattern of names within a backbone that are a published checkpoint's and not ours.
        head: Our names of a published classification head.
    """

    family: ClassVar[str]
    layer: ClassVar[re.Pattern]
    published: ClassVar[re.Pattern]
    head: ClassVar[frozenset[str]]

    @abstractmethod
    def to_ours(self, name: str) -> str | None:
        """Our name of a published parameter or buffer; None if it is not a published name."""

    @abstractmethod
    def to_published(self, name: str) -> str | None:
        """The published name of a parameter or buffer of ours; None if it has none."""

    def spelling(self, name: str) -> str:
        """The one spelling of a published name that `to_published` gives."""
        return name

    def to_our_value(self, name: str, value: Tensor) -> Tensor:
        """A published tensor in our shape.

        Args:
            name: Our name of it, with any prefix.
            value: Tensor in one of the published shapes; one of another shape stays as it is.
        """
        return value

    def to_published_value(self, name: str, value: Tensor) -> Tensor:
        """A tensor of ours in the published shape.

        Args:
            name: Published name of it, with any prefix.
            value: Tensor in our shape.
        """
        return value

    def prefixes(self, names: Iterable[str]) -> list[str]:
        """Prefixes of the family's backbones: ['backbone.'] in most models, [''] for a backbone itself."""
        return sorted({match[1] for name in names if (match := self.layer.match(name))})

    def is_published(self, names: Iterable[str]) -> bool:
        """Whether names within a backbone are a published checkpoint's, rather than ours."""
        return any(self.published.match(name) for name in names)
