"""Shards as their writer owns them: never read, each stored with one request, and its digest."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from zarr.storage import FsspecStore, WrapperStore

from orthoflow.stores.answers import is_absence
from orthoflow.stores.sealed import digest_of
from orthoflow.stores.stamps import Stamp

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt
    from zarr.abc.store import ByteRequest, Store
    from zarr.core.buffer import Buffer, BufferPrototype

    from orthoflow.stores.zarr_nodes import Node


def written_shards(
    node: Node, prefix: str, index: tuple[Any, ...], data: npt.NDArray[Any]
) -> tuple[Stamp, ...]:
    """Write whole shards of an array that is known; the objects stored, by key.

    `prefix` leads from the output group to the array.
    """
    import zarr  # noqa: PLC0415 - 0.3 s, not needed to look at an output
    from zarr.storage import StorePath  # noqa: PLC0415

    store = _OwnedShards(node.place.zarr_store(read_only=False), prefix)
    document = {**node.document, "attributes": {}}
    array: zarr.Array[Any] = zarr.Array.from_dict(StorePath(store, ""), document)
    array[index] = data
    return tuple(sorted(store.stamps))


class _OwnedShards(WrapperStore[Any]):
    """A store whose shards are never read: their writer owns them as a whole.

    Without it zarr reads shards at the border of an array before it writes them, because the
    array does not fill them, and would stumble over one that a killed writer left torn.
    """

    def __init__(self, store: Store, prefix: str) -> None:
        super().__init__(store)
        self._prefix = prefix
        self.stamps: list[Stamp] = []

    @property
    def _supports_sync_io(self) -> bool:
        # Newer versions of zarr would go around the methods below.
        return False

    async def get(
        self,
        key: str,
        prototype: BufferPrototype,  # noqa: ARG002 - the store's interface
        byte_range: ByteRequest | None = None,  # noqa: ARG002
    ) -> Buffer | None:
        del key
        return None

    async def get_partial_values(
        self,
        prototype: BufferPrototype,  # noqa: ARG002
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        return [None for _ in key_ranges]

    async def set(self, key: str, value: Buffer) -> None:
        content = memoryview(value.as_numpy_array())  # type: ignore[arg-type, unused-ignore]
        digest = await asyncio.to_thread(digest_of, content)
        await super().set(key, value)
        self.stamps.append(Stamp(f"{self._prefix}/{key}", len(content), digest))

    async def delete(self, key: str) -> None:
        """Remove what an earlier try may have left where there is nothing but background.

        On an object store with one request: zarr's own way is a listing and a bulk deletion.
        """
        store = self._store
        if not isinstance(store, FsspecStore):
            await super().delete(key)
            return
        try:
            # The one call of fsspec's that is a single request, inside the loop that runs here.
            await store.fs._rm_file(f"{store.path}/{key}")  # noqa: SLF001
        except OSError as error:
            if not is_absence(error):
                raise
