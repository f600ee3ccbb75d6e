"""The languages beside Python, as a table: how each is compiled and run, and whether this host can.

A toolchain is looked for once, by name on PATH; nothing is installed. Adding a language is one recipe below.
"""

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from sandbox.errors import SandboxError
from sandbox.profiles import WORK_DIRS_VARIABLE, Profile
from sandbox.slots import open_warm_process
from sandbox.types import MIB

# The kernel executes a binary's loader as well.
_LOADERS = tuple(str(path.resolve()) for path in Path("/lib64").glob("ld-linux-*.so.*"))
_SYSTEM_TOOLS = ("/usr/bin", "/usr/lib", "/usr/libexec", *_LOADERS)
_HEADERS = ("/usr/include", "/usr/local/include")


@dataclass(frozen=True, slots=True)
class Toolchain:
    """One language as found on this host. Commands run in the work directory; `{memory_mb}` is filled in."""

    language: str
    source_name: str
    canary: str
    """A program that prints `canary`; where it fails, so would every other, and no program is to blame."""
    compile_command: tuple[str, ...] = ()
    """Makes `program`; empty: the source is run as it is."""
    run_command: tuple[str, ...] = ()
    """Empty: `program` itself."""
    compile_readable: tuple[str, ...] = ()
    compile_executable: tuple[str, ...] = ()
    run_readable: tuple[str, ...] = ()
    run_executable: tuple[str, ...] = ()
    runtime_bytes: int | None = None
    """For runtimes that reserve more addresses than they use: what they need themselves beyond the program's memory.
    Their memory is limited by RLIMIT_DATA and their own flags, that of others by RLIMIT_AS."""
    stack_bytes: int = 64 * MIB
    """Also what each thread of a program reserves."""
    num_tasks: int = 64
    """Processes and threads at once."""
    may_fork: bool = False
    """Each process has its limits to itself, so there are few, and each has a share of the program's memory."""
    environment: dict[str, str] = field(default_factory=dict)
    """There is no /proc inside, from which many tools learn where they and their libraries are."""

    version: str = ""
    """Changes whenever the compiler does; asking compilers for theirs costs up to half a second."""


_HELLO_C = '#include <stdio.h>\nint main(void) { puts("canary"); return 0; }\n'


def _c_family(language: str, compiler: str, *flags: str) -> Toolchain:
    source = f"program.{language}"
    return Toolchain(
        language,
        source,
        _HELLO_C,
        # Static, because half of what a small program costs otherwise is the loading of libraries.
        compile_command=(os.path.realpath(compiler), *flags, "-O2", "-pipe", "-static", "-o", "program", source, "-lm"),
        compile_readable=_HEADERS,
        compile_executable=_SYSTEM_TOOLS,
    )


def _rust(found: str) -> Toolchain | None:
    linker = shutil.which("cc")
    asked = subprocess.run([found, "--print", "sysroot"], capture_output=True, text=True, check=False)
    root = asked.stdout.strip()
    if asked.returncode or not root or not linker:
        return None
    compiler = f"{root}/bin/rustc"
    static = ("-Cpanic=abort", "-Ctarget-feature=+crt-static", f"-Clinker={os.path.realpath(linker)}")
    return Toolchain(
        "rust",
        "program.rs",
        'fn main() { println!("canary"); }\n',
        (compiler, f"--sysroot={root}", "--edition=2021", "-O", *static, "-o", "program", "program.rs"),
        compile_readable=(f"{root}/lib",),
        compile_executable=(*_SYSTEM_TOOLS, f"{root}/bin", f"{root}/lib"),
        environment={"LD_LIBRARY_PATH": f"{root}/lib"},
    )


