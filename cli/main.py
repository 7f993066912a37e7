"""The `weightgen` command and its sub-commands; `--help` imports nothing heavy."""

import typer

from . import compare, components, data, evaluate, generate, head, predict, recipes, train, zoo
from .errors import OneLineErrors

app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Writes classifier heads for frozen backbones instead of training them.",
)
app.command("train")(train.train)
app.command("generate")(generate.generate)
app.command("predict")(predict.predict)
app.command("evaluate")(evaluate.evaluate)
app.command("transfer")(evaluate.transfer)
app.command("compare")(compare.compare)
app.add_typer(head.app, name="head")
app.add_typer(recipes.app, name="recipes")
app.command("components")(components.components)
app.add_typer(zoo.app, name="zoo")
app.add_typer(data.app, name="data")

if __name__ == "__main__":
    app()
