"""Says which jobs a suggestion of a search has, and in which folders: its members.

Everything that trains, prunes, concludes, buries or reports a suggestion asks here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rnnbench.config import Search
from rnnbench.sweep.job import Job, identity


@dataclass(frozen=True)
class Member:
    """What one job of a suggestion has of its own."""

    seed: int  # how many seeds after the suggestion's own


def members_of(settings: Search) -> list[Member]:
    """Return the members of every suggestion, in the order of their folders."""
    return [Member(seed) for seed in range(settings.repeats)]


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
        name = f"{job.name} seed={config.seed}"
        jobs.append(Job(name, config, folder, identity(config), tags=job.tags))
    return jobs
