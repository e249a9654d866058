"""Defines what a kind of storage for studies has to say and do."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from optuna.storages import BaseStorage

KINDS: dict[str, type["StorageKind"]] = {}  # by scheme of the URL


class StorageKind(ABC):
    """A storage for studies that the URLs with one scheme name; a subclass registers itself.

    Attributes:
        scheme: what stands before "://", without SQLAlchemy's driver.
        form: how its URLs look, for messages.
        extra: the extra of this package that installs what it needs; None if it needs nothing.
    """

    scheme: ClassVar[str]
    form: ClassVar[str]
    extra: ClassVar[str | None] = None

    def __init_subclass__(cls) -> None:
        """Register a kind under its scheme; a file that is imported again replaces its earlier class."""
        if "scheme" in vars(cls):
            KINDS[cls.scheme] = cls

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    def unavailable(self) -> tuple[type[Exception], ...]:
        """The errors by which the open storage says that its server does not answer."""
        return ()

    @property
    def file(self) -> Path | None:
        """The file that the studies are kept in; None for a server."""
        return None

    def check(self, key: str) -> None:
        """Refuse a URL that cannot work, without making anything.

        Args:
            key: the configuration key that has the URL, for the message.

        Raises:
            ConfigError: names the key, the URL and what is wrong with it.
        """
        return None

    @abstractmethod
    def open(self) -> BaseStorage:
        """Open the storage for Optuna; tables or files that it needs are made."""
