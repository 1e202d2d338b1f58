"""Hugging Face's own expectations of a model, held against ours; and the static twin beside it."""

import copy
import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, processors
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    DataCollatorWithPadding,
    FunnelBaseModel,
    FunnelConfig,
    PreTrainedTokenizerFast,
    T5EncoderModel,
    Trainer,
    TrainingArguments,
    pipeline,
)

import bertcnn
from bertcnn import BertCNN, BertCNNConfig, EncoderError, ModelError, Predictor, SettingsError, embed
from bertcnn.network.encoder import (
    _check_reads,
    check_pieces,
    cut,
    layer_of_parameters,
    load_encoder,
    load_tokenizer,
    reads_padding,
)
from bertcnn.network.folder import WEIGHTS
from bertcnn.network.loss import classification_loss
from bertcnn.network.pool import StatePool
from bertcnn.network.states import cache_folder, stream_states
from bertcnn.network.vectors import RANDOM_RANGE, build_pieces, build_vectors, read_vectors
from bertcnn.text.tokens import PieceTokenizer
from tests.conftest import FAMILIES, POSITIONS

TEXTS = ["a good film", "", "the staff was so very awful", "x", "the room is not really fine, it was dull! " * 3]
SHORT = TEXTS[:4]


def batch_of(tokenizer: PieceTokenizer, texts: list[str]) -> dict[str, torch.Tensor]:
    """Rows padded to the longest, as any tokenizer of Hugging Face gives them."""
    pieces = tokenizer(texts)
    mask = torch.arange(int(pieces.lengths.max()))[None] < torch.from_numpy(pieces.lengths)[:, None]
    rows = torch.full(mask.shape, tokenizer.pad_id)
    rows[mask] = torch.from_numpy(pieces.ids)
    return {"input_ids": rows, "attention_mask": mask.long()}


