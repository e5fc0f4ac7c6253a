"""Training and playing a run from Python, with the words and options of the command line, which is built on this.

    import nemui_jax as nemui

    run = nemui.train("midis/", run="runs/default")  # later: nemui.load("runs/default")
    run.mix({0: 0.5, "joplin": 0.5}, key="Eb").write("mix.mid")

A song is an index, a name or a unique part of one, or the path of a .mid file, which is learned for that output alone.
Weights and rows are read, and JAX is imported, when something is first played. Nothing is printed, no setting of JAX
is changed, and playing leaves the run's files as they are. What cannot be done raises RunError, RecipeError or
UsageError (all ValueError), or Failed (a RuntimeError), each with one clear line.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Float

from nemui_jax import config, recipe, shell, trainer
from nemui_jax.data import dataset, layout
from nemui_jax.errors import Failed, UsageError
from nemui_jax.files import escape
from nemui_jax.model import latents
from nemui_jax.music.clock import STEADY_BEAT_SECONDS, STEPS_PER_BEAT, steady_clock
from nemui_jax.music.song import MAX_SECONDS, Song, cut_song, retime
from nemui_jax.piece import KeyName, Number, Options, Piece, Plan, import_plots
from nemui_jax.runs.run import Run, read_run, read_scores
from nemui_jax.trainer import Event, TrainOptions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nemui_jax.model.decoder import Params
    from nemui_jax.sampling.decode import LatentTrack
    from nemui_jax.sampling.select import DecodedSong
else:  # what they come from takes seconds to import
    Figure = Params = LatentTrack = DecodedSong = Any
RANDOM_TRIES = 10  # times the count wanted that new songs are drawn, when some are near-copies
RANDOM_SECONDS = 60.0
TRACKS_KEPT, VOICES_KEPT = 64, 16  # between pieces: a decoded song of five minutes takes 8 MB
__all__ = ["LoadedRun", "Options", "Piece", "Plan", "SongInfo", "import_plots", "load", "train"]
FIT_ENOUGH = 0.9  # note F1 from which a song whose rows were fitted is good enough to play with
SongName = SupportsIndex | str | Path
Report = Callable[[str], None]  # called with a line about what is done on the way


def _ignore(_: str) -> None:
    pass


def load(path: str | Path, report: Report = _ignore) -> "LoadedRun":
    """The run in a folder; RunError if there is none."""
    return LoadedRun(read_run(Path(path)), report)


def train(
    songs: str | Path | Iterable[Song],
    run: str | Path = "runs/default",
    config: config.Config | None = TrainOptions.config,
    *,
    overrides: Sequence[str] = TrainOptions.overrides,
    seed: int = TrainOptions.seed,
    steps: int | None = TrainOptions.steps,
    minutes: Number | None = TrainOptions.minutes,
    fresh: bool = TrainOptions.fresh,
    max_seconds: Number = MAX_SECONDS,
    device_memory: Number | None = TrainOptions.device_memory,
    save_seconds: Number = TrainOptions.save_seconds,
    callbacks: Sequence[Callable[[Event], None]] = TrainOptions.callbacks,
    should_stop: Callable[[], bool] = trainer.never,
    report: Report = _ignore,
) -> "LoadedRun":
    """Trains a run on the songs of a folder, or on songs in memory; one that exists goes on where it stopped.

    Each callback is called with an Event after each chunk of steps. When `should_stop` answers True the state is saved
    and training ends early: the same call continues it. `max_seconds` is the longest song that is read; see
    TrainOptions for the others. UsageError or RunError where the run cannot be made, or was made with other settings;
    Failed where training diverges or a checkpoint cannot be saved.
    """
    options = TrainOptions(
        config=config,
        overrides=overrides,
        seed=seed,
        steps=steps,
        minutes=minutes,
        fresh=fresh,
        device_memory=device_memory,
        save_seconds=save_seconds,
        callbacks=callbacks,
        should_stop=should_stop,
        report=report,
    )
    if not isinstance(songs, str | Path):
        return LoadedRun(trainer.train(dataset.from_songs(songs, options.roll), Path(run), options), report)
    if not Path(songs).is_dir():
        raise UsageError(f"{escape(songs)}: no such folder")
    corpus, reports = dataset.load(Path(songs), options.roll, max_seconds)
    for file in reports:
        if file.reason:
            report(f"not used: {escape(file.path)}: {file.reason}")
    return LoadedRun(trainer.train(corpus, Path(run), options), report)


@dataclass(frozen=True)
class SongInfo:
    """A song of a run."""

    index: int
    name: str
    path: str  # of the file that it was learned from, absolute; empty where it was in memory
    seconds: float
    notes: int
    key: str
    note_f1: float | None  # F1 of its onsets when it is played back, 0 to 1; None where that was not measured


class _Model(NamedTuple):
    """What plays songs: the run's model, or one that has learned more for one output."""

    step: int  # of the run's checkpoint
    config: config.Config
    params: Params
    track: Callable[[Any], LatentTrack]  # of a song, an index or a path
    decoded: Callable[[Any, int], DecodedSong]  # a song by itself, over so many blocks
    spread: Callable[[], Float[Any, " latent"]]  # of the rows: the unit of noise


