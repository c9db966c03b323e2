"""Secrets of hooks and the queue of their deliveries, on the real PostgreSQL."""

import asyncio
import os
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from cryptography.fernet import Fernet
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from deployments.commands import doctor
from deployments.webhooks import app as webhooks
from deployments.webhooks.app import Gateway
from infra import hooks
from infra.database import Pool
from infra.errors import InputError, SettingsError
from infra.hooks import deliveries, secrets
from infra.records import messages
from infra.settings import settings
from tasks.guard import steps as guard
from tests.helpers.doors import make_hook


def test_a_rotated_secret_and_the_old_one_for_a_while(database: Pool) -> None:
    hook = make_hook(database)

    def now() -> list[str]:
        with database.connection() as connection:
            row = connection.execute("SELECT * FROM hooks").fetchone()
        assert row is not None
        assert hook.secret.get_secret_value().encode() not in bytes(row["secret"])
        return hooks.from_row(dict(row)).secrets

    assert now() == [hook.secret.get_secret_value()]
    second = hooks.rotate(database, hook.name, timedelta(hours=1))
    assert now() == [second, hook.secret.get_secret_value()]
    third = hooks.rotate(database, hook.name, timedelta(0))
    assert now() == [third]
    with pytest.raises(InputError):
        hooks.rotate(database, "none", timedelta(0))
    with pytest.raises(InputError):
        make_hook(database, name=hook.name)


