"""Benchmarks that the quick one of all does not need, each at its smallest, in a process of its own."""

import pytest
from conftest import FAST_COMPILES, band

from nemui_jax.music import midi_writer


def test_throughput(benchmark, songs_folder):
    sizes = ("--batch", 8, "--block", 16, "--hidden", 8, "--steps", 1, "--repeats", 2)
    out, found = benchmark("throughput", "--dir", songs_folder, *sizes)
    assert "MFU" in out
    for row in found["training"]:
        assert row["model_flops"] == 6 * row["weights"] * 8  # queries
        assert row["mfu"] > 0 and row["step_seconds"] > 0 and row["peak_flops_per_second"]["bfloat16"] > 0
        assert row["xla_flops"] is None or row["xla_flops"] > 0.8 * row["model_flops"]  # nothing was optimised away
    assert set(found["step"]["parts"]) == {"draw and unpack", "forward", "backward", "rows and optimiser"}
    parts = found["step"]["parts"].values()
    assert sum(part["share"] for part in parts) == pytest.approx(1)  # medians of two rounds are means: they add up
    assert [part["seconds"] / found["step"]["step_seconds"] for part in parts] == pytest.approx(
        [part["share"] for part in parts]
    )


def test_time_to_quality(benchmark, songs_folder):
    bars = ("--cells", 0.01, "--notes", 1.01, "--cap", 2)  # one reached at once, one that cannot be
    out, found = benchmark("time_to_quality", "--dir", songs_folder, *bars)
    for preset in found["presets"].values():
        assert not preset["notes"]["reached"] and preset["notes"]["seconds"] is None
        assert 0 <= preset["notes"]["best"] <= 1
    assert "not reached in" in out
    cells = found["presets"]["default"]["cells"]
    assert cells["reached"] and cells["seconds"] == cells["training_seconds"] + cells["compile_seconds"]


def test_cells(benchmark, tmp_path):
    (tmp_path / "songs").mkdir()
    midi_writer.write(band(), tmp_path / "songs" / "band.mid")
    out, found = benchmark("cells", "--dir", tmp_path / "songs", "--updates", 50)
    figures = found["songs"]
    assert (figures["songs"], figures["parts"], figures["cells"], figures["updates"]) == (1, 4, 4 * 8, 50)
    assert figures["heard"] == 32 - 4  # the strings rest for two bars of two cells
    assert figures["rows"] < figures["heard"] and figures["seconds"] > 0
    assert "rows/heard" in out


def test_scale(benchmark, songs_folder, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"{FAST_COMPILES} --xla_force_host_platform_device_count=2")
    sizes = ("--songs", 2, 4, 10**9, "--seconds", 2, "--steps", 1, "--repeats", 2)
    out, found = benchmark("scale", "--dir", songs_folder, *sizes)
    assert "would not fit" in out
    assert [(row["devices"], row["batch"]) for row in found["devices"]] == [(1, "shared"), (2, "shared"), (2, "own")]
    assert found["devices"][0]["ratio"] == 1 and min(row["step_seconds"] for row in found["devices"]) > 0
    alone, *together = found["devices"]
    assert alone["collectives"] == {} and all(row["collectives"]["all-reduce"]["bytes"] > 0 for row in together)
    small, large = found["songs"]
    assert (small["ratio"], small["songs"], large["songs"]) == (1, 2, 4)
    assert large["rows"] > small["rows"] and large["bytes"]["state_and_data"] > small["bytes"]["state_and_data"]


def test_commands(benchmark, trained):
    out, found = benchmark("commands", "--run", trained.path, "--repeats", 1)
    assert set(found) == {"songs", "sample, one song", "sample, a mix", "sample, a new song", "studio"}
    assert all(row["seconds"] > 0.1 and row["mebibytes"] > 10 for row in found.values())
    assert "whole commands" in out


def test_sample(benchmark, trained):
    _, found = benchmark("sample", "--run", trained.path, "--seconds", 2, "--what", "mix", "--repeats", 1)
    assert [row["recipe"] for row in found] == ["mix"]
    for row in found:
        cold, warm = row["inside"]["cold"], row["inside"]["warm"]
        assert 0 < warm["whole"] < cold["whole"] and cold["import"] > 0 and row["first"] > 0 and row["second"] > 0
        assert sum(value for part, value in cold.items() if part != "whole") == pytest.approx(cold["whole"])


def test_load(benchmark, songs_folder):
    out, found = benchmark("load", "--dir", songs_folder, "--copies", 1, 2, "--repeats", 1)
    assert [row["songs"] for row in found] == [3, 6] and found[1]["notes"] == 2 * found[0]["notes"]
    assert all(set(row["ratio"]) == {"nothing cached", "cached", "pretty_midi"} for row in found)
    assert "notes/s" in out


def test_between(benchmark, songs_folder):
    out, found = benchmark("between", "--dir", songs_folder, "--pairs", 1)
    assert "rows with noise 0.5" in out
    for ways in found.values():
        first, second = ways["1 : 0"], ways["0 : 1"]
        assert first["new"] == second["new"] == 0
        assert first["density"] + second["density"] == pytest.approx(2)  # of their mean
        assert ways["in turns"]["new"] == 0 and ways["in turns"]["bits"] > 0


def test_new_songs(benchmark, songs_folder):
    out, found = benchmark("new_songs", "--dir", songs_folder, "--count", 1)
    assert "1 new songs each way" in out and len(found) == 3
    for (figures,) in found.values():
        assert figures["bits"] > 0 and figures["density"] > 0 and 0 <= figures["copied"] <= 1
