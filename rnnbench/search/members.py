"""Says which jobs a suggestion of a search has, and in which folders: its members.

Everything that trains, prunes, concludes, buries, confirms or reports a suggestion asks here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rnnbench.config import Config, folds_of
from rnnbench.sweep.job import Job, identity


@dataclass(frozen=True)
class Member:
    """What one job of a suggestion has of its own."""

    task: int  # its number in hydra.sweeper.over
    fold: int | None  # the value of data.fold; None: as the suggestion has it
    seed: int  # how many seeds after the suggestion's own

    def words(self, seed: int) -> list[str]:
        """Return its overrides, without those of its task.

        Args:
            seed: the suggestion's own.
        """
        return [*([] if self.fold is None else [f"data.fold={self.fold}"]), f"seed={seed + self.seed}"]


def members_of(configs: Sequence[Config], words: Sequence[str], seeds: Sequence[int]) -> list[Member]:
    """Return the members of a suggestion in the order of their folders: by task, by fold, by seed.

    Args:
        configs: of any suggestion, one for each task.
        words: the overrides that it has.
        seeds: how many seeds after the suggestion's own.
    """
    folds = [folds_of(config, words) for config in configs]
    return [
        Member(task, fold if len(folds[task]) > 1 else None, seed)
        for task in range(len(configs))
        for fold in folds[task]
        for seed in seeds
    ]


def folders_of(first: Path, count: int) -> list[Path]:
    """Return the folders of a suggestion's members: N, N.1, N.2, ...

    Args:
        first: the folder N.
    """
    return [first, *(first.with_name(f"{first.name}.{k}") for k in range(1, count))]


def config_of(config: Config, member: Member) -> Config:
    """Return the configuration of a member.

    Args:
        config: the suggestion's in the member's task.
    """
    config = replace(config, seed=config.seed + member.seed)
    if member.fold is not None:
        config = replace(config, data=replace(config.data, fold=member.fold))
    return config


def jobs_of(
    job: Job, configs: Sequence[Config], members: Sequence[Member], tasks: Sequence[Sequence[str]]
) -> list[Job]:
    """Return the jobs of a suggestion's members, with the tags of the first one, which is given.

    Args:
        configs: the suggestion's, one for each task.
        tasks: the overrides of each task, with which the first job's name ends.
    """
    jobs, stem = [job], job.name.removesuffix(" ".join(tasks[0])).rstrip()
    for member, folder in list(zip(members, folders_of(job.folder, len(members)), strict=True))[1:]:
        config = config_of(configs[member.task], member)
        name = " ".join([stem, *tasks[member.task], *member.words(job.config.seed)])
        jobs.append(Job(name, config, folder, identity(config), tags=job.tags))
    return jobs


def rounds_of(jobs: Sequence[Job]) -> list[list[Job]]:
    """Return a suggestion's jobs in rounds: one fold under one seed, of every task.

    All folds under the first seed come first, so that a suggestion that is stopped was seen in many.
    """
    rounds: dict[tuple[int, int], list[Job]] = {}
    for job in jobs:
        rounds.setdefault((job.config.seed, job.config.data.fold), []).append(job)
    return [rounds[key] for key in sorted(rounds)]