@dataclass(frozen=True)
class LoadedRun:
    """A run to play: `song`, `mix`, `morph`, `perturb` and `random` give a Piece; see Options for what they take."""

    run: Run
    report: Report = _ignore
    max_seconds: float = MAX_SECONDS  # that a song in a file may last

    def __repr__(self) -> str:
        return f"<LoadedRun: {self.run.path}, {len(self.run.entries)} songs>"

    @property
    def config(self) -> config.Config:
        """The configuration that it was trained with."""
        return self.run.config

    @cached_property
    def songs(self) -> tuple[SongInfo, ...]:
        """Its songs, in order."""
        return tuple(
            SongInfo(i, entry.name, entry.path, entry.seconds, entry.notes, entry.key, scores.get("onset"))
            for i, (entry, scores) in enumerate(zip(self.run.entries, read_scores(self.run), strict=True))
        )

    @cached_property
    def step(self) -> int:
        """The step of its newest whole checkpoint, which `params` and `table` come from."""
        from nemui_jax.runs import checkpoint

        return checkpoint.usable_step(self.run, self.report, range(len(self.run.entries)))

    @property
    def fingerprint(self) -> str:
        """A short hash of that checkpoint, as in the provenance of pieces."""
        return self.run.fingerprint(self.step)

    @property
    def params(self) -> Params:
        """The weights of the decoder, for `nemui_jax.decode`."""
        return self._params(self.step)

    @cached_property
    def table(self) -> Float[Any, "row latent"]:
        """The latent rows of all songs, one song after another; `run.row_starts` says where each begins."""
        from nemui_jax.runs import checkpoint

        return checkpoint.restore_table(self.run, self.step)

    def song(
        self,
        song: SongName,
        *,
        seconds: Number | None = Options.seconds,
        key: KeyName | None = Options.key,
        program: int | None = Options.program,
        path: str = Options.path,
        temperature: Number = Options.temperature,
        seed: int = Options.seed,
    ) -> Piece:
        """A learned song, played back."""
        options = Options(seconds=seconds, key=key, program=program, path=path, temperature=temperature, seed=seed)
        return self._one(Plan((self._find(song),), (1.0,), {"song": str(song)}), options)

    def mix(
        self,
        weights: Mapping[Any, Number],
        *,
        seconds: Number | None = Options.seconds,
        key: KeyName | None = Options.key,
        program: int | None = Options.program,
        path: str = Options.path,
        temperature: Number = Options.temperature,
        seed: int = Options.seed,
    ) -> Piece:
        """Songs by weight, as in `{0: 0.5, "joplin": 0.5}`. Weights are scaled to a sum of 1."""
        options = Options(seconds=seconds, key=key, program=program, path=path, temperature=temperature, seed=seed)
        text = ",".join(f"{song}:{weight}" for song, weight in weights.items())
        found = recipe.scale_weights(weights.items(), text, self.run.entries)
        return self._one(Plan(tuple(found), tuple(found.values()), {"mix": text}), options)

    def morph(
        self,
        songs: Iterable[SongName],
        weights: Any = None,
        *,
        seconds: Number | None = Options.seconds,
        key: KeyName | None = Options.key,
        program: int | None = Options.program,
        path: str = Options.path,
        temperature: Number = Options.temperature,
        seed: int = Options.seed,
    ) -> Piece:
        """A way from the first song to the last, or by `weights` of your own.

        These are `[song, point]` at points spread evenly over the piece, between which they move in straight lines;
        they are scaled to a sum of 1 at each point.
        """
        options = Options(seconds=seconds, key=key, program=program, path=path, temperature=temperature, seed=seed)
        songs = list(songs)
        given: dict[str, Any] = {"morph": ",".join(str(song) for song in songs)}
        if len(songs) < 2:
            raise UsageError(f"a morph of {given['morph'] or 'nothing'}: name two songs at least")
        if weights is not None:
            weights = _scaled(weights, len(songs))
            given["weights"] = weights.tolist()
        return self._one(Plan(tuple(self._find(song) for song in songs), weights, given), options)

    def perturb(
        self,
        song: SongName,
        noise: Number = 0.1,
        *,
        seconds: Number | None = Options.seconds,
        key: KeyName | None = Options.key,
        program: int | None = Options.program,
        path: str = Options.path,
        temperature: Number = Options.temperature,
        seed: int = Options.seed,
    ) -> Piece:
        """A variation of a song: its rows with noise, in units of the variance of all rows."""
        options = Options(seconds=seconds, key=key, program=program, path=path, temperature=temperature, seed=seed)
        text = f"{song}:{noise}"
        return self._one(Plan((self._find(song),), (1.0,), {"perturb": text}, recipe.check_noise(noise, text)), options)

    def random(
        self,
        *,
        seconds: Number | None = Options.seconds,
        key: KeyName | None = Options.key,
        program: int | None = Options.program,
        path: str = Options.path,
        temperature: Number = Options.temperature,
        seed: int = Options.seed,
    ) -> Piece:
        """A new song in the manner of the run's. Failed if all that were drawn are too like one of these."""
        options = Options(seconds=seconds, key=key, program=program, path=path, temperature=temperature, seed=seed)
        return self.play_new(1, 1, options)[0]

    def randoms(
        self,
        count: int = 1,
        best: int | None = None,
        *,
        seconds: Number | None = Options.seconds,
        key: KeyName | None = Options.key,
        program: int | None = Options.program,
        path: str = Options.path,
        temperature: Number = Options.temperature,
        seed: int = Options.seed,
    ) -> list[Piece]:
        """The `best` (by default all) of `count` new songs, the best first; fewer where most are copies.

        Failed if all that were drawn are too like a song of the run.
        """
        options = Options(seconds=seconds, key=key, program=program, path=path, temperature=temperature, seed=seed)
        return self.play_new(count, count if best is None else best, options)

    def play_new(self, count: int, best: int, options: Options) -> list[Piece]:
        """As `randoms`."""
        if best > count:
            raise UsageError(f"--best {best} of --count {count}: the best are fewer than all")
        if len(self.run.entries) < 2:
            raise UsageError(f"{self.run.path}: new songs are drawn between songs, and this run has one; perturb it")
        seconds, sounds = options.recipe().get("seconds"), _sounds(options, self.run.entries)
        from nemui_jax.evaluation import novelty
        from nemui_jax.sampling import prior
        from nemui_jax.sampling.arrange import mixed_clock
        from nemui_jax.sampling.play import play

        _check_sphere(options.path, min(prior.SONGS_PER_DRAW, len(self.run.entries)))
        model = self._model(range(len(self.run.entries)), options.seed)
        tracks = _Tracks(model.track, len(self.run.entries))
        steady = steady_clock()  # songs are compared at one tempo: a copy at another is one too
        sources = [retime(track.source, track.clock, steady).notes for track in map(model.track, range(len(tracks)))]
        made, compared, copies, unit = [], [], 0, model.spread()
        for drawn in range(options.seed, options.seed + RANDOM_TRIES * count):
            used, weights = _draw(tracks, model.config, seconds or RANDOM_SECONDS, drawn)
            song = play(model.params, used, weights, model.config, **sounds, noise=prior.NOISE, unit=unit, seed=drawn)
            song = cut_song(song, seconds) if seconds else song
            song = dataclasses.replace(song, name=f"random {drawn}")
            at_one_tempo = retime(song, mixed_clock(used, weights, model.config), steady).notes
            near = novelty.nearest_passage(at_one_tempo, sources)
            copies += near.too_close
            if not near.too_close:
                provenance = self._provenance({"random": True, **options.recipe()}, drawn, model.step)
                name = self.run.entries[near.song].name
                remark = f"nearest song {near.song} {name}, likeness {near.likeness:.2f}"
                made.append(Piece(song, (), "new", provenance, remark, songs=tuple(track.name for track in used)))
                compared.append(at_one_tempo)
            if len(made) == count:
                break
        if copies:
            self.report(f"{copies} drawn and left out, too like a song of the run")
        if not made:
            raise Failed(
                "no new song: all that were drawn are too like the run's, which are few or alike; try another --seed"
            )
        return [made[index] for index in novelty.rank(compared, sources)[:best]]

    def play(self, plans: Sequence[Plan], options: Options) -> Iterator[Piece]:
        """What the plans ask for, one after another.

        The seed of the options is that of what is learned of files, once for all plans; a plan has its own for playing.
        """
        seconds, sounds = options.recipe().get("seconds"), _sounds(options, self.run.entries)
        if any(isinstance(plan.weights, tuple) and not all(0 <= w <= 1 for w in plan.weights) for plan in plans):
            self.report("weights below 0 or above 1 go beyond the songs: results are hard to foresee")
        for plan in plans:
            _check_sphere(options.path, len(plan.songs))
        from nemui_jax.sampling.arrange import count_blocks_in, mixed_clock
        from nemui_jax.sampling.play import play

        model = self._model([song for plan in plans for song in plan.songs], options.seed)
        settings = model.config
        for plan in plans:
            tracks = [model.track(song) for song in plan.songs]
            weigh = partial(_weigh, plan)
            lengths = [layout.count_blocks(track.steps, settings.model) for track in tracks]
            blocks = min(lengths) if isinstance(plan.weights, tuple) else lengths[-1]
            blocks = count_blocks_in(seconds, tracks, weigh, settings) if seconds else blocks
            weights, mixed = weigh(blocks), len(tracks) > 1 or plan.noise or options.temperature
            song = play(
                model.params,
                tracks,
                weights,
                settings,
                **sounds,
                noise=plan.noise,
                unit=model.spread() if plan.noise else 1.0,
                seed=plan.seed,
                voices=[model.decoded(song, blocks) for song in plan.songs] if mixed else None,
            )
            provenance = self._provenance({**plan.recipe, **options.recipe()}, plan.seed, model.step)
            clock = mixed_clock(tracks, weights, settings)
            sources = [retime(track.source, track.clock, clock) for track in tracks]
            yield _piece(cut_song(song, seconds) if seconds else song, plan, tracks, sources, provenance)

    def _one(self, plan: Plan, options: Options) -> Piece:
        return next(self.play([dataclasses.replace(plan, seed=options.seed)], options))

    def _find(self, song: SongName) -> int | Path:
        return recipe.find_song(song, self.run.entries)

    @cached_property
    def _usable(self) -> Callable[[tuple[int, ...], tuple[int, ...]], int]:
        """The step to play songs from; looked at once for the same songs, as long as no checkpoint comes or goes."""
        from nemui_jax.runs import checkpoint

        return lru_cache(maxsize=TRACKS_KEPT)(lambda songs, _: checkpoint.usable_step(self.run, self.report, songs))

    @cached_property
    def _params(self) -> Callable[[int], Params]:
        """Reads the weights at a step, and keeps them."""
        from nemui_jax.runs import checkpoint

        return lru_cache(maxsize=1)(partial(checkpoint.restore_params, self.run))

    @cached_property
    def _track(self) -> Callable[[int, int], LatentTrack]:
        """Reads the track of a song of the run at a step, and keeps some; the rows of no other song are read."""
        from nemui_jax.runs import checkpoint
        from nemui_jax.sampling.decode import latent_track

        def read(step: int, index: int) -> LatentTrack:
            rows = checkpoint.restore_rows(self.run, step, index)
            return latent_track(self.run.entries[index], self.run.song(index), rows)

        return lru_cache(maxsize=TRACKS_KEPT)(read)

    @cached_property
    def _decoded(self) -> Callable[[int, int, int], DecodedSong]:
        """Decodes a song of the run by itself, at a step and over so many blocks, and keeps some."""
        from nemui_jax.sampling.select import decode_song

        def decode(step: int, index: int, blocks: int) -> DecodedSong:
            return decode_song(self._params(step), self._track(step, index), blocks, self.config)

        return lru_cache(maxsize=VOICES_KEPT)(decode)

    def _model(self, songs: Sequence[int | Path], seed: int) -> _Model:
        """What plays these songs, of which those in files are learned first."""
        from nemui_jax.runs import checkpoint

        files = list(dict.fromkeys(song for song in songs if isinstance(song, Path)))
        if files:
            return self._model_with(files, seed)
        indices = tuple(song for song in songs if isinstance(song, int))
        step = self._usable(indices, tuple(checkpoint.saved_steps(self.run.path)))
        track, decoded = partial(self._track, step), partial(self._decoded, step)
        spread = partial(checkpoint.restore_spread, self.run, step)
        return _Model(step, self.config, self._params(step), track, decoded, spread)

    def _model_with(self, files: Sequence[Path], seed: int) -> _Model:
        """The model with rows for songs in files: they are fitted; where that is too little the song is added."""
        from nemui_jax.evaluation import report
        from nemui_jax.runs import checkpoint
        from nemui_jax.sampling.decode import latent_track, latent_tracks
        from nemui_jax.sampling.select import decode_song
        from nemui_jax.training import finetune

        step = checkpoint.usable_step(self.run, self.report)
        model = finetune.TrainedModel(*checkpoint.restore_model(self.run, step), self.run.corpus(), self.config)
        found: dict[Path, int | LatentTrack] = {}
        for path in files:
            entry, song = dataset.load_file(path, self.config.roll, self.max_seconds)
            hashes, name = [other.sha256 for other in model.corpus.entries], escape(path)
            if entry.sha256 in hashes:
                found[path] = hashes.index(entry.sha256)
                continue
            self.report(f"{name}: not in the run; fitting it")
            track = latent_track(entry, song, finetune.fit_song(model.params, song, entry, model.config, seed))
            f1 = report.note_f1(model.params, track, model.config)
            if f1 >= FIT_ENOUGH:
                self.report(f"{name}: fitted, with the decoder as it is; note F1 {f1:.3f}")
                found[path] = track
            else:
                self.report(f"{name}: fitted, note F1 only {f1:.3f}; fine-tuning the decoder for this output")
                found[path] = len(hashes)
                model = finetune.add_song(model, entry, song, seed)
                self.report(f"to keep it: {shell.command('add', '--file', path, '--run', self.run.path)}")
        tracks: dict[int | Path, LatentTrack] = dict(enumerate(latent_tracks(model.corpus, model.table, model.config)))
        for path, track in found.items():
            tracks[path] = tracks[track] if isinstance(track, int) else track
            f1 = report.note_f1(model.params, tracks[path], model.config)
            self.report(f"{escape(path)}: note F1 {f1:.3f} when it is played back")
        params, settings = model.params, model.config
        return _Model(
            step,
            settings,
            params,
            track=tracks.__getitem__,
            decoded=lambda song, blocks: decode_song(params, tracks[song], blocks, settings),
            spread=partial(latents.spread, model.table),
        )

    def _provenance(self, given: Mapping[str, Any], seed: int, step: int) -> str:
        """What made a piece, so that it can be made again."""
        used = {**given, "seed": seed, "run": self.run.fingerprint(step)}
        return "nemui_jax " + json.dumps(used, default=str)


