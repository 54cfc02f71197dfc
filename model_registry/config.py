"""The registry's settings table: [registry]."""

from foundation.settings import Table


class RegistrySettings(Table):
    """Where model versions live."""

    url: str = "./registry"
    """Directory of the registry, as a path or a file:// URL; or s3://BUCKET/PREFIX, gs:// or az://, credentials from the environment."""
    name: str = "winnow"
    """Name of the model; a version is shown as name@version."""
