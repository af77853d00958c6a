"""Snapshots in memory, alone and behind the log."""

from __future__ import annotations

from nuntwist.core.removals import LateRemovals
from nuntwist.interfaces import IStorage
from nuntwist.oplog.memory import MemoryOplog
from nuntwist.storage.memory import MemoryStorage
from tests.unit.conformance_storage import StorageConformance


class TestMemoryStorage(StorageConformance):
    def make(self) -> IStorage:
        return MemoryStorage()

    def again(self, storage: IStorage) -> IStorage:
        storage.open()
        return storage


class TestLateRemovals(StorageConformance):
    """The storage of a node: another one, with removals behind the log."""

    def make(self) -> IStorage:
        log = MemoryOplog()
        log.open()
        return LateRemovals(MemoryStorage(), log)

    def again(self, storage: IStorage) -> IStorage:
        storage.close()
        storage.open()
        return storage
