"""`export` and `plots`: a run as files for other programs, and as pictures."""

import argparse
from functools import partial

import numpy as np

from nemui_jax import api
from nemui_jax.cli import console
from nemui_jax.runs.run import read_log, read_scores


def plots(args: argparse.Namespace) -> None:
    """Draws a run's training curve, a map of its latents, and the song that it plays back worst."""
    loaded = api.load(args.run, partial(print, flush=True))
    run, draw = loaded.run, api.import_plots()
    console.start_jax()
    from nemui_jax.evaluation import note_metrics, playback
    from nemui_jax.outputs import latent_map
    from nemui_jax.sampling.decode import latent_songs
    from nemui_jax.sampling.play import play_back

    corpus, scores = run.corpus(), read_scores(run)
    if not all(scores):  # training was stopped before they were measured
        scores = playback.measure(corpus, run.config, loaded.params, loaded.table)
    songs = latent_songs(corpus, loaded.table, run.config)
    worst = min(range(len(songs)), key=lambda song: (scores[song]["onset"], scores[song]["offset"]))
    song, song_of_row = songs[worst], np.repeat(np.arange(len(songs)), np.diff(run.row_starts))
    source, played = corpus.songs[worst], play_back(loaded.params, song, run.config)
    title = f"{song.name}: note F1 {scores[worst]['onset']:.4f}, the lowest of {len(songs)} songs"
    figures = {
        "map": latent_map.draw(np.asarray(loaded.table), song_of_row, [song.name for song in songs]),
        "recall": draw.recall(source, played, note_metrics.compare_notes(source, played), title=title),
    }
    if log := [row for row in read_log(run) if "loss" in row]:
        figures = {"curve": draw.curve(log)} | figures
    folder = args.out or run.path / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        draw.save(figure, folder / f"{name}.png")
        console.print_result(folder / f"{name}.png")


def export(args: argparse.Namespace) -> None:
    """Writes a run's weights, rows and decoder as files for other programs."""
    from nemui_jax.outputs import export

    run = api.load(args.run, print)
    export.import_safetensors()
    console.start_jax()
    folder = args.out or run.run.path / "export"
    for path in export.write(folder, run.params, run.table, run.config, run.run.entries, run.fingerprint):
        console.print_result(path)
