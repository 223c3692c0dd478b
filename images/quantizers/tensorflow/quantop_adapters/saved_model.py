"""A TensorFlow SavedModel, read as data: docs/adr/0017-tensorflow-sources.md says why.

TensorFlow's own loader runs what the file says. Here `saved_model.pb` is parsed as a message, and
what the function behind `serving_default` computes becomes one graph without functions, of
operators on a list, with the variables' numbers beside it.
"""

from __future__ import annotations

import graphlib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantop_adapters.refusal import RefusedError

FILE = "saved_model.pb"
VARIABLES = "variables/variables"
TAG = "serve"
SIGNATURE = "serving_default"
INITIALIZERS = ("saved_model_main_op", "legacy_init_op", "__saved_model_init_op")
"""Collections and signatures that name operators to be run when the model is loaded."""
CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
READS = frozenset({"ReadVariableOp", "ResourceGather"})
UNUSED = frozenset({"Assert", "NoOp"})
"""Give nothing: they are left out, and so is every order that is not one of data."""
COMPUTES = frozenset(
    (
        *("Const", "Identity", "IdentityN", "StopGradient"),
        *(
            "Add",
            "AddN",
            "AddV2",
            "Maximum",
            "Minimum",
            "Mul",
            "Neg",
            "Pow",
            "RealDiv",
            "Reciprocal",
            "Sub",
        ),
        *("Abs", "Exp", "Log", "Rsqrt", "Sign", "Sqrt", "Square", "SquaredDifference"),
        *("Ceil", "ClipByValue", "Cos", "Cumsum", "Floor", "FloorDiv", "FloorMod", "Round", "Sin"),
        *("BatchMatMul", "BatchMatMulV2", "BiasAdd", "Einsum", "MatMul"),
        *(
            "Elu",
            "Erf",
            "Erfc",
            "LeakyRelu",
            "LogSoftmax",
            "Relu",
            "Relu6",
            "Selu",
            "Sigmoid",
            "Softmax",
            "Softplus",
            "Tanh",
        ),
        *("All", "Any", "ArgMax", "ArgMin", "Max", "Mean", "Min", "Prod", "Sum"),
        *("Equal", "Greater", "GreaterEqual", "Less", "LessEqual", "NotEqual"),
        *("LogicalAnd", "LogicalNot", "LogicalOr", "Select", "SelectV2"),
        *(
            "Gather",
            "GatherNd",
            "GatherV2",
            "OneHot",
            "Slice",
            "Split",
            "SplitV",
            "StridedSlice",
            "Unpack",
        ),
        *("BroadcastTo", "Cast", "Concat", "ConcatV2", "ExpandDims", "Pack", "Pad", "PadV2"),
        *("Reshape", "Squeeze", "Tile", "Transpose"),
        *("Fill", "OnesLike", "Range", "Shape", "Size", "ZerosLike"),
    )
)
"""What encoders compute by. TensorFlow runs some of them on constants while the graph is converted:
none may do anything but compute."""
OPERATORS = COMPUTES | CALLS | READS | UNUSED
NODES_MOST = 100_000
"""Of the graph: functions that call functions twice double it each time. BERT-large has some
5000."""
OBJECTS = "_CHECKPOINTABLE_OBJECT_GRAPH"
"""Where a checkpoint says what its tensors are of."""


@dataclass(frozen=True)
class Input:
    """An input of the signature: the name of its placeholder, its type and its sizes (-1: any)."""

    placeholder: str
    dtype: int
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Program:
    """What a signature computes: a GraphDef, and the names that the signature gives to its inputs
    and to its outputs (tensors of the graph). `variables` has the numbers of its other
    placeholders, by their names."""

    graph: Any
    inputs: Mapping[str, Input]
    outputs: Mapping[str, str]
    variables: Mapping[str, Any]


@dataclass(frozen=True)
class Variable:
    """In place of a tensor: a variable, by its name in the checkpoint."""

    key: str


Value = str | Variable
"""A tensor of the graph, or what has to be read first."""


