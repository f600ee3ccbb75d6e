"""What ends a run, as one line for the user.

TrainerError            exit code 1
├── ConfigError         exit code 2: the config, or something it names, is unusable
├── CheckpointError     a checkpoint is damaged, or does not continue the run it claims to
├── EngineError         no engine is left to sample with, or one was lost while it was given weights
├── WeightSyncError     the engine does not have the policy's weights
├── ResetError          after a reset the policy does not equal its reference
└── GuardError          a guard stopped the run
"""


class TrainerError(Exception):
    """Anything the user must know; the message is one line."""

    exit_code = 1


class ConfigError(TrainerError):
    exit_code = 2


class CheckpointError(TrainerError):
    pass


class EngineError(TrainerError):
    pass


class WeightSyncError(TrainerError):
    pass


class ResetError(TrainerError):
    pass


class GuardError(TrainerError):
    pass
