"""The pages, and the command lines in them."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
USER_PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*USER_PAGES, ROOT / "CONTRIBUTING.md"]


def blocks(language: str, text: str) -> list[str]:
    """The code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def command_lines(page: Path) -> list[str]:
    """Command lines of a page, in code blocks and in sentences, without comments."""
    text = page.read_text()
    joined = "\n".join(blocks("sh", text)).replace("\\\n", " ")
    lines = [re.split(r"\s+#\s", line)[0] for line in joined.splitlines()]
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    lines += re.findall(r"`(python -m ganzoo\.[a-z][^`]*)`", prose)
    return [" ".join(line.split()) for line in lines if line.strip() and "..." not in line]


def arguments(line: str) -> tuple[str, list[str]]:
    """The command of ganzoo in a line, and its arguments; an empty name if it has none."""
    words = shlex.split(line.partition(" | ")[0])
    for place, word in enumerate(words):
        if word == "docs/slurm.sbatch":
            return "train", ["trainer=slurm", *words[place + 1 :]]
        if word.startswith("ganzoo."):
            return word.removeprefix("ganzoo."), words[place + 1 :]
    return "", []