def read(folder: Path) -> Program:
    """What `serving_default` of the SavedModel in a folder computes. Nothing of it is run.

    Raises:
        RefusedError: it has more than that to be done, or is not whole.
    """
    messages: Any = importlib.import_module("google.protobuf.message")
    errors: Any = importlib.import_module("tensorflow").errors
    try:
        meta = parse(folder / FILE)
        check_loading(meta, folder)
        return signature(meta, folder)
    except (
        *(messages.DecodeError, errors.OpError),
        *(ValueError, TypeError, LookupError, RuntimeError),
    ) as error:
        raise RefusedError(
            "InvalidSource",
            f"the source's SavedModel is not whole, or not one of TensorFlow 2 "
            f"({type(error).__name__}: {str(error)[:200]}): save it again by tf.saved_model.save",
        ) from error


def parse(file: Path) -> Any:
    """The part of a SavedModel that is for serving."""
    messages: Any = importlib.import_module("tensorflow.core.protobuf.saved_model_pb2")
    saved = messages.SavedModel.FromString(file.read_bytes())
    served = [each for each in saved.meta_graphs if TAG in each.meta_info_def.tags]
    if not served:
        raise ValueError(f"no graph has the tag {TAG}")
    return served[0]


def check_loading(meta: Any, folder: Path) -> None:
    """Refuse what would be done when the model is loaded, which is not done here.

    Raises:
        RefusedError: an operator is to be run then, or a file to be read.
    """
    assets = {each.filename for each in meta.asset_file_def}
    assets |= {path.name for path in (folder / "assets").glob("*")}
    if assets:
        raise RefusedError(
            "SavedModelRefused",
            f"the source's SavedModel has assets ({', '.join(sorted(assets)[:3])}), files that its "
            "graph reads: save one that takes token ids, with its tokenizer.json beside it",
        )
    nodes = {node.name: node for node in meta.graph_def.node}
    for name in initializers(meta):
        node = nodes[name.removeprefix("^").partition(":")[0]]
        if node.op != "NoOp" or node.input:
            does = ", ".join(each.lstrip("^") for each in node.input) or node.op
            raise RefusedError(
                "SavedModelRefused",
                f"the source's SavedModel has {node.name} run when it is loaded ({does}), as "
                "tables and files need it; nothing of a source is run: save a model without them",
            )


def initializers(meta: Any) -> Iterator[str]:
    """What is to be run when the model is loaded."""
    for name in INITIALIZERS:
        if name in meta.collection_def:
            yield from meta.collection_def[name].node_list.value
        if name in meta.signature_def:
            yield from (each.name for each in meta.signature_def[name].outputs.values())


def signature(meta: Any, folder: Path) -> Program:
    """What `serving_default` computes.

    Raises:
        RefusedError: an operator of it is not on the list.
    """
    if SIGNATURE not in meta.signature_def:
        raise RefusedError(
            "UnsupportedGraph",
            f"the source's SavedModel has no signature {SIGNATURE} (it has "
            f"{', '.join(sorted(meta.signature_def)[:8]) or 'none'}): save it with "
            f"signatures={{{SIGNATURE!r}: ...}}",
        )
    named = meta.signature_def[SIGNATURE]
    nodes = {node.name: node for node in meta.graph_def.node}
    (entry,) = {each.name.partition(":")[0] for each in named.outputs.values()}
    call = nodes[entry]
    if call.op not in CALLS:
        raise ValueError(f"{SIGNATURE} is no function, but {call.op}")
    function = call.attr["f"].func.name
    flat = Flattening(meta.graph_def.library.function, folder)
    bound = meta.object_graph_def.concrete_functions[function].bound_inputs
    arguments = flat.functions[function].signature.input_arg
    given = len(arguments) - len(bound)
    names = {each.name.partition(":")[0]: name for name, each in named.inputs.items()}
    inputs: dict[str, Input] = {}
    values: list[Value] = []
    for argument, fed in zip(arguments[:given], call.input[:given], strict=True):
        name = names[fed.partition(":")[0]]
        shape = named.inputs[name].tensor_shape
        placeholder = flat.graph.node.add(name=f"input_{len(inputs)}", op="Placeholder")
        placeholder.attr["dtype"].type = argument.type
        placeholder.attr["shape"].shape.CopyFrom(shape)
        sizes = None if shape.unknown_rank else tuple(each.size for each in shape.dim)
        inputs[name] = Input(placeholder.name, argument.type, sizes)
        values.append(f"{placeholder.name}:0")
    objects = meta.object_graph_def.nodes
    keys = checkpoint_keys(objects, flat.reader) if bound else {}
    for index in bound:
        kind = objects[index].WhichOneof("kind")
        if kind == "constant":
            node = nodes[objects[index].constant.operation]
            if node.op != "Const":
                raise ValueError(f"a constant is {node.op}")
            values += flat.compute(node, [], f"constant_{index}/")
        elif kind == "variable":
            values.append(Variable(keys[index]))
        else:
            raise RefusedError(
                "SavedModelRefused",
                f"the source's {SIGNATURE} uses {kind or 'something unknown'} beside variables, as "
                "tables and files are: save a model that takes token ids and only computes",
            )
    found = flat.call(function, values, "")
    outputs = {}
    for name, each in named.outputs.items():
        output = found[int(each.name.partition(":")[2])]
        if isinstance(output, str):
            outputs[name] = output
    return Program(flat.graph, inputs, outputs, flat.variables)


