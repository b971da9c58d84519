"""Keeps of the user's pip settings only those by which pip reaches packages.

pip reads every option from its settings files and from variables `PIP_OPTION`. A `user = true` or
a `PIP_TARGET` there would install packages where they are not found. The way to the packages (an
index, a proxy, certificates) must stay.

As a program, `pip_settings.py ARGUMENTS …` is `pip ARGUMENTS …` with those settings only. It uses
the standard library only: `workshop.py` runs it before anything is installed.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Mapping

# Source: `pip help install`, its "Package Index Options" and "General Options".
ABOUT_THE_NETWORK = frozenset(
    "cache-dir cert client-cert constraint default-timeout extra-index-url find-links index-url "
    "keyring-provider no-cache-dir no-index pre prefer-binary proxy retries timeout "
    "trusted-host".split()
)


def environment(python: str, variables: Mapping[str, str]) -> dict[str, str]:
    """Return variables with which this Python's pip uses only the settings in ABOUT_THE_NETWORK.

    Args:
        python: an interpreter that has pip.
        variables: the environment in which pip would run.
    """
    listed = subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", "config", "list"],
        env={**variables, "PIP_USER": "0"},  # or `config list` would show one file only
        capture_output=True,
        text=True,
    )
    others = {key: value for key, value in variables.items() if not key.startswith("PIP_")}
    return {
        **others,
        **_kept(listed.stdout),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def _kept(listing: str) -> dict[str, str]:
    """Return as variables the lines `section.option='value'` of `pip config list` that count."""
    found: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}  # the last wins
    for line in listing.splitlines():
        key, _, value = line.partition("=")
        section, _, option = key.rpartition(".")
        if section in found and option in ABOUT_THE_NETWORK:
            found[section][f"PIP_{option.upper().replace('-', '_')}"] = str(ast.literal_eval(value))
    return found["global"] | found["install"] | found[":env:"]


if __name__ == "__main__":
    pip = [sys.executable, "-m", "pip", *sys.argv[1:]]
    sys.exit(subprocess.call(pip, env=environment(sys.executable, os.environ)))
