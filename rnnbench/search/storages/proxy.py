"""Reaches studies through Optuna's gRPC proxy, which shares connections to a database among many workers."""

import warnings
from urllib.parse import urlsplit

from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, GrpcStorageProxy

from rnnbench.search.storages.kind import StorageKind

PORT = 13000  # Optuna's default
WAIT = 5.0  # seconds that a proxy has to answer first


class GrpcProxy(StorageKind):
    """A proxy server: a process that runs `optuna.storages.run_grpc_proxy_server`."""

    scheme = "grpc"
    form = "grpc://HOST:PORT"
    extra = "grpc"

    @property
    def unavailable(self) -> tuple[type[Exception], ...]:
        """gRPC's RpcError; errors of the storage behind the proxy arrive as other types."""
        from grpc import RpcError  # installed with the extra

        return (RpcError,)

    def open(self) -> BaseStorage:
        """Connect to the proxy."""
        parts = urlsplit(self.url)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            proxy = GrpcStorageProxy(host=parts.hostname or "localhost", port=parts.port or PORT)
        proxy.wait_server_ready(timeout=WAIT)
        return proxy
