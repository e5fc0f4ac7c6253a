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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
from jaxtyping import Float

from nemui_jax import config, recipe
from nemui_jax.data import dataset, layout
from nemui_jax.errors import Failed, UsageError
from nemui_jax.files import escape
from nemui_jax.music.song import MAX_SECONDS, Song, cut_song, one_instrument
from nemui_jax.piece import Factors, KeyName, Number, Options, Piece, Plan, import_plots, make_piece, scale_points
from nemui_jax.runs import trainer
from nemui_jax.runs.components import check_component
from nemui_jax.runs.loader import LoadedModel, ModelLoader
from nemui_jax.runs.run import Run, read_run, read_scores
from nemui_jax.runs.trainer import Event, TrainOptions

if TYPE_CHECKING:
    from nemui_jax.data.grid import GridSong
    from nemui_jax.model.decoder import DecoderClass, Params
    from nemui_jax.training.step import OptimizerOf
else:  # what they come from takes seconds to import
    DecoderClass = GridSong = OptimizerOf = Params = Any
RANDOM_SECONDS = 60.0
__all__ = ["Factors", "LoadedRun", "Options", "Piece", "Plan", "SongInfo", "import_plots", "load", "train"]
SongName = SupportsIndex | str | Path
Report = Callable[[str], None]  # called with a line about what is done on the way


def _ignore(_: str) -> None:
    pass


def load(path: str | Path, report: Report = _ignore, *, decoder: DecoderClass | None = None) -> "LoadedRun":
    """The run in a folder; RunError if there is none, or if it was trained with another decoder than this one."""
    run = read_run(Path(path))
    check_component(run.path, "decoder", run.decoder, decoder)
    return LoadedRun(run, report, decoder=decoder)


