"""Local mode's own account: what Google's libraries find in place of the user's, in any language.

`account.json` is the key file of a service account, to which `GOOGLE_APPLICATION_CREDENTIALS`
points; tokens for it come from local mode. Google does not know the account, so a client can reach
nothing of the user's with it. `roots.pem` makes clients trust this server's certificate for
Google's host names.
"""

from __future__ import annotations

import json
import os
import ssl
from datetime import datetime, timedelta, timezone
from pathlib import Path

import certifi
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from google.auth import jwt
from google.auth.exceptions import GoogleAuthError

from vertex_local.config import LOCAL_ACCOUNT, PROJECT, TRUST, Root, write_private

GOOGLE = "googleapis.com"
KEY_BITS = 2048  # the least that Google's libraries accept
CERTIFICATE_DAYS = 3650
USAGE = x509.KeyUsage(
    digital_signature=True,
    key_cert_sign=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


class Account:
    """The account of one root: its key is read from the root, or made if there is none.

    Args:
        root: holds the key file, which is written anew.
        token_url: where clients ask for an access token.
    """

    def __init__(self, root: Root, token_url: str) -> None:
        self._private_key = _read_key(root.account) or _new_key()
        content = {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": "local-mode",
            "private_key": self._private_key,
            "client_email": LOCAL_ACCOUNT,
            "client_id": "100000000000000000000",
            "auth_uri": token_url,
            "token_uri": token_url,
        }
        write_private(root.account, json.dumps(content, indent=1))
        private = serialization.load_pem_private_key(self._private_key.encode(), None)
        self._public_key = private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def signed(self, token: str) -> bool:
        """Return whether a JSON web token was signed with this account's key and is still valid."""
        try:
            return bool(jwt.decode(token, certs=self._public_key)["iss"] == LOCAL_ACCOUNT)
        except (GoogleAuthError, ValueError, KeyError):
            return False


def _read_key(path: Path) -> str | None:
    try:
        return str(json.loads(path.read_text())["private_key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _new_key() -> str:
    return _pem(rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)).decode()


def _pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def certificate(root: Root) -> tuple[bytes, bytes]:
    """Return a new private key and its certificate for Google's host names, both in PEM.

    `roots.pem`, which clients of this root trust, then holds this certificate and the usual ones.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Local mode of Vertex AI")])
    names = [x509.DNSName(f"*.{GOOGLE}"), x509.DNSName(f"*.storage.{GOOGLE}")]
    public = key.public_key()
    now = datetime.now(timezone.utc)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=CERTIFICATE_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        # Python 3.13 and newer require these extensions.
        .add_extension(USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = signed.public_bytes(serialization.Encoding.PEM)
    write_private(root.trusted, pem.decode() + _usual_certificates(root))
    return _pem(key), pem


def _usual_certificates(root: Root) -> str:
    """Return the certificates that programs trust without local mode, of every file they read."""
    system = ssl.get_default_verify_paths().cafile
    named = [os.environ.get(name) for name in TRUST]
    paths = dict.fromkeys([certifi.where(), *filter(None, [system, *named])])
    others = [Path(path) for path in paths if path != str(root.trusted)]
    return "\n".join(path.read_text(errors="replace") for path in others if path.is_file())
