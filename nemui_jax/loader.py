"""What plays songs: weights and rows read from a run's checkpoint and kept, or learned from files for one output."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxtyping import Float

from nemui_jax import shell
from nemui_jax.config import Config
from nemui_jax.data import dataset
from nemui_jax.files import escape
from nemui_jax.runs.components import choose_components
from nemui_jax.runs.run import Run

if TYPE_CHECKING:
    from nemui_jax.model.decoder import DecoderClass, Params
    from nemui_jax.sampling.decode import LatentTrack
    from nemui_jax.sampling.select import DecodedSong
else:  # what they come from takes seconds to import
    DecoderClass = Params = LatentTrack = DecodedSong = Any
TRACKS_KEPT, VOICES_KEPT = 64, 16  # between pieces: a decoded song of five minutes takes 8 MB
FIT_ENOUGH = 0.9  # note F1 from which a song whose rows were fitted is good enough to play with


class LoadedModel(NamedTuple):
    """What plays songs: the run's model, or one that has learned more for one output."""

    step: int  # of the run's checkpoint
    config: Config
    decoder: DecoderClass
    params: Params
    track: Callable[[Any], LatentTrack]  # of a song, an index or a path
    decoded: Callable[[Any, int], DecodedSong]  # a song by itself, over so many blocks
    spread: Callable[[], Float[Any, " latent"]]  # of the rows: the unit of noise

    def tracks(self, count: int) -> Sequence[LatentTrack]:
        """The tracks of the first songs, each read when it is first asked for."""
        return _Tracks(self.track, count)


class _Tracks(Sequence[LatentTrack]):
    def __init__(self, read: Callable[[int], LatentTrack], count: int):
        self._read, self._count = read, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return self._read(int(index))


@dataclass(frozen=True)
class ModelLoader:
    """Reads the model of a run, only as much of it as is played, and keeps some of that between pieces."""

    run: Run
    given_decoder: DecoderClass | None  # None: the default one
    report: Callable[[str], None]  # called with a line about what is done on the way
    max_seconds: float  # that a song in a file may last

    def load(self, songs: Sequence[int | Path], seed: int) -> LoadedModel:
        """What plays these songs, of which those in files are learned first."""
        from nemui_jax.runs import checkpoint

        files = list(dict.fromkeys(song for song in songs if isinstance(song, Path)))
        if files:
            return self._load_with(files, seed)
        indices = tuple(song for song in songs if isinstance(song, int))
        step = self._usable(indices, tuple(checkpoint.saved_steps(self.run.path)))
        track, decoded = partial(self._track, step), partial(self._decoded, step)
        spread = partial(checkpoint.restore_spread, self.run, step)
        return LoadedModel(step, self.run.config, self.decoder, self.params(step), track, decoded, spread)

    @cached_property
    def decoder(self) -> DecoderClass:
        """The decoder that the weights are for."""
        return choose_components(self.given_decoder, None).decoder

    @cached_property
    def params(self) -> Callable[[int], Params]:
        """Reads the weights at a step, and keeps them."""
        from nemui_jax.runs import checkpoint

        return lru_cache(maxsize=1)(partial(checkpoint.restore_params, self.run, decoder=self.decoder))

    @cached_property
    def _usable(self) -> Callable[[tuple[int, ...], tuple[int, ...]], int]:
        """The step to play songs from; looked at once for the same songs, as long as no checkpoint comes or goes."""
        from nemui_jax.runs import checkpoint

        return lru_cache(maxsize=TRACKS_KEPT)(lambda songs, _: checkpoint.usable_step(self.run, self.report, songs))

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
            return decode_song(self.params(step), self._track(step, index), blocks, self.run.config, self.decoder)

        return lru_cache(maxsize=VOICES_KEPT)(decode)

    def _load_with(self, files: Sequence[Path], seed: int) -> LoadedModel:
        """The model with rows for songs in files: they are fitted; where that is too little the song is added."""
        from nemui_jax.evaluation.report import note_f1
        from nemui_jax.model import latents
        from nemui_jax.runs import checkpoint
        from nemui_jax.sampling.decode import latent_tracks
        from nemui_jax.sampling.select import decode_song
        from nemui_jax.training import finetune

        step, decoder = checkpoint.usable_step(self.run, self.report), self.decoder
        params, table = checkpoint.restore_model(self.run, step, decoder)
        model = finetune.TrainedModel(params, table, self.run.corpus(), self.run.config)
        found: dict[Path, int | LatentTrack] = {}
        for path in files:
            model, found[path] = self._learn(model, path, seed)
        tracks: dict[int | Path, LatentTrack] = dict(enumerate(latent_tracks(model.corpus, model.table, model.config)))
        for path, track in found.items():
            tracks[path] = tracks[track] if isinstance(track, int) else track
            f1 = note_f1(model.params, tracks[path], model.config, decoder)
            self.report(f"{escape(path)}: note F1 {f1:.3f} when it is played back")
        params, settings = model.params, model.config
        return LoadedModel(
            step,
            settings,
            decoder,
            params,
            track=tracks.__getitem__,
            decoded=lambda song, blocks: decode_song(params, tracks[song], blocks, settings, decoder),
            spread=partial(latents.spread, model.table),
        )

    def _learn(self, model: Any, path: Path, seed: int) -> tuple[Any, int | LatentTrack]:
        """A `finetune.TrainedModel` that plays the song in a file, and the song's index in it or its track."""
        from nemui_jax.evaluation.report import note_f1
        from nemui_jax.sampling.decode import latent_track
        from nemui_jax.training import finetune

        entry, song = dataset.load_file(path, self.run.config.roll, self.max_seconds)
        hashes, name = [other.sha256 for other in model.corpus.entries], escape(path)
        if entry.sha256 in hashes:
            return model, hashes.index(entry.sha256)
        self.report(f"{name}: not in the run; fitting it")
        rows = finetune.fit_song(model.params, song, entry, model.config, seed, decoder=self.decoder)
        track = latent_track(entry, song, rows)
        f1 = note_f1(model.params, track, model.config, self.decoder)
        if f1 >= FIT_ENOUGH:
            self.report(f"{name}: fitted, with the decoder as it is; note F1 {f1:.3f}")
            return model, track
        self.report(f"{name}: fitted, note F1 only {f1:.3f}; fine-tuning the decoder for this output")
        model = finetune.add_song(model, entry, song, seed, decoder=self.decoder)
        self.report(f"to keep it: {shell.command('add', '--file', path, '--run', self.run.path)}")
        return model, len(hashes)
