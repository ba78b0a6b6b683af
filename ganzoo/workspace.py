"""Create a view of the runs of a wandb project, with panels for what matters in a GAN.

Every x-axis counts images. Each call saves a new view and prints its address. It needs the extra
`workspace` and a wandb API key.
"""

import argparse
import os
import urllib.error
import urllib.request
from contextlib import suppress
from typing import Any

from ganzoo import cli
from ganzoo.errors import UserError

PATIENCE = 10  # seconds to wait for the server
NAME = r"^metrics/(.*/)?{}(_\w*[^d])?$"  # a metric with any network, but not its standard deviation

# By section: the title of each panel, and a regular expression of the names that it shows (names as
# in docs/logging.md; regular expressions because some depend on the model).
CURVES = {
    "Losses and logits": {
        "Losses": r"^losses/",
        "Discriminator logits of reals and fakes": r"^logits/",
    },
    "Metrics": {
        "Fréchet distance": NAME.format("fi?d"),
        "Kernel distance": NAME.format("kid"),
        "Inception score": NAME.format("is"),
    },
    "Discriminator": {
        "Accuracy": r"^accuracy/",
        "Adaptive augmentation": r"^augment/",
        "Gradient norms": r"^gradient_norms/",
        "Weight norms": r"^weight_norms/",
    },
    "Sentinel": {
        "Alarms": r"^sentinel/alarms$",
        "Discriminator loss, relative to chance": r"^sentinel/d_loss$",
        "Diversity": r"^sentinel/diversity$",
        "Growth of singular values": r"^sentinel/growth$",
    },
    "Speed": {
        "Images per second": r"^speed/images_per_second$",
        "Share of time spent on metrics and checks": r"^speed/maintenance_share$",
        "Share of time waiting for data": r"^speed/data_wait_share$",
        "Peak memory, GiB": r"^speed/peak_memory_gib$",
        "Learning rates": r"^lr/",
    },
}
PICTURES = {"Samples": "pictures/samples", "Logits of single images": "pictures/logits"}
SYSTEM = {  # over time; wandb measures these itself
    "GPU, %": "system/gpu.0.gpu",
    "Memory of the GPU, %": "system/gpu.0.memoryAllocated",
    "Memory, %": "system/memory_percent",
    "Memory of the process, MB": "system/proc.memory.rssMB",
}


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    with cli.exits("workspace"):
        print(save(workspace(args.project, args.group, args.name)))


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.parser("workspace", __doc__)
    add = parser.add_argument
    add("project", metavar="ENTITY/PROJECT", help="the user or team, and the project")
    add("--group", type=cli.text, help="show only the runs of this group, such as a sweep")
    add("--name", type=cli.text, help="name of the view (default: ganzoo and the group)")
    return parser.parse_args(argv)


def workspace(project: str, group: str | None = None, name: str | None = None) -> Any:
    """Build the view without saving it; UserError without the library, or for a bad `project`."""
    entity, slash, project = project.partition("/")
    if not (entity and slash and project) or "/" in project:
        raise UserError("Give the project as ENTITY/PROJECT, as in the address of its page.")
    from ganzoo.data.source import library

    panels = library("wandb_workspaces.reports.v2", "workspace")
    views = library("wandb_workspaces.workspaces", "workspace")

    def curves(titles: dict[str, str]) -> list[Any]:
        return [
            panels.LinePlot(title=title, x="images_seen", metric_regex=names)
            for title, names in titles.items()
        ]

    pictures = [panels.MediaBrowser(title=t, media_keys=[key]) for t, key in PICTURES.items()]
    system = [
        panels.LinePlot(title=title, x="RelativeTime(Process)", y=[key])
        for title, key in SYSTEM.items()
    ]
    parts = {"Pictures": pictures, **{section: curves(t) for section, t in CURVES.items()}}
    parts["System"] = system
    opened = ("Pictures", "Losses and logits", "Metrics", "Discriminator")
    return views.Workspace(
        entity=entity,
        project=project,
        name=name or " ".join(["ganzoo", *([group] if group else [])]),
        sections=[
            views.Section(name=section, panels=shown, is_open=section in opened)
            for section, shown in parts.items()
        ],
        settings=views.WorkspaceSettings(x_axis="images_seen"),
        runset_settings=views.RunsetSettings(
            filters=[views.Metric("Group") == group] if group else "",
            pinned_columns=["run:displayName", "summary:best.value", "summary:best.images_seen"],
        ),
    )


def save(view: Any) -> str:
    """Save a view and return its address; UserError if wandb does not take it."""
    import wandb

    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ["WANDB_MODE"] = "online"  # also where runs are kept offline
    address = ""
    try:
        if wandb.login(prompt=False, verify=False):
            address = wandb.setup().settings.base_url
            with suppress(urllib.error.HTTPError):  # an answer
                urllib.request.urlopen(address, timeout=PATIENCE).close()
            view.save()
    except Exception as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{address or 'wandb'} did not save a view of {view.entity}/{view.project} ({why}): "
            "check the network, the API key (wandb login), and that you may write to that project."
        ) from error
    if not address:
        raise UserError("There is no wandb API key: run `wandb login`, or set WANDB_API_KEY.")
    return str(view.url)


if __name__ == "__main__":
    main()
