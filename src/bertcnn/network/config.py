"""What shapes a model, in Hugging Face's form; loads no torch of its own accord."""

from typing import Any, ClassVar, Literal, cast

from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, AutoConfig

from bertcnn.network.folder import FORMAT_VERSION, MODEL_TYPE, MULTI
from bertcnn.text.tokens import Windowing


class WordVectorsConfig(PreTrainedConfig):
    """Sizes of a table of word vectors."""

    model_type = "bertcnn-word-vectors"
    vocab_size: int = 2
    hidden_size: int = 300
    num_hidden_layers: int = 0
    pad_token_id: int | None = 0


class BertCNNConfig(PreTrainedConfig):
    """All that shapes a :class:`BertCNN`.

    Attributes:
        text_config: The encoder's own configuration, already cut to its depth.
        states: What the convolution reads: ``last``, ``mix`` or ``concat-N``.
        num_filters: Filters of each window width.
        kernel_sizes: Window widths, in pieces.
        features: What the linear layer reads: ``windows`` (the convolution), or the ``mean`` or
            ``first`` state.
        head_dropout: Share of features dropped in training.
        freeze_encoder: The encoder is not trained, and stays in evaluation mode.
        window_length: Most pieces the encoder reads at once (``max_length`` of the settings; that
            name is taken by text generation in a Hugging Face configuration).
        window_overlap: Pieces that neighbouring windows share.
        num_prefix, num_suffix: Special pieces around each window.
        class_weights: Factors of the loss, by label.
        focal_gamma, label_smoothing: See :func:`~bertcnn.network.loss.classification_loss`.
        thresholds: Probability from which a label holds, by label; many labels a text only.
        format_version: Of the model folder.
        weights_sha256: Of ``model.safetensors``; written when saved.
    """

    model_type = MODEL_TYPE
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": AutoConfig}

    text_config: dict[str, Any] | PreTrainedConfig | None = None
    states: str = "last"
    num_filters: int = 100
    kernel_sizes: list[int] | tuple[int, ...] = (3, 4, 5)
    features: Literal["windows", "mean", "first"] = "windows"
    head_dropout: float | int = 0.5
    freeze_encoder: bool = False
    window_length: int = 512
    window_overlap: int = 64
    num_prefix: int = 1
    num_suffix: int = 1
    class_weights: list[float] | None = None
    focal_gamma: float | int = 0.0
    label_smoothing: float | int = 0.0
    thresholds: list[float] | None = None
    initializer_range: float = 0.02
    format_version: int = FORMAT_VERSION
    weights_sha256: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if not isinstance(self.text_config, PreTrainedConfig):
            values = dict(self.text_config or {})
            kind = values.pop("model_type", "bert")
            self.text_config = CONFIG_MAPPING[kind](**values)
        self.kernel_sizes = list(self.kernel_sizes)
        super().__post_init__(**kwargs)

    @property
    def encoder(self) -> PreTrainedConfig:
        """The encoder's configuration."""
        return cast(PreTrainedConfig, self.text_config)

    @property
    def hidden_size(self) -> int:
        """Width of the encoder's states."""
        return int(self.encoder.hidden_size)

    @property
    def num_hidden_layers(self) -> int:
        """Layers of the cut encoder."""
        return int(getattr(self.encoder, "num_hidden_layers", 0))

    @property
    def vocab_size(self) -> int:
        """Pieces the encoder knows."""
        return int(self.encoder.vocab_size)

    @vocab_size.setter
    def vocab_size(self, size: int) -> None:
        self.encoder.vocab_size = size

    @property
    def windowing(self) -> Windowing:
        """How long rows are cut for the encoder."""
        return Windowing(self.window_length, self.window_overlap, self.num_prefix, self.num_suffix)

    @property
    def is_multi_label(self) -> bool:
        """True where a text can have many labels, or none."""
        return bool(self.problem_type == MULTI)

    @property
    def label_names(self) -> list[str]:
        """Names of the labels, in the order of the logits."""
        return [self.id2label[i] for i in range(self.num_labels)]


AutoConfig.register(WordVectorsConfig.model_type, WordVectorsConfig)
AutoConfig.register(BertCNNConfig.model_type, BertCNNConfig)
