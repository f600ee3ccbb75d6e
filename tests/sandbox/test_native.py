"""Every language beside Python that this host has: statuses, compilation once, and nothing reached from either step."""

import dataclasses
from collections.abc import Iterator

import pytest

from sandbox.errors import LanguageUnavailable
from sandbox.languages import toolchains
from sandbox.native import NativeRunner
from sandbox.runner import open_runner
from sandbox.slots import CANARY
from sandbox.types import MIB, ExecutionRequest, ExecutionResult, Limits, Status

LIMITS = Limits(cpu_time_s=1, wall_time_s=10, memory_bytes=128 * MIB, output_bytes=MIB)


@pytest.fixture(scope="module")
def runner() -> Iterator[NativeRunner]:
    runner = NativeRunner(1)
    yield runner
    runner.close()


def run(
    runner: NativeRunner, language: str, source: str, stdin: bytes = b"", limits: Limits = LIMITS
) -> ExecutionResult:
    if language not in toolchains():
        pytest.skip(f"no {language} on this host")
    return runner.execute(ExecutionRequest(source, language, stdin, limits))


def test_a_known_good_program_runs_beside_every_language(runner: NativeRunner) -> None:
    """It decides whose fault it is when a warm process dies under a program twice."""
    run(runner, "bash", "echo 1")
    [slots] = runner._slots.values()
    with slots.lend() as [process], process.launch(CANARY) as running:
        assert running.wait().stdout == b"canary\n"


DOUBLE = {
    "c": '#include <stdio.h>\nint main(void) { long n; scanf("%ld", &n); printf("%ld\\n", 2 * n); }',
    "cpp": "#include <bits/stdc++.h>\nusing namespace std;\nint main() { long n; cin >> n; cout << 2 * n << endl; }",
    "rust": "use std::io;\nfn main() { let mut s = String::new(); io::stdin().read_line(&mut s).unwrap();\n"
    'let n: i64 = s.trim().parse().unwrap(); println!("{}", 2 * n); }',
    "go": 'package main\nimport "fmt"\nfunc main() { var n int; fmt.Scan(&n); fmt.Println(2 * n) }',
    "java": "import java.util.*;\npublic class Doubled { static class Inner {}\n"
    "public static void main(String[] a) { System.out.println(2 * new Scanner(System.in).nextLong()); } }",
    "javascript": "const n = parseInt(require('fs').readFileSync(0, 'utf8'));\nconsole.log(2 * n);",
    "bash": "read n\necho $((2 * n)) | cat",
}
FAILS = {
    ("c", "int main(void) { return 3; }"): Status.NONZERO_EXIT,
    ("c", "int main(void) { int *p = 0; return *p; }"): Status.SIGNALLED,
    ("c", "int main(void) { for (;;); }"): Status.CPU_TIME_LIMIT,
    ("c", "#include <unistd.h>\nint main(void) { sleep(60); }"): Status.WALL_TIME_LIMIT,
    ("c", '#include <stdio.h>\nint main(void) { for (;;) puts("x"); }'): Status.OUTPUT_LIMIT,
    ("c", "int main(void) { return x; }"): Status.COMPILE_ERROR,
    ("c", ""): Status.COMPILE_ERROR,
    ("c", "\ud800\x00"): Status.COMPILE_ERROR,
    (
        "cpp",
        "#include <vector>\nint main() { std::vector<char> v; for (;;) v.resize(v.size() + 1000000, 1); }",
    ): Status.MEMORY_LIMIT,
    ("cpp", "#include <vector>\nint main() { return std::vector<int>().at(1); }"): Status.SIGNALLED,
    (
        "rust",
        "fn main() { let mut v: Vec<u8> = vec![]; loop { v.resize(v.len() + 1000000, 1); } }",
    ): Status.MEMORY_LIMIT,
    ("rust", 'fn main() { panic!("no") }'): Status.SIGNALLED,
    (
        "java",
        "class A { public static void main(String[] a) { long[][] b = new long[9999][]; for (int i = 0; ; i++) b[i] = new long[999999]; } }",
    ): Status.MEMORY_LIMIT,
    ("java", "class A { public static void main(String[] a) { throw new RuntimeException(); } }"): Status.NONZERO_EXIT,
    ("java", "class A { }"): Status.COMPILE_ERROR,
    (
        "go",
        "package main\nfunc main() { var a [][]byte; for { a = append(a, make([]byte, 1 << 20)); for i := range a[len(a)-1] { a[len(a)-1][i] = 1 } } }",
    ): Status.MEMORY_LIMIT,
    ("go", "package main\nfunc main() { panic(1) }"): Status.NONZERO_EXIT,
    ("go", "package main\nfunc main() { x }"): Status.COMPILE_ERROR,
    ("javascript", "const a = []; for (;;) a.push(new Array(100000).fill(1.5))"): Status.MEMORY_LIMIT,
    ("javascript", "const a = []; for (;;) a.push(Buffer.alloc(1 << 20, 1))"): None,
    ("javascript", "for (;;);"): Status.CPU_TIME_LIMIT,
    ("javascript", "syntax error"): Status.NONZERO_EXIT,
    ("bash", "exit 3"): Status.NONZERO_EXIT,
    ("bash", "while :; do :; done"): Status.CPU_TIME_LIMIT,
}