def train(
    songs: str | Path | Iterable[Song],
    run: str | Path = "runs/default",
    config: config.Config | None = TrainOptions.config,
    *,
    overrides: Sequence[str] = TrainOptions.overrides,
    decoder: DecoderClass | None = TrainOptions.decoder,
    optimizer: OptimizerOf | None = TrainOptions.optimizer,
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
        decoder=decoder,
        optimizer=optimizer,
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
        trained = trainer.train(dataset.from_songs(songs, options.first_config), Path(run), options)
        return LoadedRun(trained, report, decoder=decoder)
    if not Path(songs).is_dir():
        raise UsageError(f"{escape(songs)}: no such folder")
    corpus, reports = dataset.load(Path(songs), options.first_config, max_seconds)
    for file in reports:
        if file.reason:
            report(f"not used: {escape(file.path)}: {file.reason}")
    return LoadedRun(trainer.train(corpus, Path(run), options), report, decoder=decoder)


@dataclass(frozen=True)
class PartInfo:
    """A part of a song: what one instrument plays."""

    name: str  # of its track, if it has one
    instrument: str
    program: int  # 0 to 127; of drums, the kit
    drums: bool
    channel: int  # 0 to 15
    notes: int


@dataclass(frozen=True)
class SongInfo:
    """A song of a run."""

    index: int
    name: str
    path: str  # of the file that it was learned from, absolute; empty where it was in memory
    seconds: float
    notes: int
    key: str
    parts: tuple[PartInfo, ...]
    clock: str  # what counts its beats: "file" (the tempo map of its file), "tracked" (from its notes) or "steady"
    tempo: float | None  # quarter notes a minute, on average; None on a steady clock
    note_f1: float | None  # F1 of its onsets when it is played back, 0 to 1; None where that was not measured
    possible_note_f1: float  # what its grid allows: below 1 where notes share a cell


@dataclass(frozen=True)
class LoadedRun:
    """A run to play: `song`, `mix`, `morph`, `perturb` and `random` give a Piece; see Options for what they take."""

    run: Run
    report: Report = _ignore
    max_seconds: float = MAX_SECONDS  # that a song in a file may last
    decoder: DecoderClass | None = None  # that it was trained with; None: the default one

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
            SongInfo(
                index=i,
                name=entry.name,
                path=entry.path,
                seconds=entry.seconds,
                notes=entry.notes,
                key=entry.key,
                parts=tuple(
                    PartInfo(part.name, part.instrument, part.program, part.is_drums, part.channel, part.notes)
                    for part in entry.parts
                ),
                clock=entry.clock,
                tempo=entry.tempo,
                note_f1=scores.get("onset"),
                possible_note_f1=entry.possible_note_f1,
            )
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
        return self._loader.params(self.step)

    @cached_property
    def table(self) -> Float[Any, "row latent"]:
        """The latent rows of all songs, one song after another; `run.row_starts` says where each begins."""
        from nemui_jax.runs import checkpoint

        return checkpoint.restore_table(self.run, self.step)

    @cached_property
    def _loader(self) -> ModelLoader:
        return ModelLoader(self.run, self.decoder, self.report, self.max_seconds)

    def song(
        self,
        song: SongName,
        *,
        seconds: Number | None = Options.seconds,
        key: KeyName | None = Options.key,
        program: int | None = Options.program,
        temperature: Number = Options.temperature,
        seed: int = Options.seed,
        factors: Factors = Options.factors,
    ) -> Piece:
        """A learned song, played back."""
        options = Options(
            seconds=seconds, key=key, program=program, temperature=temperature, seed=seed, factors=factors
        )
        return self._one(Plan((self._find(song),), (1.0,), {"song": str(song)}), options)

    def mix(
        self,
        weights: Mapping[Any, Number],
        *,
        seconds: Number | None = Options.seconds,
        key: KeyName | None = Options.key,
        program: int | None = Options.program,
        temperature: Number = Options.temperature,
        seed: int = Options.seed,
        factors: Factors = Options.factors,
    ) -> Piece:
        """Songs by weight, as in `{0: 0.5, "joplin": 0.5}`. Weights are scaled to a sum of 1."""
        options = Options(
            seconds=seconds, key=key, program=program, temperature=temperature, seed=seed, factors=factors
        )
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
        temperature: Number = Options.temperature,
        seed: int = Options.seed,
        factors: Factors = Options.factors,
    ) -> Piece:
        """A way from the first song to the last, or by `weights` of your own.

        These are `[song, point]` at points spread evenly over the piece, between which they move in straight lines;
        they are scaled to a sum of 1 at each point.
        """
        options = Options(
            seconds=seconds, key=key, program=program, temperature=temperature, seed=seed, factors=factors
        )
        songs = list(songs)
        given: dict[str, Any] = {"morph": ",".join(str(song) for song in songs)}
        if len(songs) < 2:
            raise UsageError(f"a morph of {given['morph'] or 'nothing'}: name two songs at least")
        if weights is not None:
            weights = scale_points(weights, len(songs))
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
        temperature: Number = Options.temperature,
        seed: int = Options.seed,
        factors: Factors = Options.factors,
    ) -> Piece:
        """A variation of a song: `noise` from 0 to 1 is how much of it changes.

        By the seed the melody is kept as long as possible and the accompaniment varied, or the other way round; at 1
        all bars are other bars of the song that fit its harmony. With one row a song it is the amount of Gaussian noise
        on the row, in units of the variance of all rows.
        """
        options = Options(
            seconds=seconds, key=key, program=program, temperature=temperature, seed=seed, factors=factors
        )
        text = f"{song}:{noise}"
        return self._one(Plan((self._find(song),), (1.0,), {"perturb": text}, recipe.check_noise(noise, text)), options)

    def random(
        self,
        *,
        seconds: Number | None = Options.seconds,
        key: KeyName | None = Options.key,
        program: int | None = Options.program,
        temperature: Number = Options.temperature,
        seed: int = Options.seed,
        factors: Factors = Options.factors,
    ) -> Piece:
        """A new song in the manner of the run's. Failed if all that were drawn are too like one of these."""
        options = Options(
            seconds=seconds, key=key, program=program, temperature=temperature, seed=seed, factors=factors
        )
        return self.play_new(1, 1, options)[0]

    def randoms(
        self,
        count: int = 1,
        best: int | None = None,
        *,
        seconds: Number | None = Options.seconds,
        key: KeyName | None = Options.key,
        program: int | None = Options.program,
        temperature: Number = Options.temperature,
        seed: int = Options.seed,
        factors: Factors = Options.factors,
    ) -> list[Piece]:
        """The `best` (by default all) of `count` new songs, the best first; fewer where most are copies.

        Failed if all that were drawn are too like a song of the run.
        """
        options = Options(
            seconds=seconds, key=key, program=program, temperature=temperature, seed=seed, factors=factors
        )
        return self.play_new(count, count if best is None else best, options)

    def play_new(self, count: int, best: int, options: Options) -> list[Piece]:
        """As `randoms`."""
        if best > count:
            raise UsageError(f"--best {best} of --count {count}: the best are fewer than all")
        if len(self.run.entries) < 2:
            raise UsageError(f"{self.run.path}: new songs are drawn between songs, and this run has one; perturb it")
        if not self.config.model.knot_steps:
            raise UsageError(f"{self.run.path}: new songs are made of cells, and this run has one row a song; mix some")
        from nemui_jax.evaluation import mixing, novelty
        from nemui_jax.sampling import prior

        shift = None if options.key is None else recipe.find_shift(options.key, self.run.entries)
        songs = range(len(self.run.entries))
        drawable = prior.drawable([entry.clock for entry in self.run.entries])
        model = self._loader.load(songs, options.seed)
        in_beats = cache(lambda index: mixing.in_beats(self.run.song(index)))
        seconds = float(options.seconds or RANDOM_SECONDS)
        seeds = range(options.seed, options.seed + prior.TRIES * count)
        made, compared, copies = [], [], 0
        for new in novelty.draw_songs(drawable, model.analyzed, in_beats, songs, seeds, seconds, shift):
            song = new.song if options.program is None else one_instrument(new.song, options.program)
            song = dataclasses.replace(song, name=f"random {new.seed}")
            copies += new.too_close
            again = any(np.array_equal(song.notes, other.notes) for other in made)  # of few or short songs
            if new.is_new and not again:
                provenance = self._provenance({"random": True, **options.recipe()}, new.seed, model.step)
                near = self.run.entries[new.near.song].name
                remark = f"nearest song {new.near.song} {near}, likeness {new.near.likeness:.2f}"
                names = tuple(self.run.entries[source.song].name for source in new.sources)
                gave, shares = (tuple(values) for values in zip(*(source[1:] for source in new.sources), strict=True))
                made.append(Piece(song, (), "new", provenance, remark, songs=names, weights=shares, gave=gave))
                compared.append(new.in_beats)
            if len(made) == count:
                break
        if copies:
            self.report(f"{copies} drawn and left out, too like a song of the run")
        if not made:
            raise Failed(
                "no new song: all that were drawn are too like the run's, which are few or alike; try another --seed"
            )
        if len(made) == 1:
            return made
        judges = [in_beats(index) for index in dataset.spread(len(songs), novelty.RANK_SONGS)]
        return [made[index] for index in novelty.rank(compared, judges)[:best]]

    def play(self, plans: Sequence[Plan], options: Options) -> Iterator[Piece]:
        """What the plans ask for, one after another.

        The seed of the options is that of what is learned of files, once for all plans; a plan has its own for playing.
        """
        seconds = options.recipe().get("seconds")
        found = [_find_factors(plan, options, self.run.entries) for plan in plans]
        shift = None if options.key is None else recipe.find_shift(options.key, self.run.entries)
        model = self._loader.load([song for songs, _ in found for song in songs], options.seed)
        for plan, (songs, factors) in zip(plans, found, strict=True):
            song = _play_plan(plan, model, options, shift, songs, factors)
            song = cut_song(song, seconds) if seconds else song
            provenance = self._provenance({**plan.recipe, **options.recipe()}, plan.seed, model.step)
            sources = [model.played(song) for song in plan.songs]
            names, files = [source.name for source in sources], [source.source for source in sources]
            yield make_piece(song, plan, names, files, provenance)

    def _one(self, plan: Plan, options: Options) -> Piece:
        return next(self.play([dataclasses.replace(plan, seed=options.seed)], options))

    def _find(self, song: SongName) -> int | Path:
        return recipe.find_song(song, self.run.entries)

    def _provenance(self, given: Mapping[str, Any], seed: int, step: int) -> str:
        """What made a piece, so that it can be made again."""
        used = {**given, "seed": seed, "run": self.run.fingerprint(step)}
        return "nemui_jax " + json.dumps(used, default=str)


