"""ONNX graphs against torch, the golden texts, and the certificate."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from bertcnn import BertCNN, ModelError, Predictor, Settings, save, train
from bertcnn.apps.cli import app
from bertcnn.apps.export import _dev_of_training
from bertcnn.inference import certificate, golden
from bertcnn.inference import export as exporting
from bertcnn.inference import predictor as predictor_module
from bertcnn.inference.certificate import END, START, certify, write_certificate
from bertcnn.inference.export import export_onnx
from bertcnn.inference.golden import long_text
from bertcnn.inference.onnx import backend as onnx_backend
from bertcnn.inference.onnx.backend import FILES, SLOW_FUSIONS, OnnxBackend, open_session
from bertcnn.machine import threads
from bertcnn.network.encoder import load_tokenizer
from bertcnn.network.folder import read_config
from bertcnn.settings import change
from bertcnn.text.dataset import Examples, Splits
from bertcnn.text.tokens import PieceTokenizer, Windowing, make_batch, segments
from tests.conftest import FAMILIES, make_texts
from tests.test_cli import call

LONG = "the film was good and so is the phone, but it is a very dull room "
TEXTS = ["good", "", "a", "x y", "the staff was so very awful, really", LONG, LONG * 4, LONG * 40, "\ud800 🙂"]
TOLERANCE = 1e-4


def saved(model: BertCNN, tokenizer: object, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="session")
def exported(folder: Path, splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained model of conftest with both graphs beside it."""
    place = tmp_path_factory.mktemp("exported") / "reviews"
    shutil.copytree(folder, place)
    written = export_onnx(place, int8=True, dev=splits.dev, texts=TEXTS)
    assert [one.file for one in written] == [place / "model.onnx", place / "model.int8.onnx"]
    assert written[0].difference < TOLERANCE
    assert written[0].flips == 0
    assert written[0].accuracy == written[0].torch_accuracy
    assert 1e-3 < written[1].difference < 12  # logits of this model go to 35
    assert not list(place.glob(".export-*"))
    return place


