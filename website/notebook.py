"""A Jupyter notebook as a page: text, code, and the outputs that were kept."""

import base64
import json
from pathlib import Path
from typing import Any


def page(notebook: Path, out: Path) -> None:
    """Write a notebook as Markdown, and its pictures next to it.

    Args:
        notebook: the .ipynb file.
        out: the .md file; pictures are called after it, with a number.
    """
    parts, pictures = [], 0
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            if (data := output.get("data", {})).get("image/png"):
                picture = out.with_name(f"{out.stem}-{pictures}.png")
                picture.write_bytes(base64.b64decode(_text(data["image/png"])))
                parts.append(f"![Output of the cell above]({picture.name})")
                pictures += 1
            elif "text/html" in data:
                continue  # progress, which is only of interest while the cell runs
            elif text := _text(data.get("text/plain", output.get("text", ""))):
                parts.append(f"```text\n{text.rstrip()}\n```")
    parts.append(f"This page is the notebook `examples/{notebook.name}`, with its outputs.")
    out.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _text(lines: Any) -> str:
    return lines if isinstance(lines, str) else "".join(lines)
