"""The registries of all tenants, as one node of a cluster has them: those that somebody asks for here."""

from herenow.registry.base import Registry, RegistryStats
from herenow.registry.tenants import Tenants


class ClusterTenants(Tenants):
    """As :class:`~herenow.registry.tenants.Tenants`; whom a registry has that is dropped here stays where they are."""

    known: tuple[str | None, ...] = (None,)
    """All that have ever had a user in the cluster, as it was seen last."""

    def names(self) -> tuple[str | None, ...]:
        return tuple(dict.fromkeys((*super().names(), *self.known)))

    def find(self, tenant: str | None) -> Registry | None:
        return self.registry(tenant) if tenant in self.known else super().find(tenant)

    def _may_go(self, stats: RegistryStats, last: int) -> bool:
        return True

    def _saved_by(self, stats: RegistryStats) -> int:
        return 0
