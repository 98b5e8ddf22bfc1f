"""What there is to say about a download: why it failed, and what happens meanwhile.

In: a code and values. Out: `Note`s, and the `HubError` that ends it, both with an English sentence. Who speaks other
languages translates by the code.

Errors::

    HubError       a model cannot be had; `waiting_helps` says whether it can be had later
"""

from __future__ import annotations

from typing import Final

# Those under "ends" are of `HubError`, those under "goes on" of `Note`.
WORDS: Final[dict[str, str]] = {
    # ends, until somebody does something
    "gated": (
        "{repo} is gated: accept its terms at {page}, then set {variable} to a token of that account "
        "({endpoint} answers {status})"
    ),
    "unknown": (
        "there is no {repo} at {endpoint}, or it is private: check the name, and the token in {variable} "
        "(status {status})"
    ),
    "token": "{endpoint} refuses the token in {variable} (status {status}): make a new one, or unset it",
    "token_form": (
        "{variable} (or what `hf auth login` kept) holds characters that no token has, such as spaces or line breaks: "
        "set it anew, or unset it"
    ),
    "endpoint": "{variable} is {endpoint}, which is no address: write it as https://HOST",
    "forbidden": "{endpoint} forbids {repo} (status {status}): {reason}",
    "revision": "{repo} has no revision {revision} at {endpoint}",
    "missing": "{repo} at {revision} is not whole at {endpoint}: there is no {file}",
    "contents": (
        "{file} of {repo} arrives with other contents than {endpoint} says (sha256 {got} instead of {wanted}), twice: "
        "a proxy or mirror in between changes it"
    ),
    "disk": "{need_gb:.1f} GB are to be downloaded into {folder}, and {free_gb:.1f} GB are free: make room",
    "unwritable": "cannot write to {folder}: {reason}",
    "offline": "{repo} is not whole in {folder} (missing: {missing}), and {variable} forbids to download it",
    "foreign": "{endpoint} does not answer as a model hub does ({reason}): check {variable}, and proxies in between",
    "package": "downloading from Hugging Face needs huggingface_hub: pip install 'glowl[engines]'",
    # ends, for now
    "away": "{endpoint} cannot be reached ({reason})",
    "busy": "{endpoint} answers {status}: it is overloaded, out of order, or limits how much it is asked",
    "cut": "{endpoint} breaks off {file} again and again; what has arrived is kept",
    # goes on
    "retry": "{why}; trying again in {delay_s:.0f} s",
    "resumed": "{file} goes on at {have_gb:.2f} of {size_gb:.2f} GB",
    "restarted": "{endpoint} sends {file} only from its beginning: {have_gb:.2f} GB are downloaded again",
    "again": "{file} has other contents than {endpoint} says: downloading it again",
    "damaged": "{file} in {folder} is damaged (its sha256 is not {wanted}): downloading it again",
    "orphans": "removed {size_gb:.2f} GB of unfinished downloads from {folder}",
    "waiting": "another process downloads {repo}; waiting for it",
    "checking": "checking the contents of {repo}, once",
}


class Note:
    """One thing worth a line.

    Args:
        code: a key of `WORDS`.
        values: what the sentence is filled in with; another `Note` may be among them.
    """

    def __init__(self, code: str, **values: object) -> None:
        self.code = code
        self.values = values

    def __str__(self) -> str:
        return WORDS[self.code].format(**self.values)


class HubError(Exception):
    """A model cannot be had.

    Args:
        code: a key of `WORDS`.
        waiting_helps: whether it may be had later, with nothing changed here.
        values: what the sentence is filled in with.
    """

    def __init__(self, code: str, *, waiting_helps: bool = False, **values: object) -> None:
        self.note = Note(code, **values)
        self.waiting_helps = waiting_helps
        super().__init__(str(self.note))


class AwayError(HubError):
    """What was tried may work in a moment: raised inside this package, and out of it once it did not for long.

    Args:
        code: a key of `WORDS`.
        retry_after_s: what the hub itself says, if it does.
        values: as of `HubError`.
    """

    def __init__(self, code: str, *, retry_after_s: float | None = None, **values: object) -> None:
        super().__init__(code, waiting_helps=True, **values)
        self.retry_after_s = retry_after_s
