"""A model as one ONNX graph, from pieces to logits.

The graph reads ``input_ids`` and ``attention_mask``, int64 ``(N, L)``, and gives ``logits (B, K)``,
``features (B, M)``, ``positions (B, M)``, the first piece of each feature's window, or -1, and the
``states (B, T, S)`` that the convolution read.
For texts longer than the encoder reads at once, ``source (B, T)`` and ``source_mask (B, T)`` say
how the N windows make B rows (:class:`bertcnn.text.tokens.Batch`); without them, each window is a row.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from bertcnn.errors import ModelError, reason
from bertcnn.network.cnn import TextCNN
from bertcnn.network.encoder import quiet_transformers
from bertcnn.network.folder import MADE_OF
from bertcnn.network.model import BertCNN

OPSET = 20
FUSED = "bertcnn-onnx"


def write_graph(folder: Path, file: Path, made_of: str | None) -> None:
    """Write a model's graph.

    Args:
        folder: The model's.
        file: The graph's.
        made_of: Hash of the model's weights, which the graph keeps.

    Raises:
        ModelError: A package is missing, or the encoder cannot be exported.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  # torch's exporter needs it, and says so less plainly
    except ImportError as error:
        raise ModelError("Exporting needs onnx and onnxscript: pip install 'bertcnn[onnx]'") from error
    with quiet_transformers():
        model = BertCNN.from_pretrained(folder).eval()  # of its own: its attention is changed
    fuse_attention(model)
    length = max(2, min(7, model.config.window_length))
    ids = torch.ones(3, length, dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[1, length // 2 + 1 :] = 0
    source = torch.arange(ids.numel()).reshape(ids.shape)
    windows, pieces = (
        {0: torch.export.Dim(a), 1: torch.export.Dim(b)} for a, b in (("windows", "length"), ("texts", "pieces"))
    )
    try:
        with silence(), torch.inference_mode():
            program = torch.onnx.export(
                _Graph(model),
                (ids, mask, source, mask.bool()),
                dynamo=True,
                input_names=["input_ids", "attention_mask", "source", "source_mask"],
                output_names=["logits", "features", "positions", "states"],
                dynamic_shapes=(windows, windows, pieces, pieces),
                opset_version=OPSET,
                optimize=True,
                external_data=False,
            )
            assert program is not None
            graph = program.model_proto
        _let_source_be_left_out(graph)
        _leave_out_zero_bias(graph)
        onnx.helper.set_model_props(graph, {MADE_OF: made_of or ""})
        onnx.save(graph, file)
    except OSError:
        raise
    except Exception as error:
        raise ModelError(
            f"A {model.config.encoder.model_type} encoder cannot be exported: "
            f"{reason(error.__cause__ or error)[:300]} Use backend='torch'."  # torch's own words hold no cause
        ) from error


class _Graph(nn.Module):
    """What is traced: windows to logits, features, positions and states."""

    def __init__(self, model: BertCNN) -> None:
        super().__init__()
        self.model = model
        cnn = model.head.cnn
        self.filters = nn.Buffer(_wide_filters(cnn) if isinstance(cnn, TextCNN) else torch.empty(0))

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, source: Tensor, source_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        head = self.model.head
        stitched, _ = self.model.stitched_states(input_ids, attention_mask, source)
        states = head.mix(stitched)
        if isinstance(head.cnn, TextCNN):
            best, positions = _strongest_windows(states, source_mask, self.filters, head.cnn.kernel_sizes)
            features = functional.relu(best + head.cnn.bias)
        else:
            features, positions = head.cnn(states, source_mask)
        return head.classifier(features), features, positions, states


def _wide_filters(cnn: TextCNN) -> Tensor:
    """Return filters that read as many pieces as the widest, zero beyond theirs: ``(W * F, greatest width * D)``."""
    widest = max(cnn.kernel_sizes)
    sizes = [width * cnn.num_filters for width in cnn.kernel_sizes]
    wide = []
    for width, rows in zip(cnn.kernel_sizes, torch.split(cnn.weight.detach(), sizes), strict=True):
        side_by_side = rows.reshape(width, cnn.num_filters, -1).transpose(0, 1).flatten(1)
        wide.append(functional.pad(side_by_side, (0, (widest - width) * cnn.hidden_size)))
    return torch.cat(wide)


def _strongest_windows(
    states: Tensor, mask: Tensor, filters: Tensor, kernel_sizes: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Do as :func:`bertcnn.network.cnn.strongest_windows` does, in the form that suits ONNX Runtime.

    There a stretch of columns is slow to cut out, and shifted sums need many. So the states of a window are put side
    by side, and one product with filters of equal width gives all windows: more to multiply, little to move.
    """
    (batch, length, _), widest = states.shape, max(kernel_sizes)
    padded, there = functional.pad(states, (0, 0, 0, widest - 1)), functional.pad(mask, (0, widest - 1))
    windows = torch.cat([padded[:, shift : shift + length] for shift in range(widest)], dim=2)
    inside = [there[:, :length]]
    for shift in range(1, widest):
        inside.append(inside[-1] & there[:, shift : shift + length])
    fits = torch.stack([inside[width - 1] for width in kernel_sizes], dim=2)[..., None]
    responses = functional.linear(windows, filters).reshape(batch, length, len(kernel_sizes), -1)
    best, where = responses.masked_fill(~fits, -torch.inf).max(dim=1)
    return best.flatten(1), where.masked_fill(~fits.any(dim=1), -1).flatten(1)


def fuse_attention(model: BertCNN) -> None:
    """Let a model's attention be traced as ONNX Runtime's one fused operator, where its code allows.

    An encoder that does not take attention functions keeps its own, and is traced as it is.
    """
    AttentionInterface.register(FUSED, _fused_attention)
    AttentionMaskInterface.register(FUSED, eager_mask)
    for attention in (FUSED, "eager"):
        try:
            model.encoder.set_attn_implementation(attention)
            return
        except (ValueError, ImportError):
            continue


def _fused_attention(
    module: nn.Module,  # noqa: ARG001  # what attention functions take
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Stand for com.microsoft's MultiHeadAttention: ``(B, heads, T, d)`` to ``(B, T, heads, d)``.

    Keys and values may have fewer heads, each for a group of the queries'. T5 gives its positions as a bias.
    """
    batch, heads, length, width = query.shape
    if key.shape[1] != heads:
        key, value = (x.repeat_interleave(heads // key.shape[1], dim=1) for x in (key, value))
    if position_bias is not None:
        attention_mask = position_bias if attention_mask is None else position_bias + attention_mask
    if attention_mask is not None and isinstance(attention_mask.shape[2], int) and attention_mask.shape[2] == 1:
        attention_mask = attention_mask.expand(-1, -1, length, -1)  # one for all queries, which the operator takes not
    rows = [x.transpose(1, 2).reshape(batch, length, heads * width) for x in (query, key, value)]
    mixed = torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention",
        [*rows, None, None, attention_mask],
        {"num_heads": heads, "scale": float(width**-0.5 if scaling is None else scaling)},
        dtype=query.dtype,
        shape=(batch, length, heads * width),
        version=1,
    )
    return mixed.reshape(batch, length, heads, width), None


def _let_source_be_left_out(graph: Any) -> None:
    """Give ``source`` and ``source_mask`` defaults, empty ones, for which each window is a row.

    An initializer of an input's name is ONNX's way to give a default.
    """
    from onnx import TensorProto, helper

    def branch(name: str, output: str, kind: int, nodes: list[Any]) -> Any:
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(output, kind, [None, None])])

    kinds = {"source": TensorProto.INT64, "source_mask": TensorProto.BOOL}
    for node in graph.graph.node:
        node.input[:] = [f"{name}_used" if name in kinds else name for name in node.input]
    plain = {
        "source": [
            helper.make_node("Size", ["input_ids"], ["count"]),
            helper.make_node("Range", ["zero", "count", "one"], ["places"]),
            helper.make_node("Shape", ["input_ids"], ["windows_shape"]),
            helper.make_node("Reshape", ["places", "windows_shape"], ["source_plain"]),
        ],
        "source_mask": [helper.make_node("Cast", ["attention_mask"], ["source_mask_plain"], to=TensorProto.BOOL)],
    }
    added = [
        helper.make_node("Size", ["source"], ["source_size"]),
        helper.make_node("Equal", ["source_size", "zero"], ["source_left_out"]),
    ]
    for name, kind in kinds.items():
        given = [helper.make_node("Identity", [name], [f"{name}_given"])]
        added.append(
            helper.make_node(
                "If",
                ["source_left_out"],
                [f"{name}_used"],
                then_branch=branch(f"{name}_then", f"{name}_plain", kind, plain[name]),
                else_branch=branch(f"{name}_else", f"{name}_given", kind, given),
            )
        )
        graph.graph.initializer.append(helper.make_tensor(name, kind, [0, 0], []))
    for name, value in (("zero", 0), ("one", 1)):
        graph.graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [], [value]))
    nodes = list(graph.graph.node)
    del graph.graph.node[:]
    graph.graph.node.extend([*added, *nodes])