def checkpoint_keys(objects: Any, reader: Any) -> dict[int, str]:
    """The checkpoint's names of variables, by their places among the SavedModel's objects. Each of
    the two lists its objects as children of one another, from the same root."""
    messages: Any = importlib.import_module("tensorflow.core.protobuf.trackable_object_graph_pb2")
    kept = messages.TrackableObjectGraph.FromString(reader.get_tensor(OBJECTS)).nodes
    found: dict[int, str] = {}
    seen, pairs = {0}, [(0, 0)]
    while pairs:
        here, there = pairs.pop()
        for attribute in kept[there].attributes:
            found[here] = attribute.checkpoint_key
        same = {child.local_name: child.node_id for child in kept[there].children}
        for child in objects[here].children:
            if child.local_name in same and child.node_id not in seen:
                seen.add(child.node_id)
                pairs.append((child.node_id, same[child.local_name]))
    return found


class Flattening:
    """Functions of a SavedModel as one graph, `graph`, which is fed the `variables`: their numbers
    by the names of placeholders."""

    def __init__(self, functions: Any, folder: Path) -> None:
        tensorflow: Any = importlib.import_module("tensorflow")
        self.functions = {function.signature.name: function for function in functions}
        self.reader = tensorflow.train.load_checkpoint(str(folder / VARIABLES))
        self.graph = tensorflow.compat.v1.GraphDef()
        self.variables: dict[str, Any] = {}
        self.read: dict[str, str] = {}

    def call(
        self, name: str, arguments: Sequence[Value], prefix: str, callers: tuple[str, ...] = ()
    ) -> list[Value]:
        """Add what a function computes of its arguments; its outputs.

        Raises:
            RefusedError: an operator of it, or of a function that it calls, is not on the list.
        """
        if name in callers:
            raise ValueError(f"the function {name} calls itself")
        function = self.functions[name]
        check_operators(function)
        named = (argument.name for argument in function.signature.input_arg)
        values: dict[str, Value] = dict(zip(named, arguments, strict=True))
        for node in ordered(function):
            if node.op in UNUSED:
                continue
            given = [values[each] for each in node.input if not each.startswith("^")]
            if node.op in CALLS:
                inner = node.attr["f"].func.name
                made = self.call(inner, given, f"{prefix}{node.name}/", (*callers, name))
            else:
                made = self.compute(node, given, prefix)
            values.update(zip(output_names(node), made, strict=True))
        return [values[function.ret[output.name]] for output in function.signature.output_arg]

    def compute(self, node: Any, given: Sequence[Value], prefix: str) -> list[Value]:
        """Add an operator; its outputs."""
        first = given[0] if given else ""
        if isinstance(first, Variable) and node.op == "Identity":
            return [first]
        if isinstance(first, Variable) and node.op == "ReadVariableOp":
            return [self.numbers(first)]
        if isinstance(first, Variable) and node.op == "ResourceGather":
            return [self.gather(node, self.numbers(first), given[1:], prefix)]
        tensors = [each for each in given if isinstance(each, str)]
        if len(tensors) < len(given) or node.op in READS:
            raise ValueError(f"{node.op} takes a variable where it takes none, or none where one")
        added = self.add(node.op, prefix + node.name, tensors)
        for key, attribute in node.attr.items():
            # Others say where an operator is to run.
            if not key.startswith("_"):
                added.attr[key].CopyFrom(attribute)
        return [f"{added.name}:{index}" for index, _ in enumerate(output_names(node))]

    def gather(self, node: Any, table: str, given: Sequence[Value], prefix: str) -> Value:
        """Rows of a variable."""
        if node.attr["batch_dims"].i:
            raise ValueError("ResourceGather with batch_dims")
        tensorflow: Any = importlib.import_module("tensorflow")
        axis = self.add("Const", f"{prefix}{node.name}/axis", [])
        axis.attr["dtype"].type = tensorflow.int32.as_datatype_enum
        axis.attr["value"].tensor.CopyFrom(tensorflow.make_tensor_proto(0))
        (rows,) = given
        added = self.add("GatherV2", prefix + node.name, [table, str(rows), f"{axis.name}:0"])
        for theirs, ours in (("dtype", "Tparams"), ("Tindices", "Tindices")):
            added.attr[ours].type = node.attr[theirs].type
        added.attr["Taxis"].type = axis.attr["dtype"].type
        return f"{added.name}:0"

    def numbers(self, variable: Variable) -> str:
        """A variable as the checkpoint has it.

        Raises:
            RefusedError: a number is not finite.
        """
        if variable.key not in self.read:
            numpy: Any = importlib.import_module("numpy")
            tensorflow: Any = importlib.import_module("tensorflow")
            found = self.reader.get_tensor(variable.key)
            if found.dtype.kind == "f" and not numpy.isfinite(found).all():
                raise RefusedError(
                    "NumbersNotFinite",
                    f"the source's variable {variable.key} holds numbers that are not finite",
                )
            added = self.add("Placeholder", f"variable_{len(self.variables)}", [])
            added.attr["dtype"].type = tensorflow.as_dtype(found.dtype).as_datatype_enum
            added.attr["shape"].shape.CopyFrom(tensorflow.TensorShape(found.shape).as_proto())
            self.variables[added.name] = found
            self.read[variable.key] = f"{added.name}:0"
        return self.read[variable.key]

    def add(self, operator: str, name: str, given: Sequence[str]) -> Any:
        """A new node."""
        if len(self.graph.node) >= NODES_MOST:
            raise ValueError(f"{SIGNATURE} has more than {NODES_MOST} operators")
        return self.graph.node.add(name=name, op=operator, input=given)


