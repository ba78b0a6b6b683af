"""Configs in a third of the time, for tests that compose them a thousand times: import it first."""

import yaml
from hydra._internal.hydra import Hydra

# The same parser in C, if there is one, under the name that OmegaConf asks for.
yaml.SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # type: ignore[misc]
# A command composes its config once more than it needs, to find `hydra.mode`, which nobody sets.
Hydra.get_mode = lambda *_, **__: None  # type: ignore[method-assign]
