"""weightgen evaluate, weightgen transfer"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .options import FormatOption, QuietOption
from .output import Output

if TYPE_CHECKING:
    from weightgen.episodes.unlabelled import UnlabelledDraw

RunArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="[RUN]", help="Run folder, or universal; the newest finished run if left out, else universal."
    ),
]
BackboneOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="Network for the universal generator: any timm name or a safetensors file.",
        show_default="pypi:efficientnet-lite0, or the data's own if they are features",
    ),
]
ImagesOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="N|all",
        help="Training images of a class; give it again for more.",
        show_default="1 2 5 10 20 50 all",
    ),
]
MethodsOption = Annotated[str | None, typer.Option(help="Comma-separated methods; all if left out.")]
SeedOption = Annotated[int, typer.Option(help="Decides the episodes or training sets.")]
ReportOption = Annotated[
    Path | None,
    typer.Option(help="Also write report.html (one page with all), report.md, results.json and pictures here."),
]


def evaluate(
    run: RunArgument = None,
    backbone: BackboneOption = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="glyphs, a folder, .parquet, hub:owner/name or features:FILE; the run's novel classes if left out."
        ),
    ] = None,
    protocol: Annotated[
        Literal["episodes", "transfer"],
        typer.Option(help="Episodes, or whole training sets as `weightgen transfer` compares them."),
    ] = "episodes",
    test: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC|SHARE", help="transfer: test images of the classes of --data, or a share of them to hold out."
        ),
    ] = None,
    images: ImagesOption = None,
    ways: Annotated[int | None, typer.Option(help="Classes of an episode.")] = None,
    shots: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N|N-N",
            help="Support images of a class, or a range from which each class draws; give it again for more tables.",
        ),
    ] = None,
    queries: Annotated[int | None, typer.Option(help="Query images of a class.")] = None,
    episodes: Annotated[int | None, typer.Option(help="Episodes of a table.")] = None,
    methods: MethodsOption = None,
    unlabelled: Annotated[
        int | None, typer.Option(metavar="N", help="Unlabelled images of an episode; none if left out.")
    ] = None,
    shares: Annotated[
        str | None,
        typer.Option(
            metavar="FLOAT|balanced",
            help="How unlabelled images spread over classes: a Dirichlet parameter, or balanced.",
            show_default="2",
        ),
    ] = None,
    distractors: Annotated[
        float | None, typer.Option(help="Share of unlabelled images of three other classes.", show_default="0.2")
    ] = None,
    transductive: Annotated[
        bool,
        typer.Option(
            "--transductive", help="The queries are the unlabelled images, whatever the three options above say."
        ),
    ] = False,
    split: Annotated[
        Literal["novel", "validation"],
        typer.Option(help="The run's own classes: novel ones, or those kept to look at while choosing options."),
    ] = "novel",
    seed: SeedOption = 0,
    report: ReportOption = None,
    format: FormatOption = "text",
    quiet: QuietOption = False,
) -> None:
    """Compare a generator with cheap baselines on the same episodes of unseen classes.

    Example: weightgen evaluate runs/metadiff-1a2b3c4d --data flowers/ --ways 5 --shots 1 --shots 5
    """
    output = Output(format, quiet)
    from weightgen.errors import InputError
    from weightgen.runs.evaluation_run import evaluate_run
    from weightgen.runs.folder import chosen_run
    from weightgen.training.learner import all_processes

    from .tables import print_evaluations

    if protocol == "transfer":
        of_episodes = {
            **{"--ways": ways, "--shots": shots, "--queries": queries, "--episodes": episodes},
            **{"--unlabelled": unlabelled, "--shares": shares, "--distractors": distractors},
            "--transductive": transductive,
        }
        for flag, given in of_episodes.items():
            if given is not None and given is not False and given != []:
                raise InputError(f"{flag} is for episodes, and --protocol transfer has none; leave it out")
        if data is None:
            raise InputError("--protocol transfer needs a training set; give --data SPEC")
        if test is None:
            raise InputError("--protocol transfer needs a test set; give --test SPEC, or --test 0.5 to hold out a half")
        return transfer(data, test, run, backbone, images, methods, seed, report, format, quiet)
    for flag, given in {"--test": test, "--images": images}.items():
        if given:
            raise InputError(f"{flag} is for whole training sets; use `weightgen transfer`")
    extra = unlabelled_draw(unlabelled, shares=shares, distractors=distractors, transductive=transductive)
    chosen = chosen_run(run, data=data, backbone=backbone)
    with output.progress() as progress:
        evaluations = evaluate_run(
            chosen,
            data=data,
            split=split,
            ways=ways,
            shots=shots or None,
            queries=queries,
            episodes=episodes,
            methods=_names(methods),
            unlabelled=extra,
            seed=seed,
            report=report,
            accelerator=all_processes(),
            progress=progress,
        )
    output.result(evaluations, lambda console: print_evaluations(console, evaluations))


def transfer(
    data: Annotated[str, typer.Option(help="Training images: glyphs, a folder, a .parquet file or hub:owner/name.")],
    test: Annotated[
        str,
        typer.Option(metavar="SPEC|SHARE", help="Test images of the same classes, or a share of --data to hold out."),
    ],
    run: RunArgument = None,
    backbone: BackboneOption = None,
    images: ImagesOption = None,
    methods: MethodsOption = None,
    seed: SeedOption = 0,
    report: ReportOption = None,
    format: FormatOption = "text",
    quiet: QuietOption = False,
) -> None:
    """Compare a generator with baselines, each making one head for all classes of a training set.

    Example: weightgen transfer runs/metadiff-1a2b3c4d --data flowers/ --test 0.5 --report report/
    """
    output = Output(format, quiet)
    from weightgen.runs.folder import chosen_run
    from weightgen.runs.transfer_evaluation import evaluate_transfer
    from weightgen.training.learner import all_processes

    from .tables import print_transfer

    chosen = chosen_run(run, data=data, backbone=backbone)
    with output.progress() as progress:
        compared = evaluate_transfer(
            chosen,
            data=data,
            test=test,
            sizes=training_sizes(images),
            methods=_names(methods),
            seed=seed,
            report=report,
            accelerator=all_processes(),
            progress=progress,
        )
    output.result(compared, lambda console: print_transfer(console, compared))


def _names(methods: str | None) -> list[str] | None:
    return None if methods is None else [name.strip() for name in methods.split(",")]


def training_sizes(given: Sequence[str] | None) -> list[int | None]:
    """Training images of a class from the values of --images, None for all. Raises InputError for another word."""
    from weightgen.errors import InputError
    from weightgen.evaluation.training_sets import SIZES

    for each in given or ():
        if each != "all" and (not each.isdecimal() or int(each) < 1):
            raise InputError(f"--images is '{each}'; give a number from 1, or all")
    return [None if each == "all" else int(each) for each in given] if given else list(SIZES)


def unlabelled_draw(
    images: int | None, *, shares: str | None, distractors: float | None, transductive: bool
) -> "UnlabelledDraw | None":
    """Which unlabelled images an episode has by the flags of these names; None where they ask for none.

    Raises InputError, which names the flag.
    """
    from weightgen.episodes.unlabelled import UnlabelledDraw
    from weightgen.errors import InputError

    if images is None and not transductive:
        for flag, value in (("--shares", shares), ("--distractors", distractors)):
            if value is not None:
                raise InputError(f"{flag} says which unlabelled images there are; give --unlabelled N with it")
        return None
    if images is not None and images < 1:
        raise InputError(f"--unlabelled is {images}; it must be 1 or more")
    draw, flag = UnlabelledDraw(images=images or 0, transductive=transductive), "--shares"
    try:
        if shares is not None:
            draw = replace(draw, concentration=None if shares == "balanced" else float(shares))
        flag = "--distractors"
        return draw if distractors is None else replace(draw, distractors=distractors)
    except ValueError as error:
        if isinstance(error, InputError):
            raise InputError(f"{flag}: {error}") from error
        raise InputError(f"--shares is '{shares}'; give balanced or a Dirichlet parameter such as 2") from error
