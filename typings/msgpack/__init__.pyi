# msgpack ships no types; what Tallybook uses of it.
from typing import Any

from . import exceptions as exceptions

def packb(o: object) -> bytes: ...
def unpackb(packed: bytes, *, strict_map_key: bool = True) -> Any: ...
