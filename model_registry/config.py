"""The registry's settings table: [registry]."""

from pathlib import Path

from foundation.settings import Table


class RegistrySettings(Table):
    """Where model versions live."""

    url: str = "./registry"
    """Directory of the registry, as a path or a file:// URL; or s3://BUCKET/PREFIX, gs:// or az://, credentials from the environment."""
    signing_key: Path | None = None
    """PEM file of a private key on the curve P-256, P-384 or P-521: what is published is signed with it."""
    public_key: Path | None = None
    """PEM file of its public key: a version that is not signed with the other half is refused, by gates too."""
    name: str = "winnow"
    """Name of the model; a version is shown as name@version."""
