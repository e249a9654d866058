"""Says which jobs a suggestion of a search has, and in which folders: its members.

Everything that trains, prunes, concludes, buries, confirms or reports a suggestion asks here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rnnbench.config import Config, folds_of
from rnnbench.sweep.job import Job, identity


@dataclass(frozen=True)
class Member:
    """What one job of a suggestion has of its own."""

    fold: int | None  # the value of data.fold; None: as the suggestion has it
    seed: int  # how many seeds after the suggestion's own

    def words(self, seed: int) -> list[str]:
        """Return its overrides.

        Args:
            seed: the suggestion's own.
        """
        return [*([] if self.fold is None else [f"data.fold={self.fold}"]), f"seed={seed + self.seed}"]


def members_of(config: Config, words: Iterable[str], seeds: Sequence[int]) -> list[Member]:
    """Return the members of a suggestion in the order of their folders: fold by fold, each under all seeds.

    Args:
        config: of any suggestion.
        words: the overrides that it has.
        seeds: how many seeds after the suggestion's own.
    """
    folds = folds_of(config, words)
    return [Member(fold if len(folds) > 1 else None, seed) for fold in folds for seed in seeds]


def folders_of(first: Path, count: int) -> list[Path]:
    """Return the folders of a suggestion's members: N, N.1, N.2, ...

    Args:
        first: the folder N.
    """
    return [first, *(first.with_name(f"{first.name}.{k}") for k in range(1, count))]


def jobs_of(job: Job, members: Sequence[Member]) -> list[Job]:
    """Return the jobs of a suggestion's members, with the tags of the first one, which is given."""
    jobs = [job]
    for member, folder in list(zip(members, folders_of(job.folder, len(members)), strict=True))[1:]:
        config = replace(job.config, seed=job.config.seed + member.seed)
        if member.fold is not None:
            config = replace(config, data=replace(config.data, fold=member.fold))
        name = " ".join([job.name, *member.words(job.config.seed)])
        jobs.append(Job(name, config, folder, identity(config), tags=job.tags))
    return jobs
