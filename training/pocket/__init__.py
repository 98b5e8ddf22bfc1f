"""The recipe of the pocket checkpoints: scenes and questions, training, evaluation, samples."""

from pathlib import Path
from typing import Final

from engines import pocket

# What the recipe makes and the package ships: weights/, samples/, fonts/, chat_template.jinja.
SHIPPED: Final = Path(pocket.__file__).parent
