"""Every setting of herenow: its meaning, unit and default, and how they must fit together.

A setting comes, in this order of weight, from a flag or an argument, from the environment (``HERENOW_PORT=8080``), from
``herenow.toml`` in the working directory (``port = 8080``), or from the default here.
"""

import os
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from .digests import digest_of, is_fit_key
from .errors import SettingsInvalid
from .tenancy import is_tenant
from .urls import is_network, is_origin, is_safe_url
from .wrong_settings import PREFIX, TOML, example, say_origin, say_wrong

DISPATCH_BUDGET_S = 0.15
"""What of ``offline_within_s`` is kept for telling the watchers and writing the store; the rest is the grace."""

LONGEST_RECONNECT_S = 5.0
"""The longest pause of the stock Socket.IO client between two tries to reconnect (``reconnectionDelayMax``)."""

FIELD_NAME = r"^[^.$\x00][^.\x00]*$"
"""A field of a document, not a path into one."""


_CLAIMS = {"exp", "nbf", "iat", "iss", "aud", "watch", "tenant"}
"""Claims that are no user's id."""

_ALIKE = (
    "offline_within_s", "restart_grace_s", "node_lease_s", "node_beat_s", "idle_after_s", "last_active_granularity_s",
    "stale_after_s", "users_collection", "is_online_field", "last_active_field", "presence_field", "tenant_field",
    "create_users", "unknown_users", "jwt_user_claim", "jwt_issuer", "jwt_audience", "dev", "shards",
)  # fmt: skip
"""Settings that all nodes of a cluster must have alike."""

CLUSTERS = (
    "redis://", "rediss://", "unix://", "redis+sentinel://", "rediss+sentinel://", "redis+cluster://", "rediss+cluster://",
)  # fmt: skip
"""How the address of a cluster's Redis begins."""

SQLITE = "sqlite:///"
"""How the address of a SQLite file begins."""


