"""`glowl owners`: whose requests, jobs and files belong together, what they may do, and how much.

In: names, options. Out: records in redis; ids and tables on stdout, or JSON for scripts.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli.common import LanguageOption, fail, load_settings, parse_language
from router.cli.durations import parse_duration, show_duration
from router.cli.owner_store import (
    Admin,
    DataDirOption,
    JsonOption,
    ScopesOption,
    open_admin,
    parse_scopes,
    status_of,
    to_key,
    to_owner,
)
from router.cli.tables import make_table, print_json, print_table, show_time
from router.cli.texts import say
from router.scopes import SCOPES

if TYPE_CHECKING:
    from collections.abc import Callable

    from router.auth.admin import OwnerTerms
    from router.auth.records import Directory, Owner
    from router.loop.store import LoopStore

NONE = "none"
MIN_RETENTION_S = 3600
_CAPTURED = "answers for data sets"

app = typer.Typer(name="owners", help="Who may ask: names, scopes, limits. Keys: `glowl keys`.", no_args_is_help=True)

OwnerArgument = Annotated[str, typer.Argument(metavar="OWNER", help="Its name or id.")]
LimitsOption = Annotated[
    str | None, typer.Option(metavar="LIST", help="Such as requests=60/min,tokens=100k/min,concurrent=8; none: no own.")
]
CaptureOption = Annotated[
    str | None,
    typer.Option(
        metavar="off|text|pictures",
        help="Keep its questions and answers for data sets (docs/loop.md): texts alone, or pictures too; none: as "
        "GLOWL_CAPTURE says.",
    ),
]
RedactOption = Annotated[
    str | None,
    typer.Option(metavar="LIST", help="What is replaced in them: email,phone,id,card (the default is all), or none."),
]
RetentionOption = Annotated[
    str | None, typer.Option(metavar="TIME", help="Keep what is stored at most so long, such as 1d; none: the default.")
]


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it.")],
    scopes: ScopesOption = None,
    limits: LimitsOption = None,
    retention: RetentionOption = None,
    capture: CaptureOption = None,
    redact: RedactOption = None,
    adopt: Annotated[
        str,
        typer.Option(
            metavar="ID",
            help="Take over what is stored already: 'local' (from the time without keys), or the id of a key of "
            "GLOWL_API_KEYS, which `glowl owners list` shows.",
        ),
    ] = "",
    is_json: JsonOption = False,
    data_dir: DataDirOption = None,
    lang: LanguageOption = None,
) -> None:
    """Make an owner. From the first one on, every request needs a key."""
    from router.auth.admin import create_owner

    given = _read_options(scopes, limits, retention, capture, redact)
    admin = open_admin(data_dir, parse_language(lang))
    was_open = not admin.load().owners and not admin.configured
    owner = admin.change(
        lambda everything: create_owner(everything, admin.now, name, adopt=adopt, configured=admin.configured, **given)
    )
    if is_json:
        print_json(to_owner(owner, admin.load(), admin.now))
        return
    typer.echo(owner.id)
    admin.say("owners.created", name=owner.name, command=admin.to_command("keys", "create", owner.name))
    if adopt and (lost := SCOPES - owner.scopes):
        lacking, all_ = ",".join(sorted(lost)), ",".join(sorted(SCOPES))
        had = ",".join(sorted(owner.scopes))
        command = admin.to_command("owners", "set", owner.name, "--scopes", all_)
        admin.say("owners.adopted", name=owner.name, has=had, lost=lacking, command=command)
    if was_open:
        admin.say("owners.closed")
        if adopt != "local":
            admin.say("owners.local", command=admin.to_command("owners", "create", "NAME", "--adopt", "local"))


@app.command("list")
def list_owners(is_json: JsonOption = False, data_dir: DataDirOption = None, lang: LanguageOption = None) -> None:
    """List the owners, the oldest first; with keys of GLOWL_API_KEYS that have no owner yet."""
    admin = open_admin(data_dir, parse_language(lang))
    directory = admin.load()
    found = sorted(directory.owners.values(), key=lambda owner: owner.created_at)
    loose = _without_owner(directory, admin)
    if is_json:
        for owner in found:
            print_json(to_owner(owner, directory, admin.now))
        for owner_id in loose:
            print_json({"id": owner_id, "object": "owner", "name": None, "live_keys": 1})
        return
    if not found and not loose:
        admin.say("owners.none", command=admin.to_command("owners", "create", "NAME"))
        return
    table = make_table(
        admin.language,
        *("owners.column.id", "owners.column.name", "owners.column.keys"),
        *("owners.column.scopes", "owners.column.limits", "owners.column.retention"),
    )
    for owner in found:
        table.add_row(owner.id, owner.name, str(to_owner(owner, directory, admin.now)["live_keys"]), *_terms(owner))
    for owner_id in loose:
        table.add_row(owner_id, say("owners.configured", admin.language), "1", "admin,ask,files,jobs", "", "")
    print_table(table)


@app.command("show")
def show(
    owner: OwnerArgument, is_json: JsonOption = False, data_dir: DataDirOption = None, lang: LanguageOption = None
) -> None:
    """Show an owner, its keys, and how much is stored of it."""
    from router.auth.admin import find_owner
    from router.auth.purge import Belongings

    admin = open_admin(data_dir, parse_language(lang))
    found = admin.change(lambda everything: ((), find_owner(everything, owner)))
    directory = admin.load()
    stored = admin.run(lambda store: Belongings(store.redis, found.id).count()) | _count_captured(found.id, admin)
    keys = directory.keys_of(found.id)
    if is_json:
        more = {"keys": [to_key(key, directory, admin.now) for key in keys], "stored": stored}
        print_json({**to_owner(found, directory, admin.now), **more})
        return
    scopes, limits, retention = _terms(found)
    for column, value in (
        *(("id", found.id), ("name", found.name), ("created", show_time(found.created_at)), ("scopes", scopes)),
        *(("limits", limits or "-"), ("retention", retention or "-")),
        *(("capture", found.captures or "-"), ("redact", _redacted(found))),
        *(("keys", ", ".join(f"{key.id} ({status_of(key, admin.now)})" for key in keys) or "-"),),
        *(("stored", ", ".join(f"{number} {kind}" for kind, number in stored.items()) or "-"),),
    ):
        typer.echo(f"{say(f'owners.column.{column}', admin.language)}: {value}")


@app.command("set")
def set_(
    owner: OwnerArgument,
    name: Annotated[str | None, typer.Option(help="What to call it from now on.")] = None,
    scopes: ScopesOption = None,
    limits: LimitsOption = None,
    retention: RetentionOption = None,
    capture: CaptureOption = None,
    redact: RedactOption = None,
    is_json: JsonOption = False,
    data_dir: DataDirOption = None,
    lang: LanguageOption = None,
) -> None:
    """Change an owner; its keys go by the new terms within a second."""
    from router.auth.admin import set_owner

    language = parse_language(lang)
    terms = _read_options(scopes, limits, retention, capture, redact)
    if name is None and not terms:
        fail(say("owners.nothing", language), code=2)
    admin = open_admin(data_dir, language)
    found = admin.change(lambda everything: set_owner(everything, owner, name=name, **terms))
    if is_json:
        print_json(to_owner(found, admin.load(), admin.now))
    else:
        admin.say("owners.updated", name=found.name)


@app.command("delete")
def delete(
    owner: OwnerArgument,
    is_purged: Annotated[
        bool, typer.Option("--purge", help="Delete its jobs, files, batches and webhooks too.")
    ] = False,
    is_json: JsonOption = False,
    data_dir: DataDirOption = None,
    lang: LanguageOption = None,
) -> None:
    """Forget an owner and its keys; refused while anything is stored of it, unless --purge deletes that too."""
    from router.auth.admin import AdminError, delete_owner, find_owner
    from router.auth.purge import Belongings

    admin = open_admin(data_dir, parse_language(lang))
    directory = admin.load()
    try:
        found = find_owner(directory, owner)
    except AdminError as error:
        # A purge that was broken off, or answers that were written meanwhile: the record is gone, things are not.
        if not is_purged or not _is_id(owner):
            fail(error.text.of(admin.language))
        found = None
    owner_id = owner if found is None else found.id
    stored = {} if is_purged else admin.run(lambda store: Belongings(store.redis, owner_id).count())
    if not is_purged and (stored := stored | _count_captured(owner_id, admin)):
        shown = ", ".join(f"{number} {kind}" for kind, number in stored.items())
        command = admin.to_command("owners", "delete", owner, "--purge")
        admin.fail("owners.has", name=owner, stored=shown, command=command)
    if found is not None:
        # First, so that nothing new comes.
        admin.change(lambda everything: delete_owner(everything, admin.now, owner_id))
    deleted = _purge(owner_id, admin) if is_purged else {}
    if is_json:
        print_json({"id": owner_id, "object": "owner", "deleted": True, "purged": deleted})
        return
    shown = ", ".join(f"{number} {kind}" for kind, number in deleted.items())
    admin.say("owners.purged" if deleted else "owners.deleted", name=owner, stored=shown)
    if is_purged:
        admin.say("owners.purged.again", command=admin.to_command("owners", "delete", owner_id, "--purge"))
        _say_what_the_audit_log_keeps(admin, owner_id)
    if any(_owner_of(text) == owner_id for text in admin.configured):
        admin.say("owners.still_configured")
    if not admin.load().owners and not admin.configured:
        admin.say("owners.opened")


def _purge(owner_id: str, admin: Admin) -> dict[str, int]:
    """Delete all that is stored of an owner, in redis and for data sets; returns how many records, by kind."""
    from router.auth.purge import Belongings
    from router.loop.collect import tell_deleted

    deleted = admin.run(lambda store: Belongings(store.redis, owner_id).delete())
    at = admin.run(lambda store: tell_deleted(store.redis, owner_id))
    number = _of_captured(admin, lambda store: store.delete({owner_id: at}))
    return deleted | ({_CAPTURED: number} if number else {})


def _count_captured(owner_id: str, admin: Admin) -> dict[str, int]:
    number = _of_captured(admin, lambda store: store.count(owner_id))
    return {_CAPTURED: number} if number else {}


def _of_captured(admin: Admin, work: Callable[[LoopStore], int]) -> int:
    """Ask what is kept for data sets on this machine; 0 if nothing is.

    Raises:
        typer.Exit: after one line, if it cannot be read or written.
    """
    from router.loop.capture import FAILURES
    from router.loop.store import FILE, LoopStore

    folder = admin.settings.loop_dir if admin.data_dir is None else admin.data_dir / "loop"
    if not (folder / FILE).exists():
        return 0
    try:
        with LoopStore(folder) as store:
            return work(store)
    except FAILURES as error:
        fail(f"{folder / FILE}: {error}")


def _say_what_the_audit_log_keeps(admin: Admin, owner_id: str) -> None:
    from router.audit.chain import files_in

    settings = load_settings()
    with contextlib.suppress(OSError):
        if settings.audit != "off" or files_in(settings.audit_dir):
            admin.say("owners.purged.audit", id=owner_id, days=settings.audit_days, folder=settings.audit_dir)


def _read_options(
    scopes: str | None, limits: str | None, retention: str | None, capture: str | None, redact: str | None
) -> OwnerTerms:
    from router.limits.limits import Limits

    given: OwnerTerms = {}
    if scopes is not None:
        given["scopes"] = parse_scopes(scopes)
    if limits is not None:
        try:
            given["limits"] = Limits.parse("" if limits.strip().lower() == NONE else limits)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--limits") from None
    if retention is not None:
        seconds = None if retention.strip().lower() == NONE else parse_duration(retention, option="--retention")
        if seconds is not None and seconds < MIN_RETENTION_S:
            raise typer.BadParameter(
                "at least 1h: a client must find time to fetch its answer", param_hint="--retention"
            )
        given["retention_s"] = seconds
    if capture is not None:
        given["captures"] = _read_word(capture, ("off", "text", "pictures"), "--capture")
    if redact is not None:
        from router.loop.redact import KINDS

        words = [] if redact.strip().lower() == NONE else redact.split(",")
        given["redacts"] = tuple(_read_word(word, KINDS, "--redact") for word in words)
    return given


def _read_word(text: str, choices: tuple[str, ...], option: str) -> str:
    """Read one of some words; ``none`` of a setting that has a default is the empty text.

    Raises:
        typer.BadParameter: if it is another.
    """
    word = text.strip().lower()
    if option == "--capture" and word == NONE:
        return ""
    if word not in choices:
        raise typer.BadParameter(f"choose from {', '.join(choices)}, or {NONE}", param_hint=option)
    return word


def _redacted(owner: Owner) -> str:
    from router.loop.redact import KINDS

    return ",".join(KINDS if owner.redacts is None else owner.redacts) or NONE


def _terms(owner: Owner) -> tuple[str, str, str]:
    retention = "" if owner.retention_s is None else show_duration(owner.retention_s)
    return ",".join(sorted(owner.scopes)), str(owner.limits), retention


def _without_owner(directory: Directory, admin: Admin) -> list[str]:
    """Return the ids that keys of `GLOWL_API_KEYS` stand for, without those that have a record."""
    from router.auth.key_text import digest_of

    known = directory.keys
    ids = [_owner_of(text) for text in admin.configured if digest_of(text).hex() not in known]
    return [owner_id for owner_id in ids if owner_id not in directory.owners]


def _owner_of(text: str) -> str:
    from router.auth.key_text import digest_of
    from router.auth.records import configured_owner

    return configured_owner(digest_of(text))


def _is_id(text: str) -> bool:
    from router.owner_ids import is_owner_id

    return is_owner_id(text)
