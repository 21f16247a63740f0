"""Users, passwords, rights and certificates of a store on etcd."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.error import HTTPError

import pytest

from sandnet.errors import Error
from sandnet.stores.base import Put
from sandnet.stores.etcd.etcd_store import EtcdStore
from sandnet.stores.etcd.location import NO_CREDENTIALS, Credentials, EtcdLocation
from tests.support.certificates import Authority
from tests.support.conditions import until
from tests.support.etcd import EtcdCluster, missing
from tests.support.network_host import eventually

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

TOKEN_SECONDS = 2
RENEWAL = 20.0
"""Until a change of rights is found, and its first refusal of a token overcome."""


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def grant(cluster: EtcdCluster, user: str, right: str, token: str = "") -> None:
    """Make a user with a right on the prefix of the store; its password is its name."""
    cluster.call("auth/user/add", {"name": user, "password": user}, token=token)
    cluster.call("auth/role/add", {"name": user}, token=token)
    grant_right(cluster, user, right, token)
    cluster.call("auth/user/grant", {"user": user, "role": user}, token=token)


def grant_right(cluster: EtcdCluster, role: str, right: str, token: str = "") -> None:
    """Give a role a right on the prefix of the store."""
    permission = {"permType": right, "key": encoded("/sandnet/"), "range_end": encoded("/sandnet0")}
    cluster.call("auth/role/grant", {"name": role, "perm": permission}, token=token)


@pytest.fixture(scope="module")
def guarded() -> Iterator[EtcdCluster]:
    """A cluster with users."""
    with EtcdCluster(options=[f"--auth-token-ttl={TOKEN_SECONDS}"]) as cluster:
        cluster.call("auth/user/add", {"name": "root", "password": "root"})
        cluster.call("auth/role/add", {"name": "root"})
        cluster.call("auth/user/grant", {"user": "root", "role": "root"})
        grant(cluster, "writer", "READWRITE")
        grant(cluster, "reader", "READ")
        cluster.call("auth/enable", {})
        yield cluster


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def encrypted(authority: Authority) -> Iterator[EtcdCluster]:
    """A cluster that serves clients with a certificate of the authority."""
    with EtcdCluster(authority=authority) as cluster:
        yield cluster


@asynccontextmanager
async def opened(location: EtcdLocation) -> AsyncIterator[EtcdStore]:
    store = EtcdStore(location, 20.0)
    try:
        yield store
    finally:
        await store.close()


def as_user(cluster: EtcdCluster, folder: Path, user: str, password: str) -> EtcdLocation:
    file = folder / "password"
    file.write_text(password + "\n")
    return cluster.location(credentials=Credentials(user=user, password_file=str(file)))


async def test_user_with_the_right_writes_reads_and_watches(guarded: EtcdCluster, tmp_path: Path) -> None:
    async with opened(as_user(guarded, tmp_path, "writer", "writer")) as store:
        lease = await store.grant(60)
        revision = await store.transact([Put("a", b"")], leases={"a": lease})

        assert await store.keep_alive(lease) > 0
        assert (await anext(store.watch(""))).revision == revision


async def test_expired_token_is_renewed(guarded: EtcdCluster, tmp_path: Path) -> None:
    async with opened(as_user(guarded, tmp_path, "writer", "writer")) as store:
        await store.transact([Put("a", b"")])
        token = store._client._token

        def has_expired() -> bool:
            time.sleep(TOKEN_SECONDS + 1)  # each use prolongs it
            try:
                guarded.call("kv/range", {"key": encoded("/sandnet/a")}, token=token)
            except HTTPError:
                return True
            return False

        await asyncio.to_thread(eventually, has_expired)

        assert await store.get("a")
        assert await store.transact([Put("a", b"2")])
        assert store._client._token != token


async def test_changed_rights_do_not_disturb(guarded: EtcdCluster, tmp_path: Path) -> None:
    async with opened(as_user(guarded, tmp_path, "writer", "writer")) as store:
        await store.transact([Put("a", b"")])
        token = guarded.call("auth/authenticate", {"name": "root", "password": "root"})["token"]
        guarded.call("auth/role/add", {"name": "further"}, token=token)  # the store of rights has a new revision

        assert await store.transact([Put("a", b"2")])


async def test_wrong_password_is_named(guarded: EtcdCluster, tmp_path: Path) -> None:
    async with opened(as_user(guarded, tmp_path, "writer", "wrong")) as store:
        with pytest.raises(Error) as caught:
            await store.get("a")

        assert caught.value.code == "store_unauthorized"
        assert "store_password_file" in caught.value.hint
        assert store.problems()


async def test_missing_user_is_named(guarded: EtcdCluster) -> None:
    async with opened(guarded.location(credentials=NO_CREDENTIALS)) as store:
        with pytest.raises(Error) as caught:
            await store.get("a")

        assert caught.value.code == "store_unauthorized"


async def test_missing_password_file_is_named(guarded: EtcdCluster, tmp_path: Path) -> None:
    path = tmp_path / "none"
    credentials = Credentials(user="writer", password_file=str(path))
    async with opened(guarded.location(credentials=credentials)) as store:
        with pytest.raises(Error) as caught:
            await store.get("a")

        assert str(path) in caught.value.message


async def test_user_without_the_right_to_write_reads_only(guarded: EtcdCluster, tmp_path: Path) -> None:
    async with opened(as_user(guarded, tmp_path, "reader", "reader")) as store:
        assert await store.get("none") is None
        with pytest.raises(Error) as caught:
            await store.transact([Put("a", b"")])

        assert caught.value.code == "store_denied"


async def test_missing_right_to_write_is_named_before_a_write(guarded: EtcdCluster, tmp_path: Path) -> None:
    async with opened(as_user(guarded, tmp_path, "reader", "reader")) as store:
        await anext(store.watch(""))
        await until(lambda: any("readwrite" in problem for problem in store.problems()))


async def test_problem_ends_when_the_right_to_write_is_given(guarded: EtcdCluster, tmp_path: Path) -> None:
    token = guarded.call("auth/authenticate", {"name": "root", "password": "root"})["token"]
    grant(guarded, "late", "READ", token)
    async with opened(as_user(guarded, tmp_path, "late", "late")) as store:
        await anext(store.watch(""))
        await until(store.problems)
        grant_right(guarded, "late", "READWRITE", token)
        await until(lambda: not store.problems(), RENEWAL)


async def test_user_is_not_needed_where_there_are_none(authority: Authority, tmp_path: Path) -> None:
    with EtcdCluster() as cluster:
        async with opened(as_user(cluster, tmp_path, "writer", "writer")) as store:
            assert await store.transact([Put("a", b"")])


async def test_client_with_a_certificate_is_served(
    encrypted: EtcdCluster, authority: Authority, tmp_path: Path
) -> None:
    mine = authority.issue("host", use="clientAuth")
    credentials = Credentials(str(authority.cert), str(mine.cert), str(mine.key))
    async with opened(encrypted.location(credentials=credentials)) as store:
        revision = await store.transact([Put("a", b"")])

        assert (await anext(store.watch(""))).revision == revision


async def test_renewed_certificate_is_used_without_a_restart(
    encrypted: EtcdCluster, authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "other").issue("host", use="clientAuth")
    mine = authority.issue("renewed", use="clientAuth")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(stranger.cert.read_bytes())
    key.write_bytes(stranger.key.read_bytes())
    async with opened(encrypted.location(credentials=Credentials(str(authority.cert), str(cert), str(key)))) as store:
        with pytest.raises(Error):
            await store.get("a")
        cert.write_bytes(mine.cert.read_bytes())
        key.write_bytes(mine.key.read_bytes())

        await store.get("a")


@pytest.mark.parametrize("own", ["none", "of another CA", "for servers"])
async def test_client_without_a_valid_certificate_is_refused(
    encrypted: EtcdCluster, authority: Authority, tmp_path: Path, own: str
) -> None:
    issuer = Authority(tmp_path / "other") if own == "of another CA" else authority
    shown = issuer.issue("stranger", use="serverAuth" if own == "for servers" else "clientAuth")
    files = ("", "") if own == "none" else (str(shown.cert), str(shown.key))
    async with opened(encrypted.location(credentials=Credentials(str(authority.cert), *files))) as store:
        with pytest.raises(Error) as caught:
            await store.transact([Put("b", b"")])

        assert caught.value.code == "store_unauthorized"


async def test_member_with_a_certificate_of_another_ca_is_refused(
    encrypted: EtcdCluster, authority: Authority, tmp_path: Path
) -> None:
    mine = authority.issue("host", use="clientAuth")
    other = Authority(tmp_path / "other")
    credentials = Credentials(str(other.cert), str(mine.cert), str(mine.key))
    async with opened(encrypted.location(credentials=credentials)) as store:
        with pytest.raises(Error) as caught:
            await store.transact([Put("b", b"")])

        assert caught.value.code == "store_unauthorized"
        assert "store_ca" in caught.value.hint


async def test_unreadable_certificate_is_named(encrypted: EtcdCluster, tmp_path: Path) -> None:
    async with opened(encrypted.location(credentials=Credentials(ca=str(tmp_path / "none.pem")))) as store:
        with pytest.raises(Error) as caught:
            await store.get("a")

        assert (caught.value.code, "none.pem" in caught.value.reason) == ("store_unauthorized", True)
