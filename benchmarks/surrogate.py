"""Designs a second: the surrogate beside its bare matrix products, the simulation beside a loop.

    nightshift run benchmarks --suite surrogate

The surrogate is one of the shapes that are trained, exported as one is, with weights drawn at
random: they take as long. The bare products are MatMuls of the network's shapes alone, in the same
library, batches and threads.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from benchmarks.figures import Take, figure, yardstick
from jobs.surrogate import export
from jobs.surrogate.climates import Climates
from jobs.surrogate.config import DESIGN, INPUTS, OUTPUTS, WEATHER
from jobs.surrogate.designs import build, sample, sample_climates
from jobs.surrogate.network import PREDICTED, Student, encode
from jobs.surrogate.predict import Surrogate
from jobs.thermal.physics import simulate

BATCH = 65536
SEEN = 512
"""Made-up designs by which the network's inputs are scaled."""
SIMULATED = 8


@contextmanager
def exported() -> Iterator[Path]:
    """A folder with a surrogate of random weights."""
    table = sample(DESIGN + WEATHER, SEEN, 0)
    climates = Climates.fit(table)
    x = torch.from_numpy(climates.seen(table)[0][list(INPUTS)].to_numpy(np.float32))
    features = encode(x)[0]
    scales = {
        "x_mean": features.mean(1),
        "x_std": features.std(1) + 1e-6,
        "y_mean": torch.zeros(PREDICTED),
        "y_std": torch.ones(PREDICTED),
    }
    torch.manual_seed(0)
    student = Student(scales, torch.ones(len(OUTPUTS)), 1).eval()
    with torch.no_grad():
        y = student(x.T)[0].T
    with tempfile.TemporaryDirectory() as name:
        export.write(student, x, y + torch.randn_like(y), 0.9, Path(name))
        climates.save(Path(name))
        yield Path(name)


def designs_a_second(work: Callable[[], object], count: int) -> float:
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def cpu_microseconds(work: Callable[[], object], count: int) -> float:
    """Of all threads, for each of `count`."""
    began = time.process_time()
    work()
    return (time.process_time() - began) / count * 1e6


@figure("surrogate", "designs/s", beside="bare_products")
def surrogate_designs() -> Iterator[Take]:
    """Predictions for BATCH designs at once."""
    designs = sample(DESIGN + WEATHER, BATCH, 0)[list(INPUTS)]
    with exported() as folder:
        surrogate = Surrogate(folder)
        yield lambda: designs_a_second(lambda: surrogate(designs), BATCH)


@figure("surrogate", "CPU µs/design", better="less", beside="bare_products_cpu")
def surrogate_cpu() -> Iterator[Take]:
    """CPU time of the same: a loaded machine changes it least."""
    designs = sample(DESIGN + WEATHER, BATCH, 0)[list(INPUTS)]
    with exported() as folder:
        surrogate = Surrogate(folder)
        yield lambda: cpu_microseconds(lambda: surrogate(designs), BATCH)


@yardstick("designs/s")
def bare_products() -> Iterator[Take]:
    """The matrix products of the same network, each on an input of its own width."""
    multiply = products()
    yield lambda: designs_a_second(multiply, BATCH)


@yardstick("CPU µs/design")
def bare_products_cpu() -> Iterator[Take]:
    """CPU time of the same."""
    multiply = products()
    yield lambda: cpu_microseconds(multiply, BATCH)


def products() -> Callable[[], object]:
    """What multiplies BATCH rows by each matrix of the network, in its batches and threads."""
    with exported() as folder:
        products = session_of_products(onnx.load(folder / "fp32.onnx"))
    feeds = {
        given.name: np.random.default_rng(0).random((BATCH, given.shape[1]), np.float32)
        for given in products.get_inputs()
    }
    return lambda: export.in_batches(
        lambda rows: products.run(None, {name: x[rows] for name, x in feeds.items()}), BATCH
    )


def session_of_products(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """The matrix products of `model` and nothing else."""
    nodes, inputs, outputs, weights = [], {}, [], []
    initial = {w.name: numpy_helper.to_array(w) for w in model.graph.initializer}
    for number, node in enumerate(n for n in model.graph.node if n.op_type in ("Gemm", "MatMul")):
        matrix = initial[node.input[1]]
        if any(a.name == "transB" and a.i for a in node.attribute):
            matrix = matrix.T
        deep, wide = matrix.shape
        weight, result, given = f"w{number}", f"y{number}", f"x{deep}"
        weights.append(numpy_helper.from_array(np.ascontiguousarray(matrix), weight))
        nodes.append(helper.make_node("MatMul", [given, weight], [result]))
        inputs[given] = helper.make_tensor_value_info(given, TensorProto.FLOAT, ["b", deep])
        outputs.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, ["b", wide]))
    graph = helper.make_graph(nodes, "products", list(inputs.values()), outputs, weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # as that of the surrogate
    return onnxruntime.InferenceSession(
        made.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


@figure("surrogate", "designs/s", beside="simulated_one_by_one")
def simulated_designs() -> Iterator[Take]:
    """Yearly simulations of SIMULATED designs at once."""
    buildings, weather = simulation()
    yield lambda: designs_a_second(lambda: simulate(buildings, weather, 1), SIMULATED)


@yardstick("designs/s")
def simulated_one_by_one() -> Iterator[Take]:
    """Two of the same, one after the other."""
    buildings, weather = simulation()
    yield lambda: designs_a_second(lambda: [simulate([b], weather, 1) for b in buildings[:2]], 2)


def simulation() -> tuple[list, object]:
    """Buildings, and a made-up climate."""
    weather = sample_climates(1, 0)[0]()
    designs = sample(DESIGN + WEATHER, SIMULATED, 0)[list(INPUTS)]
    buildings = [build(row) for row in designs.to_dict("records")]
    simulate(buildings[:1], weather.first_days(2), 1, 1)  # compiles it
    return buildings, weather
