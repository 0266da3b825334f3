"""faiss without types: the stubs that it brings know few of the names used here."""

from importlib import import_module
from typing import Any

__all__ = ["faiss"]

faiss: Any = import_module("faiss")
