"""What the frozen vision tower makes of each picture, kept on disk: it is computed once, not once an epoch.

In: a picture's hash and tensors. Out: the same tensors. A file is named for the picture, its folder for the revision of
the weights and the preprocessing.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor


class FeatureCache:
    """Features by picture; several processes may share a folder.

    Args:
        folder: made if absent.
        revision: of what computes them.
    """

    def __init__(self, folder: Path, revision: str) -> None:
        self._folder = folder / revision
        self._folder.mkdir(parents=True, exist_ok=True)

    def get(self, picture: str) -> dict[str, Tensor]:
        """Return what is kept of a picture.

        Raises:
            KeyError: if nothing whole is.
        """
        try:
            return load_file(self._file(picture))
        except (OSError, SafetensorError) as error:
            raise KeyError(picture) from error

    def get_or_make(self, picture: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return what is kept of a picture; make and keep it first if nothing is."""
        try:
            return self.get(picture)
        except KeyError:
            made = {name: tensor.detach().cpu().contiguous() for name, tensor in make().items()}
        # Whole or not at all: a killed run leaves nothing half written under the name.
        handle, unfinished = tempfile.mkstemp(dir=self._folder)
        os.close(handle)
        save_file(made, unfinished)
        os.replace(unfinished, self._file(picture))
        return made

    def _file(self, picture: str) -> Path:
        return self._folder / f"{picture}.safetensors"
