"""Defines the interface of a kind of storage for studies."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from optuna.storages import BaseStorage

KINDS: dict[str, type["StorageKind"]] = {}  # by scheme of the URL


class StorageKind(ABC):
    """A kind of storage for studies, named by the scheme of its URLs; a subclass registers itself.

    Attributes:
        scheme: the part of the URL before "://", without SQLAlchemy's driver.
        form: the form of its URLs, for messages.
        extra: the extra of this package that installs its requirements; None if it has none.
    """

    scheme: ClassVar[str]
    form: ClassVar[str]
    extra: ClassVar[str | None] = None

    def __init_subclass__(cls) -> None:
        """Register the kind under its scheme; a file that is imported again replaces its earlier class."""
        if "scheme" in vars(cls):
            KINDS[cls.scheme] = cls

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    def unavailable(self) -> tuple[type[Exception], ...]:
        """The errors that the open storage raises if its server does not answer."""
        return ()

    @property
    def file(self) -> Path | None:
        """The file that the studies are kept in; None for a server."""
        return None

    def check(self, key: str) -> None:
        """Refuse a URL that cannot work; nothing is created.

        Args:
            key: the configuration key that has the URL, for the message.

        Raises:
            ConfigError: names the key, the URL and what is wrong with it.
        """
        return None

    @abstractmethod
    def open(self) -> BaseStorage:
        """Open the storage for Optuna, and create the tables or files that it needs."""
