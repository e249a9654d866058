"""Runs minibatches on a GPU as replays of one CUDA graph, and waits for the GPU a few times a second."""

import time
from collections.abc import Callable
from functools import partial
from threading import Lock

import torch

from rnnbench import terminal

Launch = Callable[[], None]  # enqueues all kernels of a minibatch
SECONDS = 0.2  # of work between two waits, so that Ctrl-C is heard

# torch captures one graph at a time in a process, and releases no memory meanwhile: of all cards together.
CAPTURING = Lock()


class CudaGraph:
    """Captures launches as a CUDA graph; calling it replays them.

    What is captured is not executed. All tensors that the launches read and write must stay where they are.
    """

    def __init__(self, launch: Launch, stream: torch.cuda.Stream) -> None:
        self.graph = torch.cuda.CUDAGraph()
        # thread_local: other threads may allocate memory meanwhile, for a stack on another GPU.
        capture = torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local")
        current = torch.cuda.current_stream()  # to which earlier versions of torch do not return after errors
        with CAPTURING, torch.cuda.stream(current), capture:
            launch()

    def __call__(self) -> None:
        self.graph.replay()


class Launches:
    """Runs one minibatch after the other: the first launch by launch, the others as a replay of one graph.

    The first one compiles the kernels, and makes what libraries allocate for a stream.

    Args:
        device: on which kernels run; a CPU, where they are interpreted, has no graphs.
        what: what they do, for the line that says that there is no graph.
        capture: makes a replay of launches; None: each minibatch is launched kernel by kernel.
    """

    def __init__(
        self, device: torch.device, what: str, capture: Callable[[Launch], Launch] | None = None
    ) -> None:
        self.device, self.what = device, what
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.capture = capture
        if self.stream is not None and capture is None:
            self.capture = partial(CudaGraph, stream=self.stream)
        self.replay: Launch | None = None

    def __call__(self, launch: Launch) -> None:
        """Run a minibatch.

        Raises:
            torch.OutOfMemoryError: there is no room for the graph; the minibatch has been run.
        """
        if self.replay is not None:
            self.replay()
            return
        self._beside(launch)
        if self.capture is None:
            return
        try:
            self.replay = self.capture(launch)
        except RuntimeError as error:  # what torch raises for launches that wait for the GPU
            causes = error, error.__context__  # torch raises another error where it ends a broken capture
            if any(isinstance(each, torch.OutOfMemoryError) for each in causes):
                raise
            self.capture = None
            cause = str(error.__context__ or error).strip().splitlines()[0]
            terminal.say(
                f"no CUDA graph of {self.what} ({cause}): kernels are launched one by one, which is slower"
            )

    def _beside(self, launch: Launch) -> None:
        """Launch on the stream of the capture, after all that came before and before all that comes."""
        if self.stream is None:
            launch()
            return
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            launch()
        current.wait_stream(self.stream)


class Pace:
    """Waits for the GPU about every `SECONDS` of its work, and calls `poll` then.

    Launches return before they have been executed. Without waits, an epoch would be enqueued at once, and
    Ctrl-C be heard at its end.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = 0.0  # that a minibatch takes; 0 until it is measured
        self.launched = 0  # minibatches since the last wait
        self.since = 0.0  # when that was

    def start(self, poll: Callable[[], None]) -> None:
        """Begin to count: nothing has been launched yet."""
        poll()
        self.launched, self.since = 0, time.perf_counter()

    def step(self, poll: Callable[[], None]) -> None:
        """Count a minibatch that has been launched, and wait for all of them if it is time to."""
        self.launched += 1
        if self.seconds and self.launched * self.seconds < SECONDS:
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds = (time.perf_counter() - self.since) / self.launched
        self.start(poll)