@pytest.fixture
def traced(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing takes seconds; where something else is tested, it gives what it gave before."""
    monkeypatch.setattr(exporting, "write_graph", lambda _, file, __: shutil.copy(exported / "model.onnx", file))


@pytest.fixture
def own(exported: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(exported, tmp_path / "reviews"))


@pytest.mark.parametrize("encoder", ["words", "pieces"])
def test_what_reads_any_length_at_once_is_exported_and_checked(
    splits: Splits, quick: Settings, tiny: str, tmp_path: Path, encoder: str
) -> None:
    """Its long text, to be proved on, has an end."""
    name = encoder if encoder == "words" else f"pieces:{tiny}"
    method = {"words": "finetune", "pieces": "frozen"}[encoder]
    save(train(splits, change(quick, {"encoder": name, "depth": "all", "method": method})), tmp_path / "model")
    predictor = Predictor.load(tmp_path / "model")
    lengths = predictor.tokenizer([long_text(predictor.tokenizer, predictor.backend.spec.windowing)]).lengths
    assert 1024 <= lengths[0] < 1200
    (written,) = export_onnx(tmp_path / "model", dev=splits.dev)
    assert written.difference < TOLERANCE
    assert all(check.difference < TOLERANCE for check in certify(tmp_path / "model", splits.dev.texts[:10]))


@pytest.mark.parametrize("pieces", [5, 16, 100, 512])
def test_a_long_text_takes_three_windows(tokenizer: PieceTokenizer, pieces: int) -> None:
    lengths = tokenizer([long_text(tokenizer, Windowing(pieces, 0))]).lengths
    assert 2 * pieces < lengths[0] <= 2 * pieces + 200


def test_onnx_agrees_with_torch_on_mixed_lengths(exported: Path) -> None:
    ours, theirs = Predictor.load(exported, backend="torch"), Predictor.load(exported, backend="onnx")
    np.testing.assert_allclose(theirs.logits(TEXTS), ours.logits(TEXTS), atol=TOLERANCE)
    pieces = ours.tokenizer(TEXTS)
    assert pieces.lengths.max() > 10 * ours.backend.spec.windowing.length
    found, where = theirs.pooled(pieces)
    features, positions = ours.pooled(pieces)
    np.testing.assert_allclose(found, features, atol=TOLERANCE)
    clear = features > 1e-3  # where a filter hardly fires, rounding may prefer another window
    assert (where == positions)[clear].mean() > 0.99
    assert theirs.backend.spec == ours.backend.spec
    for mine, other in zip(
        ours.backend.classifier + ours.backend.filters, theirs.backend.classifier + theirs.backend.filters, strict=True
    ):
        assert (mine == other).all()
    assert [p.label for p in theirs.predict(TEXTS)] == [p.label for p in ours.predict(TEXTS)]
    assert theirs.predict([]) == []


@pytest.mark.parametrize("text", [LONG, LONG * 20])
def test_states_are_what_the_convolution_reads(exported: Path, text: str) -> None:
    ours, theirs = Predictor.load(exported, backend="torch"), Predictor.load(exported, backend="onnx")
    pieces = ours.tokenizer([text])
    batch = make_batch(pieces, list(segments(0, len(pieces.ids), ours.backend.spec.windowing, reach=0)), pad_id=0)
    np.testing.assert_allclose(theirs.backend.states(batch), ours.backend.states(batch), atol=TOLERANCE)
    states, mask = ours.embed([text])
    np.testing.assert_allclose(ours.backend.states(batch), states[:, : int(mask.sum())], atol=TOLERANCE)


def test_the_graph_needs_only_ids_and_mask(exported: Path) -> None:
    """As somebody else's runtime would call it."""
    session = onnxruntime.InferenceSession(exported / "model.onnx", providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == ["input_ids", "attention_mask"]
    ours = Predictor.load(exported, backend="torch")
    for shape in ((1, 1), (1, 2), (3, 1), (5, 9), (2, 40)):
        ids = np.random.default_rng(0).integers(4, 20, shape)
        mask = np.ones_like(ids)
        mask[-1, shape[1] // 2 + 1 :] = 0
        logits, features, positions, states = session.run(None, {"input_ids": ids, "attention_mask": mask})
        with torch.inference_mode():
            wanted = ours.model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits
        np.testing.assert_allclose(logits, wanted, atol=TOLERANCE)
        assert features.shape == positions.shape == (shape[0], ours.backend.classifier[0].shape[1])
        assert states.shape[:2] == shape


def test_attention_is_one_operator(exported: Path) -> None:

    kinds = [node.op_type for node in onnx.load(exported / "model.onnx").graph.node]
    layers = Predictor.load(exported, backend="torch").model.config.num_hidden_layers
    assert "Softmax" not in kinds
    assert "MultiHeadAttention" not in kinds
    ways = [
        {one.name: list(one.g.node) for one in node.attribute}
        for node in onnx.load(exported / "model.onnx").graph.node
        if node.op_type == "If" and any(one.g.node[0].op_type == "MultiHeadAttention" for one in node.attribute)
    ]
    assert len(ways) == layers
    for way in ways:  # without a bias where that is zero, as in a batch of texts of one length
        assert [len(nodes) for nodes in way.values()] == [1, 1]
        assert not any(way["then_branch"][0].input[3:])
        assert way["else_branch"][0].input[5]
    eights = [node.op_type for node in onnx.load(exported / "model.int8.onnx").graph.node]
    assert eights.count("MatMul") >= 6 * layers + 1
    assert "DynamicQuantizeLinear" not in eights  # scales do not hang on the batch
    assert kinds_run(exported / "model.int8.onnx").count("MatMulIntegerToFloat") == eights.count("MatMul")


def kinds_run(graph: Path) -> list[str]:
    """Return the operators that ONNX Runtime makes of a graph."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(graph.with_suffix(".optimized"))
    onnxruntime.InferenceSession(str(graph), options, disabled_optimizers=SLOW_FUSIONS)
    made = onnx.load(options.optimized_model_filepath)
    Path(options.optimized_model_filepath).unlink()
    return [node.op_type for node in made.graph.node]


def test_in_int8_the_other_texts_of_a_batch_hardly_move_an_answer(exported: Path, splits: Splits) -> None:
    predictor = Predictor.load(exported, backend="onnx-int8")
    texts = list(splits.test.texts)
    together = predictor.logits(texts)
    alone = np.concatenate([predictor.logits([text]) for text in texts])
    off = np.abs(together - predictor.__class__.load(exported, backend="torch").logits(texts)).max(axis=1)
    moved = np.abs(together - alone).max(axis=1)
    assert moved.mean() < off.mean() / 10
    assert (together.argmax(axis=1) == alone.argmax(axis=1)).all()


@pytest.mark.parametrize("asks_for_exact", [False, True])
def test_in_int8_products_are_exact_on_every_processor(
    tmp_path: Path, asks_for_exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without 8-bit products of its own, a processor adds pairs of them in 16 bits; 2 x 255 x 127 is beyond those."""
    if asks_for_exact:
        monkeypatch.setattr(onnx_backend, "has_vnni", lambda: False)
    helper, file = onnx.helper, tmp_path / "product.onnx"
    scales = {
        "one": np.float32(1),
        "none": np.uint8(0),
        "zeros": np.zeros(16, np.int8),
        "ones": np.ones(16, np.float32),
    }
    weights = np.full((64, 16), 127, np.int8)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "none"], ["x8"]),
        helper.make_node("DequantizeLinear", ["x8", "one", "none"], ["x32"]),
        helper.make_node("DequantizeLinear", ["w8", "ones", "zeros"], ["w32"], axis=1),
        helper.make_node("MatMul", ["x32", "w32"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [8, 64])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [8, 16])],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in {**scales, "w8": weights}.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), file)
    (product,) = open_session(file).run(["y"], {"x": np.full((8, 64), 255, np.float32)})
    np.testing.assert_array_equal(product, 64 * 255 * 127)


