"""The storage benchmark runs, and prints a line for each promise."""

from __future__ import annotations

from pathlib import Path

import benchmark_storage
import pytest


def test_the_storage_benchmark_with_small_numbers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What it changes has its old value afterwards.
    monkeypatch.setenv("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "1")
    assert benchmark_storage.main(["--smoke"]) == 0
    printed = capsys.readouterr().out
    for words in (
        "both: ",
        "with the gate: ",
        "4 MiB up: ",
        "4 MiB down: ",
        "(limit 200)",
        "200 objects, again",
    ):
        assert words in printed


def test_the_storage_benchmark_looks_at_what_it_gets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(benchmark_storage, "CONTENT", b"y" * 999)  # not what that server sends
    with benchmark_storage.server(benchmark_storage.NOTHING, tmp_path) as (url, _):
        client = benchmark_storage.Client(url)
        with pytest.raises(AssertionError):
            client.turn(range(1))
