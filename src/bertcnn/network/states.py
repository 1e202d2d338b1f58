"""States of many texts: streamed in batches, or kept on disk.

A frozen encoder gives the same states every epoch, so they are computed once. The cache is named
by its content (weights, tokenizer, windows, texts): whatever changes makes another entry.
"""

import hashlib
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bertcnn.arrays import Floats16, Floats32, Ints
from bertcnn.errors import TrainingError
from bertcnn.network.encoder import check_pieces, load_tokenizer, states_width
from bertcnn.network.folder import check_weights
from bertcnn.network.model import BertCNN, batch_tensors, to_device
from bertcnn.network.products import products
from bertcnn.text.tokens import Batch, Pieces, PieceTokenizer, check_texts, make_batch, plan_batches

CACHE_BYTES = 20_000_000_000
"""What all entries of a cache folder may take together; the longest unused go first."""
DRAFT_SECONDS = 86_400
"""A half-written entry that is older was left by a process that was killed."""
BLOCK = 1 << 20

_BATCHES = {"cpu": (1024, 70), "cuda": (65_536, 65_536)}

ENTRY_FORMAT = b"4"
"""Of what an entry of the cache holds; those of another are not found."""

_NOT_OF_STATES = frozenset({"_name_or_path", "architectures", "dtype", "transformers_version", "id2label", "label2id"})

_LARGEST_HALF = float(np.finfo(np.float16).max)


def mean_state(states: npt.NDArray[Any]) -> Floats32:
    """Return the mean of a text's states ``(T, D)``, float32 ``(D,)``; 0 where there are none."""
    return np.asarray(np.sum(states, axis=0, dtype=np.float32) / max(1, len(states)), dtype=np.float32)


def batch_sizes(model: BertCNN) -> tuple[int, int]:
    """Return the padded pieces of a batch that suit a model's device, and what beginning one costs there, in pieces.

    On a CPU a batch that leaves the cache costs more than it saves; on a GPU beginning costs more than any padding.
    """
    return _BATCHES.get(model.device.type, _BATCHES["cuda"])


def uses_bf16(precision: str) -> bool:
    """Return whether a setting, ``auto``, ``fp32`` or ``bf16``, means products of bfloat16 numbers on this machine."""
    is_auto = precision == "auto" and torch.cuda.is_available()
    return precision == "bf16" or (is_auto and torch.cuda.is_bf16_supported(including_emulation=False))


def stream_states(model: BertCNN, pieces: Pieces, *, pad_id: int, bf16: bool = False) -> Iterator[tuple[Batch, Tensor]]:
    """Encode texts in batches of like length, each within the budget, without gradients.

    Args:
        model: Its encoder is run, on the device it is on, in evaluation mode.
        pieces: The texts.
        pad_id: Piece to fill up with.
        bf16: Whether the encoder multiplies bfloat16 numbers.

    Yields:
        A batch and its stitched states, float ``(B, T, S)``, on the model's device.
    """
    budget, overhead = batch_sizes(model)
    within = products(model.device, bf16=bf16)
    model.eval()
    plans = plan_batches(pieces.lengths, model.config.windowing, max_tokens=budget, overhead_tokens=overhead, reach=0)
    for parts in plans:
        batch = make_batch(pieces, parts, pad_id=pad_id)
        with torch.inference_mode():
            states = batch_states(model, batch, budget, within=within)
        yield batch, states  # outside: a generator that waits would leave its caller in the mode


_has_computed = False


def _compute_alone() -> None:
    """Let a forked process compute with one thread: the others are its parent's, and it would wait for them for ever.

    Not before anything was computed, for then there are no others.
    """
    if _has_computed:
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_compute_alone)


