"""A property worked out once: `functools.cached_property` without the lock that it takes in Python 3.11, a third of the time.

What is looked at once a request is kept in some twenty of them. None is shared between threads that would work it out at once; if it were,
both would find the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")


class once(Generic[T]):  # noqa: N801 - it reads as `property` does
    """Worked out when it is first asked for, and then an attribute."""

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make, self._name, self.__doc__ = make, "", make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, of: None, owner: type) -> once[T]: ...

    @overload
    def __get__(self, of: object, owner: type) -> T: ...

    def __get__(self, of: object | None, owner: type) -> T | once[T]:
        if of is None:
            return self
        value = of.__dict__[self._name] = self._make(of)
        return value
