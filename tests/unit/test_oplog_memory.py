"""The log in memory."""

from __future__ import annotations

from nuntwist.interfaces import IOplog
from nuntwist.oplog.memory import MemoryOplog
from tests.unit.conformance_oplog import op
from tests.unit.conformance_records import RecordsConformance


class TestMemoryOplog(RecordsConformance):
    def make(self) -> IOplog:
        return MemoryOplog()

    def again(self, log: IOplog) -> IOplog:
        log.open()
        return log

    def test_its_size_is_that_of_the_record_format(self) -> None:
        log = self.filled([op(1, b"key", b"value"), op(2, b"k", None)])
        assert log.size == 52 + 36 + 8 + 36 + 1
