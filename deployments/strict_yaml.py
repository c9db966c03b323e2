"""YAML as people mean it: numbers as YAML 1.2 has them, so that 010 is ten and 1:30 no number, and
each name once in its mapping, where PyYAML takes the last."""

import json
import re
from collections import Counter
from typing import Any

import yaml
from yaml.constructor import ConstructorError

INT, FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
NUMBERS = {
    INT: re.compile(r"[-+]?[0-9]+\Z"),
    FLOAT: re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z"),
}


class Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in found if tag not in NUMBERS]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and names[key.value] > 1:
                raise ConstructorError(None, None, f"{key.value!r} is there twice", key.start_mark)
        return super().construct_mapping(node, deep)


def _int(loader: yaml.SafeLoader, node: Any) -> int:
    return int(loader.construct_scalar(node))


def _float(loader: yaml.SafeLoader, node: Any) -> float:
    return float(loader.construct_scalar(node))


for _tag, _pattern in NUMBERS.items():
    Loader.add_implicit_resolver(_tag, _pattern, list("-+.0123456789"))
Loader.add_constructor(INT, _int)
Loader.add_constructor(FLOAT, _float)


def load(text: str) -> Any:
    """The value of a text of YAML. Raises yaml.YAMLError, also for what contains itself."""
    try:
        found = yaml.load(text, Loader)  # noqa: S506, it is a SafeLoader
        json.dumps(found, default=str, skipkeys=True)
    except (ValueError, RecursionError) as error:
        raise yaml.YAMLError(str(error)) from None
    return found
