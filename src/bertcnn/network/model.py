"""The model: an encoder, a convolution over its states, a linear layer.

    input_ids (N, L) -> states (B, T, S) -> features (B, W * F) -> logits (B, K)

``BertCNN`` is a Hugging Face model. Its ``head`` alone takes ready states, so that training on
cached states and fine-tuning are the same network.
"""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.import_utils import is_tracing

from bertcnn.errors import ModelError, SettingsError, reason
from bertcnn.network.cnn import TextCNN
from bertcnn.network.config import BertCNNConfig, WordVectorsConfig
from bertcnn.network.encoder import build_encoder, encode, load_encoder, longest_window, states_count, states_width
from bertcnn.network.folder import MULTI, SINGLE, WEIGHTS, check_folder, check_weights, sha256_of
from bertcnn.network.loss import classification_loss
from bertcnn.network.pool import StatePool
from bertcnn.network.vectors import WordVectors
from bertcnn.text.tokens import Batch, Pieces, make_batch, segments


class ScalarMix(nn.Module):
    """A learned weighted mean of layers, times a learned factor.

    Source:
        Peters et al. (2018), "Deep contextualized word representations", eq. 1.
    """

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(layers))
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, states: Tensor) -> Tensor:
        """Mix ``(B, T, R * D)`` to ``(B, T, D)``, R the layers side by side."""
        layers = states.reshape(*states.shape[:2], len(self.weights), -1)
        return self.factor * torch.einsum("btrd,r->btd", layers, self.weights.softmax(dim=0))


