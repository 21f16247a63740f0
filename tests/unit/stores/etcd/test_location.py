"""URLs of a store on etcd."""

from __future__ import annotations

import pytest

from sandnet.config import load
from sandnet.errors import Error
from sandnet.stores.etcd.location import NO_CREDENTIALS, Credentials, EtcdLocation, parse

FILES = Credentials("/ca", "/cert", "/key", "sandnet", "/password")


@pytest.mark.parametrize(
    ("url", "members", "prefix", "tls"),
    [
        ("etcd://h1:2379,h2:2380/net", (("h1", 2379), ("h2", 2380)), "/net/", False),
        ("etcd://h1", (("h1", 2379),), "/sandnet/", False),
        ("etcd://h1/", (("h1", 2379),), "/sandnet/", False),
        ("etcds://10.0.0.1:1/a/b/", (("10.0.0.1", 1),), "/a/b/", True),
        ("etcd://[2001:db8::1]:7,[::1]/x", (("2001:db8::1", 7), ("::1", 2379)), "/x/", False),
        ("etcd://h1,h1,h2/é", (("h1", 2379), ("h2", 2379)), "/é/", False),
    ],
)
def test_url_of_etcd_is_parsed(url: str, members: tuple[tuple[str, int], ...], prefix: str, *, tls: bool) -> None:
    assert parse(url) == EtcdLocation(members, prefix, tls, NO_CREDENTIALS)


@pytest.mark.parametrize(
    "url",
    [
        "etcd://",
        "etcd:///prefix",
        "etcd:h1",
        "http://h1",
        "etcd://h1:",
        "etcd://h1:0",
        "etcd://h1:65536",
        "etcd://h1:x",
        "etcd://h1:٣",
        "etcd://h1,,h2",
        "etcd://user:password@h1",
        "etcd://[::1",
        "etcd://[::1]2379",
        "etcd://[x]",
        "etcd://-h",
        "etcd://h 1",
        "etcd://h1\r\nX: y/",
        "etcd://h1/a//b",
        "etcd://h1/a?b",
        "etcd://h1/a\nb",
        "etcd://" + ",".join(f"h{n}" for n in range(17)),
    ],
)
def test_malformed_url_is_refused(url: str) -> None:
    with pytest.raises(Error) as caught:
        parse(url)

    assert caught.value.code == "invalid_configuration"


@pytest.mark.parametrize(
    ("url", "credentials"),
    [
        ("etcd://h", Credentials(ca="/ca")),
        ("etcd://h", Credentials(cert="/cert", key="/key")),
        ("etcds://h", Credentials(cert="/cert")),
        ("etcds://h", Credentials(key="/key")),
        ("etcd://h", Credentials(user="u")),
        ("etcd://h", Credentials(password_file="/p")),
        ("etcds://h", Credentials(ca="ca")),
    ],
)
def test_credentials_that_do_not_fit_are_refused(url: str, credentials: Credentials) -> None:
    with pytest.raises(Error):
        parse(url, credentials)


def test_configuration_holds_the_location() -> None:
    keys = ("store_ca", "store_cert", "store_key", "store_user", "store_password_file")
    config = load(None, {"store": "etcds://h1/net", **dict(zip(keys, FILES, strict=True))})

    assert config.shared_store == EtcdLocation((("h1", 2379),), "/net/", True, FILES)


def test_configuration_without_etcd_has_no_shared_store() -> None:
    assert load(None, {}).shared_store is None


@pytest.mark.parametrize("values", [{"store_user": "u"}, {"store": "etcd://h1:x"}])
def test_invalid_shared_store_is_refused_at_the_edge(values: dict[str, object]) -> None:
    with pytest.raises(Error):
        load(None, values)
