"""`pip` as a job finds it: installs for this job alone, and only what is not there yet.

As a program, `pip.py SITE ARGUMENTS …` does what `pip ARGUMENTS …` would, but installs into the
folder SITE. In a training container, pip adds to the packages of the image. `pip install --target`
would install every dependency again (and the whole of torch with one of them), so pip is first
asked which are missing. Runs in the Python that stands for the job's image.
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
    site, *arguments = sys.argv[1:]
    variables = pip_settings.environment(sys.executable, os.environ)
    paths = [site, variables.get("PYTHONPATH", "")]  # also find what this job has installed
    variables["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    arguments = [each for each in arguments if each != "--user"]  # refused in a virtual environment
    if arguments == ["install", "--upgrade", "pip"]:
        return 0  # no job needs that
    if arguments[:1] != ["install"]:
        return subprocess.call([*PIP, *arguments], env=variables)
    return _install(site, arguments[1:], variables)


def _install(site: str, arguments: Sequence[str], variables: Mapping[str, str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        dry_run = ["install", *arguments, "--dry-run", f"--report={report}"]
        # First build packages with the tools installed here; else pip fetches what they ask for.
        for isolation in (["--no-build-isolation"], []):
            tried = subprocess.run(
                [*PIP, *dry_run, *isolation],
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
    """Return the requirement for exactly this item of pip's report."""
    if item.get("is_direct"):
        url: str = item["download_info"]["url"]
        return url
    return f"{item['metadata']['name']}=={item['metadata']['version']}"


if __name__ == "__main__":
    sys.exit(main())
