"""RefCOCO's pickles, of which plain data alone is read: no code is run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from pipeline.data.formats.open_text import open_file
from pipeline.data.records import BadRecord as BadRecord


class _DataUnpickler(pickle._Unpickler):
    """Reads lists, dictionaries, texts and numbers. What names any class or function is refused: nothing is executed.

    It is the one that is written in Python: ten bytes can make the one in C take all memory (a memo's number is its size).
    """

    def find_class(self, module: str, name: str) -> object:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}; only plain data is read")


def load_pickle(path: Path) -> Any:
    """RefCOCO's `refs(unc).p`, which Python 2 wrote. Raises BadRecord."""
    with open_file(path) as file:
        try:
            # Texts of Python 2 are bytes, which pickle would read as ASCII and refuse.
            return _DataUnpickler(file, encoding="utf-8", errors="replace").load()
        # A damaged pickle fails in whatever operation its bytes stand for.
        except Exception as error:
            reason = " ".join(str(error).split())
            raise BadRecord(path, "-", f"is not a pickle of plain data ({reason})") from None
