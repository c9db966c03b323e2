"""Designs a second: the surrogate, its bare matrix products, and the simulation it stands for.

    PYTHONPATH=. PYTHON -m benchmarks.surrogate --model FOLDER

PYTHON is that of the job environment (`python -m infra.compute.environments surrogate`), FOLDER an
exported surrogate. Rounds alternate, so that load from outside falls on all alike. The bare
products are MatMuls of the network's shapes alone, in the same library, batches and threads.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from jobs.surrogate.config import DESIGN, INPUTS, WEATHER
from jobs.surrogate.designs import build, sample, sample_climates
from jobs.surrogate.export import in_batches
from jobs.surrogate.physics import simulate
from jobs.surrogate.predict import Surrogate

BATCH = 65536


def bare_products(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """The matrix products of `model`, each on an input of its own width, and nothing else."""
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


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def cpu_microseconds(work: Callable[[], object]) -> float:
    """CPU time of all threads for each of BATCH designs: what other load disturbs least."""
    began = time.process_time()
    work()
    return (time.process_time() - began) / BATCH * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--simulated", type=int, default=64, help="Designs for the simulation.")
    arguments = parser.parse_args()
    surrogate = Surrogate(arguments.model)
    products = bare_products(onnx.load(arguments.model / "fp32.onnx"))
    designs = sample(DESIGN + WEATHER, BATCH, 0)[list(INPUTS)]
    feeds = {
        given.name: np.random.default_rng(0).random((BATCH, given.shape[1]), np.float32)
        for given in products.get_inputs()
    }
    weather = sample_climates(1, 0)[0]()
    buildings = [build(row) for row in designs.head(arguments.simulated).to_dict("records")]
    simulate(buildings[:1], weather.first_days(2), 1, 1)
    timed: dict[str, list[float]] = {"surrogate": [], "products": [], "simulation": [], "loop": []}

    def multiply() -> object:
        return in_batches(
            lambda rows: products.run(None, {name: x[rows] for name, x in feeds.items()}), BATCH
        )

    surrogate(designs), multiply()
    for number in range(arguments.rounds):
        timed["surrogate"].append(BATCH / seconds(lambda: surrogate(designs)))
        timed["products"].append(BATCH / seconds(multiply))
        if number < 3:
            all_at_once = seconds(lambda: simulate(buildings, weather, 1))
            one_by_one = seconds(lambda: [simulate([b], weather, 1) for b in buildings[:8]])
            timed["simulation"].append(len(buildings) / all_at_once)
            timed["loop"].append(8 / one_by_one)
    runs = {
        "surrogate": lambda: surrogate(designs),
        "products": multiply,
    }
    cpu = {name: min(cpu_microseconds(work) for _ in range(9)) for name, work in runs.items()}
    rates = {name: statistics.median(values) for name, values in timed.items()}
    for name, values in timed.items():
        spread = f"({min(values):,.1f} to {max(values):,.1f})"
        print(f"{name:<12}{rates[name]:>14,.1f} designs a second  {spread}")
    ratio = rates["surrogate"] / rates["products"]
    share = cpu["products"] / cpu["surrogate"]
    print(
        f"CPU time a design, the least of 9: {cpu['surrogate']:.2f} µs, bare products "
        f"{cpu['products']:.2f} µs, so {share:.2f} of them"
    )
    faster = {name: rates["surrogate"] / rates[name] for name in ("simulation", "loop")}
    print(f"{ratio:.2f} of the bare products, for populations of {BATCH}")
    print(
        f"{faster['simulation']:,.0f} × the simulation, {faster['loop']:,.0f} × one after another"
    )
    print(json.dumps(rates | {"of_products": ratio, "cpu_of_products": share}))


if __name__ == "__main__":
    main()
