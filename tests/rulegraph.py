"""The README's graph of the workflow's rules, as Snakemake draws it.

PYTHONPATH=. python tests/rulegraph.py      # writes it into README.md
"""

import re
import subprocess
import sys
from pathlib import Path

from pipeline.common.files import write_text

SOURCE = Path(__file__).parent.parent
README = SOURCE / "README.md"
BLOCK = re.compile(r"(?<=<!-- rulegraph -->\n```mermaid\n).*?(?=```)", re.S)


def rulegraph(folder: Path) -> str:
    """The rules up to table 1 in a project where nothing is made, in mermaid: Snakemake's own drawing less its colours."""
    command = [sys.executable, "-m", "snakemake", "--rulegraph", "mermaid-js", "results/table1.csv"]
    drawn = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", drawn))
    edges = {(names[parent], names[child]) for parent, child in re.findall(r"(id\d+) --> (id\d+)", drawn)}
    return "flowchart LR\n" + "".join(f"  {parent} --> {child}\n" for parent, child in sorted(edges))


def shown() -> str:
    """The graph in the README."""
    return BLOCK.search(README.read_text(encoding="utf-8"))[0]


if __name__ == "__main__":
    write_text(README, BLOCK.sub(rulegraph(SOURCE), README.read_text(encoding="utf-8"), count=1))
