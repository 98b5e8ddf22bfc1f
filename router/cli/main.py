"""The command line's entry point: one typer app, one file per command.

In: argv. Out: an exit status (0 done, 1 the thing asked for failed, 2 wrong usage). Start-up stays light: whatever is
slow to import is imported inside the command that needs it.
"""

from __future__ import annotations

import typer

from router.cli import ask, batch, doctor, explain, jobs, models_command, policy, processes, up, webhooks

app = typer.Typer(
    name="glowl",
    help="One OpenAI-compatible endpoint in front of GLM-4.6V-Flash and mPLUG-Owl2.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

app.command("up")(up.up)
app.command("ask")(ask.ask)
app.command("batch")(batch.batch)
app.command("explain")(explain.explain)
app.command("doctor")(doctor.doctor)
app.add_typer(models_command.app)
app.add_typer(policy.app)
app.add_typer(webhooks.app)
app.add_typer(jobs.app)
app.command("api")(processes.api)
app.command("worker")(processes.worker)
# Unknown options are refused here rather than passed on: a typing error should fail before a model loads.
app.command("engine")(processes.engine)


def main() -> None:
    """Run the command line."""
    app()
