"""`python -m weightgen` is the command `weightgen`, for where that is not on the PATH."""

from weightgen.cli.main import app

if __name__ == "__main__":
    app()
