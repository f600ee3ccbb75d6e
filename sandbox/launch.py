"""What is asked of a warm process, and how a child ended: the words between `warm`, `running` and their callers."""

from dataclasses import dataclass, field

from sandbox.types import MIB, Limits, Status

_WARM_PROCESS_BYTES = 32 * MIB


@dataclass(frozen=True, slots=True)
class Launch:
    """One child. It finds `stdin` on 0, collects on 1 and 2, and from descriptor 3 on, in this order: `inputs`
    (read-only memory files), `num_outputs` empty memory files to write to, `pass_fds` (pipes or socket pairs of the
    caller, which stay the caller's to close; in the child use `os.read` and `os.write` on them, nothing else).

    `driver` is a `module:function` of our own trusted code, without arguments, that the profile names in `drivers`: it
    finds those descriptors and does the rest, as `sandbox.child.run_program` does for a plain program."""

    driver: str = "sandbox.child:run_program"
    stdin: bytes = b""
    inputs: tuple[bytes, ...] = ()
    num_outputs: int = 0
    pass_fds: tuple[int, ...] = ()
    limits: Limits = field(default_factory=Limits)
    held_by_kernel: bool = True
    """False: the CPU limit is per call and the caller's to watch; the kernel sets none."""
    num_tasks: int = 64
    may_exec: bool = False
    """For a driver that ends in `os.execve`: of a binary in an input (`os.execve(3, ...)`, by descriptor), or of
    something below the profile's `executable`. The dynamic loader counts as executed, too."""
    may_fork: bool = False
    """For tool chains and shells; what is left when the driver ends is killed."""
    data_only: bool = False
    """For runtimes (node, java) that reserve more addresses than they use: only writable private memory counts."""

    def group_bytes(self) -> int:
        """What all processes of the job may have together: its memory, what it writes (all in memory), and the warm
        process that starts it."""
        files = 2 * self.limits.output_bytes + self.limits.disk_bytes
        return self.limits.memory_bytes + files + _WARM_PROCESS_BYTES


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended, from the kernel; nothing in here was said by the program but the bytes it wrote."""

    wait_status: int
    stopped_for: Status | None
    """CPU_TIME_LIMIT or WALL_TIME_LIMIT where the supervisor killed it, MEMORY_LIMIT where its control group did."""
    cpu_time_s: float
    wall_time_s: float
    peak_memory_bytes: int
    stdout: bytes
    stderr: bytes
    stdout_truncated: bool
    stderr_truncated: bool
    outputs: tuple[bytes, ...]
