"""The command line's entry point: one typer app, one file per command.

In: argv. Out: an exit status (0 done, 1 the thing asked for failed, 2 wrong usage). Start-up stays light: whatever is
slow to import is imported inside the command that needs it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from router.cli import (
    ask,
    audit,
    backup,
    batch,
    dataset,
    doctor,
    evaluation,
    explain,
    finetune,
    jobs,
    keys,
    mcp,
    models_command,
    owners,
    policy,
    policy_fit,
    processes,
    promote,
    proof,
    report,
    tokens,
    up,
    webhooks,
)
from router.cli.common import detect_language, fail
from router.cli.texts import say

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
app.command("mcp")(mcp.mcp)
app.command("explain")(explain.explain)
app.command("eval")(evaluation.evaluate)
app.command("promote")(promote.promote)
app.command("verdict")(proof.verdict)
app.command("replay")(proof.replay)
app.command("doctor")(doctor.doctor)
app.add_typer(models_command.app)
policy.app.command("fit")(policy_fit.fit)
app.add_typer(policy.app)
app.add_typer(webhooks.app)
app.add_typer(jobs.app)
app.add_typer(owners.app)
app.add_typer(keys.app)
app.add_typer(tokens.app)
app.add_typer(audit.app)
app.add_typer(dataset.app)
app.command("report")(report.report)
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)
app.command("api")(processes.api)
app.command("worker")(processes.worker)
# Unknown options are refused here rather than passed on: a typing error should fail before a model loads.
app.command("engine")(processes.engine)
app.command("finetune")(finetune.finetune)


def main() -> None:
    """Run the command line."""
    try:
        check_arguments(sys.argv[1:])
    except typer.Exit as end:
        sys.exit(end.exit_code)
    app()


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse arguments that are no text: Python keeps such bytes as lone surrogates, which no request can carry.

    A file of such a name is let through; only its bytes are used.

    Raises:
        typer.Exit: after one line that names the argument.
    """
    for number, argument in enumerate(arguments, 1):
        try:
            argument.encode()
        except UnicodeEncodeError:
            if not os.path.exists(argument):
                shown = argument.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
                fail(say("argument.encoding", detect_language(), number=number, value=shown), code=2)