class _Tracks(Sequence[LatentTrack]):
    """The tracks of a run, each read when it is first asked for."""

    def __init__(self, read: Callable[[int], LatentTrack], count: int):
        self._read, self._count = read, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return self._read(int(index))


def _sounds(options: Options, entries: Sequence[dataset.SongEntry]) -> dict[str, Any]:
    """What `sampling.play` takes of the options, for a run with these songs."""
    return {
        "shift": None if options.key is None else recipe.find_shift(options.key, entries),
        "program": options.program,
        "path": options.path,
        "temperature": float(options.temperature),
    }


def _check_sphere(path: str, songs: int) -> None:
    """UsageError where a sphere has no one way to go."""
    if path == "sphere" and songs != 2:
        raise UsageError(f"a sphere's path is one between two songs, and there are {songs}; take line or norm")


def _scaled(weights: Any, songs: int) -> Float[np.ndarray, "song point"]:
    """Weights `[song, point]` with a sum of 1 at each point."""
    found = np.asarray(weights, float)
    if found.ndim != 2 or len(found) != songs or not found.shape[1]:
        raise UsageError(f"weights of shape {found.shape} for {songs} songs; give [song, point], a row for each song")
    if not np.isfinite(found).all() or (found < 0).any() or (found.sum(0) <= 0).any():
        raise UsageError("weights must be finite, not negative, and above 0 for some song at each point")
    return found / found.sum(0)