def _leave_out_zero_bias(graph: Any) -> None:
    """Let attention go without its bias, which holds the mask, in batches where that is zero throughout.

    Batches are of like length, so most need no mask, and ONNX Runtime has a quicker way without: by a third in
    long windows. What is local or relative keeps its bias, for that is not zero.
    """
    from onnx import TensorProto, helper

    nodes: list[Any] = []
    known: set[str] = set()
    for node in graph.graph.node:
        bias = node.input[5] if node.op_type == "MultiHeadAttention" and len(node.input) > 5 else ""
        if not bias:
            nodes.append(node)
            continue
        is_zero = f"{bias}_is_zero"
        if bias not in known:
            known.add(bias)
            nodes += [
                helper.make_node("ReduceSumSquare", [bias], [f"{bias}_size"], keepdims=0),
                helper.make_node("Equal", [f"{bias}_size", "no_bias"], [is_zero]),
            ]
        branches = {}
        for way, inputs in (("then", node.input[:3]), ("else", node.input)):
            output = f"{node.output[0]}_{way}"
            one = helper.make_node(node.op_type, inputs, [output], domain=node.domain)
            one.attribute.extend(node.attribute)
            shown = helper.make_tensor_value_info(output, TensorProto.FLOAT, [None, None, None])
            branches[f"{way}_branch"] = helper.make_graph([one], output, [], [shown])
        nodes.append(helper.make_node("If", [is_zero], list(node.output), **branches))
    graph.graph.initializer.append(helper.make_tensor("no_bias", TensorProto.FLOAT, [], [0.0]))
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)


@contextmanager
def silence() -> Iterator[None]:
    """Keep the exporter's progress and its libraries' warnings off the screen."""
    import logging

    before = logging.root.manager.disable
    with Path(os.devnull).open("w") as nowhere, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            with redirect_stdout(nowhere), redirect_stderr(nowhere):
                yield
        finally:
            logging.disable(before)