def test_predicting_by_onnx_loads_no_torch(exported: Path, tmp_path: Path) -> None:
    code = f"""
import sys
sys.argv = ["bertcnn", "predict", {str(exported)!r}, "in.csv", "--output", "out.csv"]
from bertcnn.apps.cli import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
heavy = {{"torch", "transformers", "sklearn", "onnx"}} & set(sys.modules)
assert not heavy, heavy
assert "onnxruntime" in sys.modules
"""
    (tmp_path / "in.csv").write_text("text\nreally good\nso awful\n")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, timeout=120)
    assert [line.split(",")[1] for line in (tmp_path / "out.csv").read_text().splitlines()] == [
        "prediction",
        "positive",
        "negative",
    ]


def test_auto_takes_the_fastest_that_is_there(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Predictor.load(own).backend.name == "onnx-int8"
    assert Predictor.load(own, device="cpu").backend.name == "torch"
    (own / FILES["onnx-int8"]).unlink()
    assert Predictor.load(own).backend.name == "onnx"
    monkeypatch.setattr(predictor_module, "find_spec", lambda name: None if name == "onnxruntime" else find_spec(name))
    assert Predictor.load(own).backend.name == "torch"


def test_what_cannot_be_run_is_refused(own: Path, folder: Path) -> None:
    with pytest.raises(ModelError, match="bertcnn export"):
        Predictor.load(folder, backend="onnx")
    with pytest.raises(ModelError, match="on the CPU, not on 'cuda'"):
        Predictor.load(own, backend="onnx", device="cuda")
    with pytest.raises(ModelError, match="backend is 'tensorrt', expected auto"):
        Predictor.load(own, backend="tensorrt")
    with pytest.raises(ModelError, match="load it by torch"):
        Predictor.load(own, backend="onnx").embed(["x"])
    graph = (own / "model.onnx").read_bytes()
    (own / "model.onnx").write_bytes(graph[: len(graph) // 2])
    with pytest.raises(ModelError, match="cannot be read by ONNX Runtime"):
        Predictor.load(own, backend="onnx")
    config = json.loads((own / "config.json").read_text())
    (own / "model.onnx").write_bytes(graph)
    del config["window_length"]
    (own / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="window_length"):
        Predictor.load(own, backend="onnx")


def test_a_graph_of_other_weights_is_refused(own: Path, model: BertCNN, tokenizer: object) -> None:
    saved(model, tokenizer, own)
    with pytest.raises(ModelError, match="export again"):
        Predictor.load(own, backend="onnx")


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(("name", "limit"), [("LOGIT_TOLERANCE", -1.0), ("ACCURACY_TOLERANCE", -200.0)])
def test_a_graph_that_answers_otherwise_is_not_written(
    folder: Path, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, limit: float
) -> None:
    place = shutil.copytree(folder, tmp_path / "reviews")
    monkeypatch.setattr(exporting, name, limit)
    with pytest.raises(ModelError, match="othing was written"):
        export_onnx(place, int8=True, dev=splits.dev)
    assert not list(place.glob("*.onnx"))
    assert not list(place.glob(".export-*"))


def test_what_cannot_be_quantized_is_said(own: Path, splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no such tensor")

    before = {path: path.read_bytes() for path in own.iterdir()}
    monkeypatch.setattr("onnxruntime.quantization.quantize_static", fail)
    with pytest.raises(ModelError, match=r"No int8 graph can be made.*no such tensor.*export without int8"):
        export_onnx(own, int8=True, dev=splits.dev)
    assert {path: path.read_bytes() for path in own.iterdir()} == before


def test_int8_needs_labelled_texts(folder: Path) -> None:
    with pytest.raises(ModelError, match="Give --dev FILE"):
        export_onnx(folder, int8=True, texts=["good"])


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("mean", "first", "concat-2", "words")]


@pytest.mark.parametrize("kind", ["many labels", "mix", *SLOW])
def test_every_kind_of_head_is_exported(tiny: str, tokenizer: object, tmp_path: Path, kind: str) -> None:
    options: dict = {"features": kind} if kind in {"mean", "first"} else {}
    if kind in {"mix", "concat-2"}:
        options["states"] = kind
    encoder, cutter = tiny, tokenizer
    if kind == "words":
        from bertcnn.network.vectors import build_vectors

        encoder, cutter = build_vectors(TEXTS[:6], size=12)
        options |= {"special_pieces": (0, 0), "max_length": 1 << 30}
    torch.manual_seed(0)
    model = BertCNN.from_encoder(
        encoder,
        labels=["a", "b", "c"],
        multi_label=kind == "many labels",
        depth="all",
        num_filters=4,
        kernel_sizes=(1, 3),
        **options,
    )
    model.config.thresholds = [0.5, 0.4, 0.3] if kind == "many labels" else None
    place = saved(model, cutter, tmp_path / "model")
    (written,) = export_onnx(place, texts=TEXTS)
    assert written.difference < TOLERANCE
    assert written.flips == 0
    other = Predictor.load(place, backend="onnx")
    assert other.backend.spec.thresholds == (None if model.config.thresholds is None else (0.5, 0.4, 0.3))
    if kind in {"mean", "first"}:
        with pytest.raises(ModelError, match="plain linear head"):
            _ = other.backend.filters


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_any_encoder_is_exported(make_family: Callable[[str], Path], family: str, tmp_path: Path) -> None:
    place = make_family(family)
    model = BertCNN.from_encoder(str(place), depth=2, num_filters=4, kernel_sizes=(1, 2, 3), overlap=4)
    place = saved(model, load_tokenizer(str(place)), tmp_path / "model")
    if family == "longformer":  # its sliding windows are loops over lengths
        with pytest.raises(ModelError, match=r"cannot be exported|differ from torch"):
            export_onnx(place, texts=TEXTS)
        return
    (written,) = export_onnx(place, texts=TEXTS)
    assert written.difference < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("family", ["albert", "deberta-v2"])
def test_shared_weights_are_quantized(
    make_family: Callable[[str], Path], family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_family(family)
    model = BertCNN.from_encoder(str(place), depth=2, num_filters=4, kernel_sizes=(1, 2, 3), overlap=4)
    texts, _ = make_texts(40)
    place = saved(model, load_tokenizer(str(place)), tmp_path / "model")
    answers = [one.label for one in Predictor.load(place).predict(texts)]
    monkeypatch.setattr(exporting, "ACCURACY_TOLERANCE", 50)  # of answers that mean nothing
    written = export_onnx(place, int8=True, dev=Examples(texts, answers, "made"))
    assert [one.file.name for one in written] == list(reversed(FILES.values()))


def test_a_graph_is_proved_on_hard_texts_whatever_is_given(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    logits = Predictor.logits

    def listening(predictor: Predictor, texts: Sequence[str]) -> np.ndarray:
        seen.extend(texts)
        return logits(predictor, texts)

    monkeypatch.setattr(Predictor, "logits", listening)
    (written,) = export_onnx(own, texts=["good"])
    assert {"", "a", "good"} < set(seen)
    assert written.texts == len(golden.TEXTS) + 2
    predictor = Predictor.load(own, backend="torch")
    longest = max(predictor.tokenizer(seen).lengths)
    assert longest > 2 * predictor.backend.spec.windowing.length


def test_weights_that_are_saved_again_need_another_export_and_get_one(own: Path, splits: Splits) -> None:
    export_onnx(own, int8=True, dev=splits.dev)
    model = BertCNN.from_pretrained(own)
    with torch.no_grad():
        model.head.classifier.bias += 5.0
    (own / "model.safetensors").unlink()
    model.save_pretrained(own)
    assert Predictor.load(own, backend="torch").predict(["good"])  # the golden texts are of the weights before
    with pytest.raises(ModelError, match=r"bertcnn export .* --int8"):
        Predictor.load(own)
    export_onnx(own)
    assert not (own / FILES["onnx-int8"]).exists()
    assert Predictor.load(own).backend.name == "onnx"
    assert json.loads((own / golden.FILE).read_text())["backends"].keys() == {"onnx"}


def test_golden_texts_of_another_form_are_an_error(own: Path) -> None:
    for bad in ("[1]", "5", "null", '{"backends": null}'):
        (own / golden.FILE).write_text(bad)
        with pytest.raises(ModelError, match="cannot be read"):
            Predictor.load(own, backend="torch")


def test_without_torch_and_without_a_graph_the_way_out_is_said(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor_module, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"needs torch: pip install torch.*bertcnn export"):
        Predictor.load(own)


def test_threads_heed_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert threads() >= 1


@pytest.mark.parametrize("name", ["torch", *FILES])
def test_a_broken_install_is_found_at_load(own: Path, name: str) -> None:
    assert Predictor.load(own, backend=name).predict(["good"])
    kept = json.loads((own / golden.FILE).read_text())
    assert kept["texts"] == list(golden.TEXTS)
    kept["backends"][name]["logits"][2][0] += 50.0
    (own / golden.FILE).write_text(json.dumps(kept))
    with pytest.raises(ModelError, match=r"differ by up to [45].* expected at most .*backend " + name):
        Predictor.load(own, backend=name)
    for bad in (json.dumps({"texts": ["a"], "backends": {name: {}}}), "[1"):
        (own / golden.FILE).write_text(bad)
        with pytest.raises(ModelError, match="cannot be read"):
            Predictor.load(own, backend=name)
    (own / golden.FILE).unlink()
    assert Predictor.load(own, backend=name).predict(["good"])


def test_a_model_loads_however_its_batches_are_made(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In int8 a text's logits move a little with its company, but what is compared at load does not."""
    wanted = Predictor.load(own, backend="onnx-int8").in_one_batch().logits(golden.TEXTS)
    assert Predictor.load(own, backend="onnx-int8", max_tokens=1).predict(["good"])
    monkeypatch.setattr(OnnxBackend, "max_tokens", 8)
    monkeypatch.setattr(OnnxBackend, "overhead_tokens", 0)
    assert (Predictor.load(own, backend="onnx-int8").in_one_batch().logits(golden.TEXTS) == wanted).all()


@pytest.mark.parametrize("bf16", [False, True])
def test_the_certificate_says_how_far_the_ways_differ(own: Path, monkeypatch: pytest.MonkeyPatch, bf16: bool) -> None:
    monkeypatch.setattr(certificate, "has_bf16", lambda: bf16)
    checks = certify(own, [*TEXTS, "good"])
    ways = ["batches", "alone", "random batches", "padded", "segments"]
    names = ["torch", *(["torch-bf16"] if bf16 else []), "onnx-int8", "onnx"]
    assert [(c.backend, c.way) for c in checks] == [
        (name, way) for name in names for way in ways if (name, way) != ("torch", "batches")
    ]
    assert {c.texts for c in checks} == {len(TEXTS) + 1}  # and a long one
    assert all(c.difference < TOLERANCE and c.flips == 0 for c in checks if c.backend in {"torch", "onnx"})
    assert all(c.difference > TOLERANCE for c in checks if c.backend not in {"torch", "onnx"})
    card = own / "README.md"
    before = card.read_text()
    write_certificate(own, checks)
    write_certificate(own, checks)
    text = card.read_text()
    assert text.startswith(before.rstrip())
    assert text.count(START) == text.count(END) == 1
    assert text.count("| onnx | alone |") == 1
    assert f"Of weights {read_config(own)['weights_sha256'][:16]}, on 20" in text
    assert f"torch {torch.__version__.split('+')[0]}" in text


def test_a_way_that_differs_is_seen(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose answers hang on padding, as the textbook version's do, would be found out."""
    plain = OnnxBackend.run

    def careless(self, batches, **options):
        for found in plain(self, batches, **options):
            yield found._replace(features=found.features + 0.01 * found.batch.input_ids.shape[1])

    monkeypatch.setattr(OnnxBackend, "run", careless)
    monkeypatch.setattr("bertcnn.inference.predictor.check_golden", lambda *_: None)
    found = {(c.backend, c.way): c.difference for c in certify(own, TEXTS)}
    assert found["torch", "padded"] < TOLERANCE
    assert found["onnx", "padded"] > 1e-3


@pytest.mark.usefixtures("traced")
def test_the_commands(folder: Path, csv_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "ACCURACY_TOLERANCE", 3.0)  # 32 numbers a state are few for 8 bits
    place = shutil.copytree(folder, tmp_path / "reviews")
    refused = call("export", place, "--int8")
    assert refused.code == 2
    assert "Give --dev FILE" in refused.err
    columns = ("--text", "review", "--label", "sentiment")
    wide = tmp_path / "wide.csv"
    wide.write_text(csv_file.read_text("utf-8"), "utf-16")
    done = call("export", place, "--int8", "--dev", wide, *columns, "--encoding", "utf-16")
    assert done.code == 0
    assert "model.int8.onnx" in done.out
    assert (place / "model.int8.onnx").stat().st_mode & 0o777 == 0o644
    said = call("check", place, wide, "--text", "review", "--encoding", "utf-16", "--limit", "20", "--json")
    assert said.code == 0
    assert {one["backend"] for one in json.loads(said.out)} - {"torch-bf16"} == {"torch", "onnx", "onnx-int8"}
    assert START in (place / "README.md").read_text()
    wrong = call("check", place, csv_file)
    assert wrong.code == 2
    assert "--text" in wrong.err
    scores = [call("evaluate", place, csv_file, *columns, "--json", "--backend", name) for name in ("torch", "onnx")]
    assert all(one.code == 0 for one in scores)
    assert json.loads(scores[0].out)["headlines"]["accuracy"] == json.loads(scores[1].out)["headlines"]["accuracy"]
    missing = call("export", tmp_path / "none")
    assert missing.code == 2
    assert "No model folder" in missing.err


@pytest.mark.slow
def test_export_finds_the_dev_texts_of_the_training(csv_file: Path, tiny: str, tmp_path: Path) -> None:
    place = tmp_path / "model"
    trained = call(
        "train", csv_file, "--text", "review", "--label", "sentiment", "--output", place, "--encoder", tiny,
        "--depth", "1", "--method", "frozen", "--head-epochs", "2", "--num-filters", "4", "--kernel-sizes", "1,2",
        "--report-to", "none",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    done = call("export", place)
    assert done.code == 0
    dev = json.loads((place / "metrics.json").read_text())["dev"]["texts"]
    assert f" {dev} " in done.out


def test_app_has_the_commands() -> None:
    assert {"export", "check"} <= {command.callback.__name__ for command in app.registered_commands}


def test_examples_with_unknown_labels_are_refused(exported: Path) -> None:
    from bertcnn import DataError

    with pytest.raises(DataError, match="great"):
        export_onnx(exported, dev=Examples(["x"], ["great"], "here"))


def test_int8_is_proved_on_the_dev_texts_of_the_training_and_no_others(
    tiny: str, csv_file: Path, tmp_path: Path
) -> None:
    file = Path(shutil.copy(csv_file, tmp_path / "own.csv"))
    columns = ["--text", "review", "--label", "sentiment"]
    quick = ["--encoder", tiny, "--depth", "1", "--method", "frozen", "--head-epochs", "1", "--report-to", "none"]
    made = call("train", file, *columns, *quick, "--output", tmp_path / "model")
    assert made.code == 0, made.err
    found = _dev_of_training(tmp_path / "model", needed=True)
    assert found is not None
    assert len(found) > 5
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([lines[0], *reversed(lines[1:])]).replace("film", "movie"))
    with pytest.raises(ModelError, match=r"holds other texts or labels now.*Give --dev FILE"):
        _dev_of_training(tmp_path / "model", needed=True)
    assert _dev_of_training(tmp_path / "model", needed=False) is None
