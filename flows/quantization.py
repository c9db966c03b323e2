"""Quantization: smaller variants of a policy's champion, measured beside it under the same load.

    nightshift run quantization --name mine --prompts prompts.jsonl --reward rewards.py:reward

INT8 W8A8, GPTQ W4A16, AWQ W4A16 and FP8 are made and served here one after another. The fastest
that keeps enough of the champion's quality is registered as a version of kind `quantised`; the
champion stays. A variant that cannot be made or served is told with its reason. A killed run is
finished by the next one with the same parameters.
"""

from tasks.quantization import inputs, steps
from tasks.quantization.parameters import QuantizationParameters
from tasks.quantization.report import QuantizationReport, publish_figures
from tasks.runs.capability import Capability

capability = Capability("quantization", steps=steps.STEPS)


@capability.flow
def quantization(parameters: QuantizationParameters) -> QuantizationReport:
    """Make quantised variants of a champion, measure them, and register the best."""
    given = inputs.prepare_inputs(parameters)
    with capability.begin(parameters, given.checksums) as work:
        given = steps.complete_inputs(work, given)
        champion = steps.find_champion(work)
        made = steps.quantise(work, given, champion)
        found = steps.measure(work, given, champion, made)
        registered = steps.register_best(work, champion, made, found)
        return publish_figures(work, champion, found, registered)
