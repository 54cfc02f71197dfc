"""Signatures of versions, as OpenSSF's model-signing makes and checks them: who holds the key vouches for every byte, the manifest too.

Enters: a version's directory and a key. Leaves: `model.sig` beside the manifest, or a refusal. Its own command line checks the same:
`model_signing verify key DIR --signature DIR/model.sig --ignore-paths DIR/model.sig --public_key KEY`.
"""

from pathlib import Path
from typing import Any

from foundation.errors import SettingInvalid, SignatureInvalid
from model_registry.manifest import SIGNATURE


def check_keys(private_key: Path | None, public_key: Path | None) -> None:
    """Read the keys that are set: one that cannot be used is refused before a training, not after it. Raises SettingInvalid."""
    if private_key is not None:
        _signer(private_key)
    if public_key is not None:
        _verifier(public_key)


def sign(directory: Path, private_key: Path) -> None:
    """Sign all files of a directory, which holds its manifest by now. Raises SettingInvalid where the key cannot be used."""
    _signer(private_key).set_hashing_config(_hashing(directory)).sign(directory, directory / SIGNATURE)


def _signer(private_key: Path) -> Any:
    import model_signing  # noqa: PLC0415 - it takes half a second, and most registries have no key

    try:
        return model_signing.signing.Config().use_elliptic_key_signer(private_key=private_key)
    except (OSError, ValueError, TypeError, AttributeError) as error:  # another kind of key has no curve
        raise SettingInvalid(f"registry.signing_key = {private_key} is no private key on an elliptic curve: {str(error)[:200]}") from error


def _verifier(public_key: Path) -> Any:
    import model_signing  # noqa: PLC0415

    try:
        return model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise SettingInvalid(f"registry.public_key = {public_key} is no public key on an elliptic curve: {str(error)[:200]}") from error


def check_signature(directory: Path, public_key: Path, where: str) -> None:
    """Check that whoever holds the key signed exactly these files. Raises SignatureInvalid, SettingInvalid."""
    signature = directory / SIGNATURE
    if not signature.is_file():
        raise SignatureInvalid(f"{where} is not signed, and registry.public_key = {public_key} is set")
    verifier = _verifier(public_key)
    try:
        verifier.set_hashing_config(_hashing(directory)).verify(directory, signature)
    except Exception as error:  # the library raises what its parts raise
        raise SignatureInvalid(
            f"the signature of {where} does not hold for registry.public_key = {public_key}: {str(error)[:200]}"
        ) from error


def _hashing(directory: Path) -> Any:
    """Return how files are hashed: all of them, the signature apart."""
    import model_signing  # noqa: PLC0415

    return model_signing.hashing.Config().set_ignored_paths(paths=[directory / SIGNATURE], ignore_git_paths=False)
