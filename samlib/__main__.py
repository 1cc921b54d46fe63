"""`python -m samlib`, where the command `samlib` is not on the path."""

from samlib.cli import app

app(prog_name="samlib")