def check_operators(function: Any) -> None:
    """Refuse a function with an operator that is not on the list, whatever it is used for.

    Raises:
        RefusedError: it has one.
    """
    for node in function.node_def:
        if node.op not in OPERATORS:
            raise RefusedError(
                "SavedModelRefused",
                f"the source's saved_model.pb has the operator {node.op} in its function "
                f"{function.signature.name}, which {SIGNATURE} calls; only operators that compute "
                "what encoders do are converted: save a model without it (tokenizers, files, "
                "tables, random numbers, loops and conditions have no place in its graph)",
            )


def ordered(function: Any) -> list[Any]:
    """A function's nodes, each behind those that it is fed by."""
    nodes = {node.name: node for node in function.node_def}
    fed = {
        name: {each.partition(":")[0] for each in node.input if each.partition(":")[0] in nodes}
        for name, node in nodes.items()
    }
    return [nodes[name] for name in graphlib.TopologicalSorter(fed).static_order()]


def output_names(node: Any) -> list[str]:
    """What a node's outputs are called in the function that has it."""
    registry: Any = importlib.import_module("tensorflow.python.framework.op_def_registry")
    names = []
    for output in registry.get(node.op).output_arg:
        count = 1
        if output.number_attr:
            count = node.attr[output.number_attr].i
        elif output.type_list_attr:
            count = len(node.attr[output.type_list_attr].list.type)
        if count > NODES_MOST:
            raise ValueError(f"{node.op} has {count} outputs")
        names += [f"{node.name}:{output.name}:{index}" for index in range(count)]
    return names
