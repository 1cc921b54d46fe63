"""This paper, on the library: a module for each section. Values that people may change are in the TOML files beside them."""

import tomllib
from pathlib import Path
from typing import Any


def values(name: str) -> dict[str, Any]:
    """The contents of `<name>.toml`, beside this file."""
    return tomllib.loads(Path(__file__).with_name(f"{name}.toml").read_text())