def logits_of(model: Any, **inputs: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(**inputs).logits


def make_heard(model: BertCNN) -> BertCNN:
    """Give the head weights so large that every state is heard in the logits."""
    generator = torch.Generator().manual_seed(3)
    for weight in (model.head.cnn.weight, model.head.cnn.bias, model.head.classifier.weight):
        weight.data.normal_(std=0.5, generator=generator)
    return model


@pytest.fixture
def saved(model: BertCNN, tokenizer: PieceTokenizer, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def plain(tokenizer: PieceTokenizer, tmp_path: Path) -> PreTrainedTokenizerFast:
    """The same tokenizer as Hugging Face loads it."""
    (tmp_path / "plain").mkdir()
    tokenizer.save(tmp_path / "plain")
    return AutoTokenizer.from_pretrained(tmp_path / "plain")


# ---- saved and loaded


def test_loads_bit_for_bit_with_every_key_in_its_place(model: BertCNN, tokenizer: PieceTokenizer, saved: Path) -> None:
    again, info = BertCNN.from_pretrained(saved, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    assert not again.training
    assert {k: v.dtype for k, v in again.state_dict().items()} == {k: v.dtype for k, v in model.state_dict().items()}
    batch = batch_of(tokenizer, TEXTS)
    assert torch.equal(logits_of(again, **batch), logits_of(model, **batch))


def test_config_survives_the_round_trip(tiny: str, tmp_path: Path) -> None:
    model = BertCNN.from_encoder(
        tiny, labels=["z", "a", "10"], multi_label=True, depth=3, states="concat-2", num_filters=5, kernel_sizes=(2, 4),
        dropout=0.25, freeze_encoder=True, max_length=20, overlap=3, class_weights=[1.0, 2.0, 0.5], focal_gamma=1.5,
        label_smoothing=0.1,
    )  # fmt: skip
    model.config.thresholds = [0.2, 0.5, 0.7]
    model.save_pretrained(tmp_path)
    config = BertCNNConfig.from_pretrained(tmp_path)
    assert config.to_dict() == model.config.to_dict()
    assert config.label_names == ["z", "a", "10"]
    assert config.label2id == {"z": 0, "a": 1, "10": 2}
    assert config.is_multi_label
    assert config.encoder.num_hidden_layers == config.num_hidden_layers == 3
    assert config.windowing == model.config.windowing
    assert config.thresholds == [0.2, 0.5, 0.7]
    again = BertCNN.from_pretrained(tmp_path)
    assert again.head.options == model.head.options == {
        "problem_type": "multi_label_classification", "class_weights": [1.0, 2.0, 0.5], "focal_gamma": 1.5,
        "label_smoothing": 0.1,
    }  # fmt: skip
    assert not any(weight.requires_grad for weight in again.encoder.parameters())


def test_config_stands_alone() -> None:
    config = BertCNNConfig(text_config={"model_type": "bert", "hidden_size": 16, "num_attention_heads": 2})
    assert isinstance(config.encoder, BertConfig)
    assert config.hidden_size == 16
    assert BertCNNConfig().encoder.model_type == "bert"
    assert BertCNNConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
    assert json.loads(config.to_json_string(use_diff=False))["model_type"] == "bertcnn"
    assert BertCNNConfig(num_labels=4).num_labels == 4


def test_weights_in_shards_load_too(model: BertCNN, tokenizer: PieceTokenizer, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    batch = batch_of(tokenizer, TEXTS)
    assert torch.equal(logits_of(BertCNN.from_pretrained(tmp_path), **batch), logits_of(model, **batch))


def test_a_plain_encoder_is_not_taken_for_a_model(tiny: str) -> None:
    with pytest.raises(ModelError, match="from_encoder"):
        BertCNN.from_pretrained(tiny)


def test_a_folder_saved_again_is_known_by_its_new_weights(model: BertCNN, saved: Path) -> None:
    first = model.config.weights_sha256
    model.head.classifier.bias.data += 1
    model.save_pretrained(saved)
    assert model.config.weights_sha256 != first
    assert torch.equal(BertCNN.from_pretrained(saved).head.classifier.bias, model.head.classifier.bias)
    (saved / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.warns(UserWarning, match="sha256"):
        BertCNN.from_pretrained(saved)


def test_other_labels_get_a_new_last_layer(model: BertCNN, saved: Path) -> None:
    other = BertCNN.from_pretrained(saved, num_labels=5, ignore_mismatched_sizes=True)
    assert other.head.classifier.weight.shape[0] == len(other.config.label_names) == 5
    assert torch.equal(other.head.cnn.weight, model.head.cnn.weight)
    assert other.head.classifier.weight.std().item() == pytest.approx(0.02, rel=0.3)
    assert (other.head.classifier.bias == 0).all()


def test_all_that_the_package_names_is_there() -> None:
    assert all(getattr(bertcnn, name) is not None for name in bertcnn.__all__)


@pytest.mark.parametrize(
    ("labels", "count"), [(["a", "a"], None), (["a", "b"], 5), (["a", "b", "a"], 3), ([], None), (None, 0)]
)
def test_labels_are_different_and_as_many_as_said(tiny: str, labels: list[str] | None, count: int | None) -> None:
    with pytest.raises(SettingsError, match=r"expected different names|num_labels is 5, but labels names 2\."):
        BertCNN.from_encoder(tiny, labels=labels, num_labels=count)
    assert BertCNN.from_encoder(tiny, labels=["a", "b"], num_labels=2).num_labels == 2
    assert BertCNN.from_encoder(tiny, num_labels=3).config.label_names == ["LABEL_0", "LABEL_1", "LABEL_2"]


def test_auto_classes_know_it(model: BertCNN, tokenizer: PieceTokenizer, saved: Path) -> None:
    assert isinstance(AutoConfig.from_pretrained(saved), BertCNNConfig)
    batch = batch_of(tokenizer, TEXTS)
    for auto in (AutoModel, AutoModelForSequenceClassification):
        found = auto.from_pretrained(saved)
        assert type(found) is BertCNN
        assert torch.equal(logits_of(found, **batch), logits_of(model, **batch))
    fresh = AutoModelForSequenceClassification.from_config(model.config)
    assert {k: v.shape for k, v in fresh.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}


ORDERS = {
    "bertcnn first": "import bertcnn\nfrom transformers import AutoModelForSequenceClassification as Auto",
    "transformers first": "from transformers import AutoModelForSequenceClassification as Auto\nimport bertcnn",
    "a module from inside first": (
        "from bertcnn.network.encoder import load_encoder\nfrom transformers import AutoModel as Auto"
    ),
    "our face first": "from bertcnn import Predictor\nfrom transformers import AutoModel as Auto",
    "AutoConfig alone": "import bertcnn\nfrom transformers import AutoConfig as Auto",
    "pipeline": (
        "import bertcnn\nfrom transformers import pipeline\n"
        "class Auto:\n    from_pretrained = staticmethod(lambda f: pipeline('text-classification', f).model)"
    ),
}


def test_import_bertcnn_is_enough_in_any_order(saved: Path) -> None:
    """Each order in a process of its own, all at once, forked from one that has loaded all but transformers and us."""
    script = f"""
import gc, os, sys, traceback, warnings
gc.disable()  # imports are a tenth quicker
import accelerate, huggingface_hub.hf_api, jinja2, numpy, PIL.Image, pydantic, regex, scipy.stats, sklearn.metrics
import sympy, tokenizers, torch, torch._dynamo, torch.distributed.fsdp, torch.distributed.tensor, torch.export
warnings.simplefilter("error")
assert not any(name.startswith(("transformers", "bertcnn")) for name in sys.modules)
children = []
for name, order in {ORDERS!r}.items():
    sys.stdout.flush()
    child = os.fork()
    children.append(child)
    if child == 0:
        try:
            exec(order)
            found = type(Auto.from_pretrained({str(saved)!r})).__name__
            import transformers.models.auto.modeling_auto as theirs
            from bertcnn.network.vectors import WordVectorsConfig
            assert WordVectorsConfig in theirs.MODEL_MAPPING, "not the table that transformers uses"
            print(f"{{name}} -> {{found}}\\n", end="")  # in one piece
        except BaseException:
            print(name, "->", traceback.format_exc())
        sys.stdout.flush()
        os._exit(0)
for child in children:
    os.waitpid(child, 0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    found = dict(line.split(" -> ", 1) for line in done.stdout.splitlines() if " -> " in line)
    wanted = {name: "BertCNNConfig" if "AutoConfig" in name else "BertCNN" for name in ORDERS}
    assert found == wanted, done.stdout


# ---- called


def test_pipeline_gives_our_probabilities(model: BertCNN, tokenizer: PieceTokenizer, saved: Path) -> None:
    predictions = Predictor(model, tokenizer).predict(TEXTS)
    classify = pipeline("text-classification", str(saved))
    for batch_size in (1, 3):
        tops = classify(TEXTS, batch_size=batch_size)
        assert [top["label"] for top in tops] == [p.label for p in predictions]
        assert [top["score"] for top in tops] == pytest.approx([p.confidence for p in predictions], abs=1e-5)


def test_pipeline_of_many_labels_a_text(tiny: str, tokenizer: PieceTokenizer, tmp_path: Path) -> None:
    model = make_heard(BertCNN.from_encoder(tiny, labels=["c", "a", "b"], multi_label=True, depth=1, num_filters=4))
    model.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    predictor = Predictor.load(tmp_path)
    scores = pipeline("text-classification", str(tmp_path), top_k=None)(TEXTS)
    for prediction, row in zip(predictor.predict(TEXTS), scores, strict=True):
        assert {s["label"]: s["score"] for s in row} == pytest.approx(prediction.probabilities, abs=1e-5)
        assert sum(prediction.probabilities.values()) != pytest.approx(1, abs=1e-3)


def test_forward_takes_what_hugging_face_passes(model: BertCNN) -> None:
    names = list(inspect.signature(model.forward).parameters)
    assert names[:2] == [model.main_input_name, "attention_mask"]
    assert {"labels", "inputs_embeds", "return_dict"} <= set(names)
    with pytest.raises(ValueError, match="inputs_embeds"):
        model()


def test_without_a_mask_every_piece_counts(model: BertCNN, tokenizer: PieceTokenizer) -> None:
    batch = batch_of(tokenizer, TEXTS[:1])
    assert torch.equal(logits_of(model, input_ids=batch["input_ids"]), logits_of(model, **batch))


def test_padding_may_stand_left_in_rows_cut_into_windows(model: BertCNN, tokenizer: PieceTokenizer) -> None:
    batch = batch_of(tokenizer, TEXTS[-1:])
    assert batch["input_ids"].shape[1] > model.config.window_length
    left = {name: functional.pad(value, (5, 0)) for name, value in batch.items()}
    torch.testing.assert_close(logits_of(model, **left), logits_of(model, **batch), atol=2e-5, rtol=0)


def test_padding_may_stand_left_in_short_rows(model: BertCNN, tokenizer: PieceTokenizer) -> None:
    model.encoder.embeddings.position_embeddings.weight.data *= 30  # so that a shift would show
    batch = batch_of(tokenizer, SHORT)
    lengths = batch["attention_mask"].sum(dim=1)
    assert len(lengths.unique()) > 1
    width = batch["input_ids"].shape[1]
    shift = (torch.arange(width) - (width - lengths)[:, None]) % width
    left = {name: values.gather(1, shift) for name, values in batch.items()}
    assert (left["attention_mask"][:, -1] == 1).all()
    torch.testing.assert_close(logits_of(model, **left), logits_of(model, **batch), atol=2e-5, rtol=0)
    positions = torch.arange(width).expand_as(left["input_ids"])
    assert not torch.allclose(logits_of(model, **left, position_ids=positions), logits_of(model, **batch), atol=1e-3)


def test_token_types_reach_the_encoder(model: BertCNN, tokenizer: PieceTokenizer) -> None:
    batch = batch_of(tokenizer, SHORT)
    model.encoder.embeddings.token_type_embeddings.weight.data *= 30
    zeros = torch.zeros_like(batch["input_ids"])
    alone = logits_of(model, **batch)
    assert torch.equal(logits_of(model, token_type_ids=zeros, **batch), alone)
    assert not torch.allclose(logits_of(model, token_type_ids=zeros + 1, **batch), alone, atol=1e-3)


def test_evaluation_is_deterministic_and_training_is_not(model: BertCNN, tokenizer: PieceTokenizer) -> None:
    batch = batch_of(tokenizer, TEXTS)
    assert torch.equal(logits_of(model, **batch), logits_of(model, **batch))
    model.train()
    assert not torch.equal(logits_of(model, **batch), logits_of(model, **batch))


def test_embeddings_in_place_of_pieces(model: BertCNN, tokenizer: PieceTokenizer) -> None:
    batch = batch_of(tokenizer, SHORT)
    vectors = model.get_input_embeddings()(batch["input_ids"])
    by_vectors = logits_of(model, inputs_embeds=vectors, attention_mask=batch["attention_mask"])
    torch.testing.assert_close(by_vectors, logits_of(model, **batch))


def test_tuple_and_dict_hold_the_same(model: BertCNN, tokenizer: PieceTokenizer) -> None:
    batch = {**batch_of(tokenizer, SHORT), "labels": torch.tensor([0, 1, 1, 0])}
    with torch.inference_mode():
        named = model(**batch, output_hidden_states=True)
        loss, logits, hidden = model(**batch, output_hidden_states=True, return_dict=False)
        (alone,) = model(**batch_of(tokenizer, SHORT), return_dict=False)
    assert torch.equal(loss, named.loss)
    assert torch.equal(logits, named.logits)
    assert torch.equal(alone, named.logits)
    assert len(hidden) == len(named.hidden_states)
    assert all(torch.equal(a, b) for a, b in zip(hidden, named.hidden_states, strict=True))


@pytest.mark.parametrize("asked_by", ["argument", "config"])
def test_hidden_states_and_attentions_on_request(saved: Path, tokenizer: PieceTokenizer, asked_by: str) -> None:
    model = BertCNN.from_pretrained(saved, attn_implementation="eager")
    batch = batch_of(tokenizer, SHORT)
    bare = model(**batch)
    assert bare.hidden_states is None
    assert bare.attentions is None
    asked: dict[str, bool] = {}
    if asked_by == "argument":
        asked = {"output_hidden_states": True, "output_attentions": True}
    else:
        model.config.output_hidden_states = model.config.output_attentions = True
    output = model(**batch, **asked)
    rows, length = batch["input_ids"].shape
    assert [tuple(h.shape) for h in output.hidden_states] == [(rows, length, 32)] * 3
    assert [tuple(a.shape) for a in output.attentions] == [(rows, 4, length, length)] * 2
    torch.testing.assert_close(output.attentions[0].sum(-1), torch.ones(rows, 4, length))
    assert torch.equal(output.logits, bare.logits)


def test_gradients_flow_through_the_hidden_states(saved: Path, tokenizer: PieceTokenizer) -> None:
    model = BertCNN.from_pretrained(saved, attn_implementation="eager")
    output = model(**batch_of(tokenizer, SHORT), output_hidden_states=True, output_attentions=True)
    parts = [output.hidden_states[0], output.hidden_states[-1], output.attentions[0]]
    for part in parts:
        part.retain_grad()
    output.logits[:, 0].sum().backward()
    assert all(part.grad.abs().max() > 0 for part in parts)


def test_eager_and_sdpa_attention_agree(saved: Path, tokenizer: PieceTokenizer) -> None:
    batch = batch_of(tokenizer, TEXTS)
    kinds = {kind: BertCNN.from_pretrained(saved, attn_implementation=kind) for kind in ("eager", "sdpa")}
    for kind, model in kinds.items():
        assert model.encoder.config._attn_implementation == kind
    eager, sdpa = (logits_of(model, **batch) for model in kinds.values())
    torch.testing.assert_close(eager, sdpa, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loads_in_half_precision(model: BertCNN, tokenizer: PieceTokenizer, saved: Path, dtype: torch.dtype) -> None:
    half = BertCNN.from_pretrained(saved, dtype=dtype)
    assert {weight.dtype for weight in half.parameters()} == {dtype}
    batch = batch_of(tokenizer, TEXTS)
    full = logits_of(model, **batch)
    labels = torch.tensor([0, 1, 0, 1, 0])
    output = half(**batch, labels=labels)
    assert output.logits.dtype == dtype
    assert (output.logits.float() - full).abs().max() < 0.05 * full.abs().max()
    output.loss.backward()
    assert half.head.cnn.weight.grad.isfinite().all()
    assert half.encoder.embeddings.word_embeddings.weight.grad.abs().max() > 0


def test_a_model_saved_in_half_precision_predicts(saved: Path, tokenizer: PieceTokenizer, tmp_path: Path) -> None:
    BertCNN.from_pretrained(saved, dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    tokenizer.save(tmp_path / "half")
    full = Predictor.load(saved).logits(TEXTS)
    found = Predictor.load(tmp_path / "half").logits(TEXTS)
    assert np.abs(found - full).max() < 0.05 * np.abs(full).max()


def test_feed_forward_in_chunks_gives_the_same(model: BertCNN, tokenizer: PieceTokenizer, saved: Path) -> None:
    config = BertCNNConfig.from_pretrained(saved)
    config.encoder.chunk_size_feed_forward = 1
    chunked = BertCNN.from_pretrained(saved, config=config)
    assert chunked.encoder.encoder.layer[0].chunk_size_feed_forward == 1
    batch = batch_of(tokenizer, SHORT)
    torch.testing.assert_close(logits_of(chunked, **batch), logits_of(model, **batch), atol=1e-5, rtol=0)


@pytest.mark.parametrize("by", [5, -20])
def test_vocabulary_can_be_resized(model: BertCNN, tokenizer: PieceTokenizer, tmp_path: Path, by: int) -> None:
    before = model.get_input_embeddings().weight.detach().clone()
    size = len(before) + by
    logits = logits_of(model, **batch_of(tokenizer, ["good, bad"]))
    table = model.resize_token_embeddings(size)
    assert table is model.get_input_embeddings()
    assert table.weight.shape[0] == model.config.vocab_size == model.config.encoder.vocab_size == size
    assert torch.equal(table.weight[: len(before)], before[:size])
    if by > 0:
        assert torch.equal(logits_of(model, **batch_of(tokenizer, ["good, bad"])), logits)
    newest = torch.tensor([[2, size - 1, 3]])
    model.save_pretrained(tmp_path)
    assert torch.equal(
        logits_of(BertCNN.from_pretrained(tmp_path), input_ids=newest), logits_of(model, input_ids=newest)
    )


def test_nothing_is_tied(model: BertCNN) -> None:
    assert model.get_output_embeddings() is None
    assert not model.all_tied_weights_keys
    places = [weight.data_ptr() for weight in model.parameters()]
    assert len(set(places)) == len(places)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.tie_weights()
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("states", ["last", "mix"])
def test_a_new_model_is_initialised_by_its_config(model: BertCNN, states: str) -> None:
    config = copy.deepcopy(model.config)
    config.states, config.num_filters, config.initializer_range = states, 200, 0.1
    torch.manual_seed(0)
    new = BertCNN(config)
    assert new.head.cnn.weight.std().item() == pytest.approx(0.1, rel=0.05)
    assert new.head.classifier.weight.std().item() == pytest.approx(0.1, rel=0.1)
    assert (new.head.cnn.bias == 0).all()
    assert (new.head.classifier.bias == 0).all()
    assert new.encoder.encoder.layer[0].output.dense.weight.std().item() == pytest.approx(
        0.2, rel=0.1
    )  # the encoder's own
    assert all(weight.isfinite().all() for weight in new.state_dict().values())
    if states == "mix":
        assert (new.head.mix.weights == 0).all()
        assert new.head.mix.factor == 1


def test_a_copy_is_a_model_of_its_own(model: BertCNN, tokenizer: PieceTokenizer) -> None:
    batch = batch_of(tokenizer, TEXTS)
    twin = copy.deepcopy(model)
    before = logits_of(model, **batch)
    assert torch.equal(logits_of(twin, **batch), before)
    twin.head.classifier.weight.data.zero_()
    assert torch.equal(logits_of(model, **batch), before)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # by torch itself
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_torch_compile(model: BertCNN, tokenizer: PieceTokenizer, backend: str) -> None:
    if backend == "inductor" and not any(map(shutil.which, ("g++", "clang++"))):
        pytest.skip("torch.compile needs a C++ compiler, and there is none")
    batch = batch_of(tokenizer, SHORT)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend)
    with torch.no_grad():
        found = compiled(**batch).logits
        wider = compiled(**{name: functional.pad(value, (0, 2)) for name, value in batch.items()}).logits
        wanted = model(**batch).logits
    torch._dynamo.reset()
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    torch.testing.assert_close(wider, wanted, atol=1e-4, rtol=0)


# ---- trained


def gradients(model: BertCNN, batch: dict[str, torch.Tensor], seed: int = 5) -> dict[str, torch.Tensor | None]:
    model.zero_grad()
    torch.manual_seed(seed)
    model(**batch).loss.backward()
    return {name: None if w.grad is None else w.grad.clone() for name, w in model.named_parameters()}


@pytest.mark.parametrize("states", ["last", "mix", "concat-2"])
def test_every_trainable_weight_is_trained(tiny: str, tokenizer: PieceTokenizer, states: str) -> None:
    model = make_heard(BertCNN.from_encoder(tiny, depth=2, states=states, num_filters=8)).train()
    found = gradients(model, {**batch_of(tokenizer, SHORT), "labels": torch.tensor([0, 1, 1, 0])})
    dead = [n for n, g in found.items() if g is None or not g.abs().max() > 0]
    # A key's bias moves all scores of a query alike, which a softmax does not see.
    assert all("attention.self.key.bias" in name for name in dead), dead


def test_a_frozen_encoder_stays_as_it_is(tiny: str, tokenizer: PieceTokenizer) -> None:
    model = make_heard(BertCNN.from_encoder(tiny, depth=2, freeze_encoder=True, num_filters=8))
    model.train()
    assert model.training
    assert model.head.dropout.training
    assert not any(module.training for module in model.encoder.modules())
    found = gradients(model, {**batch_of(tokenizer, SHORT), "labels": torch.tensor([0, 1, 1, 0])})
    assert {name for name, g in found.items() if g is not None} == {n for n in found if n.startswith("head.")}
    free = BertCNN.from_encoder(tiny, depth=2, num_filters=8).train()
    assert all(module.training for module in free.encoder.modules())
    model.eval()
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("frozen_table", [False, True])
@pytest.mark.parametrize("options", [None, {"use_reentrant": True}, {"use_reentrant": False}])
def test_gradient_checkpointing_changes_no_gradient(
    model: BertCNN, tokenizer: PieceTokenizer, options: dict[str, bool] | None, frozen_table: bool
) -> None:
    if frozen_table:
        model.get_input_embeddings().requires_grad_(False)
    batch = {**batch_of(tokenizer, SHORT), "labels": torch.tensor([0, 1, 1, 0])}
    model.train()
    wanted = gradients(model, batch)
    # Called gradient checkpointing before transformers 5.20, with a warning since.
    new = hasattr(model, "activation_checkpointing_enable")
    (model.activation_checkpointing_enable if new else model.gradient_checkpointing_enable)(options)
    calls = []
    model.encoder.encoder.layer[1].attention.register_forward_hook(lambda *_: calls.append(1))
    found = gradients(model, batch)
    assert len(calls) == 2  # once forward, once again for the gradient
    for name, gradient in wanted.items():
        assert (found[name] is None) == (gradient is None), name
        if gradient is not None:
            torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4)
    (model.activation_checkpointing_disable if new else model.gradient_checkpointing_disable)()
    gradients(model, batch)
    assert len(calls) == 3


def test_gradients_go_through_stitched_windows(model: BertCNN, tokenizer: PieceTokenizer) -> None:
    batch = batch_of(tokenizer, TEXTS[-1:])
    assert batch["input_ids"].shape[1] > 2 * model.config.window_length
    found = gradients(model, {**batch, "labels": torch.tensor([1])})
    words = found["encoder.embeddings.word_embeddings.weight"]
    assert words is not None
    held = set(batch["input_ids"][0].tolist())
    assert {int(i) for i in words.abs().amax(dim=1).nonzero()} <= held
    assert (words.abs().amax(dim=1) > 0).sum() > len(held) / 2


def test_losses_of_one_and_of_many_labels(tiny: str, tokenizer: PieceTokenizer) -> None:
    batch = batch_of(tokenizer, SHORT)
    one = make_heard(BertCNN.from_encoder(tiny, num_labels=3, depth=1, num_filters=4))
    ids = torch.tensor([0, 2, 1, 0])
    assert one.config.problem_type == "single_label_classification"
    torch.testing.assert_close(one(**batch, labels=ids).loss, functional.cross_entropy(logits_of(one, **batch), ids))
    many = make_heard(BertCNN.from_encoder(tiny, num_labels=3, multi_label=True, depth=1, num_filters=4))
    rows = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]])
    assert many.config.problem_type == "multi_label_classification"
    wanted = functional.binary_cross_entropy_with_logits(logits_of(many, **batch), rows)
    torch.testing.assert_close(many(**batch, labels=rows).loss, wanted)
    assert one(**batch).loss is None


def test_trainer_on_a_plain_dataset(
    tiny: str, plain: PreTrainedTokenizerFast, tmp_path: Path, splits: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def rows(part: Any) -> Dataset:
        pieces = plain(part.texts, return_token_type_ids=True)
        ids = [int(label == "positive") for label in part.labels]
        return Dataset.from_list(
            [{k: v[i] for k, v in pieces.items()} | {"label": ids[i], "text": part.texts[i]} for i in range(len(ids))]
        )

    def right(answers: Any) -> dict[str, float]:
        return {"accuracy": float((answers.predictions.argmax(-1) == answers.label_ids).mean())}

    torch.manual_seed(0)
    model = BertCNN.from_encoder(
        tiny, labels=["negative", "positive"], depth=1, num_filters=32, kernel_sizes=(1, 2), dropout=0.1
    )
    arguments = TrainingArguments(
        tmp_path / "run", num_train_epochs=6, per_device_train_batch_size=16, learning_rate=3e-3, eval_strategy="epoch",
        save_strategy="epoch", load_best_model_at_end=True, metric_for_best_model="accuracy", report_to="none",
        disable_tqdm=True, use_cpu=True, save_total_limit=1,
    )  # fmt: skip
    trainer = Trainer(
        model, arguments, data_collator=DataCollatorWithPadding(plain), train_dataset=rows(splits.train),
        eval_dataset=rows(splits.dev), compute_metrics=right,
    )  # fmt: skip
    trainer.train()
    capsys.readouterr()  # Trainer prints its log
    assert trainer.evaluate()["eval_accuracy"] > 0.9
    predicted = trainer.predict(rows(splits.test)).predictions
    assert predicted.shape == (len(splits.test.texts), 2)
    trainer.save_model(str(tmp_path / "out"))
    plain.save_pretrained(tmp_path / "out")
    again = Predictor.load(tmp_path / "out")
    assert [p.label for p in again.predict(["a good film", "the room was awful"])] == ["positive", "negative"]
    np.testing.assert_allclose(again.logits(splits.test.texts), predicted, atol=2e-5)


# ---- cut


@pytest.mark.parametrize("depth", [1, 2, 3, 4, "half", "all"])
def test_a_cut_encoder_gives_the_states_of_that_layer(
    tiny: str, tokenizer: PieceTokenizer, depth: Any, tmp_path: Path
) -> None:
    layers = {"half": 2, "all": 4}.get(depth, depth)
    batch = batch_of(tokenizer, SHORT)
    model = BertCNN.from_encoder(tiny, depth=depth, num_filters=2)
    with torch.inference_mode():
        whole = AutoModel.from_pretrained(tiny)(**batch, output_hidden_states=True).hidden_states
        states = model.stitched_states(batch["input_ids"], batch["attention_mask"], None)[0]
    torch.testing.assert_close(states, whole[layers])
    model.save_pretrained(tmp_path)
    for one in (model, BertCNN.from_pretrained(tmp_path)):
        kept = {name.split(".")[3] for name in one.state_dict() if name.startswith("encoder.encoder.layer.")}
        assert kept == {str(i) for i in range(layers)}
        assert not any("pooler" in name for name in one.state_dict())


@pytest.mark.parametrize("depth", [0, -1, 5, "most", 1.5])
def test_a_depth_the_encoder_has_not_is_refused(tiny: str, depth: Any) -> None:
    with pytest.raises(SettingsError, match="4 layers: expected 1 to 4"):
        load_encoder(tiny, depth)


def test_an_encoder_of_blocks_is_taken_whole_or_refused() -> None:
    config = FunnelConfig()
    cut(config, "all")
    with pytest.raises(SettingsError, match=r"funnel encoder cannot be cut to a depth of half: give all"):
        cut(config, "half")


def test_states_side_by_side_and_mixed(tiny: str, tokenizer: PieceTokenizer) -> None:
    batch = batch_of(tokenizer, SHORT)
    with torch.inference_mode():
        whole = AutoModel.from_pretrained(tiny)(**batch, output_hidden_states=True).hidden_states

    def states_of(choice: str) -> tuple[BertCNN, torch.Tensor]:
        model = BertCNN.from_encoder(tiny, depth=3, states=choice, num_filters=2)
        with torch.inference_mode():
            return model, model.stitched_states(batch["input_ids"], batch["attention_mask"], None)[0]

    model, states = states_of("concat-2")
    torch.testing.assert_close(states, torch.cat(whole[2:4], dim=-1))
    assert model.head.cnn.hidden_size == 64
    model, states = states_of("concat-4")
    torch.testing.assert_close(states, torch.cat(whole[:4], dim=-1))
    model, states = states_of("mix")
    torch.testing.assert_close(states, torch.cat(whole[:4], dim=-1))
    assert model.head.cnn.hidden_size == 32
    torch.testing.assert_close(model.head.mix(states), torch.stack(whole[:4]).mean(0))
    model.head.mix.weights.data = torch.tensor([0.0, 1.0, 0.0, 2.0])
    model.head.mix.factor.data = torch.tensor(3.0)
    shares = np.exp([0, 1, 0, 2]) / np.exp([0, 1, 0, 2]).sum()
    wanted = 3 * sum(float(share) * layer for share, layer in zip(shares, whole[:4], strict=True))
    torch.testing.assert_close(model.head.mix(states), wanted)


@pytest.mark.parametrize("states", ["first", "concat-0", "concat-", "concat-6", "concat--1", "mix-2"])
def test_states_there_are_not_are_refused(tiny: str, states: str) -> None:
    with pytest.raises(SettingsError, match="states is"):
        BertCNN.from_encoder(tiny, depth=4, states=states)


def test_a_kernel_wider_than_what_a_window_adds_is_refused(tiny: str) -> None:
    with pytest.raises(SettingsError, match="kernel_sizes has 11, expected at most 10"):
        BertCNN.from_encoder(tiny, max_length=16, overlap=4, kernel_sizes=(2, 11))
    assert BertCNN.from_encoder(tiny, max_length=16, overlap=4, kernel_sizes=(2, 10)).config.window_length == 16


def test_a_loaded_encoder_is_taken_as_it_is(tiny: str, tokenizer: PieceTokenizer, tmp_path: Path) -> None:
    trunk = BertModel.from_pretrained(tiny, add_pooling_layer=False)
    model = make_heard(BertCNN.from_encoder(trunk, num_filters=4))
    assert model.encoder is trunk
    assert model.config.num_hidden_layers == 4
    model.save_pretrained(tmp_path)
    batch = batch_of(tokenizer, TEXTS)
    assert torch.equal(logits_of(BertCNN.from_pretrained(tmp_path), **batch), logits_of(model, **batch))


def test_heights_of_parameters(tiny: str) -> None:
    heights = layer_of_parameters(load_encoder(tiny))
    assert heights["embeddings.word_embeddings.weight"] == heights["embeddings.LayerNorm.weight"] == 0
    assert heights["encoder.layer.0.output.dense.bias"] == 1
    assert heights["encoder.layer.3.attention.self.key.weight"] == 4
    assert set(heights.values()) == {0, 1, 2, 3, 4}


# ---- other families of encoders


@pytest.mark.parametrize("family", FAMILIES)
def test_any_encoder_can_be_the_trunk(make_family: Callable[[str], Path], family: str, tmp_path: Path) -> None:
    place = make_family(family)
    tokenizer = load_tokenizer(str(place))
    assert tokenizer.pad_id == FAMILIES[family].get("pad_token_id", 0)
    model = make_heard(BertCNN.from_encoder(str(place), depth=1, num_filters=4, kernel_sizes=(1, 2, 3), overlap=4))
    limit = model.config.window_length
    # RoBERTa's kind counts positions from behind the padding id.
    assert limit == POSITIONS - {"roberta": 2, "xlm-roberta": 2, "mpnet": 2, "longformer": 1}.get(family, 0)
    words = ["good", "so", "bad"] * POSITIONS
    texts = ["good", "", "bad x film, good!", *(" ".join(words[: limit - 2 + more]) for more in (-1, 0, 1, 2, 40))]
    assert tokenizer(texts).lengths[-4] == limit
    predictor = Predictor(model, tokenizer)
    logits = predictor.logits(texts)
    assert np.isfinite(logits).all()
    alone = np.concatenate([predictor.logits([text]) for text in texts])
    np.testing.assert_allclose(logits, alone, atol=5e-5)
    rows = logits_of(model, **batch_of(tokenizer, texts)).numpy()
    np.testing.assert_allclose(rows, logits, atol=5e-5)
    assert np.ptp(logits[:, 0]) > 0.01
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save(tmp_path / "saved")
    again = Predictor.load(tmp_path / "saved")
    assert type(again.model.encoder) is type(model.encoder)
    assert again.model.config.num_hidden_layers == 1
    assert (again.logits(texts) == logits).all()
    scores = pipeline("text-classification", str(tmp_path / "saved"), top_k=None)(texts)
    for prediction, row in zip(predictor.predict(texts), scores, strict=True):
        assert {s["label"]: s["score"] for s in row} == pytest.approx(prediction.probabilities, abs=5e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_any_encoder_is_cut_and_trained(make_family: Callable[[str], Path], family: str) -> None:
    place = make_family(family)
    tokenizer = load_tokenizer(str(place))
    batch = batch_of(tokenizer, SHORT)
    model = make_heard(BertCNN.from_encoder(str(place), depth=2, num_filters=4, kernel_sizes=(1, 2), overlap=4))
    whole = (T5EncoderModel if family == "t5" else AutoModel).from_pretrained(place).eval()
    last_norms = {
        "modernbert": "final_norm",
        "eurobert": "norm",
        "t5": "encoder.final_layer_norm",
    }  # above whatever layer is the last
    with torch.inference_mode():
        layer = whole(**batch, output_hidden_states=True).hidden_states[2]
        if family in last_norms:
            layer = whole.get_submodule(last_norms[family])(layer)
        states = model.stitched_states(batch["input_ids"], batch["attention_mask"], None)[0]
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(states[real], layer[real])
    assert sum(w.numel() for w in model.encoder.parameters()) < sum(w.numel() for w in whole.parameters()) or (
        family == "albert"  # whose layers are one and the same
    )
    found = gradients(model, {**batch, "labels": torch.tensor([0, 1, 1, 0])})
    inner = [g for name, g in found.items() if name.startswith("encoder.") and g is not None]
    assert all(g.isfinite().all() for g in inner)
    assert sum(bool(g.abs().max() > 0) for g in inner) > 10
    assert min(layer_of_parameters(model.encoder).values()) == 0


def test_of_t5_the_encoder_is_taken_alone(make_family: Callable[[str], Path], tmp_path: Path) -> None:
    whole = make_family("t5")
    T5EncoderModel.from_pretrained(whole).save_pretrained(tmp_path / "alone")
    of_whole, alone = load_encoder(str(whole), 2), load_encoder(str(tmp_path / "alone"), 2)
    assert type(of_whole) is type(alone) is T5EncoderModel
    assert not of_whole.config.is_encoder_decoder
    for (name, weight), (other, same) in zip(of_whole.named_parameters(), alone.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(weight, same)
    heights = layer_of_parameters(of_whole)
    assert heights["shared.weight"] == 0
    assert heights["encoder.block.0.layer.1.DenseReluDense.wi.weight"] == 1
    assert heights["encoder.block.1.layer.0.SelfAttention.q.weight"] == heights["encoder.final_layer_norm.weight"] == 2
    assert set(layer_of_parameters(load_encoder(str(whole), 1)).values()) == {0, 1}


def test_an_encoder_with_code_of_its_own_runs_none(
    make_family: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_family("bert")
    values = json.loads((place / "config.json").read_text())
    values |= {"model_type": "mine", "auto_map": {"AutoConfig": "my.Mine", "AutoModel": "my.Mine"}}
    (place / "config.json").write_text(json.dumps(values))
    (place / "my.py").write_text("import pathlib\npathlib.Path(__file__).with_name('ran').touch()\nclass Mine: pass\n")
    asked: list[Any] = []
    monkeypatch.setattr("builtins.input", lambda *given: asked.append(given) or "y")
    load_tokenizer(str(place))  # a known one, which needs none of it
    with pytest.raises(EncoderError, match="code of its own, which is never run"):
        load_encoder(str(place))
    values = json.loads((place / "tokenizer_config.json").read_text())
    values |= {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["my.Mine", "my.Mine"]}}
    (place / "tokenizer_config.json").write_text(json.dumps(values))
    with suppress(EncoderError):  # some versions take the tokenizer.json beside it
        load_tokenizer(str(place))
    assert not asked
    assert not (place / "ran").exists()


def test_weights_that_are_not_in_the_file_are_told(make_family: Callable[[str], Path]) -> None:
    place = make_family("bert")  # with a pooler, which no state hangs on
    values = json.loads((place / "config.json").read_text())

    def of_config(**changed: Any) -> None:
        (place / "config.json").write_text(json.dumps({**values, **changed}))
        load_encoder(str(place))

    of_config()
    with pytest.raises(EncoderError, match=r"do not belong to its config.*layer\.3\..* is missing.*and \d+ more"):
        of_config(num_hidden_layers=4)
    with pytest.raises(EncoderError, match=r"intermediate\.dense\.weight has shape \(64, 32\), not \(48, 32\)"):
        of_config(intermediate_size=48)
    with pytest.raises(EncoderError, match="has model type `no such type`"):
        of_config(model_type="no such type")
    for field, value in (("hidden_act", "nope"), ("hidden_size", "wide"), ("num_attention_heads", 5)):
        with pytest.raises(EncoderError, match="Cannot load the encoder"):
            of_config(**{field: value})
    of_config()
    weights = load_file(place / WEIGHTS)
    weights["encoder.layer.1.output.dense.bias"][3] = torch.nan
    save_file(weights, place / WEIGHTS, {"format": "pt"})
    with pytest.raises(EncoderError, match="not finite"):
        of_config()
    (place / WEIGHTS).rename(place / "pytorch_model.bin")
    with pytest.raises(EncoderError, match=r"a pickle \(pytorch_model\.bin\).*never read"):
        of_config()


def test_what_makes_no_states_of_pieces_is_no_encoder(tmp_path: Path, folder: Path) -> None:
    values = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    images = AutoConfig.for_model("vit", image_size=8, patch_size=4, **values)
    AutoModel.from_config(images).save_pretrained(tmp_path / "vit")
    with pytest.raises(EncoderError, match=r"\(vit\) cannot be used as an encoder of text"):
        load_encoder(str(tmp_path / "vit"))
    shorter = AutoConfig.for_model("funnel", d_model=32, n_head=4, d_head=8, d_inner=64, vocab_size=40)
    shorter.architectures = ["FunnelBaseModel"]
    FunnelBaseModel(shorter).save_pretrained(tmp_path / "funnel")
    with pytest.raises(EncoderError, match=r"of 8 pieces it makes states of shape \(1, 2, 32\)"):
        load_encoder(str(tmp_path / "funnel"))
    with pytest.raises(EncoderError, match="a trained model of ours"):
        load_encoder(str(folder))


def test_weights_that_are_parts_of_a_larger_one_are_made_whole(make_family: Callable[[str], Path]) -> None:
    encoder = load_encoder(str(make_family("nomic_bert")))
    assert all(weight.untyped_storage().nbytes() == weight.nbytes for weight in encoder.parameters())


def test_looking_at_weights_leaves_which_are_trained(tiny: str) -> None:
    encoder = load_encoder(tiny)
    assert all(weight.requires_grad for weight in encoder.parameters())
    table = encoder.embeddings.position_embeddings.weight  # as tables of sines are in some families
    table.requires_grad_(False)
    _check_reads("tiny", encoder, {"pooler.dense.weight": "is missing"})
    assert [name for name, weight in encoder.named_parameters() if not weight.requires_grad] == [
        "embeddings.position_embeddings.weight"
    ]
    assert all(weight.grad is None for weight in encoder.parameters())


def test_big_bird_attends_to_all(make_family: Callable[[str], Path]) -> None:
    assert load_encoder(str(make_family("big_bird"))).config.attention_type == "original_full"


def test_texts_of_any_length_where_an_encoder_reads_in_chunks(make_family: Callable[[str], Path]) -> None:
    place = make_family("bert")
    plain, _ = embed(["a", "two words"], encoder=str(place))
    config = AutoConfig.from_pretrained(place)
    config.chunk_size_feed_forward = 4
    config.save_pretrained(place)
    torch.testing.assert_close(embed(["a", "two words"], encoder=str(place))[0], plain)


@pytest.mark.parametrize("piece", ["[ADDED]", "[PAD]"])
def test_pieces_without_a_row_in_the_table(make_family: Callable[[str], Path], piece: str) -> None:
    place = make_family("bert")
    foreign = AutoTokenizer.from_pretrained(place)
    rows = len(foreign)
    if piece == "[PAD]":  # as people add it to GPT-2's, and do not resize the table
        foreign.add_special_tokens({"pad_token": "[ANOTHER PAD]"})
    else:
        foreign.add_tokens([piece])
    foreign.save_pretrained(place)
    tokenizer, encoder = load_tokenizer(str(place)), load_encoder(str(place))
    if piece == "[PAD]":
        assert tokenizer.pad_id == rows
        check_pieces("mine", tokenizer, encoder)
        assert tokenizer.pad_id == 0
        tokenizer.save(place)
        assert PieceTokenizer.load(place).pad_id == 0
    else:
        with pytest.raises(EncoderError, match=rf"{rows} rows for them: piece {rows} \('\[ADDED\]'\)"):
            check_pieces("mine", tokenizer, encoder)
        with pytest.raises(EncoderError, match="rows for them"):
            embed(["a text"], encoder=str(place))
        with pytest.raises(EncoderError, match="rows for them"):
            build_pieces(str(place))


def test_a_tokenizer_without_a_piece_for_the_unknown(tiny: str) -> None:
    without = PieceTokenizer(Tokenizer(models.WordPiece({"a": 0, "b": 1})), {})
    with pytest.raises(EncoderError, match=r"'mine' cannot cut .*unk_token"):
        check_pieces("mine", without, load_encoder(tiny))


def test_a_row_without_pieces_is_answered(tiny: str) -> None:
    model = make_heard(BertCNN.from_encoder(tiny, num_filters=4))
    nothing = torch.zeros(2, 0, dtype=torch.long)
    masked = logits_of(model, input_ids=torch.zeros(2, 1, dtype=torch.long), attention_mask=torch.zeros(2, 1))
    torch.testing.assert_close(logits_of(model, input_ids=nothing, attention_mask=nothing), masked)


def test_a_tokenizer_that_does_not_know_a_has_its_special_pieces(tiny: str) -> None:
    known = Tokenizer(models.BPE(vocab={"[CLS]": 0, "[SEP]": 1, "\u4e2d": 2}, merges=[]))
    known.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    known.add_special_tokens(["[CLS]", "[SEP]"])
    found = PieceTokenizer(known, {})
    assert (found.prefix, found.suffix) == ([0], [1])


def test_encoders_that_are_none_are_refused(tmp_path: Path, tiny: str) -> None:
    AutoConfig.for_model("bart", d_model=8, encoder_layers=1, vocab_size=9).save_pretrained(tmp_path / "bart")
    with pytest.raises(EncoderError, match="encoder-decoder"):
        load_encoder(str(tmp_path / "bart"))
    with pytest.raises(EncoderError, match="Cannot load the encoder"):
        load_encoder(str(tmp_path / "nowhere"))
    with pytest.raises(EncoderError, match="Cannot load the encoder"):
        load_encoder("nobody/nothing")
    shutil.copytree(tiny, tmp_path / "bare")
    (tmp_path / "bare" / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match=r"model\.safetensors"):
        load_encoder(str(tmp_path / "bare"))
    (tmp_path / "bare" / "tokenizer.json").unlink()
    with pytest.raises(EncoderError):
        load_tokenizer(str(tmp_path / "bare"))


# ---- embed


def test_embed_gives_the_last_hidden_state(tiny: str, plain: PreTrainedTokenizerFast) -> None:
    texts = ["Not bad at all.", "", "the film was superb", "x" * 9]
    states, mask = embed(texts, encoder=tiny)
    batch = plain(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.inference_mode():
        wanted = AutoModel.from_pretrained(tiny)(**batch).last_hidden_state
    assert states.shape == wanted.shape
    assert states.dtype == torch.float32
    assert mask.dtype == torch.bool
    assert torch.equal(mask, batch["attention_mask"].bool())
    torch.testing.assert_close(states[mask], wanted[mask], atol=1e-5, rtol=1e-5)
    assert (states[~mask] == 0).all()


def test_embed_of_lower_layers_and_of_long_texts(tiny: str, plain: PreTrainedTokenizerFast) -> None:
    long = "the film was so very good and " * 20
    batch = plain(["a good film"], return_tensors="pt", return_token_type_ids=False)
    with torch.inference_mode():
        layers = AutoModel.from_pretrained(tiny)(**batch, output_hidden_states=True).hidden_states
    states, mask = embed(["a good film", long], encoder=tiny, depth=2, states="concat-2")
    assert states.shape == (2, 142, 64)
    assert mask.sum(dim=1).tolist() == [5, 142]
    torch.testing.assert_close(states[0, :5], torch.cat(layers[1:3], dim=-1)[0], atol=1e-5, rtol=1e-5)
    assert (states[1].abs().amax(dim=1) > 0).all()
    nothing, none = embed([], encoder=tiny)
    assert nothing.shape[0] == none.shape[0] == 0


def test_embed_wants_a_list(tiny: str, predictor: Predictor) -> None:
    with pytest.raises(TypeError, match="one string"):
        embed("a good film", encoder=tiny)
    with pytest.raises(TypeError, match="one string"):
        predictor.embed("a good film")


def test_embed_reads_windows_shorter_than_a_filter(tiny: str) -> None:
    states, mask = embed(["a good film"], encoder=tiny, max_length=8, overlap=2)
    assert states.shape[:2] == mask.shape == (1, 5)


def test_streamed_states_leave_their_caller_outside_inference_mode(tiny: str) -> None:
    tokenizer = load_tokenizer(tiny)
    waiting = stream_states(BertCNN.from_encoder(tiny), tokenizer(TEXTS), pad_id=tokenizer.pad_id)
    _, states = next(waiting)
    assert not states.requires_grad
    assert not torch.is_inference_mode_enabled()


def test_a_predictor_and_its_folder_embed_alike(predictor: Predictor, saved: Path) -> None:
    (saved / "run.toml").write_text("")
    states, mask = predictor.embed(TEXTS)
    assert states.shape == (5, int(predictor.tokenizer(TEXTS).lengths.max()), 32)
    others, their_mask = embed(TEXTS, encoder=str(saved))
    assert torch.equal(mask, their_mask)
    assert torch.equal(states, others)
    features, _ = predictor.model.head.features(states, mask)
    logits = predictor.model.head.classifier(features).detach().numpy()
    np.testing.assert_allclose(logits, predictor.logits(TEXTS), atol=2e-5)


# ---- loss


def test_loss_by_hand() -> None:
    logits = torch.tensor([[np.log(3.0), 0.0], [0.0, 0.0]])  # probabilities 3/4 1/4, 1/2 1/2
    labels = torch.tensor([0, 1])
    first, second = -np.log(0.75), -np.log(0.5)
    assert classification_loss(logits, labels).item() == pytest.approx((first + second) / 2)
    weighted = classification_loss(logits, labels, class_weights=[1.0, 3.0])
    assert weighted.item() == pytest.approx((first + 3 * second) / 4)
    focal = classification_loss(logits, labels, focal_gamma=2.0)
    assert focal.item() == pytest.approx((first * 0.25**2 + second * 0.5**2) / 2)
    # Smoothed by 0.2: targets 0.9 and 0.1.
    smoothed = classification_loss(logits, labels, label_smoothing=0.2)
    assert smoothed.item() == pytest.approx((0.9 * first - 0.1 * np.log(0.25) + second) / 2)


def test_loss_of_many_labels_by_hand() -> None:
    logits = torch.tensor([[np.log(3.0), 0.0]])  # probabilities 3/4 and 1/2
    rows = torch.tensor([[1, 0]])
    first, second = -np.log(0.75), -np.log(0.5)
    assert classification_loss(logits, rows).item() == pytest.approx((first + second) / 2)
    weighted = classification_loss(logits, rows, class_weights=[4.0, 7.0])
    assert weighted.item() == pytest.approx((4 * first + second) / 2)  # only where a label holds
    focal = classification_loss(logits, rows, focal_gamma=1.0)
    assert focal.item() == pytest.approx((0.25 * first + 0.5 * second) / 2)
    smoothed = classification_loss(logits, rows, label_smoothing=0.2)
    assert smoothed.item() == pytest.approx((0.9 * first - 0.1 * np.log(0.25) + second) / 2)


def test_loss_against_torch() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(17, 5, generator=generator)
    labels = torch.randint(0, 5, (17,), generator=generator)
    rows = torch.randint(0, 2, (17, 5), generator=generator)
    weights = torch.rand(5, generator=generator) + 0.1
    given = weights.tolist()
    close = torch.testing.assert_close
    close(classification_loss(logits, labels, focal_gamma=0.0), functional.cross_entropy(logits, labels))
    close(
        classification_loss(logits, labels, label_smoothing=0.3),
        functional.cross_entropy(logits, labels, label_smoothing=0.3),
    )
    close(
        classification_loss(logits, labels, class_weights=given),
        functional.cross_entropy(logits, labels, weight=weights),
    )
    close(
        classification_loss(logits, rows, class_weights=given),
        functional.binary_cross_entropy_with_logits(logits, rows.float(), pos_weight=weights),
    )
    assert classification_loss(logits, labels, focal_gamma=2.0) < functional.cross_entropy(logits, labels)


def test_loss_stays_finite_for_sure_answers() -> None:
    for labels in (torch.tensor([0, 1]), torch.tensor([[1, 0], [0, 1]])):
        logits = torch.tensor([[1e4, -1e4], [1e4, -1e4]], requires_grad=True)
        loss = classification_loss(logits, labels, focal_gamma=2.0, label_smoothing=0.1, class_weights=[1.0, 2.0])
        loss.backward()
        assert loss.isfinite()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()


def test_the_model_uses_the_loss_it_was_given(tiny: str, tokenizer: PieceTokenizer) -> None:
    batch = batch_of(tokenizer, SHORT)
    labels = torch.tensor([0, 1, 1, 0])
    options = {"class_weights": [1.0, 5.0], "focal_gamma": 1.0, "label_smoothing": 0.2}
    model = make_heard(BertCNN.from_encoder(tiny, depth=1, num_filters=4, **options))
    wanted = classification_loss(logits_of(model, **batch), labels, **options)
    torch.testing.assert_close(model(**batch, labels=labels).loss, wanted)


# ---- the static twin

WORDS = ["Good", "bad", "good", "the", "caf\u00e9"]
VECTORS = np.arange(15, dtype=np.float32).reshape(5, 3) + 1


def write_text(file: Path, *, header: bool) -> Path:
    lines = [f"{word} {' '.join(map(str, row))}" for word, row in zip(WORDS, VECTORS, strict=True)]
    file.write_text("\n".join([f"{len(WORDS)} 3"] * header + lines) + "\n", "utf-8")
    return file


def write_npz(file: Path) -> Path:
    np.savez(file, words=np.array(WORDS), vectors=VECTORS)
    return file


def write_binary(file: Path) -> Path:
    from gensim.models import KeyedVectors

    keyed = KeyedVectors(3)
    keyed.add_vectors(WORDS, VECTORS)
    keyed.save_word2vec_format(str(file), binary=True)
    return file


WRITERS: dict[str, Callable[[Path], Path]] = {
    "a.npz": write_npz,
    "a.txt": lambda file: write_text(file, header=True),
    "b.txt": lambda file: write_text(file, header=False),
    "a.vec": lambda file: write_text(file, header=True),
    "b.vec": lambda file: write_text(file, header=False),
    "a.bin": write_binary,
}


@pytest.mark.parametrize("name", WRITERS)
def test_vectors_of_any_file_are_the_same(tmp_path: Path, name: str) -> None:
    rows, vectors = read_vectors(WRITERS[name](tmp_path / name), set(), 100)
    assert vectors.dtype == np.float32
    found = {word: vectors[row].tolist() for word, row in rows.items()}
    wanted = {"good": [1, 2, 3], "bad": [4, 5, 6], "the": [10, 11, 12], "caf\u00e9": [13, 14, 15]}
    assert found == wanted  # "Good" came before "good"
    assert list(found) == list(wanted)
    few, _ = read_vectors(tmp_path / name, {"caf\u00e9"}, 1)
    assert list(few) == ["good", "caf\u00e9"]  # one other word, and the one that is wanted in any case


def test_inflected_forms_share_the_row_of_their_base(tmp_path: Path) -> None:
    file = tmp_path / "forms.npz"
    words, forms = np.array(["walk", "be"]), np.array(["Walks", "is", "walk"])
    np.savez(file, words=words, vectors=VECTORS[:2], forms=forms, form_row=np.array([0, 1, 1]))
    rows, vectors = read_vectors(file, set(), 100)
    assert rows == {"walk": 0, "be": 1, "walks": 0, "is": 1}
    encoder, tokenizer = build_vectors(["walks"], file=file)
    table = encoder.embeddings.weight
    ids = tokenizer(["walk walks is be"]).ids
    assert torch.equal(table[ids], torch.from_numpy(vectors[[0, 0, 1, 1]]))


def test_random_vectors(tmp_path: Path) -> None:
    texts = ["It's a good, GOOD film!", "caf\u00e9 cafe\u0301"]
    encoder, tokenizer = build_vectors(texts, size=50, seed=1)
    words = tokenizer.tokenizer.get_vocab()
    assert set(words) == {"[PAD]", "[UNK]", "it's", "a", "good", ",", "film", "!", "caf\u00e9"}
    table = encoder.embeddings.weight.detach()
    assert table.shape == (len(words), 50)
    assert (table[0] == 0).all()
    assert (table[1:].abs() <= RANDOM_RANGE).all()
    assert table[1:].std().item() == pytest.approx(RANDOM_RANGE / 3**0.5, rel=0.1)
    assert tokenizer.prefix == tokenizer.suffix == []
    ids = tokenizer(["GOOD good nothing film"]).ids.tolist()
    assert ids == [words["good"], words["good"], words["[UNK]"], words["film"]]
    assert tokenizer(["", "   "]).lengths.tolist() == [0, 0]
    _, odd = build_vectors(["\ud800 a", "\0"])
    assert odd(["\ud800", "a"]).lengths.tolist() == [1, 1]
    same, _ = build_vectors(texts, size=50, seed=1)
    other, _ = build_vectors(texts, size=50, seed=2)
    assert torch.equal(same.embeddings.weight, encoder.embeddings.weight)
    assert not torch.equal(other.embeddings.weight, encoder.embeddings.weight)


def test_words_the_file_has_not_are_random_but_seeded(tmp_path: Path) -> None:
    file = write_npz(tmp_path / "a.npz")
    first, tokenizer = build_vectors(["a good superb film"], file=file, size=999, seed=4)
    assert first.config.hidden_size == 3  # the file's
    table = first.embeddings.weight.detach()
    good, superb, bad = tokenizer(["good superb bad"]).ids
    assert table[good].tolist() == [1, 2, 3]
    assert table[bad].tolist() == [4, 5, 6]  # a word no training text has
    assert (table[superb].abs() <= RANDOM_RANGE).all()
    assert torch.equal(build_vectors(["a good superb film"], file=file, seed=4)[0].embeddings.weight, table)
    other = build_vectors(["a good superb film"], file=file, seed=5)[0].embeddings.weight
    assert torch.equal(other[good], table[good])
    assert not torch.equal(other[superb], table[superb])


def broken_files(folder: Path) -> dict[str, Path]:
    whole = write_npz(folder / "whole.npz").read_bytes()
    binary = write_binary(folder / "whole.bin").read_bytes()
    np.savez(folder / "names.npz", tokens=np.array(WORDS), vectors=VECTORS)
    np.savez(folder / "fewer.npz", words=np.array(WORDS), vectors=VECTORS[:2])
    np.savez(folder / "flat.npz", words=np.array(WORDS), vectors=VECTORS[:, 0])
    np.savez(folder / "form.npz", words=np.array(WORDS), vectors=VECTORS, forms=np.array(["x"]), form_row=np.array([9]))
    np.savez(folder / "pickle.npz", words=np.array(WORDS, dtype=object), vectors=VECTORS)
    contents = {
        "cut.npz": whole[: len(whole) // 2], "noise.npz": b"\x00\x01noise", "empty.npz": b"",
        "cut.bin": binary[:-7], "noise.bin": b"\xff\xfe\x00" * 9, "empty.bin": b"",
        "ragged.txt": b"a 1 2 3\nb 1 2\n", "letters.vec": b"2 2\na 1 x\nb 1 2\n", "empty.txt": b"",
        "latin.txt": "caf\u00e9 1 2\n".encode("latin-1"), "short.vec": b"5 2\na 1 2\n",
    }  # fmt: skip
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    made = ["names.npz", "fewer.npz", "flat.npz", "form.npz", "pickle.npz", "missing.txt", "missing.npz", "missing.bin"]
    return {name: folder / name for name in (*contents, *made)}


def test_a_word_of_a_text_file_may_hold_spaces(tmp_path: Path) -> None:
    """Those of GloVe's common crawl do."""
    file = tmp_path / "glove.txt"
    file.write_text("good 1 2 3\n. . . 4 5 6\nbad 7 8 9\n", "utf-8")
    rows, vectors = read_vectors(file, set(), 100)
    assert {word: vectors[row].tolist() for word, row in rows.items()} == {
        "good": [1, 2, 3], ". . .": [4, 5, 6], "bad": [7, 8, 9],
    }  # fmt: skip


BROKEN = [
    "cut.npz", "noise.npz", "empty.npz", "cut.bin", "noise.bin", "empty.bin", "ragged.txt", "letters.vec", "empty.txt",
    "latin.txt", "short.vec", "names.npz", "fewer.npz", "flat.npz", "form.npz", "pickle.npz", "missing.txt",
    "missing.npz", "missing.bin",
]  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_vector_files_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(EncoderError, match=name):
        build_vectors(["a good film"], file=broken_files(tmp_path)[name])


@pytest.mark.parametrize("freeze", [True, False])
def test_the_twin_is_a_model_like_any_other(tmp_path: Path, freeze: bool) -> None:
    encoder, tokenizer = build_vectors(["the good film", "a bad film"], size=12, seed=0)
    model = make_heard(
        BertCNN.from_encoder(
            encoder, num_filters=4, kernel_sizes=(1, 2), max_length=1 << 30, overlap=0, special_pieces=(0, 0),
            freeze_encoder=freeze,
        )
    )  # fmt: skip
    predictor = Predictor(model, tokenizer)
    texts = ["the good film", "", "what", "a bad film " * 300]
    logits = predictor.logits(texts)
    alone = np.concatenate([predictor.logits([text]) for text in texts])
    np.testing.assert_allclose(logits, alone, atol=2e-5)
    assert np.ptp(logits[:, 0]) > 0.01
    states, mask = predictor.embed(texts[:2])
    assert states.shape == (2, 3, 12)
    assert mask.tolist() == [[True] * 3, [False] * 3]
    assert torch.equal(states[0], encoder.embeddings.weight[tokenizer(texts[:1]).ids])
    model.train()
    found = gradients(model, {**batch_of(tokenizer, texts[:1]), "labels": torch.tensor([1])})
    assert (found["encoder.embeddings.weight"] is None) == freeze
    model.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    again = Predictor.load(tmp_path)
    assert (again.logits(texts) == logits).all()
    assert type(AutoModelForSequenceClassification.from_pretrained(tmp_path)) is BertCNN
    score = pipeline("text-classification", str(tmp_path))(texts[0])[0]
    assert score["label"] == predictor.predict(texts[:1])[0].label


def test_word_vectors_are_padded_so_that_a_text_of_one_word_has_windows() -> None:
    """Kim (2014) pads by the widest window less one; so "great" is seen by filters five words wide."""
    bare, padded = (build_vectors(["great film", "so dull"], size=4, padding=by) for by in (0, 4))
    assert padded[1].prefix == padded[1].suffix == [0] * 4
    assert padded[1](["great"])[0].tolist() == [0, 0, 0, 0, 2, 0, 0, 0, 0]
    assert (padded[0].embeddings.weight[0] == 0).all()
    for (encoder, cutter), fits in ((bare, False), (padded, True)):
        torch.manual_seed(0)
        model = BertCNN.from_encoder(
            encoder, num_filters=3, kernel_sizes=(3, 5), max_length=1 << 30, special_pieces=(len(cutter.prefix),) * 2
        )
        _, positions = Predictor(model, cutter).pooled(cutter(["great"]))
        assert (positions >= 0).all() == fits


def test_token_types_are_told_from_windows(model: BertCNN, tokenizer: PieceTokenizer) -> None:
    """They stand where BERT's do, Trainer's look at the signature finds them, and rows that are cut keep them."""
    assert list(inspect.signature(BertCNN.forward).parameters)[1:4] == ["input_ids", "attention_mask", "token_type_ids"]
    for length in (6, 3 * model.config.window_length):
        ids = torch.randint(5, 20, (2, length))
        mask, types = torch.ones_like(ids), torch.zeros_like(ids)
        types[:, length // 2 :] = 1
        with torch.inference_mode():
            said = model(ids, mask, types).logits
            torch.testing.assert_close(said, model(ids, mask, token_type_ids=types).logits)
            torch.testing.assert_close(model(ids, mask, torch.zeros_like(ids)).logits, model(ids, mask).logits)
            assert not torch.allclose(said, model(ids, mask).logits, atol=1e-4)


def test_embeddings_of_long_rows_are_cut_as_ids_are(model: BertCNN) -> None:
    ids = torch.randint(5, 20, (2, 3 * model.config.window_length))
    with torch.inference_mode():
        torch.testing.assert_close(model(inputs_embeds=model.get_input_embeddings()(ids)).logits, model(ids).logits)
        with pytest.raises(ValueError, match="Got position_ids for rows of"):
            model(ids, position_ids=torch.arange(ids.shape[1])[None])


def test_a_head_is_of_its_encoders_type(tiny: str) -> None:
    """Transformers loads an encoder in the type in which it was saved."""
    encoder = AutoModel.from_pretrained(tiny).to(torch.bfloat16)
    model = BertCNN.from_encoder(encoder)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert torch.isfinite(model(torch.tensor([[2, 7, 8, 3]])).logits).all()


def test_an_encoder_that_gives_tuples_is_asked_for_names(tiny: str) -> None:
    model = BertCNN.from_encoder(tiny)
    wanted = model(torch.tensor([[2, 7, 8, 3]])).logits
    model.config.encoder.return_dict = False
    torch.testing.assert_close(model(torch.tensor([[2, 7, 8, 3]])).logits, wanted)


def test_a_model_is_found_in_a_subfolder(model: BertCNN, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "inner")
    again = BertCNN.from_pretrained(tmp_path, subfolder="inner")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_the_problem_decides_the_loss() -> None:
    logits, ids = torch.randn(3, 4), torch.tensor([1, -100, 3])
    torch.testing.assert_close(classification_loss(logits, ids), functional.cross_entropy(logits, ids))
    weights = [1.0, 2.0, 3.0, 4.0]
    wanted = functional.cross_entropy(logits, ids, weight=torch.tensor(weights))
    torch.testing.assert_close(classification_loss(logits, ids, class_weights=weights), wanted)
    torch.testing.assert_close(classification_loss(logits, ids.int()[:, None]), functional.cross_entropy(logits, ids))
    numbers = torch.randn(3)
    torch.testing.assert_close(classification_loss(logits[:, :1], numbers), functional.mse_loss(logits[:, 0], numbers))
    table = torch.randn(3, 4)
    torch.testing.assert_close(
        classification_loss(logits, table, problem_type="regression"), functional.mse_loss(logits, table)
    )
    for labels, problem in ((ids, "multi_label_classification"), (table, "single_label_classification")):
        with pytest.raises(ValueError, match=r"Got labels of .* expected for"):
            classification_loss(logits, labels, problem_type=problem)
    with pytest.raises(ValueError, match="problem_type is 'ranking'"):
        classification_loss(logits, ids, problem_type="ranking")


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_a_sure_answer_has_a_gradient_whatever_the_focus(gamma: float) -> None:
    for labels in (torch.tensor([0, 1]), torch.eye(2)):
        logits = torch.tensor([[40.0, -40.0], [0.2, 0.1]], requires_grad=True)
        classification_loss(logits, labels, focal_gamma=gamma).backward()
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()
        assert (logits.grad[1] != 0).all()


def test_a_mean_in_half_precision_does_not_overflow() -> None:
    states = torch.full((1, 9000, 2), 8.0, dtype=torch.float16)
    features, _ = StatePool(2, "mean")(states, torch.ones(1, 9000))
    assert features.dtype == torch.float16
    torch.testing.assert_close(features, torch.full((1, 2), 8.0, dtype=torch.float16))


def test_the_first_state_is_found_behind_padding() -> None:
    states, mask = torch.randn(2, 4, 3), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]]).bool()
    features, _ = StatePool(3, "first")(states, mask)
    torch.testing.assert_close(features, torch.stack([states[0, 2], states[1, 0]]))


def test_a_size_of_the_vocabulary_can_be_set(tiny: str) -> None:
    config = BertCNN.from_encoder(tiny).config
    config.vocab_size = 77
    assert config.encoder.vocab_size == 77


@pytest.mark.parametrize(("family", "wanted"), [("bert", False), ("deberta-v2", False), ("fnet", True)])
def test_an_encoder_that_reads_padding_is_told(family: str, wanted: bool) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    encoder = AutoModel.from_config(AutoConfig.for_model(family, vocab_size=30, **sizes)).eval()
    assert reads_padding(encoder) is wanted


def test_no_product_is_made_twice_or_for_nothing(tiny: str) -> None:
    """The products of a prediction, counted, are those of the kept layers, of the windows, and of the last layer."""
    model = BertCNN.from_encoder(tiny, depth=2, num_filters=6, kernel_sizes=(1, 3), num_labels=4)
    config, texts, pieces = model.config.encoder, 3, 9
    width, inner = config.hidden_size, config.intermediate_size
    # The plain form of attention: the counter does not know the fused one.
    with FlopCounterMode(display=False) as counted, sdpa_kernel(SDPBackend.MATH), torch.inference_mode():
        model(torch.randint(5, 20, (texts, pieces)))
    layer = pieces * (4 * width * width + 2 * width * inner) + 2 * pieces * pieces * width
    head = pieces * width * (1 + 3) * 6 + 2 * 6 * 4
    assert counted.get_total_flops() == 2 * texts * (2 * layer + head)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_answers(folder: Path) -> None:
    """Its parent's threads are not there, and who waits for them waits for ever."""
    script = f"""
import multiprocessing, torch
from bertcnn import Predictor
torch.set_num_threads(2)
predictor = Predictor.load({str(folder)!r}, backend="torch")
texts = ["good", "not so good " * 9] * 40
first = predictor.logits(texts)
with multiprocessing.get_context("fork").Pool(1) as pool:
    second = pool.apply_async(predictor.logits, (texts,)).get(timeout=100)
print(abs(first - second).max() < 1e-5)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_without_a_home_the_cache_lasts_as_long_as_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BERTCNN_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("") == tmp_path / ".cache" / "bertcnn" / "states"
    assert cache_folder("there") == Path("there")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    monkeypatch.setattr(Path, "exists", lambda _: pytest.fail("raises where a folder may not be looked into"))
    found = cache_folder("")
    assert found.is_dir()
    assert found == cache_folder("")
    assert tmp_path not in found.parents
