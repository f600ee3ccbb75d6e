"""What can go wrong with *our* machinery. A program's own failures are statuses (`types.Status`), never exceptions.

SandboxError
├── CannotIsolate        this host cannot isolate untrusted code; says what is missing (fail closed)
├── LanguageUnavailable  the host has no toolchain for that language
└── RunnerLost           the runner died, was replaced, and died again although a known-good canary should pass
"""


class SandboxError(Exception):
    """Base of everything the sandbox itself can get wrong."""


class CannotIsolate(SandboxError):
    """The host lacks something without which untrusted code must not run; the message says what."""


class LanguageUnavailable(SandboxError):
    """No toolchain on this host for the language asked for."""


class RunnerLost(SandboxError):
    """The runner process is gone and could not be brought back."""
