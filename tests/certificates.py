"""Authorities and certificates for TLS, made by openssl."""

import shutil
import subprocess
from pathlib import Path

HAS_OPENSSL = shutil.which("openssl") is not None
"""Whether certificates can be made."""

NEW_KEY = ("-newkey", "rsa:2048", "-nodes")


def make_authority(folder: Path, name: str) -> None:
    """Makes an authority: NAME.crt and NAME.key."""
    files = ("-keyout", f"{name}.key", "-out", f"{name}.crt")
    _openssl(folder, "req", "-x509", *NEW_KEY, *files, "-days", "2", "-subj", f"/CN={name}")


def make_certificate(folder: Path, name: str, authority: str, extension: str = "") -> None:
    """Makes a certificate, NAME.crt and NAME.key.

    Args:
        folder: Where the authority is, and where it goes.
        name: Its name.
        authority: Name of the authority that signs it.
        extension: What it says besides, as openssl writes it.
    """
    _openssl(folder, "req", *NEW_KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
    (folder / "extension").write_text(extension)
    signed_by = ("-CA", f"{authority}.crt", "-CAkey", f"{authority}.key", "-CAcreateserial", "-extfile", "extension")
    _openssl(folder, "x509", "-req", "-in", f"{name}.csr", *signed_by, "-days", "2", "-out", f"{name}.crt")


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
