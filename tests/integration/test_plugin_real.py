"""The plugin of docs/extend.md, pasted, in a real node."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests.integration.harness import OK, ROOT, Process, no_trace_of_trouble, run_to_end


def test_a_node_keeps_its_snapshots_where_a_plugin_says_and_comes_back_from_there(
    tmp_path: Path,
) -> None:
    page = (ROOT / "docs" / "extend.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (name,) = re.findall(r"`(\w+_plugin\.py)`", page)
    package, kept = tmp_path / "package", tmp_path / "kept"
    (package / "twisted" / "plugins").mkdir(parents=True)
    (package / "twisted" / "plugins" / name).write_text(code)
    variables = {
        "PYTHONPATH": f"{ROOT}:{package}",
        "NUN_STORAGE_STRATEGY": "other-disk",
        "OTHER_DISK": str(kept),
    }
    node = Process(tmp_path / "node", variables=variables)
    with node:
        node.create("d")
        with node.select("d") as client:
            assert client.ask("set k kept") == [OK]
        node.stop()
        no_trace_of_trouble(node.log)
        assert list(kept.glob("*.manifest"))
        assert not list(node.data.glob("*.manifest"))
        shutil.rmtree(node.data)
        node.start()
        with node.select("d") as client:
            assert client.ask("get k") == [b"value kept\n", OK]
        no_trace_of_trouble(node.log)
    del variables["OTHER_DISK"]
    status, _, said = run_to_end(cwd=tmp_path, **variables)
    assert status == 1
    assert "Set OTHER_DISK to the directory of the snapshots." in said
