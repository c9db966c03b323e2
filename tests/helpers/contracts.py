"""The import contract of wings: capabilities know what they share, and never each other.

    [[tool.importlinter.contracts]]
    type = "wings"
    container = "tasks"
    shared = ["policy", "champions", "runs"]

Every folder of `container` that is not `shared` is a wing, so a new one needs no line here. Of the
shared ones each may know those after it.
"""

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class Wings(Contract):
    """No wing imports another, and what is shared imports no wing."""

    type_name = "wings"

    container = fields.StringField()
    shared = fields.ListField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:  # noqa: ARG002
        container, shared = str(self.container), [str(room) for room in self.shared]
        found = []
        for importer in sorted(graph.find_descendants(container)):
            room = importer.split(".")[1]
            known = shared[shared.index(room) :] if room in shared else [room, *shared]
            for imported in sorted(graph.find_modules_directly_imported_by(importer)):
                top, *rest = imported.split(".")
                if top == container and rest and rest[0] not in known:
                    found.append(f"{importer} imports {imported}")
        return ContractCheck(kept=not found, metadata={"found": found})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for line in check.metadata["found"]:
            output.print_error(line)
        output.print("What two wings need belongs into what they share.")
