"""weightgen compare"""

from pathlib import Path
from typing import Annotated

import typer

from .options import FormatOption, QuietOption
from .output import Output


def compare(
    recipes: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE… [KEY=VALUE]…", help="Recipe files or names; options are changed for all of them."
        ),
    ],
    data: Annotated[
        str | None, typer.Option(metavar="SPEC", help="Data for all recipes, as in data=SPEC; judged on novel classes.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Train and evaluate each recipe with so many seeds.")] = 1,
    ways: Annotated[int | None, typer.Option(help="Classes of an episode.")] = None,
    shots: Annotated[
        list[str] | None,
        typer.Option(metavar="N|N-N", help="Support images of a class, or a range; give it again for more tables."),
    ] = None,
    queries: Annotated[int | None, typer.Option(help="Query images of a class.")] = None,
    episodes: Annotated[int | None, typer.Option(help="Episodes of a table and seed.")] = None,
    methods: Annotated[str | None, typer.Option(help="Comma-separated baselines; all if left out.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder that holds run folders.")] = Path("runs"),
    out: Annotated[Path, typer.Option(help="Folder for the page: text, JSON and a picture.")] = Path("comparison"),
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write the page as report.html here; --out has one too.")
    ] = None,
    format: FormatOption = "text",
    quiet: QuietOption = False,
) -> None:
    """Train several recipes on the same classes and compare them on the same episodes, memorisation included.

    What is trained or evaluated already is not done again, so an interrupted comparison continues by the same command.

    Example: weightgen compare metadiff hypernetwork flow --data images.parquet --seeds 3
    """
    output = Output(format, quiet)
    from weightgen.evaluation.leaderboard import write_board_page
    from weightgen.files import check_folder
    from weightgen.runs.comparison_run import compare_recipes

    from .tables import print_leaderboard

    if report is not None:
        check_folder(report, what="the page")
    with output.progress() as progress:
        board = compare_recipes(
            [word for word in recipes if "=" not in word],
            [word for word in recipes if "=" in word],
            data=data,
            seeds=seeds,
            ways=ways,
            shots=shots,
            queries=queries,
            episodes=episodes,
            baselines=None if methods is None else [name.strip() for name in methods.split(",")],
            runs=runs,
            out=out,
            progress=progress,
        )
    if report is not None:
        write_board_page(report, board)
    output.result(board, lambda console: print_leaderboard(console, board))
    output.remark(f"page: {report or out}/report.html")