@pytest.mark.parametrize("language", DOUBLE)
def test_runs(runner: NativeRunner, language: str) -> None:
    result = run(runner, language, DOUBLE[language], b"21\n")
    assert (result.status, result.stdout) == (Status.OK, b"42\n"), result


@pytest.mark.parametrize(("language", "source"), FAILS)
def test_status(runner: NativeRunner, language: str, source: str) -> None:
    expected = FAILS[language, source]
    limits = dataclasses.replace(LIMITS, wall_time_s=1) if expected is Status.WALL_TIME_LIMIT else LIMITS
    result = run(runner, language, source, limits=limits)
    assert result.status is expected or (expected is None and result.status is not Status.OK), result


def test_compile_errors_say_what_the_compiler_said(runner: NativeRunner) -> None:
    result = run(runner, "cpp", "int main() {\n  undeclared_name = 1;\n}")
    assert "program.cpp:2" in result.detail
    assert "undeclared_name" in result.detail
    assert result.cpu_time_s == 0


def test_a_source_is_compiled_once(runner: NativeRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    source = DOUBLE["c"] + "// once"
    assert run(runner, "c", source, b"1\n").stdout == b"2\n"
    monkeypatch.setattr(runner, "_compile", None)
    assert run(runner, "c", source, b"2\n").stdout == b"4\n"


def test_the_cache_of_artefacts_is_bounded(runner: NativeRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.native.CACHE_BYTES", 3_000_000)
    for number in range(8):
        assert run(runner, "c", f'#include <stdio.h>\nint main(void) {{ printf("{number}"); }}').stdout
    assert runner._cached_bytes() <= 3_000_000


def test_files_are_arguments(runner: NativeRunner) -> None:
    source = '#include <stdio.h>\nint main(int n, char **v) { char b[9]; puts(fgets(b, 9, fopen(v[2], "r"))); }'
    request = ExecutionRequest(source, "c", files={"a": b"first", "b": b"second"})
    assert runner.execute(request).stdout == b"second\n"


def test_files_that_do_not_fit_are_no_fault_of_the_program(runner: NativeRunner) -> None:
    limits = Limits(disk_bytes=MIB, output_bytes=4 * MIB)
    request = ExecutionRequest("int main(void) { return 1; }", "c", files={"big": b"x" * 2 * MIB}, limits=limits)
    assert runner.execute(request).status is Status.SANDBOX_ERROR


def test_unknown_language_is_unavailable(runner: NativeRunner) -> None:
    with pytest.raises(LanguageUnavailable):
        runner.execute(ExecutionRequest("", "cobol"))


def test_a_broken_toolchain_is_our_fault_not_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    toolchain = dataclasses.replace(toolchains()["c"], compile_command=("/usr/bin/false",))
    monkeypatch.setattr("sandbox.native.toolchains", lambda: {"c": toolchain})
    runner = open_runner()
    assert runner.execute(ExecutionRequest(DOUBLE["c"], "c")).status is Status.SANDBOX_ERROR
    runner.close()


SECRETS = ("/etc/shadow", "/etc/passwd", "/root/.bashrc", "/proc/self/environ", "/etc/hostname", __file__)


@pytest.mark.parametrize("path", SECRETS)
def test_the_compiler_finds_no_file_of_the_host(runner: NativeRunner, path: str) -> None:
    result = run(runner, "c", f'#include "{path}"\nint main(void) {{ return 0; }}')
    assert result.status is Status.COMPILE_ERROR
    assert "No such file" in result.detail or "ermission denied" in result.detail


@pytest.mark.parametrize("path", SECRETS)
def test_the_assembler_finds_no_file_of_the_host(runner: NativeRunner, path: str) -> None:
    source = f'__asm__(".incbin \\"{path}\\"");\nint main(void) {{ return 0; }}'
    assert run(runner, "c", source).status is Status.COMPILE_ERROR


def test_rust_includes_no_file_of_the_host(runner: NativeRunner) -> None:
    source = 'fn main() { print!("{}", include_str!("/etc/passwd")) }'
    assert run(runner, "rust", source).status is Status.COMPILE_ERROR


@pytest.mark.parametrize(
    "source",
    [
        "#include __FILE__\nint main() {}",
        "template <int n> struct S { typedef typename S<n + 1>::T T; };\nS<0>::T x;\nint main() {}",
        "int a[1 << 29] = {1};\nint main() {}",
        "template <class T, int n> struct X { X<X<T, n - 1>, n - 1> a; X<X<T, n - 1>, n - 2> b; };\nX<int, 30> x; int main() {}",
    ],
)
@pytest.mark.soak
def test_a_source_that_bursts_the_compiler_is_a_compile_error(runner: NativeRunner, source: str) -> None:
    assert run(runner, "cpp", source).status is Status.COMPILE_ERROR


C_ATTACKS = {
    "fork": "if (fork() >= 0) return 0;",
    "exec": 'char *a[] = {"/bin/sh", 0}; execv("/bin/sh", a); execv("/usr/bin/gcc", a);',
    "socket": "if (socket(AF_INET, SOCK_STREAM, 0) >= 0) return 0;",
    "read": 'if (open("/etc/passwd", O_RDONLY) >= 0 || open("/proc/self/environ", O_RDONLY) >= 0) return 0;',
    "write": 'if (open("/usr/lib/x", O_CREAT | O_WRONLY, 0666) >= 0 || open("/x", O_CREAT | O_WRONLY, 0666) >= 0) return 0;',
    "kill": "if (kill(getppid(), 9) == 0 || kill(1, 9) == 0) return 0;",
    "ptrace": "if (ptrace(PTRACE_ATTACH, getppid(), 0, 0) == 0) return 0;",
    "inherit": "for (int fd = 3; fd < 1024; fd++) if (fcntl(fd, F_GETFD) >= 0) return 0;",
    "run what it wrote": 'int f = open("x", O_CREAT | O_WRONLY, 0777); write(f, "#!/bin/sh\\n", 10); close(f); char *a[] = {"x", 0}; execv("./x", a);',
    "limits": "struct rlimit r = {RLIM_INFINITY, RLIM_INFINITY}; if (setrlimit(RLIMIT_AS, &r) == 0) return 0;",
    "set uid": "if (setuid(0) == 0) return 0;",
}
HEADERS = "#define _GNU_SOURCE\n" + "".join(
    f"#include <{name}.h>\n"
    for name in ("fcntl", "signal", "stdio", "sys/ptrace", "sys/resource", "sys/socket", "sys/types", "unistd")
)


@pytest.mark.parametrize("name", C_ATTACKS)
def test_a_compiled_program_cannot(runner: NativeRunner, name: str) -> None:
    result = run(runner, "c", f'{HEADERS}int main(void) {{ {C_ATTACKS[name]} puts("refused"); return 7; }}')
    assert result.status is Status.FORBIDDEN or (result.exit_code, result.stdout) == (7, b"refused\n"), result


@pytest.mark.parametrize(
    ("language", "source"),
    [
        ("bash", "cat /etc/passwd /proc/1/environ; echo x > /usr/x; ls /root /home; (exec 3<>/dev/tcp/127.0.0.1/22)"),
        ("javascript", "try { console.log(require('fs').readFileSync('/etc/passwd', 'utf8')) } catch {}"),
        ("javascript", "try { console.log(require('child_process').execSync('id').toString()) } catch {}"),
    ],
)
def test_a_script_cannot(runner: NativeRunner, language: str, source: str) -> None:
    assert run(runner, language, source).stdout == b""


GO_ATTACKS = {
    "read": ('"os"', 'os.ReadFile("/etc/passwd")'),
    "write": ('"os"', 'os.Create("/usr/lib/x")'),
    "exec": ('"os/exec"', 'exec.Command("/usr/bin/id").Output()'),
    "connect": ('"net"', 'net.Dial("udp", "127.0.0.1:9")'),
    "fork": ('"os"', 'os.StartProcess("/proc/self/exe", nil, &os.ProcAttr{})'),
}


@pytest.mark.parametrize("name", GO_ATTACKS)
def test_a_go_program_cannot(runner: NativeRunner, name: str) -> None:
    imported, attack = GO_ATTACKS[name]
    source = f'package main\nimport ("fmt"; {imported})\nfunc main() {{ _, err := {attack}; fmt.Println(err != nil) }}'
    assert run(runner, "go", source, limits=Limits()).stdout == b"true\n"


def test_without_control_groups_each_process_of_a_shell_has_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.native.parent", lambda: None)
    monkeypatch.setattr("sandbox.warm.make_group", lambda: None)
    runner = NativeRunner(1)
    hog = "head -c {0} /dev/zero | tail -c {0} | wc -c"
    source = f"{hog.format(20_000_000)}; {hog.format(8_000_000)}"
    assert run(runner, "bash", source, limits=Limits(memory_bytes=64 * MIB)).stdout == b"0\n8000000\n"
    runner.close()


def test_a_shell_has_a_limit_of_processes(runner: NativeRunner) -> None:
    source = "for ((n = 0; n < 40; n++)); do sleep 9 & echo; done; wait"
    result = run(runner, "bash", source, limits=Limits(wall_time_s=3))
    assert 2 < len(result.stdout) < 9
    assert run(runner, "bash", "echo $(echo 1 | cat)").stdout == b"1\n"
