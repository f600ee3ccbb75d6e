"""What a worker lends its verifiers: one runner and one isolated process a function, opened on first use."""

from sandbox.function import open_isolated
from sandbox.runner import open_runner
from sandbox.types import IsolatedFunction, Runner
from verifier_service.proofs import Proofs


class WorkerTools:
    """Implements `verifier.Tools`."""

    def __init__(self) -> None:
        self._runner: Runner | None = None
        self._isolated: dict[tuple[str, bool], IsolatedFunction] = {}
        self.proofs = Proofs()

    @property
    def runner(self) -> Runner:
        if self._runner is None:
            self._runner = open_runner(num_slots=1)
        return self._runner

    def isolated(self, target: str, *, fork_per_call: bool = False) -> IsolatedFunction:
        key = target, fork_per_call
        if key not in self._isolated:
            self._isolated[key] = open_isolated(target, fork_per_call=fork_per_call)
        return self._isolated[key]

    def close(self) -> None:
        for function in self._isolated.values():
            function.close()
        if self._runner is not None:
            self._runner.close()
