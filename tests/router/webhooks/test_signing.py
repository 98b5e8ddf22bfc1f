"""Signatures: what the unmodified client and the published algorithm accept, and what they do not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time

import openai
import pytest
from openai.types.webhooks import ResponseCompletedWebhookEvent
from pydantic import ValidationError

from router.settings import Settings
from router.webhooks.records import Claim, Endpoint
from router.webhooks.signing import mask, new_secret, sign, to_headers

BODY = b'{"id":"evt_1","object":"event","created_at":1,"type":"response.completed","data":{"id":"resp_1"}}'


@pytest.fixture
def client() -> openai.OpenAI:
    return openai.OpenAI(api_key="unused", base_url="http://127.0.0.1:9/v1")


def test_the_unmodified_client_takes_a_signed_event_for_what_it_is(client: openai.OpenAI) -> None:
    secret = new_secret()
    headers = to_headers("evt_1", int(time.time()), BODY, [secret])

    event = client.webhooks.unwrap(BODY, headers, secret=secret)

    assert isinstance(event, ResponseCompletedWebhookEvent)
    assert event.data.id == "resp_1"


@pytest.mark.parametrize("changed", ["body", "id", "time", "secret"])
def test_the_unmodified_client_refuses_what_was_changed(client: openai.OpenAI, changed: str) -> None:
    secret, body = new_secret(), BODY
    headers = to_headers("evt_1", int(time.time()), body, [secret])
    if changed == "body":
        body += b" "
    elif changed == "id":
        headers["webhook-id"] = "evt_2"
    elif changed == "time":
        headers["webhook-timestamp"] = str(int(headers["webhook-timestamp"]) - 1)
    else:
        secret = new_secret()

    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap(body, headers, secret=secret)


def test_the_signature_is_the_published_algorithms() -> None:
    # The algorithm of the Standard Webhooks specification, written out.
    key = bytes(range(32))
    secret = "whsec_" + base64.b64encode(key).decode()
    digest = hmac.new(key, b"evt_1.1700000000." + BODY, hashlib.sha256).digest()

    assert sign("evt_1", 1_700_000_000, BODY, secret) == "v1," + base64.b64encode(digest).decode()


def test_while_a_secret_is_changed_old_and_new_both_sign_the_new_one_first(client: openai.OpenAI) -> None:
    old, new = new_secret(), new_secret()
    headers = to_headers("evt_1", int(time.time()), BODY, [new, old])

    for secret in (old, new):
        client.webhooks.unwrap(BODY, headers, secret=secret)
    first, second = headers["webhook-signature"].split(" ")
    assert first == sign("evt_1", int(headers["webhook-timestamp"]), BODY, new)
    assert second.startswith("v1,")


def test_a_new_secret_is_one_that_the_standard_allows_and_never_the_same() -> None:
    first, second = new_secret(), new_secret()
    assert first != second
    assert 24 <= len(base64.b64decode(first.removeprefix("whsec_"), validate=True)) <= 64
    assert Settings(webhook_secret=f"{first}, {second}").webhook_secret[1].get_secret_value() == second


@pytest.mark.parametrize("secret", ["hunter2", "whsec_", "whsec_c2hvcnQ=", "whsec_not base64", "whsec_" + "A" * 92])
def test_a_configured_secret_that_receivers_would_not_take_stops_the_start_unseen(secret: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(webhook_secret=secret)
    assert "24 to 64 bytes" in str(caught.value)
    assert secret.removeprefix("whsec_") == "" or secret not in str(caught.value)


def test_a_masked_secret_shows_only_its_end() -> None:
    secret = new_secret()
    assert mask(secret) == "whsec_..." + secret[-4:]


def test_no_record_shows_a_secret_in_its_repr() -> None:
    secret, old = new_secret(), new_secret()
    endpoint = Endpoint("whe_1", "o", "n", "https://x.example", ("response.failed",), secret, 1, 1, old_secret=old)
    claim = Claim("whd_1", 1, 1, 0, "o", "whe_1", "evt_1", "response.failed", "https://x.example", BODY, (secret, old))
    for shown in (repr(endpoint), repr(claim), repr(Settings(webhook_secret=secret))):
        assert secret not in shown
        assert old not in shown
