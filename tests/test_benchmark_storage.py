"""The storage benchmark runs, and prints a line for each promise."""

from __future__ import annotations

import benchmark_storage
import pytest


def test_the_storage_benchmark_with_small_numbers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("STORAGE_EMULATOR_HOST", "DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA"):
        monkeypatch.setenv(name, "")  # so that it has its old value afterwards
    assert benchmark_storage.main(["--smoke"]) == 0
    printed = capsys.readouterr().out
    for words in ("both: ", "4 MiB up: ", "4 MiB down: ", "(limit 200)", "200 objects, again"):
        assert words in printed


def test_the_storage_benchmark_looks_at_what_it_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_storage, "CONTENT", b"y" * 999)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "")
    with (
        pytest.raises(AssertionError),
        benchmark_storage.server(benchmark_storage.NOTHING, benchmark_storage.Path()) as (url, _),
    ):
        benchmark_storage.small_objects(url, 1)
