"""The base class of launchers that send stacks elsewhere: to Slurm, to Ray."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from rnnbench.cluster.stack_file import Lost, SentStack
from rnnbench.config import Config
from rnnbench.sweep.hydra_jobs import NUMBERS, for_workers
from rnnbench.sweep.job import Job, mean_value
from rnnbench.sweep.launcher import Composed, TrialLauncher
from rnnbench.sweep.placing import place

if TYPE_CHECKING:
    from rnnbench.cluster.dispatch import Dispatch
    from rnnbench.sweep.session import Sweep


class RemoteLauncher(TrialLauncher):
    """Sends stacks elsewhere as tasks; a subclass submits the tasks and finds those that are over.

    Args:
        max_stack: trials of a stack at most; None: as many as gain from it.
        retries: how often a stack is sent again after its task was lost.
    """

    elsewhere = True
    place = ""  # where stacks train, in a word

    def __init__(self, max_stack: int | None, retries: int) -> None:
        super().__init__(max_stack)
        self.retries = retries

    @abstractmethod
    def submit(self, stacks: Sequence[SentStack]) -> None:
        """Submit `work_on(stack.file)` as a task for each stack. It may be called from several threads."""

    @abstractmethod
    def lost(self, stacks: Sequence[SentStack]) -> dict[str, Lost]:
        """Return the stacks whose tasks are over, by name, those that an earlier process sent included.

        It is called about once a second, from several threads, so a subclass limits how often it queries the
        cluster. A task may end before its records are visible here: the caller reads the records again.
        """

    def leave(self, stacks: Sequence[SentStack]) -> None:
        """Stop stacks that are unfinished when the sweep ends (Ctrl-C, an error), or say that they go on."""

    def train(self, sweep: "Sweep", jobs: Sequence[Job], trees: Sequence[dict[str, Any]], first: int) -> None:
        from rnnbench.cluster.dispatch import Dispatch  # late: it needs torch, to tell shapes apart

        dispatch = Dispatch(self, sweep, for_workers(trees[0]))
        if self.base is not None and trees[0]["hydra"]["sweep"]["subdir"] in NUMBERS:  # a search suggests it
            jobs[0].folder = sweep.folder / str(first)
            self._train_suggestion(dispatch, jobs[0], trees[0], first)
            return
        living = dispatch.find_living()
        if self.base is None:
            place(jobs, sweep.folder, sweep.recorded, first=first, promised=living)
        else:  # they confirm a search's winner, in folders that it names
            for job, tree in zip(jobs, trees, strict=True):
                job.folder = sweep.folder / tree["hydra"]["sweep"]["subdir"]
        dispatch.train(jobs)

    def _train_suggestion(self, dispatch: "Dispatch", job: Job, tree: dict[str, Any], trial: int) -> None:
        """Train the members of a suggestion as one stack a turn; the job gets their mean as its value.

        Args:
            tree: the job's config, as plain dicts with the hydra node.
            trial: the suggestion's number in the study.
        """
        from rnnbench.search.pruning import search_of, suggestion_of, turns_of  # late: it needs optuna

        sweeper: Any = OmegaConf.to_container(self.config.hydra.sweeper, resolve=True)
        search = {"sweeper": sweeper | {"trial": trial}, "sweep_dir": str(self.config.hydra.sweep.dir)}
        settings = search_of(search["sweeper"])
        words = tree["hydra"]["overrides"]["task"]
        runs = suggestion_of(settings, search["sweep_dir"], job, words, self._composed_config)
        turns = turns_of(settings, search["sweep_dir"], Path.cwd(), runs)
        while turn := turns.next():
            dispatch.train_suggestion(turn, search)
        job.error = next((run.error for run in runs if run.error is not None), None)
        job.value = mean_value(runs)

    def _composed_config(self, words: Sequence[str]) -> Config:
        with self.composing:
            return Composed.of(self.composer, words).config


def work_on(file: Path) -> None:
    """Train a stack that was sent here, see `rnnbench.cluster.worker`."""
    from rnnbench.cluster import worker  # late: it needs torch, which only workers need

    worker.work_on(file)
