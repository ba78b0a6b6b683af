"""python -m ganzoo.workspace ENTITY/PROJECT: a view of the runs in wandb, with its panels laid out.

Every panel's x-axis counts images. Names are those of docs/logging.md; where they depend on the
model (a CycleGAN has losses of its own), panels say which by regular expressions. Each call makes
a new saved view and prints its address; needs the extra `workspace` and a key of wandb.
"""

import argparse
import importlib.util
import os
import sys
import urllib.error
import urllib.request
from typing import Any

import wandb

from ganzoo.errors import UserError

PATIENCE = 10  # seconds in which wandb's server has to answer
NAME = r"^metrics/(.*/)?{}(_\w*[^d])?$"  # of a metric with any network, but not of its "_std"

# By section: titles, and a regular expression of the names that a panel shows.
CURVES = {
    "Losses and scores": {
        "Losses": r"^losses/",
        "What the discriminator gives reals and fakes": r"^scores/",
    },
    "Metrics": {
        "Fréchet distance": NAME.format("fi?d"),
        "Kernel distance": NAME.format("kid"),
        "Inception score": NAME.format("is"),
        "Time that metrics take, of 1": r"^metrics/share_of_time$",
    },
    "Discriminator": {
        "Accuracy": r"^accuracy/",
        "Gradient norms": r"^norms/.*_grad_norm$",
        "Weight norms": r"^norms/.*_weight_norm$",
    },
    "Sentinel": {
        "Alarms": r"^sentinel/alarms$",
        "Loss of the discriminator, of knowing nothing": r"^sentinel/d_loss$",
        "Diversity": r"^sentinel/diversity$",
        "Growth of singular values": r"^sentinel/growth$",
    },
    "Speed": {
        "Images per second": r"^speed/images_per_second$",
        "Waiting for data, of 1": r"^speed/data_wait_share$",
        "Peak memory, GiB": r"^speed/peak_memory_gib$",
        "Learning rates": r"^lr/",
    },
}
PICTURES = {"Samples": "pictures/samples", "Scores of single images": "pictures/scores"}
TABLES = ("tables/classes", "tables/truncations")
SYSTEM = {  # over time, which wandb measures itself
    "GPU, %": "system/gpu.0.gpu",
    "Memory of the GPU, %": "system/gpu.0.memoryAllocated",
    "Memory, %": "system/memory_percent",
    "Memory of the process, MB": "system/proc.memory.rssMB",
}


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    try:
        print(save(workspace(args.project, args.group, args.name)))
    except UserError as error:
        sys.exit(f"ganzoo.workspace: {error}")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ganzoo.workspace", description=__doc__)
    parser.add_argument("project", metavar="ENTITY/PROJECT", help="a user or team, and its project")
    parser.add_argument("--group", help="only runs of this group, as those of a sweep")
    parser.add_argument("--name", help="of the view (ganzoo, and the group)")
    return parser.parse_args(argv)


def workspace(project: str, group: str | None = None, name: str | None = None) -> Any:
    """The view, not yet saved.

    Raises:
        UserError: the library is missing, or `project` is not ENTITY/PROJECT.
    """
    entity, slash, project = project.partition("/")
    if not (entity and slash and project) or "/" in project:
        raise UserError("Say whose project it is: ENTITY/PROJECT, as in the address of its page.")
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise UserError(
            'The library wandb-workspaces is missing: pip install "ganzoo-lightning[workspace]".'
        )
    import wandb_workspaces.reports.v2 as panels
    import wandb_workspaces.workspaces as views

    def curves(titles: dict[str, str]) -> list[Any]:
        return [
            panels.LinePlot(title=title, x="images_seen", metric_regex=names)
            for title, names in titles.items()
        ]

    pictures = [panels.MediaBrowser(title=t, media_keys=[key]) for t, key in PICTURES.items()]
    tables = [panels.WeavePanelSummaryTable(table_name=key) for key in TABLES]
    system = [
        panels.LinePlot(title=title, x="RelativeTime(Process)", y=[key])
        for title, key in SYSTEM.items()
    ]
    parts = {"Pictures": pictures, **{section: curves(t) for section, t in CURVES.items()}}
    parts |= {"Classes and truncations": tables, "System": system}
    opened = ("Pictures", "Losses and scores", "Metrics", "Discriminator")
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
    """Save a view; returns its address.

    Raises:
        UserError: no key, no answer from the server, or it refuses.
    """
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ["WANDB_MODE"] = "online"  # also where runs are kept offline
    try:
        found = wandb.login(prompt=False, verify=False)
    except Exception as error:
        raise UserError(
            f"wandb refuses its key ({first_line(error)}): `wandb login` again."
        ) from error
    if not found:
        raise UserError("There is no key of wandb: `wandb login`, or set WANDB_API_KEY.")
    address = wandb.setup().settings.base_url
    try:
        urllib.request.urlopen(address, timeout=PATIENCE).close()
    except urllib.error.HTTPError:  # an answer
        pass
    except OSError as error:
        raise UserError(
            f"{address} does not answer ({error}): try again where it can be reached."
        ) from error
    try:
        view.save()
        return str(view.url)
    except Exception as error:
        raise UserError(
            f"{address} did not take the view of {view.entity}/{view.project} "
            f"({first_line(error)}): "
            "see that the project is there and yours to write to."
        ) from error


def first_line(error: Exception) -> str:
    """What an exception says, on one line."""
    return (str(error) or type(error).__name__).splitlines()[0]


if __name__ == "__main__":
    main()
