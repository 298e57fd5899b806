"""A digest of a torch module in memory that is the same in every process."""

from __future__ import annotations

import hashlib
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

import cloudpickle  # type: ignore[import-untyped]
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

# torch's own bookkeeping in a module's __dict__: weights come from the state dict, the rest says
# nothing about what is computed. Hooks do, and stay in.
BOOKKEEPING = frozenset(
    {"training", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}
    | {"_is_full_backward_hook"}
)


def module_digest(module: torch.nn.Module) -> str:
    """``sha256:…`` of weights, buffers, plain attributes and the code of the module's own classes.

    Pickled bytes would not do: they differ between processes for classes of a notebook.
    """
    total = hashlib.sha256()
    for name, part in module.named_modules():
        total.update(repr((name, *_class_facts(type(part)))).encode())
        for key, value in sorted(vars(part).items()):
            if key not in BOOKKEEPING and not _is_empty(value):
                total.update(repr(key).encode() + _value_bytes(value))
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        total.update(name.encode() + _tensor_bytes(tensor))
    return "sha256:" + total.hexdigest()


def _class_facts(cls: type) -> Iterator[Any]:
    """Names of the class and its bases, and the code of those that are not torch's own."""
    for base in cls.__mro__:
        yield base.__module__, base.__qualname__
        if base is object or base.__module__.split(".")[0] == "torch":
            continue
        for key, value in sorted(vars(base).items()):
            if isinstance(value, FunctionType):
                yield key, _code_facts(value.__code__)


def _code_facts(code: CodeType) -> tuple[Any, ...]:
    constants = tuple(map(_constant_facts, code.co_consts))
    return (code.co_code, code.co_names, code.co_varnames, constants)


def _constant_facts(item: object) -> object:
    if isinstance(item, CodeType):
        return _code_facts(item)
    # The order of a set of strings differs from process to process.
    return sorted(map(repr, item)) if isinstance(item, frozenset) else repr(item)


def _value_bytes(value: Any) -> bytes:
    if isinstance(value, torch.Tensor):
        return _tensor_bytes(value)
    if isinstance(value, FunctionType):
        return repr(_code_facts(value.__code__)).encode() + repr(value.__defaults__).encode()
    if _is_plain(value):
        return repr(value).encode()
    return bytes(cloudpickle.dumps(value))


def _tensor_bytes(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    facts = repr((tensor.dtype, tuple(tensor.shape))).encode()
    return facts + flat.view(torch.uint8).numpy().tobytes()


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(_is_plain(key) and _is_plain(item) for key, item in value.items())
    return isinstance(value, (bool, int, float, str, bytes, type(None), torch.dtype, torch.device))


def _is_empty(value: Any) -> bool:
    """An unused table of hooks, or an attribute that says nothing."""
    return isinstance(value, dict) and not value
