"""Constructors with arguments, equal where constructor and arguments are."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np

T = TypeVar("T")


class Partial(functools.partial[T]):
    """A `functools.partial` that is equal, and has the same hash, wherever function and arguments are equal.

    Two objects of `functools.partial` are never equal. Nets that are given their blocks by it are not equal either, so
    that `jax.jit` with the net as a static argument traces once for each of them. With `Partial` it traces once for
    equal nets. Arguments are compared by value: nested partials, sequences, mappings in any order, and data types in
    any notation.

    Args:
      func: what is called: a class, a function, or a partial of either, whose arguments are kept.
      *args, **keywords: arguments of every call; keywords of a call replace them. Read them as `func`, `args` and
        `keywords`. They cannot be set.

    Returns:
      A callable. It can be pickled where its function and arguments can, and its repr is the code that makes it.

    Raises:
      TypeError: hashing a Partial with an argument that has no hash, such as an array.

    Example:
      >>> import attnjax
      >>> from attnjax import Partial
      >>> from attnjax.attention import CBAM
      >>> Partial(CBAM, reduction=8) == Partial(CBAM, reduction=8)
      True
      >>> attnjax.create_model("cbam_resnet18") == attnjax.create_model("cbam_resnet18")
      True
      >>> Partial(Partial(CBAM, reduction=8), pools=("avg",))
      Partial(CBAM, reduction=8, pools=('avg',))
    """

    @property
    def keywords(self) -> dict[str, Any]:
        """A copy of the keyword arguments."""
        return dict(super().keywords)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name} cannot be set: a Partial is immutable; Partial(this, {name}=...) is another")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Partial) and _comparable(self) == _comparable(other)

    def __hash__(self) -> int:
        return hash(_comparable(self))

    def __repr__(self) -> str:
        return _code(self)


def _comparable(value: Any) -> Any:
    """A value that is equal, and has the same hash, for arguments that mean the same."""
    if isinstance(value, functools.partial):
        return ("partial", value.func, _comparable(value.args), _comparable(value.keywords))
    if isinstance(value, Mapping):
        return ("mapping", frozenset((key, _comparable(item)) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return tuple(_comparable(item) for item in value)
    if isinstance(value, bool | int | float):
        return (type(value).__name__, value)
    return jnp.dtype(value) if _is_dtype(value) else value


def _code(value: Any) -> str:
    if isinstance(value, functools.partial):
        arguments = [_code(value.func), *map(_code, value.args)]
        arguments += [f"{name}={_code(item)}" for name, item in value.keywords.items()]
        return f"{type(value).__name__}({', '.join(arguments)})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {_code(item)}' for key, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_code, value))}]"
    if type(value) is tuple:
        return f"({', '.join(map(_code, value))}{',' if len(value) == 1 else ''})"
    if _is_dtype(value):
        return f"jnp.{jnp.dtype(value).name}"
    return getattr(value, "__qualname__", None) or getattr(value, "__name__", None) or repr(value)


def _is_dtype(value: Any) -> bool:
    """Whether this is a data type, as NumPy or JAX write it; strings are arguments of other kinds."""
    scalar = isinstance(value, type) and issubclass(value, np.generic)
    return scalar or isinstance(value, np.dtype | type(jnp.float32))
