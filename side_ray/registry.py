"""Registries: the names that a config may give, and what each stands for.

A registry names its items as `module:attribute`, so that listing them imports nothing. An item is imported when it is asked
for, or when a config of its section is checked: the module of an item with an `Options` section must be cheap to import
(torch and the like inside its functions).
"""

from importlib import import_module
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from side_ray.errors import UserError

Item = TypeVar("Item")

REGISTRIES: dict[str, "Registry[Any]"] = {}
"""By the config's key that chooses among the items, for example `score.similarity`. Filled by the registries themselves."""


class Registry(Generic[Item]):
    """What a key of the config chooses from.

    Args:
        key: the key, `section.name`.
        lines: by name, where the item is: `module:attribute`.
    """

    def __init__(self, key: str, lines: dict[str, str]) -> None:
        self.key, self._lines = key, dict(lines)
        self._items: dict[str, Item] = {}
        REGISTRIES[key] = self

    @property
    def names(self) -> list[str]:
        """Every registered name, in the order of registration."""
        return list(dict.fromkeys([*self._lines, *self._items]))

    def __contains__(self, name: object) -> bool:
        return name in self._lines or name in self._items

    def __getitem__(self, name: str) -> Item:
        """The item of a name.

        Raises:
            UserError: there is none of that name.
        """
        if name not in self._items:
            if name not in self._lines:
                raise UserError(f"{self.key}: {name!r} is unknown; use one of {', '.join(self.names)}")
            module, _, attribute = self._lines[name].partition(":")
            self._items[name] = getattr(import_module(module), attribute)
        return self._items[name]

    def register(self, name: str, item: Item) -> None:
        """Add an item, from outside the package too; an item of that name is replaced."""
        self._items[name] = item

    def unregister(self, name: str) -> None:
        """Take an item out again."""
        self._items.pop(name, None)
        self._lines.pop(name, None)

    def options(self) -> dict[str, type[BaseModel]]:
        """By name, the keys that an item adds to the config's section, of those that add any (`Options`)."""
        found = {name: getattr(self[name], "Options", None) for name in self.names}
        return {name: options for name, options in found.items() if options is not None}
