"""Values that do not change, for what is made anew in each request: frozen to the type checker, and not a second time when it is made.

An instance of `dataclass(frozen=True)` sets each of its fields through `object.__setattr__`, which takes four times as long as setting it;
a request makes some thirty values of some two hundred fields, and that was 7 % of its time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform, overload

T = TypeVar("T")


@overload
def frozen(cls: type[T], /) -> type[T]: ...


@overload
def frozen(*, slots: bool) -> Callable[[type[T]], type[T]]: ...


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[T] | None = None, /, *, slots: bool = True) -> type[T] | Callable[[type[T]], type[T]]:
    """Equal, and hashed, by its fields; without `slots` it can hold what is worked out `once`."""
    make: Callable[[type[T]], type[T]] = dataclass(unsafe_hash=True, slots=slots)
    return make if cls is None else make(cls)
