"""Many devices and processes: the same music is learned, whatever learns it."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import FAST_COMPILES, ROOT, TINY, finish, start

from nemui_jax import config
from nemui_jax.data import dataset
from nemui_jax.model import decoder
from nemui_jax.runs import checkpoint
from nemui_jax.runs.run import read_run
from nemui_jax.training import batches
from nemui_jax.training.step import init_state, train_loop, train_step

ON_EIGHT = """
import json, sys
from pathlib import Path
import jax
import numpy as np
from nemui_jax import config
from nemui_jax.data import dataset
from nemui_jax.runs import checkpoint
from nemui_jax.runs.run import create_run, read_run
from nemui_jax.training import batches, distributed
from nemui_jax.training.step import init_state, place_state, train_loop

settings, folder, path = config.from_json(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
corpus, _ = dataset.load(folder, settings)
settings = dataset.fit_pitches(settings, corpus)
run = create_run(path, settings, 0, 50, corpus)
key = jax.random.key(0)
losses = {}
for count in (1, 2, 4, 8):
    mesh = distributed.make_mesh(count)
    data = batches.load_data(corpus, settings, mesh)
    state = place_state(init_state(key, run.rows, settings), mesh)
    found = []
    for state, part in train_loop(state, data, distributed.place_tree(key, mesh), 50, settings):
        found += part.tolist()
    assert len(state.latents.sharding.device_set) == count
    losses[count] = found
    if count == 8:
        assert state.latents.addressable_shards[0].data.shape[0] == len(state.latents) // 8
        assert state.latents_opt[0].mu.addressable_shards[0].data.shape[0] == len(state.latents) // 8
        checkpoint.save(run, state)
        for again in (8, 2, 1):
            back = checkpoint.restore(run, 50, distributed.make_mesh(again))
            assert len(back.latents.sharding.device_set) == again
            jax.tree.map(np.testing.assert_array_equal, distributed.gather(back), distributed.gather(state))
print(json.dumps(losses))
"""


@pytest.fixture(scope="module")
def on_eight(songs_folder, tmp_path_factory) -> tuple[dict[str, list[float]], Path]:
    """Losses by number of devices, and the run that eight of them saved."""
    path = tmp_path_factory.mktemp("eight") / "run"
    flags = f"{FAST_COMPILES} --xla_force_host_platform_device_count=8"
    command = [sys.executable, "-c", ON_EIGHT, config.to_json(TINY), str(songs_folder), str(path)]
    environment = os.environ | {"XLA_FLAGS": flags}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), path


def test_any_number_of_devices_gives_the_same_losses(on_eight):
    losses, _ = on_eight
    assert list(losses) == ["1", "2", "4", "8"]
    assert losses["1"][-1] < losses["1"][0] / 3  # it learns
    for count in ("2", "4", "8"):
        np.testing.assert_allclose(losses[count][:20], losses["1"][:20], rtol=1e-4)
        np.testing.assert_allclose(losses[count], losses["1"], rtol=2e-2)  # roundings grow with the steps


def test_what_eight_devices_saved_goes_on_with_one(on_eight, songs_folder):
    _, path = on_eight
    run = read_run(path)
    assert checkpoint.whole_step(run) == (50, [])
    state = checkpoint.restore(run, 50)
    data = batches.load_data(run.corpus(), run.config)
    for _, losses in train_loop(state, data, jax.random.key(0), 60, run.config):
        assert np.isfinite(losses).all()


# Processes (a pair that trains together: tests/slow/test_processes.py)


def test_half_of_the_flags_is_refused(songs_folder, tmp_path):
    answer = finish(start("train", "--dir", songs_folder, "--run", tmp_path / "run", "--coordinator", "here:1"))
    assert answer.code == 2
    assert "--num-processes" in answer.err
    assert not (tmp_path / "run").exists()


# Accelerators that are not here


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_the_step_and_the_decoder_lower_for_accelerators(songs_folder, platform):
    corpus, _ = dataset.load(songs_folder, config.preset("default"))
    settings = dataset.fit_pitches(config.preset("default"), corpus)
    data = batches.load_data(corpus, settings)
    key = jax.random.key(0)
    state = jax.eval_shape(lambda key: init_state(key, 50, settings), key)
    learn = partial(train_step, config=settings)
    exported = jax.export.export(jax.jit(learn), platforms=[platform])(state, data, key, jnp.int32(10))
    assert exported.platforms == (platform,)
    decode = jax.vmap(partial(decoder.decode, config=settings), (None, 0, 0))
    latent = jax.ShapeDtypeStruct((8, settings.model.latent_size), jnp.float32)
    time = jax.ShapeDtypeStruct((8,), jnp.float32)
    assert jax.export.export(jax.jit(decode), platforms=[platform])(state.params, latent, time).platforms == (platform,)
