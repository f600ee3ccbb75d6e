"""The `verifier` command: exit codes, one line for a user's error, files in and out."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.verifier_service.service_process import ServiceProcess, echo_item, environment
from verifier_service.schemas import ScoredItem


def verifier(plugin: Path, *arguments: object, **settings: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "verifier_service", *map(str, arguments)]
    return subprocess.run(command, env=environment(plugin, **settings), capture_output=True, text=True, timeout=120)


@pytest.fixture
def items_file(tmp_path: Path) -> Path:
    path = tmp_path / "items.jsonl"
    lines = [{"id": "a", **echo_item("yes", "no")}, echo_item("cannot"), echo_item("yes", kind="echo_code")]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    return path


def test_help_answers_without_heavy_imports(plugin: Path) -> None:
    code = "import sys; sys.argv = ['verifier', '--help']\nfrom verifier_service import cli\n"
    code += "try:\n  cli.main()\nfinally:\n"
    code += "  print([name for name in ('fastapi', 'redis', 'rq', 'pydantic', 'rich') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], env=environment(plugin), capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.endswith("[]\n")
    for command in ("serve", "worker", "score", "doctor"):
        assert command in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--port", "99999"], "port: "),
        (["serve", "--workers", "0"], "workers: "),
        (["serve", "--redis-url", "redis.example.org"], "redis_url: "),
        (["worker", "--redis-url", "redis.example.org"], "redis_url: "),
        (["serve", "--api-keys-file", "/nowhere"], "api_keys_file: "),
        (["worker"], "--redis-url"),
        (["score", "/nowhere.jsonl"], "No such file"),
        (["nope"], "invalid choice"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_2(plugin: Path, arguments: list[str], said: str) -> None:
    done = verifier(plugin, *arguments)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_bad_environment_is_exit_2(plugin: Path) -> None:
    done = verifier(plugin, "serve", workers="many")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("verifier: workers: ")


def test_score_through_a_running_service(
    plugin: Path, service: ServiceProcess, items_file: Path, tmp_path: Path
) -> None:
    done = verifier(plugin, "score", items_file, "--url", service.url, "-o", tmp_path / "out.jsonl")
    assert done.returncode == 0, done.stderr
    scored = [ScoredItem.model_validate_json(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [[verdict.outcome for verdict in item.verdicts] for item in scored] == [
        ["correct", "incorrect"],
        ["error"],
        ["correct"],
    ]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line]
    assert [row[:7] for row in rows] == [
        ["echo", "3", "1", "0", "1", "1", "0.500"],
        ["echo_code", "1", "1", "0", "0", "0", "1.000"],
    ]


def test_score_with_a_service_of_its_own_asks_no_proxy_and_leaves_nothing(
    plugin: Path, items_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    command = [sys.executable, "-m", "verifier_service", "score", str(items_file), "--workers", "1"]
    env = environment(plugin) | {"TMPDIR": str(folder), "http_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "echo_code" in done.stdout
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: Invalid JSON"),
        ('{"task": {}}', "line 2: completions: Field required"),
        ('{"task": {}, "completions": ["x"], "extra": 1}', "line 2: extra: Extra inputs are not permitted"),
    ],
)
def test_a_bad_line_is_named(plugin: Path, tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(json.dumps(echo_item("yes")) + "\n" + line + "\n")
    done = verifier(plugin, "score", path, "--url", "http://127.0.0.1:9")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert said in done.stderr


def test_lone_surrogates_in_a_file_are_judged(plugin: Path, service: ServiceProcess, tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(json.dumps(echo_item("\ud800", want="\ufffd")))
    done = verifier(plugin, "score", path, "--url", service.url, "-o", tmp_path / "out.jsonl")
    assert done.returncode == 0, done.stderr
    assert [v.outcome for v in ScoredItem.model_validate_json((tmp_path / "out.jsonl").read_bytes()).verdicts] == [
        "correct"
    ]


@pytest.mark.parametrize("command", [["score", "items.jsonl", "--url", "http://127.0.0.1:9"], ["sample", "chain_sum"]])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    plugin: Path, items_file: Path, tmp_path: Path, command: list[str]
) -> None:
    given = [str(items_file) if word == "items.jsonl" else word for word in command]
    done = verifier(plugin, *given, "-o", tmp_path / "nowhere" / "out.jsonl")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "No such file or directory" in done.stderr


def test_a_reader_that_has_seen_enough_ends_the_writing(plugin: Path) -> None:
    command = f"{sys.executable} -m verifier_service sample chain_sum -n 500 | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], env=environment(plugin), capture_output=True, text=True)
    assert (done.returncode, done.stdout.count("\n")) == (1, 1)
    assert done.stderr == ""


@pytest.mark.parametrize("url", ["localhost:8000", "http://", "http://host:port"])
def test_an_address_that_is_no_url_is_refused_at_once(plugin: Path, items_file: Path, url: str) -> None:
    started = time.monotonic()
    done = verifier(plugin, "score", items_file, "--url", url)
    assert done.returncode == 2
    assert f"{url} is no http:// or https:// address" in done.stderr.splitlines()[-1]
    assert time.monotonic() - started < 20


def test_a_key_that_no_header_can_carry_is_one_line(plugin: Path, items_file: Path) -> None:
    done = verifier(plugin, "score", items_file, "--url", "http://127.0.0.1:1", "--api-key", "ключ")
    assert done.returncode == 1
    assert done.stderr == "verifier: the API key is not printable ASCII\n"


def test_a_full_disk_is_one_line(plugin: Path, service: ServiceProcess, items_file: Path) -> None:
    done = verifier(plugin, "score", items_file, "--url", service.url, "-o", "/dev/full")
    assert done.returncode == 1
    assert done.stderr == "verifier: No space left on device\n"


def test_a_key_file_that_is_no_text_is_one_line(plugin: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(b"\xff\xfe")
    done = verifier(plugin, "serve", "--port", 0, "--api-keys-file", tmp_path / "keys")
    assert done.returncode == 2
    assert done.stderr.startswith("verifier: api_keys_file: ")
    assert done.stderr.count("\n") == 1


def test_a_task_that_cannot_be_graded_is_exit_1(plugin: Path, service: ServiceProcess, tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(json.dumps({"task": {"kind": "nope"}, "completions": ["x"]}))
    done = verifier(plugin, "score", path, "--url", service.url)
    assert done.returncode == 1
    assert "items.0.task.kind: unknown task kind" in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_says_line_by_line(plugin: Path) -> None:
    done = verifier(plugin, "doctor")
    lines = done.stdout.splitlines()
    assert all(line.startswith(("ok  ", "FAIL")) for line in lines)
    assert done.returncode == (1 if any(line.startswith("FAIL") for line in lines) else 0)
    assert any("queue: embedded" in line for line in lines)


def test_doctor_fails_where_the_queue_cannot_be_reached(plugin: Path) -> None:
    started = time.monotonic()
    done = verifier(plugin, "doctor", "--redis-url", "redis://127.0.0.1:9")
    assert done.returncode == 1
    assert any(line.startswith("FAIL queue: ") for line in done.stdout.splitlines())
    assert time.monotonic() - started < 60
