"""`pip` as a job finds it: installs for this job alone, and only what is not there yet.

As a program, `pip.py SITE WORDS …` does what `pip WORDS …` would, but an installation goes into the
folder SITE. The real pip in a training container adds to what the image has. `pip install --target`
would instead bring every dependency again (and the whole of torch with one of them), so pip is
first asked what is missing. Runs on whatever Python stands for the job's image.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[3])  # instead of the folder of this file
from vertex_local.jobs.packages import pip_settings  # noqa: E402

PIP = [sys.executable, "-m", "pip"]


def main() -> int:
    """Run pip's command; return its exit status."""
    site, *words = sys.argv[1:]
    variables = pip_settings.environment(sys.executable, os.environ)
    paths = [site, variables.get("PYTHONPATH", "")]  # what the job has installed is there, too
    variables["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    words = [word for word in words if word != "--user"]  # a virtual environment refuses it
    if words == ["install", "--upgrade", "pip"]:
        return 0  # it would change nothing that a job needs
    if words[:1] != ["install"]:
        return subprocess.call([*PIP, *words], env=variables)
    return _install(site, words[1:], variables)


def _install(site: str, words: Sequence[str], variables: Mapping[str, str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        asked = ["install", *words, "--dry-run", f"--report={report}"]
        # What builds packages is mostly here already; if not, pip fetches it for the time.
        for isolation in (["--no-build-isolation"], []):
            tried = subprocess.run(
                [*PIP, *asked, *isolation],
                env=variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            if tried.returncode == 0:
                break
        print(tried.stdout, end="", flush=True)
        if tried.returncode:
            return tried.returncode
        missing = [_exact(item) for item in json.loads(report.read_text())["install"]]
    if not missing:
        return 0
    command = [*PIP, "install", "--quiet", "--no-deps", "--upgrade", f"--target={site}"]
    return subprocess.call([*command, *isolation, *missing], env=variables)


def _exact(item: Mapping[str, Any]) -> str:
    """Return how to ask pip for exactly this item of its report."""
    if item.get("is_direct"):
        url: str = item["download_info"]["url"]
        return url
    return f"{item['metadata']['name']}=={item['metadata']['version']}"


if __name__ == "__main__":
    sys.exit(main())
