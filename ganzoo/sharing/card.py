"""The card of a shared model: `README.md` in the form that the Hugging Face Hub reads."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, StrictUndefined

TEMPLATE = Path(__file__).with_name("card.md.j2")
TASKS = {True: "image-to-image", False: "unconditional-image-generation"}
# How numpy draws what `ganzoo.draws` draws for latents.
LATENTS = {
    "normal": "rng.standard_normal(({n}, {nz}))",
    "uniform": "rng.uniform(-1, 1, ({n}, {nz}))",
    "bernoulli": "rng.integers(0, 2, ({n}, {nz}))",
    "censored_normal": "rng.standard_normal(({n}, {nz})).clip(0)",
}


@dataclass
class Value:
    """A value of a metric, with its protocol in a sentence and the name of the real images."""

    metric: str
    value: float
    protocol: str
    data: str
    floor: float | None = None

    @property
    def kind(self) -> str:
        """The metric's name without direction and feature network, such as `fid`."""
        return self.metric.rpartition("/")[2]


@dataclass
class Card:
    """Everything that the card says.

    Attributes:
        name: name of the model on the Hub, or of the folder.
        source: what `ganzoo.load` takes to load it.
        model: name of the class.
        version: of ganzoo.
        shape: channels, height and width of the images.
        facts: rows of the table about training.
        data: names of the images that it was trained on.
        license: whose images these are, and under which licenses; empty if unknown.
        values: what was measured.
        files: names of the files, each with a phrase.
        directions: directions of translation; empty for images from seeds.
        nz, prior: length and distribution of latents; a name in `LATENTS`.
        classes, class_names: number and names of classes.
        parameters: number of parameters.
        picture: name of the picture with samples; empty if there is none.
    """

    name: str
    source: str
    model: str
    version: str
    shape: tuple[int, int, int]
    facts: dict[str, str]
    data: str
    license: str
    values: list[Value]
    files: dict[str, str]
    directions: tuple[str, ...] = ()
    nz: int = 0
    prior: str = ""
    classes: int = 0
    class_names: list[str] = field(default_factory=list)
    parameters: int = 0
    picture: str = ""

    def text(self) -> str:
        """The card as Markdown, with its YAML header."""
        environment = Environment(
            undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
        )
        environment.filters["cell"] = cell
        template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
        return template.render(card=self, header=self.header(), latents=self.latents()) + "\n"

    def header(self) -> str:
        """The Hub's YAML."""
        task = TASKS[bool(self.directions)]
        results = [
            EvalResult(
                task_type=task,
                dataset_type="images",
                dataset_name=value.data,
                metric_type=value.kind,
                metric_name=f"{value.metric} ({value.protocol})",
                metric_value=value.value,
            )
            for value in self.values
        ]
        data: Any = ModelCardData(
            license="unknown",
            library_name="ganzoo",
            pipeline_tag=task,
            tags=["gan", self.model.lower(), *(["onnx"] if self.graphs else [])],
            model_name=self.name,
            eval_results=results or None,
        )
        return str(data.to_yaml())

    def protocols(self) -> dict[str, list[Value]]:
        """The values by their protocol."""
        found: dict[str, list[Value]] = {}
        for value in self.values:
            found.setdefault(value.protocol, []).append(value)
        return found

    @property
    def graphs(self) -> list[str]:
        """Names of the ONNX files."""
        return [name for name in self.files if name.endswith(".onnx")]

    def latents(self) -> str:
        """An expression of numpy for 16 latent vectors; empty if it has no latents."""
        if self.prior not in LATENTS:
            return ""
        return LATENTS[self.prior].format(n=16, nz=self.nz) + '.astype("float32")'


def cell(text: object) -> str:
    """Text as it stands, in a cell of a Markdown table."""
    flat = " ".join(str(text).split())
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>|#" else c for c in flat)