class Settings(BaseSettings):
    """How herenow behaves. Times are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, toml_file=TOML, extra="forbid", frozen=True)

    database: str = Field(
        "sqlite:///herenow.db",
        description="The application's database: sqlite:///path, whose directory must exist (~ is your home), or "
        "mongodb://host/name.",
    )
    users_collection: str = Field("users", min_length=1, description="MongoDB: the collection of the users.")
    is_online_field: str = Field(
        "isOnline", pattern=FIELD_NAME, description="MongoDB: where the application reads whether a user is online."
    )
    last_active_field: str = Field(
        "lastActive", pattern=FIELD_NAME, description="MongoDB: where it reads when a user was last active."
    )
    presence_field: str = Field("presence", pattern=FIELD_NAME, description="MongoDB: where herenow keeps its own.")
    tenant_field: str | None = Field(
        None,
        pattern=FIELD_NAME,
        description="MongoDB: where the application keeps a user's tenant; without it, tokens of tenants are refused.",
    )
    create_users: bool = Field(
        False, description="MongoDB: create a user who is not in the collection, instead of reporting it."
    )
    unknown_users: Literal["serve", "refuse"] = Field(
        "serve",
        description="Users whom the database does not have: serve them all the same, or refuse them, and send away "
        "whoever is deleted.",
    )
    database_timeout_s: float = Field(
        2.0, gt=0, description="An operation of the database that takes longer has failed, and is tried again."
    )
    sqlite_log_limit: int = Field(
        268_435_456,
        ge=2_097_152,
        description="SQLite: bytes of the log beside it (-wal) from which rows wait in memory, while another program "
        "that reads an old state keeps it from being folded in.",
    )
    host: str = Field("127.0.0.1", description="The address to listen on.")
    port: int = Field(8000, ge=0, le=65_535, description="The port to listen on; 0 takes a free one.")
    address: str | None = Field(
        None,
        description="Where people reach your application, for `herenow status` to show; the commands find it without.",
    )
    root_path: str = Field(
        "",
        pattern="^(/[^/?#\\s]+)*$",
        description="The prefix under which a proxy serves `herenow serve`, as in /presence, be it taken off or not.",
    )
    node_name: str | None = Field(
        None,
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9._-]+$",
        description="What this server is called; in a cluster each node's own, and by default one of its own making.",
    )
    cluster: SecretStr | None = Field(
        None,
        description="Several nodes serve the same users: redis://user:password@host:6379/0 of a Redis or Valkey (6.2, "
        "7.2 or later), rediss:// with TLS, unix:///path, redis+sentinel://host:26379,host:26379/name, or "
        "redis+cluster://host:6379,host:6379 of a Redis Cluster.",
    )
    cluster_prefix: str = Field(
        "hn",
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="How all its keys in Redis begin, so that several clusters may share one.",
    )
    shards: int = Field(
        1,
        ge=1,
        le=64,
        description="Among so many the tenants of a cluster are divided: more than 1 only on a Redis Cluster, of which "
        "each shard has one slot. Change it only while no node runs.",
    )
    dev: bool = Field(False, description="Believe the userId that a client names. On loopback only.")
    jwt_secret: SecretStr | None = Field(
        None, description="The secret of the HS256 tokens that clients connect with; at least 32 bytes."
    )
    jwt_previous_secrets: list[SecretStr] = Field(
        [], description="Secrets that still count while clients move to a new jwt_secret."
    )
    jwt_public_keys: list[str] = Field(
        [], description="Public keys or certificates (RSA, P-256 to P-521, Ed25519) of who signs: PEM, or its file."
    )
    jwt_jwks_url: str | None = Field(None, description="Where an identity provider publishes its keys (a JWK Set).")
    jwt_jwks_allow_http: bool = Field(
        False, description="Fetch them over an open line too: where nobody else is on the way, as among containers."
    )
    jwt_user_claim: str = Field(
        "sub", min_length=1, max_length=128, description="Which claim of a token is the user's id."
    )
    jwt_issuer: str | None = Field(None, description="What a token's iss must be.")
    jwt_audience: str | None = Field(None, description="What a token's aud must hold; without it, none may have one.")
    jwt_leeway_s: float = Field(
        10.0, ge=0, le=300, description="How far the issuer's clock may be off, when a token begins and when it ends."
    )
    api_keys: list[SecretStr] = Field(
        [], description="Let programs read over HTTP (/v1): each a key, or sha256: and its digest (herenow token)."
    )
    tenant_api_keys: dict[str, list[SecretStr]] = Field(
        {}, description="The same for programs of a tenant, by its name: each key reads that tenant and no other."
    )
    admin_tokens: list[SecretStr] = Field([], description="Let operators use /v1/admin; written like api_keys.")
    origins: list[str] | None = Field(
        None, description="Pages that may connect, such as https://app.example; by default this server's own only."
    )

    tls_certfile: Path | None = Field(
        None, description="Serve https and wss with this certificate (PEM, its chain behind it); else a proxy does."
    )
    tls_keyfile: Path | None = Field(None, description="Its private key (PEM), if that is not in the same file.")
    tls_keyfile_password: SecretStr | None = Field(None, description="What the private key is encrypted with.")

    offline_within_s: float = Field(
        2.0,
        allow_inf_nan=False,
        description="How long after the last connection closed a user is shown offline, at most.",
    )
    ping_interval_s: float = Field(10.0, gt=0, description="Between two heartbeats.")
    ping_timeout_s: float = Field(5.0, gt=0, description="Within which a heartbeat must be answered.")
    restart_grace_s: float = Field(15.0, description="How long after a crash users have to come back unnoticed.")
    drain_s: float = Field(
        2.0,
        ge=0,
        le=3,
        description="Within which a node that stops hands its users on to the others, some at a time. 0: all at once.",
    )
    stale_after_s: float = Field(300.0, gt=0, description="What `herenow stale` calls silent for too long.")
    idle_after_s: float | None = Field(
        None, gt=0, description="Without activity for so long a device is idle; by default only the client says so."
    )
    last_active_granularity_s: float = Field(
        60.0, gt=0, description="Activity is shown when it moves lastActive by this much."
    )
    node_beat_s: float = Field(1.0, gt=0, description="Between two signs of life of the server in the store.")
    node_lease_s: float = Field(
        5.0,
        gt=0,
        le=3600,
        description="Without one for so long the server counts as dead, and writes nothing before the next.",
    )
    audit_every_s: float = Field(30.0, gt=0, description="Between two comparisons of the store with the registry.")

    flush_interval_s: float = Field(0.05, gt=0, description="Changes gather for so long before they are sent.")
    flush_longest_s: float = Field(1.0, gt=0, description="And for no longer than this under load.")
    slow_reader_timeout_s: float = Field(30.0, gt=0, description="A client that takes nothing for so long is closed.")
    write_buffer_high: int = Field(65_536, gt=0, description="Unsent bytes from which a client is slow.")
    max_payload: int = Field(1_000_000, gt=0, description="One message of a client, at most.")
    connect_timeout_s: float = Field(10.0, gt=0, description="Within which a client must say who it is.")
    request_timeout_s: float = Field(
        15.0, gt=0, description="Within which the head of an HTTP request must be there, and then its body."
    )
    max_connections: int = Field(100_000, gt=0, description="In all.")
    max_connections_per_user: int = Field(100, gt=0, description="Tabs and devices of one user.")
    max_connections_per_address: int = Field(
        1_000, gt=0, description="Of one address (IPv6: of one /64); this machine's own do not count."
    )
    trusted_proxies: list[str] = Field(
        ["127.0.0.0/8", "::1"],
        description="Addresses and networks whose X-Forwarded-For and X-Forwarded-Proto are believed.",
    )
    overload_lag_s: float = Field(
        1.0, gt=0, description="While the event loop is later than this, nobody new is let in, for those inside."
    )
    can_watch_stale_s: float = Field(
        30.0, gt=0, description="How long a yes of the application's `can_watch` counts; then it is asked anew."
    )
    max_connects_per_s_of_user: float = Field(
        5.0, gt=0, description="Times that a user connects, over time; max_connections_per_user at once."
    )
    max_watched_users: int = Field(10_000, gt=0, description="Users that one connection may watch by name.")
    max_events_per_s: float = Field(50.0, gt=0, description="Events of one connection; twice as many in a burst.")
    max_events_per_s_of_user: float = Field(
        200.0, gt=0, description="The same for all connections of one user; no less than for one connection."
    )
    max_status_text: int = Field(140, gt=0, description="Characters of a status text.")

    @property
    def node(self) -> str:
        """What this server is called where it is the only one."""
        return self.node_name or "local"

    @property
    def cluster_url(self) -> str:
        """Where the cluster's Redis is, with the password."""
        return "" if self.cluster is None else self.cluster.get_secret_value()

    def shared_by_cluster(self) -> dict[str, str]:
        """What all nodes of a cluster must have alike, by name; of secrets digests, one of which must match."""
        same = {name: str(getattr(self, name)) for name in _ALIKE}
        secrets = [self.jwt_secret, *self.jwt_previous_secrets]
        digests = (digest_of(secret.get_secret_value()) for secret in secrets if secret is not None)
        same["jwt_secret"] = " ".join(digest.hex()[:12] for digest in digests)
        return same

    @property
    def grace_s(self) -> float:
        """How long a user lingers after the last connection closed uncleanly."""
        return self.offline_within_s - DISPATCH_BUDGET_S

    @property
    def shortest_restart_grace_s(self) -> float:
        """Within which every stock client that can come back after a restart has done so."""
        return 1.5 * LONGEST_RECONNECT_S + self.offline_within_s

    @property
    def silent_loss_s(self) -> float:
        """How long after a network died without a sign a user is shown offline, at most."""
        return self.ping_interval_s + self.ping_timeout_s + self.offline_within_s

    @classmethod
    def load(cls, **given: Any) -> Self:
        """Read the settings; those that are given win. ``None`` is not given.

        Raises:
            SettingsInvalid: one is wrong, or two do not fit together; the sentence names them.
        """
        _see_that_names_are_right(os.environ, cls.model_fields)
        try:
            return cls(**{name: value for name, value in given.items() if value is not None})
        except ValidationError as error:
            wrong = [say_wrong(each, given, cls.model_fields) for each in error.errors()]
            raise SettingsInvalid("; ".join(wrong)) from error
        except SettingsError as error:
            found = re.search(r'field "(\w+)"', str(error))
            name = found[1] if found else "api_keys"
            raise SettingsInvalid(
                f"{PREFIX}{name.upper()} is not JSON: write {PREFIX}{name.upper()}='{example(name)}'"
            ) from error
        except ValueError as error:  # a TOML file that is none
            raise SettingsInvalid(
                f"{Path(TOML).absolute()} is not TOML ({error}): write lines such as port = 8080 and "
                f"origins = {example('origins')}"
            ) from error
        except OSError as error:
            raise SettingsInvalid(
                f"{Path(TOML).absolute()} cannot be read: {(error.strerror or str(error)).lower()}"
            ) from error

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @field_validator("database", "tls_certfile", "tls_keyfile", "jwt_public_keys")
    @classmethod
    def _at_home(cls, value: Any) -> Any:
        """Put the user's home in the place of a ``~``: no shell does so inside of a URL or a file of settings."""
        match value:
            case Path():
                return value.expanduser()
            case str() if value.startswith(f"{SQLITE}~"):
                return SQLITE + os.path.expanduser(value.removeprefix(SQLITE))
            case list():
                return [os.path.expanduser(each) if each.startswith("~") else each for each in value]
        return value

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        checks = [
            (
                self.offline_within_s > 2 * DISPATCH_BUDGET_S,
                f"offline_within_s ({self.offline_within_s:g}) must be above {2 * DISPATCH_BUDGET_S:g}: "
                f"{DISPATCH_BUDGET_S:g} s of it are needed to tell the watchers",
            ),
            (
                self.ping_timeout_s < self.ping_interval_s * 2,
                f"ping_timeout_s ({self.ping_timeout_s:g}) must be below ping_interval_s × 2 "
                f"({self.ping_interval_s * 2:g}): a dead client would be asked again before it is given up",
            ),
            (
                self.restart_grace_s >= self.shortest_restart_grace_s,
                f"restart_grace_s ({self.restart_grace_s:g}) must be at least 1.5 × {LONGEST_RECONNECT_S:g} + "
                f"offline_within_s ({self.offline_within_s:g}): the stock client pauses up to "
                f"{LONGEST_RECONNECT_S:g} s between two tries, and would flicker",
            ),
            (
                self.node_beat_s * 2 < self.node_lease_s,
                f"node_beat_s ({self.node_beat_s:g}) × 2 must be below node_lease_s ({self.node_lease_s:g}): "
                "one late beat would make a live server count as dead",
            ),
            (
                self.cluster is None or self.cluster_url.startswith(CLUSTERS),
                f"cluster must begin with one of {', '.join(CLUSTERS)}: it is where the nodes' Redis is",
            ),
            (
                self.last_active_granularity_s < self.stale_after_s,
                f"last_active_granularity_s ({self.last_active_granularity_s:g}) must be below stale_after_s "
                f"({self.stale_after_s:g}): an active user would look stale",
            ),
            (
                self.ping_interval_s + self.ping_timeout_s < self.stale_after_s,
                f"ping_interval_s ({self.ping_interval_s:g}) + ping_timeout_s ({self.ping_timeout_s:g}) must be below "
                f"stale_after_s ({self.stale_after_s:g}): a client that is still waited for would look stale",
            ),
            (
                self.flush_interval_s * 3 < self.offline_within_s,
                f"flush_interval_s ({self.flush_interval_s:g}) × 3 must be below offline_within_s "
                f"({self.offline_within_s:g}): the watchers would hear too late",
            ),
            (
                all(
                    secret is None or len(secret.get_secret_value().encode()) >= 32
                    for secret in (self.jwt_secret, *self.jwt_previous_secrets)
                ),
                "jwt_secret, and each of jwt_previous_secrets, must have at least 32 bytes (RFC 7518, section 3.2): a "
                "shorter one can be guessed; `openssl rand -hex 32` makes one",
            ),
            (
                all(is_fit_key(key.get_secret_value()) for keys in self._keys() for key in keys),
                "each of api_keys, tenant_api_keys and admin_tokens must have at least 16 characters, or be sha256: "
                "and 64 hexadecimal digits (`herenow token --api-key` makes one)",
            ),
            (
                all(map(is_tenant, self.tenant_api_keys)),
                "each name in tenant_api_keys must be 1 to 64 letters, digits, dots, underscores and dashes",
            ),
            (
                self.unknown_users == "serve" or not self.create_users,
                "unknown_users is refuse and create_users is on: whoever is created is never unknown; choose one",
            ),
            (
                self.tls_certfile is not None or (self.tls_keyfile is None and self.tls_keyfile_password is None),
                "tls_keyfile and tls_keyfile_password need tls_certfile: a key alone proves nothing",
            ),
            (
                not (odd := [each for each in self.trusted_proxies if not is_network(each)]),
                f"trusted_proxies: {', '.join(map(repr, odd))}: each must be an address or a network, such as "
                "10.0.0.7 or 10.0.0.0/8; a name is not looked up",
            ),
            (
                not (odd := [each for each in self.origins or () if not is_origin(each)]),
                "origins: " + "; ".join(map(say_origin, odd)),
            ),
            (
                self.jwt_jwks_url is None or is_safe_url(self.jwt_jwks_url, http=self.jwt_jwks_allow_http),
                "jwt_jwks_url must begin with https:// (http:// on this machine only): whoever can change the answer "
                "on its way can be anybody; where nobody can, set jwt_jwks_allow_http",
            ),
            (
                self.jwt_user_claim not in _CLAIMS,
                f"jwt_user_claim must not be {', '.join(sorted(_CLAIMS))}: those say something else",
            ),
        ]
        fields = ["_id", self.is_online_field, self.last_active_field, self.presence_field]
        fields += [] if self.tenant_field is None else [self.tenant_field]
        checks.append(
            (
                len(set(fields)) == len(fields),
                "is_online_field, last_active_field, presence_field and tenant_field must be different fields, and "
                "none of them _id",
            )
        )
        for holds, sentence in checks:
            if not holds:
                raise ValueError(sentence)
        if not self._opens_one_thing_each():
            raise ValueError(
                "a key of tenant_api_keys stands elsewhere too, with another tenant, in api_keys or in admin_tokens: "
                "each must open one thing"
            )
        return self

    def _keys(self) -> list[list[SecretStr]]:
        """What opens something: of each tenant, of no tenant and of operators."""
        return [*self.tenant_api_keys.values(), self.api_keys, self.admin_tokens]

    def _opens_one_thing_each(self) -> bool:
        """Whether no key of a tenant opens something else. The operator's own may be one: who may maintain may read."""
        *tenants, readers, maintainers = ({digest_of(key.get_secret_value()) for key in keys} for keys in self._keys())
        apart = [*tenants, readers | maintainers]
        return len(set[bytes]().union(*apart)) == sum(map(len, apart))


def _see_that_names_are_right(environment: Iterable[str], known: Iterable[str]) -> None:
    """Refuse a variable that is nearly a setting: ``HERENOW_JWT_ISSUR`` would leave tokens of all issuers in.

    What is further from any may be somebody else's: Kubernetes has variables for each service, ``HERENOW_PORT_80_TCP``.
    """
    settings = {name.upper() for name in known}
    for variable in environment:
        name = variable.upper().removeprefix(PREFIX)
        if variable.upper() == f"{PREFIX}NODE":
            raise SettingsInvalid(f"{variable} is called {PREFIX}NODE_NAME now")
        if variable.upper().startswith(PREFIX) and name not in settings:
            for meant in get_close_matches(name, settings, 1, 0.85):
                raise SettingsInvalid(f"there is no setting {variable}: is {PREFIX}{meant} meant?")


def sqlite_path(database: str) -> Path | None:
    """The file of a SQLite address, or ``None`` for another database."""
    return Path(database.removeprefix(SQLITE)) if database.startswith(SQLITE) else None