def batch_states(
    model: BertCNN,
    batch: Batch,
    max_tokens: int,
    *,
    within: AbstractContextManager[Any] = nullcontext(),  # noqa: B008  # it holds nothing
) -> Tensor:
    """Return the stitched states of a batch, float ``(B, T, S)``, on the model's device.

    Args:
        model: Its encoder is run, on the device it is on.
        batch: What to encode.
        max_tokens: Padded pieces at once, of a long text's windows.
        within: How the encoder multiplies, of :func:`~bertcnn.network.products.products`.
    """
    global _has_computed  # of the process, as the threads are
    _has_computed = True
    ids, attention, source, _ = (tensor.to(model.device, non_blocking=True) for tensor in batch_tensors(batch))
    # Texts come sorted, so many batches have no padding, and attention without a mask is quicker.
    mask = None if batch.attention_mask.all() else attention
    # A segment of a long text can be more windows than are good to encode at once; the rest is planned to fit.
    rows = len(ids) if batch.is_plain else max(1, max_tokens // ids.shape[1])
    chunks = [slice(i, i + rows) for i in range(0, len(ids), rows)]
    with within:
        windows = [model.stitched_states(ids[some], None if mask is None else mask[some], None)[0] for some in chunks]
    states = torch.cat(windows).to(model.dtype)
    return states if batch.is_plain else states.flatten(0, 1)[source]


@dataclass(frozen=True)
class States:
    """States of N texts on disk, end to end.

    Attributes:
        values: float16 ``(pieces, S)``, memory-mapped.
        starts: Text ``i`` is ``values[starts[i]:starts[i + 1]]``, int64 ``(N + 1,)``.
        seconds: What encoding them took, once.
    """

    values: Floats16
    starts: Ints
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, text: int) -> Floats16:
        return self.values[self.starts[text] : self.starts[text + 1]]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open what :func:`write_states` wrote."""
        took = float((folder / "seconds.txt").read_text("utf-8"))
        return cls(np.load(folder / "states.npy", mmap_mode="r"), np.load(folder / "starts.npy"), took)


def write_states(
    folder: Path,
    model: BertCNN,
    tokenizer: PieceTokenizer,
    pieces: Pieces,
    *,
    bf16: bool = False,
    progress: Callable[[int], Any] | None = None,
) -> None:
    """Encode texts into a new folder, which appears when it is whole.

    Args:
        folder: Where to; must not exist.
        model: Its encoder is run.
        tokenizer: What cut the texts.
        pieces: The texts.
        bf16: Whether the encoder multiplies bfloat16 numbers.
        progress: Called with the number of pieces done, now and then.

    Raises:
        TrainingError: The disk is full.
    """
    width = states_width(model.config.encoder, model.config.states)
    total = int(pieces.starts[-1])
    started = time.perf_counter()
    draft: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = folder.with_name(f".draft-{secrets.token_hex(8)}")
        draft.mkdir()
        np.save(draft / "starts.npy", pieces.starts)
        values = np.lib.format.open_memmap(draft / "states.npy", "w+", np.float16, (total, width))
        # Without its blocks, a map on a full disk would kill the process at some later write.
        _allocate(draft / "states.npy")
        for batch, states in stream_states(model, pieces, pad_id=tokenizer.pad_id, bf16=bf16):
            halves = states.float().clamp(-_LARGEST_HALF, _LARGEST_HALF).half().cpu().numpy()
            for row, (text, start) in enumerate(zip(batch.texts, batch.starts, strict=True)):
                count = int(batch.source_mask[row].sum())
                at = pieces.starts[text] + start
                values[at : at + count] = halves[row, :count]
            if progress is not None:
                progress(int(batch.source_mask.sum()))
        values.flush()
        del values
        (draft / "seconds.txt").write_text(f"{time.perf_counter() - started:.3f}", "utf-8")
        draft.rename(folder)
    except OSError as error:
        raise TrainingError(
            f"Cannot keep {total * width * 2 / 1e6:,.0f} MB of encoder states in {folder.parent}: {error}. "
            "Free some space, or name another folder by the setting 'cache' or BERTCNN_CACHE."
        ) from error
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)


def _allocate(file: Path) -> None:
    """Have the disk give a file all the blocks of its size."""
    size = max(1, file.stat().st_size)
    with file.open("r+b") as stream:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(stream.fileno(), 0, size)
            return
        # macOS has none: what is written holds its blocks. The header stays.
        for start in range(0, size, BLOCK):
            block = stream.read(BLOCK)
            stream.seek(start)
            stream.write(block)


def cached_states(
    model: BertCNN,
    tokenizer: PieceTokenizer,
    pieces: Pieces,
    cache: Path,
    *,
    bf16: bool = False,
    progress: Callable[[int], Any] | None = None,
) -> States:
    """Return the states of texts from the cache, encoding them if they are not there.

    Args:
        model: Its encoder, in the state it is in.
        tokenizer: What cut the texts.
        pieces: The texts.
        cache: Folder of the cache.
        bf16: As for :func:`write_states`; such states have entries of their own.
        progress: As for :func:`write_states`.
    """
    digest = hashlib.sha256()
    for name, weights in model.encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(weights.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    config = model.config
    encoder = {name: value for name, value in config.encoder.to_dict().items() if name not in _NOT_OF_STATES}
    digest.update(json.dumps(encoder, sort_keys=True, default=str).encode())
    digest.update(ENTRY_FORMAT)
    digest.update(repr((config.states, config.windowing, model.dtype)).encode())
    if bf16:
        digest.update(b"bf16")
    digest.update(pieces.ids.tobytes() + pieces.starts.tobytes())
    folder = cache / digest.hexdigest()[:32]
    if (known := _entry(folder)) is not None:
        return known
    try:
        write_states(folder, model, tokenizer, pieces, bf16=bf16, progress=progress)
    except TrainingError:
        # Another process may have written the same entry meanwhile; its states are as good.
        if not (folder / "states.npy").is_file():
            raise
    found = States.load(folder)
    _drop_oldest(cache, keep=folder)
    return found


def _entry(folder: Path) -> States | None:
    """Return what an entry holds; None if there is none, or if it is damaged, as by a power cut: it is deleted then."""
    if not folder.is_dir():
        return None
    with suppress(OSError):  # of a cache that may only be read
        os.utime(folder)
    with suppress(FileNotFoundError, ValueError, EOFError):
        return States.load(folder)
    _drop(folder)
    return None


def _drop(folder: Path) -> None:
    """Delete an entry; under its name it is whole, or not there."""
    gone = folder.with_name(f".draft-{folder.name}-{os.getpid()}")
    with suppress(OSError):  # it is not there, or another process drops it just now
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _drop_oldest(cache: Path, *, keep: Path) -> None:
    """Delete the oldest entries beyond what the cache may hold, and what killed processes left half-written."""
    entries: list[tuple[float, int, Path]] = []
    for entry in [*cache.glob("[0-9a-f]" * 32), *cache.glob(".draft-*")]:
        with suppress(OSError):  # another process cleans up, too, or it is another user's
            size = sum(file.stat().st_size for file in entry.iterdir())
            entries.append((entry.stat().st_mtime, size, entry))
    total = sum(size for _, size, _ in entries)
    for changed, size, entry in sorted(entries):
        is_draft = entry.name.startswith(".")
        if entry == keep or (time.time() - changed < DRAFT_SECONDS if is_draft else total <= CACHE_BYTES):
            continue
        _drop(entry)
        total -= size


def cache_folder(setting: str) -> Path:
    """Return the folder of the cache: the setting, else ``BERTCNN_CACHE``, else the user's cache.

    Who has no home that can be written to, as in a container, has a cache until the process ends.
    """
    if named := setting or os.environ.get("BERTCNN_CACHE", ""):
        return Path(named).expanduser()
    with suppress(RuntimeError):  # a user whom the system does not know
        usual = Path.home() / ".cache" / "bertcnn" / "states"
        there = next(place for place in (usual, *usual.parents) if os.path.exists(place))
        if os.access(there, os.W_OK):
            return usual
    return Path(_passing_folder().name)


@cache
def _passing_folder() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="bertcnn-", ignore_cleanup_errors=True)


def embed(
    texts: Sequence[str],
    *,
    encoder: str = "minilm",
    depth: int | Literal["half", "all"] = "all",
    states: str = "last",
    max_length: int = 512,
    overlap: int = 64,
    device: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Return one vector for each word piece of each text, as BERT sees it in its sentence.

    Args:
        texts: Of any length; beyond ``max_length`` pieces they are encoded in windows.
        encoder: ``minilm``, a folder, or a hub name.
        depth: Layers to run, from below.
        states: Which of them to return: ``last``, ``mix`` (all, side by side) or ``concat-N``.
        max_length: Pieces encoded at once.
        overlap: Pieces that neighbouring windows share.
        device: Where the encoder runs; None: on the GPU where there is one.

    Returns:
        States, float32 ``(B, T, S)`` on the CPU, S the width of all that were asked for, 0 behind the end of a
        text; and a mask, bool ``(B, T)``, special pieces included.

    Raises:
        EncoderError: There is no such encoder.
        ModelError: A bertcnn model's folder is broken, or torch cannot run on the device.
        SettingsError: The encoder has no such depth or states, or cannot be cut into windows so.
        TypeError: A single string was given.

    >>> states, mask = embed(["Not bad at all.", "Good."])
    >>> tuple(states.shape), mask.sum(dim=1).tolist()
    ((2, 7, 384), [7, 4])
    """
    texts = check_texts(texts)
    model, tokenizer = load_for_embedding(encoder, depth, states, max_length, overlap, device)
    return embed_with(model, tokenizer, texts)


