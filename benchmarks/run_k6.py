"""Run the k6 script against a throw-away node; without k6 on the PATH, say so and do nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.servers import DATABASE, TOKEN

SCRIPT = Path(__file__).parent / "k6" / "watch.js"


def run(bench: Bench) -> int:
    """Give k6's exit status: 0 where its thresholds hold, or where it is not installed."""
    k6 = shutil.which("k6")
    if k6 is None:
        bench.say("k6 is not installed (go install go.k6.io/k6@latest): skipped")
        return 0
    with bench.node() as node:
        settings = {
            "NUN_URL": node.web_url,
            "NUN_DATABASE": DATABASE.decode(),
            "NUN_TOKEN": TOKEN.decode(),
        }
        return subprocess.run([k6, "run", str(SCRIPT)], env={**os.environ, **settings}).returncode