def _weigh(plan: Plan, blocks: int) -> Float[np.ndarray, "song block"]:
    """A plan's weights in each of so many blocks."""
    from nemui_jax.sampling.blend import mix_weights, morph_weights

    if plan.weights is None:
        return morph_weights(len(plan.songs), blocks)
    if isinstance(plan.weights, tuple):
        return mix_weights(plan.weights, blocks)
    place = np.linspace(0, plan.weights.shape[1] - 1, blocks)
    return np.stack([np.interp(place, np.arange(len(row)), row) for row in plan.weights])


def _draw(
    tracks: Sequence[LatentTrack], settings: config.Config, seconds: float, seed: int
) -> tuple[list[LatentTrack], Float[np.ndarray, "song block"]]:
    """What a new song of this length is made of, and with which weights (`prior.draw`)."""
    from nemui_jax.sampling import prior
    from nemui_jax.sampling.arrange import count_blocks_in

    draw = partial(prior.draw_song, tracks, settings, seed=seed)
    first = max(math.ceil(seconds / STEADY_BEAT_SECONDS * STEPS_PER_BEAT / settings.model.block_steps), 1)
    blocks = count_blocks_in(seconds, draw(first)[0], lambda count: draw(count)[1], settings)
    return draw(blocks)


def _piece(song: Song, plan: Plan, tracks: Sequence[LatentTrack], sources: Sequence[Song], provenance: str) -> Piece:
    """What was played of a plan, with the songs that it is made of, at the tempo that they have in it, and weights."""
    weights, names = plan.weights if isinstance(plan.weights, tuple) else (), [track.name for track in tracks]
    shown = [f"{name} {weight:.2f}" for name, weight in zip(names, weights, strict=True)] if len(weights) > 1 else names
    parents = tuple(
        dataclasses.replace(cut_song(source, song.seconds), name=name)
        for source, name in zip(sources, shown, strict=True)
    )
    kind = "morph" if not weights else "mix" if len(tracks) > 1 or plan.noise else "recall"
    if kind != "recall":
        title = f"variation of {names[0]}" if plan.noise else (" to " if kind == "morph" else " + ").join(shown)
        song = dataclasses.replace(song, name=title)
    stops = tuple(np.linspace(0, song.seconds, len(parents)).tolist()) if plan.weights is None else ()
    return Piece(song, parents, kind, provenance, songs=tuple(names), weights=weights, stops=stops)
