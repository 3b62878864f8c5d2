"""Registries: the names that a config key may have, and the item behind each name.

A registry locates its items as `module:attribute`, so that listing them imports nothing. An item is imported when it is used,
or when a config with its section is validated. Validation imports the items of all names, so their modules must be cheap to
import (torch and the like inside functions).

What an item may have, for the section of its registry (`config.base.OpenSection`):

- `Options`: a `config.base.Section`, the keys that the item adds to the section.
- `shared_options = True`: its keys are allowed when another item is chosen.
- `check_section(section)`: a class method, called when the item is chosen; raises ValueError (`section.key: message`) for
  values that do not go together.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from side_ray.errors import UserError

Item = TypeVar("Item")

REGISTRIES: dict[str, "Registry[Any]"] = {}
"""By config key, for example `score.similarity`. Each registry enters itself."""


class Registry(Generic[Item]):
    """The items that a config key chooses from.

    Args:
        key: the config key, `section.name`.
        lines: by name, the location of the item: `module:attribute`.
    """

    def __init__(self, key: str, lines: dict[str, str]) -> None:
        self.key, self._lines = key, dict(lines)
        self._items: dict[str, Item] = {}
        self.added: set[str] = set()
        """Names registered at run time, which another process does not know by itself."""
        REGISTRIES[key] = self

    @property
    def names(self) -> list[str]:
        """Every registered name, in the order of registration."""
        return list(dict.fromkeys([*self._lines, *self._items]))

    def __contains__(self, name: object) -> bool:
        return name in self._lines or name in self._items

    def __getitem__(self, name: str) -> Item:
        """The item of that name.

        Raises:
            UserError: the name is not registered.
        """
        if name not in self._items:
            if name not in self._lines:
                raise UserError(f"{name!r} is unknown; use one of {', '.join(self.names)}", self.key)
            module, _, attribute = self._lines[name].partition(":")
            self._items[name] = getattr(import_module(module), attribute)
        return self._items[name]

    def register(self, name: str, item: Item) -> None:
        """Add an item, also from outside the package; it replaces an item of the same name."""
        self._items[name] = item
        self.added.add(name)

    def unregister(self, name: str) -> None:
        """Remove an item."""
        self.added.discard(name)
        self._items.pop(name, None)
        self._lines.pop(name, None)

    def options(self) -> dict[str, type[BaseModel]]:
        """By name, the `Options` of the items that have any."""
        found = {name: getattr(self[name], "Options", None) for name in self.names}
        return {name: options for name, options in found.items() if options is not None}


class Carrier:
    """Base of what is sent to Ray's workers: its pickle brings along every item that was registered at run time.

    A worker knows the items of the package only. The module of an item must be importable there.
    """

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced: Any = super().__reduce_ex__(protocol)
        make, arguments, *state = reduced
        added = [(key, name, each[name]) for key, each in REGISTRIES.items() for name in sorted(each.added)]
        return (_arrive, (added, make, arguments), *state)


def _arrive(added: list[tuple[str, str, Any]], make: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    for key, name, item in added:
        REGISTRIES[key].register(name, item)
    return make(*arguments)