def _go(found: str) -> Toolchain:
    root = str(Path(found).resolve().parents[1])
    return Toolchain(
        "go",
        "program.go",
        'package main\nimport "fmt"\nfunc main() { fmt.Println("canary") }\n',
        compile_command=(f"{root}/bin/go", "build", "-o", "program", "program.go"),
        # Debian keeps half of it elsewhere, behind links.
        compile_readable=(root, os.path.realpath(f"{root}/src"), os.path.realpath(f"{root}/pkg/include")),
        compile_executable=(root, *_SYSTEM_TOOLS),
        runtime_bytes=64 * MIB,
        environment={"GOROOT": root, "GOCACHE": "/tmp/go", "GOPATH": "/tmp", "CGO_ENABLED": "0"},
    )


def _java(found: str) -> Toolchain:
    home = Path(found).resolve().parents[1]
    settings = (str(home), *map(str, Path("/etc").glob("java*")))
    quick = ("-XX:+UseSerialGC", "-XX:-UsePerfData", "-Xshare:auto")
    compiler_flags = (f"-J{flag}" for flag in (*quick, "-XX:TieredStopAtLevel=1", "-Xmx512m"))
    return Toolchain(
        "java",
        "Main.java",
        'class Main { public static void main(String[] args) { System.out.println("canary"); } }\n',
        compile_command=(f"{home}/bin/javac", *compiler_flags, "-encoding", "UTF-8", "-d", "program"),
        run_command=(f"{home}/bin/java", *quick, "-Xmx{memory_mb}m", "-Xss16m", "-jar", "program"),
        compile_readable=settings,
        compile_executable=(str(home), *_LOADERS),
        run_readable=settings,
        run_executable=(str(home), *_LOADERS),
        runtime_bytes=512 * MIB,
        stack_bytes=16 * MIB,
        environment={"LD_LIBRARY_PATH": f"{home}/lib:{home}/lib/jli:{home}/lib/server"},
    )


def _javascript(found: str) -> Toolchain:
    return Toolchain(
        "javascript",
        "program.js",
        'console.log("canary")\n',
        run_command=(os.path.realpath(found), "--max-old-space-size={memory_mb}", "--stack-size=12000", "program.js"),
        run_executable=(os.path.realpath(found), *_LOADERS),
        runtime_bytes=384 * MIB,
        stack_bytes=16 * MIB,
    )


def _bash(found: str) -> Toolchain:
    return Toolchain(
        "bash",
        "program.sh",
        "echo canary\n",
        run_command=(os.path.realpath(found), "program.sh"),
        run_executable=("/usr/bin", *_LOADERS),
        num_tasks=8,
        may_fork=True,
    )


# The tool to look for, and the language of whoever has it.
_RECIPES: tuple[tuple[str, Callable[[str], Toolchain | None]], ...] = (
    ("gcc", lambda found: _c_family("c", found, "-std=gnu17")),
    ("g++", lambda found: _c_family("cpp", found, "-std=gnu++20")),
    ("rustc", _rust),
    ("go", _go),
    ("javac", _java),
    ("node", _javascript),
    ("bash", _bash),
)


@cache
def toolchains() -> Mapping[str, Toolchain]:
    """What this host can run beside Python."""
    tools = [recipe(found) for name, recipe in _RECIPES if (found := shutil.which(name))]
    return {tool.language: dataclasses.replace(tool, version=_version(tool)) for tool in tools if tool}


def _version(toolchain: Toolchain) -> str:
    tool = Path((toolchain.compile_command or toolchain.run_command)[0]).resolve()
    return f"{tool}:{tool.stat().st_size}:{tool.stat().st_mtime_ns}"


@cache
def _programs_can_write() -> bool:
    """Whether programs have a work directory, which all but Python's need. Where this host cannot isolate, programs run
    on another, of which nothing is known here; so it is, by its declaration, where one serves for workers elsewhere."""
    if os.environ.get(WORK_DIRS_VARIABLE):
        return True
    try:
        process = open_warm_process(Profile(preload=()))
    except SandboxError:
        return True
    process.close()
    return process.hello["work_dir"] is not None


def available_languages() -> tuple[str, ...]:
    """Those that this host can run, Python first."""
    return ("python", *(toolchains() if _programs_can_write() else ()))
