"""What happens in the forked child for a compiled or other language, last trusted code before the tool or the program.

The compiler's driver finds the source on descriptor 3 and instructions on 4. Those are marshalled: reading JSON costs a
forked child ten times as much, in pages of memory that it must copy.
"""

import io
import marshal
import os
import re
import resource
from importlib import import_module
from pathlib import Path

from sandbox import child
from sandbox.frames import write_all

ARTEFACT = 5
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": ".", "TMPDIR": ".", "LC_ALL": "C.UTF-8", "MALLOC_ARENA_MAX": "1"}
_KINDS = rb"(?:class|interface|enum|record)"
_PUBLIC_CLASS = re.compile(rb"\bpublic\s+(?:(?:final|abstract|sealed|strictfp)\s+)*" + _KINDS + rb"\s+(\w+)")


def compile_source() -> None:
    """Compile and put the result on descriptor 5. What the compiler says goes to stderr, its failure is exit code 1."""
    source, (name, command, environment) = child.read_all(3), marshal.loads(child.read_all(4))
    is_java = name.endswith(".java")
    if is_java:
        public = _PUBLIC_CLASS.search(source)
        name = f"{public[1].decode()}.java" if public else name
        command = [*command, name]
    Path(name).write_bytes(source)
    if os.spawnve(os.P_WAIT, command[0], command, _ENVIRONMENT | environment) != 0:
        raise SystemExit(1)
    write_all(ARTEFACT, _jar(Path("program")) if is_java else Path("program").read_bytes())


def _jar(folder: Path) -> bytes:
    """All classes in one file that names the class with a `main`."""
    classes = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.class"))}
    mains = [name for name, code in classes.items() if b"main" in code and b"([Ljava/lang/String;)V" in code]
    if not mains:
        raise SystemExit("error: no class has a method `public static void main(String[])`")
    packed = io.BytesIO()
    zipfile = import_module("zipfile")  # brings four libraries along, which every fork would pay for
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as jar:
        main = mains[0].removesuffix(".class").replace("/", ".")
        jar.writestr("META-INF/MANIFEST.MF", f"Manifest-Version: 1.0\nMain-Class: {main}\n")
        for name, code in classes.items():
            jar.writestr(name, code)
    return packed.getvalue()


def execute() -> None:
    """Become the program, or the runtime that runs it: descriptor 3 holds instructions, then come the files for the
    work directory, and behind them, where the instructions name no interpreter, the executable."""
    instructions = marshal.loads(child.read_all(3))
    names, command = instructions["files"], instructions["command"]
    child.place_files(names, 4)
    executable = 4 + len(names)
    for descriptor in range(3, executable + (not instructions["interpreted"])):
        os.set_inheritable(descriptor, False)
    # This interpreter's own share of the address space is not the program's.
    what = resource.RLIMIT_DATA if instructions["data_only"] else resource.RLIMIT_AS
    child.limit(what, instructions["memory_bytes"])
    child.limit(resource.RLIMIT_STACK, instructions["stack_bytes"])
    environment = _ENVIRONMENT | instructions["environment"]
    os.execve(command[0] if instructions["interpreted"] else executable, command, environment)