def _play_plan(
    plan: Plan,
    model: LoadedModel,
    options: Options,
    shift: int | None,
    songs: Sequence[int | Path],
    factors: Mapping[str, Sequence[float]],
) -> Song:
    """What a plan asks for: a song as it was learned, or a mix.

    `shift` is that of the key that was asked for; `songs` and `factors` are as `_find_factors` gives them.
    """
    from nemui_jax.sampling import arrange

    if not model.config.model.knot_steps:
        return arrange.to_song(_interpolate(plan, model, options), shift, options.program)
    if plan.is_recall and not options.temperature and not factors:
        return arrange.to_song(model.played(plan.songs[0]), shift, options.program)
    from nemui_jax.sampling import mix, variation

    extra = len(songs) - len(plan.songs)
    analyzed = [model.analyzed(song) for song in songs]
    if plan.noise:
        vary = partial(variation.vary, noise=plan.noise, seed=plan.seed, temperature=float(options.temperature))
        varied = [vary(song) for song in analyzed[: len(plan.songs)]]
        if len(songs) == 1 and not options.seconds:
            return arrange.to_song(varied[0], shift, options.program)
        analyzed[: len(varied)] = map(mix.analyze, varied)
    mixed = mix.mix(
        analyzed,
        lambda bars: np.pad(plan.weigh(bars), ((0, extra), (0, 0))),
        seconds=float(options.seconds) if options.seconds else None,
        factors=mix.Factors(**factors),
        shift=shift,
        temperature=float(options.temperature),
        seed=plan.seed,
    )
    return mixed if options.program is None else one_instrument(mixed, options.program)


def _find_factors(
    plan: Plan, options: Options, entries: Sequence[dataset.SongEntry]
) -> tuple[list[int | Path], dict[str, list[float]]]:
    """The songs of a plan and of its factors, and for each factor the weights of all these songs."""
    found = {name: recipe.find_weights(text, entries) for name, text in options.factors.given().items()}
    songs = list(dict.fromkeys([*plan.songs, *(song for weights in found.values() for song in weights)]))
    return songs, {name: [weights.get(song, 0.0) for song in songs] for name, weights in found.items()}


def _interpolate(plan: Plan, model: LoadedModel, options: Options) -> GridSong:
    """A mix of songs of one row each."""
    from nemui_jax.sampling.interpolate import interpolate

    songs, settings = [model.latent(song) for song in plan.songs], model.config.model
    counts = [layout.count_cell_blocks(song.grid.steps, settings) for song in songs]
    weights = plan.weigh(min(counts) if isinstance(plan.weights, tuple) else counts[-1])
    return interpolate(
        model.params,
        songs,
        weights,
        model.config,
        noise=plan.noise,
        unit=model.spread() if plan.noise else 1.0,
        seed=plan.seed,
        decoder=model.decoder,
    )
