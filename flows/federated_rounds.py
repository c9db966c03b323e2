"""Federated rounds: tenants train one model together, and no row of theirs leaves them.

    nightshift run federated-rounds --preset demo
    nightshift run federated-rounds --name mine --tenants tenants/ --label sick --rounds 10
    nightshift run federated-rounds --name mine --tenants tenants/ --model ./my-model

Each tenant's node is a process of its own, with a key, over TLS. A killed run goes on at its last
finished round. The model replaces the champion if it is surely better and no tenant loses much.
"""

from tasks.champions.candidate import deploy_champion
from tasks.champions.report import Report
from tasks.federated import KIND, inputs
from tasks.federated import steps as federated
from tasks.federated.gate import judge_candidate
from tasks.federated.parameters import FederatedParameters
from tasks.federated.report import publish_rounds
from tasks.runs.capability import Capability

capability = Capability("federated-rounds", steps=federated.STEPS, makes=KIND)


@capability.flow
def federated_rounds(parameters: FederatedParameters) -> Report:
    """Let tenants train one model, each on its own data, and promote it if it is surely better."""
    given = inputs.prepare_inputs(parameters)
    with capability.begin(parameters, given.checksums) as work:
        given = federated.complete_inputs(work, given)
        champion = federated.current_champion(work, given)
        trained = federated.train_together(work, champion, given)
        candidate = federated.register_candidate(work, champion, trained)
        verdict = judge_candidate(work, champion, candidate, trained)
        served = deploy_champion(candidate) if verdict.promote else None
        return publish_rounds(work, champion, candidate, trained, verdict, served)
