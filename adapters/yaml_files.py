"""YAML 1.2, read as TOML would be: each key once, no anchors, no tags."""

from __future__ import annotations

from tallybook.domain.errors import MissingExtra

try:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError
    from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, ScalarEvent
except ImportError as missing:
    raise MissingExtra("ruamel.yaml", "yaml") from missing

DEPTH_MAX = 100


def from_yaml(text: str) -> object:
    """The document in a text. Raises ValueError, which names the line, and RecursionError."""
    yaml, depth = YAML(typ="safe", pure=True), 0
    try:
        for event in yaml.parse(text):
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if depth > DEPTH_MAX:
                raise RecursionError
            if isinstance(event, AliasEvent):
                # A few of them can stand for a document of any size.
                raise ValueError(f"line {event.start_mark.line + 1}: aliases (*) are not read; write the value out")
            if isinstance(event, (CollectionStartEvent, ScalarEvent)) and event.tag is not None:
                raise ValueError(f"line {event.start_mark.line + 1}: tags (!) are not read; write the value alone")
        return yaml.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
        raise ValueError(f"this is not YAML: {error.problem}{place}") from None
    except YAMLError as error:
        raise ValueError(f"this is not YAML: {str(error).splitlines()[0]}") from None
