"""`glowl keys`: the keys of owners: made, listed, replaced, ended. A key is shown when it is made, and never again.

In: owners' names, keys' first characters. Out: records in redis; a new key alone on stdout, so that it can go straight
into a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from router.cli.common import LanguageOption, parse_language
from router.cli.durations import parse_duration
from router.cli.owner_store import (
    Admin,
    DataDirOption,
    JsonOption,
    ScopesOption,
    open_admin,
    parse_scopes,
    status_of,
    to_key,
)
from router.cli.tables import make_table, print_json, print_table, show_time
from router.cli.texts import say

if TYPE_CHECKING:
    from router.auth.admin import NewKey

DEFAULT_OVERLAP = "24h"

app = typer.Typer(name="keys", help="The keys with which owners ask. Owners: `glowl owners`.", no_args_is_help=True)

KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="Its first characters, as `glowl keys list` shows.")]
ExpiresOption = Annotated[
    str | None, typer.Option("--expires", metavar="TIME", help="How long it is good, such as 90d.")
]


@app.command("create")
def create(
    owner: Annotated[str, typer.Argument(metavar="OWNER", help="Name or id of its owner.")],
    expires: ExpiresOption = None,
    scopes: ScopesOption = None,
    note: Annotated[str, typer.Option(help="What it is for, in your words.")] = "",
    is_json: JsonOption = False,
    data_dir: DataDirOption = None,
    lang: LanguageOption = None,
) -> None:
    """Make a key and print it, this once."""
    from router.auth.admin import create_key

    lives_s = _read_expiry(expires)
    wanted = None if scopes is None else parse_scopes(scopes)
    admin = open_admin(data_dir, parse_language(lang))
    made = admin.change(
        lambda everything: create_key(everything, admin.now, owner, lives_s=lives_s, scopes=wanted, note=note)
    )
    _show_new(admin, made, "keys.created", is_json=is_json)


@app.command("list")
def list_keys(
    owner: Annotated[str, typer.Argument(metavar="[OWNER]", help="Only its keys.")] = "",
    is_json: JsonOption = False,
    data_dir: DataDirOption = None,
    lang: LanguageOption = None,
) -> None:
    """List keys by their first characters, the oldest first; those that ended are shown for 30 days."""
    from router.auth.admin import find_owner

    admin = open_admin(data_dir, parse_language(lang))
    wanted = admin.change(lambda everything: ((), find_owner(everything, owner).id)) if owner else ""
    directory = admin.load()
    found = sorted(directory.keys.values(), key=lambda key: key.created_at)
    found = [key for key in found if not wanted or key.owner == wanted]
    if is_json:
        for key in found:
            print_json(to_key(key, directory, admin.now))
        return
    if not found:
        admin.say("keys.none", command=admin.to_command("keys", "create", owner or "OWNER"))
        return
    table = make_table(
        admin.language,
        *("keys.column.id", "keys.column.owner", "keys.column.status", "keys.column.created"),
        *("keys.column.used", "keys.column.expires", "keys.column.scopes", "keys.column.note"),
    )
    for key in found:
        name = directory.owners[key.owner].name if key.owner in directory.owners else key.owner
        used = directory.used.get(key.id)
        table.add_row(
            *(key.id, name, say(f"keys.status.{status_of(key, admin.now)}", admin.language), show_time(key.created_at)),
            show_time(used) if used else say("keys.never", admin.language),
            show_time(key.expires_at) if key.expires_at else say("keys.no_end", admin.language),
            "" if key.scopes is None else ",".join(sorted(key.scopes)),
            key.note,
        )
    print_table(table)


@app.command("revoke")
def revoke(
    key: KeyArgument, is_json: JsonOption = False, data_dir: DataDirOption = None, lang: LanguageOption = None
) -> None:
    """End a key: the next request with it is refused; streams under way go on."""
    from router.auth.admin import revoke_key

    admin = open_admin(data_dir, parse_language(lang))
    found = admin.change(lambda everything: revoke_key(everything, admin.now, key))
    if is_json:
        print_json(to_key(found, admin.load(), admin.now))
    else:
        admin.say("keys.revoked", id=found.id)


@app.command("rotate")
def rotate(
    key: KeyArgument,
    overlap: Annotated[
        str, typer.Option(metavar="TIME", help="How long the old key is good beside the new one; 0: not at all.")
    ] = DEFAULT_OVERLAP,
    expires: ExpiresOption = None,
    is_json: JsonOption = False,
    data_dir: DataDirOption = None,
    lang: LanguageOption = None,
) -> None:
    """Replace a key by one that may do the same, and print it, this once; jobs, files and webhooks stay the owner's."""
    from router.auth.admin import find_key, rotate_key

    overlap_s = parse_duration(overlap, option="--overlap", is_zero_good=True)
    lives_s = _read_expiry(expires)
    admin = open_admin(data_dir, parse_language(lang))
    made = admin.change(lambda everything: rotate_key(everything, admin.now, key, overlap_s=overlap_s, lives_s=lives_s))
    old = admin.change(lambda everything: ((), find_key(everything, key)))
    _show_new(admin, made, "keys.rotated", is_json=is_json)
    if not is_json:
        until = old.expires_at if old.revoked_at is None else None
        admin.say("keys.old" if until else "keys.revoked", id=old.id, at=show_time(until or admin.now))


def _read_expiry(text: str | None) -> int | None:
    return None if text is None else parse_duration(text, option="--expires")


def _show_new(admin: Admin, made: NewKey, key: str, *, is_json: bool) -> None:
    if is_json:
        print_json({**to_key(made.key, admin.load(), admin.now), "key": made.text})
        return
    # The sentence on stderr, the key alone on stdout: it can go straight into a file.
    admin.say(key, owner=made.owner.name)
    typer.echo(made.text)
