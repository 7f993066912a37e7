"""weightgen data"""

from pathlib import Path
from typing import Annotated

import typer

from .options import FormatOption, QuietOption
from .output import Output, facts

app = typer.Typer(no_args_is_help=True, help="Look at image data, and take examples out of it.")
Spec = Annotated[
    str,
    typer.Argument(metavar="SPEC", help="glyphs, an image folder, Parquet or hub:owner/name, [:split][#column=NAME]."),
]


@app.command("info")
def info(spec: Spec, format: FormatOption = "text", quiet: QuietOption = False) -> None:
    """Say how many classes and images there are. Example: weightgen data info images.parquet"""
    output = Output(format, quiet)
    from weightgen.runs.data_tools import describe

    described = describe(spec)
    output.result(described, facts(described))


@app.command("sample")
def sample(
    spec: Spec,
    out: Annotated[Path, typer.Option(help="Folder in which support/ and query/ are written.")],
    ways: Annotated[int, typer.Option(help="Classes.")] = 5,
    shots: Annotated[int, typer.Option(help="Support images of a class.")] = 5,
    queries: Annotated[int, typer.Option(help="Query images of a class.")] = 10,
    seed: Annotated[int, typer.Option(help="Decides which.")] = 0,
    format: FormatOption = "text",
    quiet: QuietOption = False,
) -> None:
    """Write one episode as image folders. Example: weightgen data sample glyphs --out example"""
    output = Output(format, quiet)
    from weightgen.runs.data_tools import write_sample

    described = write_sample(spec, out, ways=ways, shots=shots, queries=queries, seed=seed)
    output.result(described, facts(described))