class Head(nn.Module):
    """States to logits: an optional mix of layers, the convolution, dropout, a linear layer."""

    def __init__(self, config: BertCNNConfig) -> None:
        super().__init__()
        self.options: dict[str, Any] = {
            "problem_type": config.problem_type,
            "class_weights": config.class_weights,
            "focal_gamma": config.focal_gamma,
            "label_smoothing": config.label_smoothing,
        }
        width = states_width(config.encoder, config.states)
        self.mix: nn.Module = nn.Identity()
        if config.states == "mix":
            self.mix = ScalarMix(states_count(config.encoder, "mix"))
            width = config.hidden_size
        # A plain linear head, to compare with, has no convolution; what reads the states keeps one name.
        self.cnn: TextCNN | StatePool = (
            TextCNN(width, config.num_filters, config.kernel_sizes)
            if config.features == "windows"
            else StatePool(width, config.features)
        )
        self.dropout = nn.Dropout(config.head_dropout)
        self.classifier = nn.Linear(self.cnn.num_features, config.num_labels)

    def features(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is found in states ``(B, T, S)``: features ``(B, W * F)``, and where."""
        return cast(tuple[Tensor, Tensor], self.cnn(self.mix(states), mask))

    def forward(self, states: Tensor, mask: Tensor, labels: Tensor | None = None) -> SequenceClassifierOutput:
        """Return logits ``(B, K)`` of states ``(B, T, S)``, and with labels the loss."""
        features, _ = self.features(states, mask)
        logits = self.classifier(self.dropout(features))
        loss = None if labels is None else classification_loss(logits.float(), labels, **self.options)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    @torch.no_grad()
    def divide_logits(self, temperature: float) -> None:
        """Calibrate for good: the last layer is linear, so a temperature is a factor of its weights."""
        self.classifier.weight.div_(temperature)
        self.classifier.bias.div_(temperature)


class BertCNN(PreTrainedModel):
    """A convolution on top of BERT, as a Hugging Face model.

    Make one of a pre-trained encoder by :meth:`from_encoder`, load a saved one by
    ``from_pretrained``. The vocabulary is the encoder's: ``resize_token_embeddings`` resizes its
    table; there is no output layer over the vocabulary, so nothing is tied.
    """

    config_class = BertCNNConfig
    config: BertCNNConfig
    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: BertCNNConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.encoder = build_encoder(config.encoder)
        self.supports_gradient_checkpointing = self.encoder.supports_gradient_checkpointing
        self.head = Head(config)
        if config.freeze_encoder:
            self.encoder.requires_grad_(False)
        self.post_init()

    @classmethod
    def from_encoder(
        cls,
        encoder: str | PreTrainedModel = "minilm",
        *,
        num_labels: int | None = None,
        labels: Sequence[str] | None = None,
        multi_label: bool = False,
        depth: int | Literal["half", "all"] = "half",
        states: str = "last",
        num_filters: int = 100,
        kernel_sizes: Sequence[int] = (3, 4, 5),
        features: Literal["windows", "mean", "first"] = "windows",
        dropout: float = 0.5,
        freeze_encoder: bool = False,
        max_length: int = 512,
        overlap: int = 64,
        special_pieces: tuple[int, int] = (1, 1),
        class_weights: Sequence[float] | None = None,
        focal_gamma: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> Self:
        """Put a new head on a pre-trained encoder.

        Args:
            encoder: ``minilm``, a folder, a hub name, or a loaded encoder (taken as it is).
            num_labels: Labels to tell apart; None: as many as ``labels`` names, or 2.
            labels: Their names, each another.
            multi_label: A text can have many labels, or none.
            depth: Layers to keep, from below; ``half`` or ``all``.
            states: ``last``, ``mix`` (learned) or ``concat-N`` of the kept layers.
            num_filters: Filters of each window width.
            kernel_sizes: Window widths, in pieces.
            features: ``windows``: the convolution; ``mean`` or ``first`` state: a plain linear head.
            dropout: Share of features dropped in training.
            freeze_encoder: Train the head alone.
            max_length: Pieces the encoder reads at once; longer texts are read in windows.
                Bounded by what the encoder can.
            overlap: Pieces that neighbouring windows share; at most half of what one holds.
            special_pieces: How many the tokenizer puts before and after a text.
            class_weights: Factors of the loss, by label.
            focal_gamma: Exponent of the focal loss; 0 is none.
            label_smoothing: Share of the target spread over all labels.

        Raises:
            EncoderError: There is no such encoder.
            SettingsError: A setting does not fit.
        """
        trunk = encoder if isinstance(encoder, PreTrainedModel) else load_encoder(encoder, depth)
        count = 2 if num_labels is None else num_labels
        names = list(labels) if labels is not None else [f"LABEL_{i}" for i in range(count)]
        if not names or len(set(names)) < len(names):
            raise SettingsError(f"The labels are {names}, expected different names, at least one.")
        if num_labels not in {None, len(names)}:
            raise SettingsError(f"num_labels is {num_labels}, but labels names {len(names)}. Give one of them.")
        length = min(max_length, longest_window(trunk))
        room = length - sum(special_pieces)
        overlap = max(0, min(overlap, room // 2))
        if max(kernel_sizes) > room - overlap:
            raise SettingsError(
                f"kernel_sizes has {max(kernel_sizes)}, expected at most {room - overlap}: what a window adds."
            )
        config = BertCNNConfig(
            text_config=trunk.config,
            states=states,
            num_filters=num_filters,
            kernel_sizes=list(kernel_sizes),
            features=features,
            head_dropout=dropout,
            freeze_encoder=freeze_encoder,
            window_length=length,
            window_overlap=overlap,
            num_prefix=special_pieces[0],
            num_suffix=special_pieces[1],
            class_weights=None if class_weights is None else list(class_weights),
            focal_gamma=focal_gamma,
            label_smoothing=label_smoothing,
            id2label=dict(enumerate(names)),
            label2id={name: i for i, name in enumerate(names)},
            problem_type=MULTI if multi_label else SINGLE,
        )
        with torch.device("meta"):
            model = cls(config)
        model.encoder = trunk
        model.head.to_empty(device=trunk.device).to(trunk.dtype)
        for module in model.head.modules():
            model._init_weights(module)
        if freeze_encoder:
            trunk.requires_grad_(False)
        return cast(Self, model.eval())

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, TextCNN):
            module.reset_parameters(self.config.initializer_range)
        elif isinstance(module, ScalarMix):
            nn.init.zeros_(module.weights)
            nn.init.ones_(module.factor)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            nn.init.zeros_(module.bias)

    def get_input_embeddings(self) -> nn.Module:
        """Return the encoder's table of pieces."""
        return cast(nn.Module, self.encoder.get_input_embeddings())

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another table of pieces into the encoder."""
        self.encoder.set_input_embeddings(value)

    def train(self, mode: bool = True) -> Self:
        """Switch to training; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.config.freeze_encoder:
            self.encoder.eval()
        return self

    def stitched_states(
        self, input_ids: Tensor | None, attention_mask: Tensor | None, source: Tensor | None, **inputs: Any
    ) -> tuple[Tensor, Any]:
        """Encode windows ``(N, L)`` and lay their states out as rows ``(B, T, S)``."""
        states, output = encode(
            self.encoder, self.config.states, input_ids=input_ids, attention_mask=attention_mask, **inputs
        )
        if source is not None:
            states = states.flatten(0, 1)[source]
        return states, output

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        *,
        source: Tensor | None = None,
        source_mask: Tensor | None = None,
        **inputs: Any,
    ) -> SequenceClassifierOutput | tuple[Tensor, ...]:
        """Classify.

        Args:
            input_ids: Pieces, int64 ``(B, T)``; or, with ``source``, windows ``(N, L)``. Rows
                longer than the encoder reads at once are cut into windows here.
            attention_mask: 1 at pieces and 0 at padding, of the same shape. Rows with padding before their pieces
                are read as if it stood behind them, unless ``position_ids`` are given.
            token_type_ids: Which of two texts a piece belongs to, int64, of the same shape; for encoders that take it.
            inputs_embeds: Instead of ``input_ids``, float ``(B, T, D)``.
            labels: int64 ``(B,)``, or for many labels a text 0 and 1, ``(B, K)``.
            return_dict: False: a tuple.
            source: Where the state of each stitched piece stands in the flattened windows, int64
                ``(B, T)`` (:class:`bertcnn.text.tokens.Batch`).
            source_mask: True at stitched pieces, bool ``(B, T)``.
            inputs: What else the encoder takes (``output_hidden_states``, ...).

        Returns:
            Logits ``(B, K)``, with labels the loss, and what of the encoder was asked for.

        Raises:
            ValueError: Neither ids nor embeddings, positions for rows that are cut, or labels that do not fit.
        """
        given = input_ids if input_ids is not None else inputs_embeds
        if given is None:
            raise ValueError("Give input_ids or inputs_embeds.")
        if attention_mask is None:
            attention_mask = torch.ones(given.shape[:2], dtype=torch.long, device=given.device)
        named = {"input_ids": input_ids, "token_type_ids": token_type_ids, "inputs_embeds": inputs_embeds}
        tokens = {name: values for name, values in named.items() if values is not None}
        if not given.shape[1]:  # empty texts, of a tokenizer without special pieces
            tokens = {name: functional.pad(one, (0, 0) * (one.dim() - 2) + (0, 1)) for name, one in tokens.items()}
            attention_mask = functional.pad(attention_mask, (0, 1))
        is_long = given.shape[1] > self.config.window_length
        has_positions = inputs.get("position_ids") is not None
        if source is None and (is_long or (not has_positions and _is_padded_before(attention_mask))):
            if has_positions:
                raise ValueError(
                    f"Got position_ids for rows of {given.shape[1]} pieces, expected none: rows longer than "
                    f"{self.config.window_length} are read in windows, whose positions begin anew."
                )
            tokens, attention_mask, source, source_mask = self._cut(tokens, attention_mask)
        for name in ("output_hidden_states", "output_attentions"):
            if inputs.get(name) is None and getattr(self.config, name):
                inputs[name] = True
        states, output = self.stitched_states(tokens.pop("input_ids", None), attention_mask, source, **tokens, **inputs)
        mask = attention_mask if source_mask is None else source_mask
        result = self.head(states, mask, labels)
        result.hidden_states = output.get("hidden_states") if inputs.get("output_hidden_states") else None
        result.attentions = output.get("attentions")
        wants_tuple = return_dict is False or (return_dict is None and not self.config.return_dict)
        return cast(tuple[Tensor, ...], result.to_tuple()) if wants_tuple else cast(SequenceClassifierOutput, result)

    def _cut(
        self, tokens: dict[str, Tensor], attention_mask: Tensor
    ) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
        """Cut rows of pieces into windows, as :func:`bertcnn.text.tokens.make_batch` does.

        Args:
            tokens: What the encoder reads of each piece, by name, ``(B, T, ...)``.
            attention_mask: ``(B, T)``.

        Returns:
            The same of windows, ``(N, L, ...)``; their mask; and ``source`` and ``source_mask`` of :meth:`forward`.
        """
        kept = attention_mask.bool().cpu()
        starts = functional.pad(kept.sum(dim=1).cumsum(dim=0), (1, 0)).numpy()
        places = Pieces(kept.flatten().nonzero().squeeze(1).numpy(), starts)
        lengths = places.lengths.tolist()
        parts = [part for i, n in enumerate(lengths) for part in segments(i, n, self.config.windowing, reach=0)]
        batch = make_batch(places, parts, pad_id=-1)
        where, mask, source, source_mask = (one.to(attention_mask.device) for one in batch_tensors(batch))
        windows = {name: values.flatten(0, 1)[where.clamp(min=0)] for name, values in tokens.items()}
        if "input_ids" in windows:
            windows["input_ids"].masked_fill_(where < 0, self.config.encoder.pad_token_id or 0)
        return windows, mask, source, source_mask

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Save as Hugging Face does, and note the hash of the weights in ``config.json``."""
        self.config.weights_sha256 = None
        super().save_pretrained(save_directory, **kwargs)
        weights = Path(save_directory) / WEIGHTS
        if weights.is_file():
            self.config.weights_sha256 = sha256_of(weights)
            self.config.save_pretrained(save_directory)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Load a saved model, by folder or hub name.

        Weights that are not those that were saved give a warning, for in Hugging Face's ways of working one may put
        others into a folder; :meth:`bertcnn.Predictor.load` refuses them.

        Raises:
            ModelError: The folder is missing, broken, of another type, or of a newer format.
        """
        place = pretrained_model_name_or_path
        if place is not None and kwargs.get("state_dict") is None:
            folder = Path(place, kwargs.get("subfolder") or "") if os.path.isdir(place) else place
            check_folder(folder)
            if os.path.isdir(folder):
                try:
                    check_weights(folder)
                except ModelError as error:
                    warnings.warn(str(error), stacklevel=2)
        try:
            loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except SafetensorError as error:
            raise ModelError(f"The weights in {place} cannot be read: {error}. Copy them again.") from error
        model = cast(Self, loaded[0] if kwargs.get("output_loading_info") else loaded)
        if model.config.freeze_encoder:  # loading makes all weights anew, ready for training
            model.encoder.requires_grad_(False)
        return cast(Self, loaded)


