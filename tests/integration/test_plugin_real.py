"""The plugins of docs/extend.md, pasted, in real nodes."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

from tests.integration.harness import OK, ROOT, Process, no_trace_of_trouble, run_to_end, wait_until
from tests.integration.replica_set import Nodes


def install(name: str, package: Path) -> None:
    """Paste the plugin of a name from the page into a package."""
    page = (ROOT / "docs" / "extend.md").read_text()
    codes = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    names = re.findall(r"`(\w+_plugin\.py)`", page)
    plugins = package / "twisted" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / name).write_text(dict(zip(names, codes, strict=True))[name])


def test_a_node_keeps_its_snapshots_where_a_plugin_says_and_comes_back_from_there(
    tmp_path: Path,
) -> None:
    package, kept = tmp_path / "package", tmp_path / "kept"
    install("other_disk_plugin.py", package)
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


def test_a_set_elects_as_a_plugin_says(tmp_path: Path) -> None:
    """Of three nodes the third may never be primary, and the others can be because of its vote."""
    package = tmp_path / "package"
    install("main_site_plugin.py", package)
    with Nodes(tmp_path, PYTHONPATH=f"{ROOT}:{package}", NUN_ELECTION="main-site") as nodes:
        for process in nodes.processes:
            process.variables["MAIN_SITE"] = ",".join(nodes.addresses[:2])
        # The one that may not be it is the senior one.
        nodes.start(2)
        nodes.start(0)
        nodes.start(1)
        nodes.wait_until_formed()
        first = nodes.primary()
        assert first in (0, 1)
        nodes.kill(first)
        wait_until(lambda: nodes.primaries() == [1 - first], "the other one of the site")
        nodes.kill(1 - first)
        time.sleep(2.5)
        assert nodes.primaries() == []
        no_trace_of_trouble(nodes.processes[2].log, allowed=["cannot be reached", "closed the"])


def test_an_election_that_lacks_something_stops_the_start(tmp_path: Path) -> None:
    package = tmp_path / "package"
    install("main_site_plugin.py", package)
    variables = {"NUN_ELECTION": "main-site", "NUN_REPLICATE_ADDR": "127.0.0.1:1"}
    status, _, said = run_to_end(
        cwd=tmp_path, PYTHONPATH=f"{ROOT}:{package}", **variables, NUN_TCP_ADDR="127.0.0.1:0"
    )
    assert status == 1
    assert "Set MAIN_SITE to the addresses of the nodes that may be primary." in said
    variables["NUN_ELECTION"] = "dice"
    status, _, said = run_to_end(cwd=tmp_path, **variables, NUN_TCP_ADDR="127.0.0.1:0")
    assert status == 1
    assert "There is no election 'dice', which NUN_ELECTION asks for; there are: bully" in said
