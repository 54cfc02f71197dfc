"""The review service's settings table: [review]."""

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from foundation.settings import Table


def _network(said: str) -> str:
    ip_network(said, strict=False)  # whose ValueError names what is wrong
    return said


class ReviewSettings(Table):
    """Where the page is served, who may answer, and how answers are asked for."""

    bind: str = "127.0.0.1"
    """Address that the page is served on; beyond loopback it needs users."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Port of the page; 0 takes a free one, which is printed."""
    database_url: str = "sqlite:///review.sqlite3"
    """SQLAlchemy URL of the store: SQLite, or postgresql+psycopg://… for many reviewers; rebuilt from the topics if lost."""
    users_file: Path | None = None
    """TOML file of users with argon2 hashes and roles (`winnow user` writes it); unset means one user, on loopback only."""
    proxy_header: str | None = None
    """Header in which a trusted proxy names the user who has logged in there, such as X-Forwarded-User."""
    trusted_proxies: tuple[Annotated[str, AfterValidator(_network)], ...] = ("127.0.0.1",)
    """Addresses or networks (`10.0.0.0/8`) of proxies: their `proxy_header` is believed, and their X-Forwarded-For names who asks."""
    lease_seconds: Annotated[float, Field(ge=1)] = 120.0
    """How long a record is kept for one reviewer before it goes back by itself."""
    second_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of the records that a second reviewer answers too; every `wrong` on an audit is looked at again in any case."""
    wrong_looks: Annotated[int, Field(ge=2, le=4)] = 2
    """How many more people must call a blind record wrong than right before it counts; after 3, 5 or 7 people the last answer does, and
    fewer may leave it waiting. The more, the fewer careless answers in a row pass for an error. After a change: `winnow review --rebuild`.
    """
    read_clean: bool = False
    """Keep clean records too, so that the page can show what the same twin said before."""
    gate_metrics: tuple[Annotated[str, Field(pattern=r"^https?://")], ...] = ()
    """Addresses of the gates' /metrics, whose shadow figures the model page shows; none means the first gate of this machine.
    Every machine behind a name is asked, where it stands for several."""
    language: Literal["zh", "en"] = "zh"
    """Language of the page until a reviewer chooses another."""
    session_hours: Annotated[float, Field(gt=0)] = 12.0
    """How long a login lasts."""