def load_for_embedding(
    encoder: str,
    depth: int | Literal["half", "all"],
    states: str,
    max_length: int,
    overlap: int,
    device: str | None = None,
) -> tuple[BertCNN, PieceTokenizer]:
    """Load what :func:`embed` runs.

    That is an encoder by name, or the one in a bertcnn model folder, whose own depth and states
    then hold.
    """
    if os.path.isfile(Path(encoder, "run.toml")):
        check_weights(encoder)
        return to_device(BertCNN.from_pretrained(encoder), device), PieceTokenizer.load(encoder)
    tokenizer = load_tokenizer(encoder)
    special = (len(tokenizer.prefix), len(tokenizer.suffix))
    # Its head is not run; windows wider than one piece would only forbid short lengths.
    model = BertCNN.from_encoder(
        encoder,
        depth=depth,
        states=states,
        max_length=max_length,
        overlap=overlap,
        special_pieces=special,
        num_filters=1,
        kernel_sizes=(1,),
    )
    check_pieces(encoder, tokenizer, model.encoder)
    return to_device(model, device), tokenizer


def embed_with(
    model: BertCNN, tokenizer: PieceTokenizer, texts: Sequence[str], *, bf16: bool = False
) -> tuple[Tensor, Tensor]:
    """Return what :func:`embed` does, by the encoder of a model."""
    pieces = tokenizer(list(texts))
    longest = int(pieces.lengths.max(initial=0))
    values = torch.zeros(len(texts), longest, states_width(model.config.encoder, model.config.states))
    for batch, states in stream_states(model, pieces, pad_id=tokenizer.pad_id, bf16=bf16):
        for row, (text, start) in enumerate(zip(batch.texts, batch.starts, strict=True)):
            count = int(batch.source_mask[row].sum())
            values[text, start : start + count] = states[row, :count].float().cpu()
    mask = torch.arange(longest)[None] < torch.from_numpy(pieces.lengths)[:, None]
    return values, mask
