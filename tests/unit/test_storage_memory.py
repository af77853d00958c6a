"""Snapshots in memory."""

from __future__ import annotations

from nuntwist.interfaces import IStorage
from nuntwist.storage.memory import MemoryStorage
from tests.unit.conformance_storage import StorageConformance


class TestMemoryStorage(StorageConformance):
    def make(self) -> IStorage:
        return MemoryStorage()

    def again(self, storage: IStorage) -> IStorage:
        storage.open()
        return storage
