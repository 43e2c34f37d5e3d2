"""CTSM: empathetic response generation that perceives trait and state emotions.

import ctsm

model = ctsm.load("runs/ctsm")
response = model.respond(["I finally got the job I wanted!"])
print(response.text, response.top_emotions())
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ctsm.errors import CtsmError, MissingExtraError
from ctsm.version import __version__

if TYPE_CHECKING:
    from ctsm.serving.responder import Responder

__all__ = ["CtsmError", "MissingExtraError", "__version__", "load"]


def load(path: str | Path, device: str = "cpu", care: bool = True) -> Responder:
    """Load a model to talk to: a run or model directory, or "user/name" on the Hugging Face Hub.

    With `care`, a conversation that suggests self-harm or danger gets a fixed notice instead of a reply.

    Raises:
        CtsmError: there is no such model or device, or the model's files are damaged.
    """
    from ctsm.device import require_device
    from ctsm.models.bundle import load_bundle
    from ctsm.models.hub import download
    from ctsm.serving.responder import Responder

    require_device(device)  # before a download
    directory = Path(path)
    if not directory.exists() and isinstance(path, str) and path.count("/") == 1:
        directory = download(path)
    return Responder(load_bundle(directory, device), care)
