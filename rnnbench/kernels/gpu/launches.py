"""Runs minibatches on a GPU as replays of one CUDA graph, and waits for the GPU a few times a second."""

import time
from collections.abc import Callable
from threading import Lock

import torch

from rnnbench import terminal

Launch = Callable[[], None]  # enqueues all kernels of a minibatch
SECONDS = 0.2  # of work between two waits, so that Ctrl-C is heard

_ONE = Lock()  # torch captures one graph at a time in a process


class CudaGraph:
    """Captures launches as a CUDA graph; calling it replays them.

    What is captured is not executed. All tensors that the launches read and write must stay where they are.
    """

    def __init__(self, launch: Launch, stream: torch.cuda.Stream) -> None:
        self.graph = torch.cuda.CUDAGraph()
        # thread_local: other threads may allocate memory meanwhile, for a stack on another GPU.
        with _ONE, torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
            launch()

    def __call__(self) -> None:
        self.graph.replay()


class Launches:
    """Runs one minibatch after the other: the first launch by launch, the others as a replay of one graph.

    The first one compiles the kernels, and makes what libraries allocate for a stream.

    Args:
        device: on which kernels run; a CPU, where they are interpreted, has no graphs.
        capture: makes a replay of launches; None: each minibatch is launched kernel by kernel.
    """

    def __init__(self, device: torch.device, capture: Callable[[Launch], Launch] | None = None) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.capture = self._captured if self.stream is not None and capture is None else capture
        self.replay: Launch | None = None

    def _captured(self, launch: Launch) -> Launch:
        assert self.stream is not None
        return CudaGraph(launch, self.stream)

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
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # what torch raises for launches that wait for the GPU
            self.capture = None
            cause = str(error.__context__ or error).strip().splitlines()[0]
            terminal.say(f"no CUDA graph ({cause}): kernels are launched one by one, which is slower")

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

    def run(self, launches: int, launch: Callable[[int], None], poll: Callable[[], None]) -> None:
        """Call launch(0), launch(1), ... so many times."""
        done = 0
        while done < launches:
            poll()
            started = time.perf_counter()
            count = max(1, int(SECONDS / self.seconds)) if self.seconds else 1
            count = min(count, launches - done)
            for n in range(done, done + count):
                launch(n)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.seconds = (time.perf_counter() - started) / count
            done += count
