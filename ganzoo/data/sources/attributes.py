"""Classes from named attributes."""

from collections.abc import Mapping, Sequence

from ganzoo.errors import UserError, first


def classes_of(
    columns: Mapping[str, Sequence[str]], chosen: Sequence[str]
) -> tuple[list[str], list[int]]:
    """Names of the classes, and the class of every image.

    A class is a combination of values of the chosen attributes that occurs.

    Args:
        columns: attribute -> its value for every image.
        chosen: names of attributes.

    Raises:
        UserError: naming an attribute that is not there.
    """
    unknown = [name for name in chosen if name not in columns]
    if unknown:
        raise UserError(
            f"There is no attribute {first(unknown)}: data.source.attributes may name "
            f"{', '.join(columns)}."
        )
    rows = [", ".join(values) for values in zip(*(columns[name] for name in chosen), strict=True)]
    classes = sorted(set(rows))
    number = {name: label for label, name in enumerate(classes)}
    return classes, [number[row] for row in rows]
