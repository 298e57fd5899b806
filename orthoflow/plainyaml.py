"""YAML as plain data, whoever wrote it: no tags, no aliases, of bounded size, depth and length.

A few kilobytes of YAML can otherwise stand for gigabytes (aliases of aliases), for minutes of
parsing (brackets in brackets) or, read by the wrong loader, for any program.
"""

from __future__ import annotations

from typing import Any

import yaml

from orthoflow.errors import BadInput

MOST_DEPTH = 32
MOST_NODES = 10_000
LARGEST_INTEGER = 2**63

# What `yaml` raises for values it takes for numbers or dates and then cannot read, besides its own.
_ERRORS = (yaml.YAMLError, ValueError, KeyError, IndexError, AttributeError, TypeError)


def plain_data(content: bytes, *, where: str, limit: int) -> Any:
    """What a YAML file holds: mappings, lists, text, numbers, dates, flags.

    Nothing in it is replaced by variables of the environment.

    Parameters
    ----------
    content
        The file.
    where
        Its name, for messages.
    limit
        Bytes that such a file has at most.

    Raises
    ------
    BadInput
        When it is too large or no plain YAML.
    """
    if len(content) > limit:
        raise BadInput(f"{where} has {len(content)} bytes; such a file has at most {limit}")
    try:
        text = content.decode("utf-8")
        problem = _problem(text)
        if not problem:
            problem = _repeated(yaml.compose(text, yaml.SafeLoader))
        if not problem:
            data = yaml.safe_load(text)
            problem = "a number is too large" if _has_giant(data) else ""
    except _ERRORS as error:
        problem = " ".join(str(error).split())[:300]
    if problem:
        raise BadInput(f"{where} is not plain YAML: {problem}")
    return data


def _problem(text: str) -> str:
    """What cannot be plain data, from the events of the parser: nothing is built for it."""
    depth = nodes = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            return "it uses aliases; write the values out"
        tag = getattr(event, "tag", None)
        if tag is not None:
            return f"it uses the tag {tag[:80]!r}; write the value without"
        nodes += isinstance(event, yaml.NodeEvent)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH or nodes > MOST_NODES:
            return f"it holds more than {MOST_DEPTH} levels or {MOST_NODES} values"
    return ""


def _repeated(node: yaml.Node | None) -> str:
    """The key that a mapping has twice: of two values the reader may see the one, we the other."""
    if not isinstance(node, yaml.CollectionNode):
        return ""
    below = list(node.value)
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                return f"key {key[:80]!r} is given twice; give it once"
        below = [one for pair in node.value for one in pair]
    return next(filter(None, map(_repeated, below)), "")


def _has_giant(data: Any) -> bool:
    """Whether a whole number is too long to be shown in a message."""
    if isinstance(data, dict):
        return any(_has_giant(one) for pair in data.items() for one in pair)
    if isinstance(data, list):
        return any(map(_has_giant, data))
    return isinstance(data, int) and abs(data) > LARGEST_INTEGER
