"""The version of the installed package, for files that a run or a data set leaves behind."""

from importlib import metadata


def version() -> str:
    """Such as "0.2.0"; "0+unknown" in a checkout that is on the path without being installed."""
    try:
        return metadata.version("ganzoo-lightning")
    except metadata.PackageNotFoundError:
        return "0+unknown"