def test_the_key_is_private_and_another_one_is_refused(
    database: Pool, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encrypted = secrets.encrypt("whsec_abc")
    assert (home / "hooks.key").stat().st_mode & 0o777 == 0o600
    assert secrets.decrypt(encrypted) == "whsec_abc"
    secrets.decrypt.cache_clear()
    monkeypatch.setenv("NIGHTSHIFT_HOOKS_KEY", Fernet.generate_key().decode())
    settings.cache_clear()
    with pytest.raises(SettingsError, match="another key"):
        secrets.decrypt(encrypted)
    monkeypatch.setenv("NIGHTSHIFT_HOOKS_KEY", "short")
    settings.cache_clear()
    with pytest.raises(SettingsError, match="no Fernet key"):
        secrets.encrypt("x")


def test_a_hook_of_another_key_harms_no_other_and_is_mended_by_rotate(
    database: Pool, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def use(key: bytes) -> None:
        secrets.decrypt.cache_clear()
        monkeypatch.setenv("NIGHTSHIFT_HOOKS_KEY", key.decode())
        settings.cache_clear()

    def served() -> set[str]:
        async def read() -> set[str]:
            async with AsyncConnectionPool(
                os.environ["NIGHTSHIFT_DATABASE_URL"],
                open=False,
                kwargs={"autocommit": True, "row_factory": dict_row},
            ) as pool:
                gateway = Gateway(pool)
                await gateway.read_hooks()
                await gateway.read_hooks()
                return set(gateway.hooks)

        return asyncio.run(read())

    said: list[str] = []
    monkeypatch.setattr(webhooks.log, "error", lambda text, *names: said.append(text % names))
    ours, theirs = Fernet.generate_key(), Fernet.generate_key()
    use(theirs)
    strange = make_hook(database)
    use(ours)
    with pytest.raises(SettingsError, match="another key"):
        make_hook(database)  # nobody could tell that this is the key of the gateway
    assert served() == set()
    assert len(said) == 1 and f"the hook {strange.name} takes nothing: the hooks" in said[0]
    state, message, _ = doctor.check_gateway()
    assert state == "missing" and strange.name in message and "another key" in message
    second = hooks.rotate(database, strange.name, timedelta(hours=1))
    assert [hook.secrets for hook in hooks.read(database)[0]] == [[second]]
    use(theirs)
    hooks.rotate(database, strange.name, timedelta(hours=1))
    use(ours)
    hooks.rotate(database, strange.name, timedelta(hours=1))
    mine = make_hook(database)
    assert served() == {strange.name, mine.name}


def test_two_dispatchers_claim_each_run_once(database: Pool) -> None:
    hook = make_hook(database)

    async def both() -> None:
        pool = AsyncConnectionPool(
            os.environ["NIGHTSHIFT_DATABASE_URL"],
            open=False,
            kwargs={"autocommit": True, "row_factory": dict_row},
        )
        async with pool:
            batch = [
                deliveries.Delivery(hook.name, f"k{n % 20}", "build-preferences", b"", "{}",
                                    timedelta(0))
                for n in range(40)
            ]  # fmt: skip
            ids = await deliveries.store(pool, batch)
            assert ids[:20] == ids[20:] and len(set(ids)) == 20, "duplicates within a batch"
            claims = await asyncio.gather(*(deliveries.claim(pool, 8) for _ in range(4)))
            runs = [row["id"] for claim in claims for row in claim]
            assert len(runs) == len(set(runs)) == 20
            await deliveries.refused(pool, runs[0], "no")
            await deliveries.started(pool, runs[1], uuid4())
            await deliveries.again(pool, runs[2], 1, "down")
            await asyncio.sleep(0.6)
            (due,) = await deliveries.claim(pool, 8)
            assert due["id"] == runs[2] and due["attempts"] == 2

    asyncio.run(both())


def test_a_run_that_cannot_be_started_keeps_no_other_waiting(database: Pool) -> None:
    hook = make_hook(database)

    async def both() -> None:
        async with AsyncConnectionPool(
            os.environ["NIGHTSHIFT_DATABASE_URL"],
            open=False,
            kwargs={"autocommit": True, "row_factory": dict_row},
        ) as pool:

            async def store(key: str) -> None:
                one = deliveries.Delivery(
                    hook.name, key, "build-preferences", b"", "{}", timedelta(0)
                )
                await deliveries.store(pool, [one])

            for number in range(20):
                await store(f"no deployment {number}")
            failed = {row["id"] for row in await deliveries.claim(pool, 20)}
            for id_ in failed:
                await deliveries.again(pool, id_, 0, "no deployment")
            await asyncio.sleep(0.4)
            await store("fresh")
            (first,) = await deliveries.claim(pool, 1)
            assert first["id"] not in failed
            assert len(await deliveries.claim(pool, 30)) == 20

    asyncio.run(both())


def deliver(pool: Pool, hook: hooks.Hook, key: str, days: int, state: str = "refused") -> UUID:
    """A delivery of some days ago whose run is in this state."""
    id_ = uuid4()
    with pool.connection() as connection, connection.transaction():
        connection.execute(
            "INSERT INTO hook_runs (id, hook, flow, parameters, state, created_at)"
            """ VALUES (%s, %s, 'cost-guard', '{"name": "x"}', %s, now() - %s)""",
            [id_, hook.name, state, timedelta(days=days)],
        )
        connection.execute(
            "INSERT INTO webhook_deliveries (id, hook, key, run, body, received_at)"
            " VALUES (%s, %s, %s, %s, 'content', now() - %s)",
            [id_, hook.name, key, id_, timedelta(days=days)],
        )
    return id_


def test_deliveries_are_kept_for_a_stated_time(database: Pool) -> None:
    timed, named = make_hook(database, name="timed"), make_hook(database, name="n", form="github")
    for hook in (timed, named):
        for key, days, state in (("old", 91, "refused"), ("new", 89, "refused")):
            deliver(database, hook, key, days, state)
        deliver(database, hook, "waits", 91, "waiting")
    messages.store(database, "topic", b"payload", "refused")
    with database.connection() as connection:
        connection.execute("UPDATE mqtt_messages SET received_at = now() - interval '91 days'")
    said = [
        "2 deliveries of more than 90 days; deleted",
        "1 messages of more than 90 days; deleted",
    ]
    assert guard.forget(database, dry_run=True) == said
    assert guard.forget(database, dry_run=False) == said
    assert guard.forget(database, dry_run=False) == []
    left = {(row["hook"], row["key"]): row for row in deliveries.newest(database, None, 100)}
    assert sorted(left) == [
        *(("n", "new"), ("n", "old"), ("n", "waits"), ("timed", "new"), ("timed", "waits")),
    ]
    assert messages.count(database) == {}
    emptied = left["n", "old"]
    assert emptied["parameters"] is None and left["n", "new"]["parameters"] == {"name": "x"}
    with pytest.raises(InputError, match="no longer kept"):
        deliveries.replay(database, emptied["id"])
    with database.connection() as connection:
        rows = connection.execute("SELECT key, body FROM webhook_deliveries").fetchall()
    assert {row["key"] for row in rows if bytes(row["body"]) == b""} == {"old"}