def to_device(model: BertCNN, device: str | None) -> BertCNN:
    """Move a model to a device; None: to the GPU where there is one, else to the CPU.

    Raises:
        ModelError: torch cannot run there.
    """
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return cast(BertCNN, model.to(chosen))
    except (RuntimeError, AssertionError) as error:  # torch raises either, by what it lacks
        seen = "it sees a GPU" if torch.cuda.is_available() else "it sees no GPU"
        raise ModelError(
            f"torch cannot run on the device {chosen!r} ({reason(error)}); {seen}. Give cpu or cuda."
        ) from error


def _is_padded_before(attention_mask: Tensor) -> bool:
    """Return whether padding stands before pieces, which encoders with learned positions would count as pieces.

    A graph that is being recorded cannot hang on it.
    """
    if is_tracing(attention_mask) or attention_mask.is_meta or attention_mask.dim() != 2:
        return False
    kept = attention_mask.bool()
    return bool((~kept[:, :1] & kept.any(dim=1, keepdim=True)).any())


def batch_tensors(batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return ``input_ids, attention_mask, source, source_mask`` as tensors."""
    return (
        torch.from_numpy(batch.input_ids),
        torch.from_numpy(batch.attention_mask),
        torch.from_numpy(batch.source),
        torch.from_numpy(batch.source_mask),
    )


AutoModel.register(WordVectorsConfig, WordVectors)
AutoModel.register(BertCNNConfig, BertCNN)
AutoModelForSequenceClassification.register(BertCNNConfig, BertCNN)
