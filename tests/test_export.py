"""What a run leaves for other programs, read by one that does not have this package."""

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import TINY, call

import nemui_jax as nemui
from nemui_jax import config
from nemui_jax.outputs import export

READER = """
import json, sys
import jax, numpy as np
from jax import export
from pathlib import Path
from safetensors import safe_open
from safetensors.numpy import load_file

folder = Path(sys.argv[1])
weights, rows = load_file(folder / "weights.safetensors"), load_file(folder / "rows.safetensors")["rows"]
decoder = export.deserialize(bytearray((folder / "decoder.jaxexport").read_bytes()))
for count in (1, 7):
    time = np.linspace(0, 1, count, dtype=np.float32)
    np.savez(folder / f"said-{count}.npz", **decoder.call(weights, rows[:count], time))
slope = jax.grad(lambda latent: decoder.call(weights, latent, np.zeros(2, np.float32))["frame"].sum())(rows[:2])
np.save(folder / "slope.npy", slope)
about = []
for name in ("weights", "rows"):
    with safe_open(folder / f"{name}.safetensors", "numpy") as file:
        about.append({key: json.loads(text) for key, text in file.metadata().items()})
told = {"platforms": decoder.platforms, "shape": str(decoder.in_avals[-1].shape), "about": about}
(folder / "told.json").write_text(json.dumps(told))
assert "nemui_jax" not in sys.modules
"""


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "new"
    answer = call("export", "--run", trained.path, "--out", folder)
    assert (answer.code, answer.err) == (0, "")
    names = ["weights.safetensors", "rows.safetensors", "decoder.jaxexport", "export.json"]
    assert answer.out.splitlines() == [str(folder / name) for name in names]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    subprocess.run([sys.executable, "-I", "-c", READER, folder], check=True, cwd=folder)
    return folder


def test_another_program_gets_what_the_decoder_says(exported, trained):
    run = nemui.load(trained.path)
    for count in (1, 7):
        time = np.linspace(0, 1, count, dtype=np.float32)
        decode = partial(nemui.decode, run.params, config=run.config)
        wanted = jax.vmap(decode)(np.asarray(run.table)[:count], time)
        with np.load(exported / f"said-{count}.npz") as said:
            assert set(said) == set(run.config.model.heads)
            for head in said:
                np.testing.assert_allclose(said[head], wanted[head], rtol=1e-4, atol=1e-4)
    slope = jax.grad(lambda latent: jax.vmap(decode)(latent, np.zeros(2))["frame"].sum())(np.asarray(run.table)[:2])
    np.testing.assert_allclose(np.load(exported / "slope.npy"), slope, rtol=1e-3, atol=1e-4)
    told = json.loads((exported / "told.json").read_text())
    assert told["platforms"] == ["cpu", "cuda", "tpu"]
    assert told["shape"] == "(query,)"


def test_it_is_told_what_the_numbers_are(exported, trained):
    about = json.loads((exported / "export.json").read_text())
    assert json.loads((exported / "told.json").read_text())["about"] == [about, about]
    run = nemui.load(trained.path)
    assert config.from_json(json.dumps(about["config"])) == run.config
    assert about["run"] == run.fingerprint
    assert [song["name"] for song in about["songs"]] == [song.name for song in run.songs]
    starts = [song["first_row"] for song in about["songs"]]
    assert [*starts, starts[-1] + about["songs"][-1]["rows"]] == run.run.row_starts


def test_it_goes_into_the_run_where_no_folder_is_named(trained, monkeypatch):
    monkeypatch.setattr(export, "write", lambda folder, *_: [folder])
    answer = call("export", "--run", trained.path)
    assert answer.out == f"{trained.path / 'export'}\n"


def test_a_decoder_with_random_features():
    """The original's: its features are drawn inside the decoder."""
    settings = config.preset("original")
    params = nemui.init(jax.random.key(0), settings)
    decoder = jax.export.deserialize(bytearray(export.decoder(params, settings)))
    latent, time = jax.random.normal(jax.random.key(1), (3, settings.model.latent_size)), np.linspace(0, 1, 3)
    said = decoder.call(export.flatten(params), latent, time.astype(np.float32))
    wanted = jax.vmap(partial(nemui.decode, params, config=settings))(latent, time)
    assert set(said) == {"frame"}
    np.testing.assert_allclose(said["frame"], wanted["frame"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("missing", ["safetensors.numpy", "flatbuffers"])
def test_without_the_extra_it_says_what_to_install(missing, trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    answer = call("export", "--run", trained.path, "--out", tmp_path / "out")
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert re.search(r"-m pip install -e '?\S*\[export\]", answer.err)
    assert not (tmp_path / "out").exists()


def test_files_are_written_when_all_of_them_are_made(trained, tmp_path, monkeypatch):
    def fails(*_):
        raise MemoryError

    monkeypatch.setattr(export, "decoder", fails)
    answer = call("export", "--run", trained.path, "--out", tmp_path / "out")
    assert (answer.code, answer.err.count("\n")) == (1, 1)
    assert answer.err.startswith("nemui: ")
    assert not (tmp_path / "out").exists()


def test_names_of_weights():
    params = nemui.init(jax.random.key(0), TINY)
    assert set(export.flatten(params)) == {"hidden_0.kernel", "hidden_0.bias", "heads.kernel", "heads.bias"}
