"""Certificates as an operator would make them, with the ``openssl`` command."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final, NamedTuple

_NEW_KEY: Final = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Identity(NamedTuple):
    """A certificate and its key."""

    cert: Path
    key: Path


class Authority:
    """Another program who signs certificates.

    Args:
        folder: where files are put; made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self.cert, self._key = folder / "ca.pem", folder / "ca.key"
        _openssl(
            "req", "-x509", *_NEW_KEY, "-keyout", self._key, "-out", self.cert, "-subj", "/CN=ca", "-days", "2",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        )  # fmt: skip

    def issue(self, name: str, *, use: str, addresses: tuple[str, ...] = (), days: int = 2) -> Identity:
        """A new identity.

        Args:
            name: also that of the files.
            use: ``serverAuth`` or ``clientAuth``.
            addresses: for which the certificate holds.
            days: until it ends; 0: it has.
        """
        made = Identity(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        asked, extras = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        names = "".join(f",IP:{address}" for address in addresses)
        extras.write_text(f"extendedKeyUsage={use}\nsubjectAltName=DNS:{name}{names}\n")
        _openssl("req", *_NEW_KEY, "-keyout", made.key, "-out", asked, "-subj", f"/CN={name}")
        _openssl(
            "x509", "-req", "-in", asked, "-CA", self.cert, "-CAkey", self._key, "-CAcreateserial",
            "-days", str(days), "-extfile", extras, "-out", made.cert,
        )  # fmt: skip
        return made


def _openssl(*words: str | Path) -> None:
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
